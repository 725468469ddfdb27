"""How a guest's command is made to run as the user `admin`, in a given folder, with given variables.

The QEMU guest agent runs as root and starts programs in its own bare environment. Agents made for `tart exec` run as
`admin`, so that is what commands get here too wherever the guest has that user. All is done by words in front of the
command: the guest needs `/bin/sh` and `env`, and util-linux's `setpriv` or any `su` to become somebody else.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from tartlet.guest.commands import Command
from tartlet.guest.errors import AgentFailed

USER = "admin"

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

LOOK_UP = f"""\
echo "$(id -u {USER} 2>/dev/null) $(id -g {USER} 2>/dev/null)"
[ "$(id -u)" = 0 ] && echo root
setpriv --help 2>&1 | grep -q -e --reset-env && echo setpriv
:"""
"""A shell script that tells what `Login.parsed` reads."""

_RUN = """\
token=$1 folder=$2; shift 2
refuse() { printf '%s %s' "$token" "$1" >&2; exit 127; }
cd "${HOME:-/}" 2>/dev/null || cd /
cd "${folder:-.}" 2>/dev/null || refuse "cannot enter the folder $folder"
case $1 in
  */*) [ -e "$1" ] || refuse "$1: no such file"
    [ -f "$1" ] && [ -x "$1" ] || refuse "$1: cannot be executed" ;;
  *) found=; IFS=:
    for place in $PATH; do [ -f "$place/$1" ] && [ -x "$place/$1" ] && found=yes && break; done
    [ -n "$found" ] || refuse "$1: not found in $PATH" ;;
esac
unset IFS OLDPWD
"""
"""Looks the program up first, so that one that cannot start is told apart from one that ends with 127."""
_TO_ITS_END, _DETACHED = 'exec "$@"', 'setsid "$@" < /dev/null > /dev/null 2>&1 &'


@dataclass(frozen=True, slots=True)
class Login:
    """As whom commands run in one guest, and by which words."""

    prefix: tuple[str, ...] = ()

    @classmethod
    def parsed(cls, told: str) -> Login:
        """From the output of LOOK_UP. Raises nothing: what cannot be read means the agent's own user."""
        lines = told.split("\n")
        numbers = lines[0].split()
        if len(numbers) != 2 or not all(number.isascii() and number.isdigit() for number in numbers):
            return cls()
        if "root" not in lines:
            return cls()
        if "setpriv" in lines:
            uid, gid = numbers
            return cls(("setpriv", f"--reuid={uid}", f"--regid={gid}", "--init-groups", "--reset-env", "--"))
        return cls(("su", "-s", "/bin/sh", "-c", 'exec "$@"', "--", USER, "sh"))

    def prepared(self, command: Command, token: str | None = None, *, path: str | None = PATH) -> Prepared:
        """The words that run `command`, with this PATH or with that which it finds.

        `token`: what a refusal begins with, where the prefix refuses too. Raises AgentFailed for what no program can be
        given.
        """
        variables = [f"{key}={value}" for key, value in command.env.items()]
        if any(not key or "=" in key for key in command.env):
            raise AgentFailed("the name of an environment variable is empty or holds a =")
        token = token or secrets.token_hex(16)
        if path is not None:
            variables.insert(0, f"PATH={path}")
        words = [*self.prefix, *(["env", "--"] if variables else []), *variables]
        script = _RUN + (_DETACHED if command.detach else _TO_ITS_END)
        words += ["/bin/sh", "-c", script, "tart", token, command.workdir, command.name, *command.args]
        if any("\0" in word for word in words):
            raise AgentFailed("a word of the command holds a zero byte")
        return Prepared(words, token)


@dataclass(frozen=True, slots=True)
class Prepared:
    """Words ready for the agent, and how to recognise that the command itself never ran."""

    words: list[str]
    token: str

    def refusal(self, exit_code: int, stderr: bytes) -> str | None:
        """Why the command could not be started; None when it was."""
        mark = self.token.encode() + b" "
        if exit_code != 127 or not stderr.startswith(mark):
            return None
        return stderr.removeprefix(mark).decode(errors="replace")
