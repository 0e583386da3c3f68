"""What is put in place of something of somebody else's for a while, and taken away on exit."""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NoReturn

from . import private
from .errors import NAGRuntimeError

if TYPE_CHECKING:
    from diffusers import ModelMixin


def wrap_method(owner: object, name: str, wrapper: Callable) -> contextlib.AbstractContextManager:
    """Within this context `owner.name(...)` is `wrapper(original, ...)`; on exit what it was."""
    original = getattr(owner, name)

    @functools.wraps(original)
    def call(*args, **kwargs):
        return wrapper(original, *args, **kwargs)

    return set_attribute(owner, name, call)


@contextlib.contextmanager
def set_attribute(owner: object, name: str, value: object) -> Iterator[None]:
    """Within this context `owner.name` is `value`; on exit what it was.

    A method of the class is shadowed on the instance, and the shadow removed: the instance then has
    no attribute that it did not have. Past `__setattr__`, in which modules register submodules.
    """
    original, had = getattr(owner, name), name in vars(owner)
    object.__setattr__(owner, name, value)
    try:
        yield
    finally:
        if had:
            object.__setattr__(owner, name, original)
        else:
            object.__delattr__(owner, name)


class Wrapped:
    """A method that is called as `wrapper(original, ...)`, to be set on an object that is copied.

    Pipelines deep-copy their scheduler (one for the sound, or one for every frame). A copy gets its
    own method back, where a plain function would go on changing the state of the original.
    """

    def __init__(self, original: Callable, wrapper: Callable) -> None:
        functools.update_wrapper(self, original)
        self.original, self.wrapper = original, wrapper

    def __call__(self, *args: object, **kwargs: object) -> object:
        return self.wrapper(self.original, *args, **kwargs)

    def __deepcopy__(self, memo: dict) -> Callable:
        return copy.deepcopy(self.original, memo)

    def __reduce_ex__(self, protocol: int) -> str | tuple:
        return self.original.__reduce_ex__(protocol)


def refuse_copy(guided: object, *_: object) -> NoReturn:
    """In place of what copies and pickles ask. Raises NAGRuntimeError."""
    raise NAGRuntimeError(
        f"This {type(guided).__name__} is guided, and a copy of it would be broken for good: copy "
        "or pickle it before you enter nag.guide, or after you leave it. Inside, its state_dict() "
        "and save_pretrained() work."
    )


# what `copy` and `pickle` ask an object for, and torch.save with them
COPYING = ("__copy__", "__deepcopy__", "__reduce_ex__")


@contextlib.contextmanager
def wrap_call(owner: object, wrapper: Callable) -> Iterator[None]:
    """Within this context `owner(...)` is `wrapper(original, ...)`; on exit what it was.

    By its class, which is what Python asks for `__call__`, and not by `forward`: there
    torch.compile and the hooks of offloading and of caches put themselves, and pipelines take such
    hooks off and on again after every picture.

    Raises NAGRuntimeError where `owner` is wrapped already.
    """
    cls = type(owner)
    if "_nag_call" in vars(owner):
        raise NAGRuntimeError(
            f"This {cls.__name__} is guided already; leave one nag.guide before you enter the next."
        )
    object.__setattr__(owner, "_nag_call", wrapper)
    object.__setattr__(owner, "__class__", _callable(cls))
    try:
        yield
    finally:
        object.__setattr__(owner, "__class__", cls)
        object.__delattr__(owner, "_nag_call")


@functools.cache  # one for each class: to torch.compile another class is another program
def _callable(cls: type) -> type:
    """A subclass whose `__call__` asks the instance for its wrapper, and which is not copied."""

    @functools.wraps(cls.__call__)
    def call(self, *args, **kwargs):
        # none in a module that was compiled meanwhile, and keeps this function for good
        wrapper = vars(self).get("_nag_call")
        if wrapper is None:
            return cls.__call__(self, *args, **kwargs)
        return wrapper(functools.partial(cls.__call__, self), *args, **kwargs)

    def components(self) -> dict[str, object]:
        if inspect.currentframe().f_back.f_code is cls.from_pipe.__func__.__code__:
            raise NAGRuntimeError(
                f"This {cls.__name__} is guided, and from_pipe would change the dtype of its "
                "parts: make the other pipeline before you enter nag.guide, or after you leave it."
            )
        return cls.components.fget(self)

    same = ("__module__", "__qualname__", "__doc__")
    members = {n: getattr(cls, n) for n in same} | dict.fromkeys(COPYING, refuse_copy)
    if hasattr(cls, "from_pipe"):
        members["components"] = property(components, doc=cls.components.__doc__)
    return type(cls.__name__, (cls,), {"__call__": call} | members)


def own_forward(denoiser: ModelMixin, function: Callable) -> contextlib.AbstractContextManager:
    """Within this context, which is one call, a denoiser runs `function` inside of its hooks.

    accelerate's put its own `forward` aside as `_old_forward`. Always give the same function: to
    torch.compile another one is another program.
    """
    return set_attribute(denoiser, private.own_forward(denoiser), function)
