"""A network that was chosen and is not free: the hint names the setting that chose it."""

from __future__ import annotations

from ipaddress import IPv4Network
from pathlib import Path

import pytest

from tartlet.network.preferences import Preferences
from tartlet.network.shared.bridges import Bridges, NetworkTaken

CHOSEN, REACHED = IPv4Network("172.20.3.0/24"), IPv4Network("172.20.0.0/16")


@pytest.mark.parametrize("kind", ["nat", "host"])
def test_the_hint_names_the_setting(tmp_path: Path, kind: str) -> None:
    chosen = Preferences(nat=CHOSEN, host=CHOSEN)
    bridges = Bridges(chosen, outside=[REACHED], folder=tmp_path, upstream=(), within=lambda start: start)
    with pytest.raises(NetworkTaken, match=r"172\.20\.3\.0/24 of the settings overlaps") as caught:
        bridges.routed() if kind == "nat" else bridges.host_only()
    assert f"tart network set {kind}.address" in (caught.value.hint or "")
