"""What can go wrong between host and guest, and how a guest's words are made fit to be shown."""

from __future__ import annotations

from tartlet.errors import UserError

_LONGEST_QUOTE = 1000
"""Characters of a guest's error text that are shown."""

_HINTS = {
    "cannot enter the folder ": "--workdir takes a folder of the guest that the command's user may enter; "
    "without a / at its begin it is told from that user's home",
    "the guest has no user ": "`tart exec NAME cut -d: -f1 /etc/passwd` lists the users that it has",
    ": not found in /": "give the program's whole path, or install it in the guest",
}
"""By what agents say of a command that cannot start (see `tart_agent` and `login`): what to do about it."""


class AgentUnavailable(UserError):
    """Nobody in the guest answers: the guest still boots, its agent is missing or stopped, or the VM has ended."""

    def __init__(self, message: str = "no guest agent answers in the VM", hint: str | None = None) -> None:
        super().__init__(
            message,
            hint or "is the guest up, and does tart-agent or qemu-guest-agent run in it? `tart doctor NAME` tells more",
        )


class NoAddressYet(AgentUnavailable):
    """The agent answers, and tells no address that others can reach."""

    def __init__(self) -> None:
        super().__init__("the guest has no IPv4 address yet", "wait for its network: `tart ip NAME --wait 60`")


class AgentFailed(UserError):
    """The guest's agent refused, or failed at, what it was asked. The text is the guest's, made fit to be shown."""

    def __init__(self, text: str, hint: str | None = None) -> None:
        super().__init__(escaped(text) or "the guest agent gave no reason", hint)


def refused(text: str, hint: str | None = None) -> AgentFailed:
    """The error for an agent's reason, with the hint that fits it where none is given."""
    return AgentFailed(text, hint or next((fitting for phrase, fitting in _HINTS.items() if phrase in text), None))


class AgentCannot(AgentFailed):
    """What is asked is beyond the kind of agent the guest has."""


def beyond(agent: str, what: str) -> AgentCannot:
    """The error for what an agent, which answers because ours does not, cannot."""
    return AgentCannot(
        f"{agent}, which answers in this VM, cannot {what}",
        "that takes Tartlet's own agent in the guest: `tart agent install NAME` puts it there",
    )


def escaped(text: str) -> str:
    """Text of a guest as one line without control characters, which a terminal would obey; of bounded length."""
    shown = text if len(text) <= _LONGEST_QUOTE else f"{text[:_LONGEST_QUOTE]}…"
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in shown.strip())
