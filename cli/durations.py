"""Durations as people write them: `90s`, `30m`, `6h`, `7d`, `2w`; a bare number is seconds."""

import re

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhdw]?)")


def seconds(text: str) -> float:
    """How long that is.

    Raises:
        ValueError: it is none.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a duration like 90s, 30m, 6h, 7d or 2w")
    return float(match[1]) * _UNITS[match[2] or "s"]
