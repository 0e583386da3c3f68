"""Loading: real files of tiny pipelines, and every way in which it can go wrong as a sentence."""

import errno
import json
import socket

import httpx
import pytest
import torch
from huggingface_hub import errors
from safetensors import SafetensorError
from tiny import pipeline

from nag import presets
from nag.engine import failures, loading, memory
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
        memory.check_memory(a_preset(size_gb=10_000), "cpu")


def test_a_folder_that_is_no_pipeline_is_a_sentence(tmp_path):
    with pytest.raises(
        Refused, match=r"does not load as a diffusers pipeline: .* model_index.json"
    ):
        loading.load(a_preset(model=str(tmp_path)))


def answer(status: int, kind=errors.HfHubHTTPError) -> Exception:
    """What huggingface_hub raises for an answer of the hub."""
    request = httpx.Request("GET", "https://huggingface.co/someone/tiny")
    return kind(f"{status} of the hub", response=httpx.Response(status, request=request))


class TransportError(Exception):
    """Of a package that huggingface_hub may ask by, which is not always httpx."""


class NotReached(TransportError):
    pass


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (answer(403, errors.GatedRepoError), "accept it at https://huggingface.co/someone/tiny"),
        (answer(401), "accept it at https://huggingface.co/someone/tiny"),
        (answer(403), "accept it at https://huggingface.co/someone/tiny"),
        (answer(401, errors.RepositoryNotFoundError), "neither a folder here nor a repository"),
        (answer(404, errors.RepositoryNotFoundError), "neither a folder here nor a repository"),
        (answer(404, errors.RevisionNotFoundError), "is no longer on the hub"),
        (answer(503), "could not answer (503)"),
        (answer(429), "could not answer (429)"),
        (errors.OfflineModeIsEnabled("offline"), "the hub cannot be reached"),
        (errors.LocalEntryNotFoundError("not here"), "the hub cannot be reached"),
        (httpx.ConnectTimeout("late"), "the hub cannot be reached"),
        (httpx.ProxyError("no"), "the hub cannot be reached"),
        (NotReached("another package's"), "the hub cannot be reached"),
        (socket.gaierror(-2, "Name or service not known"), "the hub cannot be reached"),
        (OSError(errno.ENOSPC, "No space left on device"), "The disk is full"),
        (torch.OutOfMemoryError("CUDA out of memory"), "Not enough memory"),
        (MemoryError(), "Not enough memory"),
        (ImportError("requires the SentencePiece library"), "pip install sentencepiece protobuf"),
        (ModuleNotFoundError("no", name="tiktoken"), "pip install tiktoken"),
        (SafetensorError("header too small"), "a file of its weights is damaged"),
    ],
)
def test_errors_that_are_known_have_sentences(error, sentence):
    """Also behind what diffusers makes of them."""
    wrapped = OSError("Cannot load someone/tiny")
    wrapped.__cause__ = error
    for one in (error, wrapped):
        assert sentence in failures.of_loading(one, a_preset()), one


@pytest.mark.parametrize(
    "error",
    [
        ValueError("size mismatch for proj: copying (4032, 401) from checkpoint, 403 expected"),
        OSError("Error no file named model.safetensors found in directory /srv/models/401"),
        RuntimeError("something else at /srv/models/403, offline"),
    ],
)
def test_digits_and_words_of_an_error_are_not_read_and_its_folders_not_shown(error, caplog):
    said = failures.of_loading(error, a_preset())
    assert type(error).__name__ in said and "the log" in said and "Preset tiny" in said
    assert not any(word in said for word in ("licence", "hub", "srv", "size mismatch"))
    assert str(error) in caplog.text, "the log has what people are not shown"


def test_a_damaged_weight_file_is_named_without_its_folder(tmp_path):
    pipeline("sd").save_pretrained(tmp_path)
    (tmp_path / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"cut short")
    with pytest.raises(Refused) as refused:
        loading.load(a_preset(model=str(tmp_path)))
    assert "its file unet/diffusion_pytorch_model.safetensors is damaged" in str(refused.value)
    assert str(tmp_path) not in str(refused.value)


def test_a_damaged_configuration_is_told_without_its_folder(tmp_path):
    pipeline("sd").save_pretrained(tmp_path)
    (tmp_path / "unet" / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(Refused, match="JSON files is damaged") as refused:
        loading.load(a_preset(model=str(tmp_path)))
    assert str(tmp_path.parent) not in str(refused.value)


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
