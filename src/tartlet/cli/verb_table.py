"""The table of verbs."""

from __future__ import annotations

from collections.abc import Mapping

VERBS: Mapping[str, str] = {
    "create": "Create a VM.",
    "clone": "Make a VM that starts as a copy of another, or of an image.",
    "run": "Run a VM and stay until it ends.",
    "set": "Change the configuration of a VM.",
    "get": "Show the configuration of a VM or of a cached image.",
    "list": "List VMs and cached images.",
    "login": "Log in to a registry.",
    "logout": "Forget the credentials of a registry.",
    "ip": "Print the IP address of a VM.",
    "exec": "Run a command inside a running VM.",
    "pull": "Bring an image from a registry into the cache.",
    "push": "Push a VM to a registry.",
    "import": "Import a VM from a file.",
    "export": "Export a VM to a file.",
    "prune": "Remove what can be done without.",
    "rename": "Give a VM another name.",
    "stop": "Stop a VM.",
    "delete": "Delete VMs and cached images.",
    "suspend": "Save a running VM to disk; its next run continues there.",
    "cp": "Copy files and folders between this machine and a running VM.",
    "sync": "Synchronise the folders of 'run --dir=...:sync' now.",
    "agent": "Look after the guest agent in a VM.",
    "port-forward": "Make ports of a running VM's loopback reachable on this machine.",
    "wait": "Wait until a VM has ended, and print how it did.",
    "logs": "Show the logs of a VM.",
    "network": "Look after the network of VMs.",
    "snapshot": "Keep states of a VM, and return to them.",
    "fork": "Make running copies of a running VM, memory included.",
    "console": "Use the serial console of a running VM; Ctrl+] leaves it.",
    "web": "Use the screen and the serial terminal of a running VM in a browser.",
    "screenshot": "Take a picture of a running VM's screen.",
    "doctor": "Show what this machine offers, and what stands in the way.",
    "help": "Show help about the program or one of its subcommands.",
}
"""Each verb and its line in the help: the original's order, then those of this program.

A verb lives in the module of its name. A test holds the line against the first line of its own help.
"""

HIDDEN: Mapping[str, str] = {
    "fqn": "Print the name of an image by its digest.",
}
"""Verbs that the help leaves out, as the original does."""
