"""Values with their units, as Grafana writes them."""

from __future__ import annotations

SECONDS = ((1e-3, 1e6, " µs"), (1.0, 1e3, " ms"), (60.0, 1.0, " s"), (3600.0, 1 / 60, " min"))
"""Below the first number a value is multiplied by the second."""
HOURS = (1 / 3600, " hours")
BYTES = ("B", "KiB", "MiB", "GiB", "TiB")
THOUSANDS = ("", " K", " Mil", " Bil")
RATES = {"reqps": " req/s", "ops": " ops/s"}


def written(value: float, unit: str, decimals: int | None = None) -> str:
    """A value as a short text."""
    name = RATES.get(unit, "")
    match unit:
        case "percentunit":
            value, name = 100 * value, "%"
        case "s" if value == 0:
            name = " s"
        case "s":
            times, name = next(
                ((times, name) for below, times, name in SECONDS if abs(value) < below), HOURS
            )
            value *= times
        case "bytes":
            value, name = _scaled(value, 1024, BYTES)
            name = f" {name}"
        case "none":
            pass
        case _ if unit.startswith("suffix:"):
            name = unit.removeprefix("suffix:").strip()
        case _:
            value, thousands = _scaled(value, 1000, THOUSANDS)
            name = f"{thousands}{name}"
    return f"{_number(value, decimals)}{name}"


def _scaled(value: float, by: int, names: tuple[str, ...]) -> tuple[float, str]:
    for name in names[:-1]:
        if abs(value) < by:
            return value, name
        value /= by
    return value, names[-1]


def _number(value: float, decimals: int | None) -> str:
    """With these decimals; without any, with three digits that count."""
    if decimals is not None:
        return f"{value:.{decimals}f}"
    if value == 0 or abs(value) >= 100:
        return f"{value:.0f}"
    text = f"{value:.3g}"
    return f"{float(text):.4f}".rstrip("0").rstrip(".") if "e" in text else text
