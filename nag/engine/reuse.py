"""What columns and runs share is made once: the words' embeddings, and finished columns."""

from __future__ import annotations

import contextlib
import inspect
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, ParamSpec, TypeVar

if TYPE_CHECKING:
    import torch

P = ParamSpec("P")
R = TypeVar("R")
V = TypeVar("V")


class LeastRecentlyUsed(Generic[V]):
    """The values used last: at most `count`, of together `size` bytes. One unused for `seconds` is
    given out no more, and goes when next something is kept. Thread-safe."""

    def __init__(self, count: int, size: float, seconds: float) -> None:
        self.count, self.size, self.seconds = count, size, seconds
        # key -> (value, bytes, last used)
        self.values: OrderedDict[Hashable, tuple[V, int, float]] = OrderedDict()
        self.lock = threading.Lock()

    def get(self, key: Hashable) -> V | None:
        """The value, or None."""
        with self.lock:
            self._clear()
            if key not in self.values:
                return None
            value, size, _ = self.values.pop(key)
            self.values[key] = value, size, time.monotonic()
            return value

    def put(self, key: Hashable, value: V, size: int) -> None:
        """Keeps a value of so many bytes; one larger than all room is not kept, and pushes nothing
        out."""
        with self.lock:
            self.values.pop(key, None)
            if size <= self.size:
                self.values[key] = value, size, time.monotonic()
            self._clear()

    def sizes(self) -> dict[Hashable, int]:
        """The bytes of every value that is kept, by its key."""
        with self.lock:
            self._clear()
            return {key: size for key, (_, size, _) in self.values.items()}

    def _clear(self) -> None:
        oldest = time.monotonic() - self.seconds
        while self.values and (
            len(self.values) > self.count
            or sum(size for _, size, _ in self.values.values()) > self.size
            or next(iter(self.values.values()))[2] < oldest
        ):
            self.values.popitem(last=False)


class Parked(NamedTuple):
    """A tensor's copy in main memory, and where the tensor was."""

    tensor: torch.Tensor
    device: torch.device


class EmbeddingCache:
    """Remembers what one pipeline's `encode_prompt` returned, for the next column and the next run
    with the same words.

    Nothing but its arguments decides what it returns: of diffusers' pipelines none reads in it what
    a call of the pipeline has set. Calls with a picture, embeddings or a generator among their
    arguments are not remembered. What is handed out is always a copy, equal bit for bit: a pipeline
    may write into what it gets.
    """

    def __init__(self, count: int = 32, size: int = 512 * 2**20, seconds: float = 3600) -> None:
        self.kept = LeastRecentlyUsed(count, size, seconds)

    def recall(self, encode_prompt: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """`encode_prompt(*args, **kwargs)`, or a copy of what the same call returned before."""
        key = _key(encode_prompt, args, kwargs)
        if key is None:
            return encode_prompt(*args, **kwargs)
        found = self.kept.get(key)
        if found is not None:
            return _mapped(found, Parked, lambda parked: parked.tensor.to(parked.device, copy=True))
        result = encode_prompt(*args, **kwargs)
        self._keep(key, result)
        return result

    def _keep(self, key: Hashable, result: object) -> None:
        import torch

        sizes = []

        def park(tensor: torch.Tensor) -> Parked:
            # embeddings of a few MB come back in a moment, and GPU memory is scarce
            copy = tensor.to("cpu", copy=True)
            sizes.append(copy.nbytes)
            return Parked(copy, tensor.device)

        with contextlib.suppress(TypeError):  # of something that cannot be copied part by part
            parked = _mapped(result, torch.Tensor, park)
            self.kept.put(key, parked, sum(sizes))


def _key(function: Callable, args: tuple, kwargs: dict) -> Hashable | None:
    """The arguments of a call as something hashable, however they were given, or None where one of
    them is more than plain values."""
    try:
        bound = inspect.signature(function).bind(*args, **kwargs)
        bound.apply_defaults()
        return _plain(bound.arguments)
    except TypeError:
        return None


def _plain(value: object) -> Hashable:
    """Hashable, and different for 1, 1.0 and True, which hash alike. Raises TypeError for more than
    plain values."""
    import torch

    if isinstance(value, dict):
        return dict, tuple((_plain(key), _plain(one)) for key, one in value.items())
    if isinstance(value, (list, tuple)):
        return type(value), tuple(map(_plain, value))
    if value is None or isinstance(value, (str, int, float, bool, torch.device, torch.dtype)):
        return type(value), value
    raise TypeError(f"{type(value).__name__} is no plain value")


def _mapped(value: Any, kind: type, function: Callable[[Any], Any]) -> Any:
    """`function` of every `kind` in nested lists, tuples and dictionaries. Raises TypeError for
    anything else but None."""
    if isinstance(value, kind):
        return function(value)
    if type(value) in (list, tuple):
        return type(value)(_mapped(one, kind, function) for one in value)
    if type(value) is dict:
        return {key: _mapped(one, kind, function) for key, one in value.items()}
    if value is None:
        return None
    raise TypeError(f"{type(value).__name__} cannot be copied part by part")
