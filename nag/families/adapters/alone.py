"""Models that mix, pool or normalise the tokens of their text: each text goes alone."""

import contextlib

import torch

from ...patch import own_forward, wrap_method


def halves(value, layout, sign: int):
    """The positive's (sign 0) or the negative's (sign 1) part of a packed tensor (B, T+ + T-, ...); anything else as it is."""
    positive, negative = layout.texts[0]
    if isinstance(value, torch.Tensor) and value.ndim > 1 and value.shape[1] == positive + negative:
        return value.narrow(1, *((0, positive), (positive, negative))[sign])
    return value


def rejoined(positive, negative, layout):
    """Two results of a text-only module as one: what has tokens is put behind one another, the rest is the positive's."""
    if isinstance(positive, (tuple, list)):
        return type(positive)(
            rejoined(p, n, layout) for p, n in zip(positive, negative, strict=True)
        )
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
            results = [
                original(
                    *(halves(a, layout, sign) for a in args),
                    **{k: halves(v, layout, sign) for k, v in kwargs.items()},
                )
                for sign in (0, 1)
            ]
            return rejoined(*results, layout)

        return wrap_method(denoiser.get_submodule(path), "forward", forward)

    adapter.__doc__ = f"`{path}` sees each text alone."
    return adapter


@contextlib.contextmanager
def hunyuan_video_15(pipe, denoiser, guidance):
    """Its refiner pools and mixes the first text's tokens, so each text goes through it alone. Without a picture, the model keeps masked
    tokens of one behind the texts, with one they stand before: the masked ones are left out, so that the texts are always last."""

    def forward(original, image_embeds):
        embedded = original(image_embeds)
        return (
            embedded[:, :0] if guidance.layout is not None and not image_embeds.any() else embedded
        )

    with (
        apart("context_embedder")(pipe, denoiser, guidance),
        wrap_method(denoiser.image_embedder, "forward", forward),
    ):
        yield


def pooled(path: str, of: int = 0):
    """A module that pools a text into one vector for all tokens (a modulation) would mix both texts into it: it sees the positive alone."""

    def adapter(pipe, denoiser, guidance):
        def alone(value):
            positive, negative = guidance.layout.texts[of]
            dims = (
                (1, value.ndim - 1) if isinstance(value, torch.Tensor) and value.ndim > 1 else ()
            )  # tokens, or a mask over them
            dim = next((dim for dim in dims if value.shape[dim] == positive + negative), None)
            return value if dim is None else value.narrow(dim, 0, positive)

        def forward(original, *args, **kwargs):
            if guidance.layout is None:
                return original(*args, **kwargs)
            return original(
                *map(alone, args), **{name: alone(value) for name, value in kwargs.items()}
            )

        return wrap_method(denoiser.get_submodule(path), "forward", forward)

    adapter.__doc__ = f"`{path}` pools the text: it sees the positive's alone."
    return adapter


@contextlib.contextmanager
def beside_the_image(pipe, denoiser, guidance):
    """UNets that add their text's keys to the image's may pool it into the time embedding, and normalise it over all tokens: each
    text alone, or they would mix."""

    def norm(original, tokens):  # (B, D, T)
        layout = guidance.layout
        return (
            original(tokens)
            if layout is None
            else torch.cat([original(text) for text in tokens.split(layout.texts[0], 2)], 2)
        )

    with contextlib.ExitStack() as stack:
        if denoiser.config.get("addition_embed_type") == "text":
            stack.enter_context(pooled("add_embedding")(pipe, denoiser, guidance))
        for module in denoiser.modules():
            if isinstance(getattr(module, "norm_cross", None), torch.nn.GroupNorm):
                stack.enter_context(wrap_method(module.norm_cross, "forward", norm))
        yield


@contextlib.contextmanager
def hunyuan_dit_texts(pipe, denoiser, guidance):
    """Padding is a learned token per position of the two texts, the negative's like the positive's; T5's text is also pooled into the
    modulation, by a module that has as many positions, and sees the positive's alone."""
    own = getattr(denoiser, "_old_forward", denoiser.forward)

    def forward(*args, **kwargs):
        positions = []
        for start, length, pair in zip(
            (0, denoiser.config.text_len),
            (denoiser.config.text_len, denoiser.config.text_len_t5),
            guidance.layout.texts,
            strict=True,
        ):
            positions += [start + torch.arange(count).clamp(max=length - 1) for count in pair]
        object.__setattr__(
            denoiser,
            "text_embedding_padding",
            denoiser.text_embedding_padding[torch.cat(positions)],
        )
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
