"""`python -m nag space`: a folder that can be uploaded as a Space of Hugging Face."""

import argparse
import re
import shutil
from pathlib import Path

from .. import presets
from ..errors import Refused
from ..home import HOME
from ..presets import Preset

PARTS = ("app.py", "LICENSE", "requirements.txt", "nag", "presets", "assets")
TORCH = "torch>=2.9,<2.12"  # what ZeroGPU was seen to offer; of these 2.11 was tested
# of pipelines that need more than requirements.txt has
PACKAGES = {
    "KolorsPipeline": ("sentencepiece", "protobuf"),
    "PixArtSigmaPipeline": ("sentencepiece", "protobuf"),
    "WanImageToVideoPipeline": ("ftfy",),
}
NAME = re.compile(r"[\w.-]+/[\w.-]+")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="of the Space, OWNER/NAME")
    parser.add_argument("--out", type=Path, required=True, help="a folder that does not exist yet")
    parser.add_argument(
        "--presets",
        default="",
        metavar="NAME,NAME",
        help="large models, which ZeroGPU loads when it starts; without, the Space runs the pocket "
        "models on a free processor",
    )


def run(options: argparse.Namespace) -> int:
    """Makes the folder, and prints what is left to do. Raises `Refused`."""
    chosen = _chosen(options.presets)
    _check(options.name, options.out)
    skipped = shutil.ignore_patterns("__pycache__", "*.pyi", ".*")  # made as it runs
    for part in PARTS:
        source, target = HOME / part, options.out / part
        if source.is_dir():
            shutil.copytree(source, target, ignore=skipped)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
    for name, change in (("README.md", front_matter), ("requirements.txt", requirements)):
        text = (HOME / name).read_text(encoding="utf-8")
        (options.out / name).write_text(change(text, options.name, chosen), encoding="utf-8")
    print(told(options.name, options.out, chosen))
    return 0


def _chosen(names: str) -> list[Preset]:
    known, found = presets.load_all(), []
    for name in names.replace(",", " ").split():
        if name not in known:
            raise Refused(f"There is no preset {name!r}: python -m nag models lists them.")
        if known[name].shipped:
            raise Refused(f"{name} ships with this project and asks for no GPU: leave it out.")
        found.append(known[name])
    return found


def _check(name: str, out: Path) -> None:
    if not NAME.fullmatch(name):
        raise Refused(f"A Space is called OWNER/NAME, got {name!r}.")
    if absent := [part for part in PARTS if not (HOME / part).exists()]:
        raise Refused(f"A Space is made from a checkout, and {', '.join(absent)} is not here.")
    if out.exists():
        raise Refused(f"--out {out} is there already: name a folder that is not.")


def front_matter(readme: str, name: str, chosen: list[Preset]) -> str:
    """README.md with the Space's hardware, its picture, and the models that it loads."""
    _, head, text = readme.split("---\n", 2)
    lines = [line for line in head.splitlines() if not line.startswith("suggested_hardware")]
    lines.append(f"suggested_hardware: {_hardware(chosen)}")
    lines.append(
        f"thumbnail: https://huggingface.co/spaces/{name}/resolve/main/assets/screenshot.png"
    )
    if chosen:
        lines += ["models:", *dict.fromkeys(f"- {preset.model}" for preset in chosen)]
    return "\n".join(["---", *lines, "---", text])


def requirements(text: str, name: str, chosen: list[Preset]) -> str:
    """requirements.txt: as it is on a processor; for ZeroGPU with its PyTorch, and what the models
    need beside it."""
    if not chosen:
        return text
    lines = [TORCH if line.startswith("torch==") else line for line in text.splitlines()]
    more = [package for preset in chosen for package in PACKAGES.get(preset.pipeline, ())]
    more += ["peft"] * any(preset.lora for preset in chosen)
    return "\n".join([*lines, *dict.fromkeys(more)]) + "\n"


def _hardware(chosen: list[Preset]) -> str:
    return "zero-a10g" if chosen else "cpu-basic"


def told(name: str, out: Path, chosen: list[Preset]) -> str:
    """The commands that upload it."""
    create = f"hf repos create {name} --type space --sdk gradio --flavor {_hardware(chosen)}"
    if chosen:
        create += f' --env "NAG_PRESETS={", ".join(preset.name for preset in chosen)}"'
    if gated := [preset.title for preset in chosen if preset.gated]:
        create += " --secrets HF_TOKEN"
        print(f"Accept the licence on the model's page first: {'; '.join(gated)}.")
    return f"hf auth login\n{create}\nhf upload {name} {out} . --type space"
