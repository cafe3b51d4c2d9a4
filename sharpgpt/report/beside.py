"""Tables of what stands beside the verdict and has no picture."""

from collections.abc import Sequence

from sharpgpt.core.numbers import fixed, number, percent, signed, typeset
from sharpgpt.report.arms import Arm, Json, mapping, mean, number_of, objects, text_of

Row = tuple[Arm | str, list[str]]
"""What the row is about, and its cells."""

TRUNCATIONS = {"top_p": "top-p", "min_p": "min-p"}


def interval_words(interval: Json, decimals: int = 4) -> str:
    """`+0.0012 (−0.0003 to +0.0027)`; a dash where there is none."""
    estimate, low, high = (number_of(interval, name) for name in ("estimate", "low", "high"))
    if estimate is None or low is None or high is None:
        return "–"
    around = f"{signed(low, decimals)} to {signed(high, decimals)}"
    return f"{signed(estimate, decimals)} ({around})"


def truncations(arms: Sequence[Arm]) -> list[Row]:
    """The truncated baselines of a comparison, with what they lose."""
    rows: list[Row] = []
    for arm in arms:
        for kind, name in TRUNCATIONS.items():
            found = mapping(arm.content, "truncation", kind)
            if note := text_of(found, "note"):
                rows.append((arm, [f"{name}: {typeset(note)}", *[""] * 4]))
            elif found:
                inside = mapping(found, "inside")
                parameters = found.get("parameter") or []
                threshold = mean(one for one in parameters if isinstance(one, int | float))
                cells = [
                    f"{name} {number(threshold, 3)}",
                    _share(number_of(found, "support_loss", "estimate")),
                    _over_all(found),
                    f"{fixed(number_of(inside, 'penalised_ce'), 4)} and "
                    f"{fixed(number_of(inside, 'baseline_ce'), 4)}",
                    interval_words(mapping(inside, "difference")),
                ]
                rows.append((arm, cells))
    return rows


def orders(arms: Sequence[Arm]) -> list[Row]:
    """The differences of a comparison divided into order and shape."""
    rows: list[Row] = []
    for arm in arms:
        found = mapping(arm.content, "order_and_shape")
        if note := text_of(found, "note"):
            rows.append((arm, [typeset(note), *[""] * 4]))
        elif found:
            parts = ("order", "as_trained", "shape", "shape_at_equal_entropy")
            ce = mapping(found, "recalibrated_ce")
            both = [fixed(number_of(ce, name), 4) for name in ("penalised", "baseline")]
            words = [interval_words(mapping(found, part)) for part in parts]
            rows.append((arm, [" and ".join(both), *words]))
    return rows


def token_classes(arms: Sequence[Arm]) -> dict[str, list[Row]]:
    """Division -> its classes with the difference of each arm."""
    found: dict[str, dict[str, list[str]]] = {}
    for place, arm in enumerate(arms):
        for one in objects(arm.content.get("token_classes")):
            share = number_of(one, "share")
            shown = " ".join(["–" if share is None else percent(share), "of tokens"])
            head = f"{text_of(one, 'class')} ({shown})"
            cells = found.setdefault(text_of(one, "division"), {}).setdefault(
                head, [""] * len(arms)
            )
            cells[place] = interval_words(mapping(one, "difference"))
    return {division: list(rows.items()) for division, rows in found.items()}


def usual_truncations(arms: Sequence[Arm]) -> list[Row]:
    """Evaluated models under the usual thresholds."""
    return [
        (
            arm,
            [
                f"{TRUNCATIONS.get(kind := text_of(one, 'kind'), kind)} "
                f"{number(number_of(one, 'parameter'), 3)}",
                fixed(number_of(one, "entropy"), 4),
                _share(number_of(one, "support_loss", "estimate")),
                _over_all(one),
                f"{fixed(number_of(one, 'inside', 'ce'), 4)} and "
                f"{fixed(number_of(one, 'inside', 'as_it_is_ce'), 4)}",
            ],
        )
        for arm in arms
        for one in objects(arm.content.get("truncation"))
    ]


def generation_calibrations(arms: Sequence[Arm]) -> list[Row]:
    """Each model's own text against real text: one run of each arm."""
    rows: list[Row] = []
    for arm, found in _generated(arms, "calibration"):
        cells = [
            fixed(number_of(found, name, "estimate"), 4) for name in ("entropy_rate", "log_loss")
        ]
        rows.append((arm, [*cells, interval_words(mapping(found, "difference"))]))
    return rows


def bytes_compared(baseline: Arm, arms: Sequence[Arm]) -> list[Row]:
    """Models with other tokenizers than the baseline, in bits a byte."""
    return [
        (arm, [*(_bits(one) for one in (arm, baseline)), interval_words(found)])
        for arm in arms
        if (found := mapping(arm.content, "bits_per_byte"))
    ]


def _bits(arm: Arm) -> str:
    found = (number_of(run, "figures", "bits_per_byte", "estimate") for run in arm.runs)
    return fixed(mean(found), 4)


def _generated(arms: Sequence[Arm], part: str) -> list[tuple[Arm, Json]]:
    """The first run of each arm that has this part of its generation."""
    found = []
    for arm in arms:
        parts = [mapping(run, "generation", part) for run in arm.runs]
        found += [(arm, one) for one in parts if one][:1]
    return found


def _share(value: float | None) -> str:
    if value is None:
        return "–"
    return "none" if value == 0 else percent(value)


def _over_all(found: Json) -> str:
    """The cross-entropy over all rows."""
    return "∞" if found.get("ce") == "infinite" else fixed(number_of(found, "ce"), 4)
