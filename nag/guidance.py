"""`guide(pipe, "blurry")`: NAG around any unmodified diffusers pipeline, given back on exit."""

import contextlib
import functools
import inspect
import re
from dataclasses import dataclass, field, replace

import torch

from . import families
from .adapters import called, replaced
from .attention_processor import Layout, install
from .formula import NAGSettings, normalized_attention_guidance

__all__ = ["NAGSettings", "guide", "normalized_attention_guidance"]

DEFAULTS = NAGSettings()


@dataclass
class Guidance:
    """What `guide` is doing, readable while it runs: steps counted by the scheduler, and how many of them were guided."""

    settings: NAGSettings
    step: int = 0                      # scheduler steps done in the running pipeline call
    guided_calls: int = 0              # denoiser calls with at least one guided row
    guided_steps: int = 0              # scheduler steps with such a call
    fresh: bool = False                # a guided call since the last scheduler step
    layout: Layout | None = None       # of the running denoiser call
    encoded: tuple | None = None       # positive and negative of the running pipeline call: ({argument: tensor}, {argument: tensor})
    verdicts: dict = field(default_factory=dict)  # ids of a text's tensors -> (the tensors, what to do)


@contextlib.contextmanager
def guide(pipe, negative_prompt=None, *, negative_prompt_embeds=None, negative_prompt_attention_mask=None,
          scale: float = DEFAULTS.scale, tau: float = DEFAULTS.tau, alpha: float = DEFAULTS.alpha, end: float = DEFAULTS.end):
    """Within this context `pipe(...)` is guided away from the negative prompt. The pipeline is called as always.

        with nag.guide(pipe, "blurry, low quality", scale=5.0):
            image = pipe("a cat", guidance_scale=0.0, num_inference_steps=4).images[0]

    Args:
        pipe: a diffusers pipeline whose denoiser is in `nag.families`.
        negative_prompt: words, or a list with one entry per prompt. "" steers away from the empty prompt; it is not "off".
        negative_prompt_embeds: instead of words, (rows, T, D) in the form in which the pipeline takes `prompt_embeds`; rows is 1,
            the number of prompts, or of pictures. A dictionary by the denoiser's argument for models with several texts.
        negative_prompt_attention_mask: (rows, T), where the pipeline has one.
        scale, tau, alpha, end: see `NAGSettings`. At scale 1, alpha 0 or end 0 nothing is touched.

    With CFG, only the conditional rows are guided. Pooled text embeddings are the positive's for both texts.
    Raises ValueError for bad arguments and unknown models, RuntimeError when a layer could not be reached.
    """
    settings = NAGSettings(scale, tau, alpha, end)
    if negative_prompt is None and negative_prompt_embeds is None:
        raise ValueError("NAG needs a negative prompt: give words (negative_prompt) or negative_prompt_embeds.")
    if negative_prompt is not None and negative_prompt_embeds is not None:
        raise ValueError("Got both negative_prompt and negative_prompt_embeds; give one of them.")
    family = families.find(pipe)
    able, why = families.supports(pipe)
    if not able:
        raise ValueError(why)
    if not hasattr(pipe, "encode_prompt"):
        raise ValueError(f"NAG listens to a pipeline's encode_prompt, and a {type(pipe).__name__} has none.")
    guidance = Guidance(settings)
    if settings.off:
        yield guidance
        return
    embeds = _given(family, negative_prompt_embeds, negative_prompt_attention_mask)
    with contextlib.ExitStack() as stack:
        stack.enter_context(called(pipe, functools.partial(_picture, pipe, guidance)))
        stack.enter_context(replaced(pipe, "encode_prompt", functools.partial(_capture, guidance, family, negative_prompt, embeds)))
        stack.enter_context(replaced(pipe.scheduler, "step", functools.partial(_counted, guidance)))
        for outer in families.denoisers_of(pipe):
            denoiser = families.unwrapped(outer)
            layers, give_back = install(denoiser, family, settings, guidance)
            stack.callback(give_back)
            if family.adapter:
                stack.enter_context(family.adapter(pipe, denoiser, guidance))
            # outside of everything else that wraps a call: torch.compile, offloading and caches see packed text only
            names = list(inspect.signature(type(denoiser).forward).parameters)[1:]
            around = functools.partial(_around, pipe, denoiser, guidance, family, layers, names)
            stack.enter_context(called(outer, torch.compiler.disable(around, recursive=False, reason=COMPILED_INSIDE)))
            stack.callback(_forget, denoiser)
        stack.callback(guidance.verdicts.clear)
        yield guidance
        if guidance.step and not guidance.guided_calls:
            raise _nothing(pipe, guidance)


COMPILED_INSIDE = "torch.compile(..., fullgraph=True) was called inside nag.guide; compile first, then enter nag.guide"


def _picture(pipe, guidance, call, /, *args, **kwargs):
    """One call of the pipeline. Whatever the call before left behind (it may have been stopped before its first step) is forgotten."""
    guidance.encoded, guidance.step, before = None, 0, guidance.guided_calls
    result = call(*args, **kwargs)
    if guidance.step and guidance.guided_calls == before:
        raise _nothing(pipe, guidance)
    return result


def _nothing(pipe, guidance) -> RuntimeError:
    if guidance.encoded is None:
        why = f"{type(pipe).__name__} did not call encode_prompt. Give it a prompt in words, not embeddings."
    else:
        why = ("none of the texts that reached the denoiser was the one that encode_prompt returned. "
               f"{type(pipe).__name__} changes its embeddings on the way, and needs a row of its own in nag/families.py.")
    return RuntimeError(f"NAG guided nothing: {why}")


def _caches(denoiser) -> list:
    """The registries of hooks that carry tensors from step to step (first-block cache and its relatives)."""
    registries = [registry for module in denoiser.modules() if (registry := vars(module).get("_diffusers_hook")) is not None]
    return [registry for registry in registries if any(hook._is_stateful for hook in registry.hooks.values())]


def _forget(denoiser) -> None:
    """Of a picture that was stopped half-way a cache still holds tensors with two texts, which fit no later call."""
    for registry in _caches(denoiser):
        registry.reset_stateful_hooks(recurse=False)


def _given(family, embeds, mask) -> dict | None:
    """Embeddings given by hand, by the denoiser's arguments."""
    if embeds is None:
        return None
    if not isinstance(embeds, dict):
        if len(family.texts) > 1:
            raise ValueError(f"This model has {len(family.texts)} texts: give negative_prompt_embeds as a dictionary of "
                             f"{', '.join(p.argument for p in family.texts)}.")
        embeds = {family.inputs[0].argument: embeds}
    if mask is not None:
        if family.companion("mask") is None:
            raise ValueError("This model has no attention mask for its text, but a negative_prompt_attention_mask was given.")
        embeds = {**embeds, family.companion("mask").argument: mask}
    return embeds


def _counted(guidance, step, /, *args, **kwargs):
    guidance.step += 1
    guidance.guided_steps += guidance.fresh
    guidance.fresh = False
    return step(*args, **kwargs)


OTHER_WORDS = re.compile(r"negative_.*|prompt_\d+|.*prompt_embeds.*|(prompt|text)_.*mask.*")  # arguments that belong to the positive's words


def _capture(guidance, family, words, embeds, encode_prompt, /, *args, **kwargs):
    """Runs `encode_prompt`, and the first time in a pipeline call once more with the negative words in place of the prompt:
    the same tokenizer, length limits and clip skip. The second time it is CFG's own negative prompt, and none of our business."""
    result = encode_prompt(*args, **kwargs)
    if guidance.encoded is not None and guidance.step == 0:
        return result
    guidance.step = 0
    guidance.verdicts.clear()
    positive = _inputs(family, result)
    count = len(positive[family.inputs[0].argument])
    if embeds is not None:
        negative = dict(embeds)
    else:
        bound = inspect.signature(encode_prompt).bind(*args, **kwargs)
        bound.apply_defaults()
        given = bound.arguments
        for name in given:
            if OTHER_WORDS.fullmatch(name):
                given[name] = None
        pictures = int(given.get("num_images_per_prompt") or given.get("num_videos_per_prompt") or 1)
        given["prompt"] = _one_per_prompt(words, count // pictures)
        if "do_classifier_free_guidance" in given:
            given["do_classifier_free_guidance"] = False
        negative = _inputs(family, encode_prompt(*bound.args, **bound.kwargs))
    for p in family.inputs:
        if p.argument in negative and p.kind != "ids":
            negative[p.argument] = _rows(negative[p.argument], count, p.argument)
    guidance.encoded = positive, negative
    return result


def _inputs(family, result) -> dict:
    """What `encode_prompt` returned, by the denoiser's arguments."""
    result = result if isinstance(result, tuple) else (result,)
    return {p.argument: result[p.encoded] for p in family.inputs if p.encoded is not None}


def _one_per_prompt(words, count: int) -> list[str]:
    words = [words] if isinstance(words, str) else list(words)
    if len(words) not in (1, count):
        raise ValueError(f"Got {len(words)} negative prompts for {count} prompts; give one, or one for each.")
    return words * count if len(words) == 1 else words


def _rows(value, count: int, name: str):
    """Expanded to `count` rows: one row for all, or one per prompt for several pictures each."""
    if value is None:
        return None
    if count % len(value):
        raise ValueError(f"Got {len(value)} rows of negative {name} for {count} pictures; give 1, or one per prompt.")
    if isinstance(value, list):
        return [row for row in value for _ in range(count // len(value))]
    return value.repeat_interleave(count // len(value), dim=0)


def _active(pipe, guidance) -> bool:
    scheduler = pipe.scheduler
    steps = getattr(pipe, "_num_timesteps", None)  # where the pipeline says so: image-to-image and refiners run a part of them
    if steps is None:
        steps = len(scheduler.timesteps) - (getattr(scheduler, "begin_index", None) or 0)
    return guidance.step < guidance.settings.end * steps


def _around(pipe, denoiser, guidance, family, layers, names, forward, /, *args, **kwargs):
    """A denoiser call with its text packed: in one piece, or for families with `rows` in pieces of equal text lengths."""
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    text = given.get(family.inputs[0].argument)
    # a cache that holds tensors of the guided steps needs the later ones of the same shape
    mute = guidance.encoded is not None and not _active(pipe, guidance)
    if guidance.encoded is None or text is None or (mute and not _caches(denoiser)):
        return forward(*args, **kwargs)
    tensors = tuple(text) if isinstance(text, (list, tuple)) else (text,)
    key = tuple(map(id, tensors))
    if key not in guidance.verdicts:  # comparing values is a wait for the GPU: once per tensor, not once per step
        if len(guidance.verdicts) > 8:  # a pipeline that makes a new tensor every step
            guidance.verdicts.clear()
        guidance.verdicts[key] = tensors, _plan(guidance, family, given, text)
    parts = guidance.verdicts[key][1]
    if parts is None:
        return forward(*args, **kwargs)
    if len(parts) > 1 and _caches(denoiser):
        raise RuntimeError(
            f"A {type(denoiser).__name__} runs texts of different length one after the other, which its step cache would mix up: "
            "give one prompt at a time, or call disable_cache() on it."
        )
    replaced_ones = [layer.name for layer in layers if layer.module.processor is not layer.twin]
    if replaced_ones:
        raise RuntimeError(
            f"{len(replaced_ones)} attention processors were replaced inside nag.guide (first: {replaced_ones[0]}), so the picture would "
            "not be guided: load IP-Adapters, fuse projections and choose processors before you enter it."
        )
    guidance.guided_calls += not mute
    guidance.fresh = guidance.fresh or not mute
    outputs = []
    try:
        for rows, layout, packed in parts:
            guidance.layout = replace(layout, mute=True) if mute and layout else layout
            change = packed if rows is None else {name: _row(given[name], rows, len(text)) for name in family.rows if name in given} | packed
            outputs.append(forward(*(change.get(name, value) for name, value in zip(names, args, strict=False)),
                                   **{**kwargs, **{name: value for name, value in change.items() if name not in names[:len(args)]}}))
    finally:
        guidance.layout = None
    _all_hit(layers)
    return outputs[0] if len(outputs) == 1 else _joined(outputs)


def _row(value, rows: slice, total: int):
    """The rows of an argument that has one entry per row; a scalar serves all."""
    return value[rows] if isinstance(value, list) or (isinstance(value, torch.Tensor) and value.ndim and len(value) == total) else value


def _joined(outputs):
    """The outputs of calls with some rows each, as one: tensors, lists of rows, tuples and diffusers' output classes of these."""
    first = outputs[0]
    if isinstance(first, torch.Tensor):
        return torch.cat(outputs)
    if isinstance(first, list):
        return [row for output in outputs for row in output]
    if isinstance(first, tuple):
        return tuple(_joined(values) for values in zip(*outputs, strict=True))
    if isinstance(first, dict):
        return type(first)(**{name: _joined([output[name] for output in outputs]) for name in first})
    return first


def _conditional(text, wanted) -> tuple[int, int] | None:
    """First and last + 1 of the rows of `text` that are `wanted`'s, over and over; None where there are none."""
    count, total = len(wanted), len(text)
    if isinstance(text, torch.Tensor):
        wanted = wanted.to(text)
        if text.ndim != wanted.ndim or text.shape[1:] != wanted.shape[1:]:
            return None
    elif any(not isinstance(row, torch.Tensor) for row in text):
        return None
    if total % count:
        return None

    def same(start):
        if isinstance(text, torch.Tensor):
            return torch.equal(text[start:start + count], wanted)
        return all(a.shape == b.shape and torch.equal(a, b.to(a)) for a, b in zip(text[start:start + count], wanted, strict=True))

    starts = [start for start in range(0, total, count) if same(start)]
    if not starts:
        return None
    if len(starts) * count == total and total > count:
        # CFG whose negative prompt is the prompt: every row looks conditional. diffusers puts the conditional rows last.
        starts = starts[-1:]
    if starts != list(range(starts[0], starts[-1] + 1, count)):
        raise RuntimeError(f"The conditional rows {starts} of {total} are not neighbours; NAG cannot guide this pipeline's batch.")
    return starts[0], starts[-1] + count


def _plan(guidance, family, given, text) -> list | None:
    """How to run a denoiser call with this text: [(rows or None for all, layout or None, {argument: packed input})], or None: as it is."""
    positive, negative = guidance.encoded
    wanted, total = positive[family.inputs[0].argument], len(text)
    found = _conditional(text, wanted)
    if found is None:
        return None
    inputs = {p.argument: given.get(p.argument) for p in family.inputs}
    others = {p.argument: _repeated(negative.get(p.argument), total, len(wanted)) for p in family.inputs}
    if not family.rows:
        layout, packed = _packed(family, inputs, others, slice(*found), total)
        return [(None, layout, packed)]
    parts = []
    for row in range(total):  # neighbours with the same lengths go together
        here = slice(row, row + 1)
        if not found[0] <= row < found[1]:
            parts.append((here, None, {}))
            continue
        cut = [{p.argument: _trimmed(p, family, side, here) for p in family.inputs} for side in (inputs, others)]
        layout, packed = _packed(family, *cut, slice(0, 1), 1)
        parts.append((here, layout, packed))
    return _grouped(parts)


def _grouped(parts) -> list:
    groups = []
    for rows, layout, packed in parts:
        if groups and (groups[-1][1] and groups[-1][1].texts) == (layout and layout.texts):
            before, _, others = groups[-1]
            both = slice(before.start, rows.stop)
            size = both.stop - both.start
            groups[-1] = (both, layout and Layout(layout.texts, slice(0, size), size),
                          {name: _joined([others[name], value]) if value is not None else None for name, value in packed.items()})
        else:
            groups.append((rows, layout, packed))
    return groups


def _repeated(value, total: int, count: int):
    """The negative's rows for every group of prompts in the batch."""
    if value is None or not isinstance(value, (torch.Tensor, list)) or len(value) != count:
        return value
    return value * (total // count) if isinstance(value, list) else value.repeat(total // count, *[1] * (value.ndim - 1))


def _trimmed(packed, family, side: dict, rows: slice):
    """One row of a text or its companions without the tokens that its mask leaves out."""
    value, mask = side.get(packed.argument), family.companion("mask", packed.of)
    if value is None:
        return None
    value, mask = value[rows], side.get(mask.argument) if mask else None
    if mask is None:
        return value
    keep = mask[rows][0].to(value[0].device).bool()
    keep = keep if keep.any() else torch.ones_like(keep[:1])  # an empty text keeps one token: a model wants something to attend to
    if isinstance(value, list):
        return [one[:len(keep)][keep[:len(one)]] for one in value]
    return value[:, keep.nonzero()[:, 0]]


def _packed(family, inputs: dict, others: dict, rows: slice, total: int) -> tuple[Layout, dict]:
    """(layout, {argument: packed input}) of one denoiser call."""
    lengths, packed = [], {}
    for p in family.texts:
        plus, minus = inputs[p.argument], others[p.argument]
        lengths.append((_length(plus, p), _length(minus, p)))
        packed[p.argument] = ([torch.cat([a, b.to(a)], p.dim) for a, b in zip(plus, minus, strict=True)] if isinstance(plus, list)
                              else torch.cat([plus, minus.to(plus)], p.dim))
    for p in family.inputs:
        if p.kind == "text":
            continue
        plus, minus, (positive, negative) = inputs[p.argument], others[p.argument], lengths[p.of]
        text = packed[family.texts[p.of].argument]
        if p.kind == "mask":
            if plus is None and minus is None:
                continue
            plus = text.new_ones(len(text), positive) if plus is None else plus
            minus = plus.new_ones(len(plus), negative) if minus is None else minus.to(plus)
            packed[p.argument] = torch.cat([plus[:, :positive], minus, plus[:, positive:]], 1)
        else:
            dim = plus.ndim + p.dim if p.dim < 0 else p.dim  # (T, axes), or with a row dimension in older pipelines
            shape = [*plus.shape[:dim], negative, *plus.shape[dim + 1:]]
            # embeddings given by hand come without ids: text ids of such models are all alike
            minus = plus.narrow(dim, 0, 1).expand(shape) if minus is None else minus.to(plus).reshape(shape)
            packed[p.argument] = torch.cat([plus, minus], dim)
    return Layout(tuple(lengths), rows, total), packed


def _length(value, packed) -> int:
    return value[0].shape[packed.dim] if isinstance(value, list) else value.shape[packed.dim]


def _all_hit(layers) -> None:
    """After the first guided call every layer must have been reached."""
    missed = [layer.name for layer in layers if not layer.hit]
    if missed:
        raise RuntimeError(
            f"NAG did not reach the attention of {len(missed)} of {len(layers)} layers (first: {missed[0]}), so the picture would be "
            "guided in part or not at all. Their processor calls neither F.scaled_dot_product_attention nor dispatch_attention_fn: "
            "call pipe.unet.set_attn_processor(AttnProcessor2_0()) or the model's default processor."
        )
