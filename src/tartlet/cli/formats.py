"""The option `--format` and what both its words need."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from tartlet.units import GB

TEXT, JSON = "text", "json"


def format_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Declare `--format text|json`."""
    return click.option(
        "--format",
        "format_",
        metavar="<format>",
        type=click.Choice([TEXT, JSON]),
        default=TEXT,
        help="How to print it; programs should read json.",
    )(function)


def whole_gigabytes(size: int) -> int:
    """`size` bytes in decimal gigabytes, cut off."""
    return size // GB
