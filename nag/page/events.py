"""Which part of the page asks whom."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import gradio as gr

from . import restore
from .blocks import ENGINE, Page
from .controls import INPUTS

if TYPE_CHECKING:
    from .handlers import PageHandlers

QUIET = {"show_progress": "hidden", "api_visibility": "private"}
# Never queue=False: that is a way past the gate. And Gradio would drop, in silence, what is asked
# again while an answer is on its way.
SOON = QUIET | {"concurrency_limit": None, "trigger_mode": "multiple"}
ONCE = SOON | {"trigger_mode": "once"}  # where two clicks are meant as one
TURN = {"concurrency_id": ENGINE, "concurrency_limit": 1}
TELL = "(...values) => { window.nagSettings = values; dispatchEvent(new Event('nag-settings')); }"
APPLIED = "() => {{ dispatchEvent(new CustomEvent('nag-applied', {{ detail: {} }})); }}"
DICE = "() => Math.floor(Math.random() * 4294967296)"


def connect(demo: Page, handlers: PageHandlers, parts: dict) -> None:
    """Wires the page's parts (by the names of `controls.INPUTS`, and their own) to the handlers."""
    inputs = [parts[name] for name in INPUTS]
    bench, start, stop = parts["bench"], parts["start"], parts["stop"]
    fields = restore.fields(parts)
    # travels with the click, unlike a gr.State, which is read when the queue gets there
    click_id = gr.Textbox(visible=False)

    def run(event, prepare, asking):
        outputs = [bench, start, stop, parts["seed"], click_id]
        asked = event(prepare, [*inputs, parts["lock"], parts["begin"]], outputs, **asking)
        # a newer click waits for its turn while the older one still draws
        drawn = asked.success(
            handlers.go, click_id, bench, trigger_mode="multiple", **TURN, **QUIET
        )
        # without its number: by now it may be a newer click's
        drawn.success(handlers.back, None, [start, stop], **SOON)
        drawn.failure(handlers.refused, click_id, [start, stop], **SOON)

    run(start.click, handlers.prepare, ONCE)
    run(bench.submit, redraw(handlers), SOON)  # a knob was released
    run(
        bench.select(restore.apply(handlers), inputs, fields, **SOON).success,
        redraw(handlers),
        SOON,
    )
    # settings alone, nothing is drawn
    applied = bench.input(restore.apply(handlers), inputs, fields, **SOON)
    applied.success(None, None, None, js=APPLIED.format("true"), **QUIET)
    applied.failure(None, None, None, js=APPLIED.format("false"), **QUIET)
    bench.like(handlers.keeper.answer, None, parts["kept"], **SOON)  # a file is to be made
    # Gradio says so, too, when the list is only passed
    asked = parts["preset"], parts["chosen"]
    parts["preset"].input(restore.choose(handlers), asked, fields, **SOON)
    stop.click(handlers.halt, None, [bench, start, stop], **SOON)
    demo.unload(handlers.leave)
    demo.load(restore.from_link, None, fields, **SOON)
    parts["dice"].click(None, None, parts["seed"], js=DICE, **QUIET)
    for switch, moved in (("nag_normalisation", "nag_tau"), ("nag_refinement", "nag_alpha")):
        parts[switch].change(
            lambda on: gr.update(interactive=on), parts[switch], parts[moved], **SOON
        )
    changes = [demo.load, *(one.change for one in inputs)]
    gr.on(changes, None, inputs, None, js=TELL, **QUIET)


def redraw(handlers: PageHandlers) -> Callable:
    """`handlers.prepare` with the seed as it stands, and every column that is there already."""

    def handler(request: gr.Request, *values):
        *settings, _, begin = values
        settings[INPUTS.index("fresh")] = False
        return handlers.prepare(request, *settings, True, begin)

    return handler
