"""The page: what stands where."""

from pathlib import Path

import gradio as gr

from ..engine.engine import Engine
from ..methods import METHODS
from ..presets import Preset
from ..request import DEFAULT, PROMPT_LENGTH
from . import cells, events, machine
from .api import add_api
from .blocks import Page, StartPicture
from .controls import DOCK, MORE, PRESETS, RIVALS, columns_of, listed, marks, slider
from .files import KEEP
from .handlers import PageHandlers
from .rooms import build as rooms
from .rooms import sheets
from .rooms.api import add_api as add_rooms_api

THEME = gr.themes.Base()  # nothing to fetch; colours and type stand in assets/page/tokens.css
HELP = (cells.ASSETS / "bench" / "help.md").read_text("utf-8")
BRAND = "<h1><i aria-hidden='true'></i>NAG side by side</h1>"


def head() -> str:
    """The page's style sheets. Gradio's own rules come later and weigh as much, hence the nesting;
    `launch(css=...)` would rewrite selectors."""
    folder = cells.ASSETS / "page"
    page, _, nested = (folder / "page.css").read_text("utf-8").partition("/* @nest */")
    inner = [nested, (cells.ASSETS / "bench" / "bench.css").read_text("utf-8")]
    inner += [sheet.read_text("utf-8") for sheet in sheets()]
    three = ".gradio-container.gradio-container.gradio-container"
    tokens = (folder / "tokens.css").read_text("utf-8")
    return f"<style>{tokens}{page}{three} {{ {' '.join(inner)} }}</style>"


def bench_of(value: dict) -> gr.HTML:
    """The comparison bench; its value is what `nag.page.cells.value` returns."""
    return gr.HTML(
        value=value,
        elem_id="bench",
        container=False,
        apply_default_css=False,
        html_template=cells.bench_html(),
        js_on_load=cells.bench_script(),
    )


def quiet(label: str, icon: str, *classes: str, **more: str | bool) -> gr.Button:
    """A button without a frame, with an icon of tokens.css; "only" among its classes: no words."""
    return gr.Button(
        label,
        elem_classes=["quiet", "icon", f"i-{icon}", *classes],
        elem_id=more.pop("elem_id", icon),
        scale=0,
        min_width=32,
        **more,
    )


def bar(preset: Preset) -> dict:
    """Name, model, state, and what can be done with a comparison."""
    with gr.Row(elem_id="top"):
        gr.HTML(BRAND, elem_id="brand")
        model = gr.Dropdown(
            [(listed(p, machine.where(p)), name) for name, p in machine.grouped(PRESETS)],
            value=preset.name,
            label="Model",
            elem_id="model",
            interactive=True,
            min_width=0,
            scale=0,
        )
        gr.HTML("<span class='ready' role='status'>Ready</span>", elem_id="state")
        quiet("Copy link", "link", "phone-no")
        quiet("Save", "save", "phone-no")
        quiet("Open", "open", "phone-no")
        quiet("What am I looking at?", "help", "only", "phone-no")
        quiet("Light or dark", "theme", "only")
        quiet("Menu", "menu", "only", "phone-only")
    return {"preset": model, "chosen": gr.Textbox(preset.name, visible=False)}


def words(preset: Preset) -> dict:
    """The two prompts, the picture to begin with, and the two buttons."""
    s = preset.settings
    field = {"lines": 1, "max_lines": 3, "elem_classes": "field", "max_length": PROMPT_LENGTH}
    with gr.Row(elem_id="words"):
        made = {
            "prompt": gr.Textbox(
                s["prompt"], label="Prompt", elem_id="prompt", min_width=0, **field
            ),
            "negative_prompt": gr.Textbox(
                s["negative_prompt"],
                label="Negative prompt: what must not be there",
                elem_id="negative",
                min_width=0,
                **field,
            ),
            "begin": StartPicture(
                sources=["upload", "clipboard"],
                visible=preset.image,
                height=48,
                placeholder="Choose or drop",
                label="Start image",
                elem_id="begin",
                buttons=[],
            ),
            "start": gr.Button("Compare", variant="primary", elem_id="compare", min_width=0),
            "stop": gr.Button(
                "Stop", variant="stop", interactive=False, elem_id="stop", min_width=0
            ),
        }
    return made


def dock(preset: Preset) -> dict:
    """The knobs under the pictures."""
    made = {"marks": gr.HTML(marks(preset), elem_id="marks")}
    with gr.Row(elem_id="dock"):
        made |= {name: slider(preset, name) for name in DOCK}
        made["seed"] = gr.Number(
            preset.settings["seed"],
            label="Seed",
            precision=0,  # its range is checked with all others, in a sentence that names it
            elem_id="seed",
            elem_classes="field",
            min_width=0,
        )
        made["dice"] = quiet("Roll a random seed", "dice", "only")
        made["lock"] = gr.Checkbox(
            True,
            label="Keep the seed",
            elem_id="lock",
            elem_classes="i-lock",
            container=False,
            min_width=0,
            scale=0,
        )
        gr.HTML(
            "<label class='toggle' title='Redraw NAG at once when one of its knobs moves'>"
            "<input type='checkbox' role='switch' checked>Live</label>",
            elem_id="live",
        )
        quiet("More", "more", elem_id="more")
    return made


def more(preset: Preset) -> dict:
    """What is not moved every day."""
    with gr.Sidebar(position="right", open=False, elem_id="side", width=320):
        gr.Markdown("## More settings", elem_id="more-head")
        made = {name: slider(preset, name) for name in MORE if name not in RIVALS}
        made["guidance"] = gr.CheckboxGroup(
            [(method.label, key) for key, method in METHODS.items()],
            label="Columns",
            value=columns_of(preset),
            elem_id="guidance",
        )
        switch = {"container": False, "min_width": 0}
        made["batched"] = gr.Checkbox(
            False, label="Run columns in one batch: faster", elem_id="batched", **switch
        )
        made["fresh"] = gr.Checkbox(False, label="Ignore cached results", elem_id="fresh", **switch)
        with gr.Accordion("For research", open=False, elem_id="research"):
            made["nag_normalisation"] = gr.Checkbox(
                True, label="Bound the norm (tau)", elem_id="nag_normalisation", **switch
            )
            made["nag_refinement"] = gr.Checkbox(
                True, label="Blend (alpha)", elem_id="nag_refinement", **switch
            )
            made |= {name: slider(preset, name) for name in RIVALS}
        gr.HTML("<a href='?view=api'>Use via API</a>", elem_id="use-api")
    return made


def build(
    engine: Engine, first: str = DEFAULT, votes: Path | None = None, results: Path | None = None
) -> Page:
    """The page, with its buttons answered by `PageHandlers`.

    votes: a file to keep votes in. results: the folder of an evaluation, shown as a gallery.
    Raises `Refused` where one of them cannot be read.
    """
    preset = PRESETS[first]
    with Page(
        title="NAG side by side", analytics_enabled=False, delete_cache=(600, KEEP), fill_width=True
    ) as demo:
        parts = bar(preset) | words(preset)
        with gr.Tabs(elem_id="rooms"):
            with gr.Tab("Compare", id="compare"):
                parts["bench"] = bench_of(cells.shipped(first))
                parts["kept"] = gr.HTML(
                    value={},
                    elem_id="kept",
                    html_template="",
                    js_on_load=cells.script("page", "kept"),
                    visible="hidden",
                )
            others = rooms.tabs(preset, results is not None)
        parts |= dock(preset) | more(preset)
        gr.Markdown(HELP, elem_id="about")
        handlers = PageHandlers(engine, demo.audience)
        events.connect(demo, handlers, parts)
        rooms.connect(demo, handlers, parts, others, votes, results)
        add_api(handlers)
        add_rooms_api(handlers, votes)
    return demo
