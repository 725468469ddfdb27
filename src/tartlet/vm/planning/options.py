"""What one run of a VM is asked to be, as the command's words say it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """The options of `tart run`. A value: nothing is opened or checked against the host yet."""

    no_graphics: bool = False
    graphics: bool = False
    serial: bool = False
    serial_path: str | None = None
    no_audio: bool = False
    no_clipboard: bool = False
    no_pointer: bool = False
    no_keyboard: bool = False
    no_trackpad: bool = False
    capture_system_keys: bool = False
    recovery: bool = False
    vnc: bool = False
    vnc_experimental: bool = False
    web: bool = False
    web_port: int | None = None
    """The port of the web console, when it is asked for; else a free one."""
    disks: tuple[str, ...] = ()
    """`PATH[:OPTIONS]` each, in device order."""
    root_disk_options: str = ""
    rosetta: str | None = None
    dirs: tuple[str, ...] = ()
    nested: bool = False
    suspendable: bool = False
    net_bridged: tuple[str, ...] = ()
    net_softnet: bool = False
    net_softnet_allow: str | None = None
    net_softnet_block: str | None = None
    net_softnet_expose: str | None = None
    net_softnet_control_fd: int | None = None
    net_host: bool = False
    provisioning_options: str | None = None
    plain_output: bool = False
    """Addresses are printed instead of opened on the desktop (`CI` is set)."""

    @property
    def wants_window(self) -> bool:
        """A window, where there is a display: not with `--no-graphics`, nor with VNC or a page without `--graphics`."""
        return not self.no_graphics and (self.graphics or not (self.vnc or self.vnc_experimental or self.web))
