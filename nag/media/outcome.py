"""What became of what the negative prompt names: gone, still there, or something in its place."""

from collections.abc import Iterable
from dataclasses import dataclass

PLAIN = "none"  # the value of an attribute that is not there: no mask, no glasses
HEADGEAR = {"hat", "beanie"}  # of an attribute that is always something: else hair


@dataclass(frozen=True)
class Outcome:
    """One picture beside the un-guided one of the same noise.

    kind: "gone" (nothing in its place), "replaced" (another value stands there, `instead`), "left"
    (still there), or "absent" (not there without guidance either, so nothing could be removed).
    share: 0 to 1, how sure the meter is that it is still there; the largest of several.
    changed: attributes that nobody named and that are no longer what they were.
    """

    kind: str
    share: float
    instead: str = ""
    changed: tuple[str, ...] = ()


def likeliest(reading: dict) -> dict[str, str]:
    """{attribute: {value: probability}} -> {attribute: value}"""
    return {name: max(shares, key=shares.get) for name, shares in reading.items()}


def outcome(before: dict, after: dict, named: Iterable[tuple[str, str]]) -> Outcome | None:
    """Readings of the un-guided picture and of another, and the (attribute, value) pairs to remove.

    A pair is there where its value is the likeliest. None where the words name nothing that the
    meter reads.
    """
    named = list(named)
    if not named:
        return None
    was, now = likeliest(before), likeliest(after)
    share = max(after[name][value] for name, value in named)
    slots = {name for name, _ in named}
    changed = tuple(name for name in was if was[name] != now[name] and name not in slots)
    there = [(name, value) for name, value in named if was[name] == value]
    if any(now[name] == value for name, value in named):
        return Outcome("left", share, changed=changed)
    if not there:
        return Outcome("absent", share, changed=changed)
    instead = next((now[name] for name, _ in there if _replaced(after[name], now[name])), "")
    return Outcome("replaced" if instead else "gone", share, instead, changed)


def _replaced(shares: dict, value: str) -> bool:
    """Whether something else is worn: a head without a hat has hair, and a shirt some colour."""
    return value != PLAIN if PLAIN in shares else value in HEADGEAR
