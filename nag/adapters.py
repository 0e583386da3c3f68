"""The small adapters: for models that count their text tokens somewhere outside of attention.

Each is a function (pipe, denoiser, guidance) -> context manager, entered while `nag.guide` is open. While `guidance.layout` is None
(no guided call is running) what an adapter wraps does what it always did. Each states what would go wrong without it.
"""

import contextlib
import dataclasses
import functools
import sys
import types

import torch
import torch.nn.functional as F

from .attention_processor import at_home


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


def halves(value, layout, sign: int, of: int = 0):
    """The positive's (sign 0) or the negative's (sign 1) part of a packed tensor (B, T+ + T-, ...); anything else as it is."""
    positive, negative = layout.texts[of]
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


@contextlib.contextmanager
def behind_the_image(pipe, denoiser, guidance):
    """Image-to-video models cut the context at 512 from its end into image and text: the negative is hidden until the
    text's own projections."""
    attentions = [block.attn2 for block in denoiser.blocks if getattr(block.attn2, "add_k_proj", None) is not None]

    def forward(attention, original, hidden_states, encoder_hidden_states=None, *args, **kwargs):
        if guidance.layout is None:
            return original(hidden_states, encoder_hidden_states, *args, **kwargs)
        negative = guidance.layout.texts[0][1]
        shown, hidden = encoder_hidden_states.split([encoder_hidden_states.shape[1] - negative, negative], 1)

        def project(linear, tokens):
            return linear(torch.cat([tokens, hidden], 1))
        with contextlib.ExitStack() as stack:
            for name in ("to_k", "to_v", "to_kv"):
                if hasattr(attention, name):
                    stack.enter_context(replaced(getattr(attention, name), "forward", project))
            return original(hidden_states, shown, *args, **kwargs)

    with contextlib.ExitStack() as stack:
        for attention in attentions:
            stack.enter_context(replaced(attention, "forward", functools.partial(forward, attention)))
        yield


def kept_references(pipe, denoiser, guidance):
    """FLUX.2 klein KV keeps the keys of its reference images from the first step: keys without queries, which would pass for an
    attention that is not the text's. The references attend themselves alone, so what is kept holds nothing of a text."""
    def forward(original, *args, **kwargs):
        if guidance.layout is not None:
            cache = kwargs.get("kv_cache")
            guidance.layout.kept = cache.num_ref_tokens if cache is not None else kwargs.get("num_ref_tokens", 0)
        return original(*args, **kwargs)
    return replaced(denoiser, "forward", forward)


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
    return replaced(denoiser, "forward", forward)


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

    with replaced(pipe, "encode_prompt", encode_prompt), replaced(denoiser, "forward", forward):
        yield


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
        return original(*args, **kwargs) if guidance.layout is None else counting(denoiser, *args, **kwargs)

    namespace.compute_gist_count = compute_gist_count
    counting = at_home(forward, namespace)
    with (replaced(denoiser.perceiver, "forward", perceive), replaced(denoiser, "create_coordinate_grid", grid),
          replaced(denoiser, "forward", call)):
        yield


def pooled(path: str, of: int = 0):
    """A module that pools a text into one vector for all tokens (a modulation) sees the positive alone."""
    def adapter(pipe, denoiser, guidance):
        def forward(original, *args, **kwargs):
            if guidance.layout is None:
                return original(*args, **kwargs)
            positive = functools.partial(halves, layout=guidance.layout, sign=0, of=of)
            return original(*map(positive, args), **{name: positive(value) for name, value in kwargs.items()})
        return replaced(denoiser.get_submodule(path), "forward", forward)
    return adapter


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

    with replaced(denoiser, "forward", forward), replaced(denoiser.pos_embed, "forward", pos_embed):
        yield


@contextlib.contextmanager
def hunyuan_dit_texts(pipe, denoiser, guidance):
    """Padding is a learned token per position of the two texts, the negative's like the positive's; T5's text is also pooled into the
    modulation, by a module that has as many positions, and sees the positive's alone."""
    def forward(original, *args, **kwargs):
        if guidance.layout is None:
            return original(*args, **kwargs)
        positions = []
        for start, length, pair in zip((0, denoiser.config.text_len), (denoiser.config.text_len, denoiser.config.text_len_t5),
                                       guidance.layout.texts, strict=True):
            positions += [start + torch.arange(count).clamp(max=length - 1) for count in pair]
        object.__setattr__(denoiser, "text_embedding_padding", denoiser.text_embedding_padding[torch.cat(positions)])
        try:
            return original(*args, **kwargs)
        finally:
            object.__delattr__(denoiser, "text_embedding_padding")  # the parameter is back

    with replaced(denoiser, "forward", forward), pooled("time_extra_emb", of=1)(pipe, denoiser, guidance):
        yield
