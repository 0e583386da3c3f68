"""On a ZeroGPU Space: the page, /compare and the typed API ask for the GPU time that a run takes,
pocket presets for none, and a refusal is a sentence."""

import threading
import time

import gradio as gr
import pytest
from test_handlers import STEPS, FakeEngine, click, desk, folder, states, visitor  # noqa: F401
from zero_gpu import Spaces

from nag.engine import loading, zero_gpu
from nag.errors import NAGRuntimeError, Refused
from nag.page import files, machine
from nag.page.api import add_api
from nag.page.handlers import PageHandlers
from nag.page.zero_gpu import GPUTime, preload
from nag.presets import load_all, resolve

SCHNELL = {"preset": "flux-schnell", "guidance": ["none", "nag"]}


@pytest.fixture
def spaces(monkeypatch):
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    monkeypatch.setenv("NAG_PRESETS", "flux-schnell, sdxl")
    return Spaces()


@pytest.fixture
def page(spaces):
    return PageHandlers(FakeEngine(), gpu=GPUTime(spaces))


def draw_of(page):
    """/draw, called as Gradio would."""
    with gr.Blocks() as demo:
        add_api(page)
    return next(fn.fn for fn in demo.fns.values() if fn.api_name == "draw")


def by_page(page, settings):
    ticket = click(page, **settings)
    return states(list(page.go(ticket, visitor()))[-1])


def by_compare(page, settings):
    run, _ = list(page.api(visitor(), settings))[-1]
    return [column["state"] for column in run["columns"].values()]


def by_draw(page, settings):
    run, _, _ = draw_of(page)(visitor(), **settings)
    return [column["state"] for column in run["columns"].values()]


DOORS = pytest.mark.parametrize("door", [by_page, by_compare, by_draw])


@DOORS
def test_a_visitor_without_an_account_is_served_in_half_his_time(page, spaces, door):
    assert door(page, SCHNELL) == ["done"] * 2
    assert len(spaces.asked) == 1 and 120 - spaces.left <= 60
    assert page.engine.steps == 0 and len(spaces.processes) == 1  # drawn in the other process


@DOORS
def test_pocket_presets_ask_for_nothing(page, spaces, door):
    assert door(page, {"preset": "pocket-portrait"}) == ["done"] * 3
    assert spaces.asked == [] and spaces.processes == [] and page.engine.steps > 0


@DOORS
def test_a_refusal_of_the_platform_is_a_sentence(page, spaces, door):
    spaces.left = 5
    said = "You have exceeded your GPU quota"
    if door is by_page:
        last = list(page.go(click(page, **SCHNELL), visitor()))[-1]
        assert states(last) == ["failed"] * 2
        problem = last["hint"]
    else:
        with pytest.raises(NAGRuntimeError) as caught:
            door(page, SCHNELL)
        problem = str(caught.value)
    assert problem.startswith("No GPU was lent: ") and said in problem and "<" not in problem


def test_what_is_not_loaded_is_not_offered(page, spaces):
    with pytest.raises(
        NAGRuntimeError, match=r"FLUX.1 dev, 25 steps is not loaded .* flux-schnell, sdxl and"
    ):
        by_compare(page, {"preset": "flux-dev"})
    assert spaces.asked == []


def test_more_work_asks_for_more_time():
    time_for, (preset, _) = GPUTime(Spaces()).seconds, resolve(SCHNELL)
    asked = [
        time_for(preset, resolve(SCHNELL | more)[1])
        for more in (
            {"num_inference_steps": 1},
            {},
            {"guidance": ["none", "cfg", "nag"]},
            {"width": 1536, "height": 1536, "num_inference_steps": 8},
        )
    ]
    assert asked == sorted(set(asked)) and asked[0] >= 10
    longest = resolve({"preset": "wan22-14b"})
    assert time_for(*longest) == 300


def test_time_is_learnt_from_what_was_measured():
    time, (preset, request) = GPUTime(Spaces()), resolve(SCHNELL)
    guessed = time.seconds(preset, request)
    column = {"state": "done", "reused": False, "seconds": 60.0}
    time.learn(preset, request, {"columns": {"none": column, "nag": column}})
    assert time.seconds(preset, request) == 8 + 1.3 * 120 > guessed
    for nothing in ({"seconds": None}, {"reused": True}, {"state": "failed"}):
        time.learn(preset, request, {"columns": {"none": column | {"seconds": 900.0} | nothing}})
    assert time.seconds(preset, request) == 8 + 1.3 * 120


def test_a_run_that_was_drawn_is_learnt_from(page):
    learnt = []
    page.gpu.learn = lambda preset, request, run: learnt.append((preset.name, run["files"]))
    by_compare(page, SCHNELL)
    assert learnt == [("flux-schnell", ["none", "nag"])]


def test_stop_and_a_closed_tab_end_the_other_process(spaces):
    page = PageHandlers(FakeEngine(lambda step: time.sleep(0.2)), gpu=GPUTime(spaces))
    values = page.go(click(page, **SCHNELL), visitor())
    next(values)
    page.halt(visitor())
    assert states(list(values)[-1]) == ["stopped"] * 2
    values = page.go(click(page, **SCHNELL), visitor())
    next(values)
    values.close()
    assert [process.is_alive() for process in spaces.processes] == [False, False]


def test_a_file_that_the_other_process_wrote_is_there(page):
    run, paths = list(page.api(visitor(), SCHNELL))[-1]
    assert run["files"] == ["none", "nag"] and all(files.Path(path).exists() for path in paths)


def test_models_are_loaded_at_the_start_and_stay(spaces):
    shelf = loading.PipelineCache(lambda preset: FakeLoaded(preset))
    engine = type("Engine", (), {"shelf": shelf})
    preload(engine)
    assert list(shelf.loaded) == ["flux-schnell", "sdxl"]
    shelf.get(load_all()["flux-dev"])
    assert set(shelf.loaded) == {"flux-schnell", "sdxl", "flux-dev"}
    assert zero_gpu.device(load_all()["sdxl"]) == "cuda"
    assert zero_gpu.device(load_all()["pocket-portrait"]) == "cpu"


def test_a_name_that_is_no_preset_ends_the_start_with_a_sentence(spaces, monkeypatch):
    monkeypatch.setenv("NAG_PRESETS", "flux")
    with pytest.raises(Refused, match="NAG_PRESETS names 'flux'"):
        preload(None)


def test_elsewhere_nothing_of_this_happens(monkeypatch):
    monkeypatch.delenv("SPACES_ZERO_GPU", raising=False)
    monkeypatch.setenv("NAG_PRESETS", "flux")
    preload(None)
    assert zero_gpu.device(load_all()["pocket-portrait"]) is None
    page = desk()
    assert page.gpu.spaces is None and page.draw == page._draw


class FakeLoaded:
    def __init__(self, preset):
        self.preset = preset


# The rooms


def in_a_room(page, preset, steps=4, **more):
    """A run of the rooms' engine -> the events."""
    _, asked = resolve({"preset": preset, "guidance": ["nag"], "num_inference_steps": steps})
    return page.rooms.run(load_all()[preset], asked, **more)


def test_the_rooms_are_lent_a_gpu_too_and_pocket_presets_ask_for_none(page, spaces):
    *_, (run, _, _) = in_a_room(page, "pocket-portrait")
    assert run.over and spaces.asked == [] and page.engine.steps == STEPS
    *_, (run, _, _) = in_a_room(page, "flux-schnell", record=["a recording"])
    assert run.columns[0].state == "done" and run.record == ["a recording"]
    assert len(spaces.asked) == 1 and page.engine.steps == STEPS  # drawn in the other process
    *_, (run, _, _) = in_a_room(page, "flux-schnell", seeds=[1, 2, 3])
    assert len(run.columns) == 3


def test_several_seeds_of_a_room_ask_for_more_time(page, spaces):
    spaces.left = 1000
    for seeds in ([], [1, 2, 3, 4, 5, 6]):
        list(in_a_room(page, "sdxl", steps=50, seeds=seeds))
    assert spaces.asked[1] > 2 * spaces.asked[0]


def test_a_refusal_in_a_room_is_a_sentence(page, spaces):
    spaces.left = 5
    with pytest.raises(NAGRuntimeError, match=r"No GPU was lent: You have exceeded"):
        list(in_a_room(page, "flux-schnell"))
    with pytest.raises(Refused, match=r"FLUX.1 dev, 25 steps is not loaded"):
        list(in_a_room(page, "flux-dev"))


def test_stop_in_a_room_ends_the_other_process(spaces):
    page = PageHandlers(FakeEngine(lambda step: time.sleep(0.1)), gpu=GPUTime(spaces))
    stop = threading.Event()
    events = in_a_room(page, "flux-schnell", stop=stop)
    next(events)
    stop.set()
    *_, (run, _, _) = events
    assert run.over and run.columns[0].state == "stopped"
    assert [process.is_alive() for process in spaces.processes] == [False]


def test_a_variable_that_says_no_is_no_gpu(monkeypatch):
    monkeypatch.setattr(machine.shutil, "which", lambda _: None)
    monkeypatch.setattr(machine.platform, "system", lambda: "Windows")
    for value, gpu in (("0", False), ("false", False), ("1", True), ("true", True)):
        monkeypatch.setenv("SPACES_ZERO_GPU", value)
        assert machine.has_gpu.__wrapped__() == gpu
