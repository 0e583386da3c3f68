"""The tabs of the rooms, and which of their buttons ask whom."""

from pathlib import Path

import gradio as gr

from ...presets import Preset
from .. import restore
from ..controls import INPUTS
from ..events import QUIET, SOON, TURN
from . import room
from .grids import GridRoom, fields_of
from .voting import VoteRoom
from .xrays import XRayRoom

ROOMS = {"sweep": "Sweep", "seeds": "Seeds", "xray": "X-ray", "vote": "Vote"}


def tabs(preset: Preset) -> dict[str, gr.HTML]:
    """One tab for each room, inside the page's gr.Tabs -> the rooms' components by name."""
    made, start = {}, fields_of(preset)
    for name, label in ROOMS.items():
        with gr.Tab(label, id=name):
            grid = name in ("sweep", "seeds")
            made[name] = room(name, start if grid else {}, "grid" if grid else name)
    return made


def connect(
    demo: gr.Blocks, desk, parts: dict, rooms: dict[str, gr.HTML], votes: Path | None = None
) -> None:
    """desk: the page's handlers, whose engine the rooms use. parts: the page's, by name.
    votes: the owner's file of votes, or None."""
    inputs = [parts[name] for name in INPUTS]
    fields = [*inputs, *(parts[name] for name in ("begin", "marks", "bench", "start", "stop"))]
    grids = {name: GridRoom(desk.engine, name) for name in ("sweep", "seeds")}
    vote = VoteRoom(desk.engine, votes)
    answers = grids | {"xray": XRayRoom(desk.engine), "vote": vote}
    for name, one in rooms.items():
        one.submit(answers[name].draw, inputs, one, api_name=f"{name}_draw", **TURN, **QUIET)
        one.stop(answers[name].halt, None, None, api_name=f"{name}_halt", **SOON)
        one.apply(restore.apply(desk), inputs, fields, api_name=f"{name}_apply", **SOON)
        demo.unload(answers[name].halt)
    for name, grid in grids.items():
        rooms[name].input(grid.plan, inputs, rooms[name], **SOON)
        rooms[name].download(grid.export, inputs, rooms[name], **SOON)
    rooms["vote"].input(vote.answer, None, rooms["vote"], **SOON)
    rooms["vote"].download(vote.export, None, rooms["vote"], **SOON)
