"""From a jinja template of this package to a file: what all pages and the model card share."""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sharpgpt.core.files import write_text
from sharpgpt.core.numbers import counted, fixed, number, percent, signed, typeset
from sharpgpt.report.arms import mapping, mean_of, number_of, value_at
from sharpgpt.report.drawing import Drawing, Link
from sharpgpt.report.visible import sample_text, visible_bytes


def environment(**options: Any) -> Any:
    """A jinja environment over the templates of this package, everything escaped.

    Filters: `number`, `thousands`, `percent`, `counted`, `typeset`, `fixed`, `difference`,
    `sample`; `at`, `mapping`,
    `number_at` and `mean_at` (over several), into nested JSON that may lack parts; `visible`, for
    the bytes of a token; `svg`, which marks a picture as safe.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    found = Environment(
        loader=PackageLoader("sharpgpt.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        **options,
    )
    found.filters |= {
        "number": number,
        "thousands": "{:,.0f}".format,
        "percent": percent,
        "counted": counted,
        "typeset": typeset,
        "fixed": fixed,
        "difference": _difference,
        "sample": sample_text,
        "at": value_at,
        "mapping": mapping,
        "number_at": number_of,
        "mean_at": mean_of,
        "visible": visible_bytes,
        "svg": Markup,
        "compact": lambda css: Markup(_compact(css)),
    }
    return found


def _compact(css: str) -> str:
    """A style sheet without comments and without space around its signs."""
    css = re.sub(r"/\*.*?\*/", "", css, flags=re.DOTALL)
    return re.sub(r"\s*([{};,])\s*|(?<=:)\s+", lambda found: found[1] or "", css.strip())


def _difference(value: float | None) -> str:
    return "–" if value is None else signed(value)


def linked(drawings: Iterable[Drawing], sources: Sequence[Link]) -> list[Drawing]:
    """The pictures with links to the files that have their numbers, where they have none yet."""
    return [replace(one, sources=one.sources or sources) for one in drawings]


def relative_address(target: Path, page: Path) -> str:
    """The address of a file as seen from a page; empty where there is none (another drive)."""
    try:
        path = os.path.relpath(target, page.parent)
    except ValueError:
        return ""
    return quote(os.fsencode(path.replace(os.sep, "/")))


def write_page(path: Path, template: str, **content: Any) -> Path:
    """Fill a template of this package and write it, atomically; returns `path`."""
    page = environment().get_template(template).render(**content)
    # Names and generated text may hold control characters and halves of surrogate pairs.
    page = re.sub(r"[\x00-\x08\x0b-\x1f\x7f]", "\ufffd", page.replace("\r\n", "\n"))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, page.encode("utf-8", errors="replace").decode("utf-8"))
    return path
