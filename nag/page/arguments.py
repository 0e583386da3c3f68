"""What programs hand to the API, looked at before it is used: gr.api hands on whatever came."""

import difflib
import functools
import inspect
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
        kinds = typing.get_args(hints[name])
        if value is None and type(None) in kinds:
            continue
        choices = next((one for one in (hints[name], *kinds) if _chosen(one)), None)
        if choices is not None and value not in typing.get_args(choices):
            raise Refused(f"{name} must be one of {_some(choices, value)}, got {quoted(value)}.")
        kind = next((one for one in (hints[name], *kinds) if one in WANTED), None)
        if choices is not None or kind is None:
            continue
        allowed, words = WANTED[kind]
        if not isinstance(value, allowed) or (kind is not bool and isinstance(value, bool)):
            raise Refused(f"{name} must be {words}, got {quoted(value)}.")


def _chosen(hint: object) -> bool:
    return typing.get_origin(hint) is Literal


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
