"""`--model FILE`: weights in one file, of a whole pipeline or of its denoiser alone.

The preset's own model gives the configuration, and the parts that the file does not have.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import Refused
from ..home import HOME
from ..presets import Preset

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline, ModelMixin

    # of all parts, or {part: its own, "default": the others'}
    Dtypes = torch.dtype | dict[str, torch.dtype]

# where checkpoints of whole pipelines keep their text encoders and their VAE
OTHER_PARTS = (
    "cond_stage_model.",
    "conditioner.",
    "first_stage_model.",
    "text_encoders.",
    "vae.",
)


def pipeline_class(preset: Preset) -> type | None:
    """The class that a preset names; of a folder that of its model_index.json."""
    import diffusers

    name = preset.pipeline
    if name == "DiffusionPipeline" and preset.local:
        index = HOME / preset.model / "model_index.json"
        name = json.loads(index.read_text(encoding="utf-8"))["_class_name"]
    return getattr(diffusers, name, None)


def from_file(
    cls: type, preset: Preset, source: str, dtype: Dtypes, options: dict
) -> DiffusionPipeline:
    """A pipeline of class `cls` with the weights of `preset.weights`.

    source: the folder or repository of the preset's own model. dtype: of all parts, or a dictionary
    by part. options: further arguments of `from_pretrained`. Raises `Refused`.
    """
    file = Path(preset.weights)
    if file.suffix == ".safetensors" and _is_whole(file):
        return _whole(cls, preset, file, source, dtype, options)
    part, denoiser = _denoiser(cls, preset, file, source, dtype, options)
    return cls.from_pretrained(source, dtype=dtype, **{part: denoiser}, **options)


def _is_whole(file: Path) -> bool:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as opened:
            return any(key.startswith(OTHER_PARTS) for key in list(opened.keys()))
    except SafetensorError as error:
        raise Refused(f"{file.name} is not a safetensors file: {error}.") from None


def _whole(
    cls: type, preset: Preset, file: Path, source: str, dtype: Dtypes, options: dict
) -> DiffusionPipeline:
    from diffusers.loaders.single_file_utils import SingleFileComponentError

    if not hasattr(cls, "from_single_file"):
        raise Refused(
            f"{file.name} has all parts of a pipeline in one file, which diffusers cannot load for "
            f"{cls.__name__}: take a file of its denoiser alone, or a folder in diffusers' layout."
        )
    kept = {name: options[name] for name in ("revision", "local_files_only")}
    try:
        pipe = cls.from_single_file(str(file), config=source, dtype=_of(dtype, "unet"), **kept)
    except SingleFileComponentError as error:
        raise Refused(f"{file.name} lacks a part: {str(error).splitlines()[0]}") from None
    if isinstance(dtype, dict):
        pipe.vae.to(dtype["vae"])
    return pipe


def _denoiser(
    cls: type, preset: Preset, file: Path, source: str, dtype: Dtypes, options: dict
) -> tuple[str, ModelMixin]:
    """(Its name in the pipeline, the denoiser with the file's weights)."""
    import diffusers
    from diffusers.loaders.single_file_utils import SingleFileComponentError

    kept = {name: options[name] for name in ("revision", "local_files_only")}
    index = cls.load_config(source, **kept)
    names = [n for n in ("unet", "transformer", "transformer_2") if index.get(n, [None])[0]]
    if len(names) != 1:
        raise Refused(
            f"{file.name} is one denoiser, and {preset.title} has {len(names)}: "
            "load a folder in diffusers' layout instead."
        )
    kind = getattr(diffusers, index[names[0]][1])
    if not hasattr(kind, "from_single_file"):
        raise Refused(f"diffusers loads no single file of a {kind.__name__}: give it a folder.")
    kept["config_revision"] = kept.pop("revision")
    if file.suffix == ".gguf":
        kept["quantization_config"] = _gguf(file, _of(dtype, names[0]))
    kept |= {"subfolder": names[0], "dtype": _of(dtype, names[0])}
    try:
        return names[0], kind.from_single_file(str(file), config=source, **kept)
    except SingleFileComponentError:
        raise Refused(
            f"{file.name} does not have the weights of a {kind.__name__}, which is the denoiser of "
            f"{preset.title}: choose the preset of the model that the file is of."
        ) from None


def _of(dtype: Dtypes, part: str) -> torch.dtype:
    return dtype.get(part, dtype["default"]) if isinstance(dtype, dict) else dtype


def _gguf(file: Path, dtype):
    from diffusers import GGUFQuantizationConfig
    from diffusers.utils import is_gguf_available

    if not is_gguf_available():
        raise Refused(f"{file.name} needs one more package on this machine: pip install gguf.")
    return GGUFQuantizationConfig(compute_dtype=dtype)
