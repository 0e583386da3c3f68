"""Sliders, chips and lists, and what a preset or a link sets."""

import json

import gradio as gr

from ..errors import Refused
from ..presets import Preset, load_all, resolve
from ..request import DEFAULT, Request
from . import cells

PRESETS = dict(load_all())
CHIPS = 8
SLIDERS = (
    "num_inference_steps",
    "nag_scale",
    "nag_tau",
    "nag_alpha",
    "nag_end",
    "guidance_scale",
    "width",
    "height",
    "num_frames",
    "nasa_scale",
    "vsf_scale",
)
SWITCHES = (
    "nag_normalisation",
    "nag_refinement",
    "batched",
)  # of the first two, off: tau, or alpha, is not used
INPUTS = ("preset", "prompt", "negative_prompt", "seed", *SLIDERS, *SWITCHES, "guidance", "fresh")


def choose(name: str) -> list:
    """Everything on the page that a preset sets: words, sliders, columns, hint, chips, pictures."""
    chosen = PRESETS.get(name, PRESETS[DEFAULT])
    values = chosen.settings
    return [
        values["prompt"],
        values["negative_prompt"],
        gr.update(visible=chosen.image),
        *(slider(chosen, n, update=True) for n in SLIDERS),
        *(default(chosen, n) for n in SWITCHES),
        columns_of(chosen),
        look_for(chosen),
        *(gr.update(value=chip(chosen, i), visible=i < len(chosen.prompts)) for i in range(CHIPS)),
        cells.shipped(name),
    ]


def pick(index: int):
    """The handler of one chip: its prompt pair in the chosen preset."""

    def words(name):
        pairs = PRESETS[name].prompts if name in PRESETS else ()
        return (
            (pairs[index].prompt, pairs[index].negative_prompt)
            if index < len(pairs)
            else (gr.skip(), gr.skip())
        )

    return words


def from_link(request: gr.Request) -> list:
    """?prompt=...&negative_prompt=...&seed=...: each value checked like any other input, the link ignored if it is not valid.

    -> what `choose` gives, then the preset and the seed.
    """
    words = ("preset", "prompt", "negative_prompt")
    raw = {
        key: value if key in words else number(value)
        for key, value in request.query_params.items()
        if key in INPUTS[:-2]
    }
    try:
        chosen, asked = resolve(raw, PRESETS) if raw else (None, None)
    except Refused:
        chosen = None
    if chosen is None:
        return [gr.skip()] * (3 + len(SLIDERS) + len(SWITCHES) + 2 + CHIPS + 1 + 2)
    out = choose(chosen.name)
    out[:2] = asked.prompt, asked.negative_prompt
    for update, name in zip(out[3:], SLIDERS, strict=False):
        update["value"] = getattr(asked, name)
    first = 3 + len(SLIDERS)
    out[first : first + len(SWITCHES)] = (getattr(asked, name) for name in SWITCHES)
    return [*out, chosen.name, asked.seed]


def columns_of(preset: Preset) -> list[str]:
    return list(preset.settings.get("guidance", Request.model_fields["guidance"].default))


def default(preset: Preset, name: str):
    """What a setting is for a preset that is newly chosen."""
    return preset.settings.get(name, Request.model_fields[name].default)


def slider(preset: Preset, name: str, update: bool = False):
    """A slider for one setting, with the preset's range and value."""
    low, high = preset.range(name)
    value = default(preset, name)
    # a setting with one value (a size that a model insists on) is shown and cannot be moved; pictures have no frames to show
    state = {
        "minimum": low,
        "maximum": max(high, low + 1),
        "interactive": high > low,
        "visible": name != "num_frames" or high > 1,
    }
    if name == "num_frames":
        state["step"] = preset.frames
    if update:
        return gr.update(value=value, **state)
    label, info, step = {
        "num_inference_steps": ("Steps", "Denoiser passes per picture", 1),
        "nag_scale": ("NAG scale", "How hard to push away; 1 is off", 0.1),
        "nag_tau": ("Tau", "Ceiling: low is calm, high may burn", 0.1),
        "nag_alpha": ("Alpha", "Mix: 0 un-guided, 1 the full push", 0.01),
        "nag_end": ("NAG until", "Share of the steps that are guided", 0.05),
        "guidance_scale": ("CFG scale", "Strength of the CFG picture; 1 is off", 0.1),
        "width": ("Width", "px", preset.multiple),
        "height": ("Height", "px", preset.multiple),
        "num_frames": ("Frames", "of the video", 1),
        "nasa_scale": ("NASA scale", "Z+ less so many times Z-; 0 is off", 0.05),
        "vsf_scale": ("VSF scale", "Weight of the flipped values; 0 is off", 0.05),
    }[name]
    return gr.Slider(value=value, **{"step": step} | state, label=label, info=info, elem_id=name)


def listed(preset: Preset) -> str:
    """A preset's name in the list."""
    return ("Video · " if preset.fps else "Edit · " if preset.image else "") + preset.title


def number(text: str):
    """A number out of a link, or the text itself: the validator says no to that."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def chip(preset: Preset, index: int) -> str:
    if index >= len(preset.prompts):
        return ""
    pair = preset.prompts[index]
    words = pair.prompt.rstrip(".").removeprefix("portrait of ").removeprefix("Portrait of ")
    return f"{short(words)} − {short(pair.negative_prompt.rstrip('.').lower())}"


def short(text: str, length: int = 22) -> str:
    return text if len(text) <= length else text[: length - 1].rstrip(" ,") + "…"


def phi_text(scale: float) -> str:
    return f"the paper's φ = {scale - 1:.1f}"


def look_for(preset: Preset) -> str:
    return f"**{preset.title}.** {preset.look_for}" + (
        f" {preset.memory}" if preset.memory and not preset.shipped else ""
    )
