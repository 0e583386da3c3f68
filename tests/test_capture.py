"""How `nag.guide` listens to pipelines that encode, batch or step in their own way: the smallest
pipeline of each kind."""

import copy
import sys

import pytest
import torch
from denoisers import CASES, Bare, bare
from diffusers import UniPCMultistepScheduler
from test_guidance import STRONG, close, differ

import nag

PROMPT, NEGATIVE = "a portrait of a pirate", "with big glasses"


def of(kind, name="WanTransformer3DModel"):
    return kind(CASES[name], bare(name).transformer)


def test_no_module_of_anybody_is_touched():
    pipe, before = bare("WanTransformer3DModel"), dict(sys.modules)
    with nag.guide(pipe, NEGATIVE, **STRONG):
        pipe(PROMPT)
        inside = {
            name: module
            for name, module in sys.modules.items()
            if not name.startswith("nag._attention")
        }
        assert len(inside) < len(sys.modules) and all(
            inside[name] is module for name, module in before.items()
        )
    assert sys.modules == {**inside, **before}


class Chunks(Bare):
    """Makes a video in two chunks, and runs the denoiser once more after each to remember it
    (AnyFlow FAR, Sana-WM's refiner)."""

    @torch.no_grad()
    def __call__(self, prompt):
        texts = self.texts(prompt)
        for seed in range(2):
            latents = torch.randn(
                1, *self.case.latents, generator=torch.Generator().manual_seed(seed)
            )
            self.scheduler.set_timesteps(4)
            for timestep in [*self.scheduler.timesteps, torch.tensor(0.0)]:
                output = self.case.out(
                    self.transformer(**self.case.arguments(latents, timestep), **texts)
                )
                if timestep:
                    latents = self.scheduler.step(output, timestep, latents)
        return output


def test_end_holds_for_every_chunk():
    pipe = of(Chunks)
    with nag.guide(pipe, NEGATIVE, **STRONG, end=0.5) as guidance:
        half = pipe(PROMPT)
    assert guidance.guided_calls == guidance.guided_steps == 4 and guidance.step == 8
    with nag.guide(pipe, NEGATIVE, **STRONG) as guidance:
        whole = pipe(PROMPT)
    assert guidance.guided_calls == 10 and guidance.guided_steps == guidance.step == 8
    assert differ(half, whole) and differ(half, pipe(PROMPT))


class Copies(Bare):
    """Every frame has a copy of the scheduler (SkyReels' diffusion forcing; LTX-2 has one for the
    sound)."""

    def __init__(self, *args):
        super().__init__(*args)
        self.scheduler = UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True
        )

    @torch.no_grad()
    def __call__(self, prompt):
        texts, frames = self.texts(prompt), self.case.latents[1]
        latents = torch.randn(1, *self.case.latents, generator=torch.Generator().manual_seed(0))
        self.scheduler.set_timesteps(4)
        schedulers = [copy.deepcopy(self.scheduler) for _ in range(frames)]
        for scheduler in schedulers:
            scheduler.set_timesteps(4)
        for timestep in self.scheduler.timesteps:
            output = self.case.out(
                self.transformer(**self.case.arguments(latents, timestep), **texts)
            )
            latents = torch.stack(
                [
                    scheduler.step(output[:, :, i], timestep, latents[:, :, i], return_dict=False)[
                        0
                    ]
                    for i, scheduler in enumerate(schedulers)
                ],
                2,
            )
        return latents


def test_copies_of_the_scheduler_have_a_state_of_their_own():
    pipe = of(Copies)
    plain = pipe(PROMPT)
    with nag.guide(pipe, PROMPT, **STRONG) as guidance:
        close(pipe(PROMPT), plain)
    assert guidance.step == guidance.guided_steps == 4
    with nag.guide(pipe, NEGATIVE, **STRONG, end=0.5) as guidance:
        assert differ(pipe(PROMPT), plain)
        assert guidance.guided_calls == 2
        assert (
            differ(pipe("a nurse"), plain) and guidance.guided_calls == 4
        )  # a second prompt in one context is heard
    assert torch.equal(pipe(PROMPT), plain)


class Underscored(Bare):
    """One prompt, no list, and another name (Sana-WM and its refiner)."""

    encode_prompt = property()

    def _encode_prompt(self, prompt, negative_prompt="", *, length=7):
        return *Bare.encode_prompt(self, prompt.strip(), length), *Bare.encode_prompt(
            self, negative_prompt.strip(), length
        )

    def encoded(self, prompt):
        return {
            "encoder_hidden_states": self._encode_prompt(
                prompt[0] if isinstance(prompt, list) else prompt, "ugly"
            )[0]
        }


def test_a_pipeline_that_takes_one_prompt_only():
    pipe = of(Underscored)
    with nag.guide(pipe, NEGATIVE, **STRONG) as guidance:
        out = pipe(PROMPT)
    assert guidance.guided_calls == 2 and differ(out, pipe(PROMPT))
    with nag.guide(bare("WanTransformer3DModel"), NEGATIVE, **STRONG):
        assert torch.equal(bare("WanTransformer3DModel")(PROMPT), out)


class Together(Bare):
    """Encodes CFG's negative prompt and the prompt in one go, and repeats the rows for several
    waveforms afterwards (Stable Audio)."""

    def encode_prompt(self, prompt, do_classifier_free_guidance=False):
        prompt = [prompt] if isinstance(prompt, str) else prompt
        return Bare.encode_prompt(
            self, (["blurry"] * len(prompt) if do_classifier_free_guidance else []) + prompt
        )

    @torch.no_grad()
    def __call__(self, prompt, cfg=False, times=1, scale=4.0):
        text = self.encode_prompt(prompt, do_classifier_free_guidance=cfg)[0].repeat_interleave(
            times, 0
        )
        texts = self.connected({"encoder_hidden_states": text})
        latents = torch.randn(times, *self.case.latents, generator=torch.Generator().manual_seed(0))
        self.scheduler.set_timesteps(2)
        for timestep in self.scheduler.timesteps:
            rows = torch.cat([latents] * (1 + cfg))
            output = self.case.out(self.transformer(**self.case.arguments(rows, timestep), **texts))
            if cfg:
                uncond, cond = output.chunk(2)
                output = uncond + scale * (cond - uncond)
            latents = self.scheduler.step(output, timestep, latents)
        return latents


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("cfg", [False, True])
def test_prompts_that_are_encoded_together(cfg, times):
    pipe, name = of(Together, "StableAudioDiTModel"), "StableAudioDiTModel"
    with nag.guide(pipe, NEGATIVE, **STRONG):
        out = pipe(PROMPT, cfg, times)
    latents = torch.randn(times, *CASES[name].latents, generator=torch.Generator().manual_seed(0))
    for start, row in zip(latents, out, strict=True):  # every waveform is guided like one alone
        with nag.guide(bare(name), NEGATIVE, **STRONG):
            close(
                row[None], bare(name)(PROMPT, "before" if cfg else None, latents=start[None]), 1e-4
            )
    with nag.guide(pipe, NEGATIVE, **STRONG):
        close(
            pipe(PROMPT, True, times, scale=0.0),
            Together.__call__(of(Together, name), PROMPT, True, times, scale=0.0),
        )


class Embedded(Together):
    """Takes embeddings of several prompts too (Stable Audio, AudioLDM 2)."""

    def encode_prompt(self, prompt, do_classifier_free_guidance=False, prompt_embeds=None):
        if prompt_embeds is not None:
            return (prompt_embeds,)
        return Together.encode_prompt(self, prompt, do_classifier_free_guidance)

    @torch.no_grad()
    def __call__(self, prompt=None, prompt_embeds=None):
        texts = self.connected(
            {"encoder_hidden_states": self.encode_prompt(prompt, prompt_embeds=prompt_embeds)[0]}
        )
        latents = torch.randn(2, *self.case.latents, generator=torch.Generator().manual_seed(0))
        self.scheduler.set_timesteps(1)
        return self.case.out(
            self.transformer(**self.case.arguments(latents, torch.tensor(500.0)), **texts)
        )


def test_embeddings_of_several_prompts_are_all_guided():
    pipe, prompts = of(Embedded, "StableAudioDiTModel"), [PROMPT, "a nurse"]
    embeds = pipe.encode_prompt(prompts)[0]
    with nag.guide(pipe, NEGATIVE, **STRONG):
        close(pipe(prompt_embeds=embeds), pipe(prompts))
    plain = pipe(prompts)
    with nag.guide(pipe, NEGATIVE, **STRONG):
        for touched, untouched in zip(pipe(prompt_embeds=embeds), plain, strict=True):
            assert differ(touched, untouched)
