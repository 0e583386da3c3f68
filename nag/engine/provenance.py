"""What a picture depends on beside its settings: model, machine and code. Pictures in a folder of
the user's are taken for today's only where all of it is the same."""

from __future__ import annotations

import functools
import hashlib
import re
from pathlib import Path

from ..home import HOME
from ..presets import Preset
from . import loading
from .run import versions

CODE = Path(__file__).resolve().parents[1]
NAMED = (
    "model",
    "revision",
    "variant",
    "pipeline",
    "dtype",
    "vae_dtype",
    "scheduler",
    "lora",
    "arguments",
    "cfg_offset",
)
# A change in any file of nag/ may change what is drawn, but for these rooms.
ELSEWHERE = re.compile(
    r"(page|explore|commands|pocket)/|media/(?!video\.py)|evaluate/(?!draw\.py)|__main__\.py"
)


def provenance(preset: Preset) -> dict:
    """Of every picture of a preset, as JSON has it. Weights are read where they are a folder or a
    file of this machine."""
    model, packages = HOME / preset.model, versions()
    device = loading.accelerator()
    return {
        **{name: getattr(preset, name) for name in NAMED},
        "model": preset.model_name,
        "weights": contents(model) if model.is_dir() else "",
        **({"file": contents(Path(preset.weights))} if preset.weights else {}),
        "device": device,
        "drawn_in": loading.dtype_of(preset, device),
        "code": code(),
        **{name: packages[name] for name in ("torch", "diffusers", "transformers")},
    }


@functools.cache
def code() -> str:
    """Hash of the files that may decide what is drawn."""
    files = {path.relative_to(CODE).as_posix(): path for path in CODE.rglob("*.py")}
    total = hashlib.sha256()
    for name in sorted(name for name in files if not ELSEWHERE.match(name)):
        total.update(f"{name}\n".encode() + files[name].read_bytes())
    return total.hexdigest()[:12]


def contents(folder: Path) -> str:
    """Hash of one file or a folder's: by what is in it up to 64 MB, by size and time above."""
    total = hashlib.sha256()
    for path in sorted(
        path for path in (folder, *folder.rglob("*")) if path.is_file() and path.suffix != ".md"
    ):
        stat = path.stat()
        large = stat.st_size > 64e6
        total.update(f"{path.relative_to(folder)}\n".encode())
        total.update(f"{stat.st_size} {stat.st_mtime_ns}".encode() if large else path.read_bytes())
    return total.hexdigest()[:24]
