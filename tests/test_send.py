# ruff: noqa: F811  (fixtures of test_page, used as arguments)
"""What differs, what is sent, and what is brought back, in the browser; and a server that goes
away. Real server, shipped model, headless Chromium."""

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from urllib.parse import parse_qsl, urlsplit

import numpy as np
import pytest
from PIL import Image
from test_instrument import CONTRAST, kept
from test_page import (  # noqa: F401
    DONE,
    ROOT,
    STEPPING,
    browser,
    choose,
    compare,
    live,
    long_run,
    page,
    put,
    server,
)

from nag import presets
from nag.engine.run import Column, Run
from nag.media import video
from nag.page import keep

NOTE = "document.querySelector('#bench .cell.nag .state')?.innerText"
TOLD = "document.querySelector('#bench .told').textContent"
SEED = "document.querySelector('#seed input').value == '{}'"
BACK = (
    "document.querySelector('#away') && /is back/.test(document.querySelector('#away').innerText)"
)


ENDS = """e => {
  const style = getComputedStyle(e), brush = document.createElement('canvas').getContext('2d');
  brush.font = style.font;
  return e.getBoundingClientRect().left + parseFloat(style.paddingLeft)
    + brush.measureText(e.value).width;
}"""


def table(page):
    """The rows of "What differs": name -> what stands under A and B."""
    rows = page.eval_on_selector_all(
        "#differ-menu tbody tr", "all => all.map(r => [...r.children].map(c => c.innerText))"
    )
    return {name: values for name, *values in rows}


def test_what_differs_between_two_columns_and_between_two_runs(page):
    compare(page)
    live(page, False)
    page.keyboard.press("d")
    assert table(page)["CFG scale"] == ["7", "not used"]
    assert table(page)["Shows hat"] == ["still there, 100 %", "gone, 0 %"]
    page.wait_for_function(
        "/differ by [\\d.]+ of 255/.test(document.querySelector('#differ-menu').innerText)"
    )
    page.keyboard.press("Escape")
    put(page, "nag_alpha", 0.4)
    page.fill("#prompt textarea", "portrait of a tall cowboy")
    compare(page)
    page.click("#bench .differ")
    assert table(page)["Alpha"] == ["0.5", "0.4"]
    assert page.inner_text("#differ-menu mark") == "tall"
    assert "Seed" in page.inner_text("#differ-menu .alike >> nth=0")
    page.select_option("#differ-menu select >> nth=0", label="No guidance")
    assert table(page)["Negative prompt"] == ["not used", "hat"]
    page.keyboard.press("Escape")
    for asked in ({"guidance": ["none", "nag", "ong"]}, {"ong_scale": 0.8}):
        page.evaluate(f"{TOLD} = ''")
        page.click("#open")
        page.fill("#open-menu textarea", json.dumps(asked))
        page.click("#open-menu >> text=Use this text")
        page.wait_for_function(f"{TOLD} == 'The text is read.'")
        compare(page)
    labels = page.locator("#bench .past small:not(.outcome)").all_inner_texts()
    assert labels[:2] == ["ONG 0.8", "+ ONG, − CFG"]
    page.click("#bench .differ")
    assert table(page)["ONG scale"] == ["0.5", "0.8"]


def test_settings_are_saved_as_a_preset_file(page, tmp_path):
    live(page, False)
    put(page, "nag_alpha", 0.6)
    put(page, "seed", 29)
    compare(page)
    saved = kept(page, "The settings as a preset")
    assert saved.suggested_filename == "pocket-portrait-portrait-of-a-cowboy-not-hat.json"
    saved.save_as(tmp_path / "mine.json")
    preset = presets.read(tmp_path / "mine.json")
    assert (preset.settings["nag_alpha"], preset.settings["seed"]) == (0.6, 29)
    assert "hat" in preset.look_for and preset.title.endswith("− hat")


def paste(page, text, where="body"):
    page.eval_on_selector(
        where,
        """(node, text) => {
            const data = new DataTransfer();
            data.setData('text/plain', text);
            node.dispatchEvent(new ClipboardEvent('paste',
                { clipboardData: data, bubbles: true, cancelable: true }));
        }""",
        text,
    )


def test_pasted_parameters_fill_the_fields_and_what_does_not_fit_is_named(page):
    live(page, False)
    paste(
        page, "a spy\nNegative prompt: mask\nSteps: 9, Seed: 77, Size: 512x512", "#prompt textarea"
    )
    page.wait_for_function(SEED.format(77))
    assert page.input_value("#prompt textarea") == "a spy"
    assert page.input_value("#num_inference_steps input[type=number]") == "9"
    assert page.input_value("#width input[type=number]") == "128"
    page.wait_for_selector("text=Left aside: width must be between 96 and 192")
    paste(
        page,
        json.dumps(
            {"1": {"class_type": "K", "inputs": {"seed": 5, "positive": ["2", 0]}}}
            | {"2": {"class_type": "T", "inputs": {"text": "a fox"}}}
        ),
    )
    page.wait_for_function(SEED.format(5))
    assert page.input_value("#prompt textarea") == "a fox"
    page.click("#open")
    page.fill("#open-menu textarea", "nothing of use")
    page.evaluate(f"{TOLD} = ''")
    page.click("#open-menu >> text=Use this text")
    page.wait_for_selector("text=This text carries no settings")
    page.wait_for_timeout(300)
    assert page.text_content("#bench .told") == "", "told beside the error"
    page.click("#open")
    page.fill("#open-menu textarea", "?seed=12&prompt=a%20pirate")
    page.click("#open-menu >> text=Use this text")
    page.wait_for_function(SEED.format(12))


def test_words_that_are_pasted_into_a_prompt_stay_words(page):
    page.focus("#prompt textarea")
    caught = page.evaluate("""() => {
        const data = new DataTransfer();
        data.setData('text/plain', 'a quiet lake');
        const event = new ClipboardEvent('paste',
            { clipboardData: data, bubbles: true, cancelable: true });
        document.querySelector('#prompt textarea').dispatchEvent(event);
        return event.defaultPrevented;
    }""")
    assert not caught


def test_a_run_is_sent_as_animation_and_video_and_each_gives_its_settings_back(page, tmp_path):
    live(page, False)
    put(page, "seed", 31)
    compare(page)
    kept(page, "All as an animation").save_as(tmp_path / "run.webp")
    kept(page, "The same as a video").save_as(tmp_path / "run.mp4")
    with Image.open(tmp_path / "run.webp") as image:
        assert image.n_frames == 3
    assert len(list(video.decode(tmp_path / "run.mp4"))) == 48
    for name in ("run.webp", "run.mp4"):
        put(page, "seed", 1)
        page.set_input_files("#bench .opened", str(tmp_path / name))
        page.wait_for_function(SEED.format(31))


def test_a_saved_video_carries_its_settings_unless_that_is_not_wanted(page, tmp_path):
    choose(page, "Pocket video")
    page.wait_for_function(SEED.format(presets.resolve({"preset": "pocket-video"})[1].seed))
    put(page, "seed", 8)
    live(page, False)
    compare(page)
    files = {}
    for name, wanted in (("whole", True), ("bare", False)):
        page.click("#save")
        page.set_checked("#save-menu .choice input", wanted)
        page.keyboard.press("Escape")
        with page.expect_download() as saved:
            page.click("#bench .cell.nag a.save")
        saved.value.save_as(tmp_path / f"{name}.mp4")
        files[name] = (tmp_path / f"{name}.mp4").read_bytes()
    assert b"Negative prompt" in files["whole"] and b"Negative prompt" not in files["bare"]
    assert len(files["whole"]) == len(files["bare"])
    assert len(list(video.decode(tmp_path / "bare.mp4"))) > 1
    put(page, "seed", 1)
    page.set_input_files("#bench .opened", str(tmp_path / "whole.mp4"))
    page.wait_for_function(SEED.format(8))


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_text_of_the_menus_has_the_contrast_of_wcag_aa(browser, server, theme):
    opened = browser.new_page(viewport={"width": 1440, "height": 900})
    opened.goto(f"{server}/?__theme={theme}")
    opened.wait_for_function(f"{DONE} == 3")
    opened.wait_for_timeout(800)
    for press in ("d", "#save", "#open"):
        if press == "d":
            opened.keyboard.press("d")
        else:
            opened.click(press)
        opened.wait_for_timeout(300)
        assert opened.query_selector(":popover-open")
        low = opened.evaluate(CONTRAST)
        assert not low["below"], low["below"]
        opened.keyboard.press("Escape")
    opened.close()


def test_what_is_ticked_looks_ticked(page):
    page.wait_for_function(f"{DONE} == 3")
    page.click("#save")
    box = page.locator("#save-menu .choice input")
    before = box.screenshot()
    box.click()
    page.mouse.move(0, 0)
    assert not box.is_checked() and box.screenshot() != before
    style = "e => [getComputedStyle(e).appearance, getComputedStyle(e).accentColor]"
    appearance, colour = box.evaluate(style)
    assert appearance == "auto" and colour.startswith("rgb(")


def test_a_stopped_run_says_where_it_stopped_and_goes_on(page):
    long_run(page)
    page.wait_for_function("/step [1-9]/.test(document.querySelector('#bench').innerText)")
    page.click("#stop")
    page.wait_for_function("/^Stopped/.test(document.querySelector('#bench .hint').innerText)")
    assert "Compare draws the rest" in page.inner_text("#bench .hint")
    assert page.inner_text("#bench .moves button") == "Compare"


@pytest.mark.parametrize("count", [5, 6])
def test_many_columns_fit_the_view_and_each_says_what_made_it(page, count):
    keys = '["none","cfg","nag","cfg+nag","nasa","vsf"]'
    page.set_viewport_size({"width": 1440, "height": 900})
    keys = json.dumps(json.loads(keys)[:count])
    page.click("#open")
    page.fill("#open-menu textarea", f'{{"preset": "pocket-portrait", "guidance": {keys}}}')
    page.click("#open-menu >> text=Use this text")
    page.wait_for_timeout(800)
    compare(page, columns=count)
    dock = page.locator("#dock").bounding_box()["y"]
    assert page.locator("#bench .foot").bounding_box()["y"] < dock - 40
    cut = page.eval_on_selector_all(
        "#bench .cap .set, #bench .meter em",
        "all => all.filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.innerText)",
    )
    assert not cut, cut
    both = page.locator("#bench .cell >> nth=3").inner_text()
    assert "CFG 7 · scale 4 · tau 2.5 · alpha .5" in both


def test_on_a_phone_the_verdict_and_its_button_are_above_the_dock(browser, server):
    opened = browser.new_page(viewport={"width": 390, "height": 844})
    opened.goto(server)
    opened.wait_for_selector("#bench .moves button")
    opened.wait_for_timeout(800)
    dock = opened.locator("#dock").bounding_box()["y"]
    for part in ("#bench .verdict", "#bench .moves button >> nth=0"):
        box = opened.locator(part).bounding_box()
        assert box["y"] + box["height"] <= dock, part
    opened.close()


def test_the_sound_of_one_video_is_heard_when_it_is_asked_for(browser, tmp_path):
    preset, request = presets.resolve({"preset": "pocket-video"})
    run = Run("cd" * 6, preset, request, [], over=True)
    for key in ("none", "nag"):
        image = Image.new("RGB", (128, 128), "grey")
        sound = video.Sound(np.sin(np.arange(2 * 16000) * 0.2).reshape(1, -1), 16000)
        column = Column(key, 4, state="done", step=4, image=image, frames=[image] * 8)
        column.video, column.sounds = video.encode(column.frames, 8, sound=sound), True
        run.columns.append(column)
    [report] = keep.send(run, ["html"], tmp_path)
    opened = browser.new_page()
    opened.goto(report.as_uri())
    opened.wait_for_selector("#bench .sound", state="visible")
    muted = "[...document.querySelectorAll('.cell video')].map(v => v.muted)"
    assert opened.evaluate(muted) == [True, True]
    opened.select_option("#bench .sound", label="Sound of NAG")
    assert opened.evaluate(muted) == [True, False]
    opened.select_option("#bench .sound", label="Sound off")
    assert opened.evaluate(muted) == [True, True]
    opened.close()


def test_text_from_right_to_left_begins_at_the_right(page):
    page.fill("#prompt textarea", "صورة رجل")
    page.wait_for_timeout(300)
    shown = page.eval_on_selector("#prompt textarea", "e => getComputedStyle(e).direction")
    assert shown == "rtl"


def test_a_link_is_what_the_fields_say_also_before_a_run(page, server):
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    live(page, False)
    choose(page, "Pocket joint (Flux-like)")
    page.wait_for_function(SEED.format(2))
    put(page, "nag_alpha", 0.31)
    page.fill("#prompt textarea", "portrait of a tall & thin spy")
    page.wait_for_timeout(500)
    page.click("#link")
    page.wait_for_function("document.querySelector('#link').innerText == 'Copied'")
    link = page.evaluate("navigator.clipboard.readText()")
    asked = dict(parse_qsl(urlsplit(link).query))
    assert asked == {"preset": "pocket-joint", "nag_alpha": "0.31"} | {
        "prompt": "portrait of a tall & thin spy"
    }
    page.goto(link)
    page.wait_for_function("document.querySelector('#prompt textarea')?.value.includes('& thin')")
    assert page.input_value("#nag_alpha input[type=number]") == "0.31"
    page.set_viewport_size({"width": 390, "height": 844})
    page.click("#menu")
    page.click("#save-menu >> text=Copy link")
    page.wait_for_selector("#copied", state="visible")
    assert page.inner_text("#copied") == "Copied" and page.text_content("#menu").strip() == "Menu"
    page.wait_for_selector("#copied", state="hidden")


def test_a_link_that_is_opened_draws_its_own_pictures_at_once(browser, server):
    opened = browser.new_page(viewport={"width": 1440, "height": 900})
    opened.goto(f"{server}/?prompt=portrait%20of%20a%20surgeon&negative_prompt=mask&seed=0")
    opened.wait_for_function(
        "/mask/.test(document.querySelector('#bench .cell.nag.done .meters')?.innerText)",
        timeout=120_000,
    )
    assert "seed 0, 4 steps" in opened.inner_text("#bench .cell.nag")
    assert not opened.query_selector("#bench .cell.stale")
    opened.close()


IDLE = "!document.querySelector('#compare').disabled"
LINKED = "sessionStorage.getItem('nag-link') == location.search"


def test_what_is_typed_or_chosen_after_a_link_waits_for_compare_and_survives_a_reload(page, server):
    """A link whose pictures are there already left the next keystroke to be taken for it."""
    page.goto(f"{server}/?preset=pocket-portrait")
    page.wait_for_function(LINKED)
    page.fill("#prompt textarea", "portrait of a pirate")
    page.wait_for_timeout(1000)
    assert page.evaluate(IDLE) and page.inner_text("#bench .moves") == "Compare"
    page.reload()
    page.wait_for_function("document.querySelector('#prompt textarea')?.value.includes('pirate')")
    page.wait_for_timeout(1500)
    assert page.input_value("#prompt textarea") == "portrait of a pirate" and page.evaluate(IDLE)
    compare(page)
    assert "prompt=" in page.url
    choose(page, "Pocket joint (Flux-like)")
    page.wait_for_function(SEED.format(2))
    page.wait_for_timeout(1000)
    assert page.evaluate(IDLE) and "sample" in page.inner_text("#bench .cell.nag")
    page.goto(f"{server}/?preset=flux-dev")
    page.wait_for_function(LINKED)
    page.fill("#prompt textarea", "a lighthouse")
    page.wait_for_timeout(400)
    page.reload()
    page.wait_for_function("document.querySelector('#prompt textarea')?.value == 'a lighthouse'")
    page.wait_for_timeout(1500)
    assert page.input_value("#prompt textarea") == "a lighthouse" and page.evaluate(IDLE)


def test_a_link_to_other_columns_than_the_samples_draws_them(page, server):
    page.goto(f'{server}/?preset=pocket-portrait&guidance=["none","nag","ong"]')
    page.wait_for_function(f"{DONE} == 3 && /processor/.test({NOTE})", timeout=120_000)
    drawn = page.locator("#bench .cell .head b").all_inner_texts()
    assert drawn == ["No guidance", "NAG", "ONG"]


def test_clicks_while_an_opened_link_still_draws_are_answered(browser, server):
    """The end of the run that they overtake took their run along, and the second was dropped."""
    opened = browser.new_page(viewport={"width": 1440, "height": 900})
    opened.set_default_timeout(120_000)
    opened.goto(f"{server}/?prompt=portrait%20of%20a%20nurse&seed=1&num_inference_steps=30")
    opened.wait_for_selector("#bench .hint", state="attached")
    opened.wait_for_function(STEPPING)
    for number in (0, 1, 2):
        opened.locator("#bench .chip").nth(number).click()
        opened.wait_for_timeout(300)
    opened.wait_for_function(
        """document.querySelector('#bench .hint').dataset.over == 'true'
        && !document.querySelector('#compare').disabled"""
    )
    assert opened.locator("#bench .cell.done:not(.stale)").count() == 3
    assert opened.get_attribute("#bench .chip >> nth=2", "aria-pressed") == "true"
    opened.close()


@pytest.mark.parametrize("width", [800, 900, 1000, 1180])
def test_the_tools_over_the_pictures_stay_in_their_line(browser, server, width):
    opened = browser.new_page(viewport={"width": width, "height": 720})
    opened.goto(server)
    opened.wait_for_function(f"{DONE} == 3")
    opened.wait_for_timeout(500)
    parts = ["#bench .views", "#bench .zooms", "#bench .full", "#bench .chips"]
    boxes = [opened.locator(part).bounding_box() for part in parts]
    top = opened.locator("#bench .frame >> nth=0").bounding_box()["y"]
    assert all(box["y"] + box["height"] <= top for box in boxes)
    opened.fill("#seed input", "3729904137")
    end = opened.eval_on_selector("#seed input", ENDS)
    dice = opened.locator("#dice").bounding_box()
    assert end <= dice["x"] + dice["width"] / 2 - 7  # its drawing has 14 px
    opened.close()


@pytest.mark.parametrize("width, height", [(1440, 900), (1280, 720)])
def test_videos_their_buttons_and_the_verdict_are_above_the_knobs(browser, server, width, height):
    opened = browser.new_page(viewport={"width": width, "height": height})
    opened.goto(f"{server}/?preset=pocket-video")
    opened.wait_for_selector("#bench .transport", state="visible")
    opened.wait_for_timeout(800)
    dock = opened.locator("#dock").bounding_box()["y"]
    box = opened.locator("#bench .verdict").bounding_box()
    assert box["y"] + box["height"] <= dock
    opened.close()


def test_a_reload_brings_back_the_words_of_this_tab_not_of_another(page, server):
    page.wait_for_timeout(1500)
    page.fill("#prompt textarea", "portrait of a pirate")
    page.wait_for_timeout(400)
    other = page.context.new_page()
    other.goto(server)
    other.wait_for_function(
        "document.querySelector('#prompt textarea')?.value == 'portrait of a pirate'"
    )
    other.wait_for_timeout(1500)
    other.fill("#prompt textarea", "portrait of a surgeon")
    other.wait_for_timeout(400)
    page.reload()
    page.wait_for_function(
        "document.querySelector('#prompt textarea')?.value == 'portrait of a pirate'"
    )
    page.wait_for_timeout(1500)
    assert page.input_value("#prompt textarea") == "portrait of a pirate"


@pytest.fixture
def mortal(tmp_path):
    """A server that can be killed and started again -> (its address, start, kill)."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url, running = f"http://127.0.0.1:{port}", []

    def start():
        with (tmp_path / "log").open("a") as log:
            command = [sys.executable, "app.py", "--port", str(port)]
            running.append(subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log))
        for _ in range(240):
            try:
                urllib.request.urlopen(url, timeout=1).close()
                return
            except OSError:
                time.sleep(0.25)

    def kill():
        running[-1].send_signal(signal.SIGKILL)
        running[-1].wait(20)

    start()
    yield url, start, kill
    for process in running:
        process.kill()


def test_a_server_that_goes_away_is_noticed_and_after_a_restart_all_is_offered_again(
    browser, mortal
):
    url, start, kill = mortal
    opened = browser.new_context(viewport={"width": 1360, "height": 900}).new_page()
    opened.goto(url)
    opened.wait_for_function("window.nagSettings")
    opened.wait_for_timeout(1500)
    live(opened, False)
    opened.fill("#prompt textarea", "portrait of a pirate")
    long_run(opened)
    kill()
    begun = time.monotonic()
    opened.wait_for_selector("#away >> text=does not answer, and this comparison was cut off")
    assert time.monotonic() - begun < 6
    assert opened.inner_text("#state") == "Server lost, trying again"
    assert not opened.query_selector("#bench .cell.step"), "a column steps on without a server"
    start()
    opened.wait_for_function(BACK, timeout=60_000)
    assert opened.input_value("#prompt textarea") == "portrait of a pirate"
    opened.wait_for_function(
        "document.querySelector('#num_inference_steps input[type=number]').value == '30'"
    )
    opened.click("#away >> text=Compare again")
    opened.wait_for_function(
        "/step [1-9]/.test(document.querySelector('#bench').innerText)", timeout=60_000
    )
    opened.context.close()
