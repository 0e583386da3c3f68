"""`guide(pipe, "blurry")`: NAG around any unmodified diffusers pipeline, given back on exit."""

import contextlib
import functools
import inspect
from dataclasses import dataclass, field

import torch

from . import families
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
    verdicts: dict = field(default_factory=dict)  # id of a text tensor -> (the tensor, rows, packed tensors)


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
            the number of prompts, or of pictures. negative_prompt_attention_mask: (rows, T), where the pipeline has one.
        scale, tau, alpha, end: see `NAGSettings`. At scale 1, alpha 0 or end 0 nothing is touched.

    With CFG, only the conditional rows are guided. Pooled text embeddings are the positive's for both texts.
    Raises ValueError for bad arguments and unknown models, RuntimeError when a layer could not be reached.
    """
    settings = NAGSettings(scale, tau, alpha, end)
    if negative_prompt is None and negative_prompt_embeds is None:
        raise ValueError("NAG needs a negative prompt: give words (negative_prompt) or negative_prompt_embeds.")
    if negative_prompt is not None and negative_prompt_embeds is not None:
        raise ValueError("Got both negative_prompt and negative_prompt_embeds; give one of them.")
    family, denoiser = families.find(pipe), families.denoiser_of(pipe)
    guidance = Guidance(settings)
    if settings.off:
        yield guidance
        return
    modules = family.modules(denoiser)
    if not modules:
        raise ValueError(f"This {type(denoiser).__name__} has no attention layer that sees text, so NAG has nothing to guide.")
    with contextlib.ExitStack() as stack:
        capture = functools.partial(_capture, pipe, guidance, family, negative_prompt, negative_prompt_embeds, negative_prompt_attention_mask)
        stack.enter_context(replaced(pipe, "encode_prompt", capture))
        stack.enter_context(replaced(pipe.scheduler, "step", functools.partial(_counted, guidance)))
        layers, give_back = install(modules, family.attention, family.order, settings, guidance)
        stack.callback(give_back)
        pack = denoiser.register_forward_pre_hook(functools.partial(_pack, pipe, guidance, family), with_kwargs=True)
        stack.callback(pack.remove)
        unpack = denoiser.register_forward_hook(functools.partial(_unpack, guidance, layers), always_call=True)
        stack.callback(unpack.remove)
        stack.callback(guidance.verdicts.clear)
        yield guidance
        if guidance.encoded and guidance.step and not guidance.guided_calls:
            raise RuntimeError(
                "NAG guided nothing: none of the texts that reached the denoiser was the one that encode_prompt returned. "
                f"{type(pipe).__name__} changes its embeddings on the way, and needs a row of its own in nag/families.py."
            )


@contextlib.contextmanager
def replaced(owner, name: str, wrapper):
    """`owner.name` is `wrapper(original, ...)` for a while. A method is shadowed on the instance, and the shadow removed."""
    original, had = getattr(owner, name), name in vars(owner)

    @functools.wraps(original)
    def call(*args, **kwargs):
        return wrapper(original, *args, **kwargs)

    object.__setattr__(owner, name, call)
    try:
        yield
    finally:
        if had:
            object.__setattr__(owner, name, original)
        else:
            object.__delattr__(owner, name)


def _counted(guidance, step, *args, **kwargs):
    guidance.step += 1
    guidance.guided_steps += guidance.fresh
    guidance.fresh = False
    return step(*args, **kwargs)


def _capture(pipe, guidance, family, words, embeds, mask, encode_prompt, *args, **kwargs):
    """Runs `encode_prompt`, and the first time in a pipeline call once more with the negative words in place of the prompt:
    the same tokenizer, length limits and clip skip. The second time it is CFG's own negative prompt, and none of our business."""
    result = encode_prompt(*args, **kwargs)
    if guidance.encoded is not None and guidance.step == 0:
        return result
    guidance.step = 0
    guidance.verdicts.clear()
    inputs = [p for p in (family.text, family.mask, family.ids) if p is not None and p.encoded >= 0]
    positive = {p.argument: result[p.encoded] for p in inputs}
    count = len(positive[family.text.argument])
    if embeds is not None:
        negative = {family.text.argument: embeds}
        if mask is not None:
            if family.mask is None:
                raise ValueError(f"{type(pipe).__name__} has no attention mask for its text, but a negative_prompt_attention_mask was given.")
            negative[family.mask.argument] = mask
    else:
        bound = inspect.signature(encode_prompt).bind(*args, **kwargs)
        bound.apply_defaults()
        given = bound.arguments
        for name in given:
            if name.endswith(("_embeds", "_mask")) or name.startswith(("negative_prompt", "prompt_")):
                given[name] = None
        given["prompt"] = _one_per_prompt(words, count // int(given.get("num_images_per_prompt") or 1))
        if "do_classifier_free_guidance" in given:
            given["do_classifier_free_guidance"] = False
        again = encode_prompt(*bound.args, **bound.kwargs)
        negative = {p.argument: again[p.encoded] for p in inputs}
    for p in (family.text, family.mask):
        if p is not None and p.argument in negative:
            negative[p.argument] = _rows(negative[p.argument], count, p.argument)
    guidance.encoded = positive, negative
    return result


def _one_per_prompt(words, count: int) -> list[str]:
    words = [words] if isinstance(words, str) else list(words)
    if len(words) not in (1, count):
        raise ValueError(f"Got {len(words)} negative prompts for {count} prompts; give one, or one for each.")
    return words * count if len(words) == 1 else words


def _rows(tensor, count: int, name: str):
    """Expanded to `count` rows: one row for all, or one per prompt for several pictures each."""
    if count % len(tensor):
        raise ValueError(f"Got {len(tensor)} rows of negative {name} for {count} pictures; give 1, or one per prompt.")
    return tensor.repeat_interleave(count // len(tensor), dim=0)


def _active(pipe, guidance) -> bool:
    scheduler = pipe.scheduler
    steps = len(scheduler.timesteps) - (getattr(scheduler, "begin_index", None) or 0)  # image-to-image begins later
    return guidance.step < guidance.settings.end * steps


def _pack(pipe, guidance, family, denoiser, args, kwargs):
    """Forward pre-hook: the denoiser's text inputs become [positive, negative] where a row is conditional."""
    guidance.layout = None
    if guidance.encoded is None or not _active(pipe, guidance):
        return None
    bound = inspect.signature(denoiser.forward).bind_partial(*args, **kwargs).arguments
    text = bound.get(family.text.argument)
    if text is None:
        return None
    verdict = guidance.verdicts.get(id(text))
    if verdict is None:  # comparing values is a wait for the GPU: once per tensor, not once per step
        verdict = (text, *_find_rows(text, guidance, family, bound))
        if len(guidance.verdicts) > 8:  # a pipeline that makes a new tensor every step
            guidance.verdicts.clear()
        guidance.verdicts[id(text)] = verdict
    _, layout, packed = verdict
    if layout is None:
        return None
    guidance.layout = layout
    guidance.guided_calls += 1
    guidance.fresh = True
    names = list(inspect.signature(denoiser.forward).parameters)
    args = tuple(packed.get(name, value) for name, value in zip(names, args, strict=False))
    return args, {**kwargs, **{name: value for name, value in packed.items() if name not in names[:len(args)]}}


def _find_rows(text, guidance, family, bound):
    """(layout, {argument: packed tensor}) of a text input, or (None, {}) when it is not the positive prompt."""
    positive, negative = guidance.encoded
    name = family.text.argument
    wanted = positive[name].to(text)
    count, total = len(wanted), len(text)
    if text.ndim != wanted.ndim or text.shape[1:] != wanted.shape[1:] or total % count:
        return None, {}
    starts = [start for start in range(0, total, count) if torch.equal(text[start:start + count], wanted)]
    if not starts:
        return None, {}
    if len(starts) * count == total and total > count:
        # CFG whose negative prompt is the prompt: every row looks conditional. diffusers puts the conditional rows last.
        starts = starts[-1:]
    if starts != list(range(starts[0], starts[-1] + 1, count)):
        raise RuntimeError(f"The conditional rows {starts} of {total} are not neighbours; NAG cannot guide this pipeline's batch.")
    rows = slice(starts[0], starts[-1] + count)
    minus = negative[name].to(text)
    packed = {name: torch.cat([text, minus.repeat(total // count, *[1] * (text.ndim - 1))], family.text.dim)}
    plus_length, minus_length = text.shape[family.text.dim], minus.shape[family.text.dim]
    if family.mask is not None:
        mask, other = bound.get(family.mask.argument), negative.get(family.mask.argument)
        if mask is not None or other is not None:
            mask = text.new_ones(total, plus_length) if mask is None else mask
            other = mask.new_ones(count, minus_length) if other is None else other.to(mask)
            packed[family.mask.argument] = torch.cat([mask, other.repeat(total // count, 1)], family.mask.dim)
    if family.ids is not None:
        ids = bound[family.ids.argument]
        dim = ids.ndim - 2  # (T, 3), or with a row dimension in older pipelines
        other = negative.get(family.ids.argument)
        # embeddings given by hand come without ids: text ids of such models are all alike
        other = ids.narrow(dim, 0, 1).expand(*ids.shape[:dim], minus_length, ids.shape[-1]) if other is None else other.to(ids)
        packed[family.ids.argument] = torch.cat([ids, other.reshape(*ids.shape[:dim], minus_length, ids.shape[-1])], dim)
    return Layout(plus_length, minus_length, rows, rows == slice(0, total)), packed


def _unpack(guidance, layers, denoiser, args, output):
    """Forward hook, also after an error: the call is over. After the first guided one every layer must have been reached."""
    guided, guidance.layout = guidance.layout is not None, None
    if not guided or output is None:
        return
    missed = [layer.name for layer in layers if not layer.hit]
    if missed:
        raise RuntimeError(
            f"NAG did not reach the attention of {len(missed)} of {len(layers)} layers (first: {missed[0]}), so the picture would be "
            "guided in part or not at all. Their processor calls neither F.scaled_dot_product_attention nor dispatch_attention_fn: "
            "call pipe.unet.set_attn_processor(AttnProcessor2_0()) or the model's default processor."
        )
