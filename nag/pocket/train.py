"""A many-step teacher by flow matching, and its distillation to a student of 4 steps."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from .loop import device, fit, load_average
from .portrait import Portrait

STUDENT_STEPS = 4
TEACHER_SUBSTEPS = 4  # Euler steps of the teacher inside each step of the student
TEACHER_GUIDANCE = 3.0


def train_teacher(
    run: Path,
    steps: int,
    source: Portrait,
    compile: bool = False,
    seconds: float | None = None,
    size: int | None = None,
    begin: Callable[[], nn.Module] | None = None,
) -> nn.Module:
    """Flow matching: x_s = (1 - s) x + s n, target n - x, s logit-normal.

    seconds: as of `fit`. size: rows of a batch. begin: the model, where it is not a new one.
    """
    model, size = (begin or source.build)().to(device()), size or batch_size(source)
    forward = torch.compile(model) if compile else model

    def loss(step):
        latents, text, _ = source.batch(step, size, seed=4)
        noise = torch.randn_like(latents)
        s = torch.sigmoid(torch.randn(len(latents), 1, 1, 1, device=latents.device))
        x = (1 - s) * latents + s * noise
        out = source.predict(forward, x, s, text).float()
        return (out - (noise - latents)).square().mean(), {}

    options = {"lr": source.lr, "muon": source.muon, "seconds": seconds}
    return fit(source.name, run, model, loss, steps, decay=0.998, **options)


def batch_size(source: Portrait) -> int:
    """Rows of a batch: a GPU takes many at a time."""
    return source.large if device().type == "cuda" else source.size


def last_student(run: Path) -> str | None:
    """The checkpoint of pocket-portrait's newest generation in this run, if there is one."""
    return next((one for one in ("second", "student") if (run / f"{one}.pt").exists()), None)


def load_denoiser(run: Path, build: Callable[[], nn.Module], name: str) -> nn.Module:
    """A checkpoint of this run, in what `build()` gives."""
    model = build()
    load_average(model, run / f"{name}.pt")
    return model.to(device()).eval()


def distill(
    run: Path,
    steps: int,
    source: Portrait,
    guidance: float = TEACHER_GUIDANCE,
    name: str = "student",
    size: int | None = None,
    compile: bool = False,
    seconds: float | None = None,
) -> nn.Module:
    """The student takes in one step what the teacher takes in TEACHER_SUBSTEPS guided ones.

    Between the levels of 1, .75, .5, .25 and 0. At `guidance` 1 nothing is baked in: the control
    that tells few steps from distilled guidance. Rows with an empty caption learn the un-guided
    teacher, so the student keeps an unconditional answer.
    """
    size = size or (3 * source.large // 4 if device().type == "cuda" else 32)
    teacher = load_denoiser(run, source.build, source.name).requires_grad_(False)
    student = load_denoiser(run, source.build, source.name).requires_grad_(True)
    ahead, forward = (torch.compile(m) if compile else m for m in (teacher, student))

    def loss(step):
        latents, text, empty = source.batch(step, size, seed=6)
        noise = torch.randn_like(latents)
        start, end = (1 - k / STUDENT_STEPS for k in segments(latents))
        x = x0 = (1 - start) * latents + start * noise
        delta = (start - end) / TEACHER_SUBSTEPS
        for k in range(TEACHER_SUBSTEPS):
            s = start - k * delta
            x = x - delta * guided_velocity(source, ahead, x, s, text, empty, guidance)
        target = (x0 - x) / (start - end)
        out = source.predict(forward, x0, start, text).float()
        return (out - target).square().mean(), {}

    return fit(name, run, student, loss, steps, lr=3e-4, decay=0.995, seconds=seconds)


def segments(latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The number of the student's step that each row learns, and the next one: (B, 1, 1, 1) each.

    From pure noise twice as often: the first step decides what the picture is.
    """
    drawn = torch.randint(0, STUDENT_STEPS + 1, (len(latents), 1, 1, 1), device=latents.device)
    segment = (drawn - 1).clamp_min(0)
    return segment, segment + 1


@torch.no_grad()
def guided_velocity(
    source: Portrait,
    model: nn.Module,
    x: torch.Tensor,
    s: torch.Tensor,
    text: tuple[torch.Tensor, ...],
    empty: torch.Tensor,
    guidance: float,
) -> torch.Tensor:
    """The teacher's velocity under CFG, like x; rows that are `empty` (B, 1, 1, 1) go without."""
    if guidance == 1:
        return source.predict(model, x, s, text).float()
    both = tuple(
        torch.cat([plain.expand_as(part), part])
        for plain, part in zip(source.empty, text, strict=True)
    )
    out = source.predict(model, torch.cat([x, x]), torch.cat([s, s]), both).float()
    without, with_ = out.chunk(2)
    return torch.where(empty, with_, without + guidance * (with_ - without))
