"""The small adapters: for models that count their text tokens somewhere outside of attention.

Each is a function (pipe, denoiser, guidance) -> context manager, entered while `nag.guide` is open. While `guidance.layout` is None
(no guided call is running) what an adapter wraps does what it always did. Each states what would go wrong without it.
"""

import contextlib
import functools

import torch


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
    return adapter


def pooled(path: str):
    """A module that pools the text and returns no tokens would mix both texts into one modulation: it sees the positive's."""
    def adapter(pipe, denoiser, guidance):
        def alone(value):
            total = sum(guidance.layout.texts[0])
            if not isinstance(value, torch.Tensor) or value.ndim < 3:
                return value
            dim = next((dim for dim in (1, value.ndim - 1) if value.shape[dim] == total), None)  # tokens, or a mask over them
            return value if dim is None else value.narrow(dim, 0, guidance.layout.texts[0][0])

        def forward(original, *args, **kwargs):
            if guidance.layout is None:
                return original(*args, **kwargs)
            return original(*map(alone, args), **{name: alone(value) for name, value in kwargs.items()})
        return replaced(denoiser.get_submodule(path), "forward", forward)
    return adapter


@contextlib.contextmanager
def beside_the_image(pipe, denoiser, guidance):
    """UNets that add their text's keys to the image's may pool it into the time embedding, and normalise it over all tokens: each
    text alone, or they would mix."""
    def norm(original, tokens):  # (B, D, T)
        layout = guidance.layout
        return original(tokens) if layout is None else torch.cat([original(text) for text in tokens.split(layout.texts[0], 2)], 2)

    with contextlib.ExitStack() as stack:
        if denoiser.config.addition_embed_type == "text":
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


@contextlib.contextmanager
def behind_the_image(pipe, denoiser, guidance):
    """Image-to-video models cut the context at 512 from its end into image and text: the negative is hidden until the
    text's own projections."""
    attentions = [m for name, m in denoiser.named_modules() if name.endswith(".attn2") and getattr(m, "add_k_proj", None) is not None]

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
    return contextlib.nullcontext() if connectors is None else replaced(connectors, "forward", forward)


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
    return contextlib.nullcontext() if encoder is None else replaced(encoder, "forward", forward)


def text_last(pipe, denoiser, guidance):
    """Between image and text other tokens could not be told from the text's: the text is moved behind them. Keys have no order."""
    def embed(original, *args, **kwargs):
        embeds = original(*args, **kwargs)
        return embeds if guidance.layout is None else embeds.roll(-sum(guidance.layout.texts[0]), 1)
    return replaced(denoiser, "get_clip_embeddings", embed)
