"""One call of the denoiser, with its text packed."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import torch

from .. import families, private
from ..attention_processor import GuidedAttention
from ..errors import IN_PARTS, NAGRuntimeError
from ..families import Adapted, Family
from .caches import forget_texts, keeps_tensors
from .checks import check_caller
from .plan import Plan, plan_call
from .rows import join_outputs, select_rows
from .state import CallState
from .steps import StepCounter

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline, ModelMixin

R = TypeVar("R")
MOST_PLANS = 8  # more tensors than that are a pipeline that makes a new one in every step


class GuidedDenoiser:
    """Stands around every call of one denoiser, and packs its text.

    Texts of one length go in one piece, those of families with `rows` in pieces of equal lengths.
    """

    def __init__(
        self,
        pipe: DiffusionPipeline,
        denoiser: ModelMixin,
        family: Family,
        layers: list,
        adapted: Adapted,
        state: CallState,
        steps: StepCounter,
    ) -> None:
        self.pipe, self.denoiser, self.family, self.layers = pipe, denoiser, family, layers
        self.adapted, self.state, self.steps = adapted, state, steps
        # of the class: hooks and torch.compile put functions of other names in its place
        self.names = list(inspect.signature(type(denoiser).forward).parameters)[1:]
        self.text, self.exact = family.inputs[0].argument, state.exact

    def __call__(self, forward: Callable[..., R], /, *args: object, **kwargs: object) -> R:
        """`forward(*args, **kwargs)`, with guided rows where its text is the prompt's."""
        self.state.check_thread()
        check_caller(self.pipe)
        self.state.hear_embeddings()
        if self.adapted.around:
            forward = functools.partial(self.adapted.around, forward)
        given = {**dict(zip(self.names, args, strict=False)), **kwargs}
        text = given.get(self.text)
        if isinstance(text, tuple):  # Cosmos 2.5 hands over (text, picture)
            given[self.text] = text[0]
        place = self.steps.denoiser_called()
        active = self.steps.active(self.pipe, self.state.running)
        plan = self._plan(given, place) if self._wanted(given, active) else Plan(None, True)
        if active:
            self.steps.prompt_looked_for(plan.known)
        if (parts := plan.pieces) is None:
            return forward(*args, **kwargs)
        check_guidable(self.denoiser, self.layers, parts)
        self.state.backend = private.attention_backend()
        self.state.exact = self.exact or private.attention_is_replaced()
        if active:
            self.steps.denoiser_guided(given.get("timestep"))
        outputs = []
        try:
            for rows, layout, packed in parts:
                self.state.layout = self._inside(layout, given, not active)
                change = self._change(given, rows, packed)
                if isinstance(text, tuple):
                    change[self.text] = (change.get(self.text, text[0]), *text[1:])
                outputs.append(self._with(change, forward, args, kwargs))
        finally:
            self.state.layout = None
        check_all_reached(self.pipe, self.denoiser, self.layers, self.family)
        return outputs[0] if len(outputs) == 1 else join_outputs(outputs)

    def _wanted(self, given: dict, active: bool) -> bool:
        """Whether the text is to be packed: until `end`, and to the last step where a cache holds
        tensors of the guided steps, for it needs the later ones of the same shape."""
        if given.get(self.text) is None:
            return False
        return active or keeps_tensors(self.denoiser)

    def _plan(self, given: dict, place: int) -> Plan:
        """What `plan_call` says of this text, asked once for each tensor and its values: those of
        masks, ids and counts too, which are packed into it."""
        state, tensors = self.state, packed_tensors(self.family, given)
        if state.texts is None:
            return Plan(None, False)
        key = (state.texts.same and place, *((id(one), private.changes_of(one)) for one in tensors))
        if key in state.plans:
            return state.plans[key][1]
        forget_texts(self.denoiser)
        plan = plan_call(state.texts, self.family, state.prompt_rows, given, place)
        if len(state.plans) >= MOST_PLANS:
            state.plans.clear()
        if not (state.watched and any(one.is_inference() for one in tensors)):
            state.plans[key] = tensors, plan
        return plan

    def _change(self, given: dict, rows: slice | None, packed: dict) -> dict:
        """The arguments that are others than those given. rows: of a call in pieces."""
        if rows is None:
            return dict(packed)
        return select_rows(given, self.family.rows, rows, len(given[self.text])) | packed

    def _inside(self, layout, given: dict, carried_only: bool):
        """The layout as the model's attention will see it."""
        if layout is None:
            return None
        if self.adapted.layout:
            layout = self.adapted.layout(layout, given)
        return replace(layout, carried_only=carried_only)

    def _with(self, change: dict, forward, args: tuple, kwargs: dict):
        """`forward` with some of its arguments changed, whichever way they were given."""
        by_place = zip(self.names, args, strict=False)
        args = [change.get(name, value) for name, value in by_place]
        by_name = {
            name: value for name, value in change.items() if name not in self.names[: len(args)]
        }
        return forward(*args, **{**kwargs, **by_name})


def packed_tensors(family: Family, given: dict) -> tuple[torch.Tensor, ...]:
    """The tensors of a call that grow with the text: its texts, and their masks, ids and counts."""
    values = [given.get(p.argument) for p in family.inputs]
    rows = [row for value in values for row in (value if isinstance(value, list) else [value])]
    return tuple(row for row in rows if isinstance(row, torch.Tensor))


def check_guidable(denoiser: ModelMixin, layers: list, parts: list) -> None:
    """Raises NAGRuntimeError where a call would be guided in part, or not as it should."""
    if len(parts) > 1 and keeps_tensors(denoiser):
        raise NAGRuntimeError(
            f"A {type(denoiser).__name__} runs texts of different length one after the other, "
            "which a step cache, or other code in the place of its forward, would mix up: give one "
            "prompt at a time, or call disable_cache() on it."
        )
    if why := families.parallel_obstacle(denoiser, (layer.kind for layer in layers)):
        raise NAGRuntimeError(why)
    if torch.is_grad_enabled() and getattr(denoiser, "is_gradient_checkpointing", False):
        raise NAGRuntimeError(
            f"This {type(denoiser).__name__} has gradient checkpointing on, which runs its layers "
            "once more in the backward pass, when NAG no longer guides them: the gradients would "
            "be wrong. Call disable_gradient_checkpointing() on it, or draw under torch.no_grad()."
        )
    strangers = [layer.name for layer in layers if layer.module.processor is not layer.twin]
    if strangers:
        raise NAGRuntimeError(
            f"{len(strangers)} attention processors were replaced inside nag.guide (first: "
            f"{strangers[0]}), so the picture would not be guided: load IP-Adapters, fuse "
            "projections and choose processors before you enter it."
        )


def check_all_reached(
    pipe: DiffusionPipeline, denoiser: ModelMixin, layers: list, family: Family
) -> None:
    """Raises NAGRuntimeError unless the first guided call has reached every layer."""
    missed = [
        layer for layer in layers if not layer.hit and not re.fullmatch(family.silent, layer.name)
    ]
    if not missed:
        return
    if private.parallelism(denoiser):  # else the processors would be blamed
        raise NAGRuntimeError(f"NAG cannot guide this {type(denoiser).__name__}: {IN_PARTS}")
    raise NAGRuntimeError(
        f"NAG did not reach the attention of {len(missed)} of {len(layers)} layers (first: "
        f"{missed[0].name}), so the picture would be guided in part or not at all. Their processor "
        f"({type(missed[0].original).__name__}) calls neither F.scaled_dot_product_attention nor "
        f"dispatch_attention_fn: {advice(pipe, denoiser, missed[0])}."
    )


def advice(pipe: DiffusionPipeline, denoiser: ModelMixin, layer: GuidedAttention) -> str:
    """How the denoiser comes by a processor that can be guided in this layer."""
    name, usual = families.name_of(pipe, denoiser), private.usual_processor(layer.module)
    if usual is None and layer.kind.startswith("cross"):
        usual = "AttnProcessor2_0"
    if usual is None or not hasattr(denoiser, "set_attn_processor"):
        return f"load pipe.{name} anew, and leave it the processors that it comes with"
    return f"call pipe.{name}.set_attn_processor({usual}())"
