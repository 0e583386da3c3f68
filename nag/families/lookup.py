"""A pipeline's denoisers, and the row that describes them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from .. import private
from ..errors import IN_PARTS, NAGError, NAGValueError
from .refused import PIPELINES, REFUSED
from .schema import Family
from .table import FAMILIES

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline, ModelMixin

DENOISERS = "transformer", "transformer_2", "unet"
PLACES = (*DENOISERS, "prior")


def denoisers_of(pipe: DiffusionPipeline | ModelMixin) -> list:
    """The UNet or transformers of a pipeline as they stand there (Wan 2.2 has two), or the module
    itself."""
    for names in (DENOISERS, ("prior",)):
        if found := [part for name in names if (part := getattr(pipe, name, None)) is not None]:
            return found
    return [pipe]


def unwrapped(denoiser: ModelMixin) -> ModelMixin:
    """The model inside `torch.compile`."""
    return private.uncompiled(denoiser)


def name_of(pipe: DiffusionPipeline | ModelMixin, denoiser: ModelMixin) -> str:
    """What a pipeline calls one of its denoisers, e.g. "unet"."""
    return next(name for name in PLACES if unwrapped(getattr(pipe, name, None)) is denoiser)


def denoiser_of(pipe: DiffusionPipeline | ModelMixin) -> ModelMixin:
    """The first denoiser of a pipeline, unwrapped."""
    return unwrapped(denoisers_of(pipe)[0])


def a(thing: object) -> str:
    """What something is, for a sentence: "a UNet2DConditionModel", "an AutoencoderKL"."""
    name = type(thing).__name__
    return f"{'an' if name[0] in 'AEIOaeio' else 'a'} {name}"


def row_of(cls: type) -> str | None:
    """The name of the row that describes a denoiser class: its own, or that of a class it inherits
    from."""
    return next(
        (
            base.__name__
            for base in cls.__mro__
            if base.__name__ in FAMILIES or base.__name__ in REFUSED
        ),
        None,
    )


def find(pipe: DiffusionPipeline | ModelMixin) -> Family:
    """The row of a pipeline's denoiser. Raises a NAGValueError that says why it is refused, or
    names what is supported."""
    denoiser = denoiser_of(pipe)
    if denoiser is pipe and (place := next((n for n in PLACES if hasattr(pipe, n)), None)):
        raise NAGValueError(
            f"No denoiser is loaded yet: the {place} of this {type(pipe).__name__} is None. Load "
            "it before you enter nag.guide."
        )
    row = row_of(type(denoiser))
    if row in REFUSED:
        raise NAGValueError(f"NAG cannot guide a {row}: {REFUSED[row]}")
    if row is None:
        raise NAGValueError(
            f"NAG does not know how text enters {a(denoiser)}, and does not guess. "
            f"Supported: {', '.join(sorted(FAMILIES))}."
        )
    return FAMILIES[row]


def published_alpha(pipe: DiffusionPipeline | ModelMixin) -> float | None:
    """NAG's alpha that is published for a pipeline's denoiser, or None."""
    alpha = find(pipe).alpha
    return alpha(denoiser_of(pipe)) if callable(alpha) else alpha


def encoders_of(pipe: DiffusionPipeline | ModelMixin) -> list[str]:
    """The methods of a pipeline that turn words into text."""
    named = [name for name in find(pipe).encoders if hasattr(pipe, name)]
    return named or private.old_encoders(pipe)


def obstacle(pipe: DiffusionPipeline | ModelMixin) -> str | None:
    """Why NAG cannot guide a pipeline whose denoiser it could, and what would work; None for all
    others. It depends on what is switched on."""
    for base in type(pipe).__mro__:
        if base.__name__ in PIPELINES:
            return f"NAG cannot guide a {base.__name__}: {PIPELINES[base.__name__]}"
    if getattr(pipe, "free_noise_enabled", False):
        return (
            f"NAG cannot guide a {type(pipe).__name__} with FreeNoise, which mixes the texts of "
            "several prompts for the frames between them: call pipe.disable_free_noise()."
        )
    return None


def parallel_obstacle(denoiser: ModelMixin, kinds: Iterable[str]) -> str | None:
    """Why NAG cannot guide a denoiser that runs on several devices, and what would work; None for
    all others. kinds: of its attention layers, see `KINDS`."""
    name, how = type(denoiser).__name__, private.parallelism(denoiser)
    if how == "tensor":
        return (
            f"This {name} runs with tensor parallelism, where every device has a part of the "
            "attention heads, and NAG's bound is over all of them: load it without "
            "TensorParallelConfig."
        )
    if how == "context" and not all(kind.startswith("cross") for kind in kinds):
        return f"NAG cannot guide this {name}: {IN_PARTS}"
    return None


def supports(pipe: DiffusionPipeline | ModelMixin) -> tuple[bool, str]:
    """Whether `nag.guide` works on this pipeline (or on pipelines with this denoiser), and in one
    sentence how, or why not."""
    if why := obstacle(pipe):
        return False, why
    try:
        family, denoiser = find(pipe), denoiser_of(pipe)
        layers = family.layers(denoiser)
    except NAGError as error:
        return False, str(error)
    if denoiser is not pipe and not encoders_of(pipe):
        return (
            False,
            f"NAG listens to a pipeline's {family.encoders[-1]}, and {a(pipe)} has none.",
        )
    if not layers:
        return (
            False,
            f"This {type(denoiser).__name__} has no attention layer that sees text, so NAG has "
            "nothing to guide.",
        )
    if why := parallel_obstacle(denoiser, [kind for kind, _ in layers.values()]):
        return False, why
    counts = {
        kind: sum(k.startswith(kind) for k, _ in layers.values())
        for kind in ("cross", "joint", "text")
    }
    found = " and ".join(f"{count} {kind}-attention" for kind, count in counts.items() if count)
    return (
        True,
        f"{type(denoiser).__name__}: {found} layers, negative text packed behind the positive.",
    )
