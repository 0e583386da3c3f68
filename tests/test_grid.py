"""Grids: equal cells share a picture, what is there is not drawn again, and counts are honest."""

import json
import threading
import time
import zipfile

import pytest
from PIL import Image

from nag import presets
from nag.__main__ import main
from nag.engine.engine import Engine
from nag.engine.run import Column, Run
from nag.errors import Refused
from nag.explore.axis import parse
from nag.explore.command import sentence
from nag.explore.grid import Grid, Line, lines
from nag.explore.reading import Readings, compared, counted
from nag.explore.sheet import described, sheet
from nag.explore.store import Store
from nag.media.outcome import Outcome

PRESET, REQUEST = presets.resolve({"preset": "pocket-portrait"})


class Fake:
    """An engine that paints its settings, and stops or fails where it is told to."""

    def __init__(self, stop_at=None, fail_at=None, room=True):
        self.asked, self.stop_at, self.fail_at = [], stop_at, fail_at
        self.calls, self.room = [], room

    def run(self, preset, request, stop, run_id, image=None, seeds=()):
        columns = [self.column(request, seed) for seed in seeds or [request.seed]]
        self.calls.append(len(columns))
        for column in columns:
            column.together = ("nag",) * len(columns) if len(columns) > 1 and self.room else ()
        yield Run(run_id, preset, request, columns), None, None
        stop.set()

    def column(self, request, seed):
        (key,) = request.guidance
        self.asked.append((key, seed, request.nag_scale, request.nag_alpha))
        column = Column(key, request.num_inference_steps, "done", seconds=0.1)
        column.image = Image.new("RGB", (128, 128), (len(self.asked) * 9 % 256, 90, 90))
        if len(self.asked) == self.stop_at:
            column.state, column.image = "stopped", None
        if len(self.asked) == self.fail_at:
            column.state, column.image, column.reason = "failed", None, "Out of memory."
        return column


def grid(across="nag_alpha=0 .. 1", down="nag_scale=1, 5, 10", **more):
    axes = [parse(*one.split("=")) for one in (across, down)]
    return Grid(PRESET, REQUEST, *map(lines, axes), **{"references": False} | more)


def test_cells_whose_pictures_must_be_equal_share_one():
    """Scale 1 and alpha 0 are off: 15 cells, of which 7 show the picture without guidance."""
    one = grid()
    assert len(one.pictures) == 9 and len(one.cells) == 3 and len(one.cells[0]) == 5
    off = {p.identity for p in one.cells[0]} | {row[0].identity for row in one.cells}
    assert len(off) == 1 and one.cells[0][0].key == "none"
    assert len(grid(references=True).pictures) == 9  # the reference is that picture


def test_with_cfg_what_is_off_is_cfg_alone():
    one = grid(key="cfg+nag")
    assert one.cells[0][0].key == "cfg" and one.cells[2][4].key == "cfg+nag"
    assert [p.key for p in grid(key="cfg+nag", references=True).pictures].count("none") == 1


def test_a_grid_is_drawn_from_coarse_to_fine():
    one, engine = grid("nag_alpha=.2, .4, .6, .8, 1", "nag_scale=2, 5, 10"), Fake()
    list(one.draw(engine))
    drawn = [(scale, alpha) for _, _, scale, alpha in engine.asked]
    assert set(drawn[:4]) == {(2, 0.2), (2, 1), (10, 0.2), (10, 1)}
    assert (5, 0.6) in drawn[4:9] and len(drawn) == 15


def test_what_was_stopped_goes_on_with_what_is_missing():
    one, engine = grid(), Fake(stop_at=4)
    assert len(list(one.draw(engine))) == 3 and len(one.missing) == 6
    again = Fake(fail_at=2)
    assert len(list(one.draw(again))) == 6 and len(one.missing) == 1, "what failed is tried again"
    stop = threading.Event()
    stop.set()
    assert list(one.draw(Fake(), stop)) == []


def test_one_that_was_asked_to_stop_draws_no_further_picture():
    one, engine, stop = grid(), Fake(), threading.Event()
    for _ in one.draw(engine, stop):
        stop.set()
    assert len(engine.asked) == 1


def test_the_time_that_is_left():
    one = grid()
    assert one.seconds_left() is None
    drawing = one.draw(Fake())
    next(drawing)
    assert one.seconds_left() == pytest.approx(0.8)


@pytest.mark.parametrize(
    "across, sentence",
    [
        ("nag_alpha=0, 2", "nag_alpha must be between 0 and 1"),
        ("num_inference_steps=1, 100", "num_inference_steps must be between"),
    ],
)
def test_cells_that_cannot_be_drawn_are_refused_before_any_is(across, sentence):
    with pytest.raises(Refused, match=sentence):
        grid(across)


@pytest.mark.parametrize(
    "across, key, sentence",
    [
        ("guidance_scale=2, 7", "nag", "CFG scale changes nothing in pictures by NAG; it does in"),
        ("nag_tau=2, 7", "cfg", "Tau changes nothing in pictures by CFG; it does in columns nag"),
        ("negative_prompt=hat|beard", "none", "Negative prompt changes nothing in pictures by No"),
    ],
)
def test_a_setting_that_changes_no_picture_is_refused(across, key, sentence):
    axis = lines(parse(*across.split("=")))
    with pytest.raises(Refused, match=sentence):
        Grid(PRESET, REQUEST, axis, [Line("")], key)
    assert len(Grid(PRESET, REQUEST, axis, [Line("")], "cfg+nag").cells[0]) == 2
    off = REQUEST.model_copy(update={"nag_normalisation": False})
    with pytest.raises(Refused, match="Tau changes nothing in pictures by NAG; it is switched off"):
        Grid(PRESET, off, lines(parse("nag_tau", "2, 7")), [Line("")])


def test_a_grid_has_a_limit():
    with pytest.raises(Refused, match="at most 200 cells, got 24 x 24 = 576"):
        grid("nag_scale=1 , 2 .. 24", "seed=1 .. 24")


def test_seeds_are_columns_against_noise():
    rows = [Line(key, {}, key) for key in ("none", "cfg", "nag")]
    one, engine = Grid(PRESET, REQUEST, lines(parse("seed", "1 .. 3")), rows), Fake()
    list(one.draw(engine))
    assert sorted(engine.asked) == sorted(
        (key, seed, REQUEST.nag_scale, REQUEST.nag_alpha)
        for key in ("none", "cfg", "nag")
        for seed in (1, 2, 3)
    )
    assert one.reference(one.cells[2][1]) is one.cells[0][1]


def seeds_of(text):
    rows = [Line(key, {}, key) for key in ("none", "nag")]
    return Grid(PRESET, REQUEST, lines(parse("seed", text)), rows)


def test_seeds_are_drawn_together_eight_at_once():
    one, engine = seeds_of("1 .. 10"), Fake()
    assert len(list(one.draw(engine))) == 20 and engine.calls == [8, 8, 2, 2]
    assert not one.missing
    one.request = REQUEST.model_copy(update={"width": 1024, "height": 1024})
    assert one.at_once == 4, "as many as there is room for"
    one.request = REQUEST.model_copy(update={"num_frames": 16})
    assert one.at_once == 1, "videos gain nothing"
    sweep, engine = grid(), Fake()
    list(sweep.draw(engine))
    assert engine.calls == [1] * 9, "what differs in more than the seed has a call of its own"


def test_where_there_is_no_room_for_several_seeds_the_rest_is_drawn_one_by_one():
    one, engine = seeds_of("1 .. 10"), Fake(room=False)
    list(one.draw(engine))
    assert engine.calls == [8] + [1] * 12 and not one.missing


def test_the_time_that_is_left_shares_a_call_out():
    one = seeds_of("1 .. 10")
    drawing = one.draw(Fake())
    for _ in range(8):
        next(drawing)
    assert one.seconds_left() == pytest.approx(12 * 0.1 / 8)


def test_counts_leave_out_what_was_never_there():
    kinds = ["gone", "gone", "replaced", "left", "absent"]
    found = counted([Outcome(kind, 0.5) for kind in kinds] + [None])
    assert (found["of"], found["gone"], found["replaced"], found["left"]) == (4, 2, 1, 1)
    assert counted([None])["interval"] is None
    cfg = [Outcome("left", 1.0)] * 4 + [Outcome("absent", 0.0)]
    said = compared([Outcome(kind, 0.5) for kind in kinds], cfg)
    assert said["of"] == 4 and said["difference"] == pytest.approx(0.5) and said["p"] == 0.5
    assert compared([None], [None]) is None


def test_a_folder_is_gone_on_with_and_a_broken_picture_drawn_again(tmp_path):
    one = grid()
    readings, store = Readings(one), Store(tmp_path / "out", {})
    for picture in one.draw(Fake()):
        store.save(picture, readings)
    paths = [store.path(picture) for picture in one.pictures]
    paths[0].write_bytes(paths[0].read_bytes()[:200])
    paths[1].write_bytes(b"")
    Image.new("RGB", (128, 128)).save(paths[2])  # a picture of somebody else's
    other = grid()
    assert store.load(other, Readings(other)) == 6 and len(other.missing) == 3
    kept = next(p for p in other.pictures if p.done)
    assert kept.column.image.tobytes() == one.pictures[3].column.image.tobytes()
    with pytest.raises(Refused, match="cannot be made"):
        Store(paths[1] / "out", {})


def test_the_sheet_has_every_cell_and_says_what_they_share():
    one = grid()
    list(one.draw(Fake()))
    page = sheet(one, Readings(one), "alpha across, scale down")
    assert page.width > 5 * 256 and page.height > 3 * 256
    said = described(one)
    assert "cowboy" in said and "seed 1" in said and "tau 2.5" in said
    assert "alpha" not in said and "scale" not in said, "what varies is no shared setting"


def test_the_command_line_sweeps_counts_and_goes_on(tmp_path, capsys):
    out = str(tmp_path / "sweep")
    steps = ["--set", "num_inference_steps=1"]
    sweep = [
        "sweep",
        "--across",
        "nag_alpha=0, 1",
        "--down",
        "nag_scale=1, 10",
        *steps,
        "--out",
        out,
    ]
    assert main([*sweep, "--dry"]) == 0
    assert "2 pictures, 0 of them there already" in capsys.readouterr().out
    assert not (tmp_path / "sweep" / "grid.png").exists()
    assert main(sweep) == 0 and main(sweep) == 0
    assert "2 pictures, 2 of them there already" in capsys.readouterr().out
    told = json.loads((tmp_path / "sweep" / "grid.json").read_text())
    assert [[cell["guidance"] for cell in row] for row in told["cells"]] == [
        ["none"] * 2,
        ["none", "nag"],
    ]
    assert told["cells"][1][1]["outcome"] in ("gone", "replaced", "left", "absent")
    assert Image.open(tmp_path / "sweep" / "grid.png").width > 500


def test_the_command_line_counts_seeds(tmp_path, capsys):
    out = ["--set", 'guidance=["none","nag"]', "--out", str(tmp_path)]
    assert main(["seeds", "--seeds", "17 .. 18", *out, "--html", "--zip"]) == 0
    page = (tmp_path / "grid.html").read_text()
    assert "hat gone in 2 of 2" in page and "data:image/webp" in page and '="http' not in page
    assert "grid.html" in zipfile.ZipFile(tmp_path / "grid.zip").namelist()
    assert "NAG: hat gone in 2 of 2 (95 %: 34 to 100 of 100)" in capsys.readouterr().out
    counted = json.loads((tmp_path / "grid.json").read_text())["counted"]
    assert counted["nag"]["gone"] == 2 and "against_cfg" not in counted["nag"]


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["sweep", "--across", "nag_alpha"], "An axis is SETTING=VALUES"),
        (["sweep", "--across", "seed=1", "--down", "seed=2"], "are both Seed"),
        (["sweep", "--across", "nag_alpha=2"], "nag_alpha must be between 0 and 1"),
        (["sweep", "--across", "guidance_scale=2, 7"], "it does in columns cfg, cfg+nag, apg"),
        (["seeds", "--seeds", "x"], "'x' is not a number"),
    ],
)
def test_the_command_line_refuses_in_a_sentence(arguments, sentence, tmp_path, capsys):
    assert main([*arguments, "--out", str(tmp_path)]) == 2
    assert sentence in capsys.readouterr().err


def test_a_sweep_of_twenty_pictures_takes_less_than_a_minute():
    """Of processor time: however busy the machine is, two cores need no more than that."""
    axes = [parse("nag_alpha", "0.2, 0.4 .. 1"), parse("nag_scale", "2, 5, 10, 20")]
    one, engine = Grid(PRESET, REQUEST, *map(lines, axes)), Engine(previews=False)
    begun = time.process_time()
    for picture in one.draw(engine):
        assert picture.done
    assert time.process_time() - begun < 60 and sum(map(len, one.cells)) == 20
    assert not one.missing


def test_pictures_of_another_machine_or_model_are_not_gone_on_with(tmp_path):
    """Their settings are the same, and they are others: 18 % of the pixels, say, in bfloat16."""
    one = grid()
    readings, store = Readings(one), Store(tmp_path, {"device": "cpu", "drawn_in": "float32"})
    for picture in one.draw(Fake()):
        store.save(picture, readings)
    for provenance, kept in (
        ({"device": "cuda", "drawn_in": "bfloat16"}, 0),
        (store.provenance, 9),
    ):
        other = grid()
        assert Store(tmp_path, provenance).load(other, Readings(other)) == kept


@pytest.mark.parametrize(("pairs", "interval"), [(3, False), (12, True)])
def test_of_few_pairs_no_interval_is_told(pairs, interval):
    """Its bounds are too narrow there: 3 of 3 against 0 of 3 would be sure, at p = .25."""
    nag_, cfg = [Outcome("gone", 0.1)] * pairs, [Outcome("left", 0.9)] * pairs
    said = sentence("hat", "NAG", counted(nag_) | {"against_cfg": compared(nag_, cfg)})
    assert ("+100 points against CFG (95 %:" in said) == interval
    assert ("p = 0.25 by McNemar" in said) != interval
