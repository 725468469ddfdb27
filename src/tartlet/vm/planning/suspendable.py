"""Which machines have nothing in them that cannot be saved."""

from __future__ import annotations

from tartlet.errors import UserError
from tartlet.vm.planning.plan import Plan


class CannotSuspend(UserError):
    """A run that could not be continued later; it goes on."""


def check_suspendable(plan: Plan) -> None:
    """Raises CannotSuspend."""
    if plan.folders.devices:
        raise CannotSuspend(
            "the VM cannot be suspended: it shares a folder with the host (--dir), which QEMU cannot save",
            "stop it with `tart stop`, or run it with --dir=…:sync, which gives the guest a synchronised copy",
        )
    if plan.image_disks:
        names = ", ".join(plan.image_disks)
        raise CannotSuspend(
            f"the VM cannot be suspended: its copy of {names} (--disk) would not outlive this run",
            "stop it with `tart stop`, or run it without that --disk",
        )
