"""The small adapters: for models that count their text tokens somewhere outside of attention.

Each is a function (pipe, denoiser, guidance) -> context manager, entered while `nag.guide` is open. While `guidance.layout` is None
(no guided call is running) what an adapter wraps does what it always did. Each states what would go wrong without it.
"""

import contextlib
import functools

import torch


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
        for block in denoiser.blocks:
            if getattr(block.attn2, "add_k_proj", None) is not None:
                stack.enter_context(replaced(block.attn2, "forward", forward))
                for name in ("to_k", "to_v", "to_kv"):
                    if hasattr(block.attn2, name):
                        stack.enter_context(replaced(getattr(block.attn2, name), "forward", project))
        yield
