"""The trained parts as a diffusers pipeline folder that needs no code of ours, fp16, beside the
classifier that reads it.
"""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import torch

from . import ASSETS, data

if TYPE_CHECKING:
    from diffusers import (
        AutoencoderTiny,
        DiffusionPipeline,
        ModelMixin,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextModel, CLIPTokenizer


def assemble(
    tokenizer: CLIPTokenizer,
    text_encoder: CLIPTextModel,
    unet: UNet2DConditionModel,
    vae: AutoencoderTiny,
) -> StableDiffusionPipeline:
    from diffusers import StableDiffusionPipeline

    from .portrait import build_scheduler

    return StableDiffusionPipeline(
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        unet=unet,
        vae=vae,
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def pipeline(run: Path, denoiser: str = "student") -> DiffusionPipeline:
    """The pipeline of a training run, float32: `denoiser` is a checkpoint, such as "second",
    "student", "control" (nothing baked in), "unet" (the teacher), "joint-student", "joint" or
    "video-student".
    """
    from . import joint, video
    from .portrait import Portrait
    from .train import load_denoiser
    from .vae import load_vae

    if denoiser.startswith("joint"):
        pipe = joint.assemble(run, denoiser)
    elif denoiser.startswith("video"):
        pipe = video.assemble(run, denoiser)
    else:
        source = Portrait.without_data(run)
        pipe = assemble(
            source.tok,
            source.text_encoder,
            load_denoiser(run, Portrait.build, denoiser),
            load_vae(run),
        )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def export(run: Path, assets: Path = ASSETS) -> None:
    """Writes the models whose students this run has trained; the model cards there are written by
    hand and left alone.
    """
    from . import clips
    from .reader import load_classifier
    from .train import last_student

    if finished := last_student(run):
        save(pipeline(run, finished), assets / "pocket-portrait", data)
        save_classifier(load_classifier(run), assets / "pocket-portrait" / "classifier")
    if (run / "joint-student.pt").exists():
        save(pipeline(run, "joint-student"), assets / "pocket-joint", data)
        # the many-step teacher shares all but its transformer:
        # DiffusionPipeline.from_pretrained(..., variant="teacher")
        save_part(
            pipeline(run, "joint").transformer, assets / "pocket-joint" / "transformer", "teacher"
        )
    if (run / "video-student.pt").exists():
        save(pipeline(run, "video-student"), assets / "pocket-video", clips)
    if (run / "video-classifier.pt").exists():
        reads = load_classifier(run, "video-classifier")
        save_classifier(reads, assets / "pocket-video" / "classifier")


def save(pipe: DiffusionPipeline, folder: Path, captions: ModuleType) -> None:
    """A pipeline in half precision, in files of at most 12 MB, and the words that the module
    `captions` taught it."""
    pipe = pipe.to(dtype=torch.float16)
    for module in pipe.components.values():
        if isinstance(module, torch.nn.Module):
            module.to(memory_format=torch.contiguous_format)
    pipe.save_pretrained(folder, max_shard_size="12MB")
    for path in folder.glob("*/config.json"):
        config = json.loads(path.read_text(encoding="utf-8"))
        config.pop("_name_or_path", None)  # where on this machine a part came from
        if path.parent.name.startswith("text_encoder"):
            # transformers loads in the dtype that the file names, diffusers in float32: the two
            # must fit
            config["dtype"] = "float32"
        path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (folder / "words.txt").write_text(taught(captions), encoding="utf-8")
    total = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    print(f"{folder}: {total / 1e6:.1f} MB")


def taught(source: ModuleType) -> str:
    """All words of the captions of `source` (`data` or `clips`), one a line: what their models were
    taught. So many captions that none is left out by chance."""
    rng, words = random.Random(0), set()
    sample = getattr(source, "sample_clip", data.sample_person)
    for _ in range(20_000):
        words.update(re.findall(r"\w+", source.caption(sample(rng), rng).lower()))
    return "".join(f"{word}\n" for word in sorted(words))


def save_part(module: ModelMixin, folder: Path, variant: str) -> None:
    """One part in half precision, beside that of the same name."""
    module.half().save_pretrained(folder, max_shard_size="12MB", variant=variant)


def save_classifier(classifier: torch.nn.Module, folder: Path) -> None:
    """A classifier in half precision, with the attributes that it reads."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: tensor.half().contiguous() for name, tensor in classifier.state_dict().items()},
        folder / "model.safetensors",
    )
    (folder / "config.json").write_text(
        json.dumps({"size": data.SIZE, "attributes": data.ATTRIBUTES}, indent=2) + "\n",
        encoding="utf-8",
    )
