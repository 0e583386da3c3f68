"""Sweep, Seeds, X-ray and Vote as people use them, and their handlers without a browser."""

import base64
import contextlib
import itertools
import json
import random
import re
import threading
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from test_page import browser, choose, opened_page, serving  # noqa: F401

from nag.engine.run import Column, Run
from nag.errors import NAGRuntimeError, Refused
from nag.explore import reading
from nag.explore.axis import KINDS, parse
from nag.explore.inside import short_names
from nag.explore.votes import VoteFile
from nag.page.controls import INPUTS, PRESETS
from nag.page.files import FOLDER
from nag.page.rooms import grids
from nag.page.rooms.grids import GridRoom, fields_of
from nag.page.rooms.voting import VoteRoom
from nag.page.rooms.xrays import XRayRoom
from nag.presets import resolve

SOMEBODY = SimpleNamespace(session_hash="somebody")


class Fake:
    """An engine that paints a colour of its own for each column and seed."""

    def __init__(self):
        self.drawn = []

    def run(self, preset, request, stop, run_id, image=None, record=None, seeds=(), **_):
        columns = []
        for key, seed in itertools.product(request.guidance, seeds or [request.seed]):
            self.drawn.append((key, seed, request.nag_scale, request.nag_alpha))
            column = Column(key, request.num_inference_steps, "done", seconds=0.1)
            shade = (hash(self.drawn[-1]) % 200, 90, 90)
            column.image = Image.new("RGB", (128, 128), shade)
            columns.append(column)
        run = Run(run_id, preset, request, columns, record=record)
        yield run, columns[0], None
        run.over = True
        yield run, None, None


def values(**more):
    """The page's fields."""
    _, request = resolve({"preset": "pocket-portrait"}, PRESETS)
    fields = request.model_dump() | {"preset": "pocket-portrait"} | more
    return [list(fields[n]) if n == "guidance" else fields[n] for n in INPUTS]


def said(**data):
    return SimpleNamespace(_data=data)


AXES = {
    "across": "nag_alpha",
    "across_values": "0 .. 1",
    "down": "nag_scale",
    "down_values": "5, 10",
}


def test_a_sweep_fills_its_grid_and_is_drawn_once():
    engine = Fake()
    room = GridRoom(engine, "sweep")
    shown = list(room.draw(said(**AXES), SOMEBODY, *values()))
    assert [one["state"] for one in shown[:-1]] == ["running"] * (len(shown) - 1)
    last = shown[-1]
    assert (
        last["state"] == "done" and last["missing"] == 0 and last["corner"] == "NAG scale ↓ Alpha →"
    )
    assert last["across"] == ["0", "0.25", "0.5", "0.75", "1"] and last["down"] == ["5", "10"]
    assert last["cells"][0][0]["picture"] == last["cells"][1][0]["picture"], (
        "alpha 0 is one picture"
    )
    assert last["cells"][1][2]["set"] == {"nag_scale": 10.0, "nag_alpha": 0.5}
    json.dumps(shown)
    before = len(engine.drawn)
    list(room.draw(said(**AXES), SOMEBODY, *values()))
    wider = AXES | {"down_values": "5, 10, 20"}
    list(room.draw(said(**wider), SOMEBODY, *values()))
    assert len(engine.drawn) == before + 4, "equal cells of an earlier grid are not drawn again"


def test_a_sweep_that_was_stopped_goes_on():
    engine, room = Fake(), None
    room = GridRoom(engine, "sweep")
    drawing = room.draw(said(**AXES), SOMEBODY, *values())
    next(drawing), next(drawing), next(drawing)
    room.halt(SOMEBODY)
    stopped = list(drawing)[-1]
    assert stopped["state"] == "waiting" and 0 < stopped["missing"] < 9
    last = list(room.draw(said(**AXES), SOMEBODY, *values()))[-1]
    assert last["missing"] == 0 and len(engine.drawn) == 9
    room.halt(SimpleNamespace(session_hash="nobody"))


def test_a_plan_and_a_click_at_once_find_one_grid():
    room, found = GridRoom(Fake(), "sweep"), []
    threads = [
        threading.Thread(
            target=lambda: found.append(room._visit("somebody", AXES, tuple(values())).planned)
        )
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(grid) for grid in found}) == 1


def test_a_plan_says_how_many_and_draws_nothing():
    engine = Fake()
    plan = GridRoom(engine, "sweep").plan(said(**AXES), SOMEBODY, *values())
    assert plan["count"] == 9 and plan["missing"] == 9 and plan["seconds"] is None
    assert plan["beside"] == 0, "alpha 0 is the un-guided picture"
    assert not engine.drawn


@pytest.mark.parametrize(
    "data, field, sentence",
    [
        ({"across_values": "x"}, "across", "'x' is not a number"),
        ({"across_values": "2"}, "across", "nag_alpha must be between 0 and 1"),
        ({"down_values": "0"}, "down", "nag_scale must be between"),
        ({"down": "nag_alpha", "down_values": "1"}, "down", "choose two settings"),
        ({"across": "width"}, "across", "can go over"),
        ({"across_values": 3}, "", "must be text"),
        ({"across_values": "1," * 2000}, "", "at most 2000 characters"),
        (
            {"across_values": "0.1, 0.13 .. 0.7", "down_values": "2, 3 .. 20"},
            "",
            "at most 200 cells",
        ),
    ],
)
def test_fields_that_cannot_be_swept_are_refused(data, field, sentence):
    room, wrong = GridRoom(Fake(), "sweep"), said(**AXES | data)
    first = room.plan(wrong, SOMEBODY, *values())
    assert sentence in first["refused"]["text"] and first["refused"]["field"] == field
    assert "cells" not in first, "nothing was asked for yet"
    with pytest.raises(Refused, match=sentence):
        list(room.draw(wrong, SOMEBODY, *values()))
    assert room.plan(said(**AXES), SOMEBODY, *values())["refused"] is None
    assert room.plan(wrong, SOMEBODY, *values())["refused"] == first["refused"]


TAU = {"nag_tau": 5}


def test_a_plan_takes_no_pictures_away_and_says_which_are_of_other_settings():
    engine, room = Fake(), GridRoom(Fake(), "sweep")
    axes = AXES | {"across_values": "0, 0.5, 1"}
    shown = list(room.draw(said(**axes), SOMEBODY, *values()))[-1]
    assert not any(one["stale"] for one in shown["pictures"])
    room.engine = engine
    moved = room.plan(said(**axes), SOMEBODY, *values(**TAU))
    assert moved["state"] == "waiting" and moved["missing"] == 4 and moved["count"] == 5
    assert [one["state"] for one in moved["pictures"]] == ["done"] * 5
    stale = [[moved["pictures"][c["picture"]]["stale"] for c in row] for row in moved["cells"]]
    assert stale == [[False, True, True]] * 2, "at alpha 0 tau decides nothing"
    back = room.plan(said(**axes), SOMEBODY, *values())
    assert back["state"] == "done" and not any(one["stale"] for one in back["pictures"])
    assert not engine.drawn
    other = list(room.draw(said(**axes), SOMEBODY, *values(**TAU)))[-1]
    assert other["state"] == "done" and len(engine.drawn) == 4
    assert not any(one["stale"] for one in other["pictures"])


def test_pictures_of_earlier_settings_come_back():
    engine = Fake()
    room = GridRoom(engine, "sweep")
    first = list(room.draw(said(**AXES), SOMEBODY, *values()))[-1]
    list(room.draw(said(**AXES), SOMEBODY, *values(prompt="a pirate")))
    list(room.draw(said(across="seed", across_values="1, 2"), SOMEBODY, *values()))
    drawn = len(engine.drawn)
    again = room.plan(said(**AXES), SOMEBODY, *values())
    assert again["state"] == "done" and len(engine.drawn) == drawn
    assert [one["preview"] for one in again["pictures"]] == [
        one["preview"] for one in first["pictures"]
    ]


def test_pictures_that_are_kept_have_a_bound(monkeypatch):
    monkeypatch.setattr(grids, "KEPT", 4 * 128 * 128 * 3)
    engine = Fake()
    room = GridRoom(engine, "sweep")
    for words in ("a cowboy", "a pirate", "a king"):
        list(room.draw(said(**AXES), SOMEBODY, *values(prompt=words)))
    visit = room.visits.get("somebody")
    assert sum(visit.kept.sizes().values()) <= grids.KEPT
    assert visit.size == room.visits.sizes()["somebody"] >= 9 * 128 * 128 * 3
    plan = room.plan(said(**AXES), SOMEBODY, *values(prompt="a cowboy"))
    assert plan["missing"] == 9 and all(one["stale"] for one in plan["pictures"])
    assert room.plan(said(**AXES), SOMEBODY, *values(prompt="a king"))["state"] == "done"


def test_a_knob_that_moves_while_a_room_draws_stops_nothing():
    room = GridRoom(Fake(), "sweep")
    drawing = room.draw(said(**AXES), SOMEBODY, *values())
    next(drawing), next(drawing)
    assert room.plan(said(**AXES), SOMEBODY, *values(**TAU))["state"] == "running"
    *_, last = drawing
    assert all(one["state"] == "done" for one in last["pictures"])
    assert last["state"] == "waiting" and any(one["stale"] for one in last["pictures"])
    assert room.plan(said(**AXES), SOMEBODY, *values())["state"] == "done"


def test_there_is_nothing_to_save_where_no_cell_has_a_picture():
    class Once(Fake):
        def run(self, preset, request, stop, *more, **named):
            yield from super().run(preset, request, stop, *more, **named)
            room.halt(SOMEBODY)

    room, axes = GridRoom(Once(), "sweep"), AXES | {"across_values": "0.5, 1"}
    last = list(room.draw(said(**axes), SOMEBODY, *values()))[-1]
    (done,) = (i for i, one in enumerate(last["pictures"]) if one["state"] == "done")
    assert all(cell["picture"] != done for row in last["cells"] for cell in row)
    with pytest.raises(Refused, match="nothing to save yet"):
        room.export(said(export="zip"), SOMEBODY, *values())


def test_cfg_scale_is_swept_with_cfg():
    engine = Fake()
    room, axes = GridRoom(engine, "sweep"), {"across": "guidance_scale", "across_values": "2, 7"}
    last = list(room.draw(said(**axes), SOMEBODY, *values()))[-1]
    assert last["method"] == "CFG + NAG"
    assert [key for key, *_ in engine.drawn] == ["none", "cfg+nag", "cfg+nag"]
    plan = room.plan(said(**AXES), SOMEBODY, *values())
    assert plan["method"] == "NAG"
    with_no_cfg = room.plan(said(**axes), SOMEBODY, *of_preset("flux2-klein"))
    assert with_no_cfg["refused"]["field"] == "across"
    assert "CFG scale changes nothing with FLUX.2 klein" in with_no_cfg["refused"]["text"]


def of_preset(name):
    _, request = resolve({"preset": name}, PRESETS)
    fields = request.model_dump()
    return [list(fields[n]) if n == "guidance" else fields[n] for n in INPUTS]


@pytest.mark.parametrize("name", PRESETS)
def test_an_axis_without_values_has_those_around_the_models_own(name):
    preset, request = resolve({"preset": name}, PRESETS)
    for setting, kind in KINDS.items():
        moved = request
        if not kind.text:
            low, high = preset.range(setting)
            now = high if kind.whole else round(low + 0.37 * (high - low), 3)
            moved = request.model_copy(update={setting: now})
        axis = parse(setting, grids.around(preset, moved, setting))
        assert getattr(moved, setting) in axis.values or not getattr(moved, setting)
        assert kind.text or all(low <= value <= high for value in axis.values)
        assert kind.text or low == high or len(axis.values) > 1


class Reading:
    """A meter that says of every picture what a test wants. shows: picture -> values by
    attribute."""

    def __init__(self, shows):
        self.shows = shows

    def named_in(self, text):
        return [("eyewear", "glasses")] if "glasses" in text else [("headgear", "hat")]

    def phrase(self, pair):
        return pair[1]

    def read(self, pictures):
        others = dict.fromkeys(("hat", "glasses", "mask", "none"), 0.0)
        return [
            {name: others | {value: 1.0} for name, value in self.shows(one).items()}
            for one in pictures
        ]


class Painting(Fake):
    """Un-guided pictures are black, others as bright as alpha."""

    def run(self, preset, request, stop, run_id, image=None, record=None, seeds=(), **_):
        for run, column, preview in super().run(preset, request, stop, run_id, seeds=seeds):
            for one in run.columns:
                grey = 0 if one.key == "none" else round(100 * request.nag_alpha)
                one.image = Image.new("RGB", (128, 128), (grey, grey, grey))
            yield run, column, preview


def said_of(monkeypatch, shows, name="sweep", negative="hat", **data):
    """A verdict. shows: grey -> {attribute: value}"""
    meter = Reading(lambda image: shows(image.getpixel((0, 0))[0]))
    monkeypatch.setattr(reading, "meter_of", lambda preset: meter)
    told = GridRoom(Painting(), name).draw(
        said(**data), SOMEBODY, *values(negative_prompt=negative)
    )
    *_, last = told
    return last["verdict"]


def sweep_of(monkeypatch, shows, alphas, negative="hat"):
    axis = {"across": "nag_alpha", "across_values": alphas}
    return said_of(monkeypatch, shows, negative=negative, **axis)


def test_the_picture_that_keeps_most_is_the_one_with_the_fewest_changes(monkeypatch):
    """Not the one with the fewest changed pixels: the thing's own place is among them."""
    others = {50: ("red", "happy"), 70: ("blue", "happy"), 90: ("blue", "happy")}

    def shows(grey):
        shirt, mood = others.get(grey, ("blue", "sad"))
        return {"headgear": "hat" if not grey else "none", "shirt": shirt, "expression": mood}

    verdict = sweep_of(monkeypatch, shows, "0.5, 0.7, 0.9")
    assert verdict["best"] == [0, 1] and verdict["head"] == "No hat in 3 of 3."
    assert verdict["text"] == "Alpha 0.7 keeps most of the rest: only the expression changes."
    verdict = sweep_of(monkeypatch, shows, "0.5")
    assert verdict["text"].endswith("rest: the shirt and expression change.")
    verdict = sweep_of(monkeypatch, lambda grey: {"headgear": "none" if grey else "hat"}, "0.5, 1")
    assert verdict["text"] == "Alpha 0.5 changes nothing else that the meter reads."


@pytest.mark.parametrize(
    "worn, alphas, negative, head",
    [
        ({50: "glasses", 60: "glasses"}, "0.5, 0.6", "glasses", "The glasses stay in all 2."),
        ({50: "glasses"}, "0.5", "glasses", "The glasses stay in the one that is drawn."),
        ({50: "mask", 60: "mask"}, "0.5, 0.6", "glasses", "Something else takes their place"),
        ({50: "glasses", 60: "mask"}, "0.5, 0.6", "glasses", "stay in 1 of 2; in 1 something else"),
    ],
)
def test_what_stays_is_said_as_it_is(monkeypatch, worn, alphas, negative, head):
    def shows(grey):
        return {"eyewear": worn.get(grey, "glasses")}

    assert head in sweep_of(monkeypatch, shows, alphas, negative)["head"]


def test_there_were_no_glasses(monkeypatch):
    verdict = sweep_of(monkeypatch, lambda grey: {"eyewear": "none"}, "0.5, 1", "glasses")
    assert verdict["head"] == "There were no glasses to remove."


def test_seeds_are_counted_in_good_grammar(monkeypatch):
    def shows(grey):
        return {"eyewear": "none" if grey else "glasses"}

    for typed, words in (("1", "go in 1 of 1 seed with"), ("1, 2", "go in 2 of 2 seeds with")):
        verdict = said_of(monkeypatch, shows, "seeds", "glasses", seeds=typed)
        assert verdict["head"].startswith(f"The glasses {words} NAG")


def test_an_axis_without_values_is_told_which_it_has():
    room = GridRoom(Fake(), "sweep")
    empty = {"across": "negative_prompt", "across_values": "", "down": "seed", "down_values": " "}
    plan = room.plan(said(**empty), SOMEBODY, *values(seed=5, negative_prompt="beard"))
    assert plan["values"] == {
        "across": ("negative_prompt", "beard"),
        "down": ("seed", "5 .. 12"),
    }
    assert plan["across"] == ["beard"] and len(plan["down"]) == 8


def test_seeds_draw_every_column_on_every_seed_and_count():
    engine = Fake()
    room = GridRoom(engine, "seeds")
    last = list(room.draw(said(seeds="1 .. 3"), SOMEBODY, *values()))[-1]
    assert last["down"] == ["No guidance", "CFG", "NAG"] and last["across"] == ["1", "2", "3"]
    assert {(key, seed) for key, seed, *_ in engine.drawn} == {
        (key, seed) for key in ("none", "cfg", "nag") for seed in (1, 2, 3)
    }
    plain, _, nag = last["counted"]
    assert set(plain) == {"word", "there", "of"} and plain["of"] == 3
    assert set(nag) >= {"of", "gone", "interval"}
    assert last["made"] == ["", "scale 7", "scale 4 · tau 2.5 · alpha .5"]


def test_a_grid_is_saved_as_a_picture_and_as_a_zip():
    room = GridRoom(Fake(), "sweep")
    with pytest.raises(Refused, match="nothing to save yet"):
        room.export(said(export="zip"), SOMEBODY, *values())
    list(room.draw(said(**AXES), SOMEBODY, *values()))
    picture = room.export(said(export="picture"), SOMEBODY, *values())["file"]
    assert (
        Image.open(picture["path"]).width > 900 and "portrait-of-a-cowboy" in picture["orig_name"]
    )
    page = room.export(said(export="html"), SOMEBODY, *values())["file"]
    assert page["mime_type"] == "text/html" and page["orig_name"].endswith(".html")
    with pytest.raises(Refused, match="A grid is saved as picture, zip, html; got 'exe'"):
        room.export(said(export="exe"), SOMEBODY, *values())
    with zipfile.ZipFile(room.export(said(export="zip"), SOMEBODY, *values())["file"]["path"]) as z:
        about = json.loads(z.read("grid.json"))
        assert len(about["cells"]) == 10 and {"grid.png", "01-01.png", "02-05.png"} <= set(
            z.namelist()
        )
        assert about["cells"][-1]["nag_alpha"] == 1 and about["cells"][-1]["guidance"] == "nag"


def test_the_fields_begin_around_the_presets_own_settings():
    fields = fields_of(PRESETS["pocket-portrait"])
    assert fields["down_values"] == "1.5, 2, 4, 8" and fields["seeds"] == "1 .. 8"


def test_votes_hide_the_names_until_both_questions_are_answered(tmp_path):
    room = VoteRoom(Fake(), tmp_path / "votes.db")
    room.random = random.Random(1)
    *_, asked = room.draw(said(), SOMEBODY, *values())
    assert asked["state"] == "asking" and asked["pair"]["asked"] == "words"
    assert not {"left", "right", "names"} & (set(asked) | set(asked["pair"]))
    again = room.answer(said(choice="left"), SOMEBODY)
    assert again["pair"]["asked"] == "looks" and again["count"] == 0
    over = room.answer(said(choice="tie"), SOMEBODY)
    assert (
        over["state"] == "waiting"
        and sorted(over["names"]) == ["CFG", "NAG"]
        and over["count"] == 1
    )
    words, looks = over["tallies"]
    assert words["wins"] + words["losses"] == 1 and looks["draws"] == 1 and looks["score"] == 0
    assert len(VoteFile(tmp_path / "votes.db").read()) == 2
    with pytest.raises(Refused, match="answered already"):
        room.answer(said(choice="left"), SOMEBODY)
    text = room.export(SOMEBODY)["file"]
    assert text["mime_type"] == "text/csv"


def test_a_vote_needs_two_columns_and_a_known_answer():
    room = VoteRoom(Fake())
    with pytest.raises(Refused, match="compares two columns"):
        list(room.draw(said(), SOMEBODY, *values(guidance=["nag"])))
    list(room.draw(said(), SOMEBODY, *values()))
    with pytest.raises(Refused, match="one of left, right, tie, neither"):
        room.answer(said(choice="both"), SOMEBODY)
    with pytest.raises(Refused, match="no votes yet"):
        room.export(SimpleNamespace(session_hash="another"))


def test_a_recording_in_which_nothing_was_guided_is_a_sentence():
    with pytest.raises(NAGRuntimeError, match="Nothing was recorded"):
        list(XRayRoom(Fake()).draw(SOMEBODY, *values()))


def test_an_x_ray_is_saved_as_it_is_read():
    room = XRayRoom(Recorded())
    with pytest.raises(Refused, match="nothing to save yet"):
        room.export(said(export="zip"), SOMEBODY)
    video = {"preset": "pocket-video", "num_frames": 16}
    list(room.draw(SOMEBODY, *values(**video)))
    saved = room.export(said(export="zip"), SOMEBODY, *values(**video, nag_tau=1.3))
    with zipfile.ZipFile(saved["file"]["path"]) as files:
        told = json.loads(files.read("xray.json"))
        assert told["read"]["nag_tau"] == 1.3 and told["recorded"]["nag_tau"] == 2.5
        assert {"xray.html", "xray.png", "picture.png"} <= set(files.namelist())
    with pytest.raises(Refused, match="An X-ray is saved as picture, zip, html; got None"):
        room.export(said(), SOMEBODY)


@pytest.mark.browser
def test_saved_rooms_work_without_a_server(browser, tmp_path):  # noqa: F811
    room, words = GridRoom(Fake(), "sweep"), "</script><img src=x onerror=alert(1)>"
    list(room.draw(said(**AXES), SOMEBODY, *values(prompt=words)))
    xray = XRayRoom(Recorded())
    list(xray.draw(SOMEBODY, *values(preset="pocket-video", num_frames=16)))
    grid = room.export(said(export="html"), SOMEBODY, *values(prompt=words))["file"]["path"]
    context = browser.new_context(offline=True)
    page, problems = context.new_page(), []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
    page.goto(f"file://{grid}")
    assert page.locator(".mini.done").count() == 10 and words in page.inner_text(".title")
    page.locator(".mini.done").nth(3).click()
    assert page.is_visible(".inspect") and not page.is_visible(".go")
    page.goto(f"file://{xray.export(said(export='html'), SOMEBODY)['file']['path']}")
    before = page.inner_text(".heat")
    page.fill("#nag_tau input", "6")
    assert page.inner_text(".heat") != before
    page.click(".suggest .next")
    assert page.inner_text(".suggest .next") == "Set tau " + page.inner_text(
        "#nag_tau output"
    ) + ", alpha " + page.inner_text("#nag_alpha output").removeprefix("0")
    page.fill(".film input", "7")
    assert page.inner_text(".film output") == "16 of 16"
    context.close()
    assert not problems


def test_an_x_ray_needs_nag():
    for off in ({"nag_scale": 1}, {"nag_alpha": 0}, {"nag_end": 0}):
        with pytest.raises(Refused, match="there is nothing to record"):
            list(XRayRoom(Fake()).draw(SOMEBODY, *values(**off)))


class Recorded(Fake):
    """An engine that records tokens of a video: 16 frames of 8 x 8, each with its own R."""

    def run(self, preset, request, stop, run_id, image=None, record=None, seeds=(), **_):
        for run, column, preview in super().run(preset, request, stop, run_id, image, record):
            column = run.columns[0]
            column.frames = [Image.new("RGB", (128, 128), (9 * i, 9, 9)) for i in range(16)]
            yield run, column, preview
        plus = torch.ones(16, 2, 64, 4)  # frames are rows of this model's attention
        minus = plus - torch.arange(16)[:, None, None, None] / 16
        for step in range(2):
            record.add("blocks.0.attn", step, plus, minus, (-3, -1))


def test_an_x_ray_of_a_video_is_looked_at_frame_by_frame(monkeypatch):
    room = XRayRoom(Recorded())
    *_, told = room.draw(SOMEBODY, *values(preset="pocket-video", num_frames=16))
    (layer,) = told["layers"]
    shown = np.array([frame["number"] for frame in told["frames"]])
    assert shown.tolist() == [1, 3, 5, 7, 10, 12, 14, 16] and layer["grid"] == [8, 8]
    assert len(layer["frames"]) == 8 and not layer["whole"]
    numbers = np.frombuffer(base64.b64decode(layer["numbers"][0]), "<f2").reshape(8, 64, -1)
    ratios = numbers[:, :, 1]  # of scale 1.5
    assert [len(set(frame)) for frame in ratios.tolist()] == [1] * 8
    assert np.allclose(ratios[:, 0], 1 + 0.5 * (shown - 1) / 16, atol=2e-3)


class Failing(Fake):
    def run(self, *_, **__):
        raise Refused("The hub cannot be reached.")
        yield


@pytest.mark.parametrize(
    "room, state",
    [
        (lambda engine: GridRoom(engine, "sweep"), "waiting"),
        (lambda engine: GridRoom(engine, "seeds"), "waiting"),
        (XRayRoom, "empty"),
        (VoteRoom, "waiting"),
    ],
)
def test_a_room_whose_run_fails_waits_for_another(room, state):
    """And says nothing of running any more, which would leave it shut for good."""
    room, events = room(Failing()), [] if room is XRayRoom else [said()]
    told = room.draw(*events, SOMEBODY, *values())
    assert next(told)["state"] == "running"
    with pytest.raises(Refused):
        list(told)
    assert room.ended(SOMEBODY)["state"] == state


@pytest.fixture
def start_picture(monkeypatch):
    """A preset that begins with a picture, and one that was uploaded."""
    image = PRESETS["pocket-portrait"].model_copy(update={"image": True})
    monkeypatch.setitem(PRESETS, "pocket-portrait", image)
    path = FOLDER.path / "up" / "start.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (32, 32), "red").save(path)
    yield str(path)
    path.unlink()


class Beginning(Fake):
    """An engine that notes the picture that it is to begin with."""

    def __init__(self):
        super().__init__()
        self.began = []

    def run(self, preset, request, stop, run_id, image=None, record=None, seeds=(), **_):
        self.began.append(image.getpixel((0, 0)))
        yield from super().run(preset, request, stop, run_id, image, record, seeds)


def test_rooms_take_the_picture_that_a_model_begins_with(start_picture):
    edited = [*values(), start_picture]
    for made in (
        lambda engine: GridRoom(engine, "seeds").draw(said(seeds="1, 2"), SOMEBODY, *edited),
        lambda engine: VoteRoom(engine).draw(said(), SOMEBODY, *edited),
        lambda engine: XRayRoom(engine).draw(SOMEBODY, *edited),
    ):
        engine = Beginning()
        with contextlib.suppress(NAGRuntimeError):  # this engine records nothing
            list(made(engine))
        assert set(engine.began) == {(255, 0, 0)}
    for nothing in (None, "/etc/hostname"):
        with pytest.raises(Refused, match=r"begins with a picture|A start picture is a file"):
            list(XRayRoom(Beginning()).draw(SOMEBODY, *values(), nothing))


def test_layers_have_short_names():
    names = [
        "down_blocks.1.attentions.0.transformer_blocks.0.attn2",
        "mid_block.attentions.0.transformer_blocks.0.attn2",
        "up_blocks.0.attentions.1.transformer_blocks.0.attn2",
    ]
    assert short_names(names) == ["down 1.0", "middle 0", "up 0.1"]
    assert short_names(["transformer_blocks.0.attn", "single_transformer_blocks.7.attn"]) == [
        "block 0",
        "single 7",
    ]


@pytest.fixture(scope="module")
def page(tmp_path_factory, browser):  # noqa: F811
    with (
        serving(tmp_path_factory, "app.py", "--port") as url,
        opened_page(url, browser) as opened,
    ):
        opened.set_default_timeout(90_000)
        yield opened


PLAN = "document.querySelector('#room-sweep .what').innerText"
ELSEWHERE = """async () => {  // the bar, while another room is looked at and a field moves
    const [compare, sweep] = document.querySelectorAll('#rooms [role=tab]');
    compare.click();
    await new Promise(done => setTimeout(done, 150));
    dispatchEvent(new Event('nag-settings'));
    const said = document.querySelector('#state').innerText;
    sweep.click();
    return said;
}"""
SET = "window.nagSettings[NAMES.indexOf('{}')] = {}; dispatchEvent(new Event('nag-settings'));"
SET = SET.replace("NAMES", json.dumps(INPUTS))
RAN = """() => new MutationObserver(() => {
    window.ran ||= !document.querySelector('#room-xray .halt').hidden;
}).observe(document.querySelector('#room-xray'), { subtree: true, attributes: true })"""
ZERO = """() => new MutationObserver(() => {
    window.zero ||= /\\b0 of 0/.test(document.querySelector('#room-seeds table').innerText);
}).observe(document.querySelector('#room-seeds'), { subtree: true, childList: true })"""


def room(page, name):
    page.get_by_role("tab", name=name, exact=True).click()
    key = name.lower().replace("-", "")
    page.wait_for_selector(f"#compare[data-room={key}]")


@pytest.mark.browser
def test_a_sweep_on_the_page(page):
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    room(page, "Sweep")
    page.fill("#nag_alpha input[type=number]", "0.6")
    page.keyboard.press("Tab")
    page.wait_for_timeout(800)
    assert page.get_attribute("#bench .hint", "data-over") == "true", "Live drew in another room"
    page.fill("#nag_alpha input[type=number]", "0.5")
    page.keyboard.press("Tab")
    page.fill("#room-sweep .across-values", "0.25, 0.5")
    page.fill("#room-sweep .down-values", "2, 4")
    page.keyboard.press("Tab")
    page.wait_for_function(
        f"/^4 of 4 to draw with NAG, and 1 un-guided for comparison/.test({PLAN})"
    )
    page.click("#link")
    page.wait_for_function("document.querySelector('#link').innerText == 'Copied'")
    link = page.evaluate("navigator.clipboard.readText()")
    page.click("#compare")
    page.wait_for_function("document.querySelector('#state').innerText == 'Drawing in Sweep'")
    assert page.evaluate(ELSEWHERE) == "Drawing in Sweep"
    page.wait_for_function("document.querySelectorAll('#room-sweep .mini.done').length == 4")
    page.wait_for_selector("#room-sweep .verdict:not([hidden])")
    assert "No hat in 1 of 4" in page.inner_text("#room-sweep .verdict")
    assert page.locator("#room-sweep .mini.set").count() == 1, "the page's own setting is outlined"
    page.click("#room-sweep .mini[aria-label^='NAG scale 2, Alpha 0.25']")
    assert "What the meter says" in page.inner_text("#room-sweep .inspect")
    page.click("#room-sweep .inspect .button >> text=Use these settings")
    page.wait_for_function("Math.abs(window.nagSettings[6] - 0.25) < 1e-6")
    page.wait_for_selector("#compare:not([data-word])")  # which they are for
    room(page, "Sweep")
    with page.expect_download() as saved:
        page.click("#room-sweep .picture")
    assert saved.value.suggested_filename.endswith(".png")
    page.click("#room-sweep .inspect .button >> text=Add as a column")
    page.wait_for_function("document.querySelectorAll('#bench .cell').length == 4")
    other = page.context.new_page()
    other.goto(link)
    other.wait_for_selector("#room-sweep .across-values", state="visible")
    assert other.input_value("#room-sweep .across-values") == "0.25, 0.5"
    assert other.input_value("#room-sweep .down-values") == "2, 4"
    other.close()


def sweep_says(page, words):
    page.wait_for_function(f"document.querySelector('#room-sweep .what').innerText == '{words}'")


@pytest.mark.browser
def test_a_sweep_sees_that_settings_have_changed_and_brings_its_pictures_back(page):
    room(page, "Sweep")
    page.fill("#nag_alpha input[type=number]", "0.5")
    page.keyboard.press("Tab")
    page.select_option("#room-sweep .across", "seed")
    page.wait_for_function("document.querySelector('#room-sweep .across-values').value == '1 .. 8'")
    page.fill("#room-sweep .across-values", "1, 2")
    page.select_option("#room-sweep .down", "")
    page.wait_for_selector("#compare[data-word^='Draw'], #compare[data-word='Go on']")
    page.wait_for_function(f"/ of 2 to draw with NAG/.test({PLAN})")
    page.click("#compare")
    sweep_says(page, "2 pictures with NAG")
    room_tab = page.get_by_role("tab", name="Compare", exact=True)
    room_tab.click()
    page.fill("#nag_tau input[type=number]", "1.5")
    page.keyboard.press("Tab")
    page.wait_for_function("window.nagSettings[5] == 1.5")
    room(page, "Sweep")
    page.wait_for_function(f"/^Settings changed: 2 of 2 to draw with NAG/.test({PLAN})")
    assert page.locator("#room-sweep .mini.done.stale").count() == 2
    assert page.get_attribute("#compare", "data-word") == "Draw 2"
    assert page.inner_text("#room-sweep .verdict").startswith("Settings changed.")
    room_tab.click()
    page.fill("#nag_tau input[type=number]", "2.5")
    page.keyboard.press("Tab")
    page.wait_for_function("window.nagSettings[5] == 2.5")
    room(page, "Sweep")
    sweep_says(page, "2 pictures with NAG")
    assert page.get_attribute("#compare", "data-word") == "All drawn"
    page.fill("#room-sweep .across-values", "1, two")
    page.keyboard.press("Tab")
    page.wait_for_selector("#room-sweep .across-values[aria-invalid=true]")
    assert "'two' is not a number" in page.inner_text("#room-sweep .what")
    assert page.get_attribute("#compare", "data-idle") == "", "there is nothing to press for"
    page.select_option("#room-sweep .across", "negative_prompt")
    page.wait_for_function("document.querySelector('#room-sweep .across-values').value == 'hat'")
    assert not page.get_attribute("#room-sweep .across-values", "aria-invalid")
    shown = page.locator("#room-sweep .mini:not(.done) img").evaluate_all(
        "nodes => nodes.filter(one => getComputedStyle(one).visibility != 'hidden').length"
    )
    assert shown == 0, "a browser draws a broken picture"


@pytest.mark.browser
def test_seeds_on_the_page(page):
    room(page, "Seeds")
    page.fill("#room-seeds .seeds-values", "17 .. 18")
    page.evaluate(ZERO)
    page.click("#compare")
    page.wait_for_function("document.querySelectorAll('#room-seeds .mini.done').length == 6")
    page.wait_for_function("/of 2/.test(document.querySelector('#room-seeds table').innerText)")
    text = page.inner_text("#room-seeds table")
    assert re.search(r"\d of 2 hat gone", text) and "95 %" in text and "against CFG" in text
    assert "2 of 2 hat there" in text, "without guidance it stays"
    assert not page.evaluate("window.zero"), "a count of nothing"
    assert re.search(r"in \d of 2 with CFG", page.inner_text("#room-seeds .verdict"))
    page.click("#room-seeds .moves .button:has-text('8 more')")
    page.wait_for_function("document.querySelectorAll('#room-seeds .mini').length == 30")
    page.click("#compare")
    page.wait_for_function("document.querySelector('#room-seeds .halt').hidden")
    page.get_by_role("tab", name="Compare", exact=True).click()
    page.wait_for_selector("#compare:not([data-word])")


@pytest.mark.browser
def test_an_x_ray_on_the_page_follows_the_knob_without_a_run(page):
    room(page, "X-ray")
    page.click("#compare")
    page.wait_for_function("!document.querySelector('#room-xray .halt').hidden")
    assert page.is_hidden("#room-xray .first"), "press Record, it says"
    page.wait_for_selector("#room-xray .heat .c")  # at tau 2 nothing, at tau 1 all is cut
    before = page.inner_text("#room-xray .heat")
    cut = page.inner_text("#room-xray .verdict")
    assert re.search(r"Tau \S+ cuts \d+ % of the patches here", cut)
    page.evaluate("window.nagSettings[5] = 1; dispatchEvent(new Event('nag-settings'))")
    page.wait_for_function(
        "/Tau 1 cuts/.test(document.querySelector('#room-xray .verdict').innerText)"
    )
    assert page.inner_text("#room-xray .heat") != before
    assert "estimate behind it" in page.inner_text("#room-xray .what")
    for tau, move in ((1, "Try tau 1.5"), (8, ""), (10, "")):  # where a higher one cuts as much
        page.evaluate(SET.format("nag_tau", tau))
        assert page.inner_text("#room-xray .moves").removeprefix("Next").strip() == move
    page.evaluate(SET.format("nag_normalisation", "false"))
    page.evaluate(SET.format("nag_refinement", "false"))
    assert page.inner_text("#room-xray .verdict").startswith("Tau is off: nothing is cut.")
    assert "tau and alpha are off" in page.inner_text("#room-xray .suggest")
    assert not page.query_selector("#room-xray .suggest .button")
    page.evaluate(SET.format("nag_normalisation", "true"))
    assert page.inner_text("#room-xray .suggest .button").startswith("Set tau")
    page.evaluate(SET.format("nag_tau", 2.5) + SET.format("nag_refinement", "true"))
    choose(page, "FLUX.1 schnell")
    page.wait_for_function("window.nagSettings[0] == 'flux-schnell'")
    page.evaluate(RAN)
    page.click("#compare")
    page.wait_for_function("window.ran && document.querySelector('#room-xray .halt').hidden")
    assert page.inner_text("#state") != "Drawing in X-ray", "what failed is over"
    choose(page, "Pocket portrait")
    page.wait_for_function("window.nagSettings[0] == 'pocket-portrait'")


@pytest.mark.browser
def test_a_vote_by_keys(page):
    room(page, "Vote")
    page.wait_for_selector("text=Examples of this model, with a seed of their own")
    assert page.is_hidden("#prompt") and page.is_hidden("#seed") and page.is_visible("#nag_alpha")
    page.click("#compare")
    page.wait_for_function("!document.querySelector('#room-vote .halt').hidden")
    assert page.is_hidden("#room-vote .first"), "press New pair, it says"
    page.wait_for_selector("#room-vote .answers:not([hidden])")
    assert "NAG" not in page.inner_text("#room-vote .vote")
    view = page.get_attribute("#bench .views [aria-pressed=true]", "data-view")
    page.keyboard.down("1")
    page.wait_for_function(
        "/looks better/.test(document.querySelector('#room-vote .ask').innerText)"
    )
    page.keyboard.down("1")  # held
    page.wait_for_timeout(500)
    assert "looks better" in page.inner_text("#room-vote .ask")
    page.keyboard.up("1")
    page.keyboard.press("0")
    page.wait_for_function("/Left was/.test(document.querySelector('#room-vote .ask').innerText)")
    assert "score" in page.inner_text("#room-vote .tally")
    assert page.get_attribute("#bench .views [aria-pressed=true]", "data-view") == view
    page.get_by_role("tab", name="Compare", exact=True).click()
    page.wait_for_selector("#prompt", state="visible")


@pytest.mark.browser
def test_compare_offers_its_columns_on_eight_seeds_in_one_click(tmp_path_factory, browser):  # noqa: F811
    with (
        serving(tmp_path_factory, "app.py", "--port") as url,
        opened_page(url, browser) as page,
    ):
        page.set_default_timeout(90_000)
        page.click("#bench .moves .button:has-text('8 seeds')")
        page.wait_for_function("document.querySelectorAll('#room-seeds .mini.done').length == 24")
        assert page.input_value("#room-seeds .seeds-values") == "1 .. 8"
        names = page.locator("#room-seeds tbody th b").all_inner_texts()
        assert names == ["No guidance", "CFG", "NAG"]
        page.wait_for_function("/of 8/.test(document.querySelector('#room-seeds table').innerText)")
        page.get_by_role("tab", name="Compare", exact=True).click()
        page.fill("#seed input", "99")
        page.click("#compare")
        page.wait_for_function("document.querySelector('#bench .hint').dataset.over == 'false'")
        page.wait_for_selector("#bench .moves .button:has-text('8 seeds')")
        page.click("#bench .moves .button:has-text('8 seeds')")
        page.wait_for_selector("#room-seeds th:has-text('106')")
        page.wait_for_function("document.querySelectorAll('#room-seeds .mini.done').length == 24")
