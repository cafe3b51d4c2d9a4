"""From a jinja template to a file: what all pages of evaluations have in common."""

import re
from pathlib import Path
from typing import Any

from sharpgpt.core.files import write_text


def write_page(path: Path, template: str, **content: Any) -> Path:
    """Fill a template of this package and write it, atomically; returns `path`.

    Everything but the SVG pictures is escaped.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("sharpgpt.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["svg"] = Markup
    page = environment.get_template(template).render(**content)
    # Names and generated text may hold control characters and halves of surrogate pairs.
    page = re.sub(r"[\x00-\x08\x0b-\x1f\x7f]", "\ufffd", page.replace("\r\n", "\n"))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, page.encode("utf-8", errors="replace").decode("utf-8"))
    return path
