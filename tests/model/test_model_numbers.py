"""Floating-point numbers as PostgreSQL prints them. test_types_on_stack.py asks PostgreSQL about many more."""

import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kycache.model.scalars.numbers import float4_text, float8_text, print_float4, print_float8


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (0.0, "0"),
        (-0.0, "-0"),
        (0.1, "0.1"),
        (100.0, "100"),
        (123456.789, "123456.789"),
        (1e14, "100000000000000"),
        (1e15, "1e+15"),
        (123456789012345.0, "123456789012345"),
        (9007199254740992.0, "9.007199254740992e+15"),
        (18014398509481988.0, "1.8014398509481988e+16"),
        (18014398509481992.0, "1.8014398509481992e+16"),  # 1.801439850948199e+16 is half-way between two
        (-18014398509481992.0, "-1.8014398509481992e+16"),
        (1e22, "1e+22"),
        (1e23, "9.999999999999999e+22"),  # so is 1e23
        (9.223372036854776e18, "9.223372036854776e+18"),
        (1e-4, "0.0001"),
        (1e-5, "1e-05"),
        (1e100, "1e+100"),
        (5e-324, "5e-324"),
        (2.2250738585072014e-308, "2.2250738585072014e-308"),
        (1.7976931348623157e308, "1.7976931348623157e+308"),
    ],
)
def test_doubles(number: float, shown: str) -> None:
    """As PostgreSQL 18 printed them."""
    assert float8_text(number) == shown


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (0.0, "0"),
        (-0.0, "-0"),
        (0.1, "0.1"),
        (123456.0, "123456"),
        (1e6, "1e+06"),
        (1234567.0, "1.234567e+06"),
        (8388608.0, "8.388608e+06"),
        (16777216.0, "1.6777216e+07"),
        (33554432.0, "3.3554432e+07"),
        (67108864.0, "6.7108864e+07"),
        (1e10, "1e+10"),
        (1e-4, "0.0001"),
        (1e-5, "1e-05"),
        (1.4e-45, "1e-45"),
        (1.1754944e-38, "1.1754944e-38"),
        (9.8607613e-32, "9.8607613e-32"),
        (3.4028235e38, "3.4028235e+38"),
        (-0.3, "-0.3"),
    ],
)
def test_singles(number: float, shown: str) -> None:
    """The same; Debezium sends the decimal that Java prints, which may have more digits."""
    assert float4_text(number) == shown


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_double_reads_back(number: float) -> None:
    shown = print_float8(number)
    assert float(shown) == number
    assert math.copysign(1, float(shown)) == math.copysign(1, number)
    assert len(shown) <= len("-1.7976931348623157e+308")


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_a_single_reads_back(number: float) -> None:
    shown = print_float4(number)
    assert struct.pack("<f", float(shown)) == struct.pack("<f", number)
    assert len(shown) <= len("-1.17549435e-38")
