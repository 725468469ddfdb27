"""A bridged card by the privileged process, for a user without rights of his own."""

from __future__ import annotations

import socket

from tartlet.network.cards.bridged_links import BridgedLink
from tartlet.network.shared.conversation import Asking
from tartlet.network.shared.keepers import Keeper, taken_in


async def bridged_by(keeper: Keeper, interface: str, mac: str) -> BridgedLink:
    """A new card on the interface. It is the process's to take away, when the last copy of its lifeline is closed.

    Raises MacTaken, and BackendUnusable: the process does not answer, or an administrator did not allow it.
    """

    async def ask(connection: socket.socket) -> BridgedLink:
        question = {"do": "bridged", "interface": interface, "mac": mac}
        told, (cable, lifeline, hearsay, *shelter) = await Asking(connection).asked(question)
        return BridgedLink(
            cable=cable,
            name="",
            mtu=int(told["mtu"]),
            shelter=shelter[0] if shelter else None,
            lifeline=lifeline,
            hearsay=hearsay,
        )

    connection, link = await taken_in(keeper, ask)
    connection.close()
    return link
