"""What puts settings into the page's fields: a preset, an example, a link, a picture, a reload."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import TYPE_CHECKING

import gradio as gr

from .. import private
from ..errors import Refused
from ..media import metadata
from ..presets import Preset, resolve
from ..request import Request
from . import cells
from .controls import INPUTS, PRESETS, fill, in_order, marks, number
from .link import WORDS

if TYPE_CHECKING:
    from .handlers import PageHandlers

IDLE = (gr.update(interactive=True), gr.update(interactive=False))  # Compare, Stop


def shown(preset: Preset, request: Request) -> list:
    """Updates for all of `fields`."""
    return [*fill(preset, request), marks(preset), cells.shipped(preset.name), *IDLE, preset.name]


def nothing(count: int) -> list:
    return [gr.skip()] * count


# the start picture, the notches, the bench, Compare, Stop, and whose settings are in the fields
BESIDE = "begin", "marks", "bench", "start", "stop", "chosen"
FIELDS, BENCH = len(INPUTS) + len(BESIDE), len(INPUTS) + BESIDE.index("bench")


def fields(parts: dict) -> list:
    """What is set when settings come from somewhere. parts: the page's, by name."""
    return [parts[name] for name in (*INPUTS, *BESIDE)]


def choose(handlers: PageHandlers) -> Callable:
    """The handler of the list of models: a preset's own words, settings, seed and sample. A run
    that still draws for the one before is told to stop, and paints no more.

    The one that is set already changes nothing: the list may only have been passed.
    """

    def handler(name, chosen, request: gr.Request):
        if name == chosen:
            return nothing(FIELDS)
        handlers.leave(request)
        asked = name if name in PRESETS else next(iter(PRESETS))
        return shown(*resolve({"preset": asked}, PRESETS))

    return handler


def apply(handlers: PageHandlers) -> Callable:
    """The handler of whatever sets several fields at once: examples, next moves, earlier runs,
    pictures that were opened, texts that were pasted. The event carries {"set": settings} or
    {"text": a picture's texts by name, or {"pasted": text}}."""

    def handler(event: gr.EventData, request: gr.Request, *values):
        now = dict(zip(INPUTS, values, strict=True))
        data = private.event_data(event)
        try:
            asked = data.get("set") or metadata.settings_in(data.get("text") or {})
            whole = "preset" in asked and (data.get("text") or asked["preset"] != now["preset"])
            kept = {k: v for k, v in asked.items() if k in INPUTS}
            if data.get("text"):
                kept = fitting({} if whole else now, kept)
            preset, made = resolve(kept if whole else now | kept, PRESETS)
        except Refused:
            if data.get("quiet"):  # what an older version of the page has left behind
                return nothing(FIELDS)
            raise
        if preset.name != now["preset"]:
            handlers.leave(request)
            return shown(preset, made)
        return [*fill(preset, made), *nothing(len(BESIDE) - 1)]

    return handler


def fitting(now: dict, asked: dict) -> dict:
    """Those of another tool's settings that this model can have; the others are named in a toast.

    now: the settings that stay. Raises `Refused` where none fits.
    """
    try:
        resolve(now | asked, PRESETS)
        return asked
    except Refused:
        kept, left = {}, []
    for name, value in sorted(asked.items(), key=lambda item: item[0] != "preset"):
        try:
            resolve(now | kept | {name: value}, PRESETS)
            kept[name] = value
        except Refused as error:
            left.append(str(error))
    if not kept:
        raise Refused(left[0])
    more = f" And {len(left) - 1} more." if len(left) > 1 else ""
    gr.Warning(html.escape(f"Left aside: {left[0]}{more}", quote=False))
    return kept


def from_link(request: gr.Request) -> list:
    """?prompt=...&negative_prompt=...&seed=...: checked like any other input. The bench is told
    which fields it asked for, and knows from that when they are there."""
    raw = {
        key: value if key in WORDS else number(value)
        for key, value in request.query_params.items()
        if key in INPUTS
    }
    if not raw:
        return nothing(FIELDS)
    try:
        preset, asked = resolve(raw, PRESETS)
        found = shown(preset, asked)
        linked = asked.model_dump(mode="json") | {"guidance": in_order(asked.guidance)}
        found[BENCH] = found[BENCH] | {"linked": linked}
        return found
    except Refused as error:
        gr.Warning(html.escape(f"The link was left aside: {error}", quote=False))
        return nothing(FIELDS)
