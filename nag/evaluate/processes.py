"""One process, or several that share the pictures of an evaluation."""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator

from ..errors import Refused

GONE = (
    "Another process ended before its pictures were drawn; it says why itself. Run the same "
    "command again: finished pictures are kept."
)


class Alone:
    """The only process."""

    first, index, count = True, 0, 1

    def wait(self) -> None:
        pass


class Several:
    """One of several processes, as accelerate finds them."""

    def __init__(self) -> None:
        import datetime

        import torch
        from accelerate import PartialState

        asked = os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true"
        here = PartialState(cpu=asked or not torch.cuda.is_available())
        self.first, self.index, self.count = (
            here.is_main_process,
            here.process_index,
            here.num_processes,
        )
        # a slow process may be hours behind; one that died is noticed at once, because its
        # connection closes
        patience = datetime.timedelta(days=30)
        self.group = torch.distributed.new_group(backend="gloo", timeout=patience)

    def wait(self) -> None:
        """Until all processes are here. Raises `Refused` when one never will be."""
        import torch

        barrier = torch.distributed.barrier(self.group, async_op=True)
        try:
            while not barrier.is_completed():
                time.sleep(0.1)  # in Python, where a signal is heard
            barrier.wait()
        except RuntimeError as error:
            raise Refused(GONE) from error


def here() -> contextlib.AbstractContextManager:
    """This process, as the launcher's environment says."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return contextlib.nullcontext(Alone())
    return _several()


def is_first() -> bool:
    """Whether this process speaks for all; known before they are connected."""
    return not int(os.environ.get("RANK", 0))


@contextlib.contextmanager
def _several() -> Iterator[Several]:
    import torch

    def asked_to_end(*_):  # launchers end the other processes when one fails
        print(GONE, file=sys.stderr, flush=True)
        raise SystemExit(2)  # not an error that somebody on the way may catch

    before = signal.signal(signal.SIGTERM, asked_to_end)
    try:
        yield Several()
    finally:
        signal.signal(signal.SIGTERM, before)
        if sys.exc_info()[0] is None and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
