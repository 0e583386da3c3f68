"""The small adapters: for models that count their text tokens somewhere outside of attention.

Each is a function (pipe, denoiser, guidance) -> context manager, entered while `nag.guide` is open. While `guidance.layout` is None
(no guided call is running) what an adapter wraps does what it always did. Each states what would go wrong without it.

To change a call of the whole denoiser, the context manager's value is a function (call, ...), which stands around every such call.
Nothing is put in the place of a whole model's `forward`: offloading takes its hooks there off and on after every picture, and what
had been put there between goes with them.
"""

import contextlib
import copy
import dataclasses
import functools
import sys
import types

import torch
import torch.nn.functional as F

from .attention_processor import at_home


def replaced(owner, name: str, wrapper):
    """`owner.name` is `wrapper(original, ...)` for a while."""
    original = getattr(owner, name)

    @functools.wraps(original)
    def call(*args, **kwargs):
        return wrapper(original, *args, **kwargs)
    return placed(owner, name, call)


@contextlib.contextmanager
def placed(owner, name: str, value):
    """`owner.name` is `value` for a while. A method is shadowed on the instance, and the shadow removed."""
    original, had = getattr(owner, name), name in vars(owner)
    object.__setattr__(owner, name, value)
    try:
        yield
    finally:
        if had:
            object.__setattr__(owner, name, original)
        else:
            object.__delattr__(owner, name)


class Wrapped:
    """A method led through `wrapper(original, ...)`. Pipelines deep-copy their scheduler (one for the sound, or one a frame): a copy gets
    its own method back, where a plain function would go on changing the state of the original."""

    def __init__(self, original, wrapper):
        functools.update_wrapper(self, original)
        self.original, self.wrapper = original, wrapper

    def __call__(self, *args, **kwargs):
        return self.wrapper(self.original, *args, **kwargs)

    def __deepcopy__(self, memo):
        return copy.deepcopy(self.original, memo)


@contextlib.contextmanager
def called(owner, wrapper):
    """`owner(...)` is `wrapper(original, ...)` for a while.

    By its class, which `type(owner)(...)` asks, and not by `forward`: that is where torch.compile and the hooks of offloading and
    of caches put themselves, and pipelines take such hooks off and on again after every picture.
    """
    cls = type(owner)
    if "_nag_call" in vars(owner):
        raise RuntimeError(f"This {cls.__name__} is guided already; leave one nag.guide before you enter the next.")
    object.__setattr__(owner, "_nag_call", wrapper)
    object.__setattr__(owner, "__class__", _callable(cls))
    try:
        yield
    finally:
        object.__setattr__(owner, "__class__", cls)
        object.__delattr__(owner, "_nag_call")


@functools.cache  # one for each class: to torch.compile another class is another program
def _callable(cls):
    @functools.wraps(cls.__call__)
    def call(self, *args, **kwargs):
        wrapper = vars(self).get("_nag_call")  # a module compiled meanwhile keeps this function for good
        return cls.__call__(self, *args, **kwargs) if wrapper is None else wrapper(functools.partial(cls.__call__, self), *args, **kwargs)
    return type(cls.__name__, (cls,), {"__call__": call, "__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__})


def own_forward(denoiser, function):
    """`function` is what a denoiser runs inside of its hooks: accelerate's put its `forward` aside as `_old_forward`. For one call, and
    always with the same function: torch.compile would take another one for another program."""
    return placed(denoiser, "_old_forward" if "_old_forward" in vars(denoiser) else "forward", function)


def halves(value, layout, sign: int):
    """The positive's (sign 0) or the negative's (sign 1) part of a packed tensor (B, T+ + T-, ...); anything else as it is."""
    positive, negative = layout.texts[0]
    if isinstance(value, torch.Tensor) and value.ndim > 1 and value.shape[1] == positive + negative:
        return value.narrow(1, *((0, positive), (positive, negative))[sign])
    return value


def rejoined(positive, negative, layout):
    """Two results of a text-only module as one: what has tokens is put behind one another, the rest is the positive's."""
    if isinstance(positive, (tuple, list)):
        return type(positive)(rejoined(p, n, layout) for p, n in zip(positive, negative, strict=True))
    tokens = isinstance(positive, torch.Tensor) and positive.ndim > 1
    if tokens and (positive.shape[1], negative.shape[1]) == layout.texts[0]:
        return torch.cat([positive, negative], 1)
    return positive


def apart(path: str):
    """A module that mixes or pools the tokens of its text runs on each text alone. What it pools (a modulation) is the positive's."""
    def adapter(pipe, denoiser, guidance):
        def forward(original, *args, **kwargs):
            layout = guidance.layout
            if layout is None:
                return original(*args, **kwargs)
            results = [original(*(halves(a, layout, sign) for a in args), **{k: halves(v, layout, sign) for k, v in kwargs.items()})
                       for sign in (0, 1)]
            return rejoined(*results, layout)
        return replaced(denoiser.get_submodule(path), "forward", forward)
    adapter.__doc__ = f"`{path}` sees each text alone."
    return adapter


def counted_from_zero(*paths: str):
    """Rotary tables of a text, looked up by position. The negative's tokens would have none: Kandinsky 5 is told the positive's positions
    alone, and two texts at full length count beyond the table's end."""
    @contextlib.contextmanager
    def adapter(pipe, denoiser, guidance):
        def forward(original, positions, *args, **kwargs):
            if guidance.layout is not None:
                positions = torch.cat([torch.arange(length, device=positions.device) for length in guidance.layout.texts[0]])
            return original(positions, *args, **kwargs)
        with contextlib.ExitStack() as stack:
            for path in paths:
                stack.enter_context(replaced(denoiser.get_submodule(path), "forward", forward))
            yield
    adapter.__doc__ = "The negative's positions are counted from zero, as the positive's."
    return adapter


def one_text_per_patch_embed(pipe, denoiser, guidance):
    """The table of positions that is added to text and video has room for one text: the negative takes the positive's places (in turns
    of the positive's length where it is longer), or the shapes would not match."""
    def forward(original, text, video):
        if guidance.layout is None:
            return original(text, video)
        positive, negative = text.split(guidance.layout.texts[0], 1)
        count = positive.shape[1]
        embedded = original(positive, video)
        parts = [original(F.pad(part, (0, 0, 0, count - part.shape[1])), video)[:, :part.shape[1]] for part in negative.split(count, 1)]
        return torch.cat([embedded[:, :count], *parts, embedded[:, count:]], 1)
    return replaced(denoiser.patch_embed, "forward", forward)


@contextlib.contextmanager
def hunyuan_video_15(pipe, denoiser, guidance):
    """Its refiner pools and mixes the first text's tokens, so each text goes through it alone. Without a picture, the model keeps masked
    tokens of one behind the texts, with one they stand before: the masked ones are left out, so that the texts are always last."""
    def forward(original, image_embeds):
        embedded = original(image_embeds)
        return embedded[:, :0] if guidance.layout is not None and not image_embeds.any() else embedded
    with apart("context_embedder")(pipe, denoiser, guidance), replaced(denoiser.image_embedder, "forward", forward):
        yield


def joy_image_positions(pipe, denoiser, guidance):
    """Where text has positions (rope_type "mrope"), they start behind the image's; the negative's must start there again."""
    def get_rotary_pos_embed(original, *args, txt_rope_size=None, **kwargs):
        if guidance.layout is None or txt_rope_size is None:
            return original(*args, txt_rope_size=txt_rope_size, **kwargs)
        positive, negative = (original(*args, txt_rope_size=length, **kwargs) for length in guidance.layout.texts[0])
        return positive[0], tuple(torch.cat(pair) for pair in zip(positive[1], negative[1], strict=True))
    return replaced(denoiser, "get_rotary_pos_embed", get_rotary_pos_embed)


def pooled(path: str, of: int = 0):
    """A module that pools a text into one vector for all tokens (a modulation) would mix both texts into it: it sees the positive alone."""
    def adapter(pipe, denoiser, guidance):
        def alone(value):
            positive, negative = guidance.layout.texts[of]
            dims = (1, value.ndim - 1) if isinstance(value, torch.Tensor) and value.ndim > 1 else ()  # tokens, or a mask over them
            dim = next((dim for dim in dims if value.shape[dim] == positive + negative), None)
            return value if dim is None else value.narrow(dim, 0, positive)

        def forward(original, *args, **kwargs):
            if guidance.layout is None:
                return original(*args, **kwargs)
            return original(*map(alone, args), **{name: alone(value) for name, value in kwargs.items()})
        return replaced(denoiser.get_submodule(path), "forward", forward)
    adapter.__doc__ = f"`{path}` pools the text: it sees the positive's alone."
    return adapter


@contextlib.contextmanager
def beside_the_image(pipe, denoiser, guidance):
    """UNets that add their text's keys to the image's may pool it into the time embedding, and normalise it over all tokens: each
    text alone, or they would mix."""
    def norm(original, tokens):  # (B, D, T)
        layout = guidance.layout
        return original(tokens) if layout is None else torch.cat([original(text) for text in tokens.split(layout.texts[0], 2)], 2)

    with contextlib.ExitStack() as stack:
        if denoiser.config.get("addition_embed_type") == "text":
            stack.enter_context(pooled("add_embedding")(pipe, denoiser, guidance))
        for module in denoiser.modules():
            if isinstance(getattr(module, "norm_cross", None), torch.nn.GroupNorm):
                stack.enter_context(replaced(module.norm_cross, "forward", norm))
        yield


def qwen_positions(pipe, denoiser, guidance):
    """Text positions start behind the image's and count on; the negative's must start there again."""
    def forward(original, *args, max_txt_seq_len=None, **kwargs):
        if guidance.layout is None:
            return original(*args, max_txt_seq_len=max_txt_seq_len, **kwargs)
        positive, negative = (original(*args, max_txt_seq_len=length, **kwargs) for length in guidance.layout.texts[0])
        return positive[0], torch.cat([positive[1], negative[1]], 0)
    return replaced(denoiser.pos_embed, "forward", forward)


def z_image_captions(pipe, denoiser, guidance):
    """Every caption is padded to a multiple of 32 and numbered from 1; the image's numbers follow the positive caption's."""
    def patchify_and_embed(original, images, captions, *args, **kwargs):
        layout = guidance.layout
        if layout is None:
            return original(images, captions, *args, **kwargs)
        lengths = layout.texts[0]
        plus, minus = (original(images, [c.split(lengths)[sign] for c in captions], *args, **kwargs) for sign in (0, 1))
        both = list(plus)
        for place in (1, 4, 6):  # captions, their position ids (a few too many, which the model cuts off at the end), their padding
            both[place] = [torch.cat([p[:len(cp)], n[:len(cn)]])
                           for p, n, cp, cn in zip(plus[place], minus[place], plus[1], minus[1], strict=True)]
        return tuple(both)
    return replaced(denoiser, "patchify_and_embed", patchify_and_embed)


class Hidden:
    """The negative's tokens. A class of its own, for torch.compile cannot trace a write to a SimpleNamespace."""

    tokens = None


@contextlib.contextmanager
def behind_the_image(pipe, denoiser, guidance):
    """Image-to-video models cut the context at 512 from its end into image and text: the negative is hidden until the
    text's own projections."""
    hidden = Hidden()

    def forward(original, hidden_states, encoder_hidden_states=None, *args, **kwargs):
        if guidance.layout is None:
            return original(hidden_states, encoder_hidden_states, *args, **kwargs)
        positive, negative = guidance.layout.texts[0]
        pictures = encoder_hidden_states.shape[1] - positive - negative
        if pictures == positive + negative:  # the op could not tell which of the two it attends
            raise ValueError(f"This model has {pictures} image tokens, and the texts have as many: give a negative text of another length.")
        shown, tokens = encoder_hidden_states.split([pictures + positive, negative], 1)
        hidden.tokens = tokens
        return original(hidden_states, shown, *args, **kwargs)

    def project(linear, tokens):
        return linear(tokens if guidance.layout is None else torch.cat([tokens, hidden.tokens], 1))

    with contextlib.ExitStack() as stack:
        for path, attention in denoiser.named_modules():
            if path.endswith(".attn2") and getattr(attention, "add_k_proj", None) is not None:
                stack.enter_context(replaced(attention, "forward", forward))
                for name in ("to_k", "to_v", "to_kv"):
                    if hasattr(attention, name):
                        stack.enter_context(replaced(getattr(attention, name), "forward", project))
        yield


@contextlib.contextmanager
def kept_references(pipe, denoiser, guidance):
    """FLUX.2 klein KV keeps the keys of its reference images from the first step: keys without queries, which would pass for an
    attention that is not the text's. The references attend themselves alone, so what is kept holds nothing of a text."""
    def forward(original, *args, **kwargs):
        if guidance.layout is not None:
            cache = kwargs.get("kv_cache")
            guidance.layout.kept = cache.num_ref_tokens if cache is not None else kwargs.get("num_ref_tokens", 0)
        return original(*args, **kwargs)
    yield forward


@contextlib.contextmanager
def mask_of_text_and_image(pipe, denoiser, guidance):
    """The mask comes inside `joint_attention_kwargs`, covers the image too and is left out where nothing is padded; it would be
    too short for a packed text. `attention_mask` brings the negative's."""
    def forward(original, hidden_states, *args, attention_mask=None, joint_attention_kwargs=None, **kwargs):
        given = (joint_attention_kwargs or {}).get("attention_mask")
        if guidance.layout is not None and (given is not None or attention_mask is not None):
            positive, negative = guidance.layout.texts[0]
            ones = hidden_states.new_ones(len(hidden_states), positive + hidden_states.shape[1]).bool()
            own = ones if given is None else given[:, 0, 0]
            other = ones[:, :1].expand(-1, negative) if attention_mask is None else attention_mask[:, positive:].bool()
            mask = torch.cat([own[:, :positive], other, own[:, positive:]], 1)[:, None, None]
            joint_attention_kwargs = {**(joint_attention_kwargs or {}), "attention_mask": mask}
        return original(hidden_states, *args, joint_attention_kwargs=joint_attention_kwargs, **kwargs)
    yield forward


def around_the_image(kind, lengths, count):
    """Spans: the positive text, the image, the negative text."""
    positive, negative = lengths[0]
    return [(0, positive)], [(count - negative, negative)]


@contextlib.contextmanager
def ideogram_sequence(pipe, denoiser, guidance):
    """Text (padded on its left) and image are one sequence from `encode_prompt` on: the negative would bring its padding and an
    image of its own. It is cut out and stands behind the image, with roles and positions made for it as the pipeline makes them."""
    text = {}

    def encode_prompt(original, *args, **kwargs):
        result = original(*args, **kwargs)
        positive, negative = (side["encoder_hidden_states"] for side in guidance.encoded)
        used = [side.any(-1).any(0).nonzero()[:, 0] for side in (positive, negative)]  # padding and image are zeros
        text["length"] = int(used[0].max()) + 1
        guidance.encoded[1]["encoder_hidden_states"] = negative[:, used[1].min():used[1].max() + 1]
        return result

    def forward(original, hidden_states, timestep, encoder_hidden_states, position_ids, segment_ids, indicator, **kwargs):
        if guidance.layout is None:
            return original(hidden_states, timestep, encoder_hidden_states, position_ids, segment_ids, indicator, **kwargs)
        end, negative = text["length"], guidance.layout.texts[0][1]
        guidance.layout = dataclasses.replace(guidance.layout, texts=((end, negative),))
        used = encoder_hidden_states[:, -negative:].any(-1)
        places = (used.long().cumsum(1) - 1).clamp(min=0)[..., None].expand(-1, -1, position_ids.shape[-1])
        output = original(
            torch.cat([hidden_states, hidden_states.new_zeros(len(hidden_states), negative, hidden_states.shape[2])], 1), timestep,
            encoder_hidden_states, torch.cat([position_ids, places], 1),
            torch.cat([segment_ids, torch.where(used, segment_ids[:, end - 1:end], -1)], 1),
            torch.cat([indicator, torch.where(used, indicator[:, end - 1:end], 0)], 1), **kwargs)
        return (output[0][:, :-negative],)

    with replaced(pipe, "encode_prompt", encode_prompt):
        yield forward


def gists_or_text(kind, lengths, count):
    """Spans: keys are the text itself where it is injected, and else its gist tokens, which `gist_tokens` counts while it runs."""
    positive, negative = lengths[0 if kind == "injected" else -1]
    return [(0, positive)], [(positive, negative)]


@contextlib.contextmanager
def gist_tokens(pipe, denoiser, guidance):
    """A perceiver turns the text into gist tokens, fewer than the text's and as many as its length asks for, numbered from 1: both
    texts together would make the gist of one long text. So they are counted, made and numbered apart."""
    forward = type(denoiser).forward
    module = sys.modules[forward.__module__]
    namespace = types.SimpleNamespace(**vars(module))

    def compute_gist_count(text_lengths, **options):
        layout = guidance.layout
        gists = module.compute_gist_count(list(layout.texts[0]), **options)
        guidance.layout = dataclasses.replace(layout, texts=(layout.texts[0], tuple(gists)))
        return [sum(gists)] * len(text_lengths)

    def perceive(original, text, count, mask=None, gist_mask=None):
        if guidance.layout is None:
            return original(text, count, mask, gist_mask)
        texts, gists = guidance.layout.texts
        masks = (None, None) if mask is None else mask.split(texts, 1)
        return torch.cat([original(*half) for half in zip(text.split(texts, 1), gists, masks, strict=True)], 1)

    def grid(original, size, start, *args, **kwargs):
        if guidance.layout is None or start[0] != 1:  # images stand behind the last gist's place
            return original(size, start, *args, **kwargs)
        return torch.cat([original((gist, 1, 1), start, *args, **kwargs) for gist in guidance.layout.texts[1]])

    def call(original, *args, **kwargs):
        if guidance.layout is None:
            return original(*args, **kwargs)
        with own_forward(denoiser, counting):
            return original(*args, **kwargs)

    namespace.compute_gist_count = compute_gist_count
    counting = types.MethodType(at_home(forward, namespace), denoiser)
    with replaced(denoiser.perceiver, "forward", perceive), replaced(denoiser, "create_coordinate_grid", grid):
        yield call


def shifted(text, image_from, image_to):
    """Rotary factors of a text whose image stands at `image_from`, moved along so that it has its distance to `image_to`."""
    return text * (image_to[..., :1, :] / image_from[..., :1, :])


def lumina_positions(pipe, denoiser, guidance):
    """The image's positions start behind the caption. The negative keeps its own distance to the image, as if it were alone with it."""
    def forward(original, hidden_states, attention_mask):
        layout = guidance.layout
        if layout is None:
            return original(hidden_states, attention_mask)
        plus, minus = (original(hidden_states, mask) for mask in attention_mask.split(layout.texts[0], 1))
        text = torch.cat([plus[1], shifted(minus[1], minus[2], plus[2])], 1)
        lengths = [[a + b for a, b in zip(plus[4], minus[4], strict=True)], [a + b for a, b in zip(plus[5], minus[4], strict=True)]]
        return plus[0], text, plus[2], torch.cat([text, plus[2]], 1), *lengths
    return replaced(denoiser.rope_embedder, "forward", forward)


def registers(pipe, denoiser, guidance):
    """The model puts its register tokens before its text. The negative needs a copy: registers see text and image, and differ with them."""
    def forward(original, encoder_hidden_states):
        text, layout = original(encoder_hidden_states), guidance.layout
        if layout is None:
            return text
        positive, negative = text.split(layout.texts[0], 1)
        return torch.cat([positive, denoiser.register_tokens.to(text).expand(len(text), -1, -1), negative], 1)
    return replaced(denoiser.context_embedder, "forward", forward)


@contextlib.contextmanager
def ernie_texts(pipe, denoiser, guidance):
    """The pipeline pads its list of texts into a tensor, which is not what `encode_prompt` returned. In the model every
    text is numbered from 0, and the image's number follows the positive's (not a rotation, so distances would not do)."""
    def pad_text(original, text_hiddens, *args, **kwargs):
        padded = original(text_hiddens, *args, **kwargs)
        sides = guidance.encoded and [side.get("text_bth") for side in guidance.encoded]
        if sides and isinstance(sides[0], list):
            if not all(a is b for a, b in zip(sides[0], text_hiddens[-len(sides[0]):], strict=True)):
                raise ValueError("NAG needs the words: with prompt_embeds ErnieImagePipeline does not call encode_prompt for the prompt.")
            plus, minus = (original(side, *args, **kwargs) if isinstance(side, list) else (side, None) for side in sides)
            plus = F.pad(plus[0], (0, 0, 0, padded[0].shape[1] - plus[0].shape[1])), plus[1]
            guidance.encoded = tuple(dict(zip(("text_bth", "text_lens"), side, strict=True)) for side in (plus, minus))
        return padded

    def pos_embed(original, ids):
        if guidance.layout is not None:
            ids, (positive, negative) = ids.clone(), guidance.layout.texts[0]
            ids[:, :-positive - negative, 0] = positive
            ids[:, -negative:, 0] = torch.arange(negative, dtype=ids.dtype, device=ids.device)
        return original(ids)

    with contextlib.ExitStack() as stack:
        if hasattr(pipe, "_pad_text"):
            stack.enter_context(replaced(pipe, "_pad_text", pad_text))
        stack.enter_context(replaced(denoiser.pos_embed, "forward", pos_embed))
        yield


@contextlib.contextmanager
def qwen_21_layout(pipe, denoiser, guidance):
    """The model reads where its image tokens are from a mask over the joint sequence, and the image's positions start behind the
    text: the negative keeps its own distance. Its cache of text keys is left out: it would not know that guidance has ended."""
    if any("Flex" in base.__name__ for m in denoiser.modules() for base in type(getattr(m, "processor", None)).__mro__):
        raise ValueError("NAG needs QwenImage21AttnProcessor: one flex_attention call cannot hold two texts apart.")
    cached = set()

    def forward(original, *args, **kwargs):
        layout, cache = guidance.layout, kwargs.get("kv_cache")
        if layout is not None:
            cached.add(id(cache))
            positive, negative = layout.texts[0]
            mask = kwargs["img_mask"]
            if mask[:, :positive].any():
                raise ValueError("NAG guides Qwen-Image 2.1 from text alone: with condition images the pictures stand between the words.")
            kwargs["img_mask"] = torch.cat([mask.new_zeros(len(mask), negative), mask], 1)
        if cache is not None and id(cache) in cached:
            kwargs |= {"kv_cache": None, "kv_cache_mode": None}
        return original(*args, **kwargs)

    def pos_embed(original, img_shapes, image_pad_mask, *args, **kwargs):
        if guidance.layout is None:
            return original(img_shapes, image_pad_mask, *args, **kwargs)
        positive, negative = guidance.layout.texts[0]
        plus, minus = (original(img_shapes, image_pad_mask[other:], *args, **kwargs) for other in (negative, positive))
        return torch.cat([plus[:positive], shifted(minus[:negative], minus[negative:], plus[positive:]), plus[positive:]])

    with replaced(denoiser.pos_embed, "forward", pos_embed):
        yield forward


@contextlib.contextmanager
def hunyuan_dit_texts(pipe, denoiser, guidance):
    """Padding is a learned token per position of the two texts, the negative's like the positive's; T5's text is also pooled into the
    modulation, by a module that has as many positions, and sees the positive's alone."""
    own = getattr(denoiser, "_old_forward", denoiser.forward)

    def forward(*args, **kwargs):
        positions = []
        for start, length, pair in zip((0, denoiser.config.text_len), (denoiser.config.text_len, denoiser.config.text_len_t5),
                                       guidance.layout.texts, strict=True):
            positions += [start + torch.arange(count).clamp(max=length - 1) for count in pair]
        object.__setattr__(denoiser, "text_embedding_padding", denoiser.text_embedding_padding[torch.cat(positions)])
        try:
            return own(*args, **kwargs)
        finally:
            object.__delattr__(denoiser, "text_embedding_padding")  # the parameter is back

    def call(original, *args, **kwargs):
        if guidance.layout is None:
            return original(*args, **kwargs)
        with own_forward(denoiser, forward):  # where the parameter is on the device
            return original(*args, **kwargs)

    with pooled("time_extra_emb", of=1)(pipe, denoiser, guidance):
        yield call


def first_row(text, wanted) -> int | None:
    """Where the rows of `wanted` stand in a batch of texts."""
    starts = range(0, len(text) - len(wanted) + 1, len(wanted))
    return next((i for i in starts if text.shape[1:] == wanted.shape[1:] and torch.equal(text[i:i + len(wanted)], wanted.to(text))), None)


def connected(pipe, denoiser, guidance):
    """The pipeline's connectors rewrite the text (and make the sound's) between `encode_prompt` and the denoiser, which would show
    rows that nobody encoded: the negative goes through them too, and rows are recognised by what they made of the positive."""
    def sides(video, audio, keep):
        return {"encoder_hidden_states": video, "audio_encoder_hidden_states": audio,
                "encoder_attention_mask": keep, "audio_encoder_attention_mask": keep}

    def forward(original, text, mask, *args, **kwargs):
        result = original(text, mask, *args, **kwargs)
        positive, negative = guidance.encoded or (None, None)
        start = first_row(text, positive["encoder_hidden_states"]) if positive else None
        if start is not None:
            if "audio_encoder_hidden_states" not in negative:  # given by hand, it comes as the denoiser takes it
                negative = sides(*original(negative["encoder_hidden_states"].to(text), negative["encoder_attention_mask"].to(mask), *args, **kwargs))
            guidance.encoded = sides(*(out[start:start + len(positive["encoder_hidden_states"])] for out in result)), negative
        return result
    connectors = getattr(pipe, "connectors", None)
    return contextlib.nullcontext() if connectors is None else called(connectors, forward)


def conditioned(pipe, denoiser, guidance):
    """The pipeline's condition encoder makes one text of prompt, lyrics and timbre after `encode_prompt`, and the denoiser would show
    rows that nobody encoded: it makes one of the negative prompt with the same lyrics and timbre too."""
    def forward(original, *args, **kwargs):
        result = original(*args, **kwargs)
        positive, other = guidance.results or (None, None)
        if positive and first_row(kwargs["text_hidden_states"], positive[0]) == 0:
            negative = guidance.encoded[1]
            if other is not None:  # not given by hand, as the denoiser takes it
                negative = {"encoder_hidden_states": original(*args, **{
                    **kwargs, "text_hidden_states": other[0], "text_attention_mask": other[1]})[0]}
            guidance.encoded = {"encoder_hidden_states": result[0]}, negative
        return result
    encoder = getattr(pipe, "condition_encoder", None)
    return contextlib.nullcontext() if encoder is None else called(encoder, forward)


def text_last(pipe, denoiser, guidance):
    """Between image and text other tokens could not be told from the text's: the text is moved behind them. Keys have no order."""
    def embed(original, *args, **kwargs):
        embeds = original(*args, **kwargs)
        return embeds if guidance.layout is None else embeds.roll(-sum(guidance.layout.texts[0]), 1)
    return replaced(denoiser, "get_clip_embeddings", embed)
