"""What the page says before Compare of a model that does not fit this machine."""

from pathlib import Path

from PIL import Image

from ..home import ASSETS
from ..presets import Preset, load_all
from . import machine
from .inline import data_uri

NEAREST = {"joint": "pocket-joint", "video": "pocket-video", "cross": "pocket-portrait"}
JOINT = ("flux", "sd35", "qwen", "z-image", "chroma", "cogview", "hunyuan", "lumina")


def card(preset: Preset) -> dict | None:
    """Facts, and where to see the like, of a preset that needs a GPU where there is none."""
    if not machine.needs_gpu(preset):
        return None
    s, nearest = preset.settings, load_all()[nearest_pocket(preset)]
    facts = [
        ["Words", f"“{s['prompt']}” without “{s['negative_prompt']}”"],
        ["Licence", preset.licence + (", to be accepted on the model's page" * preset.gated)],
        ["Run it elsewhere", f"python app.py --preset {preset.name}"],
    ]
    if "nag_scale" in s:
        knobs = ("scale", "tau", "alpha")
        nag = ", ".join(f"{knob} {preset.default(f'nag_{knob}'):g}" for knob in knobs)
        facts.insert(1, ["NAG", nag])
    return {
        "title": f"{preset.title} does not fit this machine",
        "text": f"{preset.memory} This machine has none.",
        "look_for": preset.look_for,
        "facts": facts,
        "url": f"https://huggingface.co/{preset.model}",
        "offers": [offer(one) for one in load_all().values() if sample(one).exists()],
        "instead": {"label": f"See it on {nearest.title.split(',')[0]}", "preset": nearest.name},
    }


def offer(preset: Preset) -> dict:
    """A model that runs here, with its sample."""
    with Image.open(sample(preset)) as image:
        small = data_uri(image, 96)
    about = f"{preset.size} · {preset.licence.upper()}"
    return {"preset": preset.name, "title": preset.title, "about": about, "image": small}


def sample(preset: Preset) -> Path:
    return ASSETS / "results" / preset.name / "nag.png"


def nearest_pocket(preset: Preset) -> str:
    """The shipped model whose attention is most like this one's."""
    if preset.fps:
        return NEAREST["video"]
    return NEAREST["joint" if preset.name.startswith(JOINT) else "cross"]
