"""A client's calls passed on to an agent that speaks agent.proto itself, as agents made for the original do.

What such an agent may be too old for, and would leave out without a word (variables, a folder, detaching), or does not
know at all (users), is done by words in front of the command.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator

from grpclib.server import Stream

from tartlet.guest.commands import Command
from tartlet.guest.errors import AgentCannot, AgentFailed, beyond
from tartlet.guest.login import PATH, Login, Prepared
from tartlet.guest.rpc.agent_pb2 import ExecRequest, ExecResponse
from tartlet.guest.service.vsock_agent import VsockAgent

ExecStream = Stream[ExecRequest, ExecResponse]

_BECOME = """\
token=$1 user=$2; shift 2
case $user in
  *[!0-9]*) id -u -- "$user" ;;
  *) grep "^[^:]*:[^:]*:$user:" /etc/passwd || getent passwd "$user" ;;
esac > /dev/null 2>&1 || { printf '%s the guest has no user %s' "$token" "$user" >&2; exit 127; }
[ "$(id -un)" = "$user" ] || [ "$(id -u)" = "$user" ] && exec "$@"
case $user in *[!0-9]*) ;; *) user="#$user" ;; esac
exec sudo -n -H -u "$user" -- "$@"
"""
"""Its words: the token of a refusal, as whom, and the command."""


def beyond_vsock(what: str) -> AgentCannot:
    """The error for what this agent cannot."""
    return beyond("the agent behind vsock", what)


async def relay_exec(
    agent: VsockAgent, command: Command, request: ExecRequest, stream: ExecStream, *, at_home: bool
) -> None:
    """Run a client's command; `request` is the one that it came in. Cancelled, it kills the command.

    `at_home`: it begins in the user's home as with other agents, and not where this agent happens to be.
    Raises AgentUnavailable, AgentFailed (also when the program cannot be started).
    """
    prepared = _prepared(command, at_home=at_home)
    if prepared is not None:
        request = _with_words(request, prepared.words)
    answer = _Answer(stream, prepared)
    async with agent.channel() as channel:
        await channel.relay(request, _more(stream), answer.send)


def _prepared(command: Command, *, at_home: bool) -> Prepared | None:
    """Words in front of the command; None when it needs none. Raises AgentFailed for what no program can be given."""
    if not (at_home or command.env or command.workdir or command.user or command.detach):
        return None
    token = secrets.token_hex(16)
    become = ("/bin/sh", "-c", _BECOME, "sh", token, command.user) if command.user else ()
    return Login(become).prepared(command, token, path=PATH if become else None)


def _with_words(request: ExecRequest, words: list[str]) -> ExecRequest:
    changed = ExecRequest()
    changed.CopyFrom(request)
    told = changed.command
    told.name, told.detach, told.workdir = words[0], False, ""
    told.env.clear()
    told.ClearField("args")
    told.args.extend(words[1:])
    return changed


class _Answer:
    """Hands an agent's answers on, but for a refusal by the words in front of the command."""

    def __init__(self, stream: ExecStream, prepared: Prepared | None) -> None:
        self._stream, self._prepared = stream, prepared
        self._refusal = b""
        self._begun = False

    async def send(self, response: ExecResponse) -> None:
        """Raises AgentFailed when the command could not be started."""
        said = response.standard_error.data or response.standard_output.data
        if said and not self._begun and self._is_refusal(said):
            self._refusal += said
            return
        if self._prepared is not None and response.WhichOneof("type") == "exit" and self._refusal:
            raise AgentFailed(self._prepared.refusal(response.exit.code, self._refusal) or "the command did not start")
        self._begun = self._begun or bool(said)
        await self._stream.send_message(response)

    def _is_refusal(self, said: bytes) -> bool:
        return bool(self._refusal) or (self._prepared is not None and said.startswith(self._prepared.token.encode()))


async def _more(stream: ExecStream) -> AsyncIterator[ExecRequest]:
    """What the client sends after the command; when it says that nothing more comes, that is the end of input."""
    ended = False
    async for request in stream:
        ended = request.WhichOneof("type") == "standard_input" and not request.standard_input.data
        yield request
    if not ended:
        yield ExecRequest(standard_input={"data": b""})
