"""What is kept and sent, and what brings it back: without a browser."""

import io
import json
import time
import wave
import zipfile
from types import SimpleNamespace
from urllib.parse import parse_qsl

import numpy as np
import pytest
from PIL import ExifTags, Image

from nag import preset_text, presets
from nag.__main__ import main
from nag.engine import memory
from nag.engine.run import Column, Run
from nag.errors import NAGError
from nag.media import lettering, metadata, readers, video
from nag.page import keep, link
from nag.page.keep import Keeper
from nag.page.painting import Painting

WORDS = {"prompt": "portrait of a spy", "negative_prompt": "hat, “mask”", "seed": 4294967295}
GRAPH = {
    "3": {
        "class_type": "KSampler",
        "inputs": {"seed": ["9", 0], "steps": 20, "cfg": 7.5, "positive": ["8", 0]}
        | {"negative": ["7", 0], "latent_image": ["5", 0]},
    },
    "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 512, "height": 640}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a fox", "clip": ["1", 0]}},
    "7": {"class_type": "CLIPTextEncode", "inputs": {"text": ["10", 0], "clip": ["1", 0]}},
    "8": {"class_type": "FluxGuidance", "inputs": {"guidance": 3.5, "conditioning": ["6", 0]}},
    "9": {"class_type": "PrimitiveInt", "inputs": {"value": 77}},
    "10": {"class_type": "PrimitiveString", "inputs": {"value": "dog"}},
}
READ = {
    "seed": 77,
    "num_inference_steps": 20,
    "guidance_scale": 7.5,
    "width": 512,
    "height": 640,
    "prompt": "a fox",
    "negative_prompt": "dog",
}


def node(number, kind, values, *inputs):
    links = [{"name": name, "link": link} for name, link in inputs]
    return {"id": number, "type": kind, "widgets_values": values, "inputs": links}


SAVED = {
    "nodes": [
        node(3, "KSampler", [77, "fixed", 20, 7.5, "euler"], ("positive", 1), ("negative", 2)),
        node(5, "EmptyLatentImage", [512, 640, 1]),
        node(6, "CLIPTextEncode", ["a fox"]),
        node(7, "CLIPTextEncode", ["dog"]),
    ],
    "links": [[1, 6, 0, 3, 1, "CONDITIONING"], [2, 7, 0, 3, 2, "CONDITIONING"]],
}


@pytest.mark.parametrize("graph", [GRAPH, SAVED, {"prompt": GRAPH}], ids=["run", "saved", "call"])
def test_a_graph_of_comfyui_is_read_in_each_of_its_forms(graph):
    assert readers.pasted(json.dumps(graph)) == READ


def test_the_negative_text_of_nag_nodes_counts_and_no_words_are_no_words():
    inputs = {"positive": ["6", 0], "negative": ["11", 0], "seed": 1, "nag_scale": 5, "cfg": 1}
    nodes = GRAPH | {
        "3": {"class_type": "KSamplerWithNAG", "inputs": inputs | {"nag_negative": ["7", 0]}},
        "11": {"class_type": "ConditioningZeroOut", "inputs": {"conditioning": ["6", 0]}},
    }
    read = readers.pasted(json.dumps(nodes))
    assert (read["negative_prompt"], read["nag_scale"]) == ("dog", 5)
    del nodes["3"]["inputs"]["nag_negative"]
    assert readers.pasted(json.dumps(nodes))["negative_prompt"] == ""


def test_a_graph_whose_links_meet_again_and_again_is_read_once():
    """Each of these nodes leads to the next by six ways: followed one by one, they take hours."""
    nodes = {
        str(i): {"class_type": "Mix", "inputs": {f"in{k}": [str(i + 1), 0] for k in range(6)}}
        for i in range(1500)
    }
    nodes["1499"]["inputs"] = {"again": ["0", 0]}  # a ring
    nodes["sampler"] = {"class_type": "KSampler", "inputs": {"positive": ["0", 0], "seed": 3}}
    assert readers.comfyui(json.dumps(nodes)) == {"seed": 3}
    nodes["1499"]["inputs"]["text"] = "a fox"
    assert readers.comfyui(json.dumps(nodes)) == {"seed": 3, "prompt": "a fox"}


def test_a_line_of_letters_is_read_in_a_moment():
    begun = time.monotonic()
    readers.pasted("Steps: 4, " + "A" * 90_000)
    assert time.monotonic() - begun < 5  # a pattern that tries every start takes two minutes


def test_settings_survive_as_a1111_parameters_to_the_last_digit_of_the_seed():
    preset, request = presets.resolve(WORDS)
    found = metadata.texts(preset, request, "nag")
    read = readers.pasted(found["parameters"])
    assert "Seed: 4294967295" in found["parameters"]
    assert read["preset"] == "pocket-portrait" and read["width"] == 128
    _, again = presets.resolve(read)
    assert again == request
    assert presets.resolve(readers.pasted(found["nag"]))[1] == request


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("https://example.org/?prompt=a%20b&seed=5&nag_alpha=0.5", {"prompt": "a b", "seed": 5}),
        ('{"preset": "pocket-joint", "seed": 3}', {"preset": "pocket-joint", "seed": 3}),
        ('{"steps": 9, "cfg_scale": 3, "prompt": "x"}', {"num_inference_steps": 9}),
        ("a cat\nNegative prompt: dog\nSteps: 12, Size: 64x96, Seed: 7", {"height": 96, "seed": 7}),
        ("Negative prompt: dog\nSteps: 12, Seed: 7", {"prompt": "", "negative_prompt": "dog"}),
    ],
)
def test_pasted_text_of_every_kind_is_read(text, wanted):
    assert wanted.items() <= readers.pasted(text).items()


@pytest.mark.parametrize(
    "text", ["", "hello", "{", "[]", "{}", "[" * 9999, '{"nodes": 3}', "https://example.org/", "?"]
)
def test_text_without_settings_is_refused_in_a_sentence(text):
    with pytest.raises(NAGError, match="carries no settings"):
        readers.pasted(text)
    with pytest.raises(NAGError, match="characters"):
        readers.pasted("x" * 200_000)


@pytest.mark.parametrize("name", presets.load_all())
def test_a_saved_preset_is_one_and_changes_nothing_but_the_settings(name):
    preset, request = presets.resolve({"preset": name, "seed": 5, "nag_alpha": 0.3})
    saved = presets.parse("saved", preset_text.text_of(preset, request, "No hat."))
    _, again = presets.resolve({"preset": "saved"}, {"saved": saved})
    assert again.model_copy(update={"preset": name}) == request
    own = {"settings": {}, "title": "", "prompts": (), "look_for": "", "source": ""}
    assert saved.model_copy(update=own) == preset.model_copy(update=own)
    assert (saved.look_for, saved.prompts[0].seed) == ("No hat.", 5)


def test_a_model_of_this_machine_is_no_preset_for_others(tmp_path):
    preset, request = presets.resolve({})
    with pytest.raises(NAGError, match="this machine alone"):
        preset_text.text_of(preset.with_model(str(tmp_path)), request)


def test_the_command_writes_a_preset_that_presets_accepts(tmp_path, capsys):
    file = tmp_path / "spy.json"
    asked = ["preset", "--prompt", "portrait of a spy", "--negative-prompt", "hat", "--seed", "9"]
    assert main([*asked, "--out", str(file)]) == 0
    assert presets.read(file).settings["seed"] == 9
    assert main([*asked, "--out", str(file)]) == 2 and "already" in capsys.readouterr().err
    assert main(asked) == 0 and json.loads(capsys.readouterr().out)["seed"] == 9


def run_of(films=False, **settings):
    """A finished run of grey pictures."""
    name = "pocket-video" if films else "pocket-portrait"
    preset, request = presets.resolve({"preset": name} | settings)
    run = Run("ab" * 6, preset, request, [], over=True)
    for i, key in enumerate(request.guidance):
        image = Image.new("RGB", (128, 128), (70 * i, 99, 99))
        column = Column(key, 4, state="done", step=4, image=image)
        if films:
            column.frames = [image] * request.num_frames
            tags = metadata.video_tags(preset, request, key)
            column.video = video.encode(column.frames, 8, tags)
        run.columns.append(column)
    return run


def texts_of(mp4: bytes) -> bytes:
    return b"Negative prompt" in mp4 and b'"settings"' in mp4


@pytest.mark.parametrize("films", [False, True], ids=["pictures", "videos"])
def test_a_run_is_sent_as_zip_page_animation_and_video(tmp_path, films):
    run = run_of(films)
    made = keep.send(run, ["zip", "html", "webp", "mp4"], tmp_path)
    assert [path.name for path in made] == [f"compare.{e}" for e in ("zip", "html", "webp", "mp4")]
    with zipfile.ZipFile(made[0]) as archive:
        endings = [name.rpartition(".")[2] for name in archive.namelist()]
        assert endings.count("mp4") == 3 * films and endings.count("png") == 4
        assert json.loads(archive.read("run.json"))["settings"]["seed"] == run.request.seed
    frames = run.request.num_frames if films else 3
    with Image.open(made[2]) as image:
        assert image.n_frames in (frames, 1) and image.format == "WEBP"
        words = image.getexif().get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment]
    assert "Negative prompt" in words.removeprefix(b"UNICODE\0").decode("utf-16-be")
    assert texts_of(made[3].read_bytes())
    assert len(list(video.decode(made[3]))) == (frames if films else 3 * 16)


def test_settings_are_left_out_of_everything_on_request(tmp_path):
    keeper, run = Keeper(), run_of(films=True)
    painting = Painting(run.preset, run.request, run.id)
    painting.update(run, None)
    keeper.put(painting.shown(None))
    for kind in ("strip", "zip", "webp", "mp4"):
        bare, whole = (keeper.make(run.id, kind, bare)[0].read_bytes() for bare in (True, False))
        if kind == "zip":
            bare, whole = (
                b"".join(
                    archive.read(name) for name in archive.namelist() if not name.endswith("json")
                )
                for archive in (zipfile.ZipFile(io.BytesIO(one)) for one in (bare, whole))
            )
        for words in (b"Negative prompt", "Negative".encode("utf-16-be")):
            assert words not in bare
        assert b"Negative prompt" in whole or "Negative".encode("utf-16-be") in whole
    with pytest.raises(NAGError, match="not as 'exe'"):
        keeper.make(run.id, "exe")
    with pytest.raises(NAGError, match="no longer kept"):
        keeper.make("0" * 12, "zip")


def test_a_video_without_its_tags_is_the_same_video(tmp_path):
    frames = [Image.new("RGB", (32, 16), (9 * i, 0, 0)) for i in range(8)]
    whole = video.encode(frames, 8, {"comment": "Negative prompt", "description": '"settings"'})
    bare = video.without_tags(whole)
    assert texts_of(whole) and not texts_of(bare) and len(bare) == len(whole)
    for name, data in (("a", whole), ("b", bare)):
        (tmp_path / name).write_bytes(data)
    a, b = (list(video.decode(tmp_path / name)) for name in "ab")
    assert len(a) == 8 and [x.tobytes() for x in a] == [x.tobytes() for x in b]
    assert video.without_tags(b"no video at all") == b"no video at all"


def test_the_sound_of_a_model_that_makes_it_is_in_the_video(tmp_path):
    import torch

    tone = torch.sin(torch.arange(16000) * 0.2).expand(1, 2, -1)
    result = SimpleNamespace(audio=tone)
    pipe = SimpleNamespace(
        vocoder=SimpleNamespace(config=SimpleNamespace(output_sampling_rate=16000))
    )
    sound = video.sound_of(pipe, result)
    assert sound.samples.shape == (2, 16000) and sound.rate == 16000
    assert video.sound_of(pipe, SimpleNamespace(frames=[])) is None
    with wave.open(video._wav(tmp_path / "sound.wav", sound)) as file:
        assert (file.getnchannels(), file.getframerate(), file.getnframes()) == (2, 16000, 16000)
        heard = np.frombuffer(file.readframes(16000), "<i2")[::2] / 32767
    assert np.abs(heard - tone[0, 0].numpy()).max() < 1e-4
    frames = [Image.new("RGB", (32, 16))] * 8
    assert b"mp4a" in video.encode(frames, 8, sound=sound)
    assert b"mp4a" not in video.encode(frames, 8)


def test_memory_is_measured_on_a_gpu_and_not_said_of_a_processor(monkeypatch):
    import torch

    with memory.peak_of("cpu") as peak:
        assert peak() == 0
    asked = []
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: asked.append("reset"))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 8 * 10**9)
    with memory.peak_of("cuda") as peak:
        assert asked == ["reset"] and peak() == 8 * 10**9
    run = run_of()
    run.columns[2].peak = peak()
    painting = Painting(run.preset, run.request, run.id)
    painting.update(run, None)
    shown = painting.shown(None)
    assert [one["peak"] for one in shown.bench["cells"]] == ["", "", "8.0 GB"]
    assert shown.run["columns"]["nag"]["peak_gpu_bytes"] == 8 * 10**9
    assert "peak_gpu_bytes" not in shown.run["columns"]["none"]


def test_a_long_headline_is_cut_in_a_few_measures(monkeypatch):
    """A prompt may have 2,000 letters, and every frame of a film a headline."""
    face, measured = lettering.font(14), []

    class Counted:
        def getlength(self, text):
            measured.append(text)
            return face.getlength(text)

    monkeypatch.setattr(lettering, "font", lambda size: Counted())
    monkeypatch.setattr(lettering, "fit", lettering.fit.__wrapped__)
    long = "a word → " * 400
    cut = lettering.fit(long, 600, 14)
    assert cut.endswith("…") and "→" not in cut and len(measured) < 20
    assert face.getlength(cut) <= 600 < face.getlength(cut[:-1] + "word …")
    assert lettering.fit("short", 600, 14) == "short"
    assert lettering.fit("a word", 1, 14) == "a…"


def test_a_link_and_a_picture_s_text_keep_every_digit():
    exact = {"nag_scale": 4.1234567, "nag_alpha": 0.00001, "guidance_scale": 7.0000001}
    preset, request = presets.resolve(exact)
    asked = dict(parse_qsl(link.query(preset, request)))
    assert {name: float(asked[name]) for name in exact} == exact
    read = readers.a1111(metadata.texts(preset, request, "cfg+nag")["parameters"])
    assert {name: read[name] for name in exact} == exact
    assert metadata.all_digits(4.0) == "4" and metadata.all_digits(4294967295) == "4294967295"
