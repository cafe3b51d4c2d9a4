"""Numbers as a reader wants them, with U+2212 for every minus; `plain` has the hyphen of terminals
and files.

A quantity with a name has a fixed number of decimals (`Metric.decimals`, `Statistic.decimals`), so
that it reads the same wherever it stands: `fixed`, `signed`. `number` is for everything else.
"""

import math
import re

MINUS = "−"
DIFFERENCE_DECIMALS = 4
"""Of differences of cross-entropies and of probabilities."""


def number(value: float | None, digits: int = 4) -> str:
    """`value` with `digits` significant digits: 10.82, 3,104, 0.00012, 2.5e−05, 124,439,808."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("∞" if value > 0 else "−∞")
    if isinstance(value, int) or (abs(value) < 1e15 and abs(value) >= 10 ** (digits - 1)):
        text = f"{value:,.0f}"
    elif value == 0:
        return "0"
    elif 1e-4 <= abs(value) < 1e15:
        # Rounding comes first: 9.9996 has one digit before the point less than what it rounds to.
        exponent = math.floor(math.log10(abs(float(f"{value:.{digits - 1}e}"))))
        text = f"{value:,.{max(0, digits - 1 - exponent)}f}"
        if abs(value) < 0.1:
            text = text.rstrip("0")
    else:
        text = f"{value:.{digits}g}"
    return text.replace("-", MINUS)


def fixed(value: float | None, decimals: int | None) -> str:
    """`value` with so many decimals: 2.5490, 0.0000; `number` for None decimals or huge values."""
    if value is None or decimals is None or not math.isfinite(value) or abs(value) >= 1e9:
        return number(value)
    text = f"{value:,.{decimals}f}"
    return text.removeprefix("-") if float(text.replace(",", "")) == 0 else text.replace("-", MINUS)


def signed(value: float, decimals: int = DIFFERENCE_DECIMALS) -> str:
    """+0.0123, −0.0004; 0.0000 for what rounds to it."""
    text = fixed(value, decimals)
    is_zero = not text.strip("0.")
    return text if is_zero or text.startswith(MINUS) or math.isnan(value) else f"+{text}"


def decimals_for(smallest: float) -> int:
    """Decimals of differences that show two digits of `smallest`, such as a margin; at least 4."""
    if not 0 < smallest < 1:
        return DIFFERENCE_DECIMALS
    return max(DIFFERENCE_DECIMALS, 1 - math.floor(math.log10(smallest)))


def plain(text: str) -> str:
    """With the ASCII hyphen for each minus: for a terminal, a log, a file."""
    return text.replace(MINUS, "-")


def typeset(text: object) -> str:
    """A sentence or a name with a minus for the hyphen before each number: `top_k_mass −0.1`."""
    return re.sub(r"(?<![\w.-])-(?=\.?\d|inf\b)", MINUS, str(text))


def counted(count: int, noun: str, plural: str = "") -> str:
    """1 step, 2 steps, 1,000 steps, 0 entries."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def short(value: float, _position: float | None = None) -> str:
    """A whole number on an axis: 500, 1.5k, 20k, 3M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}".replace("-", MINUS)
    return f"{value:.4g}".replace("-", MINUS)


def percent(probability: float) -> str:
    """31.2%, 3.12%, 0.05%; never 0% or 100% for what is only near."""
    if probability >= 1:
        return "100%"
    if probability > 0.9995:
        return ">99.9%"
    if probability < 0.0001:
        return "<0.01%"
    return f"{100 * probability:.{1 if probability >= 0.1 else 2}f}%"
