"""The page: what stands where, and which button asks whom."""

import gradio as gr

from ..engine.engine import Engine
from ..methods import METHODS
from ..request import DEFAULT, PROMPT_LENGTH
from . import cells
from .blocks import ENGINE, Page, StartPicture
from .controls import (
    CHIPS,
    PRESETS,
    SLIDERS,
    chip,
    choose,
    columns_of,
    from_link,
    listed,
    look_for,
    phi_text,
    pick,
    slider,
)
from .files import KEEP
from .handlers import PageHandlers

FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")  # nothing to fetch
THEME = gr.themes.Default(
    primary_hue="indigo",
    neutral_hue="slate",
    font=FONTS,
    font_mono=("ui-monospace", "Consolas", "monospace"),
)
HELP = (cells.ASSETS / "bench" / "help.md").read_text("utf-8")
CSS = """
.gradio-container { max-width: 1500px !important; padding-top: 12px !important; }
#head h1 { font-size: 21px; margin: 0; } #head p { margin: 2px 0 0; color: var(--body-text-color-subdued); }
#go { position: sticky; top: 0; z-index: 20; background: var(--body-background-fill); padding: 8px 0; }
#chips { gap: 6px; flex-wrap: wrap; } #chips button { flex: 0 1 auto; min-width: 0; font-weight: 400; padding: 4px 10px; }
#phi { font-size: 12px; color: var(--body-text-color-subdued); margin-top: -8px; }
#seedrow { align-items: end; gap: 10px; } #dice { height: 42px; font-size: 20px; padding: 0; margin-bottom: 10px; }
#lock { margin-bottom: 20px; }
@media (min-width: 900px) { #left { max-width: 340px; } }
@media (max-width: 899px) { #page { flex-direction: column; } #left, #right { display: contents; } #page > * { width: 100%; }
  #words, #go { order: 1; } #right { order: 2; } #bench { order: 2; } #look { order: 2; } #sliders { order: 3; } #help { order: 4; } }
.prose a { padding: 0 !important; }  /* Gradio makes buttons of links */
footer { margin-top: 18px !important; }
"""


def bench_of(value: dict) -> gr.HTML:
    """The comparison bench; its value is what `nag.page.cells.value` returns."""
    folder = cells.ASSETS / "bench"
    return gr.HTML(
        value=value,
        elem_id="bench",
        container=False,
        apply_default_css=False,
        html_template=(folder / "bench.html").read_text("utf-8"),
        css_template=(folder / "bench.css").read_text("utf-8"),
        js_on_load=(folder / "bench.js").read_text("utf-8"),
    )


def build(engine: Engine, first: str = DEFAULT) -> Page:
    """The page: what stands where, and which button asks whom."""
    with Page(
        title="NAG side by side", analytics_enabled=False, delete_cache=(600, KEEP), fill_width=True
    ) as demo:
        desk = PageHandlers(engine, demo.audience)
        with gr.Row(elem_id="head"):
            gr.HTML(
                "<h1>NAG side by side</h1><p>One seed, three ways to say <em>not that</em>: no guidance, classifier-free guidance, "
                "<a href='https://arxiv.org/abs/2505.21179' target='_blank' rel='noopener'>Normalized Attention Guidance</a>.</p>"
            )
        one = PRESETS[first]
        s = one.settings
        with gr.Row(elem_id="page", equal_height=False):
            with gr.Column(elem_id="left", scale=1, min_width=280):
                with gr.Group(elem_id="words"):
                    prompt = gr.Textbox(
                        s["prompt"], label="Prompt", lines=2, max_length=PROMPT_LENGTH
                    )
                    negative = gr.Textbox(
                        s["negative_prompt"],
                        label="Negative prompt",
                        lines=2,
                        max_length=PROMPT_LENGTH,
                        info="What the picture must not show",
                    )
                    begin = StartPicture(
                        sources=["upload", "clipboard"],
                        visible=one.image,
                        height=190,
                        label="Picture to begin with",
                        elem_id="begin",
                        buttons=[],
                    )
                with gr.Row(elem_id="go"):
                    start = gr.Button(
                        "Compare", variant="primary", elem_id="compare", min_width=120
                    )
                    stop = gr.Button(
                        "Stop", variant="stop", interactive=False, elem_id="stop", min_width=80
                    )
                with gr.Column(elem_id="sliders"):
                    preset = gr.Dropdown(
                        [(listed(p), name) for name, p in PRESETS.items()],
                        value=first,
                        label="Preset",
                        filterable=False,
                        elem_id="preset",
                    )
                    with gr.Row(elem_id="chips"):
                        chips = [
                            gr.Button(chip(one, i), size="sm", visible=i < len(one.prompts))
                            for i in range(CHIPS)
                        ]
                    with gr.Row(elem_id="seedrow", equal_height=False):
                        seed = gr.Number(
                            s["seed"],
                            label="Seed",
                            precision=0,
                            minimum=0,
                            maximum=2**32 - 1,
                            min_width=110,
                            scale=3,
                        )
                        dice = gr.Button("⚄", min_width=44, elem_id="dice", scale=0)
                        lock = gr.Checkbox(
                            True,
                            label="lock",
                            min_width=64,
                            scale=0,
                            container=False,
                            elem_id="lock",
                        )
                    sliders = {
                        name: slider(one, name) for name in ("num_inference_steps", "nag_scale")
                    }
                    phi = gr.HTML(phi_text(s["nag_scale"]), elem_id="phi")
                    sliders |= {name: slider(one, name) for name in ("nag_tau", "nag_alpha")}
                    with gr.Accordion(
                        "More: CFG scale, NAG until, size, ablation, columns", open=False
                    ):
                        sliders |= {name: slider(one, name) for name in SLIDERS[4:-2]}
                        switches = {
                            "nag_normalisation": gr.Checkbox(
                                True,
                                label="Bound the norm (tau)",
                                elem_id="nag_normalisation",
                                info="The paper's normalisation",
                            ),
                            "nag_refinement": gr.Checkbox(
                                True,
                                label="Blend (alpha)",
                                elem_id="nag_refinement",
                                info="The paper's refinement",
                            ),
                        }
                        columns = gr.CheckboxGroup(
                            [(method.label, key) for key, method in METHODS.items()],
                            label="Columns",
                            value=columns_of(one),
                        )
                        with gr.Accordion("Rival methods, for research", open=False):
                            sliders |= {name: slider(one, name) for name in SLIDERS[-2:]}
                        switches["batched"] = gr.Checkbox(
                            False,
                            label="Draw columns together",
                            elem_id="batched",
                            info="Faster, but none has a time of its own",
                        )
                        fresh = gr.Checkbox(
                            False,
                            label="Run every column anew",
                            info="Else finished ones are shown again",
                            elem_id="fresh",
                        )
            with gr.Column(elem_id="right", scale=4, min_width=320):
                pictures = bench_of(cells.shipped(first))
                look = gr.Markdown(look_for(one), elem_id="look")
                with gr.Accordion(
                    "What am I looking at, and what do tau and alpha do?",
                    open=False,
                    elem_id="help",
                ):
                    gr.Markdown(HELP)

        inputs = [
            preset,
            prompt,
            negative,
            seed,
            *(sliders[name] for name in SLIDERS),
            *switches.values(),
            columns,
            fresh,
            lock,
            begin,
        ]
        fields = [
            prompt,
            negative,
            begin,
            *(sliders[name] for name in SLIDERS),
            *switches.values(),
            columns,
            look,
            *chips,
            pictures,
        ]
        ticket = gr.Textbox(
            visible=False
        )  # travels with the click, unlike a gr.State, which is read when the queue gets there
        quiet = {"show_progress": "hidden", "api_visibility": "private"}
        now = quiet | {"concurrency_limit": None}  # never queue=False: that is a way past the gate
        turn = {"concurrency_id": ENGINE, "concurrency_limit": 1}
        start.click(
            desk.prepare,
            inputs,
            [pictures, start, stop, seed, ticket],
            concurrency_limit=None,
            **quiet,
        ).success(desk.go, ticket, pictures, **turn, **quiet).then(
            desk.back, ticket, [start, stop], **now
        )
        stop.click(desk.halt, None, [pictures, start, stop], **now)
        demo.unload(desk.leave)
        dice.click(None, None, seed, js="() => Math.floor(Math.random() * 4294967296)", **quiet)
        sliders["nag_scale"].change(
            None,
            sliders["nag_scale"],
            phi,
            js="scale => 'the paper\\'s φ = ' + (scale - 1).toFixed(1)",
            **quiet,
        )
        for switch, moved in (("nag_normalisation", "nag_tau"), ("nag_refinement", "nag_alpha")):
            switches[switch].change(
                lambda on: gr.update(interactive=on), switches[switch], sliders[moved], **now
            )
        preset.input(choose, preset, fields, **now)
        for index, button in enumerate(chips):
            button.click(pick(index), preset, [prompt, negative], **now)
        demo.load(from_link, None, [*fields, preset, seed], **now)
        with gr.Row(visible=False):
            settings, picture, result, files = (
                gr.JSON(),
                StartPicture(),
                gr.JSON(),
                gr.Files(),
            )
            gr.Button().click(desk.api, settings, [result, files], api_name="compare", **turn)
            gr.Button().click(
                desk.api,
                [settings, picture],
                [result, files],
                api_name="compare_from_image",
                **turn,
            )
    return demo
