"""The page from figures made up by hand, and the page in a browser."""

import math
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from sharpgpt.report.view import ModelView, Prediction, TextView, write_view

HOSTILE = b'</span></div><script>alert(1)</script><img src=x onerror="alert(2)">'
VOID = {"meta", "input", "img", "link", "br"}
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)


class Page(HTMLParser):
    """Tags, attributes and the tokens of a page; fails on tags that do not match."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[tuple[str, str]] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.tokens: list[str] = []
        """What stands in the running text, without what shows under the pointer."""
        self.tips: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == [], "elements that are never closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        self.tags.append((tag, attributes))
        if attributes.get("tabindex") == "0":
            self.tokens.append("")
            self.tips.append("")
        if tag not in VOID:
            self.open.append((tag, attributes.get("class", "")))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()[0] == tag, f"</{tag}> at {self.getpos()}"

    def handle_data(self, data: str) -> None:
        classes = [name for _, name in self.open]
        if "style" in [tag for tag, _ in self.open]:
            return
        self.text += data
        if "tip" in classes:
            self.tips[-1] += f" {data}"
        elif "text" in classes:
            self.tokens[-1] += data

    @property
    def words(self) -> str:
        return " ".join(self.text.split())

    def classes(self) -> list[str]:
        """The classes of the tokens in the running texts."""
        return [a["class"] for _, a in self.tags if a.get("tabindex") == "0"]


def prediction(p: float, entropy: float = 1.0, token: bytes = b"x", rank: int = 2) -> Prediction:
    return Prediction(
        ce=-math.log(p),
        entropy=entropy,
        max_prob=0.5,
        rank=rank,
        candidates=[(b" the", 0.5), (token, p)] if rank == 2 else [(b" the", 0.5)],
        target_place=1 if rank == 2 else None,
    )


def model(name: str, predictions: list[Prediction], vocab_size: int = 65) -> ModelView:
    return ModelView(name, "about it", predictions, 63, 32, vocab_size)


def made(folder: Path, view: TextView) -> tuple[str, Page]:
    path = write_view(view, folder / "view.html")
    html = path.read_text(encoding="utf-8")
    return html, Page(html)


def two_models() -> TextView:
    a = model("a", [prediction(0.25, 2.0), prediction(0.125, 4.0, rank=9)])
    b = model("b", [prediction(0.5, 1.0), prediction(0.0625, 2.0)])
    return TextView("text.txt", [b"T", b"o\n", b" \xf0\x9f"], [a, b])


def test_tokens_and_what_is_known_of_them(tmp_path: Path) -> None:
    _, page = made(tmp_path, two_models())
    assert page.tokens == ["T", "o↵\n", " ⟨F0 9F⟩"] * 2
    assert "first token: nothing to predict it from" in page.tips[0]
    tips = [" ".join(tip.split()) for tip in page.tips]
    assert tips[1] == (
        "o↵ token 2 probability 25.0%, rank 2, loss 1.39 entropy 2.00, largest 50.0% "
        "B: 50.0%, loss 0.69, entropy 1.00, largest 50.0% ·the 50.0% x 25.0%"
    )
    # A token outside the candidates comes after them.
    assert tips[2].endswith("largest 50.0% ·the 50.0% ·⟨F0 9F⟩ 12.5%")
    assert "A: 12.5%, loss 2.08, entropy 4.00, largest 50.0%" in tips[5]
    marked = [a for tag, a in page.tags if tag == "b" and a.get("class") == "y"]
    bars = [float((a["style"] or "").removeprefix("--p:")) for a in marked]
    assert bars == pytest.approx([25, 12.5, 50, 6.25], abs=0.51)


def test_the_summary_and_the_difference(tmp_path: Path) -> None:
    """Mean losses 2.5 ln 2 both: (2 + 3) / 2 and (1 + 4) / 2."""
    _, page = made(tmp_path, two_models())
    ce, perplexity = 2.5 * math.log(2), 2**2.5
    assert f"A a {ce:.4f} {perplexity:.2f} 3.0000 0.5000 0" in page.words
    assert f"B b {ce:.4f} {perplexity:.2f} 1.5000 0.5000 0" in page.words
    assert "B − A 0.0000 0.00 −1.5000 0.0000 0" in page.words
    assert (
        "B gives 1 of 2 tokens a higher probability than A does, and is sharper (has less "
        "entropy) at 2." in page.words
    )
    labels = [a["data-label"] for _, a in page.tags if "data-label" in a]
    assert labels[:3] == ["Cross-entropy", "Perplexity", "Mean entropy"]


def test_tints_have_one_scale_for_all_models(tmp_path: Path) -> None:
    """Entropy 0 to 4, loss 0 to 2.8 (two digits of 4 ln 2), differences up to ln 2."""
    _, page = made(tmp_path, two_models())
    assert page.classes() == [
        "t", "t e4 m4 l4", "t e9 m4 l7",
        "t", "t e2 m4 l2 b9", "t e4 m4 l9 w9",
    ]  # fmt: skip
    for words in ("4.0 nats and above", "2.8 nats and above", "+0.70 nats and above"):
        assert words in page.words


def test_one_model_has_no_difference_and_three_are_compared_with_the_first(tmp_path: Path) -> None:
    view = two_models()
    _, page = made(tmp_path, TextView("x", view.tokens, view.models[:1]))
    assert "Difference" not in page.text
    assert "compare" not in page.text
    assert "B:" not in page.text
    _, page = made(tmp_path, TextView("x", view.tokens, [*view.models, view.models[1]]))
    assert "C − A" in page.words
    assert "A: " not in "".join(page.tips[:3])
    assert "A: 25.0%" in page.tips[7]


def test_the_switch_needs_no_script_and_the_page_nothing_from_outside(tmp_path: Path) -> None:
    html, page = made(tmp_path, two_models())
    assert "default-src 'none'; style-src 'unsafe-inline'\"" in html
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "link", "img", "iframe", "object", "form"}
    assert re.findall(r"https?:|@import|url\(", html) == []
    switch = [a["id"] for tag, a in page.tags if tag == "input"]
    assert switch == ["by-entropy", "by-max-prob", "by-loss", "by-difference"]
    for name in switch[1:]:
        assert f"#{name}:checked" in html, "the style knows every position of the switch"
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    wanted = [a[name] for _, a in page.tags for name in ("aria-labelledby",) if name in a]
    wanted += [a["href"].removeprefix("#") for _, a in page.tags if "href" in a]
    assert wanted
    assert set(wanted) <= set(ids)


def test_hostile_texts_stay_texts(tmp_path: Path) -> None:
    name = HOSTILE.decode() + "\x1b\ud800"
    hostile = Prediction(1.0, 1.0, 0.5, 7, [(HOSTILE, 0.5)])
    one = ModelView(name, name, [hostile], 63, 32, 65)
    html, page = made(tmp_path, TextView(name, [HOSTILE, HOSTILE], [one], [name]))
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "img"}
    assert not [name for _, a in page.tags for name in a if name.startswith("on")]
    assert page.tokens == [HOSTILE.decode()] * 2
    assert page.text.count("<script>alert(1)</script>") >= 8
    assert "\x1b" not in html


def test_control_characters_are_visible_and_no_byte_of_them_is_on_the_page(tmp_path: Path) -> None:
    tokens = [b"\x00", b"\r\n", b"\t", b" ", "\u202e".encode()]
    one = model("a", [prediction(0.5)] * 4)
    html, page = made(tmp_path, TextView("x", tokens, [one]))
    assert page.tokens == ["⟨U+0000⟩", "⟨CR⟩↵\n", "→", "·", "⟨U+202E⟩"]
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\u202e]", html)


def test_what_is_near_0_or_1_is_never_shown_as_such(tmp_path: Path) -> None:
    rows = [prediction(p) for p in (1e-9, 0.9999, 1.0, 0.0123)]
    _, page = made(tmp_path, TextView("x", [b"a"] * 5, [model("a", rows)]))
    shown = [re.findall(r"probability (\S+),", tip) for tip in page.tips[1:]]
    assert shown == [["<0.01%"], [">99.9%"], ["100%"], ["1.23%"]]
    _, page = made(
        tmp_path, TextView("x", [b"a"] * 2, [model("a", [Prediction(800, 1, 1, 2, [])])])
    )
    assert "800.0000 ∞" in page.words


def test_windows_and_notes_are_explained(tmp_path: Path) -> None:
    tokens, rows = [b"a"] * 71, [prediction(0.5)] * 70
    view = TextView("x", tokens, [model("a", rows)], ["The text is longer."])
    _, page = made(tmp_path, view)
    assert "predicted from the 32 to 63 tokens before it." in page.words
    assert "The text is longer." in page.words
    _, page = made(tmp_path, two_models())
    assert "Every token is predicted from all the text before it." in page.words


def test_two_models_and_2000_tokens_stay_under_2_megabytes(tmp_path: Path) -> None:
    candidates = [(b" because", 0.3), (b" although", 0.2), (b" between", 0.1)]
    candidates += [(b" before", 0.05), (b" behind", 0.02)]
    rows = [Prediction(5.1, 4.2, 0.3, 1234, candidates)] * 1999
    view = TextView("x", [b" instead"] * 2000, [model("a", rows), model("b", rows)])
    html, page = made(tmp_path, view)
    assert len(page.tokens) == 4000
    assert len(html.encode()) < 2_000_000


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_in_a_browser_tints_follow_the_switch_and_a_token_tells_what_is_known(
    tmp_path: Path,
) -> None:
    """Orange turns blue; the token in focus shows bars and letters below its line."""
    from matplotlib.image import imread

    view = TextView("x", [b"word "] * 12, [model("a", [Prediction(0.1, 3.0, 0.95, 1, [])] * 11)])
    html, _ = made(tmp_path, view)
    switched = html.replace('id="by-entropy" checked', 'id="by-entropy"')
    switched = switched.replace('id="by-max-prob"', 'id="by-max-prob" checked')
    focused = 'tabindex="0" autofocus'.join(html.rsplit('tabindex="0"', 1))
    pictures = {}
    for name, content in {"entropy": html, "max_prob": switched, "focus": focused}.items():
        (tmp_path / f"{name}.html").write_text(content, encoding="utf-8")
        done = subprocess.run(
            [
                str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                "--enable-logging=stderr", "--window-size=900,900",
                f"--user-data-dir={tmp_path / 'profile'}",
                f"--screenshot={tmp_path / name}.png", (tmp_path / f"{name}.html").as_uri(),
            ],
            capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
        assert "CONSOLE" not in done.stderr
        pictures[name] = imread(tmp_path / f"{name}.png")[..., :3]

    def pixels(name: str, is_blue: bool) -> int:
        red, blue = pictures[name][..., 0], pictures[name][..., 2]
        return int(((blue - red if is_blue else red - blue) > 0.15).sum())

    assert pixels("entropy", is_blue=False) > 2000 + pixels("max_prob", is_blue=False)
    assert pixels("max_prob", is_blue=True) > 2000 + pixels("entropy", is_blue=True)
    assert (pictures["focus"] != pictures["entropy"]).any(-1).sum() > 5000
