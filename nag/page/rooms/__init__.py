"""The rooms beside Compare. They share its words, model, seed and knobs."""

from pathlib import Path

import gradio as gr

from ..cells import ASSETS, script

FOLDER = ASSETS / "rooms"


def room(name: str, value: dict, *scripts: str) -> gr.HTML:
    """A room's component: the scripts of assets/rooms/ draw `value` into its template."""
    return gr.HTML(
        value=value,
        elem_id=f"room-{name}",
        container=False,
        apply_default_css=False,
        html_template=(FOLDER / f"{name}.html").read_text(encoding="utf-8"),
        js_on_load=script("rooms", "base", *scripts),
    )


def sheets() -> list[Path]:
    """The style sheets of the rooms."""
    return sorted(FOLDER.glob("*.css"))
