"""Whole and floating-point numbers: what Debezium sends of them, and how PostgreSQL prints them. Pure."""

import math
import struct
from fractions import Fraction

from .refused import ValueRefused

INT_MIN = -(2**63)
INT_MAX = 2**63 - 1

_SPECIAL = {"NaN": "NaN", "Infinity": "Infinity", "-Infinity": "-Infinity"}
"""JSON has no such numbers; Kafka Connect's converter writes them as strings (seen)."""

DOUBLE_DIGITS = 17
"""Decimal digits that tell any two doubles apart."""

FLOAT_DIGITS = 9
"""The same for single precision."""

_DOUBLE_PLAIN_BELOW = 15
_FLOAT_PLAIN_BELOW = 6
"""From 10 to this power on PostgreSQL prints an exponent (DBL_DIG and FLT_DIG of C)."""

_DOUBLE_WHOLE = 2.0**53
"""Below it, halves of two neighbours have more than 17 digits, so that no shortest form is one."""

_FLOAT_WHOLE = 2.0**24
"""The same for single precision."""

_FRACTION_BITS = 0x7F_FFFF
"""Of a single's bits. Where they are 0, at a power of two, the neighbour below is nearer than the one above."""

_SINGLE = struct.Struct("<f")
_SINGLE_BITS = struct.Struct("<I")


def whole_number(value: object) -> int:
    """A 64-bit integer as JSON has it. Raises `ValueRefused`."""
    if not isinstance(value, int) or isinstance(value, bool) or not INT_MIN <= value <= INT_MAX:
        raise ValueRefused("not a 64-bit integer")
    return value


def float8_text(value: object) -> str:
    """A `double precision` as PostgreSQL prints it since version 12. Raises `ValueRefused`."""
    number = _number(value)
    return number if isinstance(number, str) else print_float8(number)


def float4_text(value: object) -> str:
    """A `real` as PostgreSQL prints it since version 12. Raises `ValueRefused`."""
    number = _number(value)
    if isinstance(number, str):
        return number
    try:
        return print_float4(_SINGLE.unpack(_SINGLE.pack(number))[0])
    except OverflowError:
        raise ValueRefused("not a number of single precision") from None


def _number(value: object) -> float | str:
    if isinstance(value, str) and value in _SPECIAL:
        return _SPECIAL[value]
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ValueRefused("not a floating-point number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueRefused("not a floating-point number")
    return number


def print_float8(number: float) -> str:
    """The shortest decimal that reads back as this finite double, in PostgreSQL's notation.

    PostgreSQL takes no decimal that lies half-way between two doubles, though it would read back as the even one
    (src/common/ryu_common.h, STRICTLY_SHORTEST): 1e23 prints as 9.999999999999999e+22. Python does take them.
    """
    digits, exponent = _parts(repr(number))
    if abs(number) >= _DOUBLE_WHOLE:
        exact, shown = Fraction(number), abs(Fraction(repr(number)))
        nearer, farther = sorted(abs(_middle(exact, math.nextafter(number, to))) for to in (-math.inf, math.inf))
        if shown in (nearer, farther):
            digits, exponent = _shortest(abs(exact), nearer, farther, DOUBLE_DIGITS)
    return _notation(number, digits, exponent, _DOUBLE_PLAIN_BELOW)


def print_float4(number: float) -> str:
    """The same for a double that single precision can hold."""
    size = abs(number)
    packed = _SINGLE.pack(size)
    (bits,) = _SINGLE_BITS.unpack(packed)
    if size < _FLOAT_WHOLE and bits & _FRACTION_BITS:
        # Its neighbours are equally far and no half-way is short: the first to read back is the nearest too.
        tried = (f"{size:.{count}e}" for count in range(FLOAT_DIGITS))
        digits, exponent = _parts(next(text for text in tried if _SINGLE.pack(float(text)) == packed))
    elif number == 0:
        digits, exponent = "0", 0
    else:
        exact, below, above = (_single(bits + step) for step in (0, -1, 1))
        digits, exponent = _shortest(exact, (exact + below) / 2, (exact + above) / 2, FLOAT_DIGITS)
    return _notation(number, digits, exponent, _FLOAT_PLAIN_BELOW)


def _single(bits: int) -> Fraction:
    """A positive single from its bits; one above the greatest is taken for the next power of two."""
    (number,) = _SINGLE.unpack(_SINGLE_BITS.pack(bits))
    return Fraction(2) ** 128 if math.isinf(number) else Fraction(number)


def _middle(exact: Fraction, neighbour: float) -> Fraction:
    if math.isinf(neighbour):
        neighbour_exact = Fraction(2) ** 1024 * (1 if neighbour > 0 else -1)
    else:
        neighbour_exact = Fraction(neighbour)
    return (exact + neighbour_exact) / 2


def _shortest(exact: Fraction, low: Fraction, high: Fraction, digits_max: int) -> tuple[str, int]:
    """The decimal with the fewest digits between `low` and `high`, both excluded, and of those the nearest.

    Returns:
        Its digits, and the power of ten of the first of them.
    """
    exponent = len(str(exact.numerator)) - len(str(exact.denominator))
    if exact < Fraction(10) ** exponent:
        exponent -= 1
    for count in range(1, digits_max + 1):
        unit = Fraction(10) ** (exponent - count + 1)
        floor = exact // unit
        found = [n for n in (floor, floor + 1) if low < n * unit < high]
        if found:
            digits = str(min(found, key=lambda n: abs(n * unit - exact)))
            return digits.rstrip("0") or "0", exponent + len(digits) - count
    raise AssertionError(f"{digits_max} digits tell every number")


def _parts(text: str) -> tuple[str, int]:
    """The significant digits of Python's `repr` of a float, and the power of ten of the first."""
    mantissa, _, power = text.lstrip("-").partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    if not digits:
        return "0", 0
    leading = len(whole) - 1 if whole != "0" else -1 - (len(fraction) - len(fraction.lstrip("0")))
    return digits.rstrip("0"), leading + int(power or 0)


def _notation(number: float, digits: str, exponent: int, plain_below: int) -> str:
    sign = "-" if math.copysign(1.0, number) < 0 else ""
    if -4 <= exponent < plain_below:
        if exponent < 0:
            return f"{sign}0.{'0' * (-exponent - 1)}{digits}"
        whole, fraction = digits[: exponent + 1].ljust(exponent + 1, "0"), digits[exponent + 1 :]
        return f"{sign}{whole}.{fraction}" if fraction else f"{sign}{whole}"
    mantissa = digits[0] + (f".{digits[1:]}" if digits[1:] else "")
    return f"{sign}{mantissa}e{'-' if exponent < 0 else '+'}{abs(exponent):02d}"
