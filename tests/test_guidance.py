"""What `guide` takes and refuses, and what it says, on tiny random pipelines with their own text
encoders. What must hold for every one of them is in `test_invariants.py`."""

import functools
import math
import re
import sys
import threading
from fractions import Fraction

import pytest
import torch
from tiny import NEGATIVE, PIPELINES, PROMPT, draw, pipeline
from torch.testing import assert_close

import nag
from nag import families
from nag.errors import NAGError
from nag.patch import wrap_method

FAMILIES = list(PIPELINES)
STYLES = [
    (name, style) for name, tiny in PIPELINES.items() for style in range(len(tiny.cfg))
]  # of CFG
EITHER = [(name, None) for name in FAMILIES] + STYLES
STRONG = {"scale": 8.0, "tau": 3.0, "alpha": 0.7}


def close(a, b, tolerance=1e-5):
    assert_close(a, b, rtol=0, atol=tolerance * float(b.abs().max()))


def differ(a, b):
    return float((a - b).abs().max() / b.abs().max()) > 1e-3


def guided(name, negative=NEGATIVE, cfg=None, prompt=PROMPT, steps=2, seed=0, **settings):
    with nag.guide(pipeline(name), negative, **{**STRONG, **settings}):
        return draw(name, prompt, cfg, steps, seed)


def state(pipe):
    """Everything that guidance could leave behind."""
    modules = [
        (n, m) for denoiser in families.denoisers_of(pipe) for n, m in denoiser.named_modules()
    ]
    return (
        [(n, id(m.processor)) for n, m in modules if hasattr(m, "processor")],
        [(len(m._forward_hooks) + len(m._forward_pre_hooks), sorted(vars(m))) for _, m in modules],
        sorted(vars(pipe)),
        sorted(vars(pipe.scheduler)),
        [m for m in sys.modules if m.startswith("nag._attention")],
        type(pipe),
        [type(d) for d in families.denoisers_of(pipe)],
        torch.nn.functional is sys.modules["torch.nn.functional"],
    )


def seeds(count: int) -> list:
    return [torch.Generator().manual_seed(i) for i in range(count)]


def same_seeds(count: int) -> list:
    return [torch.Generator().manual_seed(0) for _ in range(count)]


@pytest.mark.parametrize(("name", "cfg"), EITHER)
def test_a_prompt_without_a_negative_is_drawn_as_if_alone(name, cfg):
    plain, touched = draw(name, cfg=cfg), guided(name, cfg=cfg)
    for negatives in ([None, NEGATIVE], [NEGATIVE, None]):
        with nag.guide(pipeline(name), negatives, **STRONG) as running:
            batch = draw(name, [PROMPT, PROMPT], cfg, generator=same_seeds(2))
        for negative, row in zip(negatives, batch, strict=True):
            close(row[None], touched if negative else plain, 1e-4)
        assert running.guided_steps == 2 and differ(touched, plain)


@pytest.mark.parametrize("name", ["sd", "flux", "wan"])
def test_several_pictures_of_a_prompt_without_a_negative(name):
    pictures = "num_videos_per_prompt" if name == "wan" else "num_images_per_prompt"
    with nag.guide(pipeline(name), [None, NEGATIVE], **STRONG):
        batch = draw(name, [PROMPT, "a chef"], generator=same_seeds(4), **{pictures: 2})
    for row, expected in zip(
        batch, [draw(name)] * 2 + [guided(name, prompt="a chef")] * 2, strict=True
    ):
        close(row[None], expected, 1e-4)


@pytest.mark.parametrize("name", ["z-image", "hunyuan-video", "lumina2"])
def test_families_that_run_row_by_row_take_them_in_any_order(name):
    with nag.guide(pipeline(name), [NEGATIVE, None, NEGATIVE], **STRONG):
        batch = draw(name, [PROMPT] * 3, generator=same_seeds(3))
    for row, expected in zip(batch, (guided(name), draw(name), guided(name)), strict=True):
        close(row[None], expected, 1e-4)


def test_guided_prompts_that_are_not_neighbours_are_refused():
    sentence = r"rows \[0, 2\] of 3 .* not neighbours.*stand before or behind"
    with pytest.raises(RuntimeError, match=sentence), nag.guide(pipeline("sd"), ["a", None, "b"]):
        draw("sd", [PROMPT] * 3, generator=same_seeds(3))
    for nothing in ([None], [None, None], []):
        with (
            pytest.raises(ValueError, match="must have words for one prompt at least"),
            nag.guide(pipeline("sd"), nothing),
        ):
            pass


@pytest.mark.parametrize("name", ["sd", "sdxl", "pixart", "sana", "wan", "ltx", "latte"])
def test_keys_shown_twice_weigh_the_same_as_keys_shown_once(name):
    """In cross-attention, a longer negative that must give the same picture."""
    pipe = pipeline(name)
    embeds = torch.randn(1, 5, {"sdxl": 32}.get(name, 16))
    with nag.guide(pipe, negative_prompt_embeds=embeds, **STRONG):
        out = draw(name)
    with nag.guide(pipe, negative_prompt_embeds=embeds.repeat(1, 2, 1), **STRONG):
        close(draw(name), out, 1e-4)
    assert differ(out, draw(name))


def test_masked_negative_tokens_do_not_count():
    embeds, pipe = torch.randn(1, 6, 16), pipeline("pixart")
    with nag.guide(pipe, negative_prompt_embeds=embeds[:, :4], **STRONG):
        short = draw("pixart")
    mask = torch.tensor([[1, 1, 1, 1, 0, 0]])
    with nag.guide(
        pipe, negative_prompt_embeds=embeds, negative_prompt_attention_mask=mask, **STRONG
    ):
        close(draw("pixart"), short, 1e-4)


def test_two_runs_in_one_context_are_both_guided():
    with nag.guide(pipeline("flux"), NEGATIVE, **STRONG):
        first, second, other = (
            draw("flux", cfg=0),
            draw("flux", cfg=0),
            draw("flux", "a chef", cfg=0),
        )
    assert torch.equal(first, second) and differ(other, draw("flux", "a chef", cfg=0))


def test_a_layer_that_is_not_reached_raises():
    from diffusers.models.attention_processor import AttnProcessor

    pipe = pipeline("sd")
    attention = pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn2
    original, attention.processor = attention.processor, AttnProcessor()
    try:
        with (
            pytest.raises(RuntimeError, match="did not reach the attention of 1 of"),
            nag.guide(pipe, NEGATIVE),
        ):
            draw("sd")
    finally:
        attention.processor = original


def test_a_processor_that_cannot_be_guided_leaves_nothing_behind():
    pipe = pipeline("sd")
    attention = list(families.find(pipe).layers(pipe.unet).values())[-1][1]
    original, before = attention.processor, state(pipe)
    attention.processor = functools.partial(original)
    try:
        with (
            pytest.raises(ValueError, match="processor that is a partial"),
            nag.guide(pipe, NEGATIVE),
        ):
            draw("sd")
    finally:
        attention.processor = original
    assert state(pipe) == before and differ(guided("sd"), draw("sd"))


@pytest.mark.parametrize("what", ["pipeline", "encode_prompt", "denoiser"])
def test_a_call_from_another_thread_is_refused(what):
    """It would be guided without having asked for it, or the two pictures would be mixed."""
    pipe, errors = pipeline("sd"), []
    plain = draw("sd")
    calls = {
        "pipeline": lambda: draw("sd", "a chef"),
        "encode_prompt": lambda: pipe.encode_prompt("a chef", "cpu", 1, False),
        "denoiser": lambda: pipe.unet(
            torch.randn(1, 4, 4, 4), 1, encoder_hidden_states=torch.randn(1, 24, 16)
        ),
    }

    def elsewhere():
        with pytest.raises(
            NAGError, match=r"guided in another thread.*Enter nag.guide in"
        ) as error:
            calls[what]()
        errors.append(error)

    def in_mid_run(*_):
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        return {}

    with nag.guide(pipe, NEGATIVE, **STRONG):
        in_mid_run()
        out = draw("sd", callback_on_step_end=in_mid_run)
    assert len(errors) == 3 and torch.equal(out, guided("sd"))
    assert torch.equal(draw("sd"), plain)


def test_another_scheduler_inside_is_refused():
    """Nobody would count its steps, and guidance would not end."""
    pipe = pipeline("sd")
    scheduler = pipe.scheduler
    try:
        with (
            pytest.raises(RuntimeError, match="scheduler was replaced inside"),
            nag.guide(pipe, NEGATIVE, end=0.5),
        ):
            pipe.scheduler = type(scheduler).from_config(scheduler.config)
            draw("sd", steps=4)
    finally:
        pipe.scheduler = scheduler


def test_embeddings_that_nobody_recognises_raise():
    pipe = pipeline("sd")

    def changed(encode_prompt, *args, **kwargs):
        return tuple(None if x is None else x + 1 for x in encode_prompt(*args, **kwargs))

    with (
        pytest.raises(RuntimeError, match="NAG guided nothing"),
        nag.guide(pipe, NEGATIVE),
        wrap_method(pipe, "encode_prompt", changed),
    ):
        draw("sd")


def test_bad_arguments_are_refused_with_a_sentence():
    pipe = pipeline("sd")
    for arguments, sentence in (
        ({}, "NAG needs a negative prompt"),
        (
            {"negative_prompt": "a", "negative_prompt_embeds": torch.zeros(1, 2, 16)},
            "give one of them",
        ),
        ({"negative_prompt": "a", "scale": 0}, "NAG scale must be"),
        ({"negative_prompt": 3}, "must be words.*got 3"),
        ({"negative_prompt": ["a", 1]}, "must be words"),
        (
            {"negative_prompt": "a", "negative_prompt_attention_mask": torch.ones(1, 7)},
            "without the negative_prompt_embeds",
        ),
    ):
        with pytest.raises(ValueError, match=sentence), nag.guide(pipe, **arguments):
            pass
    with pytest.raises(ValueError, match="2 negative prompts for 1"), nag.guide(pipe, ["a", "b"]):
        draw("sd")
    for embeds in (torch.randn(1, 7, 17), [torch.randn(7, 16)]):
        with (
            pytest.raises(ValueError, match="must have the form of the prompt's"),
            nag.guide(pipe, negative_prompt_embeds=embeds),
        ):
            draw("sd")
    mask = torch.ones(
        1, 5
    )  # would be padded with ones, and count tokens that it was meant to leave out
    with (
        pytest.raises(ValueError, match=r"\(1, 5\), and does not fit embeddings of \(1, 6, 16\)"),
        nag.guide(
            pipeline("pixart"),
            negative_prompt_embeds=torch.randn(1, 6, 16),
            negative_prompt_attention_mask=mask,
        ),
    ):
        pass


def test_numbers_are_taken_in_whatever_type_they_come():
    numpy = pytest.importorskip("numpy")
    for three in (numpy.float32(3), numpy.int64(3), numpy.array(3.0), torch.tensor(3), Fraction(3)):
        settings = nag.NAGSettings(scale=three, tau=three)
        assert settings == nag.NAGSettings(scale=3.0, tau=3.0) and type(settings.scale) is float
    assert type(nag.NAGSettings(scale=3).scale) is int
    wrong = "3", b"3", True, None, 3j, [3], numpy.bool_(True), numpy.array([3.0]), math.nan
    for value in (*wrong, torch.tensor(True), torch.tensor([3.0, 4.0]), torch.tensor(3j)):
        with pytest.raises(ValueError, match="NAG scale must be a finite number from 1 up, got"):
            nag.NAGSettings(scale=value)


@pytest.mark.parametrize("value", ["yes", 1, 0, "False", []])
def test_what_is_neither_true_nor_false_is_refused(value):
    for name in ("exact", "trim"):
        with (
            pytest.raises(ValueError, match=f"{name} must be True.*, got {re.escape(repr(value))}"),
            nag.guide(pipeline("sd"), NEGATIVE, **{name: value}),
        ):
            pass


def test_what_is_no_pipeline_is_called_that():
    import diffusers

    for wrong, what in (
        (None, "a NoneType"),
        ("sd", "a str"),
        (3, "an int"),
        (pipeline("sd").vae, "an AutoencoderKL"),
    ):
        with (
            pytest.raises(ValueError, match=f"takes a diffusers pipeline, got {what}\\.$"),
            nag.guide(wrong, NEGATIVE),
        ):
            pass
    parts = pipeline("flux").components | {"transformer": None}
    for empty in (diffusers.FluxModularPipeline(), diffusers.FluxPipeline(**parts)):
        sentence = f"No denoiser is loaded yet: the transformer of this {type(empty).__name__}"
        with pytest.raises(ValueError, match=sentence), nag.guide(empty, NEGATIVE):
            pass
        assert sentence in nag.supports(empty)[1]


def test_an_unknown_denoiser_is_refused_never_guessed():
    yes, how = nag.supports(pipeline("sd3"))
    no, why = nag.supports(torch.nn.Linear(2, 2))
    assert yes and "3 joint-attention layers" in how  # the image-only attn2 is not among them
    assert not no and "Linear" in why and "FluxTransformer2DModel" in why
    mute = type("Mute", (), {"unet": pipeline("sd").unet, "scheduler": None})()
    no, why = nag.supports(mute)
    assert not no and "a Mute has none" in why and nag.supports(mute.unet)[0]
    for wrong, sentence in ((mute, "a Mute has none"), (mute.unet, "takes a whole pipeline")):
        with pytest.raises(ValueError, match=sentence), nag.guide(wrong, NEGATIVE):
            pass


def test_only_cross_attention_unets_are_guided_in_both_attentions():
    from tiny import unet

    model = unet(only_cross_attention=True)
    names = families.find(model).layers(model)
    assert any(n.endswith("attn1") for n in names) and any(n.endswith("attn2") for n in names)
