"""Measures pictures of captions, for models whose labels nobody knows.

clip        100 x cosine of picture and caption in CLIP, not below 0 (CLIP Score, arXiv 2104.08718)
fid         Frechet distance in Inception features to the reference pictures (arXiv 1706.08500)
pfid        the same on the middle 299 x 299 pixels at full size: fine detail (arXiv 2402.13929)
pickscore   what people preferred, as PickScore predicts it (arXiv 2305.01569); in place of
            ImageReward, whose package imports from transformers what version 5 no longer has

Reference pictures are cut and scaled to the size of those drawn. CLIP and PickScore run by
transformers, Inception by torch-fidelity.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..engine import failures
from ..errors import Refused
from ..presets import Preset
from . import draw
from .statistics import Frechet, of_mean

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from .plan import Picture

    Network = Callable[[torch.Tensor], torch.Tensor]  # pictures (n, 3, H, W) -> (n, features)

CLIP, PICKSCORE = "openai/clip-vit-large-patch14", "yuvalkirstain/PickScore_v1"
PROCESSORS = {PICKSCORE: "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"}  # as its authors use it
PATCH, BATCH = 299, 32
ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def check(metrics: Iterable[str], references: Path | None) -> None:
    """Raises `Refused` where a package or a folder is missing; weights are looked for later."""
    if not {"fid", "pfid"} & set(metrics):
        return
    if references is None:
        raise Refused(
            "FID and PFID compare with real pictures: give --reference-images DIR, or leave them "
            "out of --metrics."
        )
    if len(images_in(references)) < 2:
        raise Refused(
            f"--reference-images {references} needs at least two pictures ({', '.join(ENDINGS)})."
        )
    try:
        import torch_fidelity  # noqa: F401
    except ImportError:
        raise Refused(
            "FID and PFID need torch-fidelity: pip install '.[evaluate]', or leave them out of "
            "--metrics."
        ) from None


def images_in(folder: Path) -> list[Path]:
    return (
        sorted(path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS)
        if folder.is_dir()
        else []
    )


class Similarity:
    """Cosine of pictures and captions in a CLIP-type model, from the hub or a folder."""

    def __init__(self, source: str, device: str) -> None:
        from transformers import CLIPModel, CLIPProcessor

        try:
            self.model = CLIPModel.from_pretrained(source, use_safetensors=True).to(device).eval()
            self.processor = CLIPProcessor.from_pretrained(PROCESSORS.get(source, source))
        except Exception as error:
            raise Refused(missing(source, error)) from error
        self.device, self.scale = device, float(self.model.logit_scale.detach().exp())

    def __call__(self, images: list[Image.Image], captions: list[str]) -> torch.Tensor:
        """(n,) cosines"""
        import torch

        with torch.inference_mode():
            words = self.processor(
                text=captions, images=images, return_tensors="pt", padding=True, truncation=True
            ).to(self.device)
            out = self.model(**words)
            # both have length 1
            return (out.image_embeds * out.text_embeds).sum(-1).float().cpu()

    def too_long(self, captions: list[str]) -> int:
        """How many captions are read in part."""
        tokenizer = self.processor.tokenizer
        ids = tokenizer(captions, truncation=False, verbose=False).input_ids
        return sum(len(row) > tokenizer.model_max_length for row in ids)


def missing(source: str, error: Exception) -> str:
    """Why a model that judges could not be loaded, in a sentence."""
    preset = Preset.model_construct(
        title=source, model=source, revision=None, size_gb=2, settings={"preset": source}
    )
    return failures.of_loading(error, preset, "leave its metric out of --metrics")


def inception(weights: Path | None = None) -> Network:
    """Inception V3 as FID knows it: uint8 pictures (n, 3, H, W) -> (n, 2048)."""
    import torch
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    try:
        network = FeatureExtractorInceptionV3(
            "inception", ["2048"], feature_extractor_weights_path=weights and str(weights)
        )
    except (OSError, RuntimeError) as error:
        raise Refused(
            f"FID's Inception weights could not be had ({type(error).__name__}): torch-fidelity "
            "fetches them once from "
            "github.com, or give their file by --inception FILE."
        ) from error
    network.to("cuda" if torch.cuda.is_available() else "cpu")
    return lambda pixels: network(pixels.to(next(network.parameters()).device))[0].cpu()


def features(
    network: Network, images: Sequence[Image.Image], size: tuple[int, int], patch: bool
) -> torch.Tensor:
    """Of PIL images, scaled to `size` (width, height), whole or of their middle -> (n, k)"""
    import numpy as np
    import torch
    from PIL import ImageOps

    rows, part = [], []
    for i, image in enumerate(images, 1):
        image = image.convert("RGB")
        image = image if image.size == size else ImageOps.fit(image, size)
        if patch:
            left, top = ((side - PATCH) // 2 for side in size)
            image = image.crop((left, top, left + PATCH, top + PATCH))
        part.append(torch.from_numpy(np.array(image)).permute(2, 0, 1))
        if len(part) == BATCH or i == len(images):
            with torch.inference_mode():
                rows.append(network(torch.stack(part)).float())
            part = []
    return torch.cat(rows)


class Files(Sequence):
    """Pictures, opened when asked for; of a video the middle frame."""

    def __init__(self, paths: list[Path], ours: bool) -> None:
        self.paths, self.ours = paths, ours

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> Image.Image:
        from PIL import Image

        if self.ours:
            frames, _ = draw.read(self.paths[i])
            return frames[len(frames) // 2]
        return Image.open(self.paths[i])


def measure(
    pictures: list[Picture],
    columns: dict[str, list[Path]],
    metrics: Iterable[str],
    size: tuple[int, int],
    device: str,
    references: Path | None = None,
    clip: str = CLIP,
    weights: Path | None = None,
) -> dict[str, dict]:
    """{column: its numbers}; `columns` has every column's files, in the order of `pictures`.

    Raises `Refused`.
    """
    if "pfid" in metrics and min(size) < PATCH:
        raise Refused(
            f"PFID looks at {PATCH} x {PATCH} pixels, and these pictures have {size[0]} x "
            f"{size[1]}: leave pfid out of --metrics."
        )
    numbers = {key: {"count": len(paths)} for key, paths in columns.items()}
    captions = [picture.prompt for picture in pictures]
    for metric, source in (("clip", clip), ("pickscore", PICKSCORE)):
        if metric not in metrics:
            continue
        import torch

        similar = Similarity(source, device)
        for key, paths in columns.items():
            files = Files(paths, True)
            parts = [
                range(start, min(start + BATCH, len(files)))
                for start in range(0, len(files), BATCH)
            ]
            cosines = torch.cat(
                [similar([files[i] for i in part], [captions[i] for i in part]) for part in parts]
            )
            scores = 100 * cosines.clamp_min(0) if metric == "clip" else similar.scale * cosines
            numbers[key] |= {
                metric: float(scores.double().mean()),
                f"{metric}_interval": of_mean(scores),
            }
            if part := similar.too_long(captions):
                numbers[key][f"{metric}_cut"] = part
    if {"fid", "pfid"} & set(metrics):
        network, real = inception(weights), Files(images_in(references), False)
        for metric in [name for name in ("fid", "pfid") if name in metrics]:
            distance = Frechet(features(network, real, size, metric == "pfid"))
            for key, paths in columns.items():
                if len(paths) > 1:
                    numbers[key][metric] = float(
                        distance(features(network, Files(paths, True), size, metric == "pfid"))
                    )
    return numbers
