"""What every part of the program raises; imports nothing of ours."""

from __future__ import annotations

from collections.abc import Sequence


class UserError(Exception):
    """Something the user can cause, understand and mend: one line that says what happened, one that says what to do."""

    exit_code = 1
    """What the command ends with when this error reaches its face."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint

    @property
    def gist(self) -> str:
        """What it comes to: of what fails side by side with the same gist only the first is worth telling."""
        return str(self)


class InvalidArgument(UserError):
    """A word of the caller that breaks a rule; the command treats it as wrong usage."""

    exit_code = 64


class TimeIsUp(UserError):
    """What the caller waited for did not come in the time it gave."""

    exit_code = 124
    """What `timeout` of GNU coreutils ends with."""


class ToolMissing(UserError):
    """A helper program is not in PATH."""

    def __init__(self, program: str, hint: str | None = None) -> None:
        super().__init__(
            f"the program {program} was not found", hint or f"install {program}; `tart doctor` lists what is missing"
        )
        self.program = program


class ToolFailed(UserError):
    """A helper program ended with an error."""

    def __init__(self, words: Sequence[str], exit_status: int, stderr: str) -> None:
        told = stderr.strip().splitlines()
        reason = told[-1] if told else f"no message, exit status {exit_status}"
        super().__init__(f"{words[0]} failed: {reason}")
        self.words, self.exit_status, self.stderr = list(words), exit_status, stderr


class FileTrouble(UserError):
    """The system refused an operation on a file."""

    def __init__(self, what: str, path: object, cause: OSError, hint: str | None = None) -> None:
        super().__init__(f"{what} {path}: {cause.strerror or cause}", hint)
        self.path, self.errno = path, cause.errno
