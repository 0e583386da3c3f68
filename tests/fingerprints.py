"""Checksums of what the method draws, to show that a change of the code changes no picture.

    python tests/fingerprints.py before.json       # at one commit
    python tests/fingerprints.py after.json        # at another, on the same machine
    diff before.json after.json

Latents of every tiny pipeline (alone and with CFG, without NAG, with it, and in two passes),
outputs of every denoiser family, and the pictures of every preset that ships with weights. On one
thread: sums in another order are other numbers.
"""

import contextlib
import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

SETTINGS = {"scale": 4.0, "tau": 2.0, "alpha": 0.5}
PRESETS = ("pocket-portrait", "pocket-joint", "pocket-joint-teacher", "pocket-video")
COLUMNS = '["none", "cfg", "nag", "cfg+nag", "nasa", "ong", "vsf", "negpip", "apg"]'


def checksum(value) -> str:
    """SHA-256 of a tensor, or of every tensor in lists and tuples."""
    import torch

    digest = hashlib.sha256()

    def add(part):
        if isinstance(part, torch.Tensor):
            digest.update(str(tuple(part.shape)).encode())
            digest.update(part.detach().float().contiguous().cpu().numpy().tobytes())
        elif isinstance(part, (list, tuple)):
            for one in part:
                add(one)
        else:
            digest.update(repr(part).encode())

    add(value)
    return digest.hexdigest()[:20]


def tiny_pipelines():
    """(name, checksum) of latents from words."""
    import tiny

    import nag

    for name, one in tiny.PIPELINES.items():
        for cfg in (None, *range(len(one.cfg))):
            for how in ("none", "nag", "exact", "half"):
                guided = contextlib.nullcontext()
                if how != "none":
                    options = {"exact": how == "exact", "end": 0.5 if how == "half" else 1.0}
                    guided = nag.guide(tiny.pipeline(name), tiny.NEGATIVE, **SETTINGS, **options)
                with guided:
                    yield f"tiny {name} cfg={cfg} {how}", checksum(tiny.draw(name, cfg=cfg))


def denoisers():
    """(name, checksum) of every family's smallest pipeline."""
    import torch
    from denoisers import CASES, bare

    import nag

    for name in CASES:
        torch.manual_seed(0)
        pipe = bare(name)
        for cfg in (None, "before", "apart"):
            for method in ("nag", "nasa", "ong", "vsf", "negpip"):
                try:
                    with nag.guide(pipe, "with big glasses", **SETTINGS, method=method):
                        found = checksum(pipe("a portrait", cfg=cfg))
                except (RuntimeError, ValueError) as error:  # a rival that cannot do this family
                    found = type(error).__name__
                yield f"denoiser {name} cfg={cfg} {method}", found


def pictures():
    """(name, checksum) of what `python -m nag compare` writes, pixel by pixel."""
    from PIL import Image

    from nag.__main__ import main

    for preset in PRESETS:
        with tempfile.TemporaryDirectory() as out, contextlib.redirect_stdout(None):
            main(["compare", "--preset", preset, "--set", f"guidance={COLUMNS}", "--out", out])
            for path in sorted(Path(out).glob("*.png")):
                if path.stem != "strip":  # which has times in its captions
                    pixels = Image.open(path).convert("RGB").tobytes()
                    yield f"picture {preset} {path.stem}", hashlib.sha256(pixels).hexdigest()[:20]


def main() -> None:
    import torch

    torch.set_num_threads(1)
    found = {}
    for part in (tiny_pipelines, denoisers, pictures):
        for name, value in part():
            found[name] = value
    Path(sys.argv[1]).write_text(json.dumps(found, indent=1) + "\n")
    print(f"{len(found)} checksums in {sys.argv[1]}")


if __name__ == "__main__":
    main()
