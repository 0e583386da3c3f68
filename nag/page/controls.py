"""Sliders, lists and fields, and what a preset, a link or a picture's settings put into them."""

import json
from collections.abc import Iterable

import gradio as gr

from ..methods import METHODS
from ..presets import Preset, load_all
from ..request import Request, Value

PRESETS = dict(load_all())
DOCK = ("nag_scale", "nag_tau", "nag_alpha", "num_inference_steps", "guidance_scale")
RIVALS = ("nasa_scale", "ong_scale", "vsf_scale", "vsf_bias", "negpip_scale")
MORE = ("nag_end", "width", "height", "num_frames", *RIVALS)
SLIDERS = (*DOCK, *MORE)
SWITCHES = ("nag_normalisation", "nag_refinement", "batched")
INPUTS = ("preset", "prompt", "negative_prompt", "seed", *SLIDERS, *SWITCHES, "guidance", "fresh")
TEXTS = {  # label, what it does, step
    "num_inference_steps": ("Steps", "per picture", 1),
    "nag_scale": ("NAG scale", "how hard it pushes; 1 is off", 0.1),
    "nag_tau": ("Tau", "ceiling on the push", 0.1),
    "nag_alpha": ("Alpha", "share of it mixed in; 0 is off", 0.01),
    "nag_end": ("NAG until", "share of the steps that are guided", 0.05),
    "guidance_scale": ("CFG scale", "of the CFG column; 1 is off", 0.1),
    "width": ("Width", "px", 1),
    "height": ("Height", "px", 1),
    "num_frames": ("Frames", "of the video", 1),
    "nasa_scale": ("NASA scale", "Z+ less so many times Z-; 0 is off", 0.05),
    "ong_scale": ("ONG scale", "Z+ less what of Z- is orthogonal to it; 0 is off", 0.05),
    "vsf_scale": ("VSF scale", "weight of the flipped values; 0 is off", 0.05),
    "vsf_bias": ("VSF bias", "how much less the negative's words are attended", 0.05),
    "negpip_scale": ("NegPiP weight", "how far below 0 the negative's words count", 0.05),
}


LABELS = {name: label for name, (label, _, _) in TEXTS.items()}


def fill(preset: Preset, request: Request) -> list:
    """Updates for `INPUTS`, then the start image: what the page shows for a preset and settings."""
    return [
        preset.name,
        request.prompt,
        request.negative_prompt,
        request.seed,
        *(slider(preset, name, getattr(request, name), update=True) for name in SLIDERS),
        *(getattr(request, name) for name in SWITCHES),
        in_order(request.guidance),
        request.fresh,
        # a picture of another model's run is no start for this one, and a broken one would stay
        gr.update(visible=True) if preset.image else gr.update(value=None, visible=False),
    ]


def in_order(columns: Iterable[str]) -> list[str]:
    """Columns in the order of `METHODS`, however they were ticked."""
    return [key for key in METHODS if key in columns]


def columns_of(preset: Preset) -> list[str]:
    return list(preset.default("guidance"))


def slider(
    preset: Preset, name: str, value: float | None = None, update: bool = False
) -> gr.Slider | dict:
    """A slider for one setting, with the preset's range; `value` or the preset's own."""
    low, high = preset.range(name)
    label, info, step = TEXTS[name]
    if name in ("width", "height") and high > low:
        info = f"px; made for {preset.default(name)}, other sizes may distort"
    step = {"num_frames": preset.frames, "width": preset.multiple, "height": preset.multiple}.get(
        name, step
    )
    # A setting with one value (a size that a model insists on) is shown and cannot be moved;
    # pictures have no frames to show.
    shown = {
        "info": info,
        "value": preset.default(name) if value is None else value,
        "minimum": low,
        "maximum": max(high, low + 1),
        "step": step,
        "interactive": high > low,
        "visible": name != "num_frames" or high > 1,
    }
    if update:
        return gr.update(**shown)
    kind = ["knob", "nag"] if name.startswith("nag_") else ["knob"]
    return gr.Slider(**shown, label=label, elem_id=name, elem_classes=kind, buttons=[], min_width=0)


def marks(preset: Preset) -> str:
    """A style that notches every slider at the preset's own value."""
    notches = []
    for name in SLIDERS:
        low, high = preset.range(name)
        at = (preset.default(name) - low) / max(high - low, 1e-9)
        notches.append(f"#{name} {{ --mark: {at:.4f}; }}")
    return f"<style>{' '.join(notches)}</style>"


def number(text: str) -> Value:
    """A number out of a link, or the text itself: the validator says no to that."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def listed(preset: Preset, where: str) -> str:
    """A preset's name in the list of models, with its group, size and licence."""
    group = "Video" if preset.fps else "Edit" if preset.image else ""
    known = (group, where, preset.size, preset.licence.partition(",")[0])
    facts = " · ".join(filter(None, known))
    return (
        f"{preset.title}\u2003\u2003\u2003{facts}"  # the closed list has room for the title alone
    )
