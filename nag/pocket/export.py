"""The trained parts as a diffusers pipeline folder that needs no code of ours, fp16, beside the classifier that reads it."""

import json
from pathlib import Path

import torch

from . import data, models

FOLDER = Path(__file__).resolve().parents[2] / "assets" / "pocket-portrait"


def assemble(tokenizer, text_encoder, unet, vae):
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline(
        tokenizer=tokenizer, text_encoder=text_encoder, unet=unet, vae=vae, scheduler=models.build_scheduler(),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False)


def pipeline(run: Path, unet: str = "student"):
    """The pipeline of a training run, float32: `unet` is "student", "control" (nothing baked in) or "unet" (the teacher)."""
    from . import train

    tokenizer, text_encoder = train.load_text(run)
    pipe = assemble(tokenizer, text_encoder, train.load_unet(run, unet), train.load_vae(run))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def export(run: Path, folder: Path = FOLDER) -> None:
    """Writes the pipeline and the classifier into `folder`; the model card there is written by hand and left alone."""
    from safetensors.torch import save_file

    from . import train

    pipe = pipeline(run).to(dtype=torch.float16)
    for module in (pipe.unet, pipe.vae):
        module.to(memory_format=torch.contiguous_format)
    pipe.save_pretrained(folder, max_shard_size="12MB")
    # transformers loads in the dtype that the file names, diffusers in float32: name the one that works together everywhere
    config = json.loads((folder / "text_encoder" / "config.json").read_text()) | {"dtype": "float32"}
    (folder / "text_encoder" / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    save_classifier(train.load_classifier(run), folder / "classifier", save_file)
    total = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    print(f"{folder}: {total / 1e6:.1f} MB")


def save_classifier(classifier, folder: Path, save_file) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.half().contiguous() for name, tensor in classifier.state_dict().items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"size": data.SIZE, "attributes": data.ATTRIBUTES}, indent=2) + "\n")


def results(preset: str = "pocket-portrait") -> None:
    """What the page shows before anything was run, drawn by the shipped weights: assets/results/<preset>."""
    from nag import bench, compare, presets

    engine = compare.Engine()
    for _ in range(2):  # the second run is timed warm, as a user's are
        *_, (run, _, _) = engine.run(*presets.resolve({"preset": preset}))
    folder = bench.ASSETS / "results" / preset
    folder.mkdir(parents=True, exist_ok=True)
    for column in run.columns:
        column.image.save(folder / f"{column.key}.png", optimize=True)
    shown = bench.value(run, {}, {})
    (folder / "bench.json").write_text(json.dumps(shown, indent=1, ensure_ascii=False) + "\n")
    print(shown["hint"])
