"""Whole numbers of a fixed width, as option values."""

from __future__ import annotations

import click

_LONGEST = 40
"""More digits than any accepted number has; keeps `int()` away from a word of a million digits."""


class Unsigned(click.ParamType[int]):
    """A decimal number from 0 to what `bits` bits hold."""

    name = "number"

    def __init__(self, bits: int, *, least: int = 0) -> None:
        self.most, self.least = 2**bits - 1, least

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number that the word `value` writes; a usage error for anything else."""
        if isinstance(value, int):
            return value
        word = str(value)
        digits = word.removeprefix("+")
        if not (digits.isascii() and digits.isdigit()) or len(digits) > _LONGEST:
            self.fail(f"{word!r} is not a whole number from {self.least} to {self.most}", param, ctx)
        number = int(digits)
        if not self.least <= number <= self.most:
            self.fail(f"{word} is not in the range from {self.least} to {self.most}", param, ctx)
        return number


U16 = Unsigned(16)
U64 = Unsigned(64)
AT_LEAST_ONE = Unsigned(64, least=1)
SECONDS = Unsigned(32, least=1)
"""A limit in a form that the system's calls can take."""
