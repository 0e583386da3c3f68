"""The page as people use it, with the real server, the shipped model and headless Chromium; and the
API as programs use it."""

import contextlib
import io
import itertools
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from PIL import Image
from test_presets import HOSTILE

from nag.methods import METHODS
from nag.page.controls import INPUTS, RIVALS

ROOT = Path(__file__).resolve().parent.parent
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
DONE = "document.querySelectorAll('#bench .cell.done').length"

STEPPING = "/step [1-9]/.test(document.querySelector('#bench').innerText)"


@contextlib.contextmanager
def serving(tmp_path_factory, *command, log=None, sign=signal.SIGTERM, **options):
    """A server of our own on a free port -> its address. `sign`: the signal that ends it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = log or tmp_path_factory.mktemp("server") / "log"
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, *command, str(port)],
            cwd=ROOT,
            stdout=out,
            stderr=subprocess.STDOUT,
            **options,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(url, timeout=1).close()
                break
            except OSError:
                assert process.poll() is None, log.read_text()
                time.sleep(0.25)
        else:
            pytest.fail(f"the server has not begun: {log.read_text()}")
        yield url
    finally:
        process.send_signal(sign)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory, "app.py", "--port") as url:
        yield url


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip(
        "playwright.sync_api",
        reason="playwright is not installed: pip install -r tests/requirements.txt",
    )
    chromium = (
        shutil.which("chromium")
        or shutil.which("chromium-browser")
        or shutil.which("google-chrome")
    )
    if not chromium:
        pytest.skip(
            "no Chromium on this machine (Debian: apt install chromium): "
            "the page was not tested in a browser"
        )
    with playwright.sync_playwright() as p:
        running = p.chromium.launch(executable_path=chromium, headless=True, args=FLAGS)
        yield running
        running.close()


@contextlib.contextmanager
def opened_page(server, browser):
    """A page that fails its test if anything leaves the machine or the console shows an error."""
    context = browser.new_context(viewport={"width": 1360, "height": 900})
    opened, outside, errors = context.new_page(), [], []
    opened.on(
        "request",
        lambda r: (
            outside.append(r.url) if not r.url.startswith((server, "data:", "blob:")) else None
        ),
    )
    left = ("AbortError", "Connection errored out")  # of a page that is left while it waits

    def note(text):
        if not any(one in text for one in left):
            errors.append(text)

    opened.on("console", lambda m: note(m.text) if m.type == "error" else None)
    opened.on("pageerror", lambda e: note(str(e)))
    opened.goto(server)
    opened.wait_for_selector("#bench .hint", state="attached")
    opened.wait_for_selector("textarea")
    opened.wait_for_function("window.nagSettings")  # the fields have been told to the bench
    yield opened
    context.close()
    assert not outside, outside
    assert not errors, errors


@pytest.fixture
def page(server, browser):
    with opened_page(server, browser) as opened:
        yield opened


# how often Compare was shut since this was first asked
BEGUN = """() => {
    if (window.runsBegun === undefined) {
        const shut = () => document.querySelector('#compare')?.disabled ?? false
        let before = shut()
        window.runsBegun = 0
        new MutationObserver(() => {
            if (shut() && !before) window.runsBegun++
            before = shut()
        }).observe(document, { subtree: true, childList: true, attributes: true })
    }
    return window.runsBegun
}"""


@contextlib.contextmanager
def begins(page):
    """Within it a run is begun. It may be over as soon: where its columns are known, in less time
    than a waiting test looks again."""
    before = page.evaluate(BEGUN)
    yield
    page.wait_for_function("before => window.runsBegun > before", arg=before)


def compare(page, columns=3, timeout=120_000, click=True):
    if click:
        with begins(page):
            page.click("#compare")
    page.wait_for_function(
        f"!document.querySelector('#compare').disabled && {DONE} == {columns}", timeout=timeout
    )


def pictures(page, server):
    """The pixels of the finished PNG files, by column."""
    links = page.eval_on_selector_all("#bench a.save", "all => all.map(a => [a.download, a.href])")
    keys = {name: name.removesuffix(".png").rpartition("_")[2] for name, _ in links}
    files = {keys[name]: urllib.request.urlopen(href).read() for name, href in links}
    assert all(data.startswith(b"\x89PNG") for data in files.values())
    return {
        key: Image.open(io.BytesIO(data)).convert("RGB").tobytes() for key, data in files.items()
    }


def more(page):
    """Opens the settings that are not moved every day."""
    page.click("#more")
    page.wait_for_selector(".sidebar.open #guidance", state="visible")


def less(page):
    page.keyboard.press("Escape")
    page.wait_for_selector(".sidebar:not(.open)", state="attached")


def live(page, on):
    page.locator("#live input").set_checked(on)


ABSENT = """/hub cannot be reached|needs a GPU|accept it at|does not fit/.test(
    [...document.querySelectorAll('#bench .hint, #bench .card, #bench .note')]
        .map(e => e.innerText).join())"""


def choose(page, title):
    """Another model out of the list, by its name."""
    page.click("#model input")
    page.locator("#model .options li", has_text=title).first.click()


def put(page, setting, value):
    box = page.locator(f"#{setting} input[type=number]")
    box.fill(str(value))
    box.press("Tab")


def test_the_page_does_not_wait_for_torch():
    code = (
        "import sys, app; app.build(app.Engine()); "
        "sys.exit(', '.join({'torch', 'diffusers', 'transformers'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.strip() == "", (
        done.stderr
    )  # sys.exit("") says nothing, and 1


def test_who_asks_while_the_server_still_imports_is_answered(tmp_path_factory):
    """Two threads that import diffusers at once find it half made, which ended the server."""
    with serving(tmp_path_factory, "app.py", "--port") as url:
        for seed in (1, 2):
            assert (
                call(url, {"seed": seed, "guidance": ["nag"], "num_inference_steps": 1})[0]
                == "complete"
            )


def test_results_are_shown_before_anything_was_run(page):
    page.wait_for_function(f"{DONE} == 3")
    assert page.eval_on_selector_all(
        "#bench .cell img.new", "all => all.every(i => i.complete && i.naturalWidth == 128)"
    )


def test_compare_gives_three_pictures_and_the_same_seed_the_same_bytes(page, server):
    compare(page)
    first = pictures(page, server)
    assert set(first) == {"none", "cfg", "nag"} and len(set(first.values())) == 3
    compare(page)
    assert pictures(page, server) == first
    assert page.inner_text("#bench").count("kept from an earlier run") == 3
    more(page)
    page.click("#fresh input")
    less(page)
    compare(page)
    assert pictures(page, server) == first and "kept from" not in page.inner_text("#bench")


def test_every_picture_says_what_made_it_and_what_it_cost(page):
    compare(page)
    captions = [page.inner_text(f"#bench .cell >> nth={i}") for i in range(3)]
    assert all(re.search(r"seed 1, 4 steps · [\d.]+ s on the processor", c) for c in captions)
    assert "1×" in captions[0] and "scale 7" in captions[1] and "2×" in captions[1]
    assert "scale 4 · tau 2.5 · alpha .5" in captions[2]
    assert re.search(r"hat\s+still there, 100 %", captions[1].replace("\n", " "))
    assert re.search(r"hat\s+gone, 0 %", captions[2].replace("\n", " "))
    assert "NAG takes the hat away; CFG leaves it." in page.inner_text("#bench .hint")


def test_nag_at_scale_one_gives_the_bytes_of_no_guidance(page, server):
    page.wait_for_timeout(300)
    live(page, False)
    put(page, "nag_scale", 1)
    compare(page)
    drawn = pictures(page, server)
    assert drawn["nag"] == drawn["none"] != drawn["cfg"]
    assert "NAG is off" in page.inner_text("#bench .hint")


def long_run(page):
    """Sets up a comparison of many seconds and waits until its first column is being drawn."""
    put(page, "num_inference_steps", 30)
    more(page)
    for side in ("width", "height"):
        put(page, side, 192)
    page.click("text=CFG + NAG")
    page.click("#fresh input")
    less(page)
    page.click("#compare")
    page.wait_for_function(STEPPING, timeout=60_000)


def test_stop_ends_within_a_step_and_the_next_run_works(page):
    long_run(page)
    page.click("#stop")
    begun = time.monotonic()
    page.wait_for_function("!document.querySelector('#compare').disabled", timeout=20_000)
    assert time.monotonic() - begun < 5 and "stopped" in page.inner_text("#bench")
    put(page, "num_inference_steps", 4)
    compare(page, columns=4)


def test_a_closed_tab_frees_the_engine(server, browser, page):
    other = browser.new_page()
    other.goto(server)
    other.wait_for_selector("#bench .hint", state="attached")
    long_run(other)
    begun = time.monotonic()
    compare(other, columns=4, click=False)
    whole = time.monotonic() - begun  # what a comparison waits for when the tab stays open
    other.click("#compare")
    other.wait_for_function(STEPPING, timeout=60_000)
    other.close()
    begun = time.monotonic()
    compare(page)
    assert time.monotonic() - begun < 0.6 * whole


def test_words_stay_words(page):
    """The refusal of a link or a setting repeats what it refuses, in a toast; labels and reasons go
    through textContent."""
    page.evaluate("document.querySelectorAll('textarea')[0].removeAttribute('maxlength')")
    page.fill(
        "textarea >> nth=0", "<img src=x onerror=document.title='hacked'>" + " a pirate" * 300
    )
    page.click("#compare")
    page.wait_for_selector("text=prompt must have at most 2000 characters")
    script = "".join(path.read_text() for path in (ROOT / "assets" / "bench").glob("*.js"))
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", script)
    assert page.title() == "NAG side by side"


def test_a_refused_setting_is_a_sentence_on_the_page(page):
    page.evaluate("document.querySelectorAll('textarea')[0].removeAttribute('maxlength')")
    page.fill("textarea >> nth=0", "x" * 2500)
    page.click("#compare")
    page.wait_for_selector("text=prompt must have at most 2000 characters")
    page.fill("textarea >> nth=0", "portrait of a cowboy")
    compare(page)


def test_who_passes_the_list_of_models_keeps_what_was_typed(page):
    """Gradio says that it was written into whenever it is left."""
    model = "#model input"
    put(page, "nag_scale", 6)
    page.fill("#prompt textarea", "portrait of a wizard")
    before = page.input_value(model)
    for keys in (["Tab"], ["Escape", "Tab"], ["z", "z", "Tab"], ["#", "Enter", "Tab"]):
        page.focus(model)
        for key in keys:
            page.wait_for_timeout(200)
            page.keyboard.press(key)
    page.wait_for_timeout(1000)
    assert page.input_value("#prompt textarea") == "portrait of a wizard"
    assert page.input_value("#nag_scale input[type=number]") == "6"
    assert page.input_value(model) == before
    page.focus(model)
    page.wait_for_timeout(300)
    page.keyboard.type("joint")
    page.keyboard.press("Enter")
    page.wait_for_function("/cowboy/.test(document.querySelector('#prompt textarea').value)")
    assert page.input_value(model).startswith("Pocket joint")


def test_the_documentation_of_the_api_opens(server, browser):
    """Gradio's own panel, which also asks for pages that are shut here."""
    page = browser.new_page()
    page.goto(server)
    page.wait_for_function("window.nagSettings")
    more(page)
    page.click("#use-api a")
    page.wait_for_selector(".api-docs >> text=/compare")
    page.close()


def test_every_setting_that_makes_a_picture_is_told_where_two_are_compared():
    """One list for "What differs" and for the runs of a visit."""
    script = (ROOT / "assets" / "bench" / "base.js").read_text()
    listed = script.partition("const MADE_OF = {")[2].partition("\n};")[0]
    rows = dict(re.findall(r"^  (\w+): \[(.*)\],$", listed, re.M))
    assert set(rows) == set(INPUTS) - {"batched", "fresh"}, "which change no picture"
    of_one = {name: key for name, row in rows.items() for key in re.findall(r"'(\w+)'$", row)}
    users = {name: [k for k, one in METHODS.items() if name in one.settings] for name in rows}
    wanted = {name: keys[0] for name, keys in users.items() if name in RIVALS and len(keys) == 1}
    assert {n: key for n, key in of_one.items() if rows[n].count("'") == 6} == wanted


def test_views_by_key_and_by_hand(page):
    page.wait_for_function(f"{DONE} == 3")
    page.locator("#bench .hint").click()
    page.keyboard.press("2")
    assert page.is_visible("#bench .stage.wipe .handle") and page.is_hidden("#bench .cells")
    before = page.get_attribute("#bench .stage .frame", "aria-valuenow")
    page.keyboard.press("ArrowRight")
    assert int(page.get_attribute("#bench .stage .frame", "aria-valuenow")) == int(before) + 2
    page.keyboard.press("4")
    assert page.is_visible("#bench .stage.difference .over") and page.is_visible("#bench .gain")
    page.wait_for_function("/of 255/.test(document.querySelector('#bench .mean').innerText)")
    page.keyboard.press("1")
    assert page.is_visible("#bench .cells")


def test_a_link_carries_settings_and_a_hostile_one_is_ignored(page, server):
    page.goto(
        f"{server}/?prompt=portrait%20of%20a%20spy&negative_prompt=sunglasses&seed=7&nag_scale=9"
    )
    page.wait_for_function("document.querySelectorAll('textarea')[0]?.value == 'portrait of a spy'")
    assert page.input_value("#nag_scale input[type=number]") == "9"
    page.goto(f"{server}/?prompt=portrait%20of%20a%20spy&nag_scale=NaN&seed=1e999")
    page.wait_for_selector("text=The link was left aside")
    assert page.input_value("textarea >> nth=0") == "portrait of a cowboy"


def test_the_ablation_switches_grey_their_sliders_and_reach_the_model(page, server):
    page.goto(f"{server}/?nag_refinement=false")
    page.wait_for_function("document.querySelector('#nag_alpha input[type=number]')?.disabled")
    assert not page.locator("#nag_tau input[type=number]").is_disabled()
    more(page)
    page.click("text=For research")
    page.click("#nag_normalisation input")
    page.wait_for_function("document.querySelector('#nag_tau input[type=number]').disabled")
    less(page)
    compare(page)
    assert "no normalisation · no refinement" in page.inner_text("#bench .cell.nag")
    more(page)
    page.click("#nag_normalisation input")
    page.click("#nag_refinement input")
    page.wait_for_function("!document.querySelector('#nag_tau input[type=number]').disabled")
    page.wait_for_function("!document.querySelector('#nag_alpha input[type=number]').disabled")


def test_columns_are_drawn_together_on_request(page, server):
    page.goto(f"{server}/?batched=true&seed=5")
    page.wait_for_function("document.querySelector('#bench .hint')")
    page.wait_for_function("document.querySelector('#batched input')?.checked")
    compare(page)
    text = page.inner_text("#bench")
    assert len(re.findall(r"together in \d+\.\d\d s, 2 columns", text)) == 2
    assert text.count("on the processor") == 1 and "× time" not in text


def test_a_preset_that_is_not_here_says_what_to_do_and_the_page_stays_up(page):
    choose(page, "FLUX.1 schnell")
    page.wait_for_function("/chnell/.test(document.querySelector('#bench').innerText)")
    page.click("#compare")
    page.wait_for_function(ABSENT, timeout=60_000)
    page.wait_for_function("!document.querySelector('#compare').disabled")


def test_a_preset_that_begins_with_a_picture_asks_for_one(page):
    assert not page.is_visible("#begin")
    choose(page, "FLUX.1 Kontext")
    page.wait_for_selector("#begin")
    page.click("#compare")
    page.wait_for_selector("text=begins with a picture: give it one")
    page.set_input_files("#begin input[type=file]", str(ROOT / "assets" / "screenshot.png"))
    page.wait_for_selector("#begin img")
    page.click("#compare")
    page.wait_for_function(ABSENT, timeout=60_000)
    choose(page, "Wan2.1 T2V 1.3B")
    page.wait_for_selector("#begin", state="hidden")
    more(page)
    assert page.get_attribute("#num_frames input[type=range]", "step") == "4"


def test_a_broken_picture_is_refused_in_a_sentence_and_spoils_no_other_preset(page, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n" + b"x" * 50)
    choose(page, "FLUX.1 Kontext")
    page.wait_for_selector("#begin")
    page.set_input_files("#begin input[type=file]", str(broken))
    page.wait_for_selector("#begin img", state="attached")
    page.click("#compare")
    page.wait_for_selector("text=not a picture that can be read")
    choose(page, "Pocket portrait")
    page.wait_for_selector("#begin", state="hidden")
    compare(page)


SIZES = ((1440, 900), (1280, 720), (1920, 1080), (1152, 720), (960, 600))


@pytest.mark.parametrize("width, height", SIZES)
def test_everything_is_in_the_first_view_without_scrolling(server, browser, width, height):
    """1152 x 720 and 960 x 600 are a screen of 1440 x 900 at 125 % and 150 %."""
    opened = browser.new_page(viewport={"width": width, "height": height})
    opened.goto(server)
    opened.wait_for_function(f"{DONE} == 3")
    opened.wait_for_selector("#nag_alpha input")
    opened.wait_for_timeout(700)
    parts = ["#compare", "#nag_scale", "#nag_tau", "#nag_alpha", "#num_inference_steps", "#seed"]
    parts += [f"#bench .frame >> nth={i}" for i in range(3)] + ["#bench .verdict", "#prompt"]
    boxes = {part: opened.locator(part).bounding_box() for part in parts}
    for part, box in boxes.items():
        assert box["x"] >= 0 and box["x"] + box["width"] <= width + 0.5, part
        assert box["y"] >= 0 and box["y"] + box["height"] <= height + 0.5, (part, box)
    for one, other in itertools.combinations(parts, 2):
        assert not overlap(boxes[one], boxes[other]), (one, other)
    assert opened.evaluate("document.documentElement.scrollWidth <= innerWidth")
    opened.close()


def overlap(a, b):
    """Whether two boxes share more than half a pixel."""
    return (
        a["x"] + 0.5 < b["x"] + b["width"]
        and b["x"] + 0.5 < a["x"] + a["width"]
        and a["y"] + 0.5 < b["y"] + b["height"]
        and b["y"] + 0.5 < a["y"] + a["height"]
    )


def test_a_phone_shows_the_wipe_one_knob_and_compare_and_does_not_scroll_sideways(server, browser):
    phone = browser.new_page(viewport={"width": 390, "height": 844}, has_touch=True)
    phone.goto(server)
    phone.wait_for_selector("#nag_alpha input")
    phone.wait_for_timeout(1200)
    assert phone.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for part in ("#bench .stage.wipe .frame", "#nag_alpha", "#compare", "#bench .verdict b"):
        box = phone.locator(part).first.bounding_box()
        assert box["y"] + box["height"] <= 844 and 0 <= box["x"] < 390, part
    small = phone.evaluate(TARGETS)
    assert not small, small
    phone.close()


NARROW = ((720, 450), (640, 900), (780, 1024))  # a laptop's screen at 200 %, small tablets


@pytest.mark.parametrize("width, height", NARROW)
def test_nothing_lies_on_anything_on_a_narrow_screen(server, browser, width, height):
    opened = browser.new_page(viewport={"width": width, "height": height})
    opened.goto(server)
    opened.wait_for_function(f"{DONE} == 3")
    opened.wait_for_selector("#nag_alpha input")
    opened.click("[data-view=side]")
    opened.wait_for_timeout(700)
    assert opened.evaluate("document.documentElement.scrollWidth <= innerWidth")
    bar = ["#model", "#theme", "#menu"] + [f"#rooms [role=tab] >> nth={i}" for i in range(5)]
    apart(opened, [*bar, "#prompt", "#negative"])
    apart(opened, ["#nag_alpha", "#nag_scale", "#compare", "#stop"])
    apart(opened, [f"#bench .meter {part} >> nth={i}" for i in range(3) for part in ("em", "> i")])
    apart(opened, [f"#bench .frame >> nth={i}" for i in range(3)] + ["#bench .add"])
    frame = opened.locator("#bench .frame").first.bounding_box()
    assert opened.locator("#bench .add").bounding_box()["height"] < frame["height"]
    opened.close()


def apart(page, parts):
    """Fails where two of them overlap."""
    boxes = {part: page.locator(part).bounding_box() for part in parts}
    for one, other in itertools.combinations(parts, 2):
        assert not overlap(boxes[one], boxes[other]), (one, other, boxes[one], boxes[other])


@pytest.mark.parametrize("width, height", ((1440, 900), (1280, 720), (820, 1180), (390, 844)))
def test_a_picture_to_begin_with_leaves_compare_its_place(server, browser, width, height):
    opened = browser.new_page(viewport={"width": width, "height": height})
    opened.goto(f"{server}/?preset=flux-kontext")
    opened.wait_for_selector("#begin [data-testid=upload-text]", state="attached")
    opened.wait_for_timeout(700)
    apart(opened, ["#prompt", "#negative", "#begin", "#compare", "#stop"])
    assert opened.locator("#compare").bounding_box()["width"] > 100
    assert opened.locator("#words").bounding_box()["height"] < (80 if width > 780 else 130)
    inside = "e => e.scrollWidth <= e.clientWidth && e.scrollHeight <= e.clientHeight + 1"
    assert opened.locator("#compare").evaluate(inside), "its word is not cut"
    opened.close()


def test_a_low_phone_shows_the_picture_whole(server, browser):
    phone = browser.new_page(viewport={"width": 360, "height": 640}, has_touch=True)
    phone.goto(server)
    phone.wait_for_selector("#nag_alpha input")
    phone.wait_for_timeout(1200)
    assert phone.evaluate("document.documentElement.scrollWidth <= innerWidth")
    dock = phone.locator("#dock").bounding_box()["y"]
    for part in ("#bench .stage.wipe .frame", "#bench .verdict"):
        box = phone.locator(part).bounding_box()
        assert box["y"] + box["height"] <= dock + 0.5, (part, box, dock)
    assert phone.locator("#bench .stage .frame").bounding_box()["width"] >= 200
    apart(phone, ["#nag_alpha .head", "#compare", "#stop"])
    small = phone.evaluate(TARGETS)
    assert not small, small
    phone.close()


TARGETS = """() => [...document.querySelectorAll('button, select, a[href]')]
    .filter(e => e.offsetParent)
    .map(e => [e.id || e.className || e.textContent, e.getBoundingClientRect()])
    .filter(([, r]) => r.width && r.top < innerHeight && r.height < 40)
    .map(([n, r]) => n + ' ' + Math.round(r.height))"""


# The API, without a browser


def call(server, settings):
    """POSTs to the public endpoint and reads the event stream -> ("complete" or "error", data)"""
    body = json.dumps({"data": [settings]}, allow_nan=True).encode()
    request = urllib.request.Request(
        f"{server}/gradio_api/call/compare", body, {"Content-Type": "application/json"}
    )
    ticket = json.loads(urllib.request.urlopen(request, timeout=60).read())["event_id"]
    with urllib.request.urlopen(
        f"{server}/gradio_api/call/compare/{ticket}", timeout=120
    ) as stream:
        event = None
        for line in stream.read().decode().splitlines():
            if line.startswith("event:"):
                event = line.split(":", 1)[1].strip()
            elif line.startswith("data:") and event in ("complete", "error"):
                return event, json.loads(line.split(":", 1)[1])
    raise AssertionError("the stream ended without an answer")


def test_the_api_takes_one_object_and_returns_the_run_and_its_pictures(server):
    event, (run, files) = call(
        server, {"seed": 3, "guidance": ["nag", "none"], "num_inference_steps": 2}
    )
    assert (
        event == "complete"
        and list(run["columns"]) == ["nag", "none"]
        and run["settings"]["seed"] == 3
    )
    assert (
        len({c["latents_sha256"] for c in run["columns"].values()}) == 1
        and run["columns"]["nag"]["steps"] == 2
    )
    drawn = [urllib.request.urlopen(file["url"]).read() for file in files]
    assert len(drawn) == 2 and all(d.startswith(b"\x89PNG") for d in drawn)
    assert [Path(f["path"]).name.split("-")[-1] for f in files] == ["nag.png", "none.png"]


def test_hostile_settings_are_refused_and_the_next_good_run_works(server):
    said = 0
    for settings, sentence in HOSTILE:
        try:
            event, data = call(server, settings)
        except (
            urllib.error.HTTPError
        ) as error:  # refused before the queue: numbers that JSON does not have
            assert error.code in (400, 413, 422), error
            continue
        assert event == "error" and sentence in json.dumps(data), (settings, data)
        said += 1
    assert said >= 24
    event, (_, files) = call(server, {})
    assert event == "complete" and len(files) == 3


def test_only_the_api_is_public(server):
    info = json.loads(urllib.request.urlopen(f"{server}/gradio_api/info").read())
    named = {"/compare", "/compare_from_image", "/draw", "/picture", "/presets", "/preset"}
    named |= {"/keep", "/save_preset", "/sweep", "/seeds", "/xray", "/tally"}
    assert set(info["named_endpoints"]) == named and not info["unnamed_endpoints"]


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=app.py",
        "/gradio_api/file=../../etc/passwd",
        "/monitoring",
    ],
)
def test_no_file_of_the_machine_is_served(server, path):
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(server + path)
    assert caught.value.code in (403, 404)


def test_large_bodies_and_foreign_pages_are_turned_away(server):
    for headers, body, code in (
        ({"Origin": "https://evil.example"}, b"{}", 403),
        ({}, b"x" * 400_000, 413),
    ):
        request = urllib.request.Request(
            f"{server}/gradio_api/call/compare",
            body,
            {"Content-Type": "application/json", **headers},
        )
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request)
        assert caught.value.code == code
