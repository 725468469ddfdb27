"""Sizes and spans of time as people read and write them."""

from __future__ import annotations

GB = 1000**3
"""A gigabyte; disks are counted in these."""

GIB = 1024**3
MIB = 1024**2

_DECIMAL = (("TB", 1000**4), ("GB", 1000**3), ("MB", 1000**2), ("kB", 1000))
_SPANS = (
    ("year", 365 * 86400),
    ("month", 30 * 86400),
    ("week", 7 * 86400),
    ("day", 86400),
    ("hour", 3600),
    ("minute", 60),
    ("second", 1),
)


def human_size(size: int) -> str:
    """`size` bytes in the largest decimal unit with a value of at least one, rounded half to even: `51 GB`."""
    for position, (unit, factor) in enumerate(_DECIMAL):
        if size >= factor:
            number = _round_half_even(size, factor)
            if number == 1000 and position:  # 999.9 MB reads as 1 GB
                return f"1 {_DECIMAL[position - 1][0]}"
            return f"{number} {unit}"
    return "1 kB" if size == 1000 else f"{size} bytes"


def human_age(seconds: float) -> str:
    """How long ago something was, in full words: `5 seconds ago`; `in 0 seconds` for now and the future."""
    whole = int(seconds)
    if whole <= 0:
        return f"in {human_count(-whole, 'second')}"
    unit, length = next((unit, length) for unit, length in _SPANS if whole >= length)
    count = whole // length
    return f"{human_count(count, unit)} ago"


def human_count(number: float, thing: str) -> str:
    """`1 second`, `2.5 seconds`: an English word for one of the things, with its number."""
    return f"{number:g} {thing}{'' if number == 1 else 's'}"


def _round_half_even(numerator: int, denominator: int) -> int:
    whole, rest = divmod(numerator, denominator)
    if rest * 2 > denominator or (rest * 2 == denominator and whole % 2):
        return whole + 1
    return whole
