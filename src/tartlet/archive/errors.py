"""What can be wrong with an archive."""

from __future__ import annotations

from tartlet.errors import UserError


class BadArchive(UserError):
    """A file that is no archive of a VM, is damaged, or holds what no archive of a VM needs."""

    def __init__(self, why: str, hint: str | None = None) -> None:
        super().__init__(f"the archive cannot be read: {why}", hint or "export the VM again, or copy the file again")
