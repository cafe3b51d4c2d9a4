"""Numbers as a reader wants them: four significant digits, thousands apart."""

import math


def number(value: float | None, digits: int = 4) -> str:
    """`value` with `digits` significant digits: 10.82, 3,104, 0.00012, 2.5e-05, 124,439,808."""
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
    return text.replace("-", "−") if text.startswith("-") else text


def signed(value: float, digits: int = 3) -> str:
    """+0.0123, −0.0004, with as many digits as a difference of cross-entropies deserves."""
    if value == 0:
        return "0"
    decimals = max(digits - 1 - math.floor(math.log10(abs(value))), 0)
    return f"{value:+.{min(decimals, 5)}f}".replace("-", "−")


def short(value: float, _position: float | None = None) -> str:
    """A whole number on an axis: 500, 1.5k, 20k, 3M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}"


def percent(probability: float) -> str:
    """31.2%, 3.12%, 0.05%; never 0% or 100% for what is only near."""
    if probability >= 1:
        return "100%"
    if probability > 0.9995:
        return ">99.9%"
    if probability < 0.0001:
        return "<0.01%"
    return f"{100 * probability:.{1 if probability >= 0.1 else 2}f}%"
