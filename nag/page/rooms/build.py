"""The tabs of the rooms, and which of their buttons ask whom."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import gradio as gr

from ...presets import Preset
from .. import restore
from ..controls import INPUTS
from ..events import ONCE, QUIET, SOON, TURN
from . import room
from .gallery import GalleryRoom
from .grids import GridRoom, fields_of
from .voting import VoteRoom
from .xrays import XRayRoom

if TYPE_CHECKING:
    from ..handlers import PageHandlers

GALLERY = "gallery"
TO_COMPARE = """() => [...document.querySelectorAll('#rooms [role=tab]')][0].click()"""
ROOMS = {"sweep": "Sweep", "seeds": "Seeds", "xray": "X-ray", "vote": "Vote"}


def tabs(preset: Preset, gallery: bool = False) -> dict[str, gr.HTML]:
    """One tab for each room, inside the page's gr.Tabs -> the rooms' components by name."""
    made, start = {}, fields_of(preset)
    for name, label in ROOMS.items():
        with gr.Tab(label, id=name):
            grid = name in ("sweep", "seeds")
            made[name] = room(name, start if grid else {}, "grid" if grid else name)
    if gallery:
        with gr.Tab("Gallery", id=GALLERY):
            made[GALLERY] = room(GALLERY, {}, GALLERY)
    return made


def connect(
    demo: gr.Blocks,
    handlers: PageHandlers,
    parts: dict,
    rooms: dict[str, gr.HTML],
    votes: Path | None = None,
    results: Path | None = None,
) -> None:
    """handlers: the page's handlers, with the rooms' engine. parts: the page's, by name.
    votes: the owner's file of votes, or None. results: an evaluation's folder, or None."""
    inputs = [parts[name] for name in INPUTS]
    asked = [*inputs, parts["begin"]]
    fields = restore.fields(parts)
    grids = {name: GridRoom(handlers.rooms, name) for name in ("sweep", "seeds")}
    vote = VoteRoom(handlers.rooms, votes)
    answers = grids | {"xray": XRayRoom(handlers.rooms), "vote": vote}
    for name, answer in answers.items():
        one = rooms[name]
        drawn = one.submit(answer.draw, asked, one, api_name=f"{name}_draw", **TURN, **QUIET)
        drawn.failure(answer.ended, None, one, **SOON)
        one.stop(answer.halt, None, None, api_name=f"{name}_halt", **SOON)
        one.apply(restore.apply(handlers), inputs, fields, api_name=f"{name}_apply", **SOON)
        demo.unload(answer.halt)
    for name, grid in grids.items():
        rooms[name].input(grid.plan, asked, rooms[name], **SOON)
        rooms[name].download(grid.export, asked, rooms[name], **SOON)
    rooms["xray"].download(answers["xray"].export, asked, rooms["xray"], **SOON)
    rooms["vote"].input(vote.answer, None, rooms["vote"], **ONCE)
    rooms["vote"].download(vote.export, None, rooms["vote"], **SOON)
    if results is not None:
        gallery, room_ = GalleryRoom(handlers, results), rooms[GALLERY]
        room_.input(gallery.page, None, room_, **SOON)
        room_.select(gallery.open, None, fields, **SOON).success(
            None, None, None, js=TO_COMPARE, **QUIET
        )
