"""`write_study`: study.json and comparison.json -> one self-contained page: question, declaration,
verdict, pictures, samples, and what was not done."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sharpgpt.core.numbers import counted
from sharpgpt.report.arms import Json, mapping, objects, text_of
from sharpgpt.report.comparison import content_of_comparison
from sharpgpt.report.drawing import own_settings
from sharpgpt.report.pages import write_page


@own_settings()
def write_study(study: Json, comparison: Json, folder: Path) -> Path:
    """Write FOLDER/study.html, and its pictures as FOLDER/figures/*; returns the path of the page.

    Either may lack parts; they are left out.
    """
    page = folder / "study.html"
    declaration = mapping(study, "declaration")
    return write_page(
        page,
        "study.html.jinja",
        **content_of_comparison(comparison, page),
        question=text_of(study, "question") or "A study",
        declaration=_declaration(declaration) if declaration else None,
        written=text_of(study, "times", "declared"),
        totals=_totals(study),
        not_done=[str(one) for one in study.get("not_done") or []],
    )


def _declaration(declaration: Json) -> dict[str, Any]:
    declared = mapping(declaration, "declared")
    arms = {str(name): mapping(settings) for name, settings in mapping(declared, "arms").items()}
    common = _common(arms)
    return {
        "commit": text_of(declaration, "commit"),
        "sha256": text_of(declaration, "sha256"),
        "baseline": text_of(declared, "baseline"),
        "seeds": declared.get("seeds") or [],
        "arms": [
            (name, _words({n: v for n, v in settings.items() if n not in common}))
            for name, settings in arms.items()
        ],
        "common": _words(common),
        "rule": _words(mapping(declared, "rule")),
        "power": mapping(declaration, "power"),
    }


def _common(arms: Mapping[str, Json]) -> dict[str, Any]:
    """The settings that all arms have."""
    first, *others = [*arms.values()] or [{}]
    return {
        name: value
        for name, value in first.items()
        if all(name in other and other[name] == value for other in others)
    }


def _words(settings: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} {str(value).lower() if isinstance(value, bool) else value}"
        for name, value in settings.items()
    )


def _totals(study: Json) -> str:
    runs = objects(study.get("runs"))
    tokens = sum(run["num_tokens"] for run in runs if isinstance(run.get("num_tokens"), int))
    found = f"{counted(len(runs), 'run')}"
    return f"{found} of {tokens:,} tokens in all." if tokens else f"{found}."
