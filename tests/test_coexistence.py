"""NAG together with what else people do to a pipeline: the same picture as the doubled batch, the
feature still works, all is given back."""

import contextlib
import copy
import functools
import threading

import pytest
import torch
from denoisers import CASES, bare
from oracle import doubled, text_seen
from test_guidance import STRONG, close, differ, state
from tiny import NEGATIVE, PROMPT, draw, pipeline
from torch import nn

import nag
from nag import families

OFF = ({"scale": 1.0}, {"alpha": 0.0}, {"end": 0.0})


def fresh(name):
    """A pipeline, or by a class name a bare denoiser, that a test may change; always with the same
    weights."""
    torch.manual_seed(0)
    return (bare if name[0].isupper() else pipeline).__wrapped__(name)


def drawing(name, pipe, **options):
    """prompt -> latents"""
    return pipe if name[0].isupper() else lambda prompt: draw(name, prompt, pipe=pipe, **options)


def guided(pipe, call, negative=NEGATIVE, prompt=PROMPT, **settings):
    with nag.guide(pipe, negative, **{**STRONG, **settings}):
        return call(prompt)


def check(pipe, call, monkeypatch):
    """What `pipe` has become is guided as its doubled batch is, and given back. Returns (plain,
    guided)."""
    plain, before, seen = call(PROMPT), state(pipe), []
    with text_seen(pipe, seen):
        call(PROMPT)
        call(NEGATIVE)
    with doubled(pipe, seen[0], seen[-1], monkeypatch, s=8.0, tau=3.0, alpha=0.7):
        expected = call(PROMPT)
    assert differ(expected, plain)
    out = guided(pipe, call)
    close(out, expected, 1e-4)
    for off in OFF:
        assert torch.equal(guided(pipe, call, **off), plain)
    with pytest.raises(KeyboardInterrupt), nag.guide(pipe, NEGATIVE):
        call(PROMPT)
        raise KeyboardInterrupt
    assert state(pipe) == before and torch.equal(call(PROMPT), plain)
    return plain, out


# --- LoRA


def lora(denoiser, *names, seed=1):
    from peft import LoraConfig

    torch.manual_seed(seed)
    for name in names:
        denoiser.add_adapter(
            LoraConfig(
                r=4,
                lora_alpha=16,
                init_lora_weights=False,
                target_modules=["to_q", "to_k", "to_v", "to_out.0"],
            ),
            name,
        )
    return denoiser


@pytest.mark.parametrize("name", ["sd", "sd3", "flux", "WanTransformer3DModel"])
def test_lora(name, monkeypatch):
    pytest.importorskip("peft")
    pipe = fresh(name)
    call, denoiser = drawing(name, pipe), families.denoiser_of(pipe)
    without = guided(pipe, call)
    lora(denoiser, "one", "two")
    denoiser.set_adapters("one")
    _, one = check(pipe, call, monkeypatch)
    denoiser.set_adapters("two")
    two = guided(pipe, call)
    assert differ(one, without) and differ(one, two)
    with nag.guide(pipe, NEGATIVE, **STRONG):  # switched inside
        denoiser.set_adapters("one")
        assert torch.equal(call(PROMPT), one)
        denoiser.set_adapters("two", 0.5)
        half = call(PROMPT)
        denoiser.disable_adapters()
        close(call(PROMPT), without)
        denoiser.enable_adapters()
    assert differ(half, one) and differ(half, two)
    assert torch.equal(guided(pipe, call), half)  # and still switched outside


@pytest.mark.parametrize("name", ["sdxl", "flux"])
def test_lora_from_a_file_and_fused(name):
    peft = pytest.importorskip("peft")
    pipe = fresh(name)
    call = drawing(name, pipe)
    part = "unet" if name == "sdxl" else "transformer"
    donor = lora(families.denoiser_of(fresh(name)), "default")
    weights = {
        f"{part}.{key}": value for key, value in peft.get_peft_model_state_dict(donor).items()
    }
    without = guided(pipe, call)
    pipe.load_lora_weights(weights, adapter_name="one")
    loaded = guided(pipe, call)
    assert differ(loaded, without)
    pipe.fuse_lora()
    close(guided(pipe, call), loaded, 1e-4)
    pipe.unfuse_lora()
    with nag.guide(pipe, NEGATIVE, **STRONG):
        pipe.unload_lora_weights()
        close(call(PROMPT), without, 1e-4)
        pipe.load_lora_weights(weights, adapter_name="one")
        close(call(PROMPT), loaded, 1e-4)


# --- IP-Adapter


class Repeated(nn.Module):
    """Image tokens, each `times` times: attention to them stays what it is."""

    def __init__(self, projection, times):
        super().__init__()
        self.projection, self.times = projection, times

    def forward(self, embeds):
        return self.projection(embeds).repeat(1, self.times, 1)


def add_ip_adapter(name, pipe, times=1):
    from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0
    from diffusers.models.embeddings import ImageProjection, MultiIPAdapterImageProjection
    from diffusers.models.transformers.transformer_flux import FluxIPAdapterAttnProcessor

    torch.manual_seed(2)
    denoiser, processors = families.denoiser_of(pipe), {}
    width = 16 if name == "flux" else denoiser.config.cross_attention_dim
    for key, processor in denoiser.attn_processors.items():
        if name == "flux" and not key.startswith("single"):
            processors[key] = FluxIPAdapterAttnProcessor(16, width)
        elif name != "flux" and "attn2" in key:
            hidden = denoiser.get_submodule(key.removesuffix(".processor")).to_k.out_features
            processors[key] = IPAdapterAttnProcessor2_0(hidden, width)
        else:
            processors[key] = processor
    denoiser.set_attn_processor(processors)
    projection = ImageProjection(
        image_embed_dim=8, cross_attention_dim=width, num_image_text_embeds=4
    )
    denoiser.encoder_hid_proj = MultiIPAdapterImageProjection([Repeated(projection, times)])
    if name != "flux":
        denoiser.config.encoder_hid_dim_type = "ip_image_proj"
    embeds = {
        "ip_adapter_image_embeds": [
            torch.randn(1, 1, 8, generator=torch.Generator().manual_seed(3))
        ]
    }
    if name == "flux":
        embeds["negative_ip_adapter_image_embeds"] = [torch.zeros(1, 1, 8)]
    return drawing(name, pipe, **embeds)


@pytest.mark.parametrize("name", ["sd", "sdxl", "flux"])
def test_ip_adapter(name, monkeypatch):
    pipe = fresh(name)
    without = guided(pipe, drawing(name, pipe))
    call = add_ip_adapter(name, pipe)
    plain, out = check(pipe, call, monkeypatch)
    assert differ(out, without)
    for times in (
        6,
        12,
        16,
    ):  # 24 and 48 tokens like the text, alone and packed; 64 like the tokens of a Flux image
        other = fresh(name)
        many = add_ip_adapter(name, other, times)
        close(many(PROMPT), plain, 1e-4)
        close(guided(other, many), out, 1e-4)


def test_the_scale_of_an_ip_adapter_may_be_changed_inside():
    pipe = fresh("sd")
    call = add_ip_adapter("sd", pipe)
    one = guided(pipe, call)
    with nag.guide(pipe, NEGATIVE, **STRONG):
        pipe.set_ip_adapter_scale(0.3)
        weak = call(PROMPT)
    assert differ(weak, one)
    assert torch.equal(guided(pipe, call), weak)  # what was set inside is kept
    pipe.set_ip_adapter_scale(1.0)
    assert torch.equal(guided(pipe, call), one)


def test_processors_that_are_replaced_inside_are_refused():
    for change in (
        lambda pipe: add_ip_adapter("sd", pipe),
        lambda pipe: pipe.enable_attention_slicing(1),
        lambda pipe: pipe.fuse_qkv_projections(),
    ):
        pipe = fresh("sd")
        with (
            pytest.raises(RuntimeError, match="processors were replaced inside"),
            nag.guide(pipe, NEGATIVE),
        ):
            drawing("sd", pipe)(PROMPT)
            change(pipe)
            drawing("sd", pipe)(PROMPT)
        assert not any(
            type(p).__dict__.get("nag_current") for p in pipe.unet.attn_processors.values()
        )


# --- fused projections, back ends, slicing


@pytest.mark.parametrize(
    "name",
    ["sd", "sdxl", "sd3", "flux", "pixart", "WanTransformer3DModel", "WanTransformer3DModel:i2v"],
)
def test_fused_projections(name, monkeypatch):
    pipe = fresh(name)
    if (
        name == "sd3"
        # SD3-Medium: diffusers 0.42 can fuse neither SD3.5-Medium's image-only attention nor
        # the norms of 3.5
    ):
        config = {**pipe.transformer.config, "dual_attention_layers": (), "qk_norm": None}
        pipe.transformer = louder(type(pipe.transformer).from_config(config), 1.5)
    call, denoiser = drawing(name, pipe), families.denoiser_of(pipe)
    before = guided(pipe, call)
    (pipe if name in ("sd", "sdxl") else denoiser).fuse_qkv_projections()
    assert any(getattr(m, "fused_projections", False) for m in denoiser.modules())
    _, out = check(pipe, call, monkeypatch)
    close(out, before, 1e-4)


@pytest.mark.parametrize("name", ["flux", "WanTransformer3DModel"])
def test_attention_back_ends(name):
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry

    pipe, chosen = fresh(name), _AttentionBackendRegistry._active_backend
    call, denoiser = drawing(name, pipe), families.denoiser_of(pipe)
    before = guided(pipe, call)
    try:
        denoiser.set_attention_backend("_native_math")
        close(guided(pipe, call), before, 1e-4)
        with nag.guide(pipe, NEGATIVE, **STRONG):
            denoiser.set_attention_backend("native")
            assert torch.equal(call(PROMPT), before)
        assert all(
            m.processor._attention_backend == "native"
            for _, m in families.find(pipe).layers(denoiser).values()
        )
    finally:
        _AttentionBackendRegistry._active_backend = chosen


@pytest.mark.parametrize("name", ["sd", "sdxl"])
def test_attention_slicing_is_refused(name):
    pipe = fresh(name)
    pipe.enable_attention_slicing(1)
    sliced = draw(name, pipe=pipe)
    with (
        pytest.raises(RuntimeError, match=r"did not reach the attention.*set_attn_processor"),
        nag.guide(pipe, NEGATIVE),
    ):
        draw(name, pipe=pipe)
    assert torch.equal(draw(name, pipe=pipe), sliced)
    pipe.disable_attention_slicing()
    assert differ(guided(pipe, drawing(name, pipe)), draw(name, pipe=pipe))


def test_vae_slicing_and_tiling():
    pipe = fresh("sd")

    def picture(prompt):
        return torch.from_numpy(
            pipe(
                prompt,
                num_inference_steps=2,
                height=32,
                width=32,
                guidance_scale=0.0,
                output_type="np",
                generator=torch.Generator().manual_seed(0),
            ).images
        )

    before = guided(pipe, picture)
    pipe.vae.enable_slicing()
    pipe.vae.enable_tiling()
    close(guided(pipe, picture), before)


# --- torch.compile


@contextlib.contextmanager
def counting():
    """A back end that compiles nothing and counts; yields (back end, graphs so far)."""
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    try:
        yield backend, graphs
    finally:
        torch.compiler.reset()


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("FluxTransformer2DModel", "blocks"),
        ("SD3Transformer2DModel", "wrapped"),
        ("UNet2DConditionModel", "in place"),
        ("WanTransformer3DModel", "in place"),
        ("WanTransformer3DModel", "wrapped"),
        ("WanTransformer3DModel", "blocks"),
        ("WanTransformer3DModel:i2v", "wrapped"),
        ("QwenImageTransformer2DModel", "wrapped"),
        ("HunyuanVideoTransformer3DModel", "wrapped"),
        ("ZImageTransformer2DModel", "wrapped"),
        ("PRXTransformer2DModel", "wrapped"),
        ("MochiTransformer3DModel", "wrapped"),
        ("HunyuanDiT2DModel", "wrapped"),
    ],
)
def test_compiled_before(name, how):
    pipe = fresh(name)
    eager, expected, before = pipe(PROMPT), guided(pipe, pipe), state(pipe)
    full = name not in (
        "QwenImageTransformer2DModel",
        "HunyuanVideoTransformer3DModel",
        "ZImageTransformer2DModel",
        "MochiTransformer3DModel",
        "HunyuanDiT2DModel",
    )
    with counting() as (backend, graphs):
        if how == "wrapped":
            pipe.transformer = torch.compile(pipe.transformer, backend=backend, fullgraph=full)
        elif how == "in place":
            pipe.transformer.compile(backend=backend, fullgraph=full)
        else:
            pipe.transformer.compile_repeated_blocks(backend=backend, fullgraph=full)
        before = state(pipe)
        close(pipe(PROMPT), eager, 1e-4)
        of_plain = len(graphs)
        with nag.guide(pipe, NEGATIVE, **STRONG) as guidance:
            close(pipe(PROMPT), expected, 1e-4)
        assert guidance.guided_calls == 2 and of_plain < len(graphs) <= 3 * of_plain
        assert state(pipe) == before
        count = len(graphs)
        for _ in range(9):  # more often than torch.compile would compile anew
            with nag.guide(pipe, NEGATIVE, **STRONG):
                close(pipe(PROMPT, steps=2), expected, 1e-4)
        close(pipe(PROMPT), eager, 1e-4)
        with nag.guide(pipe, NEGATIVE, **STRONG):
            pipe(PROMPT, steps=5)
        assert len(graphs) == count  # neither for another context nor for more steps


@pytest.mark.parametrize(
    ("name", "orders"),
    [("FluxTransformer2DModel", ["before"]), ("PixArtTransformer2DModel", ["before", "behind"])],
)
def test_compiled_as_one_graph_for_batches_of_any_size(name, orders):
    """With CFG and without: lengths and rows become symbols."""
    pipe = fresh(name)
    expected = {cfg: guided(pipe, functools.partial(pipe, cfg=cfg)) for cfg in (None, *orders)}
    with counting() as (backend, _):
        pipe.transformer = torch.compile(pipe.transformer, backend=backend, fullgraph=True)
        for cfg in (None, *orders, None):
            pipe(PROMPT, cfg)
            close(guided(pipe, functools.partial(pipe, cfg=cfg)), expected[cfg], 1e-4)


@pytest.mark.parametrize("how", ["wrapped", "in place", "blocks"])
def test_compiled_inside(how):
    pipe = fresh("WanTransformer3DModel")
    denoiser, eager, expected = pipe.transformer, pipe(PROMPT), guided(pipe, pipe)
    with counting() as (backend, graphs):
        with nag.guide(pipe, NEGATIVE, **STRONG):
            if how == "wrapped":
                pipe.transformer = torch.compile(denoiser, backend=backend)
            elif how == "in place":
                denoiser.compile(backend=backend, fullgraph=True)
            else:
                denoiser.compile_repeated_blocks(backend=backend, fullgraph=True)
            close(pipe(PROMPT), expected, 1e-4)
            count = len(graphs)
            close(pipe(PROMPT), expected, 1e-4)
            assert 0 < len(graphs) == count
        close(pipe(PROMPT), eager, 1e-4)
        close(guided(pipe, pipe), expected, 1e-4)


def test_one_graph_compiled_inside_is_refused():
    pipe = fresh("WanTransformer3DModel")
    with (
        counting() as (backend, _),
        pytest.raises(Exception, match="compile first, then enter"),
        nag.guide(pipe, NEGATIVE),
    ):
        pipe.transformer = torch.compile(pipe.transformer, backend=backend, fullgraph=True)
        pipe(PROMPT)


# --- offloading, casting, quantisation


def offload_models(pipe):
    pipe.enable_model_cpu_offload(device="cpu")  # hooks come off and on again after every picture


def offload_layers(pipe):
    """What enable_sequential_cpu_offload does to a denoiser; for the text encoders it wants a real
    accelerator."""
    from accelerate import cpu_offload

    cpu_offload(families.denoiser_of(pipe), "cpu")


def offload_groups(pipe):
    families.denoiser_of(pipe).enable_group_offload(
        onload_device=torch.device("cpu"),
        offload_device=torch.device("cpu"),
        offload_type="leaf_level",
    )


@pytest.mark.parametrize("offload", [offload_models, offload_layers, offload_groups])
@pytest.mark.parametrize(
    "name",
    [
        "sd",
        "sd3",
        "flux",
        "WanTransformer3DModel:i2v",
        "QwenImageTransformer2DModel",
        "HunyuanVideoTransformer3DModel",
    ],
)
def test_offloading(name, offload):
    if name[0].isupper() and offload is offload_models:
        pytest.skip("needs a pipeline of diffusers")
    pipe = fresh(name)
    call = drawing(name, pipe)
    plain, expected, other = call(PROMPT), guided(pipe, call), guided(pipe, call, prompt="a chef")
    offload(pipe)
    assert torch.equal(call(PROMPT), plain)
    with nag.guide(pipe, NEGATIVE, **STRONG):
        for _ in range(2):
            assert torch.equal(call(PROMPT), expected)
        assert torch.equal(call("a chef"), other)
    assert torch.equal(call(PROMPT), plain) and torch.equal(guided(pipe, call), expected)
    if offload is offload_models:
        pipe.remove_all_hooks()
        assert torch.equal(call(PROMPT), plain)
    assert not [m for m in families.denoiser_of(pipe).modules() if "_nag_call" in vars(m)]


@pytest.mark.parametrize(
    "name", [name for name in CASES if families.FAMILIES[name.partition(":")[0]].adapter]
)
def test_hooks_that_come_off_and_on_again_after_every_picture(name):
    """enable_model_cpu_offload, for every denoiser with an adapter and the modules beside it: the
    second picture is guided as the first."""
    from accelerate import cpu_offload_with_hook
    from accelerate.hooks import remove_hook_from_module

    pipe = fresh(name)
    parts = [pipe.transformer, *(getattr(pipe, part) for part, _ in pipe.case.parts)]
    plain, expected, before = pipe(PROMPT), guided(pipe, pipe), state(pipe)

    def hook():
        for part in parts:
            cpu_offload_with_hook(part, "cpu")

    hook()
    with nag.guide(pipe, NEGATIVE, **STRONG):
        for _ in range(2):
            assert torch.equal(pipe(PROMPT), expected)
            for part in parts:
                remove_hook_from_module(part)
            hook()
    assert torch.equal(pipe(PROMPT), plain)
    for part in parts:
        remove_hook_from_module(part)
        del part.forward  # accelerate's removal leaves the method on the instance
    assert state(pipe) == before and torch.equal(guided(pipe, pipe), expected)


@pytest.mark.parametrize(
    "name", ["sd", "sd3", "flux", "WanTransformer3DModel", "QwenImageTransformer2DModel"]
)
def test_layerwise_casting(name, monkeypatch):
    pipe = fresh(name)
    call, denoiser = drawing(name, pipe), families.denoiser_of(pipe)
    exact = guided(pipe, call)
    denoiser.enable_layerwise_casting(
        storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32
    )
    assert any(p.dtype == torch.float8_e4m3fn for p in denoiser.parameters())
    _, out = check(pipe, call, monkeypatch)
    assert differ(out, exact)


def int8_by_torch(denoiser):
    torch.ao.quantization.quantize_dynamic(denoiser, {nn.Linear}, torch.qint8, inplace=True)


def int8_by_torchao(denoiser):
    quantization = pytest.importorskip("torchao.quantization", reason="torchao is not installed")
    quantization.quantize_(denoiser, quantization.Int8WeightOnlyConfig())


@pytest.mark.parametrize("quantise", [int8_by_torch, int8_by_torchao])
@pytest.mark.parametrize("name", ["sd", "flux", "WanTransformer3DModel"])
def test_a_quantised_denoiser(name, quantise, monkeypatch):
    if name[0] == "W" and quantise is int8_by_torch:
        pytest.skip("Wan asks for the dtype of a parameter, and torch's own int8 layers have none")
    pipe = fresh(name)
    call = drawing(name, pipe)
    exact = guided(pipe, call)
    quantise(families.denoiser_of(pipe))
    if (
        quantise is int8_by_torch
    ):  # its inputs' range is that of the whole batch: doubled is another rounding than packed
        out = guided(pipe, call)
        close(out, exact, 0.2)
        assert differ(out, call(PROMPT))
    else:
        _, out = check(pipe, call, monkeypatch)
        close(out, exact, 0.2)
    assert not torch.equal(out, exact)


# --- caches


def cache(kind, pipe=None, **options):
    import diffusers

    return {
        "first block": lambda: diffusers.FirstBlockCacheConfig(**{"threshold": 1e9, **options}),
        "broadcast": lambda: diffusers.PyramidAttentionBroadcastConfig(
            spatial_attention_block_skip_range=2,
            spatial_attention_timestep_skip_range=(-1, 2000),
            current_timestep_callback=lambda: 500,
        ),
        "faster": lambda: diffusers.FasterCacheConfig(
            spatial_attention_block_skip_range=2,
            spatial_attention_timestep_skip_range=(-1, 900),
            is_guidance_distilled=True,
            current_timestep_callback=lambda: pipe.current_timestep,
            tensor_format="BCHW",
        ),
        "mag": lambda: diffusers.hooks.MagCacheConfig(
            threshold=1e9,
            max_skip_steps=2,
            retention_ratio=0.2,
            num_inference_steps=6,
            mag_ratios=[1.0] * 6,
        ),
        "taylor": lambda: diffusers.TaylorSeerCacheConfig(
            cache_interval=2, disable_cache_before_step=1
        ),
    }[kind]()


@pytest.mark.parametrize("kind", ["first block", "broadcast", "faster", "mag", "taylor"])
def test_step_caches(kind, monkeypatch):
    pipe = fresh("flux")
    call, denoiser = drawing("flux", pipe, steps=6), pipe.transformer
    plain, uncached = call(PROMPT), guided(pipe, call)
    denoiser.enable_cache(cache(kind, pipe))
    cached, out = check(pipe, call, monkeypatch)
    assert differ(cached, plain) and differ(out, uncached)  # the cache does something
    with nag.guide(pipe, NEGATIVE, **STRONG, end=0.5) as guidance:
        half = call(PROMPT)
    assert guidance.guided_calls == 3 and guidance.step == 6
    assert half.isfinite().all() and differ(half, cached) and differ(half, out)

    def stop(pipe, step, timestep, kwargs):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), nag.guide(pipe, NEGATIVE):
        draw("flux", pipe=pipe, steps=6, callback_on_step_end=stop)
    assert torch.equal(call(PROMPT), cached)
    denoiser.disable_cache()
    assert torch.equal(call(PROMPT), plain)


@pytest.mark.parametrize("cfg", [None, 0])
def test_after_the_end_a_cached_run_is_plain(cfg):
    """A cache that never skips: what is carried along after `end` changes nothing."""
    pipe = fresh("flux")
    call = drawing("flux", pipe, steps=4, cfg=cfg)
    half = guided(pipe, call, end=0.5)
    pipe.transformer.enable_cache(cache("first block", threshold=-1.0))
    close(guided(pipe, call, end=0.5), half)


def test_a_cache_that_skips_the_unconditional_rows_is_refused():
    import diffusers

    pipe = fresh("pixart")
    diffusers.hooks.apply_faster_cache(
        pipe.transformer,
        diffusers.FasterCacheConfig(
            spatial_attention_block_skip_range=2,
            spatial_attention_timestep_skip_range=(-1, 2000),
            current_timestep_callback=lambda: 500,
            unconditional_batch_skip_range=2,
            unconditional_batch_timestep_skip_range=(-1, 2000),
            tensor_format="BCHW",
        ),
    )
    with (
        pytest.raises(RuntimeError, match="cannot tell which are conditional"),
        nag.guide(pipe, NEGATIVE),
    ):
        draw("pixart", pipe=pipe, steps=4, cfg=0)


def test_a_cache_and_texts_of_different_length_are_refused():
    import diffusers

    pipe = fresh("HunyuanVideoTransformer3DModel")
    diffusers.hooks.apply_taylorseer_cache(pipe.transformer, diffusers.TaylorSeerCacheConfig())
    with (
        pytest.raises(RuntimeError, match="give one prompt at a time"),
        nag.guide(pipe, NEGATIVE),
        pipe.transformer.cache_context("cond"),
    ):
        pipe(["a pirate", "a portrait of a chef, sad face"])


# --- image in, image out


def picture():
    return torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(5))


def black_and_white():
    return (torch.arange(32) < 16).float().expand(1, 1, 32, 32)


def variant(which):
    """(pipeline, prompt -> latents)"""
    import diffusers

    name = "sdxl" if which.startswith("sdxl") else "flux"
    pipe, options = (
        fresh(name),
        {"num_inference_steps": 3, "output_type": "latent", "height": 32, "width": 32},
    )
    options |= {"guidance_scale": 0.0} if name == "sdxl" else {"max_sequence_length": 24}
    torch.manual_seed(4)
    if which == "sdxl img2img":
        pipe = diffusers.StableDiffusionXLImg2ImgPipeline.from_pipe(pipe)
        options = {**options, "image": picture(), "strength": 0.7}
        del options["height"], options["width"]
    elif which == "sdxl inpaint":
        pipe = diffusers.StableDiffusionXLInpaintPipeline.from_pipe(pipe)
        options |= {"image": picture(), "mask_image": black_and_white(), "strength": 0.9}
    elif which == "sdxl controlnet":
        net = diffusers.ControlNetModel.from_unet(
            pipe.unet, conditioning_channels=3, conditioning_embedding_out_channels=(8, 8)
        )
        pipe = diffusers.StableDiffusionXLControlNetPipeline(
            **pipe.components, controlnet=louder(net), add_watermarker=False
        )
        options |= {"image": picture()}
    elif which == "flux img2img":
        pipe = diffusers.FluxImg2ImgPipeline.from_pipe(pipe)
        options |= {"image": picture(), "strength": 0.7}
    elif which == "flux inpaint":
        pipe = diffusers.FluxInpaintPipeline.from_pipe(pipe)
        options |= {"image": picture(), "mask_image": black_and_white(), "strength": 0.9}
    elif which == "flux controlnet":
        net = diffusers.FluxControlNetModel.from_transformer(
            pipe.transformer,
            num_layers=2,
            num_single_layers=0,
            attention_head_dim=8,
            num_attention_heads=2,
        )
        pipe = diffusers.FluxControlNetPipeline.from_pipe(pipe, controlnet=louder(net))
        options |= {"control_image": picture()}
    else:
        pipe = diffusers.FluxKontextPipeline.from_pipe(pipe)
        options |= {"image": picture(), "_auto_resize": False, "max_area": 32 * 32}
    pipe.set_progress_bar_config(disable=True)
    return (
        pipe,
        lambda prompt: (
            pipe(prompt=prompt, generator=torch.Generator().manual_seed(0), **options).images
        ),
    )


def louder(net, factor=1.0):
    for parameter in net.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.3)
        elif parameter.ndim > 1:
            parameter.data.mul_(factor)
    return net.eval()


@pytest.mark.parametrize(
    "which",
    [
        "sdxl img2img",
        "sdxl inpaint",
        "sdxl controlnet",
        "flux img2img",
        "flux inpaint",
        "flux controlnet",
        "flux kontext",
    ],
)
def test_image_in_image_out(which, monkeypatch):
    pipe, call = variant(which)
    check(pipe, call, monkeypatch)
    with nag.guide(pipe, NEGATIVE, **STRONG, end=0.5) as guidance:
        call(PROMPT)
    assert guidance.guided_steps == -(
        -guidance.step // 2
    )  # of the steps that are run, not of those that were asked for


def test_the_end_of_a_run_that_begins_later():
    """DDIM has no begin_index: only the pipeline knows."""
    import diffusers

    pipe = diffusers.StableDiffusionImg2ImgPipeline(
        **fresh("sd").components, requires_safety_checker=False
    )
    pipe.set_progress_bar_config(disable=True)
    with nag.guide(pipe, NEGATIVE, end=0.5) as guidance:
        pipe(
            PROMPT,
            image=picture(),
            strength=0.5,
            num_inference_steps=8,
            guidance_scale=0.0,
            output_type="latent",
        )
    assert (guidance.step, guidance.guided_steps) == (4, 2)


# --- runs that stop, nested contexts, threads


def test_a_run_after_one_that_was_stopped_before_its_first_step():
    pipe = fresh("sd")
    expected = guided(pipe, drawing("sd", pipe), prompt="a chef")
    handle = pipe.unet.register_forward_pre_hook(lambda *_: 1 / 0)
    with nag.guide(pipe, NEGATIVE, **STRONG):
        with pytest.raises(ZeroDivisionError):
            draw("sd", pipe=pipe)
        handle.remove()
        assert torch.equal(draw("sd", "a chef", pipe=pipe), expected)
        with pytest.raises(KeyboardInterrupt):
            draw("sd", pipe=pipe, callback_on_step_end=interrupt)
        assert torch.equal(draw("sd", "a chef", pipe=pipe), expected)


def interrupt(*_):
    raise KeyboardInterrupt


def test_every_run_in_a_context_must_be_guided():
    pipe = fresh("sd")
    other = pipe.unet
    with pytest.raises(RuntimeError, match="was replaced inside"), nag.guide(pipe, NEGATIVE):
        draw("sd", pipe=pipe)
        pipe.unet = fresh("sd").unet  # nobody guides this one
        try:
            draw("sd", pipe=pipe)
        finally:
            pipe.unet = other


def test_embeddings_made_beforehand_are_guided():
    pipe = fresh("sd")
    expected = guided(pipe, drawing("sd", pipe))
    with nag.guide(pipe, NEGATIVE, **STRONG):
        embeds, _ = pipe.encode_prompt(PROMPT, "cpu", 1, False)
        assert torch.equal(draw("sd", None, pipe=pipe, prompt_embeds=embeds), expected)


def test_nested_contexts_are_refused():
    import diffusers

    pipe = fresh("flux")
    other = diffusers.FluxImg2ImgPipeline.from_pipe(pipe)
    plain = draw("flux", pipe=pipe)
    before = state(pipe)
    with (
        pytest.raises(RuntimeError, match="guided already"),
        nag.guide(pipe, NEGATIVE),
        nag.guide(pipe, "blurry"),
    ):
        pass
    with nag.guide(pipe, NEGATIVE, **STRONG):  # two pipelines, one denoiser
        with pytest.raises(RuntimeError, match="guided already"), nag.guide(other, "blurry"):
            pass
        assert differ(draw("flux", pipe=pipe), plain)
    assert torch.equal(draw("flux", pipe=pipe), plain) and state(pipe) == before


def in_threads(jobs):
    """The results of functions that run at once."""
    results, start = [None] * len(jobs), threading.Barrier(len(jobs))

    def run(place, job):
        start.wait()
        results[place] = job()

    threads = [threading.Thread(target=run, args=item) for item in enumerate(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.mark.parametrize("name", ["sd", "flux"])
def test_two_threads_with_two_models(name):
    """And a third whose model nobody guides."""
    pipes = [fresh(name) for _ in range(3)]
    for pipe in pipes:  # a tokenizer serves one thread at a time, with or without NAG
        for part in [part for part in pipe.components if "tokenizer" in part]:
            setattr(pipe, part, copy.deepcopy(getattr(pipe, part)))
    calls = [drawing(name, pipe, steps=6) for pipe in pipes]
    jobs = [
        lambda: guided(pipes[0], calls[0]),
        lambda: guided(pipes[1], calls[1], "beard"),
        lambda: calls[2](PROMPT),
    ]
    alone = [job() for job in jobs]
    assert differ(alone[0], alone[1]) and differ(alone[0], alone[2])
    for _ in range(5):
        assert all(map(torch.equal, in_threads(jobs), alone))


def test_four_threads_queued_on_one_pipeline():
    pipe, lock = fresh("sd3"), threading.Lock()

    def job(negative, scale):
        with lock:
            return guided(pipe, drawing("sd3", pipe), negative, scale=scale)

    jobs = [
        lambda i=i: job(["glasses", "beard", "hat", "glasses"][i], [8.0, 8.0, 4.0, 1.0][i])
        for i in range(4)
    ]
    alone = [run() for run in jobs]
    assert all(map(torch.equal, in_threads(jobs), alone))
    assert torch.equal(alone[3], draw("sd3", pipe=pipe))
