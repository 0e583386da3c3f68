"""Columns drawn together: the rows of one pipeline call, each the picture that it is alone, and
what is said of their time."""

import io
import json

import numpy as np
import pytest
import torch
from test_compare import ALL, ask, engine, finish, preset
from tiny import PIPELINES, folder_of, pipeline
from video_page import preset as video_preset

from nag import __main__, guidance, presets
from nag.engine import drawing, previews
from nag.engine.engine import Engine
from nag.errors import NAGValueError
from nag.page import cells
from nag.page.strip import strip


def apart(a, b) -> int:
    """The largest difference of two pictures in any pixel, of 255."""
    return int(np.abs(np.asarray(a, np.int16) - np.asarray(b, np.int16)).max())


@pytest.fixture
def calls(monkeypatch):
    """The columns of every pipeline call."""
    seen, call = [], drawing.call_pipeline

    def counted(loaded, request, rows, *args):
        seen.append(tuple(row.key for row in rows))
        return call(loaded, request, rows, *args)

    monkeypatch.setattr(drawing, "call_pipeline", counted)
    return seen


@pytest.mark.parametrize("name", ["sd", "sdxl", "pixart", "sd3", "flux"])
def test_columns_drawn_together_are_those_drawn_alone(name, calls):
    """To one of 255: the batch of a matrix product decides its last bits."""
    alone = finish(engine(), name, guidance=ALL)
    assert not any(c.together for c in alone.columns) and {len(keys) for keys in calls} == {1}
    calls.clear()
    together = finish(engine(), name, guidance=ALL[::-1], batched=True)
    assert set(calls) == {("none", "nag"), ("cfg", "cfg+nag")}
    assert [c.key for c in together.columns] == ALL[::-1] and together.hint == alone.hint
    for one, other in zip(alone.columns, together.columns[::-1], strict=True):
        assert (
            other.state == "done"
            and other.latents_sha256 == one.latents_sha256
            and apart(one.image, other.image) <= 1
        )
        assert (other.guided_steps, other.step) == (one.guided_steps, 3)
        assert other.spread == pytest.approx(one.spread, rel=1e-4)
    assert len({c.image.tobytes() for c in together.columns}) == 4


@pytest.mark.parametrize("name", ["pocket-portrait", "pocket-joint"])
def test_the_models_that_ship_draw_the_same_together(name):
    desk = Engine(previews=False)
    runs = []
    for batched in (False, True):
        *_, (run, _, _) = desk.run(
            *presets.resolve({"preset": name, "batched": batched, "fresh": True, "guidance": ALL})
        )
        runs.append(run)
    for one, other in zip(*(run.columns for run in runs), strict=True):
        assert (
            len(other.together) == 2
            and apart(one.image, other.image) <= 1
            and one.latents_sha256 == other.latents_sha256
        )
        assert other.readings == pytest.approx(one.readings, abs=1e-3)


def test_a_column_drawn_together_has_no_time_of_its_own():
    run = finish(
        engine(), "sd", guidance=ALL[:3] + ["vsf"], num_inference_steps=4, nag_end=0.5, batched=True
    )
    said, shown = run.json()["columns"], {c.key: cells.cell(run, c) for c in run.columns}
    seconds = {column.key: column.seconds for column in run.columns}
    for key in ("none", "nag"):
        assert said[key]["seconds"] is said[key]["relative_time"] is None
        assert (
            said[key]["together"]
            == {"columns": ("none", "nag"), "seconds": round(run.columns[0].seconds, 4)}
            and run.columns[0].seconds > 0
        )
        assert (
            shown[key]["cost"] is None
            and f"together in {run.columns[0].seconds:.2f} s, 2 columns" in shown[key]["note"]
        )
    for key in ("cfg", "vsf"):
        assert (
            said[key]["seconds"] > 0
            and "together" not in said[key]
            and said[key]["relative_time"] is None
            and f"{seconds[key]:.2f} s on the processor" in shown[key]["note"]  # rounded once
        )
    assert "guided in 2 of 4" in shown["nag"]["note"] and "guided in" not in shown["none"]["note"]
    assert (
        said["none"]["guided_steps"] == 0
        and said["nag"]["guided_steps"] == 2
        and run.json()["settings"]["batched"] is True
    )
    strip(run).save(io.BytesIO(), "PNG")
    run = finish(engine(), "sd", guidance=["none", "cfg", "cfg+nag"], batched=True)
    assert [run.relative(c) for c in run.columns] == [1, None, None]


def test_the_command_line_draws_them_together(tmp_path, capsys):
    said = __main__.main(
        [
            "compare",
            "--set",
            "batched=true",
            "--set",
            "num_inference_steps=1",
            "--out",
            str(tmp_path),
        ]
    )
    columns = json.loads((tmp_path / "run.json").read_text())["columns"]
    assert (
        said == 0
        and columns["none"]["together"] == columns["nag"]["together"]
        and columns["none"]["together"]["columns"] == ["none", "nag"]
    )
    assert capsys.readouterr().out.count("s  for none and nag together") == 2
    assert (tmp_path / "strip.png").exists()


def test_progress_and_previews_come_for_every_column_of_a_call(monkeypatch):
    monkeypatch.setattr(previews, "PREVIEW_EVERY", 0)
    monkeypatch.setattr(previews, "PREVIEW_SHARE", 1e9)
    asked = ask("flux", num_inference_steps=6, guidance=["none", "nag"], batched=True)
    events = [(c.key, c.step, p) for _, c, p in engine().run(*asked) if c]
    shown = {
        key: [p for k, _, p in events if k == key and p is not None] for key in ("none", "nag")
    }
    assert len(shown["none"]) == len(shown["nag"]) == 6
    assert apart(shown["none"][-1], shown["nag"][-1]) > 1 and all(
        max(p.size) <= 256 for some in shown.values() for p in some
    )
    assert all(
        {(key, step) for step in range(1, 7)} <= {event[:2] for event in events} for key in shown
    )


def test_stop_ends_all_columns_of_a_call():
    import threading

    desk, stop = engine(), threading.Event()
    for run, column, _ in desk.run(  # noqa: B007
        *ask("sd", num_inference_steps=50, guidance=ALL, batched=True), stop
    ):
        if column and column.step >= 2:
            stop.set()
    assert [c.state for c in run.columns] == ["stopped"] * 4 and run.columns[0].step == run.columns[
        2
    ].step < 50
    assert [c.state for c in finish(desk, "sd", batched=True).columns] == ["done"] * 3


def test_videos_are_drawn_together(calls):
    chosen, desk = video_preset(folder_of("wan")), Engine(previews=False)
    runs = []
    for batched in (False, True):
        settings = {
            "preset": "tiny-video",
            "num_frames": 5,
            "guidance": ["none", "nag"],
            "batched": batched,
            "fresh": True,
        }
        *_, (run, _, _) = desk.run(chosen, presets.resolve(settings, {"tiny-video": chosen})[1])
        runs.append(run)
    assert calls[-1] == ("none", "nag")
    for one, other in zip(*(run.columns for run in runs), strict=True):
        assert not other.reused and other.video and len(other.frames) == 5
        assert all(apart(a, b) <= 1 for a, b in zip(one.frames, other.frames, strict=True))


def test_what_was_drawn_together_is_not_what_was_drawn_alone():
    """It may differ in rounding: shown again only to who asks for columns together, whom one drawn
    alone serves as well."""

    def kept(desk, **settings):
        return [c.key for c in finish(desk, "sd", **settings).columns if c.reused]

    desk = engine()
    assert kept(desk, batched=True) == []
    assert kept(desk, batched=True) == ["none", "cfg", "nag"]
    assert kept(desk) == ["cfg"], "CFG had its call for itself"
    assert kept(desk, nag_scale=6) == ["none", "cfg"]
    run = finish(desk, "sd", nag_scale=7, batched=True)
    none, _, new = run.columns
    assert none.reused and not none.together and not new.reused and not new.together, (
        "an old column drawn alone, and a new one left alone by it"
    )
    assert run.across(new), "times of two runs: no ratio of them is shown"
    assert cells.cell(run, new)["cost"]["unit"] == "work"


# Where it is not possible


def test_models_that_run_row_by_row_say_so(calls):
    chosen = preset("lumina2").model_copy(
        update={"arguments": PIPELINES["lumina2"].plain | {"guidance_scale": 1.0}}
    )
    *_, (run, _, _) = engine().run(
        chosen, presets.resolve({"preset": "lumina2", "batched": True}, {"lumina2": chosen})[1]
    )
    assert {len(keys) for keys in calls} == {1} and [c.state for c in run.columns] == ["done"] * 3
    assert run.hint.endswith(
        "takes texts of different length one by one, so the columns were drawn one after another."
    )


def test_models_whose_pictures_depend_on_the_number_of_prompts_say_so(calls):
    chosen = preset("sd").model_copy(update={"batch": 1})
    *_, (run, _, _) = engine().run(
        chosen, presets.resolve({"preset": "sd", "batched": True}, {"sd": chosen})[1]
    )
    assert {len(keys) for keys in calls} == {1} and [c.state for c in run.columns] == ["done"] * 3
    assert run.hint.endswith(
        "draws other pictures from several prompts in a call than from one, "
        "so the columns were drawn one after another."
    )


def test_columns_that_begin_with_a_picture_say_so(calls):
    from PIL import Image

    chosen = video_preset(
        folder_of("kontext"),
        image=True,
        multiple=16,
        num_frames=1,
        height=96,
        ranges={"num_inference_steps": [1, 8]},
        arguments={"max_sequence_length": 24, "max_area": 96 * 96, "_auto_resize": False},
    )
    request = presets.resolve(
        {"preset": "tiny-video", "guidance": ["none", "nag"], "batched": True},
        {"tiny-video": chosen},
    )[1]
    *_, (run, _, _) = Engine(previews=False).run(
        chosen, request, image=Image.new("RGB", (96, 96), "red")
    )
    assert set(calls) == {("none",), ("nag",)} and [c.state for c in run.columns] == ["done"] * 2
    assert run.hint.endswith("Columns that begin with a picture are drawn one after another.")


def test_columns_without_a_partner_say_so(calls):
    run = finish(engine(), "sd", guidance=["none", "cfg", "vsf"], batched=True)
    assert {len(keys) for keys in calls} == {1} and run.hint.startswith(
        "No two of these columns can share a call"
    )


def test_a_pipeline_that_takes_one_prompt_only_draws_them_one_after_another(calls, monkeypatch):
    cls = type(pipeline("sd"))
    encode = cls.encode_prompt

    def one_only(self, prompt, *args, **kwargs):
        assert isinstance(prompt, str)
        return encode(self, prompt, *args, **kwargs)

    monkeypatch.setattr(cls, "encode_prompt", one_only)
    run = finish(engine(), "sd", batched=True)
    assert ("none", "nag") in calls and {("none",), ("nag",)} < set(calls)
    assert [c.state for c in run.columns] == ["done"] * 3 and not any(
        c.together for c in run.columns
    )
    assert "could not be drawn together" in run.hint


def test_a_column_that_fails_takes_no_other_with_it(monkeypatch):
    def explode(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(guidance, "guide", explode)
    run = finish(engine(), "sd", batched=True)
    assert [c.state for c in run.columns] == [
        "done",
        "done",
        "failed",
    ] and "Out of memory" in run.columns[2].reason


@pytest.mark.parametrize("key", ["none", "cfg", "nag"])
def test_seeds_of_one_call_are_single_pictures_but_for_rounding(key):
    portrait, request = presets.resolve({"preset": "pocket-portrait", "guidance": [key]})
    alone, together = Engine(previews=False), Engine(previews=False)
    *_, (run, _, _) = together.run(portrait, request, seeds=[17, 18, 19])
    assert [c.seed for c in run.columns] == [17, 18, 19]
    assert {c.together for c in run.columns} == {(key,) * 3}
    for column in run.columns:
        asked = request.model_copy(update={"seed": column.seed})
        *_, (one, _, _) = alone.run(portrait, asked)
        (single,) = one.columns
        assert single.latents_sha256 == column.latents_sha256, "the same noise"
        assert apart(single.image, column.image) <= 1
    again = together.run(portrait, request, seeds=[18, 20])
    *_, (run, _, _) = again
    assert [c.reused for c in run.columns] == [True, False] and run.columns[0].seed == 18


def test_several_ways_to_guide_do_not_go_with_seeds():
    portrait, request = presets.resolve({"preset": "pocket-portrait"})
    with pytest.raises(NAGValueError, match="One way of guiding goes with seeds, got none, cfg"):
        next(Engine().run(portrait, request, seeds=[1]))
