"""The rooms beside Compare. They share its words, model, seed and knobs."""

import base64
from pathlib import Path

import gradio as gr

from ..cells import ASSETS, script

FOLDER = ASSETS / "rooms"


def template(name: str, example: bool = True) -> str:
    """A room as HTML. example: with the picture of what it draws, where it shows one."""
    html, picture = (FOLDER / f"{name}.html").read_text("utf-8"), ASSETS / f"{name}.webp"
    uri = ""
    if example and picture.exists():
        uri = f"data:image/webp;base64,{base64.b64encode(picture.read_bytes()).decode()}"
    return html.replace("@EXAMPLE@", uri)


def room(name: str, value: dict, *scripts: str) -> gr.HTML:
    """A room's component: the scripts of assets/rooms/ draw `value` into its template."""
    return gr.HTML(
        value=value,
        elem_id=f"room-{name}",
        container=False,
        apply_default_css=False,
        html_template=template(name),
        js_on_load=script("rooms", "base", *scripts),
    )


def sheets() -> list[Path]:
    """The style sheets of the rooms."""
    return sorted(FOLDER.glob("*.css"))
