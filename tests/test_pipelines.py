"""Loading: real files of tiny pipelines, and every way in which it can go wrong as a sentence."""

import errno
import json

import pytest
import torch
from tiny import pipeline

from nag import presets
from nag.engine import loading, memory
from nag.errors import Refused


def a_preset(**more):
    settings = {
        "preset": "tiny",
        "prompt": "a",
        "negative_prompt": "b",
        "num_inference_steps": 2,
        "guidance_scale": 2.0,
        "width": 32,
        "height": 32,
    }
    return presets.Preset(
        **{"schema": 1, "title": "Tiny", "model": "someone/tiny", "settings": settings, **more}
    )


@pytest.mark.parametrize("name", ["sd", "sdxl", "pixart", "sd3", "flux"])
def test_a_folder_loads_as_what_it_is_and_compares(name, tmp_path):
    from nag.engine.engine import Engine

    pipeline(name).save_pretrained(tmp_path / name)
    arguments = (
        {"clean_caption": False, "use_resolution_binning": False} if name == "pixart" else {}
    )
    mine = a_preset(arguments=arguments).with_model(str(tmp_path / name))
    chosen, request = presets.resolve({}, {"tiny": mine})
    *_, (run, _, _) = Engine().run(chosen, request)
    assert str(tmp_path) not in json.dumps(run.json()) and run.json()["model"] == name
    assert [c.state for c in run.columns] == ["done"] * 3, [c.reason for c in run.columns]
    assert (
        run.dtype in ("float32", "bfloat16") and len({c.latents_sha256 for c in run.columns}) == 1
    )


def test_a_preset_may_change_the_scheduler(tmp_path):
    pipeline("sd").save_pretrained(tmp_path)
    loaded = loading.load(
        a_preset(
            model=str(tmp_path),
            scheduler={"class": "EulerDiscreteScheduler", "timestep_spacing": "trailing"},
        )
    )
    assert type(loaded.pipe.scheduler).__name__ == "EulerDiscreteScheduler"
    assert loaded.pipe.scheduler.config.timestep_spacing == "trailing"


@pytest.mark.parametrize("name", [n for n, p in presets.load_all().items() if not p.local])
def test_without_the_hub_a_preset_says_what_to_do(name, monkeypatch):
    monkeypatch.setattr(loading, "check_memory", lambda *_: None)
    unless_a_package_is_missing = (
        r"|Kolors.* needs one more package .*: pip install sentencepiece protobuf\."
    )
    with pytest.raises(
        Refused, match=r"hub cannot be reached.*pocket preset" + unless_a_package_is_missing
    ):
        loading.load(presets.load_all()[name])


def test_a_machine_too_small_is_told_before_the_download():
    with pytest.raises(Refused, match="needs a GPU, or about 24000 GB"):
        memory.check_memory(a_preset(size_gb=10_000), "cpu", False)


def test_a_folder_that_is_no_pipeline_is_a_sentence(tmp_path):
    with pytest.raises(Refused, match="does not load as a diffusers pipeline"):
        loading.load(a_preset(model=str(tmp_path)))


def test_known_errors_have_sentences():
    from huggingface_hub import errors

    response = type(
        "R",
        (),
        {"headers": {}, "request": None, "status_code": 403, "text": "", "json": lambda self: {}},
    )()
    gated = errors.GatedRepoError("gated", response=response)
    for error, sentence in (
        (gated, "accept it at https://huggingface.co/someone/tiny"),
        (
            errors.RepositoryNotFoundError("404", response=response),
            "neither a folder here nor a repository",
        ),
        (OSError(errno.ENOSPC, "No space left on device"), "The disk is full"),
        (torch.OutOfMemoryError("CUDA out of memory"), "Not enough memory"),
        (ImportError("requires the SentencePiece library"), "pip install sentencepiece protobuf"),
        (RuntimeError("something else"), "failed to load (RuntimeError)"),
    ):
        assert sentence in loading.explain(error, a_preset())


def test_only_one_large_model_stays_on_the_shelf():
    shelf = loading.PipelineCache(loader=lambda preset: object.__new__(loading.Loaded))
    big = a_preset(settings=a_preset().settings | {"preset": "big"})
    other = a_preset(settings=a_preset().settings | {"preset": "other"})
    for preset in (big, other):
        loaded = shelf.get(preset)
        loaded.preset = preset
    assert list(shelf.loaded) == ["other"] and shelf.get(other) is loaded


@pytest.mark.parametrize(
    ("total", "largest", "free", "where"),
    [
        (10, 6, 16, ""),
        (10, 6, 13, "model offload"),
        (10, 6, 9, "sequential offload"),
        (34, 24, 80, ""),
        (34, 24, 32, "model offload"),
    ],
)
def test_weights_stay_where_they_fit(total, largest, free, where):
    assert memory.placement(total, largest, free) == where
