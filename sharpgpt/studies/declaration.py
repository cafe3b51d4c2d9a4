"""What a study was declared to be, written before its first run and never changed.

    declaration.json   {"version", "sha256", "declared", "dtype", "power", "commit", "sharpgpt",
                        "written"}

`sha256` is that of `declared` as JSON with sorted names, without spaces: whoever has the study file
can compute it again.
"""

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import sharpgpt
from sharpgpt.core.errors import UserError
from sharpgpt.core.files import user_path
from sharpgpt.core.jsonio import finite, read_object, write_json
from sharpgpt.evaluation.pilot import Pilot, Question
from sharpgpt.evaluation.verdict import ERROR_RATE, MARGIN
from sharpgpt.runtime.environment import commit_of_code
from sharpgpt.studies.study_file import Study

DECLARATION = "declaration.json"
VERSION = 1


def sha256_of(declared: Mapping[str, Any]) -> str:
    """The hash of what is declared."""
    text = json.dumps(finite(declared), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def declare(study: Study, folder: Path, *, dtype: str | None) -> dict[str, Any]:
    """The declaration of the study in `folder`, written if it is not there.

    `dtype` is what `dtype: auto` is here; the declaration keeps that of the first start.

    Raises:
        UserError: another study was declared there, or the file cannot be read.
    """
    path = folder / DECLARATION
    declared = study.declared()
    if path.exists():
        found = read_declaration(folder)
        if found["sha256"] != sha256_of(declared):
            raise UserError(
                f"output: {folder} holds another declaration ({_difference(found, declared)}), and "
                "a declaration is not changed after the first run; give another output, or the "
                "study file as it was"
            )
        return found
    content = {
        "version": VERSION,
        "sha256": sha256_of(declared),
        "declared": declared,
        "dtype": dtype,
        "power": power_of(study),
        "commit": commit_of_code(),
        "sharpgpt": sharpgpt.__version__,
        "written": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    write_json(path, content)
    return read_declaration(folder)


def read_declaration(folder: Path) -> dict[str, Any]:
    """The declaration in a folder. Raises `UserError` if it is not one, or was changed."""
    path = folder / DECLARATION
    try:
        found = read_object(path)
        if found.get("version") != VERSION:
            raise ValueError(f"{path.name}: version {found.get('version')}, allowed is {VERSION}")
        if not isinstance(found.get("declared"), dict) or found.get("sha256") != sha256_of(
            found["declared"]
        ):
            raise ValueError(f"{path.name}: its sha256 is not that of what it declares")
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: {error}; it was changed or damaged, so what was declared is not known; give "
            "another output, or restore the file"
        ) from None
    return found


def power_of(study: Study) -> dict[str, Any] | None:
    """With what probability the study finds the difference that it declares, by its pilot.

    Raises `UserError`: the pilot cannot be read, or has one seed.
    """
    if study.power is None:
        return None
    pilot = Pilot.read(user_path(study.power.pilot))
    question = Question(
        detect=study.power.detect,
        margin=study.rule.get("margin", MARGIN),
        error_rate=ERROR_RATE,
        num_arms=len(study.others),
        target=0.8,
    )
    num_blocks = min(pilot.num_blocks, study.rule.get("max_blocks") or pilot.num_blocks)
    ends = [pilot.at_end(pilot.variances, upper=upper) for upper in (True, False)]
    found = [
        round(pilot.power(question, one, num_seeds=len(study.seeds), num_blocks=num_blocks), 3)
        for one in (pilot.variances, *ends)
    ]
    return {
        "detect": question.detect,
        "margin": question.margin,
        "num_arms": question.num_arms,
        "num_blocks": num_blocks,
        "pilot_sha256": hashlib.sha256(user_path(study.power.pilot).read_bytes()).hexdigest(),
        "power": found[0],
        "low": found[1],
        "high": found[2],
    }


def _difference(found: Mapping[str, Any], declared: Mapping[str, Any]) -> str:
    """The first part that differs."""
    before = finite(found.get("declared") or {})
    now = finite(declared)
    for name in (*now, *before):
        if before.get(name) != now.get(name):
            if name == "arms" and isinstance(before.get(name), dict):
                arms = [arm for arm in {**before[name], **now[name]}
                        if before[name].get(arm) != now[name].get(arm)]  # fmt: skip
                return f"its arm {arms[0]!r} differs" if arms else "its arms are in another order"
            return f"its {name} differs"
    return "it differs"
