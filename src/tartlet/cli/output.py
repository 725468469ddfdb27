"""Results as the original prints them: text tables and JSON that other programs read."""

from __future__ import annotations

from collections.abc import Sequence

import click


class NobodyReads(Exception):
    """Whoever read standard output is gone. No OSError: work on files would take that for its own failure."""


def say(line: str) -> None:
    """Print a line in the midst of work. Raises NobodyReads."""
    try:
        click.echo(line)
    except BrokenPipeError as exc:
        raise NobodyReads from exc


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns padded to their widest cell and joined by one blank; white space at both ends of the text is cut."""
    lines = [titles, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(titles))]
    padded = (" ".join(f"{cell:{width}}" for cell, width in zip(line, widths, strict=True)) for line in lines)
    return "\n".join(padded).strip()


def json_text(value: object) -> str:
    """`value` as JSON: two-blank indent, blanks around colons, `/` written as `\\/`. ASCII only."""
    import json

    if value == []:
        return "[\n\n]"
    # A slash can only stand inside a string here, so replacing each is safe.
    return json.dumps(value, indent=2, separators=(",", " : ")).replace("/", "\\/")
