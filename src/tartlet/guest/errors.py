"""What can go wrong between host and guest, and how a guest's words are made fit to be shown."""

from __future__ import annotations

from tartlet.errors import UserError

_LONGEST_QUOTE = 1000
"""Characters of a guest's error text that are shown."""


class AgentUnavailable(UserError):
    """Nobody in the guest answers: the guest still boots, its agent is missing or stopped, or the VM has ended."""

    def __init__(self, message: str = "no guest agent answers in the VM", hint: str | None = None) -> None:
        super().__init__(
            message,
            hint or "is the guest up, and does tart-agent or qemu-guest-agent run in it? `tart doctor NAME` tells more",
        )


class AgentFailed(UserError):
    """The guest's agent refused, or failed at, what it was asked. The text is the guest's, made fit to be shown."""

    def __init__(self, text: str, hint: str | None = None) -> None:
        super().__init__(escaped(text) or "the guest agent gave no reason", hint)


class AgentCannot(AgentFailed):
    """What is asked is beyond the kind of agent the guest has."""


def escaped(text: str) -> str:
    """Text of a guest as one line without control characters, which a terminal would obey; of bounded length."""
    shown = text if len(text) <= _LONGEST_QUOTE else f"{text[:_LONGEST_QUOTE]}…"
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in shown.strip())
