"""Durations as people write them: `90s`, `30m`, `6h`, `7d`, `2w`; a bare number is seconds."""

import re

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
LONGEST_S = 100 * 365 * 86400
"""A hundred years: for ever, and what a clock can still count to."""

_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhdw]?)")


def seconds(text: str) -> float:
    """How long that is.

    Raises:
        ValueError: it is none.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a duration like 90s, 30m, 6h, 7d or 2w")
    found = float(match[1]) * _UNITS[match[2] or "s"]
    if found > LONGEST_S:
        raise ValueError(f"{text!r} is more than a hundred years")
    return found
