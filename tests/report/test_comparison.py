"""The pages of comparisons and evaluations from made-up figures, whole, partial and hostile."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from sharpgpt.report.comparison import write_comparison
from sharpgpt.report.evaluation import write_evaluation
from sharpgpt.report.page import write_report
from sharpgpt.report.runs import write_runs_report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
HOSTILE = '</pre><script>alert(1)</script><img src=x onerror="alert(2)">\x1b\ud800'


def interval(estimate: float, width: float = 0.01) -> dict[str, float]:
    return {"estimate": estimate, "low": estimate - width, "high": estimate + width}


def evaluation(name: str, shift: float = 0.0, seed: int = 1) -> dict[str, Any]:
    temperatures = [2 ** (-k / 4) for k in range(-4, 5)]
    bins = [{"num_rows": 10, "confidence": c / 10, "accuracy": c / 11} for c in range(1, 10)]
    calibration = {"ece": 0.02, "smooth_ece": 0.02, "brier": 0.6, "bins": bins}
    row = {"num_rows": 50.0, "ce": 2 + shift, "baseline_ce": 2.0, "entropy": 1.5, "max_prob": 0.4}
    bucket = [{"from": None, "below": 2.0} | row, {"from": 2.0, "below": None} | row]
    figures = ("ce", "perplexity", "entropy", "max_prob", "accuracy", "brier", "reciprocal_rank")
    ways = [
        {"decoding": f"temperature {t:g}", "temperature": t, "top_p": 1.0, "perplexity": 5 * t}
        | {"distinct_2": t / 3, "self_bleu": 0.9 - t / 3, "seq_rep_4": 0.1, "zipf": 1.5}
        for t in (0.5, 0.7, 1.0)
    ]
    return {
        "name": name, "path": f"outputs/{name}", "step": 100, "seed": seed, "settings": {},
        "figures": {figure: interval(1 + shift) for figure in figures},
        "temperature": {
            "best": 1.02, "note": "", "ce": 1.9, "ce_unchanged": 1.91, "entropy": 1.8,
            "curve": [
                {"temperature": t, "entropy": 1.9 * t, "ce": 1.9 + (t - 1) ** 2 / 4}
                for t in temperatures
            ],
        },
        "calibration": {"unchanged": calibration, "best_temperature": calibration},
        "buckets": dict.fromkeys(("position", "frequency", "baseline_entropy"), bucket),
        "final_layer": {"layer_norm_weight_rms": 1.1, "head_row_norm": None},
        "generation": {
            "prompt": "\n", "num_texts": 4, "num_tokens": 20, "judge": "baseline", "ways": ways,
            "text": {"perplexity": 4.0, "distinct_2": 0.2, "self_bleu": 0.7, "seq_rep_4": 0.1},
            "entropy_by_position": [{"from": 1, "below": 11, "entropy": 1.5}],
            "samples": [{"decoding": "temperature 1", "text": f"text of {name}"}],
        },
    }  # fmt: skip


def arm(penalty: str, weight: float, call: str, difference: float) -> dict[str, Any]:
    control = {"call": call, **interval(difference, 0.004), "parameter": [0.9], "note": ""}
    name = f"{penalty} {weight:g}"
    return {
        "name": name, "penalty": penalty, "penalty_weight": weight, "verdict": call,
        "sentence": f"{call.capitalize()} than sharpening afterwards.", "num_seeds": 2,
        "controls": {"temperature": control, "entropy map": control},
        "best_temperatures": {**control, "call": None},
        "unchanged_by_temperature": {"accuracy": interval(0.001), "reciprocal_rank": interval(0.1)},
        "point": {"ce": 1.9 + weight / 5, "entropy": 1.9 - weight},
        "own_map": {"ce": 1.9 + weight / 6, "entropy": 1.9 - weight},
        "runs": [evaluation(f"{name} seed {seed}", weight, seed) for seed in (1, 2)], "notes": [],
    }  # fmt: skip


def comparison() -> dict[str, Any]:
    models = [
        arm("neg_entropy", 0.1, "not distinguishable", 0.001),
        arm("neg_entropy", 0.3, "worse", 0.02),
        arm("top_k_mass", 0.1, "better", -0.02),
    ]
    return {
        "version": 1, "margin": 0.001, "error_rate": 0.05, "top_k": 5,
        "data": {"name": "a text", "num_blocks": 100, "block_length_tokens": 64, "num_rows": 6300},
        "baseline": {"name": "baseline", "runs": [evaluation("base")]}, "models": models,
        "settings": [{"name": "penalty_weight", "values": ["0.0", "0.1", "0.3", "0.1"]}],
        "curves": {},
    }  # fmt: skip


class Page(HTMLParser):
    """Tags and text; fails on tags that do not match."""

    VOID = frozenset(("meta", "br", "img", "input", "link"))

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    @property
    def words(self) -> str:
        return " ".join(self.text.split())


def written(folder: Path, content: dict[str, Any] | None = None) -> tuple[str, Page]:
    html = write_comparison(comparison() if content is None else content, folder).read_text("utf-8")
    return html, Page(html)


@pytest.mark.usefixtures("no_picture_files")
def test_the_verdict_stands_on_top_with_its_numbers(tmp_path: Path) -> None:
    html, page = written(tmp_path)
    for words in ("1 better", "1 worse", "1 not distinguishable", "+0.0200, +0.0160 to +0.0240"):
        assert words in page.words
    assert page.words.index("Worse than sharpening afterwards.") < page.words.index("The picture")
    calls = [a["class"] for _, a in page.tags if (a.get("class") or "").startswith("call ")]
    assert calls[3:] == ["call not distinguishable", "call worse", "call better"]
    assert re.findall(r"https?:|@import|url\((?!#)", html) == []
    assert not {tag for tag, _ in page.tags} & {"script", "link", "img", "iframe"}
    assert page.words.count("−0.02 0 +0.02 nats") == 3, "bars need a scale"
    assert len([a for _, a in page.tags if a.get("title", "").startswith("+0.0200, ")]) == 4
    links = {a["href"] for tag, a in page.tags if tag == "a"}
    assert links == {"comparison.json", "figures/"}
    ids = [a["id"] for _, a in page.tags if a.get("id")]
    assert len(ids) == len(set(ids))


@pytest.mark.usefixtures("no_picture_files")
def test_the_corrected_verdict_is_a_column_beside_the_verdict(tmp_path: Path) -> None:
    """Where there are several arms; a comparison.json from before it has no such column."""
    content = comparison()
    assert "Corrected" not in written(tmp_path, content)[1].words
    for model, p_value in zip(content["models"], (1.0, 0.062, 0.0003), strict=True):
        call = model["verdict"] if p_value < 0.05 else "not distinguishable"
        model["corrected"] = {"verdict": call, "p_value": p_value, "num_arms": 3, "method": "Holm"}
    html, page = written(tmp_path, content)
    assert '>Verdict</th><th scope="col">Corrected</th>' in html
    assert "any false one among these 3 is at most 5%" in page.words
    rows = re.findall(
        r'class="corrected"><span class="call ([\w ]+)">[^<]*</span> <[^>]*>([^<]+)', html
    )
    assert rows == [
        ("not distinguishable", "p = 1"),
        ("not distinguishable", "p = 0.062"),
        ("better", "p = 0.0003"),
    ]
    content["models"] = content["models"][:1]
    assert "Corrected" not in written(tmp_path, content)[1].words


def test_one_model_is_shown_over_many_temperatures(tmp_path: Path) -> None:
    """And not the few hundredths of a nat around T = 1; its best temperature is the square."""
    content = {"version": 1, "data": {}, "evaluations": [evaluation("alone")]}
    write_evaluation(content, tmp_path)
    svg = (tmp_path / "figures" / "alone_at_every_temperature.svg").read_text()
    shown = [float(text) for text in re.findall(r"T = (\d\.\d+)", svg)]
    assert min(shown) < 0.75
    assert max(shown) > 1.3
    html = (tmp_path / "evaluation.html").read_text("utf-8")
    assert "Best temperature 1.020, the square" in html


@pytest.mark.usefixtures("no_picture_files")
def test_an_arm_of_few_seeds_is_drawn_beside_its_own_baselines(tmp_path: Path) -> None:
    """The baseline of the one seed is 0.02 nats above the mean, and so is all that it is paired
    with: the distance from the curve is that of the pair."""
    content = comparison()
    first, second = (json.loads(json.dumps(content["baseline"]["runs"][0])) for _ in range(2))
    first["path"], second["path"] = "outputs/first", "outputs/second"
    for row in second["temperature"]["curve"]:
        row["ce"] += 0.04
    content["baseline"]["runs"] = [first, second]
    content["models"] = content["models"][:1]
    content["models"][0]["baselines"] = ["outputs/second"]
    content["models"][0]["point"] = {"entropy": 1.9, "ce": 2.0}
    html, _ = written(tmp_path, content)
    assert f"{content['models'][0]['name']} has entropy 1.9000 and cross-entropy 1.9800." in html
    content["models"][0]["baselines"] = ["outputs/first", "outputs/second"]
    html, _ = written(tmp_path, content)
    assert "has entropy 1.9000 and cross-entropy 2.0000." in html


@pytest.mark.usefixtures("no_picture_files")
def test_a_truncation_tells_what_it_cuts_off(tmp_path: Path) -> None:
    content = comparison()
    inside = {"baseline_ce": 1.5, "penalised_ce": 1.75, "difference": interval(0.25)}
    content["models"][0]["truncation"] = {
        "top_p": {
            "parameter": [0.9, 0.92], "entropy": [1.0, 1.0], "support_loss": interval(0.0315),
            "ce": "infinite", "inside": inside, "note": "",
        },
        "min_p": {"note": "truncation only lowers the entropy"},
    }  # fmt: skip
    _, page = written(tmp_path, content)
    row = "top-p 0.910 3.15% ∞ 1.7500 and 1.5000 +0.2500 (+0.2400 to +0.2600)"
    assert row in page.words
    assert "min-p: truncation only lowers the entropy" in page.words
    alone = evaluation("alone") | {
        "truncation": [
            {"kind": "min_p", "parameter": 0.1, "entropy": 1.25, "support_loss": interval(0.0)}
            | {"ce": 1.9, "inside": {"ce": 1.9, "as_it_is_ce": 2.0}}
        ]
    }
    write_evaluation({"version": 1, "data": {}, "evaluations": [alone]}, tmp_path)
    page = Page((tmp_path / "evaluation.html").read_text("utf-8"))
    assert "alone min-p 0.100 1.2500 none 1.9000 1.9000 and 2.0000" in page.words


@pytest.mark.usefixtures("no_picture_files")
def test_order_shape_and_classes_are_tables(tmp_path: Path) -> None:
    content = comparison()
    first, second, _ = content["models"]
    first["order_and_shape"] = {
        "as_trained": interval(0.3), "order": interval(-0.1), "shape": interval(0.4),
        "shape_at_equal_entropy": interval(0.2), "note": "",
        "recalibrated_ce": {"penalised": 1.4, "baseline": 1.5},
    }  # fmt: skip
    second["order_and_shape"] = {"note": "too few predictions are wrong"}
    row = {"division": "earlier in the block", "class": "yes", "share": 0.25}
    first["token_classes"] = [row | {"difference": interval(0.02)}]
    second["token_classes"] = [row | {"class": "no", "difference": None}]
    _, page = written(tmp_path, content)
    assert "1.4000 and 1.5000 −0.1000 (−0.1100 to −0.0900) +0.3000" in page.words
    assert "too few predictions are wrong" in page.words
    assert "Earlier in the block" in page.words
    assert "yes (25.0% of tokens)+0.0200 (+0.0100 to +0.0300)" in page.words
    assert "no (25.0% of tokens)–" in page.words


@pytest.mark.usefixtures("no_picture_files")
def test_generated_text_has_its_calibration(tmp_path: Path) -> None:
    content = comparison()
    generation = content["models"][0]["runs"][0]["generation"]
    generation["calibration"] = {
        "entropy_rate": interval(1.5), "log_loss": interval(1.75), "difference": interval(-0.25),
    }  # fmt: skip
    _, page = written(tmp_path, content)
    assert "neg_entropy 0.1 1.5000 1.7500 −0.2500 (−0.2600 to −0.2400)" in page.words


@pytest.mark.usefixtures("no_picture_files")
def test_what_could_not_be_compared_has_a_reason_and_no_bar(tmp_path: Path) -> None:
    content = comparison()
    model = content["models"][0]
    model["controls"]["temperature"] |= {"note": "there is no temperature with entropy 0"}
    model["best_temperatures"] |= {"note": "there is no best temperature"}
    _, page = written(tmp_path, content)
    assert "there is no temperature with entropy 0" in page.words
    assert page.words.count("not compared") == 1
    assert f"{model['name']}: there is no best temperature." in page.words


def test_pictures_whose_titles_differ_in_a_sign_are_different_files(tmp_path: Path) -> None:
    content = comparison()
    for model, name in zip(content["models"], ("a 0.1", "a -0.1", "A 0.1"), strict=True):
        model["name"] = name
    _, page = written(tmp_path, content)
    pictures = [a for tag, a in page.tags if tag == "svg"]
    files = {path.name for path in (tmp_path / "figures").glob("*.svg")}
    assert len(files) == len(pictures)
    assert {"a_0.1.svg", "a_-0.1.svg", "a_0.1_2.svg"} <= files


def test_every_picture_has_a_text_and_is_a_file(tmp_path: Path) -> None:
    html, page = written(tmp_path)
    pictures = [a for tag, a in page.tags if tag == "svg"]
    assert len(pictures) >= 12
    assert all(a["role"] == "img" and a["aria-label"] for a in pictures)
    # The least width that report.css gives a picture, by the width that matplotlib drew it with.
    least = {331: 19 * 16, 223: 13 * 16, 619: 40 * 16}
    for svg in re.findall(r"<svg.*?</svg>", html, re.DOTALL):
        width = float(re.findall(r'viewBox="0 0 ([\d.]+)', svg)[0])
        sizes = [float(size) for size in re.findall(r"font:? ?(?:-size: )?([\d.]+)px", svg)]
        assert sizes
        assert min(sizes) * least[int(width)] / width >= 11, "text of 8 px could not be read"
        assert svg.count('class="hit"') == svg.count("<title>") > 0
    assert "<title>neg_entropy 0.3\nentropy 1.6000\ncross-entropy 1.9600</title>" in html
    assert "T = 1" in page.text
    plane = next(a["aria-label"] or "" for a in pictures if "Cross-entropy against" in str(a))
    assert "neg_entropy 0.3 has entropy 1.6000 and cross-entropy 1.9600." in plane
    svg = (tmp_path / "figures" / "cross_entropy_against_entropy.svg").read_text()
    assert "#2c6cb5" in svg
    files = sorted((tmp_path / "figures").glob("*.svg"))
    assert len(files) == len(pictures)
    for file in files:
        assert "var(--" not in file.read_text(), file.name
    assert (tmp_path / "figures" / "cross_entropy_against_entropy.png").stat().st_size > 10_000


@pytest.mark.usefixtures("no_picture_files")
def test_loss_curves_have_bands_where_the_runs_are_here(tmp_path: Path) -> None:
    folders = []
    for seed in (0, 1):
        folder = tmp_path / f"run{seed}"
        folder.mkdir()
        lines = [
            {"step": step, "val/ce_loss": 2 + seed + 1 / step, "val/entropy": 2.0}
            for step in range(10, 110, 10)
        ]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        folders.append(str(folder))
    content = comparison()
    content["curves"] = {"baseline": folders, "neg_entropy 0.1": folders, "other": ["nowhere"]}
    _, page = written(tmp_path / "out", content)
    assert "Validation cross-entropy, neg_entropy" in page.words
    label = next(str(a) for _, a in page.tags if "Validation cross-entropy, n" in str(a))
    assert "baseline ends at 2.5100." in label


@pytest.mark.usefixtures("no_picture_files")
@pytest.mark.parametrize(
    "without",
    ["models", "baseline", "data", "margin", "settings", "curves", "error_rate"],
)
def test_what_is_missing_is_left_out(tmp_path: Path, without: str) -> None:
    content = comparison()
    content["models"] = content["models"][:1]
    del content[without]
    _, page = written(tmp_path, content)
    assert "How it was measured" in page.words


@pytest.mark.usefixtures("no_picture_files")
def test_figures_that_are_null_are_left_out(tmp_path: Path) -> None:
    content = comparison()
    content["models"] = content["models"][:1]

    def emptied(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: emptied(one) for name, one in value.items()}
        if isinstance(value, list):
            return [emptied(one) for one in value]
        return None if isinstance(value, float) else value

    _, page = written(tmp_path, emptied(content))
    assert "not compared" in page.words
    _, page = written(tmp_path, {})
    assert "How it was measured" in page.words


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    content = comparison()
    for model in content["models"]:
        model["name"] = model["sentence"] = model["verdict"] = HOSTILE
        model["runs"][0]["generation"]["samples"][0]["text"] = HOSTILE
    content["data"]["name"] = content["data"]["note"] = HOSTILE
    content["settings"][0]["values"] = [HOSTILE] * 4
    html, page = written(tmp_path, content)
    assert not {tag for tag, _ in page.tags} & {"script", "img"}
    assert not [name for _, a in page.tags for name in a if name.startswith("on")]
    assert page.text.count("<script>alert(1)</script>") >= 8
    assert "\x1b" not in html


@pytest.mark.usefixtures("no_picture_files")
def test_an_evaluation_of_one_and_of_several(tmp_path: Path) -> None:
    content = {"data": {"name": "a text", "num_rows": 6300, "is_stand_in": True, "note": "Nine."}}
    one = {**content, "evaluations": [evaluation("first")]}
    page = Page(write_evaluation(one, tmp_path).read_text("utf-8"))
    assert "1.0000 (0.9900 to 1.0100)" in page.words
    assert "Stand-in data." in page.words
    assert "Best temperature 1.020" in page.words
    two = {**content, "evaluations": [evaluation("first"), evaluation("second", 0.1)]}
    page = Page(write_evaluation(two, tmp_path).read_text("utf-8"))
    assert "2 models" in page.words
    assert page.words.count("text of second") == 1


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_in_a_browser_nothing_is_fetched_and_pictures_are_visible(
    tmp_path: Path, made_up_run: Path
) -> None:
    """Each page in one launch: no message on the console, ink where the pictures are."""
    from matplotlib.image import imread

    pages = [
        write_comparison(comparison(), tmp_path),
        write_evaluation({"evaluations": [evaluation("first")]}, tmp_path),
        write_report(made_up_run),
        write_runs_report([made_up_run], tmp_path / "runs.html"),
    ]
    for page in pages:
        picture = tmp_path / f"{page.stem}.png"
        done = subprocess.run(
            [
                str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                "--enable-logging=stderr", "--window-size=1100,2600", "--proxy-server=127.0.0.1:9",
                f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={picture}",
                page.as_uri(),
            ],
            capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
        assert "CONSOLE" not in done.stderr
        pixels = imread(picture)[..., :3]
        blue = (pixels[..., 2] - pixels[..., 0]) > 0.3
        assert blue.sum() > 200, "the first series colour is on the page"
        assert (pixels.max(-1) < 0.3).sum() > 5000
