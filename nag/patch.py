"""Replaced, placed and wrapped calls, given back on exit."""

import contextlib
import copy
import functools

from .errors import NAGRuntimeError


def wrap_method(owner, name: str, wrapper):
    """`owner.name` is `wrapper(original, ...)` for a while."""
    original = getattr(owner, name)

    @functools.wraps(original)
    def call(*args, **kwargs):
        return wrapper(original, *args, **kwargs)

    return set_attribute(owner, name, call)


@contextlib.contextmanager
def set_attribute(owner, name: str, value):
    """`owner.name` is `value` for a while. A method is shadowed on the instance, and the shadow removed."""
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
    """A method led through `wrapper(original, ...)`. Pipelines deep-copy their scheduler (one for the sound, or one a frame): a copy gets
    its own method back, where a plain function would go on changing the state of the original."""

    def __init__(self, original, wrapper):
        functools.update_wrapper(self, original)
        self.original, self.wrapper = original, wrapper

    def __call__(self, *args, **kwargs):
        return self.wrapper(self.original, *args, **kwargs)

    def __deepcopy__(self, memo):
        return copy.deepcopy(self.original, memo)


@contextlib.contextmanager
def wrap_call(owner, wrapper):
    """`owner(...)` is `wrapper(original, ...)` for a while.

    By its class, which `type(owner)(...)` asks, and not by `forward`: that is where torch.compile and the hooks of offloading and
    of caches put themselves, and pipelines take such hooks off and on again after every picture.
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
def _callable(cls):
    @functools.wraps(cls.__call__)
    def call(self, *args, **kwargs):
        wrapper = vars(self).get(
            "_nag_call"
        )  # a module compiled meanwhile keeps this function for good
        return (
            cls.__call__(self, *args, **kwargs)
            if wrapper is None
            else wrapper(functools.partial(cls.__call__, self), *args, **kwargs)
        )

    return type(
        cls.__name__,
        (cls,),
        {
            "__call__": call,
            "__module__": cls.__module__,
            "__qualname__": cls.__qualname__,
            "__doc__": cls.__doc__,
        },
    )


def own_forward(denoiser, function):
    """`function` is what a denoiser runs inside of its hooks: accelerate's put its `forward` aside as `_old_forward`. For one call, and
    always with the same function: torch.compile would take another one for another program."""
    return set_attribute(
        denoiser, "_old_forward" if "_old_forward" in vars(denoiser) else "forward", function
    )
