"""Captions on any preset: CLIP, FID, PFID and PickScore, around tiny random networks."""

import itertools
import json
import sys
import types

import numpy as np
import pytest
import torch
from PIL import Image
from test_evaluate import options
from tiny import clip_tokenizer, folder_of

from nag.errors import Refused
from nag.evaluate import captions, command, draw, plan


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    from transformers import (
        CLIPConfig,
        CLIPImageProcessor,
        CLIPModel,
        CLIPProcessor,
        CLIPTextConfig,
        CLIPVisionConfig,
    )

    # one of its own: a tokenizer keeps the truncation that it was last asked for, and saves it
    tokenizer = clip_tokenizer.__wrapped__()
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=24,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        initializer_factor=5.0,
    )
    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
        initializer_factor=5.0,
    )
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("clip")
    CLIPModel(
        CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=8)
    ).save_pretrained(folder)
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(images, tokenizer).save_pretrained(folder)
    return folder


class Network(torch.nn.Module):
    """In Inception's place: uint8 pictures -> 6 features."""

    num_features = 6

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.layer = torch.nn.Conv2d(3, 6, 5, stride=3)

    def forward(self, pixels):
        return self.layer(pixels.float() / 255).relu().mean((2, 3))


@pytest.fixture
def network(monkeypatch):
    monkeypatch.setattr(captions, "inception", lambda weights=None: Network())


def noise(folder, count: int, size=(40, 30), seed: int = 0):
    """Random pictures as files -> uint8 (count, H, W, 3)"""
    pixels = np.random.default_rng(seed).integers(
        0, 256, (count, size[1], size[0], 3), dtype=np.uint8
    )
    folder.mkdir(parents=True, exist_ok=True)
    for i, array in enumerate(pixels):
        Image.fromarray(array).save(folder / f"{i:03}.png")
    return pixels


def ours(monkeypatch):
    """Any picture file taken for one of ours."""
    monkeypatch.setattr(draw, "read", lambda path: ([Image.open(path).convert("RGB")], {}))


def test_clip_score_is_the_cosine_that_clip_gives(tmp_path, clip_folder, monkeypatch):
    from transformers import CLIPModel, CLIPProcessor

    ours(monkeypatch)
    noise(tmp_path / "a", 3)
    paths = captions.images_in(tmp_path / "a")
    words = [
        "a pirate",
        "a sailor with a long beard and a red shirt, sad face, blue background " * 9,
        "",
    ]  # longer than CLIP reads
    found = captions.measure(
        [plan.Picture(w, "x", 1) for w in words],
        {"none": paths},
        ["clip"],
        (40, 30),
        "cpu",
        clip=str(clip_folder),
    )
    model, processor = (
        CLIPModel.from_pretrained(clip_folder).eval(),
        CLIPProcessor.from_pretrained(clip_folder),
    )
    cosines = []
    for word, path in zip(words, paths, strict=True):  # one by one, from logits
        with torch.no_grad():
            logits = model(
                **processor(
                    text=[word], images=[Image.open(path)], return_tensors="pt", truncation=True
                )
            ).logits_per_image
        cosines.append(float(logits / model.logit_scale.exp()))
    assert max(cosines) - min(cosines) > 0.01
    assert found["none"]["clip"] == pytest.approx(
        sum(max(0, 100 * c) for c in cosines) / 3, abs=1e-3
    )
    low, high = found["none"]["clip_interval"]
    assert low < found["none"]["clip"] < high


def test_pickscore_is_the_cosine_times_the_models_own_scale(tmp_path, clip_folder, monkeypatch):
    ours(monkeypatch)
    noise(tmp_path / "a", 2)
    monkeypatch.setattr(captions, "PICKSCORE", str(clip_folder))
    paths, pictures = (
        captions.images_in(tmp_path / "a"),
        [plan.Picture(w, "x", 1) for w in ("a pirate", "a sailor")],
    )
    found = captions.measure(pictures, {"none": paths}, ["pickscore"], (40, 30), "cpu")
    similar = captions.Similarity(str(clip_folder), "cpu")
    cosines = similar([Image.open(path) for path in paths], ["a pirate", "a sailor"])
    assert (
        found["none"]["pickscore"] == pytest.approx(float(similar.scale * cosines.mean()), rel=1e-5)
        and similar.scale > 10
    )


def test_fid_agrees_with_torchmetrics(tmp_path, network, monkeypatch):
    fid = pytest.importorskip("torchmetrics.image.fid", reason="pip install torchmetrics")
    ours(monkeypatch)
    drawn, real = noise(tmp_path / "a", 70), noise(tmp_path / "real", 90, seed=1) // 2
    for i, array in enumerate(real):
        Image.fromarray(array).save(tmp_path / "real" / f"{i:03}.png")
    columns = {"none": captions.images_in(tmp_path / "a")}
    found = captions.measure(
        [plan.Picture("x", "x", 1)] * 70, columns, ["fid"], (40, 30), "cpu", tmp_path / "real"
    )
    theirs = fid.FrechetInceptionDistance(Network())
    theirs.update(torch.from_numpy(real).permute(0, 3, 1, 2), real=True)
    theirs.update(torch.from_numpy(drawn).permute(0, 3, 1, 2), real=False)
    assert found["none"]["fid"] == pytest.approx(float(theirs.compute()), rel=1e-4)


def test_pfid_looks_at_the_middle_at_full_size(tmp_path, network, monkeypatch):
    ours(monkeypatch)
    monkeypatch.setattr(captions, "PATCH", 16)
    pixels = noise(tmp_path / "a", 20)
    noise(tmp_path / "real", 20, (80, 60), seed=1)
    pictures = [plan.Picture("x", "x", 1)] * 20

    def pfid():
        found = captions.measure(
            pictures,
            {"a": captions.images_in(tmp_path / "a")},
            ["fid", "pfid"],
            (40, 30),
            "cpu",
            tmp_path / "real",
        )
        return found["a"]["fid"], found["a"]["pfid"]

    before = pfid()
    assert before[0] != before[1]
    for i, array in enumerate(pixels):  # everything outside of the middle
        array[:7], array[-7:], array[:, :12], array[:, -12:] = 0, 0, 0, 0
        Image.fromarray(array).save(tmp_path / "a" / f"{i:03}.png")
    after = pfid()
    assert after[1] == before[1] and after[0] != before[0]
    monkeypatch.setattr(captions, "PATCH", 299)
    with pytest.raises(
        Refused, match="PFID looks at 299 x 299 pixels, and these pictures have 40 x 30"
    ):
        pfid()


def test_references_of_any_shape_are_cut_to_the_size_drawn(tmp_path, network):
    noise(tmp_path / "real", 1, (80, 30))
    Image.new("L", (10, 10)).save(tmp_path / "real" / "gray.jpg")
    rows = captions.features(
        Network(), captions.Files(captions.images_in(tmp_path / "real"), False), (20, 30), False
    )
    middle = Image.open(tmp_path / "real" / "000.png").crop((30, 0, 50, 30))
    torch.testing.assert_close(
        rows[0], Network()(torch.from_numpy(np.array(middle)).permute(2, 0, 1)[None])[0]
    )


def test_captions_are_evaluated_on_any_pipeline_and_frames_of_a_video(
    tmp_path, clip_folder, network, monkeypatch
):
    monkeypatch.setitem(sys.modules, "torch_fidelity", types.ModuleType("torch_fidelity"))
    (tmp_path / "words.txt").write_text("portrait of a pirate\na sailor\n")
    noise(tmp_path / "real", 3)
    out = tmp_path / "out"
    asked = options(
        out,
        "--preset",
        "wan21-1b",
        "--model",
        folder_of("wan"),
        "--prompts",
        str(tmp_path / "words.txt"),
        "--negative",
        "glasses",
        "--count",
        "3",
        "--batch",
        "2",
        "--steps",
        "1",
        "--metrics",
        "clip,fid,motion",
        "--clip-model",
        str(clip_folder),
        "--reference-images",
        str(tmp_path / "real"),
        "--guidance",
        "none,nag",
    )
    preset, _ = plan.presets.resolve({"preset": "wan21-1b"})
    small = preset.model_copy(
        update={
            "settings": preset.settings | {"width": 32, "height": 32, "num_frames": 5},
            "ranges": {"num_frames": (1, 33)},
            "multiple": 16,
        }
    )
    plan.presets.load_all.cache_clear()
    known = plan.presets.load_all()
    known["wan21-1b"] = small
    try:
        assert command.run(asked) == 0
    finally:
        plan.presets.load_all.cache_clear()
    results = json.loads((out / "results.json").read_text())
    assert set(results["columns"]) == {"none", "nag"} and "classifier" not in results
    assert set(results["columns"]["nag"]) == {
        "clip",
        "clip_interval",
        "fid",
        "motion",
        "seconds",
        "count",
    }
    assert results["columns"]["nag"]["count"] == 3
    frames = [
        [np.asarray(frame, float) for frame in draw.read(path)[0]]
        for path in (out / "pictures").iterdir()
    ]
    moved = np.mean(
        [
            np.abs(after - before).mean()
            for video in frames
            for before, after in itertools.pairwise(video)
        ]
    )
    assert (
        np.mean([numbers["motion"] for numbers in results["columns"].values()])
        == pytest.approx(moved, rel=1e-3)
        and moved > 0
    )
    assert len(list((out / "pictures").iterdir())) == 6
    assert all(
        draw.read(path)[1]["frames"] == 5 and len(draw.read(path)[0]) == 5
        for path in (out / "pictures").iterdir()
    )
    assert "| nag |" in (out / "table.md").read_text() and "CLIP" in (out / "table.md").read_text()


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    with pytest.raises(
        Refused,
        match=r"openai/clip-vit-large-patch14 is not on this machine and the hub cannot be reached"
        r".*leave its metric out",
    ):
        captions.Similarity(captions.CLIP, "cpu")
    with pytest.raises(Refused, match=r"is neither a folder here nor|does not load"):
        captions.Similarity(str(tmp_path), "cpu")
    noise(tmp_path / "real", 2)
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(Refused, match=r"need torch-fidelity: pip install '.\[evaluate\]'"):
        captions.check(["fid"], tmp_path / "real")


def test_inception_is_torch_fidelitys_and_its_missing_weights_are_named(tmp_path, monkeypatch):
    def network(name, features, feature_extractor_weights_path=None):
        assert features == ["2048"]
        if feature_extractor_weights_path is None:
            raise OSError("no network")
        module = Network()
        module.forward = lambda pixels: (Network.forward(module, pixels),)
        return module

    fidelity = types.ModuleType("torch_fidelity.feature_extractor_inceptionv3")
    fidelity.FeatureExtractorInceptionV3 = network
    monkeypatch.setitem(sys.modules, "torch_fidelity", types.ModuleType("torch_fidelity"))
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", fidelity)
    with pytest.raises(
        Refused, match=r"fetches them once from github\.com, or give their file by --inception FILE"
    ):
        captions.inception()
    pixels = torch.randint(0, 256, (2, 3, 9, 9), dtype=torch.uint8)
    torch.testing.assert_close(
        captions.inception(tmp_path / "weights.pth")(pixels), Network()(pixels)
    )
