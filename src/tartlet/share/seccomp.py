"""The filter on virtiofsd's system calls (seccomp(2), as a classic BPF program). Pure.

virtiofsd would become the guest's user for each file that is made, and change owners as the guest says. Here both are
done only seemingly, so that whatever a guest makes belongs to one user of the host. And nobody makes programs that run
with that user's rights whoever starts them.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator

_PRETENDED = ("setgroups", "setresuid", "setresgid", "fchownat")
"""Calls that do nothing and succeed."""

_MODES = {"fchmod": 1, "fchmodat": 2, "fchmodat2": 2, "mkdirat": 2, "mknodat": 2, "openat": 3}
"""Calls that take a file's mode, and which of their words it is."""
_OPEN_FLAGS = 2
_O_CREAT, _S_ISUID = 0o100, 0o4000

_AMD64 = {
    "fchmod": 91, "setgroups": 116, "setresuid": 117, "setresgid": 119, "openat": 257, "mkdirat": 258, "mknodat": 259,
    "fchownat": 260, "fchmodat": 268, "fchmodat2": 452,
}  # fmt: skip
_ARM64 = {
    "mknodat": 33, "mkdirat": 34, "fchmod": 52, "fchmodat": 53, "fchownat": 54, "openat": 56, "setresuid": 147,
    "setresgid": 149, "setgroups": 159, "fchmodat2": 452,
}  # fmt: skip
_CALLS = {"x86_64": (0xC000003E, _AMD64), "aarch64": (0xC00000B7, _ARM64)}
"""Audit numbers of architectures (linux/audit.h), and what their system calls are numbered."""

_LOAD, _IF_EQUAL, _IF_ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_NUMBER, _ARCHITECTURE, _FIRST_WORD, _WORD_SIZE = 0, 4, 16, 8
"""Places in struct seccomp_data. Both architectures have the low half of a word first."""

_Step = tuple[int, int, int, int]
"""Code, steps to skip if true, steps to skip if false, operand."""


def program(machine: str) -> bytes:
    """The filter for an architecture as `uname -m` calls it. Raises KeyError for one that is not known here."""
    architecture, numbers = _CALLS[machine]
    steps: list[_Step] = [(_LOAD, 0, 0, _ARCHITECTURE), (_IF_EQUAL, 1, 0, architecture), (_RETURN, 0, 0, _ALLOW)]
    steps.append((_LOAD, 0, 0, _NUMBER))
    for call in _PRETENDED:
        steps += [(_IF_EQUAL, 0, 1, numbers[call]), (_RETURN, 0, 0, _ERRNO)]
    for call, word in _MODES.items():
        refusal = list(_no_setuid(word, only_when_made=call == "openat"))
        steps += [(_IF_EQUAL, 0, len(refusal), numbers[call]), *refusal]
    steps.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("HBBI", *step) for step in steps)


def _no_setuid(word: int, *, only_when_made: bool) -> Iterator[_Step]:
    if only_when_made:  # otherwise nobody gave a mode, and whatever stands there is looked at
        yield (_LOAD, 0, 0, _FIRST_WORD + _OPEN_FLAGS * _WORD_SIZE)
        yield (_IF_ANY_BIT, 0, 2, _O_CREAT)
    yield (_LOAD, 0, 0, _FIRST_WORD + word * _WORD_SIZE)
    yield (_IF_ANY_BIT, 1, 0, _S_ISUID)
    yield (_RETURN, 0, 0, _ALLOW)
    yield (_RETURN, 0, 0, _ERRNO | errno.EPERM)
