"""The guest's own screen sharing, reached from the host."""

from __future__ import annotations

import signal

from vm_lab import HEADLESS, Lab


def test_vnc_tells_where_the_guests_own_server_is_reached(stopped: Lab) -> None:
    with stopped.started("run", "mini", *HEADLESS, "--vnc") as run:
        assert run.stdout is not None
        said = run.stdout.readline()
        address = stopped.done("ip", "mini").strip()
        assert said == f"VNC server is running at vnc://{address}\n"
        listening = stopped.network.run("ss", "-Hltn", f"src {address}:5900").stdout
        assert f"{address}:5900" in listening
        run.send_signal(signal.SIGINT)
        assert run.wait(20) == 0
