"""Presets are right before anybody tries them: what can be asked of diffusers without weights."""

import inspect
import json
import types

import diffusers
import pytest
import tiny
import torch
import transformers

from nag import presets
from nag.__main__ import main
from nag.engine import dry, failures, loading
from nag.engine.repairs import repair

ALL = presets.load_all()
WORDS = "a cat walks, slowly, past two dogs"
# what the pipelines of these families are annotated with, where a tiny one is built from another
LLAMA = ("hunyuan-video",)


@pytest.mark.parametrize("name", ALL)
def test_every_preset_fits_the_installed_diffusers(name):
    if packages := dry.missing(ALL[name]):
        pytest.skip(f"needs {packages}")
    assert dry.faults(ALL[name]) == []


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"pipeline": "NoSuchPipeline"}, "diffusers has no NoSuchPipeline"),
        ({"pipeline": "MarigoldDepthPipeline"}, "cannot be called for none"),
        ({"arguments": {"colour": 1}}, "cannot be called for nag: got an unexpected keyword"),
        ({"scheduler": {"class": "NoScheduler"}}, "diffusers has no NoScheduler"),
        ({"scheduler": {"class": "LCMScheduler", "colour": 1}}, "LCMScheduler has no colour"),
        ({"scheduler": {"class": "LCMScheduler", "original_inference_steps": 4}}, "cannot make 50"),
        ({"pipeline": "ShapEPipeline"}, "NAG knows no denoiser"),
    ],
)
def test_a_preset_that_does_not_fit_is_told_why(changed, sentence):
    found = dry.faults(ALL["sd35-large"].model_copy(update=changed))
    assert sentence in " ".join(found)


def test_check_all_dry_says_the_same_on_any_machine(capsys):
    assert main(["check", "--all", "--dry"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said] == list(ALL)
    assert all(line.endswith(" ok") or "cannot be checked: pip install" in line for line in said)
    assert main(["check", "--all"]) == 2 and "--dry" in capsys.readouterr().err


def timesteps(name: str, steps: int) -> list[int]:
    settings = dict(ALL[name].scheduler)
    scheduler = getattr(diffusers, settings.pop("class"))(**settings)
    scheduler.set_timesteps(steps)
    return scheduler.timesteps.tolist()


def test_dmd2_runs_on_the_timesteps_it_was_trained_on():
    assert timesteps("sdxl-dmd2", 4) == [999, 749, 499, 249]
    assert ALL["sdxl-dmd2"].range("num_inference_steps") == (1, 4)


def test_the_lightning_lora_runs_on_its_noise_levels():
    settings = dict(ALL["qwen-image-2512-fast"].scheduler)
    scheduler = getattr(diffusers, settings.pop("class"))(**settings)
    scheduler.set_timesteps(sigmas=[1, 0.75, 0.5, 0.25], mu=settings["max_shift"])
    assert scheduler.sigmas[:-1].tolist() == pytest.approx([1, 0.9, 0.75, 0.5])


@pytest.mark.parametrize("name", ["ltx2-distilled"])
def test_trained_noise_levels_are_not_shifted(name):
    settings, trained = dict(ALL[name].scheduler), ALL[name].arguments["sigmas"]
    cls = getattr(diffusers, settings.pop("class"))
    # as LTX-2's own scheduler is set
    shipped = cls(use_dynamic_shifting=True, shift_terminal=0.1, base_shift=0.95, max_shift=2.05)
    scheduler = cls.from_config(shipped.config, **settings)
    scheduler.set_timesteps(sigmas=trained, mu=2.05)
    assert scheduler.sigmas[:-1].tolist() == pytest.approx(trained)


WAN = [name for name, preset in ALL.items() if name.startswith("wan")]


@pytest.mark.parametrize("name", WAN)
def test_wan_predicts_flow_whatever_scheduler_was_shipped(name):
    settings = dict(ALL[name].scheduler)
    cls = getattr(diffusers, settings.pop("class"))
    for shipped in (cls(), diffusers.FlowMatchEulerDiscreteScheduler()):
        config = cls.from_config(shipped.config, **settings).config
        assert config.prediction_type == "flow_prediction" and config.use_flow_sigmas
        assert config.flow_shift == settings["flow_shift"]


def test_most_of_wan_22_runs_on_the_high_noise_expert():
    boundary = 0.875 * 1000  # of T2V A14B
    assert sum(t >= boundary for t in timesteps("wan22-14b", 40)) == 26
    assert ALL["wan22-14b"].arguments == {"guidance_scale_2": 3.0}


def test_downloads_are_told_as_large_as_they_are():
    assert ALL["wan22-14b"].fetched_gb == 126.2 and ALL["sdxl"].fetched_gb == 7
    offline = ConnectionError("couldn't connect")
    assert "about 126 GB are fetched" in failures.of_loading(offline, ALL["wan22-14b"])
    for preset in ALL.values():
        assert preset.download_gb == 0 or preset.download_gb >= preset.size_gb


def saved(tmp_path, name: str, **changed):
    """A tiny pipeline as a folder, with other classes for some of its parts."""
    tiny.pipeline(name).save_pretrained(tmp_path)
    index = tmp_path / "model_index.json"
    content = json.loads(index.read_text())
    content.update({part: ["transformers", cls] for part, cls in changed.items()})
    index.write_text(json.dumps(content))
    return tmp_path


def test_wans_vae_stays_in_float32(tmp_path):
    for name in WAN:
        assert ALL[name].vae_dtype == "float32"
    preset = ALL["wan21-1b"]
    mine = preset.model_copy(update={"model": str(saved(tmp_path, "wan")), "revision": None})
    pipe = loading._from_pretrained(mine, torch.bfloat16)
    assert pipe.vae.dtype == torch.float32
    assert pipe.transformer.dtype == pipe.text_encoder.dtype == torch.bfloat16
    video = tiny.draw("wan", pipe=pipe, steps=1, output_type="pt")
    assert torch.isfinite(video).all()


@pytest.mark.parametrize("name", ["wan", "hunyuan-video", "ltx"])
def test_videos_are_decoded_in_tiles(name, tmp_path):
    pipe = type(tiny.pipeline(name)).from_pretrained(saved(tmp_path, name))
    repair(pipe, video=False)
    assert not pipe.vae.use_tiling
    repair(pipe, video=True)
    assert pipe.vae.use_tiling


@pytest.mark.parametrize("channels", [4, 12])
def test_a_tiny_vae_of_a_video_model_still_encodes(channels):
    """diffusers' tiles of it have four channels, whatever its own."""
    from diffusers import AutoencoderTiny

    sizes = {"encoder_block_out_channels": (8, 8, 8, 8), "decoder_block_out_channels": (8, 8, 8, 8)}
    vae = AutoencoderTiny(latent_channels=channels, **sizes)
    repair(types.SimpleNamespace(vae=vae, components={"vae": vae}), video=True)
    assert vae.use_tiling == (channels == 4)
    assert vae.encode(torch.zeros(1, 3, 64, 64)).latents.shape == (1, channels, 8, 8)


def tokenizers_of(pipe) -> dict:
    return {name: part for name, part in pipe.components.items() if "tokenizer" in name and part}


def kept(tokenizer) -> str:
    """What is left of WORDS once they are tokens."""
    ids = tokenizer(WORDS).input_ids
    # CLIP's decoder parts words and commas
    return tokenizer.decode(ids, skip_special_tokens=True).strip().replace(" ,", ",")


@pytest.mark.parametrize("name", tiny.PIPELINES)
def test_the_words_of_a_prompt_survive_every_familys_tokenizer(name, tmp_path):
    """Loaded as the class that the pipeline names; a Llama's, on bytes, then loses all spaces."""
    cls = type(tiny.pipeline(name))
    hints = inspect.signature(cls.__init__).parameters
    swapped = {}
    for part, tokenizer in tokenizers_of(tiny.pipeline(name)).items():
        named = getattr(hints[part].annotation, "__name__", "")
        if named.startswith("Llama") and type(tokenizer).__name__ != named:
            swapped[part] = named
    pipe = cls.from_pretrained(saved(tmp_path, name, **swapped))
    for part in swapped:
        assert " " not in kept(getattr(pipe, part))
    sides = {part: tokenizer.padding_side for part, tokenizer in tokenizers_of(pipe).items()}
    repair(pipe, video=False)
    for part, tokenizer in tokenizers_of(pipe).items():
        assert kept(tokenizer) == WORDS and tokenizer.padding_side == sides[part]
    assert bool(swapped) == (name in LLAMA)


def test_a_processors_tokenizer_is_mended_too(tmp_path):
    tiny.llm_tokenizer().save_pretrained(tmp_path)

    llama = transformers.LlamaTokenizerFast.from_pretrained(tmp_path)
    processor = types.SimpleNamespace(tokenizer=llama)
    assert " " not in kept(processor.tokenizer)
    repair(types.SimpleNamespace(components={"processor": processor}), video=False)
    assert kept(processor.tokenizer) == WORDS
