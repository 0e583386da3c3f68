"""Step caches of diffusers and of others: guided as without NAG, to `end` and beyond."""

import functools
import types
from unittest import mock

import diffusers
import pytest
import torch
from diffusers.hooks import FirstBlockCacheConfig, SeaCacheConfig, TextKVCacheConfig
from test_coexistence import check, drawing, fresh, guided
from test_guidance import STRONG, close, differ
from tiny import NEGATIVE, PROMPT, draw
from torch import nn

import nag
from nag import families
from nag.errors import NAGError


class Blocks(nn.Module):
    """All blocks of a Flux transformer as one, like ParaAttention's and cache-dit's: from the
    second step on, what the blocks behind the first added to it is added again."""

    def __init__(self, blocks, singles, skip):
        super().__init__()
        self.blocks, self.singles, self.skip = [blocks, singles], None, skip
        self.kept = None

    def forward(self, hidden_states, encoder_hidden_states, temb, image_rotary_emb, **_):
        options = {"temb": temb, "image_rotary_emb": image_rotary_emb}
        (first, *others), singles = self.blocks
        text, image = first(hidden_states, encoder_hidden_states, **options)
        before = text, image
        if self.kept is not None and self.skip:
            return tuple(a + b for a, b in zip(before, self.kept, strict=True))
        for block in others:
            text, image = block(image, text, **options)
        for block in singles:
            text, image = block(image, text, **options)
        self.kept = text - before[0], image - before[1]
        return text, image


def patch_forward(transformer, skip=True):
    """-> takes the cache off"""
    original = transformer.forward
    blocks = Blocks(transformer.transformer_blocks, transformer.single_transformer_blocks, skip)

    def forward(self, *args, **kwargs):
        with (
            mock.patch.object(self, "transformer_blocks", nn.ModuleList([blocks])),
            mock.patch.object(self, "single_transformer_blocks", nn.ModuleList()),
        ):
            return original(*args, **kwargs)

    transformer.forward = types.MethodType(forward, transformer)
    transformer.forget = lambda: setattr(blocks, "kept", None)
    return lambda: delattr(transformer, "forward")


def patch_class(monkeypatch, cls):
    """As TeaCache's scripts do: another `forward` for the whole class."""
    original = cls.forward

    @functools.wraps(original)
    def forward(self, *args, **kwargs):
        return original(self, *args, **kwargs)

    monkeypatch.setattr(cls, "forward", forward)


def calling(pipe, **options):
    """A pipeline's call that begins with an empty foreign cache, as cache-dit's does."""

    def call(prompt):
        pipe.transformer.forget()
        return draw("flux", prompt, pipe=pipe, steps=6, **options)

    return call


@pytest.mark.parametrize("end", [1.0, 0.5, 0.2])
def test_a_foreign_cache_does_what_diffusers_own_does(end):
    pipe = fresh("flux")
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=1e9))
    expected = guided(pipe, drawing("flux", pipe, steps=6), end=end)
    pipe.transformer.disable_cache()
    patch_forward(pipe.transformer)
    call = calling(pipe)
    cached = call(PROMPT)
    out = guided(pipe, call, end=end)
    close(out, expected, 1e-4)
    assert differ(out, cached) and torch.equal(call(PROMPT), cached)


def test_a_forward_of_the_whole_class_may_be_a_cache_too(monkeypatch):
    """Nobody can say what it keeps: the text keeps its length to the last step."""
    pipe, lengths = fresh("flux"), []
    call = drawing("flux", pipe, steps=4)
    expected = guided(pipe, call, end=0.5)
    patch_class(monkeypatch, type(pipe.transformer))
    pipe.transformer.transformer_blocks[0].register_forward_pre_hook(
        lambda _, args, kwargs: lengths.append(kwargs["encoder_hidden_states"].shape[1]),
        with_kwargs=True,
    )
    close(guided(pipe, call, end=0.5), expected)
    assert len(lengths) == 4 and len(set(lengths)) == 1


def test_without_a_cache_the_text_is_short_again_after_the_end():
    """LoRA, offloading, layerwise casting and hooks of diffusers are no caches."""
    pipe, lengths = fresh("flux"), []
    pipe.transformer.enable_layerwise_casting(
        storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32
    )
    pipe.enable_model_cpu_offload(device="cpu")
    pipe.transformer.transformer_blocks[0].register_forward_pre_hook(
        lambda _, args, kwargs: lengths.append(kwargs["encoder_hidden_states"].shape[1]),
        with_kwargs=True,
    )
    guided(pipe, drawing("flux", pipe, steps=4), end=0.5)
    assert lengths[0] == lengths[1] > lengths[2] == lengths[3]


@pytest.mark.parametrize("end", [1.0, 0.5])
@pytest.mark.parametrize("cfg", [None, 0])
def test_a_foreign_cache_that_never_skips_changes_nothing(cfg, end):
    pipe = fresh("flux")
    call = drawing("flux", pipe, steps=4, cfg=cfg)
    expected = guided(pipe, call, end=end)
    off = patch_forward(pipe.transformer, skip=False)
    close(guided(pipe, call, end=end), expected)
    off()
    close(guided(pipe, call, end=end), expected)


def test_a_foreign_cache_and_texts_of_different_length_are_refused():
    pipe = fresh("HunyuanVideoTransformer3DModel")
    original = pipe.transformer.forward
    pipe.transformer.forward = lambda *args, **kwargs: original(*args, **kwargs)
    with pytest.raises(NAGError, match="give one prompt at a time"), nag.guide(pipe, NEGATIVE):
        pipe(["a pirate", "a portrait of a chef, sad face"])


@pytest.mark.parametrize("style", [None, 0])
def test_sea_cache(style, monkeypatch):
    pipe = fresh("wan")
    call = drawing("wan", pipe, steps=6, cfg=style)
    plain, uncached = call(PROMPT), guided(pipe, call)
    pipe.transformer.enable_cache(SeaCacheConfig(threshold=1e9))
    if style is None:
        cached, out = check(pipe, call, monkeypatch)
    else:
        cached, out = call(PROMPT), guided(pipe, call)
    assert differ(cached, plain) and differ(out, uncached)
    with nag.guide(pipe, NEGATIVE, **STRONG, end=0.5) as running:
        half = call(PROMPT)
    assert running.guided_steps == 3 and differ(half, cached) and differ(half, out)
    assert torch.equal(call(PROMPT), cached)
    pipe.transformer.disable_cache()
    assert torch.equal(call(PROMPT), plain)


@pytest.mark.parametrize("end", [1.0, 0.5])
@pytest.mark.parametrize("cfg", [None, "before", "apart"])
def test_a_cache_of_the_texts_keys_is_exact(cfg, end):
    """It knows a text by where its tensor lies, and so would take a packed one for an older one
    that lay there."""
    pipe = fresh("NucleusMoEImageTransformer2DModel")
    denoiser = families.denoiser_of(pipe)
    prompts = [PROMPT, "a chef", PROMPT, "a nurse with a hat"]

    def call(prompt):
        return pipe(prompt, cfg=cfg, steps=3)

    plain = [call(prompt) for prompt in prompts]
    expected = [guided(pipe, call, prompt=prompt, end=end) for prompt in prompts]
    denoiser.enable_cache(TextKVCacheConfig())
    for prompt, want, without in zip(prompts, expected, plain, strict=True):
        close(call(prompt), without, 1e-5)
        # whatever a picture that was stopped left there
        close(guided(pipe, call, prompt=prompt, end=end), want, 1e-5)
        denoiser._reset_stateful_cache()  # as pipelines of diffusers do after a picture
    with nag.guide(pipe, NEGATIVE, **{**STRONG, "end": end}):
        for prompt, want in zip(prompts, expected, strict=True):
            close(call(prompt), want, 1e-5)
            denoiser._reset_stateful_cache()
    denoiser.disable_cache()


def test_every_cache_of_diffusers_is_known_here():
    """A new one must be tried."""
    known = {
        "FasterCacheConfig",
        "FirstBlockCacheConfig",
        "MagCacheConfig",
        "PyramidAttentionBroadcastConfig",
        "SeaCacheConfig",
        "TaylorSeerCacheConfig",
        "TextKVCacheConfig",
    }
    assert {name for name in dir(diffusers) if name.endswith("CacheConfig")} | known == known | {
        "PyramidAttentionBroadcastConfig"
    }
