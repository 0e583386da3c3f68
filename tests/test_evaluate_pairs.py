"""Prompts with a negative and a question each: read, judged and compared, by tiny random models."""

import json
import math
import sys
import types

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from test_evaluate import options

from nag.errors import Refused
from nag.evaluate import command, draw, judged, pairs, plan
from nag.evaluate.options import plan_of

ROWS = [
    {"prompt": "portrait of a cowboy", "negative": "hat", "question": "Is there a hat?"},
    {"prompt": "portrait of a professor", "negative": "glasses", "question": ""},
]
TABLE = "prompt{0}negative{0}question\n" + "\n".join(
    "{prompt}\x1f{negative}\x1f{question}".format(**row) for row in ROWS
)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", json.dumps(ROWS)),
        (
            "a.json",
            json.dumps(
                {
                    "prompts": [
                        {"prompt": r["prompt"], "missing_element": r["negative"]}
                        | ({"question": r["question"]} if r["question"] else {})
                        for r in ROWS
                    ]
                }
            ),
        ),
        ("a.tsv", TABLE.format("\t").replace("\x1f", "\t")),
        ("a.csv", "\ufeff" + TABLE.format(",").replace("\x1f", ",")),
        (
            "a.csv",
            'caption,negative_prompt\n"portrait of a  cowboy",hat\nportrait of a professor,glasses',
        ),
    ],
)
def test_pairs_are_read_in_every_form(name, text, tmp_path):
    (tmp_path / name).write_text(text)
    found = pairs.pairs_in(tmp_path / name)
    assert [(p.prompt, p.negative, p.seed) for p in found] == [
        ("portrait of a cowboy", "hat", plan.HELD_OUT),
        ("portrait of a professor", "glasses", plan.HELD_OUT + 1),
    ]
    asked = "Is there a hat?" if "question" in text else "Is there any hat in this picture?"
    assert found[0].question == asked
    assert found[1].question == "Is there any glasses in this picture?"
    again = pairs.pairs_in(tmp_path / name, 3)[2]
    assert (again.prompt, again.seed) == ("portrait of a cowboy", plan.HELD_OUT + 2)


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("a.txt", "a", "ends in none of .json, .tsv, .csv"),
        ("a.json", "{", "is not as it should be: a JSON file is a list"),
        ("a.json", '{"a": [], "b": []}', "is not as it should be"),
        ("a.json", "[]", "has no rows"),
        ("a.json", '[{"prompt": "a"}]', "row 1 has no negative"),
        ("a.json", '[{"prompt": 3, "negative": "b"}]', "the prompt of row 1 must be text"),
        ("a.csv", "prompt,negative\na,b,c", "a line has more fields than the first"),
        ("a.csv", "prompt,negative\n,b", "row 1 has no prompt"),
        ("a.csv", 'prompt,negative\n"a', "is not as it should be"),
    ],
)
def test_pairs_that_cannot_be_read_are_refused(name, text, sentence, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(Refused, match=sentence):
        pairs.pairs_in(tmp_path / name)
    with pytest.raises(Refused, match="cannot be read: No such file"):
        pairs.pairs_in(tmp_path / "none.csv")


def test_an_irrelevant_negative_is_another_pairs_and_not_in_the_prompt():
    some = [
        plan.Picture("a cat in a hat", "tail", 1),
        plan.Picture("a man", "hat", 2),
        plan.Picture("a car", "wheels", 3),
        *(plan.Picture("a clock", "hands", 4 + i) for i in range(5)),
    ]
    found = plan.controls_of(some)
    assert [(p.prompt, p.negative, p.control) for p in found] == [
        ("a cat in a hat", "wheels", "irrelevant"),
        ("a man", "wheels", "irrelevant"),
        ("a cat in a hat", "", "empty"),
        ("a man", "", "empty"),
    ]
    assert [p.control for p in plan.controls_of(some[:1])] == ["empty"], "there is no other"


def pairs_file(folder):
    (folder / "pairs.json").write_text(json.dumps(ROWS))
    return str(folder / "pairs.json")


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--negative", "a"], "--pairs has a negative prompt for each of its prompts"),
        (["--prompts", "b.txt"], "Give --pairs or --prompts"),
        (["--guidance", "nag"], "dino, lpips compare with the un-guided picture: add none"),
        (["--metrics", "presence,control"], "control measures dino and lpips under negatives"),
        (["--metrics", "keep"], "keep can be measured on a pocket preset's own cases only"),
    ],
)
def test_what_pairs_cannot_do_is_refused_before_a_model_is_loaded(more, sentence, tmp_path):
    with pytest.raises(Refused, match=sentence):
        plan_of(options(tmp_path / "out", "--pairs", pairs_file(tmp_path), *more))


def test_a_question_needs_pairs_and_a_metric_its_package(tmp_path, monkeypatch):
    with pytest.raises(Refused, match="presence asks a question of each picture: give --pairs"):
        judged.check(["presence"], False, True)
    monkeypatch.setitem(judged.NEEDS, "lpips", ("a and b", ("no_such_package",)))
    with pytest.raises(Refused, match=r"lpips needs a and b: pip install '.\[evaluate\]'"):
        judged.check(["lpips"], True, True)
    judged.check(["dino", "presence"], True, True)


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    """A tiny LLaVA that knows a few words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )

    words = "<pad> <unk> <image> yes no Yes No Is there a hat any glasses in this picture ? . ,"
    words += " Answer with one word or user"
    vocabulary = {word: i for i, word in enumerate(words.split())}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        additional_special_tokens=["<image>"],
    )
    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
        initializer_factor=20.0,
    )
    text = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        pad_token_id=0,
        initializer_range=1.0,
    )
    model = LlavaForConditionalGeneration(
        LlavaConfig(vision_config=vision, text_config=text, image_token_index=2)
    )
    folder = tmp_path_factory.mktemp("judge")
    model.save_pretrained(folder)
    template = (
        "{% for m in messages %}user {% for c in m['content'] %}"
        "{% if c['type'] == 'image' %}<image> {% else %}{{ c['text'] }}{% endif %}"
        "{% endfor %}{% endfor %}"
    )
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    LlavaProcessor(
        images,
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def dino(tmp_path_factory):
    from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("dino")
    Dinov2Model(
        Dinov2Config(
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=32,
            patch_size=8,
            initializer_range=0.5,
        )
    ).save_pretrained(folder)
    BitImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    ).save_pretrained(folder)
    return folder


def noise(seed):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (32, 32, 3), np.uint8))


def test_the_judge_says_how_likely_yes_is(judge):
    """As one would by hand, and whatever else is asked in the same batch."""
    ask = judged.Judge(str(judge), "cpu")
    asked = ["Is there a hat?", "Is there any glasses in this picture?"]
    images = [noise(1), noise(2)]
    found = ask(images, asked)
    for image, question, chance in zip(images, asked, found, strict=True):
        text = f"user <image> {question} Answer with one word, yes or no."
        given = ask.processor(text=[text], images=[image], return_tensors="pt")
        with torch.no_grad():
            shares = ask.model(**given).logits[0, -1].softmax(-1)
        yes, no = shares[[3, 5]].sum(), shares[[4, 6]].sum()
        assert chance == pytest.approx(float(yes / (yes + no)), abs=1e-4)
        assert ask([image], [question])[0] == pytest.approx(chance, abs=1e-4)
    assert abs(found[0] - found[1]) > 1e-3


def test_a_judge_that_cannot_be_asked_is_refused(judge, tmp_path, monkeypatch):
    with pytest.raises(Refused, match="nowhere"):
        judged.Judge(str(tmp_path / "nowhere"), "cpu")
    from transformers import AutoProcessor

    whole = AutoProcessor.from_pretrained(judge)
    whole.chat_template = None
    monkeypatch.setattr(AutoProcessor, "from_pretrained", lambda source: whole)
    with pytest.raises(Refused, match="has no chat template, so nobody knows how to ask it"):
        judged.Judge(str(judge), "cpu")
    whole.chat_template = "{{ messages }}"
    monkeypatch.setattr(judged, "WORDS", {"yes": ("maybe",), "no": ("perhaps",)})
    with pytest.raises(Refused, match='no tokens of its own for "yes" and "no"'):
        judged.Judge(str(judge), "cpu")


def test_dino_compares_pictures(dino, tmp_path):
    see = judged.Dino(str(dino), "cpu")
    one, other = see([noise(1)]), see([noise(2)])
    assert float(see([noise(1)])[0] @ one[0]) == pytest.approx(1)
    assert float(one.norm()) == pytest.approx(1) and abs(float((one * other).sum())) < 0.999
    with pytest.raises(Refused, match="nowhere"):
        judged.Dino(str(tmp_path / "nowhere"), "cpu")


class Distance(torch.nn.Module):
    """In LPIPS' place: mean difference of pixels between 0 and 1."""

    def forward(self, one, other, normalize):
        assert normalize and one.shape == other.shape and 0 <= float(one.min()) <= 1
        return (one - other).abs().mean((1, 2, 3), keepdim=True)


def alexnet(**_):
    """torchvision's, with random weights: its features as torchmetrics takes them apart."""
    nn = torch.nn
    sizes = [(3, 64, 11, 4, 2), (64, 192, 5, 1, 2), (192, 384, 3, 1, 1), (384, 256, 3, 1, 1)]
    layers = []
    for place, size in enumerate([*sizes, (256, 256, 3, 1, 1)]):
        layers += [nn.Conv2d(*size), nn.ReLU()]
        layers += [nn.MaxPool2d(3, 2)] if place in (0, 1, 4) else []
    return types.SimpleNamespace(features=nn.Sequential(*layers))


def test_lpips_is_torchmetrics(monkeypatch, tmp_path):
    """Around random features, for torchvision's are not here."""
    from torchmetrics.functional.image import lpips
    from torchmetrics.image import lpip

    models = types.SimpleNamespace(
        alexnet=alexnet, AlexNet_Weights=types.SimpleNamespace(DEFAULT=None)
    )
    monkeypatch.setitem(sys.modules, "torchvision", types.SimpleNamespace(models=models))
    monkeypatch.setattr(lpips, "_TORCHVISION_AVAILABLE", True)
    monkeypatch.setattr(lpip, "_TORCHVISION_AVAILABLE", True)
    torch.manual_seed(0)
    files = []
    for number in range(3):
        files.append(tmp_path / f"{number}.png")
        text = PngInfo()
        text.add_text("nag-evaluate", json.dumps({"frames": 1}))
        noise(number).resize((64, 64)).save(files[-1], pnginfo=text)
    found = judged.distances(judged.perceptual("cpu"), files, [files[0]] * 3, "cpu")
    assert found.shape == (3,) and found[0] == 0 and min(found[1:]) > 0
    alone = judged.distances(judged.perceptual("cpu"), files[:1], files[:1], "cpu")
    assert alone.shape == (1,)

    def gone(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(models, "alexnet", gone)
    with pytest.raises(Refused, match=r"LPIPS' weights could not be had \(OSError\): torchvision"):
        judged.perceptual("cpu")


def test_pairs_are_drawn_judged_and_written_and_nothing_is_asked_twice(
    tmp_path, monkeypatch, judge, dino, capsys
):
    monkeypatch.setattr(judged, "perceptual", lambda device: Distance())
    monkeypatch.setitem(judged.NEEDS, "lpips", ("", ()))
    given = [
        *("--pairs", pairs_file(tmp_path), "--count", "3", "--steps", "1"),
        *("--guidance", "none,cfg,nag", "--sweep", "nag_scale=3,10"),
        *(
            "--metrics",
            "presence,dino,lpips,control",
            "--judge",
            str(judge),
            "--dino-model",
            str(dino),
        ),
    ]
    out = tmp_path / "out"
    assert command.run(options(out, *given)) == 0
    results = json.loads((out / "results.json").read_text())
    none, nag = results["columns"]["none"], results["columns"]["nag nag_scale=10"]
    assert results["settings"]["count"] == 3 and results["settings"]["pairs"] == "pairs.json"
    assert none["dino"] == pytest.approx(1, abs=1e-4) and none["lpips"] == 0
    assert nag["dino"] < 1 and nag["lpips"] > 0
    low, high = nag["removed_interval"]
    assert 0 <= low <= nag["removed"] <= high <= 1 and 0 < nag["presence"] < 1
    assert nag["paired"]["against"] == "cfg" and "removed_p" in nag["paired"]
    assert set(nag["controls"]) == {"irrelevant", "empty"} and "controls" not in none
    assert 0 < nag["controls"]["empty"]["dino"] < 1 and nag["controls"]["empty"]["lpips"] > 0
    assert results["matched_as"] == ["removed", "dino", "1 - lpips"]
    assert results["matched"]["1"]["nag"]["settings"] == 2
    table = capsys.readouterr().out
    head = "| column | removed (95 %) | P(yes) (95 %) | DINO (95 %) | LPIPS (95 %) | s / picture |"
    assert head in table
    assert "| dino, lpips | irrelevant negative (1) | empty negative (1) |" in table
    assert (out / "plots" / "dino_by_removed.png").exists()
    (known,) = out.glob("answers-*.json")
    files = {one.split(" ")[0] for one in json.loads(known.read_text())}
    assert files <= {path.name for path in (out / "pictures").glob("*.png")}
    monkeypatch.setattr(judged, "Judge", lambda *_: pytest.fail("asked what was answered"))
    monkeypatch.setattr(draw.loading, "load", lambda _: pytest.fail("loaded to draw nothing"))
    assert command.run(options(out, *given)) == 0
    again = json.loads((out / "results.json").read_text())
    assert again["columns"]["nag nag_scale=10"]["presence"] == nag["presence"]
    assert not math.isnan(again["columns"]["cfg"]["dino"])
