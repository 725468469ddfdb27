"""Write docs/reference/cli.md from the command itself: .venv/bin/python scripts/cli_reference.py"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from tartlet.cli.help_screen import screen
from tartlet.cli.main import PROGRAM
from tartlet.cli.verb_table import HIDDEN, VERBS
from tartlet.cli.verbs import Tart

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "cli.md"

_WIDTH = 100

_HEAD = """# Command line

<!-- Made by scripts/cli_reference.py from the command's own help; change that, then run the script. -->

`tart SUBCOMMAND --help` shows the same as this page.

## What holds for every subcommand

- `--option value` and `--option=value` are the same; a value that begins with a dash needs the `=`.
- Options and names can stand in any order, except with `exec`: what follows the VM's name belongs to the guest.
- `--` ends the options. Of an option given twice the last one counts; `--disk`, `--dir` and `--net-bridged` collect.
- `--help`, `--help-hidden`, `--version` and `--generate-completion-script` work anywhere and win over mistakes.

| exit code | when |
| --- | --- |
| 0 | success; `run`, however the VM ended |
| 1 | any failure that is not below; Ctrl+C |
| 2 | there is no such VM (`run`: 1); it does not run, and it should; it runs already |
| 64 | wrong usage |
| 124 | a limit of time that was given passed: `exec --timeout`, `wait --timeout`, `run --wait-ready` |
| other | `exec`: what the command inside the guest ended with |

Results go to standard output and everything else to standard error: one line that says what happened, and often a
second that says what to do. For programs `list`, `get` and `doctor` speak JSON.

| variable | what it does |
| --- | --- |
| `TART_HOME` | where everything is kept, instead of `~/.tart` |
| `TART_LOG=debug` | what the program does inside is logged to standard error |
| `CI` | progress in plain lines, and addresses printed instead of opened |

"""


def page() -> str:
    """The whole page."""
    top = click.Context(Tart(), info_name=PROGRAM)
    return _HEAD + "\n".join(section for name in (*VERBS, *HIDDEN) for section in _sections(top, name))


def _sections(above: click.Context, name: str) -> Iterator[str]:
    """The section of a verb, and those of the verbs that it has."""
    group = above.command
    verb = group.get_command(above, name) if isinstance(group, click.Group) else None
    if verb is None:
        raise LookupError(name)
    ctx = click.Context(verb, parent=above, info_name=name, **verb.context_settings)
    yield f"## {ctx.command_path}\n\n```text\n{screen(verb, ctx, hidden=True, width=_WIDTH)}\n```\n"
    if isinstance(verb, click.Group):
        for member in verb.list_commands(ctx):
            yield from _sections(ctx, member)


if __name__ == "__main__":
    PAGE.write_text(page())
