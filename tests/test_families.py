"""What a row of `nag.families` says of its denoiser class, on a tiny random one each. What must
hold for every one of them is in `test_invariants.py`."""

import copy
import importlib
from pathlib import Path

import diffusers
import pytest
import torch
import torch.nn.functional as F
from denoisers import CASES, LENGTH, bare
from oracle import text_seen
from test_guidance import STRONG, close, differ
from torch.utils._python_dispatch import TorchDispatchMode

import nag
from nag import families, kernels
from nag.errors import NAGValueError

NAMES = list(CASES)
PROMPT, NEGATIVE = (
    "a portrait of a pirate",
    "with big glasses",
)  # of different length modulo the text's, so that masks differ
CFG = [None, "before", "behind", "apart"]
# the cases' own arguments (positions, tables) are made for texts of one length
COUNTED = (
    "Krea2Transformer2DModel",
    "Kandinsky5Transformer3DModel",
    "CogVideoXTransformer3DModel",
    "WanAnimateTransformer3DModel",
    "ChronoEditTransformer3DModel",
)


def guided(name, negative=NEGATIVE, prompt=PROMPT, settings=STRONG, **call):
    with nag.guide(bare(name), negative, **settings):
        return bare(name)(prompt, **call)


def test_every_row_has_a_case_and_is_a_class_of_diffusers():
    cased = {name.split(":")[0] for name in NAMES}
    assert set(families.FAMILIES) == cased, set(families.FAMILIES) ^ cased
    for name in [*families.FAMILIES, *families.REFUSED]:
        assert hasattr(diffusers, name) or hasattr(diffusers.models, name), (
            f"{name} is not in diffusers {diffusers.__version__}"
        )


def test_every_denoiser_of_diffusers_has_a_row_or_a_reason():
    known = {*families.FAMILIES, *families.REFUSED}
    for folder in ("transformers", "unets"):
        for path in (Path(diffusers.__file__).parent / "models" / folder).glob("*.py"):
            module = importlib.import_module(f"diffusers.models.{folder}.{path.stem}")
            for cls in vars(module).values():
                if (
                    isinstance(cls, type)
                    and issubclass(cls, diffusers.ModelMixin)
                    and cls.__module__ == module.__name__
                ):
                    assert known & {base.__name__ for base in cls.__mro__}, (
                        f"{cls.__name__} is neither a row nor refused"
                    )


@pytest.mark.parametrize("name", sorted(families.REFUSED))
def test_a_refusal_is_a_sentence_with_a_reason(name):
    cls = type(name, (torch.nn.Module,), {})
    able, why = nag.supports(cls())
    assert not able and name in why and families.REFUSED[name] in why and why.endswith(".")


@pytest.mark.parametrize("length", [LENGTH - 2, LENGTH + 5])
@pytest.mark.parametrize(
    "name",
    [
        name
        for name in NAMES
        if not (CASES[name].shared or CASES[name].pooled) and ":i2v" not in name
    ],
)
def test_the_negative_alone_is_the_model_with_the_negative_as_prompt(name, length, monkeypatch):
    """With the blend replaced by its negative half the positive is out of the picture: lengths,
    positions and masks are the negative's own."""
    case = CASES[name]
    texts = case.texts([NEGATIVE], LENGTH if name in COUNTED else length)
    latents = torch.randn(1, *case.latents, generator=torch.Generator().manual_seed(0))
    bare(name).scheduler.set_timesteps(1)
    with torch.no_grad():
        arrived = bare(name).connected(
            {place: value for place, value in texts.items() if isinstance(place, str)}
        )
        arguments = case.arguments(latents, bare(name).scheduler.timesteps[0]) | case.deliver(
            arrived, latents
        )
        expected = case.out(bare(name).transformer(**arguments))
    monkeypatch.setattr(
        "nag.attention_processor.blend", lambda settings, positive, negative, dim: negative
    )
    given = {p.argument for p in bare(name).family.inputs}
    embeds = {
        place: value
        for place, value in (arrived if case.parts else texts).items()
        if place in given
    }
    with nag.guide(bare(name), negative_prompt_embeds=embeds, **STRONG):
        close(latents - bare(name)(PROMPT, steps=1, latents=latents), expected)


@pytest.mark.parametrize("name", NAMES)
def test_embeddings_given_by_hand_equal_words(name):
    """Position ids are not given by hand: they are made."""
    given = {
        p.argument: value
        for p in bare(name).family.inputs
        if p.kind != "ids"
        and p.encoded is not None
        and (value := CASES[name].texts([NEGATIVE], LENGTH)[p.argument]) is not None
    }
    if CASES[name].parts:  # by hand they are as the denoiser takes them
        given = bare(name).texts([NEGATIVE])
    with nag.guide(bare(name), negative_prompt_embeds=given, **STRONG):
        out = bare(name)(PROMPT)
    close(out, guided(name))


def test_references_kept_in_a_cache_are_those_of_the_first_step():
    """FLUX.2 klein KV: with the cache, or with the reference images in every step, the guided
    picture is the same."""
    pipe = bare("Flux2Transformer2DModel:kv")
    latents, texts = (
        torch.randn(1, 16, 16, generator=torch.Generator().manual_seed(0)),
        pipe.texts(PROMPT),
    )
    with nag.guide(pipe, NEGATIVE, **STRONG) as guidance, torch.no_grad():
        pipe.encode_prompt(PROMPT)
        pipe.scheduler.set_timesteps(2)
        _, cache = pipe.transformer(**pipe.case.arguments(latents, torch.tensor(900.0)), **texts)
        every = pipe.case.arguments(latents, torch.tensor(100.0))
        expected = pipe.transformer(**every, **texts)[0]
        once = every | {
            "hidden_states": latents,
            "img_ids": every["img_ids"][:, 8:],
            "num_ref_tokens": 0,
            "kv_cache_mode": "cached",
            "kv_cache": cache,
        }
        close(pipe.transformer(**once, **texts)[0], expected)
    assert guidance.guided_calls == 3
    with torch.no_grad():
        assert differ(pipe.transformer(**once, **texts)[0], expected)


def test_pictures_repeated_after_encode_prompt():
    """Ideogram 4: two pictures of each of two prompts, repeated behind encode_prompt's back."""
    pipe = bare("Ideogram4Transformer2DModel")
    latents, prompts, negatives = (
        torch.randn(4, 16, 16),
        ["a pirate", "portrait of a chef"],
        ["glasses", "a long beard"],
    )

    def call(pipe, prompts, negatives, latents):
        with nag.guide(pipe, negatives, **STRONG), torch.no_grad():
            texts = pipe.texts(prompts)
            pipe.scheduler.set_timesteps(1)
            texts = {
                name: value.repeat_interleave(len(latents) // len(prompts), 0)
                for name, value in texts.items()
            }
            call = pipe.case.arguments(latents, torch.tensor(500.0)) | pipe.case.deliver(
                texts, latents
            )
            return pipe.case.out(pipe.transformer(**call))

    together = call(pipe, prompts, negatives, latents)
    for i in range(4):
        close(
            together[i : i + 1],
            call(
                pipe,
                prompts[i // 2 : i // 2 + 1],
                negatives[i // 2 : i // 2 + 1],
                latents[i : i + 1],
            ),
        )


def test_gist_tokens_of_padded_texts(monkeypatch):
    """Fibo 2: prompts and negatives of different length have different numbers of gist tokens, in
    one batch as alone."""
    pipe = bare("BriaFibo2Transformer2DModel")
    prompts, negatives = ["a pirate", "portrait of a chef"], ["glasses", "a long beard"]
    lengths = {"a pirate": 9, "glasses": 13, "a long beard": 5}

    def encode(prompt, text_encoder_index=0):
        prompt = [prompt] if isinstance(prompt, str) else prompt
        counts = [lengths.get(p, 7) for p in prompt]
        rows = [
            pipe.case.texts([p], n)["encoder_hidden_states"]
            for p, n in zip(prompt, counts, strict=True)
        ]
        padded = [
            torch.nn.functional.pad(row, (0, 0, 0, max(counts) - n), value=9.0)
            for row, n in zip(rows, counts, strict=True)
        ]
        return torch.cat(padded), torch.arange(max(counts)) < torch.tensor(counts)[:, None] if len(
            set(counts)
        ) > 1 else None

    monkeypatch.setattr(pipe, "encode_prompt", encode)
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    for cfg in (None, "apart"):
        batch = guided("BriaFibo2Transformer2DModel", negatives, prompts, latents=latents, cfg=cfg)
        for row, prompt, negative, start in zip(batch, prompts, negatives, latents, strict=True):
            close(
                row[None],
                guided(
                    "BriaFibo2Transformer2DModel", negative, prompt, latents=start[None], cfg=cfg
                ),
                1e-4,
            )


def test_pictures_of_rendered_text_are_refused_where_steps_run_on_another_caption(monkeypatch):
    """Fibo 2 draws them itself for a caption with text; all steps of an edit run on the prompt."""
    pipe, asked = bare("BriaFibo2Transformer2DModel"), []

    def encode(prompt, image=None, device=None, text_images=None):
        asked.append(prompt)
        return pipe.case.texts(prompt, 7)["encoder_hidden_states"], None

    monkeypatch.setattr(pipe, "encode_prompt", encode)
    with nag.guide(pipe, "hat"):
        with pytest.raises(NAGValueError, match="call it with render_text_images=False"):
            pipe.encode_prompt(["a sign"], None, text_images=[["a picture"]])
        assert asked == []
        pipe.encode_prompt(["a sign"], None, text_images=[[]])
        pipe.encode_prompt(["a sign"], ["a picture"], text_images=[["a picture"]])
    assert asked == [["a sign"], ["hat"], ["a sign"]]


def test_steps_are_counted_by_rounds_of_denoiser_calls():
    """Cosmos steps its scheduler twice a round, Framepack sets the schedule for every section,
    Kandinsky 6 copies the scheduler."""
    pipe, guided_calls = bare("CosmosTransformer3DModel"), []
    x = torch.randn(1, *pipe.case.latents)
    with nag.guide(pipe, NEGATIVE, **STRONG, end=0.5) as guidance:
        texts = pipe.texts(PROMPT)
        pipe.scheduler.set_timesteps(4)
        sound = copy.deepcopy(pipe.scheduler)
        for i, timestep in enumerate([*pipe.scheduler.timesteps] * 2):
            if i == 4:
                pipe.scheduler.set_timesteps(4)
            pipe.transformer(**pipe.case.arguments(x, timestep), **texts)
            guided_calls.append(guidance.guided_calls)
            for scheduler in (pipe.scheduler, sound, pipe.scheduler):
                scheduler.step(x, timestep, x)
    assert (
        guided_calls == [1, 2, 2, 2, 3, 4, 4, 4]
        and guidance.guided_steps == 4
        and guidance.step == 8
    )
    assert sound.step.original.__self__ is sound and "step" not in vars(pipe.scheduler)


def test_a_text_padded_to_the_length_of_cfgs_other_text_is_still_found():
    pipe = bare("JoyImageEditPlusTransformer3DModel")
    pipe.scheduler.set_timesteps(1)
    arguments = pipe.case.arguments(torch.randn(1, *pipe.case.latents), torch.tensor(500.0))
    with nag.guide(pipe, NEGATIVE, **STRONG) as guidance:
        texts = pipe.texts(PROMPT)
        short = pipe.transformer(**arguments, **texts)[0]
        padded = {
            name: F.pad(value, (0, 0, 0, 3) if value.ndim == 3 else (0, 3))
            for name, value in texts.items()
        }
        long = pipe.transformer(**arguments, **padded)[0]
    assert guidance.guided_calls == 2 and differ(short, pipe.transformer(**arguments, **texts)[0])
    close(long, short)


def test_a_negative_is_put_in_the_form_that_the_pipeline_gave_its_prompt():
    class EditPlus:
        transformer, scheduler = (
            bare("JoyImageEditPlusTransformer3DModel").transformer,
            bare("JoyImageEditPlusTransformer3DModel").scheduler,
        )

        def encode_prompt_multiple_images(self, prompt, images=None):
            seen.append(prompt)
            return tuple(CASES["JoyImageEditPlusTransformer3DModel"].texts(prompt, LENGTH).values())

    pipe, seen, form = EditPlus(), [], "<|im_start|>user\n<image>\n<image>\n{}<|im_end|>\n"
    with nag.guide(pipe, "glasses"):
        pipe.encode_prompt_multiple_images(prompt=[form.format("a cat\non a mat")])
    assert seen == [[form.format("a cat\non a mat")], [form.format("glasses")]]


def test_a_mask_may_leave_nothing_of_a_negative():
    """Mochi's empty prompt has no token that counts: the negative branch is the video alone."""
    pipe, seen = bare("MochiTransformer3DModel"), []
    texts = pipe.case.texts([""], LENGTH)["encoder_hidden_states"]
    with (
        nag.guide(
            pipe,
            negative_prompt_embeds=texts,
            negative_prompt_attention_mask=torch.zeros(1, LENGTH),
            **STRONG,
        ),
        text_seen(pipe, seen),
    ):
        out = pipe(PROMPT)
    own = int(pipe.texts(PROMPT)["encoder_attention_mask"].sum())
    assert {texts["encoder_hidden_states"].shape[1] for texts in seen} == {own}
    assert out.isfinite().all() and differ(out, pipe(PROMPT))


def test_a_pipeline_that_encodes_nothing_raises():
    pipe = bare("CosmosTransformer3DModel")
    texts, x = pipe.texts(PROMPT), torch.randn(1, *pipe.case.latents)
    with pytest.raises(RuntimeError, match="encoded no prompt"), nag.guide(pipe, NEGATIVE):
        pipe.transformer(**pipe.case.arguments(x, torch.tensor(500.0)), **texts)
        pipe.scheduler.step(x, 0, x)


# masks that differ from query to query, fewer key heads than query heads, keys or queries in other
# places
TWO_PASSES = (
    "ChromaTransformer2DModel",
    "PRXTransformer2DModel",
    "PRXTransformer2DModel:pixel",
    "Flux2Transformer2DModel:kv",
    "Ideogram4Transformer2DModel",
    "HunyuanVideo15Transformer3DModel",
    "HunyuanVideo15Transformer3DModel:i2v",
    "NucleusMoEImageTransformer2DModel",
    "QwenImage21Transformer2DModel",
)
JOINT = [
    name
    for name in NAMES
    if any(kind == "joint" for kind, _ in bare(name).family.layers(bare(name).transformer).values())
]


@pytest.mark.parametrize("cfg", [None, "before"])
@pytest.mark.parametrize("name", JOINT)
def test_image_keys_attended_once_equal_two_passes(name, cfg, monkeypatch):
    merges, merge = [], kernels.merge
    monkeypatch.setattr(kernels, "merge", lambda *parts: merges.append(1) or merge(*parts))
    with nag.guide(bare(name), NEGATIVE, **STRONG, exact=True):
        twice = bare(name)(PROMPT, cfg)
    assert not merges
    with nag.guide(bare(name), NEGATIVE, **STRONG):
        once = bare(name)(PROMPT, cfg)
    close(once, twice)
    assert bool(merges) != (name in TWO_PASSES), f"{len(merges)} merges"


SYNCS = {
    "aten::equal",
    "aten::_local_scalar_dense",
    "aten::nonzero",
    "aten::masked_select",
    "aten::_unique2",
}
# these models reorder their text by its mask inside, and so does what packs it: once more a step
ONE_MORE = (
    "HunyuanVideo15Transformer3DModel",
    "HunyuanVideo15Transformer3DModel:i2v",
    "JoyImageEditTransformer3DModel:mrope",
    "QwenImage21Transformer2DModel",
)


class Waits(TorchDispatchMode):
    """Counts the operations for whose result a GPU would have to be waited for."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func._schema.name in SYNCS
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "name", [name for name in NAMES if not name.startswith("AnyFlowFAR")]
)  # its flex_attention knows no such modes
def test_a_guided_step_waits_for_the_gpu_no_more_often_than_a_plain_one(name):
    """Whose rows are conditional is asked once in a picture, not once in a step."""

    def waits(steps, negative=None):
        with Waits() as mode:
            bare(name)(PROMPT, steps=steps) if negative is None else guided(
                name, negative, steps=steps
            )
        return mode.count

    a_step = [waits(3, negative) - waits(2, negative) for negative in (None, NEGATIVE)]
    assert a_step[1] == a_step[0] + (name in ONE_MORE)
    assert (
        waits(2, NEGATIVE) > waits(2) or name == "ZImageTransformer2DModel"
    )  # asked once it is, but for lists of the pipeline's own tensors
