"""What was asked for with one click, and the clicks that wait or run."""

import threading
import time
import uuid
from collections import deque
from dataclasses import dataclass, field

from ..presets import Preset
from ..request import Request

MOST = 200  # clicks of everybody that are remembered
OF_ONE = 8  # clicks of one address, each in a tab of its own
AGE = 3600  # seconds after which a click that never ran is forgotten


@dataclass(eq=False)
class Click:
    """Frozen settings, the path of a start picture, and the way to stop what they began."""

    preset: Preset
    request: Request
    picture: str | None = None
    address: str = ""
    id: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    stop: threading.Event = field(default_factory=threading.Event)
    begun: bool = False
    made: float = field(default_factory=time.monotonic)


class Clicks:
    """The newest click of each browser tab. Those that wait are at most `MOST`, and `OF_ONE` of an
    address; the oldest are forgotten first."""

    def __init__(self) -> None:
        self.newest, self.lock = {}, threading.Lock()  # by tab, in the order of the clicks
        self.forgotten = deque(maxlen=MOST)  # numbers of clicks that cannot begin any more

    def __len__(self) -> int:
        return len(self.newest)

    def get(self, tab: str | None) -> Click | None:
        return self.newest.get(tab)

    def put(self, tab: str | None, click: Click) -> None:
        """Takes the place of the tab's older click, which is told to stop."""
        self.pop(tab)
        with self.lock:
            waiting = [(key, one) for key, one in self.newest.items() if not one.begun]
            same = [key for key, one in waiting if one.address == click.address]
            old = [key for key, one in waiting if one.made < time.monotonic() - AGE]
            everybody = [key for key, _ in waiting]
            for key in {*old, *_surplus(same, OF_ONE), *_surplus(everybody, MOST)}:
                self.forgotten.append(self.newest.pop(key).id)
            self.newest[tab] = click

    def pop(self, tab: str | None, click: Click | None = None) -> None:
        """Forgets a tab's click, if it is this one, and tells it to stop."""
        with self.lock:
            found = self.newest.get(tab)
            if found is not None and click in (None, found):
                del self.newest[tab]
                found.stop.set()


def _surplus(oldest_first: list, most: int) -> list:
    """Those that must go before one more can come."""
    return oldest_first[: max(0, len(oldest_first) - most + 1)]
