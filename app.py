"""NAG side by side: no guidance, CFG and Normalized Attention Guidance on one seed. `python app.py`, then open the page."""

import argparse
import atexit
import html
import json
import logging
import os
import random
import shutil
import tempfile
import threading
import time
import uuid
from pathlib import Path

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

try:  # on a ZeroGPU Space, and before torch touches CUDA
    import spaces
except ImportError:
    spaces = None

import gradio as gr
from gradio.data_classes import FileData

from nag import bench, compare, pipelines, presets, uploads, web

PRESETS = dict(presets.load_all())
log = logging.getLogger("nag")
CHIPS = 8
SLIDERS = ("num_inference_steps", "nag_scale", "nag_tau", "nag_alpha", "nag_end", "guidance_scale", "width", "height", "num_frames",
           "nasa_scale", "vsf_scale")
SWITCHES = ("nag_normalisation", "nag_refinement", "batched")  # of the first two, off: tau, or alpha, is not used
INPUTS = ("preset", "prompt", "negative_prompt", "seed", *SLIDERS, *SWITCHES, "guidance", "fresh")
OUTPUTS = Path(tempfile.mkdtemp(prefix="nag-side-by-side-"))
atexit.register(shutil.rmtree, OUTPUTS, ignore_errors=True)
KEEP = 3600  # seconds that finished pictures stay on disk

FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")  # nothing to fetch
THEME = gr.themes.Default(primary_hue="indigo", neutral_hue="slate", font=FONTS, font_mono=("ui-monospace", "Consolas", "monospace"))

HELP = (bench.ASSETS / "bench" / "help.md").read_text()
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
    """The comparison bench; its value is what `nag.bench.value` returns."""
    folder = bench.ASSETS / "bench"
    return gr.HTML(
        value=value, elem_id="bench", container=False, apply_default_css=False, html_template=(folder / "bench.html").read_text(),
        css_template=(folder / "bench.css").read_text(), js_on_load=(folder / "bench.js").read_text())


class Ticket:
    """What one click asked for: frozen settings, and the way to stop it."""

    def __init__(self, preset, request, image=None):
        self.id, self.preset, self.request, self.image = uuid.uuid4().hex[:12], preset, request, image
        self.stop, self.begun = threading.Event(), False


def on_gpu(function):
    """`spaces.GPU` where there is one: a ZeroGPU Space runs the generator in a process that holds a GPU for that long."""
    return spaces.GPU(duration=120)(function) if spaces else function


class Desk:
    """Answers the page's buttons. One ticket a browser tab; the engine's lock keeps the runs apart.

    `engine` needs only `run(preset, request, stop, run_id, image)` and `busy`: a test may bring its own.
    """

    def __init__(self, engine: compare.Engine):
        self.engine, self.tickets, self.paint = engine, {}, on_gpu(self._paint)

    def prepare(self, request: gr.Request, *values):
        *settings, lock, path = values
        raw = dict(zip(INPUTS, settings, strict=True))
        if not lock:
            raw["seed"] = random.randrange(2**32)
        try:
            preset, asked = presets.resolve(raw, PRESETS)
            ticket = Ticket(preset, asked, uploads.load(path, preset.title) if preset.image else None)
        except presets.Refused as error:
            raise gr.Error(html.escape(str(error), quote=False), print_exception=False) from None  # a toast is HTML
        older = self.tickets.pop(request.session_hash, None)
        if older:
            older.stop.set()
        self.tickets[request.session_hash] = ticket
        waiting = compare.Run(ticket.id, ticket.preset, ticket.request, [
            compare.Column(key, ticket.request.num_inference_steps) for key in ticket.request.guidance])
        hint = "Waiting for another comparison to end." if self.engine.busy else ""
        return bench.value(waiting, {}, {}, hint), gr.update(interactive=False), gr.update(interactive=True), raw["seed"], ticket.id

    def _paint(self, preset, request, run_id, image=None):
        """Bench values, as the run goes on. Arguments and values can be pickled: on ZeroGPU this runs in another process."""
        stop = next((t.stop for t in list(self.tickets.values()) if t.id == run_id), threading.Event())
        run, previews, images, videos, sent = None, {}, {}, {}, 0.0
        try:
            for run, column, preview in self.engine.run(preset, request, stop, run_id, image):
                if preview is not None:
                    previews[column.key] = bench.data_uri(preview)
                for done in run.columns:
                    if done.state == "done" and done.key not in images:
                        images[done.key] = save(run, done)
                    if done.video and done.key not in videos:
                        videos[done.key] = save_video(run, done)
                changed = preview is not None or run.over or column.state != "step" or time.monotonic() - sent > .12
                if changed:
                    sent = time.monotonic()
                    yield bench.value(run, previews, images, None if run.over else "", videos)
        except presets.Refused as error:
            yield ended(run_id, preset, request, str(error))
        except compare.Stopped:
            yield ended(run_id, preset, request, "")
        except Exception as error:
            log.exception("run %s", run_id)
            for column in run.columns if run else ():
                column.state = column.state if column.state == "done" else "failed"
            reason = compare.failure(error, preset)
            yield bench.value(run, previews, images, reason, videos) if run else ended(run_id, preset, request, reason)

    def go(self, ticket_id, request: gr.Request):
        ticket = self.tickets.get(request.session_hash)
        if ticket is None or ticket.id != ticket_id or ticket.begun or ticket.stop.is_set():
            return  # stopped while it waited, or overtaken by a newer click
        ticket.begun = True
        painting = self.paint(ticket.preset, ticket.request, ticket.id, ticket.image)
        for value in painting:
            yield value
            if spaces and ticket.stop.is_set():  # the other process does not see the flag; closing its generator ends it
                painting.close()
                for cell in value["cells"]:
                    cell["state"] = cell["state"] if cell["state"] in ("done", "failed") else "stopped"
                yield value
                return

    def back(self, ticket_id, request: gr.Request):
        ticket = self.tickets.get(request.session_hash)
        if ticket and ticket.id != ticket_id:  # a newer click has the buttons now
            return gr.skip(), gr.skip()
        self.tickets.pop(request.session_hash, None)
        return gr.update(interactive=True), gr.update(interactive=False)

    def halt(self, request: gr.Request):
        ticket = self.tickets.get(request.session_hash)
        if ticket is None:
            return gr.skip(), gr.skip(), gr.skip()
        ticket.stop.set()
        if ticket.begun:  # its own generator paints the end
            return gr.skip(), gr.skip(), gr.skip()
        self.tickets.pop(request.session_hash, None)
        return ended(ticket.id, ticket.preset, ticket.request, ""), gr.update(interactive=True), gr.update(interactive=False)

    def leave(self, request: gr.Request):
        ticket = self.tickets.pop(request.session_hash, None)
        if ticket:
            ticket.stop.set()

    def api(self, settings: dict, image=None):
        """Any subset of the settings as one JSON object, and a picture where the preset begins with one -> (the run, its files in the
        order of `guidance`: PNG, or MP4 of a video)."""
        try:
            preset, request = presets.resolve(settings, PRESETS)
        except presets.Refused as error:
            raise gr.Error(str(error), print_exception=False) from None
        try:
            start = uploads.load(image, preset.title) if preset.image else None
            for run, _, _ in self.engine.run(preset, request, threading.Event(), uuid.uuid4().hex[:12], start):  # noqa: B007
                pass
        except presets.Refused as error:
            raise gr.Error(str(error), print_exception=False) from None
        done = [c for c in run.columns if c.state == "done"]
        return run.json() | {"files": [c.key for c in done]}, [(save_video if c.video else save)(run, c)["path"] for c in done]


def choose(name: str) -> list:
    """Everything on the page that a preset sets: words, sliders, columns, hint, chips, pictures."""
    chosen = PRESETS.get(name, PRESETS[presets.DEFAULT])
    values = chosen.settings
    return [
        values["prompt"], values["negative_prompt"], gr.update(visible=chosen.image),
        *(slider(chosen, n, update=True) for n in SLIDERS), *(default(chosen, n) for n in SWITCHES),
        columns_of(chosen), look_for(chosen),
        *(gr.update(value=chip(chosen, i), visible=i < len(chosen.prompts)) for i in range(CHIPS)), bench.shipped(name)]


def pick(index: int):
    """The handler of one chip: its prompt pair in the chosen preset."""
    def words(name):
        pairs = PRESETS[name].prompts if name in PRESETS else ()
        return (pairs[index].prompt, pairs[index].negative_prompt) if index < len(pairs) else (gr.skip(), gr.skip())
    return words


def from_link(request: gr.Request) -> list:
    """?prompt=...&negative_prompt=...&seed=...: each value checked like any other input, the link ignored if it is not valid.

    -> what `choose` gives, then the preset and the seed.
    """
    words = ("preset", "prompt", "negative_prompt")
    raw = {key: value if key in words else number(value) for key, value in request.query_params.items() if key in INPUTS[:-2]}
    try:
        chosen, asked = presets.resolve(raw, PRESETS) if raw else (None, None)
    except presets.Refused:
        chosen = None
    if chosen is None:
        return [gr.skip()] * (3 + len(SLIDERS) + len(SWITCHES) + 2 + CHIPS + 1 + 2)
    out = choose(chosen.name)
    out[:2] = asked.prompt, asked.negative_prompt
    for update, name in zip(out[3:], SLIDERS, strict=False):
        update["value"] = getattr(asked, name)
    first = 3 + len(SLIDERS)
    out[first:first + len(SWITCHES)] = (getattr(asked, name) for name in SWITCHES)
    return [*out, chosen.name, asked.seed]


def build(engine: compare.Engine, first: str = presets.DEFAULT) -> gr.Blocks:
    """The page: what stands where, and which button asks whom."""
    desk = Desk(engine)
    with gr.Blocks(title="NAG side by side", analytics_enabled=False, delete_cache=(600, KEEP), fill_width=True) as demo:
        with gr.Row(elem_id="head"):
            gr.HTML("<h1>NAG side by side</h1><p>One seed, three ways to say <em>not that</em>: no guidance, classifier-free guidance, "
                    "<a href='https://arxiv.org/abs/2505.21179' target='_blank' rel='noopener'>Normalized Attention Guidance</a>.</p>")
        one = PRESETS[first]
        s = one.settings
        with gr.Row(elem_id="page", equal_height=False):
            with gr.Column(elem_id="left", scale=1, min_width=280):
                with gr.Group(elem_id="words"):
                    prompt = gr.Textbox(s["prompt"], label="Prompt", lines=2, max_length=presets.PROMPT_LENGTH)
                    negative = gr.Textbox(s["negative_prompt"], label="Negative prompt", lines=2, max_length=presets.PROMPT_LENGTH,
                                          info="What the picture must not show")
                    begin = gr.Image(type="filepath", image_mode=None, sources=["upload", "clipboard"], visible=one.image, height=190,
                                     label="Picture to begin with", elem_id="begin", buttons=[])
                with gr.Row(elem_id="go"):
                    start = gr.Button("Compare", variant="primary", elem_id="compare", min_width=120)
                    stop = gr.Button("Stop", variant="stop", interactive=False, elem_id="stop", min_width=80)
                with gr.Column(elem_id="sliders"):
                    preset = gr.Dropdown([(listed(p), name) for name, p in PRESETS.items()], value=first, label="Preset", filterable=False,
                                         elem_id="preset")
                    with gr.Row(elem_id="chips"):
                        chips = [gr.Button(chip(one, i), size="sm", visible=i < len(one.prompts)) for i in range(CHIPS)]
                    with gr.Row(elem_id="seedrow", equal_height=False):
                        seed = gr.Number(s["seed"], label="Seed", precision=0, minimum=0, maximum=2**32 - 1, min_width=110, scale=3)
                        dice = gr.Button("⚄", min_width=44, elem_id="dice", scale=0)
                        lock = gr.Checkbox(True, label="lock", min_width=64, scale=0, container=False, elem_id="lock")
                    sliders = {name: slider(one, name) for name in ("num_inference_steps", "nag_scale")}
                    phi = gr.HTML(phi_text(s["nag_scale"]), elem_id="phi")
                    sliders |= {name: slider(one, name) for name in ("nag_tau", "nag_alpha")}
                    with gr.Accordion("More: CFG scale, NAG until, size, ablation, columns", open=False):
                        sliders |= {name: slider(one, name) for name in SLIDERS[4:-2]}
                        switches = {
                            "nag_normalisation": gr.Checkbox(True, label="Bound the norm (tau)", elem_id="nag_normalisation",
                                                             info="The paper's normalisation"),
                            "nag_refinement": gr.Checkbox(True, label="Blend (alpha)", elem_id="nag_refinement",
                                                          info="The paper's refinement")}
                        columns = gr.CheckboxGroup([(compare.LABELS[key], key) for key in presets.GUIDANCE], label="Columns",
                                                   value=columns_of(one))
                        with gr.Accordion("Rival methods, for research", open=False):
                            sliders |= {name: slider(one, name) for name in SLIDERS[-2:]}
                        switches["batched"] = gr.Checkbox(False, label="Draw columns together", elem_id="batched",
                                                          info="Faster, but none has a time of its own")
                        fresh = gr.Checkbox(False, label="Run every column anew", info="Else finished ones are shown again", elem_id="fresh")
            with gr.Column(elem_id="right", scale=4, min_width=320):
                pictures = bench_of(bench.shipped(first))
                look = gr.Markdown(look_for(one), elem_id="look")
                with gr.Accordion("What am I looking at, and what do tau and alpha do?", open=False, elem_id="help"):
                    gr.Markdown(HELP)

        inputs = [preset, prompt, negative, seed, *(sliders[name] for name in SLIDERS), *switches.values(), columns, fresh, lock, begin]
        fields = [prompt, negative, begin, *(sliders[name] for name in SLIDERS), *switches.values(), columns, look, *chips, pictures]
        ticket = gr.Textbox(visible=False)  # travels with the click, unlike a gr.State, which is read when the queue gets there
        quiet = {"show_progress": "hidden", "api_visibility": "private"}
        now = quiet | {"queue": False}
        turn = {"concurrency_id": "engine", "concurrency_limit": 1}
        start.click(desk.prepare, inputs, [pictures, start, stop, seed, ticket], concurrency_limit=None, **quiet).success(
            desk.go, ticket, pictures, **turn, **quiet).then(desk.back, ticket, [start, stop], **now)
        stop.click(desk.halt, None, [pictures, start, stop], **now)
        demo.unload(desk.leave)
        dice.click(None, None, seed, js="() => Math.floor(Math.random() * 4294967296)", **quiet)
        sliders["nag_scale"].change(None, sliders["nag_scale"], phi, js="scale => 'the paper\\'s φ = ' + (scale - 1).toFixed(1)", **quiet)
        for switch, moved in (("nag_normalisation", "nag_tau"), ("nag_refinement", "nag_alpha")):
            switches[switch].change(lambda on: gr.update(interactive=on), switches[switch], sliders[moved], **now)
        preset.input(choose, preset, fields, **now)
        for index, button in enumerate(chips):
            button.click(pick(index), preset, [prompt, negative], **now)
        demo.load(from_link, None, [*fields, preset, seed], **now)
        with gr.Row(visible=False):
            settings, picture, result, files = gr.JSON(), gr.Image(type="filepath", image_mode=None), gr.JSON(), gr.Files()
            gr.Button().click(desk.api, settings, [result, files], api_name="compare", **turn)
            gr.Button().click(desk.api, [settings, picture], [result, files], api_name="compare_from_image", **turn)
    return demo


def columns_of(preset: presets.Preset) -> list[str]:
    return list(preset.settings.get("guidance", presets.Request.model_fields["guidance"].default))


def default(preset: presets.Preset, name: str):
    """What a setting is for a preset that is newly chosen."""
    return preset.settings.get(name, presets.Request.model_fields[name].default)


def slider(preset: presets.Preset, name: str, update: bool = False):
    """A slider for one setting, with the preset's range and value."""
    low, high = preset.range(name)
    value = default(preset, name)
    # a setting with one value (a size that a model insists on) is shown and cannot be moved; pictures have no frames to show
    state = {"minimum": low, "maximum": max(high, low + 1), "interactive": high > low, "visible": name != "num_frames" or high > 1}
    if name == "num_frames":
        state["step"] = preset.frames
    if update:
        return gr.update(value=value, **state)
    label, info, step = {
        "num_inference_steps": ("Steps", "Denoiser passes per picture", 1),
        "nag_scale": ("NAG scale", "How hard to push away; 1 is off", .1),
        "nag_tau": ("Tau", "Ceiling: low is calm, high may burn", .1),
        "nag_alpha": ("Alpha", "Mix: 0 un-guided, 1 the full push", .01),
        "nag_end": ("NAG until", "Share of the steps that are guided", .05),
        "guidance_scale": ("CFG scale", "Strength of the CFG picture; 1 is off", .1),
        "width": ("Width", "px", preset.multiple),
        "height": ("Height", "px", preset.multiple),
        "num_frames": ("Frames", "of the video", 1),
        "nasa_scale": ("NASA scale", "Z+ less so many times Z-; 0 is off", .05),
        "vsf_scale": ("VSF scale", "Weight of the flipped values; 0 is off", .05),
    }[name]
    return gr.Slider(value=value, **{"step": step} | state, label=label, info=info, elem_id=name)


def listed(preset: presets.Preset) -> str:
    """A preset's name in the list."""
    return ("Video · " if preset.fps else "Edit · " if preset.image else "") + preset.title


def number(text: str):
    """A number out of a link, or the text itself: the validator says no to that."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def chip(preset: presets.Preset, index: int) -> str:
    if index >= len(preset.prompts):
        return ""
    pair = preset.prompts[index]
    words = pair.prompt.rstrip(".").removeprefix("portrait of ").removeprefix("Portrait of ")
    return f"{short(words)} − {short(pair.negative_prompt.rstrip('.').lower())}"


def short(text: str, length: int = 22) -> str:
    return text if len(text) <= length else text[:length - 1].rstrip(" ,") + "…"


def phi_text(scale: float) -> str:
    return f"the paper's φ = {scale - 1:.1f}"


def look_for(preset: presets.Preset) -> str:
    return f"**{preset.title}.** {preset.look_for}" + (f" {preset.memory}" if preset.memory and not preset.shipped else "")


def save(run: compare.Run, column: compare.Column) -> dict:
    """Writes a finished picture as PNG (level 1: four times faster, a tenth larger) and returns it as Gradio's FileData."""
    for old in OUTPUTS.glob("*.*"):
        if time.time() - old.stat().st_mtime > KEEP:
            old.unlink(missing_ok=True)
    path = OUTPUTS / f"{run.id}-{column.key}.png"
    column.image.save(path, compress_level=1)
    return FileData(path=str(path), mime_type="image/png", orig_name=path.name).model_dump()


def save_video(run: compare.Run, column: compare.Column) -> dict:
    path = OUTPUTS / f"{run.id}-{column.key}.mp4"
    path.write_bytes(column.video)
    return FileData(path=str(path), mime_type="video/mp4", orig_name=path.name).model_dump()


def ended(run_id: str, preset, request, reason: str) -> dict:
    """The bench after a run that ended as a whole: the reason once, under it."""
    state = "failed" if reason else "stopped"
    run = compare.Run(run_id, preset, request, [compare.Column(key, request.num_inference_steps, state) for key in request.guidance])
    return bench.value(run, {}, {}, reason)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default=os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"))
    parser.add_argument("--port", type=int, default=int(os.environ.get("GRADIO_SERVER_PORT", "7860")))
    parser.add_argument("--preset", default=presets.DEFAULT, choices=list(PRESETS))
    parser.add_argument("--model", help="a local folder or a repository on the hub, loaded in place of the preset's own model")
    arguments = parser.parse_args()
    if arguments.model:
        PRESETS[arguments.preset] = PRESETS[arguments.preset].with_model(arguments.model)
    demo = build(compare.Engine(), arguments.preset)
    launch(demo, arguments.host, arguments.port)


def launch(demo: gr.Blocks, host: str, port: int, **options):
    from starlette.middleware import Middleware

    # bound to this machine only, the page answers to its names only: no foreign page can reach it by rebinding its own
    local = {"127.0.0.1", "localhost", "::1"}
    hosts = local if host in local and not os.environ.get("SPACE_ID") else None
    demo.queue(max_size=20).launch(
        server_name=host, server_port=port, css=CSS, theme=THEME, show_error=False,
        allowed_paths=[], app_kwargs={"middleware": [Middleware(web.Gate, hosts=hosts)]}, run_history=False, enable_monitoring=False,
        footer_links=["api"], share=False, prevent_thread_lock=True, **options)
    pipelines.import_libraries()  # while the page is looked at: the first Compare finds them there
    demo.block_thread()


if __name__ == "__main__":
    main()
