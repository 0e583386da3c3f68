"""Who may wait for the engine: a few runs of each address, and always a place for the page."""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

WAITING = 4  # runs of one address that may wait, beside the one that is drawn
PLACES = 40  # runs of everybody that may wait
RESERVED = 8  # of these places, for the page alone


@dataclass(frozen=True)
class Place:
    """A run that waits: who asked for it, in which browser tab, and whether a program did."""

    address: str
    session: str
    program: bool


def refusal(waiting: Sequence[Place], newcomer: Place) -> str:
    """Why one more run cannot wait, in a sentence, or "".

    A tab's newer click takes the place of its older one, so that a tab counts once; a tab that
    only pretends to be one, and queues the same click again and again, ends at `WAITING` too.
    """
    if len(waiting) >= PLACES - (RESERVED if newcomer.program else 0):
        return f"{len(waiting)} comparisons are waiting already. Please try again in a while."
    mine = [place for place in waiting if place.address == newcomer.address]
    programs = [place for place in mine if place.program]
    tabs = {place.session for place in mine if not place.program} - {newcomer.session}
    same = [place for place in mine if not place.program and place.session == newcomer.session]
    if len(programs if newcomer.program else same) + len(tabs) >= WAITING:
        return (
            f"{WAITING} comparisons of your address are waiting already. Please wait until one of "
            "them has ended."
        )
    return ""


def address_of(host: str | None) -> str:
    """Whom an address counts for: of IPv6 the network of 64 bits, which is what one client gets."""
    try:
        address = ipaddress.ip_address(host or "")
    except ValueError:
        return host or ""
    if address.version == 4:
        return str(address)
    if address.ipv4_mapped:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, 64), strict=False))
