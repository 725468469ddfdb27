"""The process that runs one fork: `python -m tartlet.vm.running.forked ORDER`, a JSON object that `fork` makes.

It is the supervisor of the new VM, in a session of its own. Over the descriptor `ready` it says that the VM runs (`{}`)
or what went wrong.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, cast

import anyio

from tartlet.errors import UserError
from tartlet.host.paths import Home
from tartlet.vm.planning.inherited import Inherited
from tartlet.vm.planning.options import RunOptions
from tartlet.vm.running.supervisor import Told, supervise
from tartlet.vm.stored.store import VmStore


def main(order: dict[str, Any]) -> int:
    """Run the fork to its end; the exit code."""
    ready = int(order["ready"])
    inherited = Inherited(
        state=_from_the_start(int(order["state"])),
        ram=None if order["ram"] is None else int(order["ram"]),
        mac=str(order["mac"]),
    )
    told = Told(announce=_nobody_listens, on_running=partial(_say, ready, {}))
    options = _options(order["options"])
    store = VmStore(Home(Path(order["home"])))
    try:
        anyio.run(partial(supervise, store, str(order["name"]), options, told, inherited=inherited))
    except BaseException as exc:
        failure = next(_foreseen(exc), None)
        if failure is None:
            raise
        _say(ready, {"error": str(failure), "hint": failure.hint})
        return 1
    return 0


def _from_the_start(descriptor: int) -> int:
    """The same file with a position of its own: every fork reads it."""
    return os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)


def _options(words: dict[str, Any]) -> RunOptions:
    """JSON has lists where the options have tuples."""
    return RunOptions(**{name: _frozen(value) for name, value in words.items()})


def _frozen(value: Any) -> Any:  # noqa: ANN401 - JSON in, a field of the options out
    return tuple(cast("list[str]", value)) if isinstance(value, list) else value


def _nobody_listens(_: str) -> None:
    """The run's log has every line."""


def _say(ready: int, told: dict[str, object]) -> None:
    with suppress(OSError):  # said already, or whoever waited has gone; the VM goes on
        os.write(ready, json.dumps(told).encode() + b"\n")
        os.close(ready)


def _foreseen(failure: BaseException) -> Iterator[UserError]:
    if isinstance(failure, BaseExceptionGroup):
        for member in cast("BaseExceptionGroup[BaseException]", failure).exceptions:
            yield from _foreseen(member)
    elif isinstance(failure, UserError):
        yield failure


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
