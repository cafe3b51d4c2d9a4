import json
import re
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest

from sharpgpt.config import TrainingConfig
from sharpgpt.core.errors import UserError
from sharpgpt.report import page
from sharpgpt.report.page import write_report
from tests.report.test_comparison import evaluation

HOSTILE = "</pre></script><script>alert(1)</script><img src=x onerror=alert(2)>"
VOID = {"meta", "link", "img", "br", "hr", "input"}
LOADING = {"script", "link", "img", "iframe", "object", "embed", "base", "audio", "video", "form"}


class _Page(HTMLParser):
    """Elements, ids and text of a page; fails on tags that do not match."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.pre: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == [], "elements that are never closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag == "pre":
            self.pre.append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> at {self.getpos()}"

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data
        if "pre" in self.open:
            self.pre[-1] += data

    @property
    def words(self) -> str:
        return " ".join(self.text.split())


def _made(folder: Path) -> tuple[str, _Page]:
    path = write_report(folder)
    assert path == folder / "report.html"
    html = path.read_text(encoding="utf-8")
    return html, _Page(html)


def test_every_metric_is_plotted_with_its_last_value(made_up_run) -> None:
    _, parsed = _made(made_up_run)
    labels = [value for tag, name, value in parsed.attributes if name == "aria-label"]
    assert len(labels) == parsed.tags["svg"] == 14
    # Metric n has the value n + 0.01 at the last training line, n + 0.02 at the last validation.
    both = ["Loss", "Cross-entropy", "Penalty", "Largest probability", "Entropy", "Top-k mass"]
    both += ["Accuracy", "Perplexity"]
    for n, title in enumerate(both, 1):
        (label,) = [label for label in labels if label.startswith(f"{title}. Train")]
        decimals = 2 if title == "Perplexity" else 4
        assert f"to {n + 0.01:.{decimals}f} at step 100" in label
        assert f"to {n + 0.02:.{decimals}f} at step 100" in label
    alone = ["Learning rate", "Penalty weight", "Gradient norm", "Speed"]
    for n, title in enumerate([*alone, "Model FLOPs utilisation"], len(both) + 1):
        (label,) = [label for label in labels if label.startswith(f"{title}.")]
        value = {"Speed": f"{n}", "Learning rate": f"{n + 0.01:#.4g}"}.get(title, f"{n + 0.01:.4f}")
        assert f"to {value.removesuffix('00') if title == 'Penalty weight' else value} at" in label
    assert any(label.startswith("Distribution of the largest probability") for label in labels)


@pytest.mark.usefixtures("blank_pictures")
def test_the_headline_figures_are_those_of_the_validation(made_up_run) -> None:
    _, parsed = _made(made_up_run)
    head = parsed.words.split("nats, penalty included")[0]
    for words in (
        "made-up",
        "GPT-2, 12 layers, 124.4 M parameters, on tinyshakespeare; "
        "loss = cross-entropy + 0.25 × non_max_sum",
        "Cross-entropy 2.0200 the whole validation split",
        "Perplexity 8.02 the whole validation split",
        "Largest probability 4.0200 the whole validation split",
        "Entropy 5.0200 the whole validation split",
        "Penalty 3.0200 the whole validation split",
        "Tokens per second 12 median",
        "Steps 100 of 100",
        "Parameters 124,439,808",
    ):
        assert words in head
    assert "incomplete" not in parsed.text
    assert "Stand-in" not in parsed.text


def test_the_page_needs_nothing_from_outside(made_up_run) -> None:
    html, parsed = _made(made_up_run)
    assert not LOADING & set(parsed.tags)
    references = [v for _, name, v in parsed.attributes if name in ("href", "src", "xlink:href")]
    # Links lead to files beside the page or to a place on it; nothing is fetched by them.
    assert all(re.fullmatch(r"#[\w-]+|[\w.-]+\.jsonl?", reference) for reference in references)
    assert {"metrics.jsonl"} <= set(references)
    assert re.findall(r"https?:|@import|url\((?!#)", html) == []
    assert "default-src 'none'" in html


def test_ids_are_unique_and_every_reference_meets_one(made_up_run) -> None:
    html, parsed = _made(made_up_run)
    ids = Counter(value for _, name, value in parsed.attributes if name == "id")
    assert ids
    assert max(ids.values()) == 1
    used = set(re.findall(r"url\(#([^)]+)\)", html))
    used |= {v[1:] for _, name, v in parsed.attributes if name == "href" and v[0] == "#"}
    assert used
    assert used <= set(ids)


def test_hostile_texts_stay_texts(made_up_run) -> None:
    """Generated text, and everything else that is not ours, may hold anything."""
    folder = made_up_run.rename(made_up_run.with_name('<b onclick="x">&run'))
    sample = {"step": 200, "prompt": HOSTILE, "text": HOSTILE + " {{ 7 * 7 }}"}
    with open(folder / "samples.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps({**sample, "settings": {HOSTILE: HOSTILE}}) + "\n")
    environment = {"command": HOSTILE, HOSTILE: 1, "data": {"is_stand_in": True, "note": HOSTILE}}
    (folder / "environment.json").write_text(json.dumps(environment))
    (folder / "summary.json").write_text(json.dumps({HOSTILE: [HOSTILE]}))
    (folder / "config.yaml").write_text(f"generate_prompt: '{HOSTILE}'\n")
    html, parsed = _made(folder)
    assert not LOADING & set(parsed.tags)
    assert not [name for _, name, _ in parsed.attributes if name.startswith("on")]
    assert parsed.pre[0] == HOSTILE + " {{ 7 * 7 }}"
    assert parsed.text.count(HOSTILE) >= 8
    assert '<b onclick="x">&run' in parsed.text
    assert "<script" not in html


def test_control_characters_and_half_surrogates_do_not_break_the_page(made_up_run) -> None:
    (made_up_run / "samples.jsonl").write_text(
        '{"step": 1, "prompt": "", "text": "a\\u0000b\\ud800c\\u001bd\\r\\ne"}\n'
    )
    _, parsed = _made(made_up_run)
    assert parsed.pre == ["a\ufffdb?c\ufffdd\ne"]


@pytest.mark.usefixtures("blank_pictures")
def test_samples_come_newest_first_with_step_and_settings(made_up_run) -> None:
    _, parsed = _made(made_up_run)
    assert parsed.pre == ["To be at 100", "To be at 50"]
    assert "Step 100 To be at 100 temperature 0.5, top p 0.75 Step 50" in parsed.words
    assert parsed.tags["details"] == 1
    assert parsed.tags["mark"] == 2


@pytest.mark.usefixtures("blank_pictures")
def test_a_sample_of_white_space_is_no_blank_card(tmp_path) -> None:
    """Newlines alone were an empty card."""
    lines = [
        {"step": 1, "prompt": "", "text": "\n\n \t"},
        {"step": 1, "prompt": "\n", "text": "\n\n"},
        {"step": 1, "prompt": "To be", "text": "To be"},
        {"step": 1, "prompt": "\n", "text": "\nwords\n"},
    ]
    (tmp_path / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    _, parsed = _made(tmp_path)
    assert parsed.pre == ["↵\n↵\n·→", "↵\n", "To be", "words\n"]
    assert parsed.words.count("Nothing was generated.") == 1


@pytest.mark.usefixtures("blank_pictures")
def test_only_the_newest_samples_are_on_the_page(made_up_run) -> None:
    lines = [
        json.dumps({"step": s, "text": f"text of {s}"}) for s in range(page.MAX_SAMPLE_STEPS + 5)
    ]
    (made_up_run / "samples.jsonl").write_text("\n".join(lines))
    _, parsed = _made(made_up_run)
    assert len(parsed.pre) == page.MAX_SAMPLE_STEPS
    assert parsed.pre[0] == f"text of {page.MAX_SAMPLE_STEPS + 4}"
    assert "Samples of 5 earlier steps are in samples.jsonl." in parsed.text


@pytest.mark.usefixtures("blank_pictures")
def test_the_banner_is_there_for_stand_in_data(made_up_run) -> None:
    data = {"name": "tinyshakespeare", "is_stand_in": True, "note": "Another edition."}
    (made_up_run / "environment.json").write_text(json.dumps({"data": data}))
    _, parsed = _made(made_up_run)
    banner = "This run was not trained on tinyshakespeare as configured. Another edition. The"
    assert banner in parsed.words


@pytest.mark.usefixtures("blank_pictures")
def test_changed_settings_are_marked_and_all_are_listed(made_up_run) -> None:
    html, parsed = _made(made_up_run)
    changed = re.findall(
        r'<th scope="row">(\w+)</th>\s*<td>\s*<strong class="changed">(.*?)</strong>\s*'
        r'<span class="note">default (.*?)</span>',
        html,
    )
    assert changed == [
        ("penalty_weight", "0.25", "0.01"),
        ("top_k", "7", "5"),
        ("max_steps", "100", "null"),
        ("run_name", "made-up", "null"),
    ]
    assert set(TrainingConfig().to_dict()) <= set(parsed.words.split())
    assert "data.train_tokens 301,966" in parsed.words


@pytest.mark.usefixtures("blank_pictures")
@pytest.mark.parametrize(
    "name", ["config.yaml", "environment.json", "metrics.jsonl", "samples.jsonl"]
)
def test_a_missing_file_is_said_and_the_rest_shown(made_up_run, name) -> None:
    (made_up_run / name).unlink()
    _, parsed = _made(made_up_run)
    assert f"This page is incomplete. {name} is missing." in parsed.words
    shown = {
        "config.yaml": "Configuration",
        "environment.json": "Environment",
        "metrics.jsonl": "Optimisation Learning rate",
        "samples.jsonl": "To be at 100",
    }
    for other, words in shown.items():
        assert (words in parsed.words) == (other != name)


def test_an_empty_folder_gives_a_page(tmp_path) -> None:
    _, parsed = _made(tmp_path)
    assert tmp_path.name in parsed.text
    assert parsed.words.count("is missing.") == 4
    assert parsed.tags["svg"] == 0


def test_a_run_that_was_never_validated_says_so(made_up_run) -> None:
    line = '{"step": 5, "train/ce_loss": 7.5, "train/tokens_per_s": null}\n{"step": 6, "train'
    (made_up_run / "metrics.jsonl").write_text(line)
    _, parsed = _made(made_up_run)
    assert "Cross-entropy 7.5000 training, never validated" in parsed.words
    assert "metrics.jsonl: 1 of 2 lines cannot be read." in parsed.text
    assert "Never a finite value, so not plotted: train/tokens_per_s." in parsed.words
    assert parsed.tags["svg"] == 1


@pytest.mark.usefixtures("blank_pictures")
@pytest.mark.parametrize("environment", [{"data": 1, "model": []}, {"model": {}}, {}, {"a": {}}])
def test_environments_of_any_shape_are_shown(made_up_run, environment) -> None:
    (made_up_run / "environment.json").write_text(json.dumps(environment))
    _, parsed = _made(made_up_run)
    assert "Steps 100 of 100" in parsed.words
    assert "Parameters" not in parsed.text


@pytest.mark.usefixtures("blank_pictures")
def test_the_lowest_validation_loss_is_named_when_it_is_not_the_last(made_up_run) -> None:
    lines = [f'{{"step": {s}, "val/ce_loss": {v}}}' for s, v in ((10, 5.0), (20, 3.5), (30, 4.0))]
    (made_up_run / "metrics.jsonl").write_text("\n".join(lines))
    _, parsed = _made(made_up_run)
    assert "4.0000 the whole validation split; lowest 3.5000 at step 20" in parsed.words


@pytest.mark.usefixtures("blank_pictures")
def test_the_page_replaces_an_older_one_and_leaves_nothing_else(made_up_run) -> None:
    before = {path.name for path in made_up_run.iterdir()}
    (made_up_run / "report.html").write_text("old")
    html, _ = _made(made_up_run)
    assert html.startswith("<!doctype html>")
    assert {path.name for path in made_up_run.iterdir()} == before | {"report.html"}
    again, _ = _made(made_up_run)
    assert again == html


def test_no_folder_is_an_error_that_the_user_can_read(tmp_path) -> None:
    with pytest.raises(UserError, match="no such run folder"):
        write_report(tmp_path / "absent")


def test_importing_the_report_imports_neither_matplotlib_nor_jinja() -> None:
    code = (
        "import sharpgpt.report, sys; print({'matplotlib', 'jinja2', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_an_evaluation_in_the_folder_is_shown(made_up_run: Path) -> None:
    content = {"evaluations": [evaluation("made-up")]}
    (made_up_run / "evaluation.json").write_text(json.dumps(content))
    html = write_report(made_up_run).read_text(encoding="utf-8")
    assert "Best temperature" in html
    assert "made-up at every temperature" in html
    assert "<h2>Calibration</h2>" in html
    (made_up_run / "evaluation.json").write_text("[]")
    assert "evaluation.json holds no JSON object." in write_report(made_up_run).read_text("utf-8")
