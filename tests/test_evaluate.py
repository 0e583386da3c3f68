"""`python -m nag evaluate`: columns as asked, pictures drawn once, numbers from the files, the same
however they came to be.
"""

import argparse
import json
import math
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from nag import presets
from nag.__main__ import main
from nag.engine import provenance
from nag.errors import Refused
from nag.evaluate import (
    cases,
    colours,
    command,
    compare,
    draw,
    evidence,
    matched,
    pictures,
    plan,
    pocket,
    processes,
    references,
    report,
    statistics,
    step_plots,
    table,
)
from nag.evaluate.options import plan_of
from nag.explore.counting import wilson
from nag.media.meter import Meter
from nag.pocket.data import ATTRIBUTES

ROOT = Path(__file__).resolve().parent.parent
PORTRAIT = presets.load_all()["pocket-portrait"]


def options(out, *arguments):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args([*arguments, "--out", str(out)])


def keys(guidance="nag", steps=(4,), ablate=False, **sweep):
    return [
        column.key
        for column in plan.columns_of(PORTRAIT, guidance.split(","), list(steps), sweep, ablate)
    ]


def test_columns_are_all_combinations_that_differ():
    assert keys("none,cfg,nag") == ["none", "cfg", "nag"]
    assert keys("none,cfg,nag", nag_scale=[3, 5], nag_alpha=[0.5]) == [
        "none",
        "cfg",
        "nag nag_scale=3 nag_alpha=0.5",
        "nag nag_scale=5 nag_alpha=0.5",
    ]
    assert keys("none,cfg", (1, 2), guidance_scale=[3]) == [
        "none steps=1",
        "cfg guidance_scale=3 steps=1",
        "none steps=2",
        "cfg guidance_scale=3 steps=2",
    ]
    assert keys("cfg+nag", guidance_scale=[2, 3], nag_scale=[5]) == [
        "cfg+nag guidance_scale=2 nag_scale=5",
        "cfg+nag guidance_scale=3 nag_scale=5",
    ]
    assert keys("nasa,vsf", nasa_scale=[0.2, 0.4]) == [
        "nasa nasa_scale=0.2",
        "nasa nasa_scale=0.4",
        "vsf",
    ]


def test_an_ablation_takes_out_one_part_and_keeps_the_rest():
    whole, *parts = plan.columns_of(PORTRAIT, ["nag"], [4], {}, ablate=True)
    assert [part.key for part in parts] == [
        "nag no normalisation",
        "nag no refinement",
        "nag neither",
    ]
    given = whole.request.attention("nag")
    assert [part.request.attention("nag") for part in parts] == [
        replace(given, tau=math.inf),
        replace(given, alpha=1.0),
        replace(given, tau=math.inf, alpha=1.0),
    ]
    assert [dict(part.settings.items() ^ whole.settings.items()).keys() for part in parts] == [
        {"nag_tau", "nag_normalisation"},
        {"nag_alpha", "nag_refinement"},
        {"nag_tau", "nag_alpha", "nag_normalisation", "nag_refinement"},
    ]
    assert keys(ablate=True, nag_alpha=[0.3, 0.6])[2:] == [
        "nag no normalisation nag_alpha=0.3",
        "nag no normalisation nag_alpha=0.6",
        "nag no refinement",
        "nag neither",
    ]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["--preset", "pocket-portrat"],
            "preset must be one of the .* there are, such as pocket-portrait",
        ),
        (["--preset", "sdxl"], "has no classifier that reads its pictures: give --prompts"),
        (
            ["--preset", "flux-kontext", "--prompts", "words.txt", "--negative", "x"],
            "begins with a picture",
        ),
        (
            [
                "--preset",
                "sana-sprint",
                "--prompts",
                "words.txt",
                "--negative",
                "x",
                "--guidance",
                "cfg",
            ],
            "whose pipeline takes no negative prompt",
        ),
        (["--guidance", "none,pag"], "--guidance is out of none, cfg, nag.*got pag"),
        (["--count", "0"], "--count must be 1 or more"),
        (["--batch", "0"], "--batch must be 1 or more"),
        (["--steps", "four"], "--steps wants whole numbers"),
        (["--steps", "31"], "num_inference_steps must be between 1 and 30 for Pocket portrait"),
        (
            ["--sweep", "nag_phi=1"],
            "--sweep wants SETTING=VALUE,VALUE with a setting out of .*nag_scale",
        ),
        (["--sweep", "nag_scale=1,two"], "wants numbers with commas"),
        (["--sweep", "nag_scale=21"], "nag_scale must be between 1 and 20"),
        (["--sweep", "nag_alpha=nan"], "nag_alpha must be a finite number"),
        (["--guidance", "none,cfg", "--sweep", "nag_scale=2"], "changes none of the columns"),
        (["--guidance", "nasa", "--sweep", "nasa_scale=-1"], "nasa_scale must be between 0 and 10"),
        (["--guidance", "none", "--ablate"], "--ablate takes NAG apart"),
        (["--cases", "hat,wings"], "--cases is out of hat.*got wings"),
        (["--metrics", "beauty"], "--metrics is out of .*got beauty"),
        (["--metrics", "motion"], "motion can be measured on videos only"),
        (["--metrics", "fid"], "give --reference-images DIR"),
        (["--metrics", "fid", "--reference-images", "nowhere"], "needs at least two pictures"),
        (["--prompts", "words.txt"], "--prompts needs --negative"),
        (["--negative", "x"], "--negative goes with --prompts"),
        (["--prompts", "nothing.txt", "--negative", "x"], "cannot be read: No such file"),
        (
            ["--prompts", "words.txt", "--negative", "x", "--metrics", "keep"],
            "on a pocket preset's own cases only",
        ),
    ],
)
def test_what_cannot_work_is_refused_before_a_model_is_loaded(
    arguments, sentence, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "words.txt").write_text("a cat\n")
    monkeypatch.setattr(draw.Painter, "loaded", property(lambda _: pytest.fail("loaded a model")))
    monkeypatch.setattr(draw.loading, "load", lambda _: pytest.fail("loaded a model"))
    assert main(["evaluate", *arguments, "--out", str(tmp_path / "out")]) == 2
    assert re.search(sentence, capsys.readouterr().err)


def test_where_a_picture_depends_on_its_batch_each_is_drawn_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "preset_of", lambda *_: PORTRAIT.model_copy(update={"batch": 1}))
    rates = "--metrics", "attribute"
    assert (
        plan_of(options(tmp_path, *rates)).batch
        == plan_of(options(tmp_path, *rates, "--batch", "1")).batch
        == 1
    )
    with pytest.raises(Refused, match="--batch must be at most 1 for Pocket portrait"):
        plan_of(options(tmp_path, *rates, "--batch", "2"))


def test_a_folder_that_cannot_be_written_is_refused(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["evaluate", "--out", str(tmp_path / "file" / "out")]) == 2
    assert "cannot be written: Not a directory" in capsys.readouterr().err


def test_references_that_cannot_be_rendered_are_refused_but_not_needed_for_rates(
    monkeypatch, tmp_path
):
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(
        Refused, match=r"pip install '.\[evaluate\]'.* or leave it out by --metrics attribute keep"
    ):
        plan_of(options(tmp_path))
    plan_of(options(tmp_path, "--metrics", "attribute", "keep"))


def test_pictures_are_counted_in_all_and_cases_take_turns():
    pictures = plan.of_cases(["hat", "mask"], 7)
    assert [p.case for p in pictures] == ["hat", "mask"] * 3 + ["hat"]
    assert [p.prompt for p in pictures[:4]] == [
        "portrait of a cowboy",
        "portrait of a surgeon",
        "portrait of an explorer",
        "portrait of a surgeon",
    ]
    assert {p.negative for p in pictures} == {"hat", "mask"} and len(
        {p.seed for p in pictures}
    ) == 7
    tuned = plan.of_cases(list(cases.CASES), 256, tuning=True)
    reported = plan.of_cases(list(cases.CASES), 256)
    assert not {p.prompt for p in tuned} & {p.prompt for p in reported} and not {
        p.seed for p in tuned
    } & {p.seed for p in reported}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "a.json",
            json.dumps(
                {"annotations": [{"caption": "a cat", "id": 1}, {"caption": "a dog,\n brown "}]}
            ),
        ),
        ("a.tsv", "id\tcaption\n1\ta cat\n2\ta dog, brown\n"),
        ("a.csv", 'caption,id\na cat,1\n"a dog, brown",2\n'),
        ("a.txt", "a cat\n\n a dog, brown\n"),
    ],
)
def test_captions_are_read_from_what_people_have(name, text, tmp_path):
    (tmp_path / name).write_text(text)
    assert plan.captions_in(tmp_path / name) == ["a cat", "a dog, brown"]


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("a.json", "[]", 'must be {"annotations"'),
        ("a.csv", "text\na cat\n", 'column named "caption"'),
        ("a.txt", " \n", "has no captions"),
        ("a.txt", "x" * 2001, "2001 characters"),
    ],
)
def test_captions_that_cannot_be_read_are_refused(name, text, sentence, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(Refused, match=sentence):
        plan.captions_in(tmp_path / name)


def test_the_frechet_distance_agrees_with_known_values():
    a = torch.randn(4000, 3)
    distance = statistics.Frechet(a)
    assert float(distance(a)) == pytest.approx(0, abs=1e-6)
    assert float(distance(a + torch.tensor([3.0, 0, 0]))) == pytest.approx(9, abs=1e-3)
    assert float(distance(2 * a)) == pytest.approx(
        3, abs=0.3
    )  # standard deviations 1 and 2: (1 - 2)^2 a dimension
    torch.testing.assert_close(
        distance(torch.stack([2 * a, a + 1])), torch.stack([distance(2 * a), distance(a + 1)])
    )


def test_the_interval_of_a_frechet_distance_covers_what_other_samples_give():
    """With 60 rows of 10 features a resample is far from its original: the interval must not be."""
    reference, population = (
        statistics.Frechet(torch.randn(2000, 10)),
        torch.randn(400, 60, 10) * 1.1 + 0.2,
    )
    expected = reference(population).mean()
    inside = 0
    for rows in population[:100]:
        resampled = reference.resampled(rows)
        low, high = statistics.around(float(reference(rows)), resampled)
        assert low < reference(rows) < high and resampled.mean() > reference(rows)
        inside += low < expected < high
    assert 85 <= inside <= 100


def test_cfg_is_read_off_its_curve_at_the_same_rate():
    curve = [
        (0.9, {"keep": 1.0, "frechet": 10.0}),
        (0.1, {"keep": 0.2, "frechet": 50.0}),
        (0.5, {"keep": 0.6, "frechet": 30.0}),
    ]
    assert statistics.at_same_rate(0.3, curve) == pytest.approx({"keep": 0.4, "frechet": 40})
    assert statistics.at_same_rate(0.9, curve) == {"keep": 1.0, "frechet": 10.0}
    assert statistics.at_same_rate(0.05, curve) == {"lowest_rate": 0.1} and statistics.at_same_rate(
        0.95, curve
    ) == {"highest_rate": 0.9}


@pytest.fixture
def small(monkeypatch):
    """Few references: rendering them is what takes long."""
    pytest.importorskip("resvg_py", reason="rendering needs dicebear-core dicebear-styles resvg-py")
    monkeypatch.setattr(references, "REFERENCES", 6)
    monkeypatch.setattr(references, "FLOOR", 6)
    monkeypatch.setattr(references, "KNOWN", 40)


def evaluate(out, *arguments) -> dict:
    assert command.run(options(out, *arguments)) == 0
    return json.loads((out / "results.json").read_text())


def files(out) -> dict:
    return {path.name: path.read_bytes() for path in (out / "pictures").iterdir()}


ASKED = (
    "--cases",
    "hat,glasses",
    "--count",
    "6",
    "--batch",
    "4",
    "--steps",
    "1,2",
    "--sweep",
    "guidance_scale=3,9",
)


def test_an_evaluation_is_written_measured_from_its_files_and_never_drawn_twice(
    tmp_path, small, monkeypatch, capsys
):
    drawn, real = [], draw.Painter.draw

    def stopping(self, column, pictures):
        if len(drawn) == 5:
            raise KeyboardInterrupt
        drawn.append(column.key)
        real(self, column, pictures)

    monkeypatch.setattr(draw.Painter, "draw", stopping)
    with pytest.raises(Refused, match=r"Stopped\. Run the same command again"):
        evaluate(tmp_path / "a", *ASKED)
    before = files(tmp_path / "a")
    assert len(before) == 5 * 4 and not any(name.endswith(".part") for name in before)
    monkeypatch.setattr(draw.Painter, "draw", lambda *args: real(*args))
    resumed = evaluate(tmp_path / "a", *ASKED)
    after = files(tmp_path / "a")
    assert (
        len(after) == 8 * 6 + 6 * 4 and before.items() <= after.items()
    )  # also when they were drawn, to the letter
    whole = evaluate(tmp_path / "b", *ASKED)
    for name, content in files(tmp_path / "b").items():
        assert (
            Image.open(tmp_path / "a" / "pictures" / name).tobytes()
            == Image.open(tmp_path / "b" / "pictures" / name).tobytes()
        ), len(content)
    for results in (resumed, whole):
        for numbers in results["columns"].values():
            assert numbers.pop("seconds") > 0
    assert resumed == whole

    columns = whole["columns"]
    assert list(columns) == [
        f"{kind} steps={n}"
        for n in (1, 2)
        for kind in ("none", "cfg guidance_scale=3", "cfg guidance_scale=9", "nag")
    ]
    none, nag = columns["none steps=2"], columns["nag steps=2"]
    assert {
        "attribute_rate",
        "attribute_interval",
        "keep",
        "frechet",
        "frechet_interval",
        "count",
        "cases",
    } <= set(nag) and "clip" not in nag
    assert {"irrelevant", "empty"} == set(nag["controls"]) and "controls" not in none
    assert nag["paired"]["against"] == "cfg guidance_scale=9 steps=2"  # 7 is the preset's own
    assert nag["paired"]["clean"][0] > 0 and whole["floor"] > 0
    assert 0 < whole["chance"]["none steps=2"]["likeness"] < 0.8
    assert (
        none["attribute_rate"] >= 0.75
        and nag["attribute_rate"] <= 0.25
        and none["keep"] == 1 > nag["keep"]
    )
    assert (
        nag["count"] == 6
        and nag["cases"]["hat"]["count"] == 3
        and list(nag["cases"]) == ["hat", "glasses"]
    )
    assert (
        set(whole["classifier"]["accuracy"]) == set(ATTRIBUTES)
        and min(whole["classifier"]["accuracy"].values()) > 0.9
    )
    assert (
        "cfg_at_same_rate" in nag and whole["settings"]["columns"]["nag steps=2"]["nag_scale"] == 4
    )
    each = pictures.Results(tmp_path / "b")
    of_nag = [one for one in each.all if one.column == "nag steps=2"]
    assert [(tmp_path / "b" / "pictures" / one.file).exists() for one in of_nag] == [True] * 6
    assert sum(one.kind == "left" for one in of_nag) / 6 == pytest.approx(nag["attribute_rate"])
    assert sum(one.keep for one in of_nag) / 6 == pytest.approx(nag["keep"], abs=1e-3)
    table = (tmp_path / "b" / "table.md").read_text()
    assert f"| nag steps=2 | {nag['attribute_rate']:.2f} (" in table and "CFG" in table
    assert Image.open(tmp_path / "b" / "sheet.png").height == 40 + 8 * 128
    plots = {path.name for path in (tmp_path / "b" / "plots").glob("*.png")}
    assert {
        "attribute_rate_by_scale.png",
        "frechet_by_attribute_rate.png",
        "keep_by_attribute_rate.png",
        "keep_by_clean.png",
        "by_steps.png",
    } <= plots
    assert Image.open(tmp_path / "b" / "in_order.png").height == 34 + 3 * 128 + 10

    capsys.readouterr()
    monkeypatch.setattr(
        draw.loading, "load", lambda _: pytest.fail("loaded a model to draw nothing")
    )
    monkeypatch.setattr(
        draw.Painter,
        "__init__",
        lambda self, preset, folder: real_init(self, preset, folder, draw.loading.load),
    )
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    again = evaluate(tmp_path / "b", *ASKED)
    assert "need matplotlib: pip install" in capsys.readouterr().out
    for numbers in again["columns"].values():
        numbers.pop("seconds")
    assert again == whole


real_init = draw.Painter.__init__


NAMES = list(ATTRIBUTES)


def worn(**named: str) -> list[int]:
    """Class indices of somebody who wears nothing but what is named; "_" stands for a space."""
    plain = {"eyewear": "none", "facial hair": "none", "mask": "none", "head": "afro"}
    plain |= {name: values[0] for name, values in ATTRIBUTES.items() if name not in plain}
    plain |= {name.replace("_", " "): value for name, value in named.items()}
    return [ATTRIBUTES[name].index(plain[name]) for name in NAMES]


def seen(*people: list[int], skin: tuple[int, ...] = (), clipped: float = 0.1) -> pocket.Seen:
    skin = torch.tensor(skin or (0,) * len(people))
    hair = torch.zeros(len(people), dtype=torch.long)
    labels, features = torch.tensor(people), torch.zeros(len(people), 256)
    return pocket.Seen(labels, torch.stack([skin, hair], 1), features, clipped)


GLASSES = [plan.Picture("portrait of a professor", "glasses", i, "glasses") for i in range(4)]


def outcomes(pictures, after: pocket.Seen, before: pocket.Seen) -> dict:
    return pocket.Asked(pictures, ATTRIBUTES).outcomes(after, before)


def test_removed_is_clean_only_where_nothing_stands_in_its_place():
    before = seen(*[worn(eyewear="glasses")] * 4)
    after = seen(*(worn(eyewear=what) for what in ("none", "eyepatch", "sunglasses", "glasses")))
    found = outcomes(GLASSES, after, before)
    assert found["shown"].tolist() == [False, False, False, True]
    assert found["clean"].tolist() == [True, False, False, False]
    assert found["replaced"].tolist() == [False, True, True, False]


def test_a_head_without_its_hat_is_clean_with_any_hair_and_not_with_a_beanie():
    hats = [plan.Picture("portrait of a cowboy", "hat", i, "hat") for i in range(3)]
    after = seen(worn(head="bald"), worn(head="long hair"), worn(head="beanie"))
    found = outcomes(hats, after, seen(*[worn(head="hat")] * 3))
    assert found["clean"].tolist() == [True, True, False]
    assert found["replaced"].tolist() == [False, False, True]
    assert not found["added"].any()  # the slot itself is not elsewhere


def test_what_is_worn_now_and_was_not_before_is_an_addition_elsewhere_only():
    glasses, masked = worn(eyewear="glasses"), worn(eyewear="glasses", mask="mask")
    before = seen(glasses, glasses, masked, worn(eyewear="glasses", facial_hair="beard"))
    after = seen(
        worn(mask="mask"),  # a mask that nobody asked for
        worn(eyewear="eyepatch"),  # in the slot itself: replaced, not added
        worn(mask="mask"),  # there before
        worn(facial_hair="moustache"),  # another of what was there
    )
    assert outcomes(GLASSES, after, before)["added"].tolist() == [True, False, False, False]


def test_likeness_counts_skin_and_hair_and_keep_does_not():
    """Six attributes beside the slot, and two colours; hair that a hat hid is not compared."""
    before = seen(*[worn(eyewear="glasses")] * 4, skin=(0, 0, 0, 0))
    after = seen(*[worn()] * 3, worn(expression="sad"), skin=(0, 1, 2, 3))
    found = outcomes(GLASSES, after, before)
    assert found["keep"].tolist() == pytest.approx([1, 1, 1, 5 / 6])
    assert found["likeness"].tolist() == pytest.approx([1, 7 / 8, 7 / 8, 6 / 8])
    hats = [plan.Picture("portrait of a cowboy", "hat", 0, "hat")]
    bare, hatted = seen(worn()), seen(worn(head="hat"))
    bare.colours[0, 1] = 2
    assert outcomes(hats, bare, hatted)["likeness"].tolist() == [1]


def test_the_level_of_chance_is_that_of_other_seeds_of_the_same_words():
    """Two prompts of two seeds each: only those are paired, and an eighth of each pair differs."""
    words = ["a spy", "a rock star", "a spy", "a rock star"]
    pictures = [plan.Picture(w, "sunglasses", i, "sunglasses") for i, w in enumerate(words)]
    spy, star = worn(eyewear="sunglasses"), worn(eyewear="sunglasses", shirt="white", head="bun")
    plain = seen(spy, star, spy, star, skin=(0, 1, 2, 3))
    found = pocket.chance(pocket.Asked(pictures, ATTRIBUTES), plain)
    assert found == pytest.approx({"keep": 1, "likeness": 7 / 8})
    alone = pocket.Asked(pictures[:2], ATTRIBUTES)
    assert pocket.chance(alone, seen(spy, star)) == {}


def yardstick_of(pictures, columns: dict[str, pocket.Seen], metrics, found=None):
    """A yardstick whose columns are read already; `found` are its references."""
    of_cases = list(dict.fromkeys(picture.case for picture in pictures))
    reader = argparse.Namespace(attributes=ATTRIBUTES)
    made = argparse.Namespace(
        reader=reader, cases=of_cases, found=found, components=lambda features: features[:, :32]
    )
    yardstick = pocket.Yardstick(made, pictures, list(metrics))
    yardstick.seen = columns
    return yardstick


def test_shares_are_of_all_pictures_and_of_each_case(monkeypatch):
    pictures = plan.of_cases(["hat", "mask"], 4)
    hat, mask = worn(head="hat"), worn(mask="mask")
    columns = {
        "none": seen(hat, mask, hat, mask),
        # the hat gone; the mask still there, and a hat nobody spoke of; gone with a beard; gone
        "nag": seen(
            worn(), worn(mask="mask", head="hat"), worn(facial_hair="beard"), worn(), clipped=0.2
        ),
    }
    monkeypatch.setattr(pocket, "see", lambda reader, paths: columns[paths])
    yardstick = yardstick_of(pictures, {}, ["attribute", "keep", "clipped"])
    found = yardstick.measure({"none": "none", "nag": "nag"}, {"none": "none", "nag": "none"})
    none, nag = found["none"], found["nag"]
    assert none["attribute_rate"] == 1 and nag["attribute_rate"] == 0.25
    assert none["clean"] == 0 and nag["clean"] == 0.75 and nag["replaced"] == 0
    assert nag["keep"] == pytest.approx(1 - 2 / 24) and none["keep"] == 1 == none["likeness"]
    assert nag["added"] == 0.5 and none["added"] == 0 and nag["clipped"] == 0.2
    assert [nag["cases"][case]["attribute_rate"] for case in ("hat", "mask")] == [0, 0.5]
    assert nag["cases"]["hat"]["keep"] == pytest.approx(1 - 1 / 12)
    assert nag["attribute_interval"] == wilson(1, 4)
    lonely = yardstick_of(pictures, {}, ["attribute", "keep"]).measure({"nag": "nag"}, {})["nag"]
    assert not {"keep", "likeness", "added", "clipped"} & set(lonely) and lonely["clean"] == 0.75


def test_controls_count_only_pictures_in_which_the_negative_has_nothing_to_do(monkeypatch):
    pictures = plan.controls_of(plan.of_cases(["glasses"], 8))
    assert [(p.negative, p.control) for p in pictures] == [("hat", "irrelevant")] * 2 + [
        ("", "empty")
    ] * 2
    glasses = worn(eyewear="glasses")
    files = {
        "none": glasses,
        "hatted": worn(eyewear="glasses", head="hat"),
        "masked": worn(eyewear="glasses", mask="mask"),
        "bare": worn(),
    }
    monkeypatch.setattr(pocket, "see", lambda reader, paths: seen(*(files[p] for p in paths)))
    plain = ["none", "hatted", "none", "none"]  # the second shows a hat: the word is not idle
    after = ["none", "bare", "masked", "none"]
    yardstick = yardstick_of(plan.of_cases(["glasses"], 8), {}, ["keep"])
    found = yardstick.controls(pictures, {"nag": after}, {"nag": plain})["nag"]
    assert found["irrelevant"] == {"count": 1, "keep": 1, "likeness": 1, "added": 0}
    assert found["empty"] == pytest.approx(
        {"count": 2, "keep": 1 - 1 / 14, "likeness": 1 - 1 / 18, "added": 0.5}
    )


def test_each_case_has_its_own_references_and_true_renders_are_the_floor():
    near, far = torch.randn(300, 32), torch.randn(300, 32) + 5
    found = {"hat": near, "mask": far}
    found |= {"hat floor": torch.randn(400, 32), "mask floor": torch.randn(400, 32) + 5}
    pictures = plan.of_cases(["hat", "mask"], 400)
    features = torch.randn(400, 256)
    features[1::2, :32] += 5
    yardstick = yardstick_of(pictures, {}, ["frechet"], found)
    of_cases = {"hat": {}, "mask": {}}
    numbers = yardstick._distances(features, of_cases)
    mean = (of_cases["hat"]["frechet"] + of_cases["mask"]["frechet"]) / 2
    assert numbers["frechet"] == pytest.approx(mean) and numbers["frechet"] < 10
    low, high = numbers["frechet_interval"]
    assert low < numbers["frechet"] < high
    assert yardstick.floor() == pytest.approx(numbers["frechet"], rel=0.2)  # as good as true
    swapped = yardstick._distances(features.roll(1, 0), {"hat": {}, "mask": {}})
    assert swapped["frechet"] > 700 and swapped["frechet_pooled"] < 30
    assert swapped["frechet_pooled"] == pytest.approx(numbers["frechet_pooled"])
    assert yardstick_of(plan.of_cases(["hat"], 500), {}, [], found).floor() is None


def test_colours_of_skin_and_hair_are_read_from_renders():
    pytest.importorskip("resvg_py", reason="rendering needs dicebear-core dicebear-styles resvg-py")
    import random

    from nag.pocket import data

    rng, seen_hair = random.Random(3), 0
    for _ in range(40):
        person = data.sample_person(rng)
        skin, hair = colours.skin_and_hair([data.render(person)])
        assert data.SKIN[skin] == person.skin
        assert hair == 0 or data.HAIR[hair] == person.hair
        seen_hair += hair > 0
    assert seen_hair > 2


def test_a_paired_interval_is_narrower_than_one_that_forgets_the_pairs():
    first = torch.randn(300)
    second = first + 0.2 * torch.randn(300) - 0.1
    value, low, high = statistics.paired_mean(first, second, ["a", "b", "a"] * 100)
    assert low < 0.1 < high and low > 0 and value == pytest.approx(float((first - second).mean()))
    unpaired = statistics.of_mean(first)
    assert high - low < 0.5 * (unpaired[1] - unpaired[0])


def test_paired_resamples_stay_within_their_strata():
    index = statistics.resamples([3, 5])
    assert index.shape == (statistics.RESAMPLES, 8)
    assert index[:, :3].max() == 2 and index[:, 3:].min() == 3 and index[:, 3:].max() == 7


def test_a_paired_distance_covers_the_truth_and_sees_what_unpaired_ones_do_not():
    torch.manual_seed(1)
    frechet = [statistics.Frechet(torch.randn(2000, 6))]
    first = torch.randn(200, 6) * 1.2
    second = first * 1.02  # hardly farther away, and always
    value, low, high = statistics.paired_frechet(frechet, [first], [second])
    assert value < 0 and high < 0 and low < value < high
    alone = [
        statistics.around(float(frechet[0](x)), frechet[0].resampled(x)) for x in (first, second)
    ]
    assert alone[0][1] > alone[1][0]  # their own intervals overlap
    same = statistics.paired_frechet(frechet, [first], [first])
    assert same == (0, 0, 0)


def test_columns_are_compared_with_cfg_of_as_many_steps_or_with_the_one_that_is_named():
    columns = plan.columns_of(
        PORTRAIT, ["none", "cfg", "nag"], [2, 4], {"guidance_scale": [3.0, 7.0]}
    )
    rivals = compare.rivals_of(columns, None)
    assert rivals["nag steps=2"] == "cfg guidance_scale=7 steps=2"  # the preset's own
    assert rivals["cfg guidance_scale=3 steps=4"] == "cfg guidance_scale=7 steps=4"
    assert not {"cfg guidance_scale=7 steps=4", "none steps=4"} & set(rivals)
    assert set(compare.rivals_of(columns, "nag steps=4").values()) == {"nag steps=4"}
    assert "nag steps=2" not in compare.rivals_of(columns, "nag steps=4")
    with pytest.raises(
        Refused, match=r"--against must be one of the columns none steps=2, .*'cfg'"
    ):
        compare.rivals_of(columns, "cfg")


def test_differences_are_taken_picture_by_picture():
    pictures = GLASSES * 5
    plain, bare = worn(eyewear="glasses"), worn()
    columns = {
        "none": seen(*[plain] * 20),
        "cfg": seen(*[plain] * 15, *[bare] * 5),
        "nag": seen(*[bare] * 12, *[plain] * 3, *[bare] * 5),
    }
    yardstick = yardstick_of(pictures, columns, ["attribute", "keep"])
    against = dict.fromkeys(columns, "none")
    numbers = {key: {"clean": 0.0, "keep": 1.0, "likeness": 1.0} for key in columns}
    compare.paired(yardstick, {"nag": "cfg"}, against, numbers)
    found = numbers["nag"]["paired"]
    assert found["against"] == "cfg" and found["clean"][0] == pytest.approx(12 / 20)
    assert found["clean"][1] > 0.3 and found["clean_p"] == pytest.approx(2 / 2**12)
    assert found["keep"] == (0, 0, 0) and "paired" not in numbers["cfg"]


def test_a_picture_is_the_pipelines_own(tmp_path):
    """In a batch with others, through our files: what the pipeline draws alone."""
    import nag
    from nag.engine.loading import load

    loaded = load(PORTRAIT)
    painter = draw.Painter(PORTRAIT, tmp_path, lambda _: loaded)
    pictures = plan.of_cases(["hat", "glasses"], 2)
    for column in plan.columns_of(
        PORTRAIT, ["none", "cfg", "nag", "cfg+nag"], [2], {"guidance_scale": [4]}
    ):
        painter.draw(column, pictures)
        for picture in pictures:
            arguments = (
                {"guidance_scale": 4.0, "negative_prompt": picture.negative}
                if "cfg" in column.guidance
                else {"guidance_scale": 1.0}
            )
            given = (
                {"scale": 4.0, "tau": 2.5, "alpha": 0.5}
                if "nag" in column.guidance
                else {"scale": 1.0}
            )
            with nag.guide(loaded.pipe, picture.negative, **given):
                own = loaded.pipe(
                    picture.prompt,
                    num_inference_steps=2,
                    height=128,
                    width=128,
                    generator=torch.Generator().manual_seed(picture.seed),
                    **arguments,
                ).images[0]
            frames, made = draw.read(painter.path(column, picture))
            assert (
                torch.tensor(list(frames[0].tobytes())).int()
                - torch.tensor(list(own.tobytes())).int()
            ).abs().max() <= 1, column.key
            assert made["seed"] == picture.seed and made["seconds"] > 0


def test_a_picture_is_drawn_anew_when_something_it_depends_on_changes(tmp_path):
    painter = draw.Painter(PORTRAIT, tmp_path)
    picture = plan.Picture("a cowboy", "hat", 1)
    none, cfg, nag = plan.columns_of(PORTRAIT, ["none", "cfg", "nag"], [4], {})
    assert len({painter.path(column, picture) for column in (none, cfg, nag)}) == 3
    other = plan.Picture("a cowboy", "beard", 1)
    assert painter.path(none, picture) == painter.path(none, other) and painter.path(
        nag, picture
    ) != painter.path(nag, other)
    milder = plan.columns_of(PORTRAIT, ["none", "cfg", "nag"], [4], {"nag_alpha": [0.25]})
    assert [
        painter.path(a, picture) == painter.path(b, picture)
        for a, b in zip((none, cfg, nag), milder, strict=True)
    ] == [True, True, False]
    revised = draw.Painter(PORTRAIT.model_copy(update={"revision": "abc"}), tmp_path)
    assert revised.path(none, picture) != painter.path(none, picture)
    for change in ({"weights": "other"}, {"torch": "9.9"}, {"code": "other"}):
        changed = draw.Painter(PORTRAIT, tmp_path)
        changed.identity = painter.identity | change
        assert changed.path(none, picture) != painter.path(none, picture), change


@pytest.mark.parametrize(
    ("name", "decides"),
    [
        ("methods.py", True),
        ("request.py", True),
        ("guidance/packing.py", True),
        ("families/adapters/positions.py", True),
        ("engine/call.py", True),
        ("engine/clock.py", True),
        ("media/video.py", True),
        ("media/meter.py", False),
        ("commands/compare.py", False),
        ("evaluate/draw.py", True),
        ("evaluate/report.py", False),
        ("page/layout.py", False),
        ("pocket/vae.py", False),
    ],
)
def test_a_change_of_code_that_may_change_a_picture_is_another_code(
    name, decides, tmp_path, monkeypatch
):
    shutil.copytree(ROOT / "nag", tmp_path / "nag")
    monkeypatch.setattr(provenance, "CODE", tmp_path / "nag")
    before = provenance.code.__wrapped__()
    with (tmp_path / "nag" / name).open("a") as file:
        file.write("# changed")
    assert (provenance.code.__wrapped__() != before) == decides


def test_other_weights_in_the_same_folder_are_another_model(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights.safetensors").write_bytes(b"one")
    preset = PORTRAIT.with_model(str(tmp_path / "model"))
    picture, (column,) = plan.Picture("a", "b", 1), plan.columns_of(PORTRAIT, ["none"], [4], {})
    before = draw.Painter(preset, tmp_path).path(column, picture)
    assert draw.Painter(preset, tmp_path).path(column, picture) == before
    (tmp_path / "model" / "weights.safetensors").write_bytes(b"two")
    assert draw.Painter(preset, tmp_path).path(column, picture) != before


def test_numbers_that_left_their_range_are_refused(tmp_path, monkeypatch):
    painter = draw.Painter(PORTRAIT, tmp_path, lambda _: argparse.Namespace(dtype="float16"))

    def end_by(error):
        monkeypatch.setattr(draw, "call_pipeline", lambda *_: (_ for _ in ()).throw(error))

    end_by(draw.NotFinite("A lower CFG scale helps."))
    (column,) = plan.columns_of(PORTRAIT, ["nag"], [4], {})
    with pytest.raises(Refused, match='Column "nag": the numbers left the range of float16'):
        painter.draw(column, [plan.Picture("a", "b", 1)])
    assert not files(tmp_path)
    end_by(torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(Refused, match="Out of memory at --batch 2"):
        painter.draw(column, [plan.Picture("a", "b", 1)] * 2)


def test_the_frames_of_a_video_are_kept_and_read_together(tmp_path):
    import numpy as np

    painter = draw.Painter(PORTRAIT, tmp_path)
    (column,) = plan.columns_of(PORTRAIT, ["none"], [4], {})
    frames = np.random.default_rng(0).random((3, 128, 128, 3))
    picture = plan.Picture("a", "b", 1, "hat")
    painter._save(painter.path(column, picture), column, picture, frames, 2.0, blacked_out=True)
    back, made = draw.read(painter.path(column, picture))
    assert np.array_equal(np.stack(back), (frames * 255).round().astype(np.uint8))
    assert made["frames"] == 3 and made["seconds"] == 2 and made["blacked_out"]
    meter = Meter.load(ROOT / PORTRAIT.meter)
    _, features = references.look(meter, [back, back[:1]])
    alone = references.look(meter, [[frame] for frame in back])[1]
    torch.testing.assert_close(
        features, torch.stack([alone.mean(0), alone[0]]), rtol=1e-4, atol=1e-4
    )


SHORT = ("--count", "6", "--batch", "2", "--steps", "1", "--metrics", "attribute,keep,clipped")


def launched(script: str, *arguments):
    """In two processes, as `accelerate launch` starts them on several GPUs; its `--cpu` starts one
    process alone.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            "2",
            *script.split(),
            *arguments,
        ],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=180,
    )


def test_two_processes_find_what_one_finds(tmp_path):
    one = evaluate(tmp_path / "one", *SHORT)
    done = launched("-m nag evaluate", *SHORT, "--out", str(tmp_path / "two"))
    assert done.returncode == 0, done.stderr
    two = json.loads((tmp_path / "two" / "results.json").read_text())
    assert two["settings"].pop("processes") == 2 and one["settings"].pop("processes") == 1
    for numbers in (*one["columns"].values(), *two["columns"].values()):
        numbers.pop("seconds")
    assert one == two
    assert {path.name for path in (tmp_path / "one" / "pictures").iterdir()} == {
        path.name for path in (tmp_path / "two" / "pictures").iterdir()
    }
    assert (
        done.stdout.count("Written to") == 1 and "/10 [" in done.stderr
    )  # of 18 pictures, 5 of 9 batches


def test_of_several_processes_one_says_what_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    assert (
        main(["evaluate", "--count", "0", "--out", str(tmp_path)]) == 2
        and not capsys.readouterr().err
    )
    monkeypatch.setenv("RANK", "0")
    assert (
        main(["evaluate", "--count", "0", "--out", str(tmp_path)]) == 2
        and "--count must be" in capsys.readouterr().err
    )


def test_when_one_process_dies_the_other_says_so(tmp_path):
    script = tmp_path / "dies.py"
    script.write_text(
        "import os, sys\nfrom nag.__main__ import main\nfrom nag.evaluate import draw\n"
        "if os.environ['RANK'] == '1':\n    draw.Painter.draw = lambda *_: os._exit(9)\n"
        "sys.exit(main())\n"
    )
    done = launched(str(script), "evaluate", *SHORT, "--out", str(tmp_path / "out"))
    assert (
        done.returncode != 0
        and processes.GONE in done.stderr
        and not (tmp_path / "out" / "results.json").exists()
    )


def test_a_process_that_waits_for_one_that_is_gone_says_so(monkeypatch):
    """Where no launcher ends it: its connection is closed."""

    def closed():
        raise RuntimeError("Connection closed by peer")

    monkeypatch.setattr(
        torch.distributed,
        "barrier",
        lambda group, async_op: argparse.Namespace(is_completed=lambda: True, wait=closed),
    )
    process = object.__new__(processes.Several)
    process.group = None
    with pytest.raises(Refused, match="Another process ended before its pictures were drawn"):
        process.wait()


def test_rival_methods_are_asked_for_by_name(tmp_path):
    nasa, vsf = plan.columns_of(PORTRAIT, ["nasa", "vsf"], [1], {"nasa_scale": [0.3]})
    assert (
        nasa.settings.items() >= {"guidance": "nasa", "nasa_scale": 0.3, "nag_end": 1.0}.items()
        and "nag_scale" not in vsf.settings
    )
    painter = draw.Painter(PORTRAIT, tmp_path)
    painter.loaded.pipe.set_progress_bar_config(disable=True)
    picture = plan.Picture("portrait of a cowboy", "hat", 1)
    for column in (nasa, vsf, *plan.columns_of(PORTRAIT, ["none"], [1], {})):
        painter.draw(column, [picture])
    assert len({draw.read(path)[0][0].tobytes() for path in (tmp_path / "pictures").iterdir()}) == 3


def test_numbers_are_written_short():
    assert report.rounded({"a": 0.123456789, "b": [1234567.89, 3], "c": "x"}) == {
        "a": 0.12346,
        "b": [1234600.0, 3],
        "c": "x",
    }


def test_the_models_of_a_training_run_are_evaluated_too(tmp_path, monkeypatch):
    from nag.pocket import export

    made, asked = [], []

    def written(folder):
        (folder / "unet").mkdir(parents=True)
        (folder / "unet" / "config.json").write_text("{}")

    saved = argparse.Namespace(save_pretrained=written)
    monkeypatch.setattr(export, "pipeline", lambda run, name: made.append((run, name)) or saved)
    monkeypatch.setattr(
        command,
        "plan_of",
        lambda options: asked.append(options.model) or (_ for _ in ()).throw(Refused("enough")),
    )
    assert main(["evaluate", "--out", "out"]) == 2
    assert main(["evaluate", "--denoiser", "control", "--run", str(tmp_path), "--out", "out"]) == 2
    folder = tmp_path / "pipelines" / "control"
    assert made == [(tmp_path, "control")] and asked == [None, str(folder)]
    assert (folder / "unet" / "config.json").is_file() and list(folder.parent.iterdir()) == [folder]
    assert plan.preset_of("pocket-portrait", str(folder), False).meter == PORTRAIT.meter


def test_the_table_has_what_was_measured_and_nothing_else():
    one = {
        "attribute_rate": 0.5,
        "attribute_interval": [0.4, 0.6],
        "count": 8,
        "cases": {"hat": {"attribute_rate": 0.25, "count": 8}},
        "seconds": 0.1,
    }
    other = one | {"cfg_at_same_rate": {"lowest_rate": 0.6}}
    text = table.table({"columns": {"none": one, "nag": other}})
    assert text.splitlines()[:3] == [
        "| column | attribute rate (95 %) | s / picture |",
        "|---|---|---|",
        "| none | 0.50 (0.40-0.60) | 0.100 |",
    ]
    assert "| attribute rate | hat |" in text and "| nag | 0.25 |" in text
    assert "CFG never got below 0.60" in text
    assert not re.search("seed|renders|paired|negative|Settings", text)


def test_the_table_shows_the_levels_the_pairs_the_controls_and_what_was_tried():
    numbers = {"clean": 0.7, "likeness": 0.8, "frechet": 1200.0, "cases": {}}
    paired = {"against": "cfg", "clean": [0.4, 0.3, 0.5], "clean_p": 1e-5, "frechet": [-9, -20, 3]}
    control = {"count": 5, "keep": 0.9, "likeness": 0.85, "added": 0.1}
    text = table.table(
        {
            "columns": {
                "cfg": numbers,
                "nag": numbers | {"paired": paired, "controls": {"empty": control}},
            },
            "chance": {"none": {"likeness": 0.4}},
            "floor": 900.0,
            "settings": {"tried": {"cfg": 1, "nag": 6}},
        }
    )
    for line in (
        "| another seed |  | 0.40 |  |",
        "| true renders |  |  | 900 |",
        "| nag less cfg | +0.40 (+0.30 to +0.50), p < .001 | -9 (-20 to +3) |",
        "| keep, likeness, added | empty negative (5) |",
        "| nag | 0.90, 0.85, 0.10 |",
        "Settings of each method in this table: cfg 1, nag 6.",
    ):
        assert line in text.splitlines(), text


def test_the_most_that_is_kept_at_a_level_is_read_off_straight_lines():
    curve = [(0.0, 1.0), (0.5, 0.8), (0.9, 0.4), (0.6, 0.3)]
    assert matched.at_level(curve, 0.25) == pytest.approx(0.9)
    assert matched.at_level(curve, 0.7) == pytest.approx(0.6)  # and not on its way back
    assert matched.at_level(curve, 0.95) is None and matched.at_level(curve[:1], 0.0) is None
    assert matched.at_level([(0.5, 0.2), (0.5, 0.7)], 0.5) == 0.7


def test_methods_are_matched_at_equal_clean_removal_with_paired_intervals():
    """NAG keeps .9 where CFG keeps .7, both at clean .5; NASA never comes there."""
    columns = plan.columns_of(PORTRAIT, ["none", "cfg", "nag", "nasa"], [4], {"nag_scale": [2, 4]})
    n, generator = 200, torch.Generator().manual_seed(0)

    def column(clean, keep):
        order = torch.randperm(n, generator=generator)
        return {"clean": torch.arange(n) < clean * n, "keep": torch.full((n,), keep)[order]}

    outcomes = {
        "none": column(0.0, 1.0),
        "cfg": column(0.5, 0.7),
        "nag nag_scale=2": column(0.25, 0.95),
        "nag nag_scale=4": column(0.75, 0.85),
        "nasa": column(0.2, 0.9),
    }
    for one in outcomes.values():
        one["likeness"] = one["keep"] - 0.1
    plain = dict.fromkeys(outcomes, "none")
    found = matched.matched(columns, outcomes, ["a"] * n, plain)["4"]
    assert {name: one["settings"] for name, one in found.items()} == {"cfg": 1, "nag": 2, "nasa": 1}
    keep, low, high = found["nag"]["at"]["0.5"]["keep"]
    assert keep == pytest.approx(0.9) and low < keep < high < low + 0.1
    assert found["nag"]["at"]["0.5"]["likeness"][0] == pytest.approx(0.8)
    # half of the resamples of a curve that ends at the level do not come to it
    assert found["cfg"]["at"]["0.5"]["keep"] == [pytest.approx(0.7), None, None]
    assert found["cfg"]["less"]["0.5"]["keep"][0] == pytest.approx(-0.2)
    less, low, high = found["cfg"]["less"]["0.3"]["keep"]
    assert less == pytest.approx(0.82 - 0.94, abs=0.01) and low < less < high < 0
    assert found["nasa"]["at"] == {} == found["nasa"]["less"]
    text = table.table({"columns": {"nag": {"seconds": 1.0}}, "matched": {"4": found}})
    assert "| cfg (1) | 0.82 (" in text and "| nasa (1) | not reached | not reached |" in text
    assert "| keep (95 %), likeness, 4 steps (settings tried) | at clean 0.30 |" in text
    assert "| cfg less nag | -0.1" in text


def test_the_evidence_is_every_method_at_strengths_of_its_own_within_its_range():
    columns = evidence.columns_for(PORTRAIT, [])
    kinds = [column.guidance for column in columns]
    assert set(kinds) == set(evidence.STRENGTHS) and columns[0].key == "none"
    assert {
        kind: kinds.count(kind) for kind in ("nag", "nasa", "ong", "vsf", "negpip")
    } == dict.fromkeys(("nag", "nasa", "ong", "vsf", "negpip"), 4), (
        "every method gets as many settings"
    )
    assert {column.steps for column in columns} == {4}
    more = evidence.columns_for(PORTRAIT, [1, 4, 30])
    added = [column.key for column in more[len(columns) :]]
    assert added == [
        *("none steps=1", "cfg steps=1", "nag steps=1"),
        *("none steps=30", "cfg steps=30", "nag steps=30"),
    ], "what is at 4 steps is there already"
    assert len({column.key for column in more}) == len(more)
    without = presets.load_all()["flux2-klein"]
    assert not [c for c in evidence.columns_for(without, []) if c.guidance in ("cfg", "apg")]
    high = PORTRAIT.model_copy(update={"ranges": PORTRAIT.ranges | {"guidance_scale": (1, 8)}})
    scales = [c.scale for c in evidence.columns_for(high, []) if c.guidance == "cfg"]
    assert scales == [3, 7]
    told = evidence.columns_for(PORTRAIT, [], {"nag_scale": [5], "nag_alpha": [0.5, 1]})
    assert [c.key for c in told if c.guidance == "nag"] == [
        "nag nag_scale=5 nag_alpha=0.5",
        "nag nag_scale=5 nag_alpha=1",
    ]


def test_evidence_has_columns_of_its_own(tmp_path):
    for more in (["--guidance", "nag"], ["--ablate"]):
        with pytest.raises(Refused, match="--evidence has columns of its own: leave out"):
            plan_of(options(tmp_path, "--evidence", "--metrics", "attribute", *more))


def test_lines_over_steps_join_columns_of_one_setting_whatever_they_are_called(tmp_path):
    columns = evidence.columns_for(PORTRAIT, [1, 2])
    lines = step_plots.lines_of(columns)
    assert {name: [c.steps for c in members] for name, members in lines.items()} == {
        "No guidance": [1, 2, 4],
        "CFG 7": [1, 2, 4],
        "NAG 4": [1, 2, 4],
    }
    numbers = {c.key: {"clean": 0.5, "clean_interval": [0.4, 0.6], "keep": 0.5} for c in columns}
    step_plots.by_steps(tmp_path, columns, numbers)
    assert Image.open(tmp_path / "by_steps.png").width > 800
    step_plots.by_steps(tmp_path / "none", columns[:5], numbers)
    assert not (tmp_path / "none").exists(), "nothing was drawn at several numbers of steps"


def test_the_sheet_in_order_shows_the_first_pictures_at_the_presets_own_settings(tmp_path):
    columns = plan.columns_of(
        PORTRAIT, ["none", "cfg", "nag"], [4], {"nag_scale": [2, 4], "guidance_scale": [3, 7]}
    )
    shown = report.shown_in_order(columns)
    assert [c.key for c in shown] == ["none", "cfg guidance_scale=7", "nag nag_scale=4"]
    painter, drawn = draw.Painter(PORTRAIT, tmp_path, loader=lambda preset: None), {}
    some = plan.of_cases(["hat", "glasses"], 40)
    import numpy as np

    for column in shown:
        for number, picture in enumerate(some):
            path = painter.path(column, picture)
            frame = np.full((1, 128, 128, 3), number / 40, np.float32)
            painter._save(path, column, picture, frame, 0.1)
            drawn.setdefault(column.key, []).append(path)
    sheet = report.in_order(shown, drawn, some)
    assert sheet.width == 80 + 8 * 128
    band = sheet.height // 4
    for number in (0, 9, 31):
        place = 80 + number % 8 * 128 + 64, number // 8 * band + 34 + 64
        assert sheet.getpixel(place)[0] == round(number / 40 * 255)


def test_prompts_that_were_cut_are_told(tmp_path):
    words = "portrait of a cowboy " + "and a very friendly horse " * 8
    painter = draw.Painter(PORTRAIT, tmp_path)
    (column,) = plan.columns_of(PORTRAIT, ["nag"], [1], {})
    some = [plan.Picture(words, "hat", 1), plan.Picture("portrait of a cowboy", "hat", 2)]
    painter.loaded.pipe.set_progress_bar_config(disable=True)
    painter.draw(column, some)
    first, second = (draw.read(painter.path(column, one))[1] for one in some)
    assert list(first["cut"]) == [words] and first["cut"][words] > 10 and "cut" not in second
    told = table.cut_words({"columns": {}, "cut": {"texts": 3, "words": first["cut"]}})
    assert told[0].startswith("1 of 3 prompts are longer than the model's text encoders read: ")
    assert table.cut_words({"columns": {"none": {"clip_cut": 4}}})[0].startswith("4 captions are")
    assert table.cut_words({"columns": {}, "cut": {"texts": 3, "words": {}}}) == []


def test_plots_are_drawn_where_the_level_of_chance_is_not_known(tmp_path):
    """As where no words come twice."""
    from nag.evaluate import plots

    columns = plan.columns_of(PORTRAIT, ["none", "nag"], [4], {"nag_scale": [2, 4]})
    numbers = {c.key: {"clean": 0.5, "clean_interval": [0.4, 0.6], "keep": 0.5} for c in columns}
    for chance in ({"none": {}}, {"none": {"keep": 0.4}}, {}):
        plots.plots(tmp_path / str(len(chance)), columns, numbers, chance)
        assert (tmp_path / str(len(chance)) / "keep_by_clean.png").exists()


def test_references_of_a_run_that_was_stopped_are_rendered_no_second_time(tmp_path, monkeypatch):
    painter = draw.Painter(PORTRAIT, tmp_path)
    made, stop = [], [3]

    def renders(self, people):
        made.append(len(people))
        if len(made) == stop[0]:
            raise KeyboardInterrupt
        return [None] * len(people)

    generator = torch.Generator().manual_seed(0)

    def look(reader, pictures):
        labels = torch.zeros(len(pictures), len(ATTRIBUTES), dtype=torch.long)
        return labels, torch.randn(len(pictures), 256, generator=generator)

    monkeypatch.setattr(references.References, "_renders", renders)
    monkeypatch.setattr(references, "look", look)

    def asked():
        return references.References(painter, tmp_path, ["hat", "mask"], False, 128)

    with pytest.raises(KeyboardInterrupt):
        _ = asked().found
    stop[0] = 0
    found = asked().found
    assert made == [600, 256, 256, 256, 256, 256], "the third was stopped, the first two are kept"
    assert set(found) >= {"mean", "basis", "hat", "hat floor", "mask", "mask floor"}
    assert {path.suffix for path in tmp_path.glob("references*")} == {".safetensors"}
    again = asked().found
    assert len(made) == 6 and torch.equal(again["mask"], found["mask"])
