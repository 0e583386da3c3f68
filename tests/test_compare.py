"""The engine on tiny pipelines: same noise, honest order, stopping, and columns that fail alone."""

import copy
import threading
import time
from types import SimpleNamespace

import pytest
import torch
from tiny import pipeline

from nag import guidance, presets
from nag.engine import drawing, failures, verdict
from nag.engine import engine as engine_module
from nag.engine import previews as drawn
from nag.engine.clock import StepClock
from nag.engine.engine import Engine
from nag.engine.loading import Loaded, PipelineCache
from nag.engine.verdict import mean_difference
from nag.errors import NAGRuntimeError, NAGValueError, Refused
from nag.page import cells

ALL = ["none", "cfg", "nag", "cfg+nag"]


def preset(name):
    more = {"pixart": {"clean_caption": False, "use_resolution_binning": False}}.get(name, {})
    return presets.Preset(
        schema=1,
        title=name,
        model="tiny",
        cap=1e9,
        arguments=more,
        settings={
            "preset": name,
            "prompt": "a pirate",
            "negative_prompt": "glasses",
            "num_inference_steps": 3,
            "guidance_scale": 4.0,
            "nag_alpha": 1.0,
            "width": 32,
            "height": 32,
        },
    )


def engine():
    return Engine(
        PipelineCache(
            loader=lambda chosen: Loaded(
                chosen, pipeline(chosen.name), "cpu", "float32", torch.float32
            )
        )
    )


def ask(name, **settings):
    return presets.resolve({"preset": name, **settings}, {name: preset(name)})


def finish(bench, name, **settings):
    *_, (run, _, _) = bench.run(*ask(name, **settings))
    return run


@pytest.mark.parametrize("name", ["sd", "sdxl", "pixart", "sd3", "flux"])
def test_all_columns_start_from_the_same_noise_whatever_the_order(name):
    run, turned = finish(engine(), name, guidance=ALL), finish(engine(), name, guidance=ALL[::-1])
    assert [c.state for c in run.columns] == ["done"] * 4
    assert len({c.latents_sha256 for c in run.columns + turned.columns}) == 1
    for a, b in zip(run.columns, turned.columns[::-1], strict=True):
        assert a.key == b.key and a.image.tobytes() == b.image.tobytes()
    assert len({c.image.tobytes() for c in run.columns}) == 4
    assert (
        finish(engine(), name, seed=43).columns[0].latents_sha256 != run.columns[0].latents_sha256
    )


def test_scale_one_gives_the_bytes_of_no_guidance():
    run = finish(engine(), "sd", nag_scale=1)
    none, _, nag = run.columns
    assert none.image.tobytes() == nag.image.tobytes() and "NAG is off" in run.hint


def test_the_run_says_what_was_done():
    run = finish(engine(), "sd", guidance=ALL, nag_end=0.5).json()
    assert list(run["columns"]) == ALL and run["columns"]["none"]["relative_time"] == 1.0
    assert run["columns"]["nag"]["guided_steps"] == 2 and run["columns"]["nag"]["nag_scale"] == 5.0
    assert (
        "nag_scale" not in run["columns"]["cfg"]
        and run["versions"]["torch"]
        and run["settings"]["seed"] == 42
    )


def test_an_early_end_says_what_it_saves():
    """Two of three steps guided at 3 s, one un-guided at 1 s: 2 of 9 seconds are saved. One kind of
    steps alone says nothing."""
    watch = StepClock(None, "cpu", None)
    watch.times, watch.guided = [2.0, 4.0, 1.0], 2
    assert watch.saved == pytest.approx(2 / 9)
    watch.guided = 3
    assert watch.saved is None
    watch.guided = 0
    assert watch.saved is None
    run = finish(engine(), "sd", guidance=ALL, num_inference_steps=4, nag_end=0.5)
    said = run.json()["columns"]
    assert [key for key in said if "saved_by_early_end" in said[key]] == ["nag", "cfg+nag"]
    run.columns[2].saved = 0.1234
    assert "guided in 2 of 4" in cells.cell(run, run.columns[2])["note"]
    assert "guided in" not in cells.cell(run, run.columns[0])["note"]
    whole = finish(engine(), "sd")
    assert "saved_by_early_end" not in whole.json()["columns"]["nag"]


def test_previews_come_before_the_picture_and_are_small(monkeypatch):
    monkeypatch.setattr(drawn, "PREVIEW_EVERY", 0)
    monkeypatch.setattr(drawn, "PREVIEW_SHARE", 1e9)
    desk = engine()
    events = [(c.key, c.state, p) for _, c, p in desk.run(*ask("flux", num_inference_steps=6)) if c]
    previews = [p for _, _, p in events if p is not None]
    assert previews and all(max(p.size) <= 256 for p in previews)
    assert list(desk.shelf.loaded["flux"].previews) == [(32, 32, 1, 1)]


def test_previews_take_a_small_share_of_a_column(monkeypatch):
    """One that takes a second is followed by half a minute without; and once that is known, a
    column begins with it."""
    now, loaded = [100.0], Loaded(preset("sd"), None, "cpu", "float32", torch.float32)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def slow(*_):
        now[0] += 1
        return "picture"

    monkeypatch.setattr(drawn.Previews, "_decode", slow)

    def column(seconds, **settings):
        previews, begun, shown = drawn.Previews(loaded, ask("sd", **settings)[1]), now[0], []
        previews.wait()
        while now[0] < begun + seconds:
            now[0] += 0.1
            if previews.make(torch.zeros(1)) == ["picture"]:
                shown.append(round(now[0] - 1 - begun, 1))
        return shown

    assert column(100) == [0.2, 34.6, 69.0]
    assert column(30) == [] and column(40) == [33.4]
    assert column(30, width=64) == [0.2], "another size has another price"


def test_stop_ends_within_a_step_and_keeps_what_is_done():
    bench, stop, states = engine(), threading.Event(), None
    for run, column, _ in bench.run(*ask("sd", num_inference_steps=50), stop):
        states = {c.key: c.state for c in run.columns}
        if column and column.key == "cfg" and column.step >= 2:
            stop.set()
    assert (
        states == {"none": "done", "cfg": "stopped", "nag": "stopped"} and run.columns[1].step < 50
    )
    assert free(bench) and finish(bench, "sd").columns[2].state == "done"


def test_a_run_that_is_stopped_while_another_draws_is_over():
    """Every room waits for the engine; none of them knows of more than a run that is over."""
    bench, stop = engine(), threading.Event()
    stop.set()
    with bench.lock:
        *_, (run, _, _) = bench.run(*ask("sd"), stop)
    assert run.over and [c.state for c in run.columns] == ["stopped"] * 3


def test_the_map_of_previews_is_learnt_from_a_picture_and_its_own_latents(monkeypatch):
    fitted, (_, request) = [], ask("sd")
    monkeypatch.setattr(drawn.Previews, "_plane", lambda _, latents: latents)
    monkeypatch.setattr(drawn.Previews, "_fit", lambda _, *pair: fitted.append(pair))
    loaded = Loaded(preset("sd"), None, "cpu", "float32", torch.float32)
    latents = torch.arange(2.0).reshape(2, 1, 1, 1)
    drawn.Previews(loaded, request, 2).learn(latents, ["first", "second"])
    ((of, picture),) = fitted
    assert torch.equal(of, latents[:1]) and picture == "first"


def free(bench, seconds=2):
    """Whether the engine becomes free within `seconds`."""
    until = time.monotonic() + seconds
    while bench.busy and time.monotonic() < until:
        time.sleep(0.01)
    return not bench.busy


def test_a_closed_generator_frees_the_engine_within_a_step():
    bench = engine()
    running = bench.run(*ask("sd", num_inference_steps=200))
    for _, column, _ in running:
        if column.step > 1:
            break
    assert bench.busy
    running.close()
    assert free(bench)
    assert [c.state for c in finish(bench, "sd").columns] == ["done"] * 3


def test_four_users_at_once_each_get_what_they_get_alone():
    bench, results = engine(), {}
    seeds = [1, 2, 3, 4]
    threads = [
        threading.Thread(target=lambda s=s: results.update({s: finish(bench, "sd", seed=s)}))
        for s in seeds
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for s in seeds:
        alone = finish(engine(), "sd", seed=s)
        assert [c.image.tobytes() for c in results[s].columns] == [
            c.image.tobytes() for c in alone.columns
        ]


def test_a_column_that_fails_fails_alone_with_a_sentence(monkeypatch):
    def explode(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(guidance, "guide", explode)
        run = finish(engine(), "sd")
    assert [c.state for c in run.columns] == ["done", "done", "failed"]
    assert "Out of memory at 32 x 32" in run.columns[2].reason
    assert finish(engine(), "sd").columns[2].state == "done"


def test_a_decoder_that_fails_leaves_the_next_run_as_it_was(monkeypatch):
    """SDXL decodes in float32 and turns its VAE back to half only on success."""
    bench, vae = engine(), pipeline("sdxl").vae
    before = finish(bench, "sdxl")

    def decode(*args, **kwargs):
        vae.to(torch.float64)
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(vae, "decode", decode)
        assert [c.state for c in finish(bench, "sdxl", fresh=True).columns] == ["failed"] * 3
    assert vae.dtype == torch.float32
    assert [c.image.tobytes() for c in finish(bench, "sdxl", fresh=True).columns] == [
        c.image.tobytes() for c in before.columns
    ]


def test_a_picture_blacked_out_by_the_safety_checker_is_no_result(monkeypatch):
    from diffusers.pipelines.stable_diffusion import StableDiffusionPipelineOutput as Output

    call = type(pipeline("sd")).__call__

    def flagged(self, *args, **kwargs):
        return Output(images=call(self, *args, **kwargs).images, nsfw_content_detected=[True])

    flagged.__signature__ = __import__("inspect").signature(call)
    monkeypatch.setattr(type(pipeline("sd")), "__call__", flagged)
    run = finish(engine(), "sd")
    assert [c.state for c in run.columns] == ["failed"] * 3 and "safety checker" in run.columns[
        0
    ].reason


def test_a_picture_of_nan_is_a_failure_not_a_black_square():
    pipe = pipeline("sd")
    handle = pipe.unet.register_forward_hook(lambda m, a, o: (o[0] * float("nan"),))
    try:
        run = finish(engine(), "sd")
    finally:
        handle.remove()
    assert [c.state for c in run.columns] == ["failed"] * 3 and "left the range" in run.columns[
        0
    ].reason


def test_a_picture_whose_decoder_overflowed_is_a_failure_too(monkeypatch):
    vae = pipeline("sd").vae
    decode = type(vae).decode

    def overflow(self, *args, **kwargs):
        return (decode(self, *args, **kwargs)[0] * float("nan"),)

    monkeypatch.setattr(type(vae), "decode", overflow)
    run = finish(engine(), "sd")
    assert ["left the range" in c.reason for c in run.columns] == [True] * 3


def test_a_sentence_of_the_library_is_shown_under_the_column(monkeypatch):
    """Whatever it begins with."""

    def refuse(*args, **kwargs):
        raise NAGValueError("Got 3 negative prompts for 2 prompts.")

    monkeypatch.setattr(guidance, "guide", refuse)
    run = finish(engine(), "sd")
    assert run.columns[2].reason == "Got 3 negative prompts for 2 prompts."
    assert run.json()["columns"]["nag"]["reason"] == run.columns[2].reason


@pytest.mark.parametrize("error", [KeyError("/srv/secret"), ZeroDivisionError("/srv/secret")])
def test_an_unexpected_error_is_called_that_and_only_the_log_has_its_words(
    error, monkeypatch, caplog
):
    def explode(*args, **kwargs):
        raise error

    monkeypatch.setattr(guidance, "guide", explode)
    *_, (run, _, _) = engine().run(*ask("sd"), run_id="4711")
    said = run.columns[2].reason
    assert all(word in said for word in ("unexpected", type(error).__name__, "4711", "log"))
    assert "secret" not in said and "secret" in caplog.text and "4711" in caplog.text


@pytest.mark.parametrize("error", [SystemExit(1), GeneratorExit(), KeyError("no")])
def test_whatever_ends_the_worker_no_column_stays_at_step(error, monkeypatch):
    def end(*args, **kwargs):
        raise error

    bench, states = engine(), []
    monkeypatch.setattr(drawing, "calls_of", end)
    with pytest.raises((NAGRuntimeError, KeyError)) as raised:
        for run, _, _ in bench.run(*ask("sd"), run_id="4711"):
            states = run.columns
    assert [c.state for c in states] == ["failed"] * 3 and free(bench)
    said = failures.of_run(raised.value, "4711")
    assert "This run ended with an unexpected error" in said and "4711" in said


def test_pictures_that_cannot_be_measured_are_shown_and_that_is_said(monkeypatch):
    monkeypatch.setattr(engine_module, "judge", lambda *_: 1 / 0)
    run = finish(engine(), "sd")
    assert [c.state for c in run.columns] == ["done"] * 3
    assert run.hint == "The pictures could not be measured; the log says why."


def test_a_model_that_does_not_load_is_a_sentence_and_the_next_run_works():
    def refuse(chosen):
        if chosen.name == "sd3":
            raise Refused("Accept the licence first.")
        return Loaded(chosen, pipeline(chosen.name), "cpu", "float32", torch.float32)

    bench = Engine(PipelineCache(loader=refuse))
    with pytest.raises(Refused, match="licence"):
        finish(bench, "sd3")
    assert free(bench) and finish(bench, "sd").columns[0].state == "done"


def test_the_hint_says_nothing_enough_or_too_much():
    """On the shipped model, whose meter sees more than a mean difference does."""
    bench = Engine()

    def hint(**settings):
        *_, (run, _, _) = bench.run(
            *presets.resolve(
                {"prompt": "portrait of a cowboy", "negative_prompt": "hat", **settings}
            )
        )
        return run.hint, run.columns

    assert "hardly anything. Raise alpha" in hint(nag_alpha=0.01)[0]
    assert "this model does not know “banana”" in hint(negative_prompt="banana", nag_alpha=0.1)[0]
    text, (none, _, nag) = hint()
    assert (
        text.startswith("NAG takes the hat away; CFG")
        and none.readings["hat"] > 0.9 > 0.1 > nag.readings["hat"]
    )
    many = [hint(seed=seed, nag_scale=20, nag_tau=10, nag_alpha=1)[0] for seed in range(6)]
    assert any("changed more than it was asked to (" in m and "lower alpha" in m for m in many), (
        many
    )


def test_the_meter_finds_what_a_negative_prompt_names():
    from nag.home import HOME
    from nag.media.meter import Meter

    meter = Meter.load(HOME / "assets" / "pocket-portrait" / "classifier")
    assert meter.named_in("Glasses.") == [("eyewear", "glasses")]
    assert meter.named_in("sunglasses") == [("eyewear", "sunglasses")]
    assert meter.named_in("red shirt, blue background, eyeglasses") == [
        ("shirt", "red"),
        ("background", "blue"),
    ]
    assert meter.named_in("blurry") == []


def test_the_meter_reads_a_video_by_the_mean_of_its_frames():
    from PIL import Image

    from nag.home import HOME
    from nag.media.meter import Meter

    folder = HOME / "assets" / "results" / "pocket-portrait"
    hat, bare = (Image.open(folder / f"{key}.png").convert("RGB") for key in ("none", "nag"))
    meter = Meter.load(HOME / "assets" / "pocket-portrait" / "classifier")
    one, other, both = (
        reading["head"]["hat"] for reading in meter.read([hat, [bare], [hat, bare]])
    )
    assert one > 0.9 > 0.1 > other and abs(both - (one + other) / 2) < 1e-5


def test_a_copy_of_the_scheduler_is_not_watched():
    """LTX-2 copies its scheduler for the sound: the copy must step itself, and not the video's."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    from nag.patch import Wrapped, set_attribute

    scheduler, seen = FlowMatchEulerDiscreteScheduler(), []
    scheduler.set_timesteps(4)
    x = torch.ones(1, 2)
    with set_attribute(
        scheduler,
        "step",
        Wrapped(
            scheduler.step, lambda step, *args, **kwargs: (seen.append(1), step(*args, **kwargs))[1]
        ),
    ):
        sound = copy.deepcopy(scheduler)
        for timestep in scheduler.timesteps:
            assert torch.equal(
                sound.step(x, timestep, x).prev_sample, scheduler.step(x, timestep, x).prev_sample
            )
    assert len(seen) == 4 and "step" not in vars(scheduler)


def test_every_step_has_a_preview_and_the_last_looks_like_the_picture():
    previews = {}
    asked = presets.resolve({"guidance": ["none", "nag"]})
    for run, column, preview in Engine().run(*asked):  # noqa: B007
        if preview is not None:
            previews.setdefault(column.key, []).append(preview.convert("RGB"))
    assert {key: len(made) for key, made in previews.items()} == {"none": 4, "nag": 4}
    for column in run.columns:
        last = previews[column.key][-1]
        assert mean_difference(last, column.image.resize(last.size)) < 25, column.key


def test_no_knob_is_to_be_raised_beyond_its_end():
    def knob(**settings):
        preset, request = presets.resolve({"nag_alpha": 1, **settings})
        facts = SimpleNamespace(request=request, run=SimpleNamespace(preset=preset))
        words, moves = verdict._Facts._knob(facts)
        return words, [move["set"] for move in moves]

    preset, _ = presets.resolve({})
    most = preset.range("nag_scale")[1], preset.range("nag_tau")[1]
    assert knob(nag_alpha=0.1)[0] == "alpha first, then the scale"
    assert knob(nag_scale=4) == ("the scale", [{"nag_scale": 6}])
    assert knob(nag_scale=most[0], nag_tau=3) == ("tau", [{"nag_tau": 4}])
    assert knob(nag_scale=most[0], nag_tau=most[1]) == ("", [])
    assert knob(nag_scale=most[0], nag_tau=3, nag_normalisation=False) == ("", [])
