"""Escaping of what model cards print; the cards themselves are tested with `sharpgpt push`."""

from markdown_it import MarkdownIt

from sharpgpt.report.model_card import plain


def test_plain_text_reads_as_it_stands() -> None:
    html = MarkdownIt("commonmark").render(plain("a_b*c* <b> [x](y) `z` \\ | 1 & 2\n\n# no"))
    assert html == "<p>a_b*c* &lt;b&gt; [x](y) `z` \\ | 1 &amp; 2 # no</p>\n"
    assert "\x1b" not in plain("\x1b[2J")
    assert "‮" not in plain("‮abc")
