"""`guide(pipe, "blurry")`: NAG around any unmodified diffusers pipeline, given back on exit."""

import contextlib
import copy
import functools
import inspect
import re
from dataclasses import dataclass, field, replace

import torch
from diffusers.models.attention_dispatch import _AttentionBackendRegistry

from . import families, lse
from .adapters import Wrapped, called, placed, replaced
from .attention_processor import Layout, install
from .formula import normalized_attention_guidance
from .settings import NAGSettings

__all__ = ["NAGSettings", "guide", "normalized_attention_guidance"]

DEFAULTS = NAGSettings()


@dataclass
class Guidance:
    """What `guide` is doing, readable while it runs: steps counted by the scheduler, and how many of them were guided."""

    settings: NAGSettings
    exact: bool = False                # two passes in joint attention
    backend: str = "native"            # diffusers' attention for layers that name none
    step: int = 0                      # scheduler steps done in the running pipeline call
    since: int = 0                     # of these, done when the schedule was last set: pipelines that go chunk by chunk set it for each
    guided_calls: int = 0              # denoiser calls with at least one guided row
    guided_steps: int = 0              # scheduler steps with such a call
    stepped: bool = False              # the scheduler has made a step in the running pipeline call, whoever made the denoiser's
    called: bool = False               # a denoiser call since the last scheduler step
    fresh: bool = False                # a guided one
    layout: Layout | None = None       # of the running denoiser call
    encoded: tuple | None = None       # positive and negative of the running pipeline call: ({argument: tensor}, {argument: tensor})
    calls: int = 0                     # which call of `encode_prompt` in the running pipeline call was the latest
    cfg: bool = True                   # whether there may be unconditional rows in the running pipeline call
    spared: list = field(default_factory=list)  # for each row of the positive: whether its prompt has no negative one
    results: tuple | None = None       # what `encode_prompt` returned for the positive and (None if given by hand) for the negative
    verdicts: dict = field(default_factory=dict)  # ids of a text's tensors -> (the tensors, what to do)


@contextlib.contextmanager
def guide(pipe, negative_prompt=None, *, negative_prompt_embeds=None, negative_prompt_attention_mask=None,
          scale: float = DEFAULTS.scale, tau: float = DEFAULTS.tau, alpha: float = DEFAULTS.alpha, end: float = DEFAULTS.end,
          exact: bool = False, method: str = "nag", trim: bool = False):
    """Within this context `pipe(...)` is guided away from the negative prompt. The pipeline is called as always.

        with nag.guide(pipe, "blurry, low quality", scale=5.0):
            image = pipe("a cat", guidance_scale=0.0, num_inference_steps=4).images[0]

    Args:
        pipe: a diffusers pipeline whose denoiser is in `nag.families`.
        negative_prompt: words, or a list with one entry per prompt. "" steers away from the empty prompt; it is not "off". In a list,
            None leaves its prompt un-guided; guided prompts must be neighbours, unless the family runs its rows one by one.
        negative_prompt_embeds: instead of words, (rows, T, D) in the form in which the pipeline takes `prompt_embeds`; rows is 1,
            the number of prompts, or of pictures. A dictionary by the denoiser's argument for models with several texts.
        negative_prompt_attention_mask: (rows, T), where the pipeline has one.
        scale, tau, alpha, end: see `NAGSettings`. At scale 1, alpha 0 or end 0 nothing is touched.
        trim: leave out the padding behind the negative's words, which T5-like encoders fill up to 512 tokens that are attended like any
            other. Cheaper, and weaker on the one trained model that it was measured on (pocket-joint). Models that mask padding need it not.
        method: "nag"; for research "nasa" or "vsf", see `NAGSettings`.
        exact: attend the positive and the negative branch in two passes, as by hand. Otherwise joint attention attends the image's keys
            once for both and merges (`nag/lse.py`), where a kernel can: the same up to rounding, for much less time.

    With CFG, only the conditional rows are guided. Pooled text embeddings are the positive's for both texts.
    Raises ValueError for bad arguments and unknown models, RuntimeError when a layer could not be reached.
    """
    settings = NAGSettings(scale, tau, alpha, end, method)
    _check_words(negative_prompt, negative_prompt_embeds, negative_prompt_attention_mask)
    family = families.find(pipe)
    able, why = families.supports(pipe)
    if not able:
        raise ValueError(why)
    if not families.encoders_of(pipe):
        raise ValueError(f"nag.guide takes a whole pipeline, which encodes the words too; got a {type(pipe).__name__}.")
    if trim and (negative_prompt is None or not family.tokenizer):
        raise ValueError("trim needs the negative prompt as words." if negative_prompt is None else
                         f"trim is not possible here: {type(pipe).__name__} masks its padding, or nag/families.py does not say where it is.")
    guidance = Guidance(settings, exact=bool(exact))
    if settings.off:
        yield guidance
        return
    embeds = _given(family, negative_prompt_embeds, negative_prompt_attention_mask)
    with contextlib.ExitStack() as stack:
        stack.enter_context(called(pipe, functools.partial(_picture, pipe, pipe.scheduler, guidance)))
        for name in families.encoders_of(pipe):
            trimmed = functools.partial(_without_padding, pipe, family) if trim else None
            stack.enter_context(replaced(pipe, name, functools.partial(_capture, guidance, family, negative_prompt, embeds, trimmed)))
        for name, report in (("step", _counted), ("set_timesteps", _started)):
            stack.enter_context(placed(pipe.scheduler, name, Reported(getattr(pipe.scheduler, name), functools.partial(report, guidance))))
        for outer in families.denoisers_of(pipe):
            denoiser = families.unwrapped(outer)
            lse.prepare(getattr(pipe, "_execution_device", denoiser.device))
            layers, give_back = install(denoiser, family, settings, guidance)
            stack.callback(give_back)
            inner = stack.enter_context(family.adapter(pipe, denoiser, guidance)) if family.adapter else None
            # outside of everything else that wraps a call: torch.compile, offloading and caches see packed text only
            names = list(inspect.signature(type(denoiser).forward).parameters)[1:]
            around = functools.partial(_around, pipe, denoiser, guidance, family, layers, names, inner)
            stack.enter_context(called(outer, torch.compiler.disable(around, recursive=False, reason=COMPILED_INSIDE)))
            stack.callback(_forget, denoiser)
        stack.callback(guidance.verdicts.clear)
        yield guidance
        if guidance.stepped and not guidance.guided_calls:
            raise _nothing(pipe, guidance)


def _check_words(words, embeds, mask) -> None:
    if words is None and embeds is None:
        raise ValueError("NAG needs a negative prompt: give words (negative_prompt) or negative_prompt_embeds.")
    if words is not None and embeds is not None:
        raise ValueError("Got both negative_prompt and negative_prompt_embeds; give one of them.")
    each = [words] if isinstance(words, str) else words
    if each is not None and not (isinstance(each, (list, tuple)) and all(word is None or isinstance(word, str) for word in each)):
        raise ValueError(f"negative_prompt must be words, or a list with words (or None) for each prompt, got {words!r}.")
    if each is not None and all(word is None for word in each):
        raise ValueError(f"negative_prompt must have words for one prompt at least, got {words!r}.")
    if mask is not None and embeds is None:
        raise ValueError("Got a negative_prompt_attention_mask without the negative_prompt_embeds that it belongs to.")


COMPILED_INSIDE = "torch.compile(..., fullgraph=True) was called inside nag.guide; compile first, then enter nag.guide"


def _picture(pipe, scheduler, guidance, call, /, *args, **kwargs):
    """One call of the pipeline. Whatever the call before left behind (it may have been stopped before its first step) is forgotten."""
    if pipe.scheduler is not scheduler:  # its steps would not be counted, and `end` would never come
        raise RuntimeError("The scheduler was replaced inside nag.guide: choose it before you enter it.")
    guidance.encoded, guidance.step, guidance.since, before = None, 0, 0, guidance.guided_calls
    guidance.stepped = guidance.called = guidance.fresh = False
    result = call(*args, **kwargs)
    if guidance.stepped and guidance.guided_calls == before:
        raise _nothing(pipe, guidance)
    return result


def _nothing(pipe, guidance) -> RuntimeError:
    if guidance.encoded is None:
        why = f"{type(pipe).__name__} encoded no prompt. Some pipelines do not when they are given embeddings: give words."
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
    needed = [p.argument for p in family.inputs if p.kind in ("text", "layers")]
    if not isinstance(embeds, dict) and len(needed) == 1:
        embeds = {needed[0]: embeds}
    if not isinstance(embeds, dict) or not set(embeds) & set(needed):
        raise ValueError(f"This model has {len(needed)} texts: give negative_prompt_embeds as a dictionary of {', '.join(needed)}.")
    if mask is not None:
        if family.companion("mask") is None:
            raise ValueError("This model has no attention mask for its text, but a negative_prompt_attention_mask was given.")
        text, dim = embeds.get(family.inputs[0].argument), family.inputs[0].dim
        if isinstance(text, torch.Tensor) and tuple(mask.shape) != (len(text), text.shape[min(dim, text.ndim - 2)]):
            raise ValueError(f"negative_prompt_attention_mask is {tuple(mask.shape)}, and does not fit embeddings of {tuple(text.shape)}.")
        embeds = {**embeds, family.companion("mask").argument: mask}
    return embeds


class Reported(Wrapped):
    """A scheduler's method that also reports its calls, and those of the scheduler's copies."""

    def __init__(self, original, report):
        super().__init__(original, lambda method, *args, **kwargs: (report(), method(*args, **kwargs))[1])
        self.report = report

    def __deepcopy__(self, memo):
        return Reported(copy.deepcopy(self.original, memo), self.report)


def _counted(guidance):
    """A step is what follows a denoiser call, however many schedulers take it (Cosmos steps twice in one round)."""
    guidance.stepped = True
    guidance.step += guidance.called
    guidance.guided_steps += guidance.fresh
    guidance.called = guidance.fresh = False


def _started(guidance):
    guidance.since = guidance.step


# arguments that belong to the positive's words
OTHER_WORDS = re.compile(r"negative_.*|prompt_\d+|.*prompt_embeds.*|(prompt|text)_.*mask.*|text_images")
PICTURES = re.compile(r"num_\w+_per_prompt")


class EncodeCall:
    """One call of `encode_prompt` with its arguments by name; prompt, pictures: the names of the words, and of how many pictures of each."""

    def __init__(self, function, args, kwargs):
        self.function, self.signature = function, inspect.signature(function)
        self.bound = self.signature.bind(*args, **kwargs)
        self.bound.apply_defaults()
        self.given = given = self.bound.arguments
        self.prompt = next((name for name in ("prompt", "prompts") if name in given), None)
        if self.prompt is None:
            raise ValueError(f"NAG cannot tell which argument of this encode_prompt is the prompt: {', '.join(given)}.")
        self.pictures = next((name for name in given if PICTURES.fullmatch(name)), None)
        self.each = int(given.get(self.pictures) or 1)
        self.cfg = bool(given.get("do_classifier_free_guidance", True))

    @property
    def rows(self) -> int:
        """Of the prompt alone, where the result may hold CFG's rows too. "prompts" are one, behind its negatives."""
        prompts = self.given.get("prompt_embeds") if self.given[self.prompt] is None else self.given[self.prompt]
        return self.each * (1 if isinstance(prompts, str) or self.prompt == "prompts" else len(prompts))

    def again(self, words: list[str], phrase):
        """The same call with other words, one for each prompt -> the words in their final form, and what it returns."""
        given, single = self.given, isinstance(self.given[self.prompt], str)
        for name in given:
            if OTHER_WORDS.fullmatch(name):
                default = self.signature.parameters[name].default  # "" where CFG's negative prompt is encoded whether needed or not
                given[name] = None if default is inspect.Parameter.empty else default
        if phrase:
            words = [phrase(*pair) for pair in zip([given[self.prompt]] if single else given[self.prompt], words, strict=True)]
        given[self.prompt] = words[0] if single else words  # some pipelines take one prompt only, and no list
        if self.pictures:  # `_rows` expands: some pipelines bring the masks of several pictures of several prompts into a wrong order
            given[self.pictures] = 1
        if "do_classifier_free_guidance" in given:
            given["do_classifier_free_guidance"] = False
        return words, self.function(*self.bound.args, **self.bound.kwargs)


def _capture(guidance, family, words, embeds, trimmed, encode_prompt, /, *args, **kwargs):
    """Runs `encode_prompt`, and the first time in a pipeline call once more with the negative words in place of the prompt:
    the same tokenizer, length limits and clip skip. The second time it is CFG's own negative prompt, and none of our business."""
    result = encode_prompt(*args, **kwargs)
    again = guidance.encoded is not None and guidance.step == 0
    guidance.calls = guidance.calls + 1 if again else 0
    positive, other = _inputs(family, result, guidance.calls), None
    if again and not positive:
        return result
    if not again:
        guidance.step = guidance.since = 0
        guidance.called = guidance.fresh = False
        guidance.verdicts.clear()
    call = EncodeCall(encode_prompt, args, kwargs)
    count, guidance.cfg = _count(*next((positive[p.argument], p.batch) for p in family.inputs if p.argument in positive)), call.cfg
    if family.together:
        guidance.cfg, count = count > call.rows, call.rows
        positive = {name: value[-count:] for name, value in positive.items()}
    if embeds is not None:
        negative = {} if again else dict(embeds)
    else:
        each = _one_per_prompt(words, count // call.each)
        guidance.spared = [word is None for word in each for _ in range(call.each)]
        filled = next(word for word in each if word is not None)  # what stands in for None is read by nobody, and is no longer than the others
        new, other = call.again([filled if word is None else word for word in each], family.phrase)
        negative = _inputs(family, other, guidance.calls)
        negative = trimmed(new, negative) if trimmed else negative
    for p in family.inputs:
        if p.argument in negative and not (p.kind == "ids" and negative[p.argument].ndim < 3):  # ids may be the same for all rows
            negative[p.argument] = _each(p, negative[p.argument], _rows, count, p.argument, p.batch)
    before = guidance.encoded if again else ({}, {})
    guidance.encoded = before[0] | positive, before[1] | negative
    guidance.results = result, other
    return result


def _inputs(family, result, call: int = 0) -> dict:
    """What a call of `encode_prompt` returned, by the denoiser's arguments; some pipelines have fewer texts than their denoiser takes."""
    result = result if isinstance(result, tuple) else (result,)
    return {p.argument: result[p.encoded] for p in family.inputs
            if p.call == call and p.encoded is not None and p.encoded < len(result)}


def _without_padding(pipe, family, words: list[str], negative: dict) -> dict:
    """The negative's inputs cut behind the last token of its words (of the longest of several)."""
    tokenizer, text = getattr(pipe, family.tokenizer, None), family.inputs[0]
    if tokenizer is None:
        raise ValueError(f"trim needs the pipeline's {family.tokenizer}, and this {type(pipe).__name__} has none.")
    before, most = int(getattr(pipe, family.behind)) if family.behind else 0, _length(negative[text.argument], text)
    own = before + max(len(ids) for ids in tokenizer(words, truncation=True, max_length=most - before).input_ids)

    def cut(p, value):
        dim = value.ndim + p.dim if p.dim < 0 else p.dim
        return value.narrow(dim, 0, min(own, value.shape[dim]))

    return {p.argument: cut(p, negative[p.argument]) if p.of == 0 and negative[p.argument] is not None else negative[p.argument]
            for p in family.inputs if p.argument in negative}


def _count(value, dim: int = 0) -> int:
    """How many rows a text has."""
    return len(value) if isinstance(value, list) else value.shape[dim]


def _each(p, value, function, *args):
    """`function` of an input, or of each of its layers."""
    return [function(layer, *args) for layer in value] if p.kind == "layers" and value is not None else function(value, *args)


def _one_per_prompt(words, count: int) -> list[str | None]:
    words = [words] if isinstance(words, str) else list(words)
    if len(words) not in (1, count):
        raise ValueError(f"Got {len(words)} negative prompts for {count} prompts; give one, or one for each.")
    return words * count if len(words) == 1 else words


def _rows(value, count: int, name: str, dim: int = 0):
    """Expanded to `count` rows: one row for all, or one per prompt for several pictures each."""
    if value is None:
        return None
    rows = _count(value, dim)
    if count % rows:
        raise ValueError(f"Got {rows} rows of negative {name} for {count} pictures; give 1, or one per prompt.")
    if isinstance(value, list):
        return [row for row in value for _ in range(count // rows)]
    return value.repeat_interleave(count // rows, dim=dim)


def _active(pipe, guidance) -> bool:
    if guidance.settings.end >= 1:  # to the last call: some pipelines run the denoiser once more, to remember what they made
        return True
    scheduler = pipe.scheduler
    steps = getattr(pipe, "_num_timesteps", None)  # where the pipeline says so: image-to-image and refiners run a part of them
    if steps is None:
        steps = len(scheduler.timesteps) - (getattr(scheduler, "begin_index", None) or 0)
    return guidance.step - guidance.since < guidance.settings.end * steps


def _around(pipe, denoiser, guidance, family, layers, names, inner, forward, /, *args, **kwargs):
    """A denoiser call with its text packed: in one piece, or for families with `rows` in pieces of equal text lengths."""
    if inner:
        forward = functools.partial(inner, forward)
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    first = family.inputs[0].argument
    text = given.get(first)
    guidance.called = True
    beside = text[1:] if isinstance(text, tuple) else ()  # Cosmos 2.5 hands over (text, picture)
    if beside:
        text = given[first] = text[0]
    # a cache that holds tensors of the guided steps needs the later ones of the same shape
    mute = guidance.encoded is not None and not _active(pipe, guidance)
    if guidance.encoded is None or text is None or (mute and not _caches(denoiser)):
        return forward(*args, **kwargs)
    tensors = tuple(text) if isinstance(text, list) else (text,)
    key = tuple(map(id, tensors))
    if key not in guidance.verdicts:  # comparing values is a wait for the GPU: once per tensor, not once per step
        if len(guidance.verdicts) > 8:  # a pipeline that makes a new tensor every step
            guidance.verdicts.clear()
        guidance.verdicts[key] = tensors, _plan(guidance, family, given, text)
    parts = guidance.verdicts[key][1]
    if parts is None:
        return forward(*args, **kwargs)
    _can_be_guided(denoiser, layers, parts)
    guidance.backend = str(getattr(_AttentionBackendRegistry._active_backend, "value", _AttentionBackendRegistry._active_backend))
    guidance.guided_calls += not mute
    guidance.fresh = guidance.fresh or not mute
    outputs = []
    try:
        for rows, layout, packed in parts:
            guidance.layout = replace(layout, mute=mute) if layout else None
            change = packed if rows is None else _rows_of(given, family.rows, rows, len(text)) | packed
            if beside:
                change = change | {first: (change.get(first, text), *beside)}
            outputs.append(forward(*(change.get(name, value) for name, value in zip(names, args, strict=False)),
                                   **{**kwargs, **{name: value for name, value in change.items() if name not in names[:len(args)]}}))
    finally:
        guidance.layout = None
    _all_hit(layers, family)
    return outputs[0] if len(outputs) == 1 else _joined(outputs)


def _can_be_guided(denoiser, layers, parts) -> None:
    if len(parts) > 1 and _caches(denoiser):
        raise RuntimeError(
            f"A {type(denoiser).__name__} runs texts of different length one after the other, which its step cache would mix up: "
            "give one prompt at a time, or call disable_cache() on it."
        )
    strangers = [layer.name for layer in layers if layer.module.processor is not layer.twin]
    if strangers:
        raise RuntimeError(
            f"{len(strangers)} attention processors were replaced inside nag.guide (first: {strangers[0]}), so the picture would "
            "not be guided: load IP-Adapters, fuse projections and choose processors before you enter it."
        )


def _rows_of(given: dict, names, rows: slice, total: int) -> dict:
    """Some rows of every argument that has rows; "name[]" is a list of tensors that have."""
    listed = [name[:-2] for name in names if name.endswith("[]") and given.get(name[:-2])]
    return ({name: _row(given[name], rows, total) for name in names if name in given}
            | {name: [_row(value, rows, total) for value in given[name]] for name in listed})


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


def _conditional(text, wanted, cfg: bool = True) -> list | None:
    """Which of the `wanted` texts every row of `text` carries: its index, or None; None for all where there are none."""
    count, total = len(wanted), len(text)
    if isinstance(text, torch.Tensor):
        wanted = wanted.to(text)
        if text.ndim == wanted.ndim == 3:  # behind the text may stand padding to the length of CFG's other text, or tokens of something else
            text = text[:, :wanted.shape[1]]
        if text.ndim != wanted.ndim or text.shape[1:] != wanted.shape[1:]:
            return None
    elif any(not isinstance(row, torch.Tensor) for row in text):
        return None
    else:  # the pipeline's own tensors in another list: no doubt who is who
        found = [next((i for i, one in enumerate(wanted) if one is row), None) for row in text]
        if any(i is not None for i in found):
            return found
    if total % count:
        return None

    def same(start, indices):
        if isinstance(text, torch.Tensor):
            return torch.equal(text[start:start + len(indices)], wanted[indices])
        return all(a.shape == wanted[i].shape and torch.equal(a, wanted[i].to(a)) for a, i in zip(text[start:], indices, strict=False))

    for times in range(1, total // count + 1):  # above 1: several pictures of each, made of the texts after `encode_prompt`
        if total % (count * times):
            continue
        indices = [i for i in range(count) for _ in range(times)]
        starts = [start for start in range(0, total - len(indices) + 1, len(indices)) if same(start, indices)]
        if starts:
            break
    else:
        return None
    if cfg and len(starts) * len(indices) == total and total == 2 * count:
        # CFG whose negative prompt is the prompt: every row looks conditional. diffusers puts the conditional rows last.
        starts = starts[-1:]
    found = [None] * total
    for start in starts:
        found[start:start + len(indices)] = indices
    return found


def _plan(guidance, family, given, text) -> list | None:
    """How to run a denoiser call with this text: [(rows or None for all, layout or None, {argument: packed input})], or None: as it is."""
    positive, negative = guidance.encoded
    wanted, total = _shaped(positive[family.inputs[0].argument], text), len(text)
    times = total // len(given[family.each]) if family.each else 1
    found = _conditional(text[::times] if times > 1 else text, wanted, guidance.cfg and not family.repeats)
    if found is None:
        return None
    found = [None if index is None or (guidance.spared and guidance.spared[index]) else index for index in found for _ in range(times)]
    if not any(index is not None for index in found):  # a pipeline that goes prompt by prompt
        return None
    inputs = {p.argument: given.get(p.argument) for p in family.inputs}
    others = {p.argument: _each(p, _shaped(negative.get(p.argument), inputs[p.argument]), _of_rows, found, len(wanted), p.batch)
              for p in family.inputs}
    if not family.rows:
        rows = [row for row, index in enumerate(found) if index is not None]
        if rows != list(range(rows[0], rows[-1] + 1)):
            raise RuntimeError(f"The rows {rows} of {total} are to be guided and are not neighbours; NAG cannot guide this batch. "
                               "Prompts without a negative one stand before or behind all others.")
        layout, packed = _packed(family, inputs, others, slice(rows[0], rows[-1] + 1), total, _own_length(text[rows[0]:rows[-1] + 1], wanted))
        return [(None, layout, packed)]
    parts = []
    for row in range(total):  # neighbours with the same lengths go together
        here = slice(row, row + 1)
        if found[row] is None:
            parts.append((here, None, {}))
            continue
        cut = [{p.argument: _trimmed(p, family, side, here) for p in family.inputs} for side in (inputs, others)]
        layout, packed = _packed(family, *cut, slice(0, 1), 1)
        parts.append((here, layout, packed))
    return _grouped(parts)


def _own_length(text, wanted) -> int | None:
    """How many of a tensor's tokens are the text, where tokens of something else (and not padding) follow."""
    longer = isinstance(text, torch.Tensor) and text.ndim == 3 and text.shape[1] > wanted.shape[1]
    return wanted.shape[1] if longer and text[:, wanted.shape[1]:].any() else None


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


def _shaped(value, like):
    """Some pipelines give the text a dimension of one behind the rows after it was encoded."""
    tensors = isinstance(value, torch.Tensor) and isinstance(like, torch.Tensor)
    return value.unsqueeze(1) if tensors and like.ndim == value.ndim + 1 and like.shape[1] == 1 else value


def _of_rows(value, found, count: int, dim: int = 0):
    """The negative's row for every row of the batch; unconditional rows get one too, which nobody reads."""
    if value is None or not isinstance(value, (torch.Tensor, list)) or _count(value, dim) != count:
        return value
    indices = [index or 0 for index in found]
    return [value[i] for i in indices] if isinstance(value, list) else value.index_select(dim, torch.tensor(indices, device=value.device))


def _trimmed(packed, family, side: dict, rows: slice):
    """One row of a text or its companions without the tokens that its mask leaves out."""
    value, mask = side.get(packed.argument), family.companion("mask", packed.of) or family.companion("count", packed.of)
    if value is None:
        return None
    value, kind, mask = value[rows], mask and mask.kind, side.get(mask.argument) if mask else None
    if mask is None or packed.kind == "count":
        return value
    if kind == "count":
        return value[:, :int(mask[rows])]
    keep = mask[rows][0].to(value[0].device).bool()
    if not (keep.any() or packed.of or family.empty):
        keep = torch.ones_like(keep[:1])  # an empty text keeps one token: a model wants something to attend to
    if isinstance(value, list):
        return [one[:len(keep)][keep[:len(one)]] for one in value]
    return value.index_select(packed.dim, keep.nonzero()[:, 0])


def _packed(family, inputs: dict, others: dict, rows: slice, total: int, length: int | None = None) -> tuple[Layout, dict]:
    """(layout, {argument: packed input}) of one denoiser call. Only the first `length` tokens of the first text are its own: the
    negative's stand between them and what follows."""
    lengths, packed = [], {}
    for p in family.texts:
        plus, minus = inputs[p.argument], others[p.argument]
        if plus is None:  # a text that this pipeline does without
            lengths.append((0, 0))
            continue
        if minus is None:
            raise ValueError(f"NAG has no negative for {p.argument}: negative_prompt_embeds must be a dictionary with all of this model's texts.")
        if not _alike(plus, minus, p):
            raise ValueError(f"The negative's {p.argument} ({_form(minus)}) must have the form of the prompt's ({_form(plus)}), but for its length.")
        positive = _length(plus, p) if length is None or p is not family.inputs[0] else length
        lengths.append((positive, _length(minus, p)))
        packed[p.argument] = ([torch.cat([a, b.to(a)], p.dim) for a, b in zip(plus, minus, strict=True)] if isinstance(plus, list)
                              else torch.cat([plus.narrow(p.dim, 0, positive), minus.to(plus),
                                              plus.narrow(p.dim, positive, plus.shape[p.dim] - positive)], p.dim))
    for p in family.inputs:
        plus, minus, (positive, negative) = inputs[p.argument], others[p.argument], lengths[p.of]
        text = packed.get(family.texts[p.of].argument)
        if p.kind == "text" or text is None:
            continue
        if p.kind == "count":
            packed[p.argument] = plus + negative
            continue
        if p.kind == "mask":
            if plus is None and (minus is None or minus.all()):
                continue
            plus = minus.new_ones(len(text), positive) if plus is None else plus
            minus = plus.new_ones(len(plus), negative) if minus is None else minus.to(plus)
            packed[p.argument] = torch.cat([plus[:, :positive], minus, plus[:, positive:]], 1)
        elif p.kind == "layers":
            minus = minus[-len(plus):]  # the pipeline's own choice: the last layers, or the last one again
            minus = minus + minus[-1:] * (len(plus) - len(minus))
            packed[p.argument] = [torch.cat([a, b.to(a)], p.dim) for a, b in zip(plus, minus, strict=True)]
        else:
            dim = plus.ndim + p.dim if p.dim < 0 else p.dim  # (T, axes), or with a row dimension
            if minus is None:  # embeddings given by hand come without ids: these are all alike, or count on
                first, second = plus.narrow(dim, 0, 1), plus.narrow(dim, min(1, positive - 1), 1)
                steps = torch.arange(negative, device=plus.device).to(plus).reshape(negative, *[1] * (plus.ndim - dim - 1))
                minus = first + (second - first) * steps
            elif minus.ndim > plus.ndim:  # pipelines that take one row's ids for all
                minus = minus[0]
            minus = minus.to(plus).expand(*plus.shape[:dim], negative, *plus.shape[dim + 1:])
            text_ids, image_ids = plus.split([positive, plus.shape[dim] - positive], dim)
            packed[p.argument] = torch.cat([text_ids, minus, image_ids], dim)
    return Layout(tuple(lengths), rows, total), packed


def _alike(plus, minus, packed) -> bool:
    """Whether two texts differ in their length alone."""
    if isinstance(plus, list) or isinstance(minus, list):
        return isinstance(plus, list) and isinstance(minus, list) and all(_alike(*pair, packed) for pair in zip(plus, minus, strict=True))
    return plus.ndim == minus.ndim and all(a == b for dim, (a, b) in enumerate(zip(plus.shape, minus.shape, strict=True)) if dim != packed.dim)


def _form(value) -> str:
    return f"list of {_form(value[0])}" if isinstance(value, list) else str(tuple(value.shape))


def _length(value, packed) -> int:
    return value[0].shape[packed.dim] if isinstance(value, list) else value.shape[packed.dim]


def _all_hit(layers, family) -> None:
    """After the first guided call every layer must have been reached."""
    missed = [layer.name for layer in layers if not layer.hit and not re.fullmatch(family.silent, layer.name)]
    if missed:
        raise RuntimeError(
            f"NAG did not reach the attention of {len(missed)} of {len(layers)} layers (first: {missed[0]}), so the picture would be "
            "guided in part or not at all. Their processor calls neither F.scaled_dot_product_attention nor dispatch_attention_fn: "
            "call pipe.unet.set_attn_processor(AttnProcessor2_0()) or the model's default processor."
        )
