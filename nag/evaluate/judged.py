"""Measures pictures of pairs, for models whose labels nobody knows: is what the negative names
there, and what else is as without guidance?

removed    share of pictures of which a vision-language model says that what the negative names is
           not there: P(yes) to the pair's question is at most one half; with its 95 % Wilson
           interval
presence   mean of that P(yes), from the logits of the first token of the answer: the "yes"s among
           the "yes"s and "no"s
dino       cosine with the un-guided picture of the same seed in DINO's features (Dinov2, Dinov3)
lpips      perceptual distance to it (arXiv 1801.03924), 0 where nothing changed
control    dino and lpips under negatives that have nothing to do: another pair's, and an empty one

The judge and DINO run by transformers, LPIPS by torchmetrics.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import Refused
from ..explore.counting import wilson
from .captions import BATCH, Files, missing
from .statistics import of_mean

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from .plan import Picture

JUDGE, DINO = "Qwen/Qwen2.5-VL-3B-Instruct", "facebook/dinov2-base"
AT_ONCE = 8  # questions
ANSWER = "{} Answer with one word, yes or no."
WORDS = {answer: (answer, answer.capitalize(), f" {answer}", f" {answer.capitalize()}")
         for answer in ("yes", "no")}  # fmt: skip
NEEDS = {"lpips": ("torchmetrics and torchvision", ("torchmetrics", "torchvision"))}


def check(metrics: list[str], questions: bool, plain: bool) -> None:
    """Raises `Refused` where a metric cannot be measured; weights are looked for later."""
    import importlib.util

    if "presence" in metrics and not questions:
        raise Refused(
            "presence asks a question of each picture: give --pairs FILE, or leave it out of "
            "--metrics."
        )
    if (beside := [name for name in ("dino", "lpips") if name in metrics]) and not plain:
        raise Refused(
            f"{', '.join(beside)} compare with the un-guided picture: add none to --guidance."
        )
    if "control" in metrics and questions and not beside:
        raise Refused(
            "control measures dino and lpips under negatives that have nothing to do: add one of "
            "them to --metrics."
        )
    for name, (packages, modules) in NEEDS.items():
        if name in metrics and not all(importlib.util.find_spec(one) for one in modules):
            raise Refused(
                f"{name} needs {packages}: pip install '.[evaluate]', or leave it out of --metrics."
            )


class Judge:
    """A vision-language model that is asked yes-or-no questions, from the hub or a folder."""

    def __init__(self, source: str, device: str) -> None:
        from transformers import AutoModelForImageTextToText, AutoProcessor

        try:
            self.processor = AutoProcessor.from_pretrained(source)
            model = AutoModelForImageTextToText.from_pretrained(source, dtype="auto")
            self.model = model.to(device).eval()
        except Exception as error:
            raise Refused(missing(source, error)) from error
        if not getattr(self.processor, "chat_template", None):
            raise Refused(
                f"--judge {source} has no chat template, so nobody knows how to ask it: choose a "
                "model that was tuned on instructions."
            )
        self.device, tokenizer = device, self.processor.tokenizer
        tokenizer.padding_side = "left"  # the answer stands behind the last token
        first = {
            answer: {tokenizer.encode(word, add_special_tokens=False)[0] for word in words}
            for answer, words in WORDS.items()
        }
        both = first["yes"] & first["no"]
        self.tokens = [sorted(first[answer] - both) for answer in ("yes", "no")]
        if not all(self.tokens):
            raise Refused(f'--judge {source} has no tokens of its own for "yes" and "no".')

    def __call__(self, images: list[Image.Image], questions: list[str]) -> list[float]:
        """P(yes) of each question of its picture."""
        import torch

        texts = [
            self.processor.apply_chat_template(
                [
                    {
                        "role": "user",
                        "content": [
                            {"type": "image"},
                            {"type": "text", "text": ANSWER.format(question)},
                        ],
                    }
                ],
                add_generation_prompt=True,
            )
            for question in questions
        ]
        given = self.processor(
            text=texts, images=[[one] for one in images], padding=True, return_tensors="pt"
        ).to(self.device, dtype=self.model.dtype)
        with torch.inference_mode():
            logits = self.model(**given).logits[:, -1].float()
        yes, no = (logits[:, tokens].logsumexp(-1) for tokens in self.tokens)
        return torch.sigmoid(yes - no).tolist()


def answers(
    judge: str, pictures: list[Picture], columns: dict[str, list[Path]], device: str, folder: Path
) -> dict[str, list[float]]:
    """{column: P(yes) of each picture}. What was answered stays in a file in `folder`, so that a
    run that was stopped goes on, and a table that is written again asks nothing."""
    from tqdm import tqdm

    path = folder / f"answers-{hashlib.sha256(judge.encode()).hexdigest()[:12]}.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    wanted = {
        f"{file.name} {picture.question}": (file, picture.question)
        for files in columns.values()
        for file, picture in zip(files, pictures, strict=True)
    }
    todo = [key for key in wanted if key not in known]
    if todo:
        ask = Judge(judge, device)
        for start in tqdm(range(0, len(todo), AT_ONCE), desc="judging", unit="batch"):
            part = todo[start : start + AT_ONCE]
            images = [one.convert("RGB") for one in Files([wanted[key][0] for key in part], True)]
            said = ask(images, [wanted[key][1] for key in part])
            known |= dict(zip(part, said, strict=True))
            unfinished = path.with_suffix(".part")
            unfinished.write_text(json.dumps(known, indent=0), encoding="utf-8")
            unfinished.replace(path)
    return {
        column: [known[f"{f.name} {p.question}"] for f, p in zip(files, pictures, strict=True)]
        for column, files in columns.items()
    }


class Dino:
    """Features of pictures (n, k), each of length 1, from the hub or a folder."""

    def __init__(self, source: str, device: str) -> None:
        from transformers import AutoImageProcessor, AutoModel

        try:
            self.processor = AutoImageProcessor.from_pretrained(source)
            self.model = AutoModel.from_pretrained(source).to(device).eval()
        except Exception as error:
            raise Refused(missing(source, error)) from error
        self.device = device

    def __call__(self, images: list[Image.Image]) -> torch.Tensor:
        import torch

        given = self.processor(images=images, return_tensors="pt").to(self.device)
        with torch.inference_mode():
            features = self.model(**given).pooler_output.float().cpu()
        return torch.nn.functional.normalize(features, dim=-1)


def cosines(dino: Dino, files: list[Path], plain: list[Path]) -> torch.Tensor:
    """(n,) of each picture with the un-guided one."""
    import torch

    pairs = [torch.cat([dino(some) for some in _batches(one)]) for one in (files, plain)]
    return (pairs[0] * pairs[1]).sum(-1)


def perceptual(device: str) -> torch.nn.Module:
    """LPIPS on AlexNet, as torchmetrics has it: (n, 3, H, W) twice, 0 to 1 -> n distances."""
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    try:
        return LearnedPerceptualImagePatchSimilarity("alex", normalize=True).net.to(device)
    except (OSError, RuntimeError) as error:
        raise Refused(
            f"LPIPS' weights could not be had ({type(error).__name__}): torchvision fetches "
            "AlexNet once; or leave lpips out of --metrics."
        ) from error


def distances(
    network: torch.nn.Module, files: list[Path], plain: list[Path], device: str
) -> torch.Tensor:
    """(n,) of each picture to the un-guided one."""
    import numpy as np
    import torch

    def pixels(images):
        some = np.stack([np.asarray(one.convert("RGB"), np.float32) / 255 for one in images])
        return torch.from_numpy(some).permute(0, 3, 1, 2).to(device)

    found = []
    with torch.inference_mode():
        for one, other in zip(_batches(files), _batches(plain), strict=True):
            found.append(network(pixels(one), pixels(other), normalize=True).float().reshape(-1))
    return torch.cat(found).cpu()


def _batches(files: list[Path]):
    shown = Files(files, True)
    for start in range(0, len(files), BATCH):
        yield [shown[i].convert("RGB") for i in range(start, min(start + BATCH, len(files)))]


def measure(
    pictures: list[Picture],
    columns: dict[str, list[Path]],
    plain: dict[str, str],
    metrics: list[str],
    device: str,
    folder: Path,
    judge: str = JUDGE,
    dino: str = DINO,
) -> tuple[dict[str, dict], dict[str, dict]]:
    """{column: its numbers}, and {column: {"removed", "dino", "lpips": (n,)}} of each picture.

    plain: the un-guided column of each. Raises `Refused`.
    """
    import torch

    numbers: dict[str, dict] = {key: {} for key in columns}
    each: dict[str, dict] = {key: {} for key in columns}
    if "presence" in metrics:
        for key, said in answers(judge, pictures, columns, device, folder).items():
            chances = torch.tensor(said, dtype=torch.float64)
            gone = chances <= 0.5
            numbers[key] |= {
                "removed": float(gone.double().mean()),
                "removed_interval": wilson(int(gone.sum()), len(gone)),
                "presence": float(chances.mean()),
                "presence_interval": of_mean(chances),
            }
            each[key]["removed"] = gone
    before = {key: columns[plain[key]] for key in columns if key in plain}
    beside = {key: files for key, files in columns.items() if key in before}
    for name, found in preserved(beside, before, metrics, device, dino).items():
        for key, values in found.items():
            numbers[key] |= {
                name: float(values.double().mean()),
                f"{name}_interval": of_mean(values),
            }
            each[key][name] = values
    return numbers, each


def preserved(
    columns: dict[str, list[Path]],
    plain: dict[str, list[Path]],
    metrics: list[str],
    device: str,
    dino: str,
) -> dict[str, dict[str, torch.Tensor]]:
    """{"dino" or "lpips", those that are asked for: {column: (n,)}}. plain: the un-guided files of
    each column, in the same order."""
    told: dict[str, dict] = {}
    for name in [name for name in ("dino", "lpips") if name in metrics]:
        network = Dino(dino, device) if name == "dino" else perceptual(device)
        told[name] = {}
        for key, files in columns.items():
            if name == "dino":
                values = cosines(network, files, plain[key])
            else:
                values = distances(network, files, plain[key], device)
            if not all(map(math.isfinite, values.tolist())):
                raise Refused(f"{name} of column {key} is no number: leave it out of --metrics.")
            told[name][key] = values
    return told


def controls(
    pictures: list[Picture],
    columns: dict[str, list[Path]],
    plain: dict[str, list[Path]],
    metrics: list[str],
    device: str,
    dino: str = DINO,
) -> dict[str, dict]:
    """{column: {kind of control: its numbers}} of guided columns' files of `pictures`, as
    `pocket.Yardstick.controls`."""
    numbers: dict[str, dict] = {key: {} for key in columns}
    for name, found in preserved(columns, plain, metrics, device, dino).items():
        for key, values in found.items():
            for kind in dict.fromkeys(picture.control for picture in pictures):
                rows = [i for i, picture in enumerate(pictures) if picture.control == kind]
                of_kind = numbers[key].setdefault(kind, {"count": len(rows)})
                of_kind[name] = float(values[rows].double().mean())
    return numbers
