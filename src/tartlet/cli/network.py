"""`tart network`: what has to do with the network of VMs and is no matter of one run."""

from __future__ import annotations

from tartlet.cli.network_log import log
from tartlet.cli.network_setup import remove, setup
from tartlet.cli.network_status import set_, status, unset
from tartlet.cli.words import VerbGroup

command = VerbGroup("network", "Look after the network of VMs.", [status, set_, unset, log, setup, remove])
