"""The page's handlers without a browser and a model: what they answer, keep and give back."""

import errno
import re
import time
from types import SimpleNamespace

import gradio as gr
import pytest
from PIL import Image

from nag.engine.run import Column, Run
from nag.errors import NAGError, NAGRuntimeError, Refused
from nag.page import clicks, files, handlers, layout
from nag.page.controls import INPUTS
from nag.page.gate import Audience
from nag.page.line import PLACES, RESERVED, WAITING, Place, address_of, refusal
from nag.presets import resolve
from nag.request import Request

STEPS = 3


class FakeEngine:
    """Draws grey squares. `goes(step)`: called after each step, may wait or raise."""

    def __init__(self, goes=lambda step: None, total=STEPS):
        self.goes, self.total, self.busy = goes, total, False
        self.steps, self.ended, self.images = 0, 0, []
        self.drawn_by = None  # the run that drew the columns, where they are shown again

    def run(self, preset, request, stop=None, run_id="run", image=None, record=None, seeds=(), **_):
        self.images.append(image)
        columns = [Column(key, STEPS) for key in request.guidance for _ in seeds or [0]]
        run = Run(run_id, preset, request, columns, record=record)
        try:
            for column in run.columns:
                for column.step in range(1, self.total + 1):
                    column.state, self.steps = "step", self.steps + 1
                    yield run, column, Image.new("RGB", (8, 8))
                    self.goes(self.steps)
                    if stop and stop.is_set():
                        column.state = "stopped"
                        break
                else:
                    column.image, column.state = Image.new("L", (16, 16), 99), "done"
                    column.run = self.drawn_by or run_id
                    yield run, column, None
            run.over = True
            yield run, None, None
        finally:
            self.ended += 1


def visitor(tab="tab", address="127.0.0.1"):
    return SimpleNamespace(session_hash=tab, client=SimpleNamespace(host=address))


def settings(**more):
    """The values of the page's fields, whether the seed is locked, and the start picture."""
    lock, picture = more.pop("lock", True), more.pop("picture", None)
    raw = {"preset": "pocket-portrait"} | more
    request = resolve(raw)[1].model_dump() | raw
    return [*(request[name] for name in INPUTS), lock, picture]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Files of these tests are in a folder of their own."""
    made = files.Folder(tmp_path / "files")
    for module in (files, handlers):
        monkeypatch.setattr(module, "FOLDER", made)
    return made


def desk(engine=None, **options):
    return handlers.PageHandlers(engine or FakeEngine(), **options)


def click(page, who=None, **more):
    """-> the number of the click."""
    return page.prepare(who or visitor(), *settings(**more))[-1]


def states(bench):
    return [cell["state"] for cell in bench["cells"]]


def test_a_click_is_drawn_and_gives_the_buttons_back():
    page = desk()
    bench, compare, stop, seed, number = page.prepare(visitor(), *settings(seed=5))
    assert states(bench) == ["queued"] * 3 and seed == 5 and not bench["hint"]
    assert (compare["interactive"], stop["interactive"]) == (False, True)
    shown = list(page.go(number, visitor()))
    assert states(shown[0]) == ["step", "queued", "queued"] and states(shown[-1]) == ["done"] * 3
    assert shown[0]["cells"][0]["preview"].startswith("data:image/webp")
    for cell in shown[-1]["cells"]:
        with Image.open(cell["image"]["path"]) as drawn:
            assert drawn.size == (16, 16) and drawn.format == "PNG"
    compare, stop = page.back(visitor())
    assert (compare["interactive"], stop["interactive"]) == (True, False)
    assert not len(page.clicks) and not page.stops and list(page.go(number, visitor())) == []


def test_an_unlocked_seed_is_another_one_and_is_told():
    seeds = {desk().prepare(visitor(), *settings(seed=5, lock=False))[3] for _ in range(3)}
    assert len(seeds) == 3 and all(0 <= seed < 2**32 for seed in seeds)


def test_who_clicks_while_another_comparison_runs_is_told_to_wait():
    engine = FakeEngine()
    engine.busy = True
    assert "Waiting" in desk(engine).prepare(visitor(), *settings())[0]["hint"]


def test_settings_that_cannot_be_run_are_refused_and_leave_no_click():
    page = desk()
    with pytest.raises(Refused, match="num_inference_steps must be between"):
        click(page, num_inference_steps=10**6)
    assert not len(page.clicks)


def test_a_newer_click_of_a_tab_ends_the_older_one_and_has_the_bench():
    engine = FakeEngine()
    page = desk(engine)
    older = page.go(click(page), visitor())
    next(older)
    newer = click(page)
    assert list(older) == [] and engine.ended == 1 and engine.steps <= 2
    # the end of the older one takes nothing from the newer, which waits for its turn
    assert page.back(visitor()) == (gr.skip(), gr.skip())
    assert states(list(page.go(newer, visitor()))[-1]) == ["done"] * 3
    assert page.back(visitor())[0]["interactive"]


def test_a_click_that_is_not_let_wait_gives_the_buttons_back():
    page = desk()
    older, newer = click(page), click(page)
    assert page.refused(older, visitor()) == (gr.skip(), gr.skip())
    assert page.refused(newer, visitor())[0]["interactive"] and not len(page.clicks)


def test_no_click_is_dropped_because_an_older_one_is_still_drawn():
    """Gradio skips an event of mode "once" while an earlier one of the same handler runs."""
    wired = layout.build(FakeEngine()).get_config_file()["dependencies"]
    names = re.compile(r"(go|back|refused)(_\d)?")
    modes = [one["trigger_mode"] for one in wired if names.fullmatch(one["api_name"])]
    assert modes == ["multiple"] * 9


def test_two_tabs_do_not_stop_each_other():
    page = desk()
    one, two = click(page, visitor("one")), click(page, visitor("two"))
    assert list(page.go(one, visitor("two"))) == []  # somebody else's number
    page.halt(visitor("two"))
    assert states(list(page.go(one, visitor("one")))[-1]) == ["done"] * 3
    assert list(page.go(two, visitor("two"))) == []


def test_stop_while_it_waits_gives_the_buttons_back_at_once():
    page = desk()
    number = click(page)
    bench, compare, stop = page.halt(visitor())
    assert states(bench) == ["stopped"] * 3 and compare["interactive"] and not stop["interactive"]
    assert list(page.go(number, visitor())) == [] and page.engine.steps == 0
    assert page.halt(visitor("nobody")) == (gr.skip(), gr.skip(), gr.skip())


def test_stop_while_it_runs_keeps_what_is_finished():
    page = desk(FakeEngine(lambda step: page.halt(visitor()) if step == STEPS + 1 else None))
    shown = list(page.go(click(page), visitor()))
    assert states(shown[-1]) == ["done", "stopped", "stopped"] and page.engine.steps == STEPS + 2
    assert shown[-1]["cells"][0]["image"] and not shown[-1]["hint"]


def test_a_closed_tab_ends_its_run():
    page = desk()
    values = page.go(click(page), visitor())
    next(values)
    page.leave(visitor())
    values.close()
    assert page.engine.ended == 1 and page.engine.steps == 1 and not len(page.clicks)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (Refused("The model needs a key."), "The model needs a key."),
        (NAGRuntimeError("No room."), "No room."),
        (ValueError("/home/me/secret"), "This run ended with an unexpected error (ValueError)"),
    ],
)
def test_an_error_that_ends_a_run_stands_once_and_keeps_what_is_finished(error, sentence):
    def goes(step):
        if step == STEPS + 1:
            raise error

    page = desk(FakeEngine(goes))
    last = list(page.go(click(page), visitor()))[-1]
    assert states(last) == ["done", "failed", "failed"]
    assert last["hint"].startswith(sentence) and "secret" not in str(last)
    assert last["cells"][0]["image"] and page.engine.ended == 1
    with pytest.raises(NAGError) as caught:
        list(desk(FakeEngine(goes)).api(visitor(), {}))
    assert str(caught.value).startswith(sentence) and "secret" not in str(caught.value)


def test_the_api_answers_with_the_whole_run_at_the_end():
    told = list(desk().api(visitor(), {"seed": 3, "guidance": ["nag", "none"]}))
    first, last = told[0], told[-1]
    assert first[0]["columns"]["nag"] == {"state": "step", "steps": 1} and first[1] == []
    assert last[0]["files"] == ["nag", "none"] and last[0]["settings"]["seed"] == 3
    assert [path.rpartition("-")[2] for path in last[1]] == ["nag.png", "none.png"]
    with pytest.raises(Refused, match="one JSON object"):
        list(desk().api(visitor(), None))


def test_pictures_that_are_shown_again_are_no_new_files(folder):
    engine = FakeEngine()
    page = desk(engine)
    list(page.api(visitor(), {}))
    before = list(folder.drawn.iterdir())
    for path in before:
        files.os.utime(path, (time.time() - 100,) * 2)
    old = {path: path.stat().st_mtime_ns for path in before}
    engine.drawn_by = "-".join(before[0].name.split("-")[:-1])
    list(page.api(visitor(), {}))
    after = {path: path.stat().st_mtime_ns for path in folder.drawn.iterdir()}
    assert after.keys() == old.keys() and len(after) == 3
    assert all(after[path] > old[path] for path in after)  # and they are in use


def test_who_does_not_listen_is_not_drawn_for(monkeypatch):
    audience, now = Audience(), [0.0]

    def goes(step):
        now[0] += handlers.PATIENCE / 2

    monkeypatch.setattr(handlers, "time", SimpleNamespace(monotonic=lambda: now[0]))
    page = desk(FakeEngine(goes), audience=audience)
    assert len(list(page.api(visitor("away"), {}))) > 3 * STEPS  # nobody watches the doors
    audience.watched = True
    page.engine.steps = 0
    with pytest.raises(NAGRuntimeError, match="nobody listened"):
        list(page.api(visitor("away"), {}))
    assert 3 <= page.engine.steps <= 5
    page.engine.steps = 0
    values = page.api(visitor("here"), {})
    with audience.listening("here"):
        next(values)
    with pytest.raises(NAGRuntimeError, match="nobody listened"):
        list(values)  # it was here, and left
    assert page.engine.steps <= 2
    with audience.listening("here"):
        assert list(page.api(visitor("here"), {}))[-1][0]["files"] == ["none", "cfg", "nag"]
    assert audience.away("here") and not page.stops


def test_clicks_end(monkeypatch):
    """By number, address and age; the oldest first, never one that runs, never in silence."""
    page = desk()
    running = page.go(click(page, visitor("runs")), visitor("runs"))
    next(running)
    first = click(page, visitor("first", "10.0.0.1"))
    for number in range(clicks.MOST + 20):
        click(page, visitor(f"tab {number}", f"10.1.{number % 250}.{number // 250}"))
    assert len(page.clicks) == clicks.MOST + 1
    with pytest.raises(Refused, match="waited too long and was dropped: press Compare again"):
        list(page.go(first, visitor("first")))
    for number in range(30):
        click(page, visitor(f"greedy {number}", "10.2.0.1"))
    assert sum(one.address == "10.2.0.1" for one in page.clicks.newest.values()) == clicks.OF_ONE
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + clicks.AGE + 1)
    click(page, visitor("late"))
    assert set(page.clicks.newest) == {"runs", "late"}
    running.close()


def picture(folder, name="start.png", mode="RGB"):
    path = folder.path / ("0" * 64) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (40, 30), "red").save(path)
    return str(path)


def test_a_start_picture_is_decoded_when_its_turn_comes(folder):
    page = desk()
    path = picture(folder)
    number = click(page, preset="flux-kontext", picture=path)
    assert page.clicks.get("tab").picture == path  # the path, no pixels
    list(page.go(number, visitor()))
    assert page.engine.images[0].size == (40, 30)
    number = click(page, preset="flux-kontext", picture=path)
    (folder.path / ("0" * 64) / "start.png").unlink()
    last = list(page.go(number, visitor()))[-1]
    assert last["hint"] == "The start picture is no longer here: upload it again."


@pytest.mark.parametrize("nonsense", ["/etc/passwd", "/dev/stdout", "", "\0", "no such file", "."])
def test_a_start_picture_is_an_upload_or_nothing(folder, nonsense):
    with pytest.raises(Refused, match=r"was uploaded here|begins with a picture"):
        click(desk(), preset="flux-kontext", picture=nonsense)
    with pytest.raises(Refused, match=r"was uploaded here|begins with a picture"):
        list(desk().api(visitor(), {"preset": "flux-kontext"}, nonsense))
    if nonsense:
        with pytest.raises(Refused, match="does not begin with a picture"):
            list(desk().api(visitor(), {}, nonsense))
    assert click(desk(), picture=nonsense)  # a field that the page does not show says nothing


def test_a_start_picture_is_no_link_and_nothing_that_was_drawn(folder, tmp_path):
    outside = tmp_path / "outside.png"
    Image.new("RGB", (8, 8)).save(outside)
    link = folder.path / "link.png"
    folder.path.mkdir()
    link.symlink_to(outside)
    list(desk().api(visitor(), {}))
    for path in (link, next(folder.drawn.iterdir()), folder.path / ".." / "outside.png"):
        with pytest.raises(Refused, match="was uploaded here"):
            folder.uploaded(str(path))


# Files


def test_a_full_disk_is_a_sentence(monkeypatch, folder):
    def full(path, *args, **options):
        path.write_bytes(b"half a pic")
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(Image.Image, "save", lambda self, path, *a, **k: full(path))
    monkeypatch.setattr("nag.page.painting.data_uri", lambda image: "")
    page = desk()
    last = list(page.go(click(page), visitor()))[-1]
    assert last["hint"].endswith("-none.png could not be written: the disk of this server is full.")
    assert str(folder.path) not in str(last) and not list(folder.drawn.iterdir())
    with pytest.raises(NAGRuntimeError, match="disk of this server is full"):
        list(desk().api(visitor(), {}))


def test_a_folder_that_was_removed_is_made_again(folder):
    page = desk()
    list(page.api(visitor(), {}))
    files.shutil.rmtree(folder.path)
    assert all(files.Path(path).exists() for path in list(page.api(visitor(), {}))[-1][1])


def test_the_folder_has_a_cap_by_size_and_by_age(folder):
    folder.room = 10 * files.SMALLEST
    for number in range(20):
        folder.write(f"{number}.png", lambda path: path.write_bytes(b"x" * files.SMALLEST))
        files.os.utime(folder.drawn / f"{number}.png", (0, time.time() - 100 + number))
    upload = folder.path / "hash" / "picture.png"
    upload.parent.mkdir()
    upload.write_bytes(
        b"x" * 20 * files.SMALLEST
    )  # too large itself: uploads have a cap of their own
    old = folder.path / "tmp1234"  # an upload that was broken off
    old.write_bytes(b"x")
    files.os.utime(old, (1, time.time() - files.KEEP - 1))
    folder.sweep()
    folder.write("19.png", None)  # which is there
    folder.write("20.png", lambda path: path.write_bytes(b"x"))
    kept = sorted(int(path.stem) for path in folder.drawn.iterdir())
    assert kept == list(range(10, 21)) and not upload.exists() and not old.exists()


# Who may wait


def places(count, address="1.1.1.1", program=True, session=None):
    return [Place(address, session or f"{address} {n}", program) for n in range(count)]


def test_an_address_waits_in_few_places_and_never_in_all():
    program, page = Place("1.1.1.1", "new", True), Place("1.1.1.1", "new", False)
    assert not refusal(places(WAITING - 1), program) and "your address" in refusal(
        places(WAITING), program
    )
    assert not refusal(places(WAITING), page)  # its page keeps a place
    assert "your address" in refusal(places(WAITING, program=False), page)
    newer = places(3, program=False, session="new")  # clicks that this one takes the place of
    assert not refusal(newer, page) and refusal([*newer, *newer], page)
    crowd = [Place(f"2.2.2.{n}", str(n), True) for n in range(PLACES - RESERVED)]
    assert "waiting already" in refusal(crowd, program) and not refusal(crowd, page)
    crowd += [Place(f"2.2.2.{n}", str(n), False) for n in range(RESERVED)]
    assert refusal(crowd, page) == f"{PLACES} comparisons are waiting already. Please try again" + (
        " in a while."
    )


@pytest.mark.parametrize(
    ("host", "counts_as"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("::ffff:10.0.0.7", "10.0.0.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("testclient", "testclient"),
        (None, ""),
    ],
)
def test_an_address_is_what_one_client_gets(host, counts_as):
    assert address_of(host) == counts_as


def test_every_setting_of_the_page_is_one_of_the_schema():
    assert set(INPUTS) == set(Request.model_fields)
