"""What programs hand to the API, looked at before it is used: gr.api hands on whatever came."""

import difflib
import functools
import inspect
import types
import typing
from collections.abc import Callable
from typing import Any, Literal, TypeVar

from ..errors import Refused
from ..request import quoted

R = TypeVar("R")
MOST_NAMED = 16
WANTED = {
    str: (str, "text"),
    dict: (dict, "one JSON object"),
    bool: (bool, "true or false"),
    int: ((int, float), "a number"),
    float: ((int, float), "a number"),
}


def check(function: Callable, given: dict[str, Any]) -> None:
    """Raises `Refused` where an argument is not what the function's hints say."""
    hints = typing.get_type_hints(function)
    for name, value in given.items():
        if wanted := _wanted_instead(value, _alternatives(hints[name])):
            raise Refused(f"{name} must be {wanted}, got {quoted(value)}.")


def _alternatives(hint: object) -> tuple:
    """The hints of which one is enough."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if union else (hint,)


def _wanted_instead(value: object, hints: tuple) -> str:
    """In words; empty where the value is right, or may be anything."""
    if value is None and type(None) in hints:
        return ""
    for hint in hints:
        if typing.get_origin(hint) is Literal:
            return "" if value in typing.get_args(hint) else f"one of {_some(hint, value)}"
        if hint in WANTED:
            allowed, words = WANTED[hint]
            number = isinstance(value, bool) and hint is not bool  # to Python true is 1
            return "" if isinstance(value, allowed) and not number else words
    return ""


def _some(choices: object, value: object) -> str:
    """All choices; of many those that are most alike."""
    known = list(map(str, typing.get_args(choices)))
    if len(known) <= MOST_NAMED:
        return ", ".join(known)
    near = difflib.get_close_matches(str(value)[:100], known, 4, 0)
    return f"{len(known)}, such as {', '.join(near)}"


def checked(method: Callable[..., R]) -> Callable[..., R]:
    """The method, whose arguments are looked at."""
    signature = inspect.signature(method)

    @functools.wraps(method)
    def endpoint(*args: Any, **kwargs: Any) -> R:
        check(method, signature.bind(*args, **kwargs).arguments)
        return method(*args, **kwargs)

    return endpoint
