# ruff: noqa: F811  (fixtures of test_page, used as arguments)
"""The page as an instrument: knobs that answer, pictures that say what made them, runs that can be
kept and sent. Real server, shipped model, headless Chromium."""

import json
import re
import zipfile

import pytest
from PIL import Image
from test_page import (  # noqa: F401
    DONE,
    begins,
    browser,
    choose,
    compare,
    live,
    long_run,
    opened_page,
    page,
    put,
    server,
    serving,
)

from nag import presets
from nag.media import metadata

OVER = f"!document.querySelector('#compare').disabled && {DONE} == 3"
TAG = "document.querySelector('#bench .cell.{} .tag').textContent"


def drag(page, setting, share):
    """Moves a knob to a share of its way and lets go."""
    box = page.locator(f"#{setting} input[type=range]").bounding_box()
    y = box["y"] + box["height"] / 2
    at = page.locator(f"#{setting} input[type=range]").evaluate(
        "e => (e.value - e.min) / (e.max - e.min)"
    )
    page.mouse.move(box["x"] + 8 + (box["width"] - 16) * at, y)
    page.mouse.down()
    page.mouse.move(box["x"] + 8 + (box["width"] - 16) * share, y, steps=4)
    page.mouse.up()


def sources(page):
    return page.eval_on_selector_all("#bench .cell img.new", "all => all.map(i => i.src)")


def verdict(page):
    return page.inner_text("#bench .hint")


def test_a_released_knob_redraws_nag_alone_over_its_old_picture(page):
    compare(page)
    before = sources(page)
    live(page, False)
    live(page, True)
    page.evaluate("""() => { window.faint = false; new MutationObserver(() => {
        if (document.querySelector('#bench .cell.nag .old.faint')) window.faint = true;
    }).observe(document.querySelector('#bench'), { subtree: true, attributes: true }) }""")
    with begins(page):
        drag(page, "nag_alpha", 0.1)
    page.wait_for_function(OVER)
    after = sources(page)
    assert after[:2] == before[:2] and after[2] != before[2]
    assert page.evaluate("window.faint"), "the old picture did not lie beneath"
    assert re.search(r"alpha \.5 → \.\d", page.inner_text("#bench .cell.nag .set"))
    assert "The hat is still there under NAG" in verdict(page) or "No effect" in verdict(page)


def test_live_goes_off_after_slow_pictures_alone_and_says_so(tmp_path_factory, browser):
    """Not after the first, which warms up, nor after one that was kept."""
    with (
        serving(tmp_path_factory, "tests/slow_page.py") as url,
        opened_page(url, browser) as page,
    ):
        compare(page)
        compare(page)
        assert page.is_checked("#live input") and "Live is off" not in page.inner_text("#bench")
        drag(page, "nag_alpha", 0.1)
        page.wait_for_selector("#bench .moves >> text=NAG took 9 s a picture, so Live is off")
        assert not page.is_checked("#live input")
        drag(page, "nag_alpha", 0.9)
        page.wait_for_timeout(800)
        assert "→ .1" in page.inner_text("#bench .cell.nag .set")
        page.click("#bench .moves >> text=Turn on")
        page.wait_for_function(
            "/→ .9/.test(document.querySelector('#bench .cell.nag.done .set')?.innerText)"
        )
        assert page.is_checked("#live input") and "Live is off" not in page.inner_text("#bench")
        page.set_viewport_size({"width": 800, "height": 720})
        assert page.is_visible("#live input")


def test_pictures_of_other_settings_are_marked_until_they_are_drawn_again(page):
    live(page, False)
    page.wait_for_function(f"{DONE} == 3")
    put(page, "nag_tau", 4)
    page.wait_for_function(TAG.format("nag") + " == 'Settings changed: Compare'")
    marked = page.eval_on_selector_all("#bench .cell.stale", "all => all.map(c => c.dataset.key)")
    assert marked == ["nag"] and "hat is gone under NAG and most" not in verdict(page)
    page.fill("#prompt textarea", "portrait of a spy")
    page.wait_for_function("document.querySelectorAll('#bench .cell.stale').length == 3")
    assert verdict(page).strip() == "These pictures were made with other settings."
    compare(page)
    assert not page.query_selector("#bench .cell.stale")


def test_a_preset_brings_its_own_seed_and_its_text_stands_under_its_sample_alone(page):
    assert "Drag alpha" in verdict(page)
    put(page, "seed", 3)
    assert "Drag alpha" not in verdict(page)
    choose(page, "Pocket joint (Flux-like)")
    page.wait_for_function("document.querySelector('#seed input').value == '2'")
    wanted = presets.load_all()["pocket-joint"]
    assert page.input_value("#prompt textarea") == wanted.settings["prompt"]
    assert wanted.look_for[:40] in verdict(page)


def test_an_example_sets_words_and_a_seed_that_shows_the_point_and_draws(page):
    with begins(page):
        page.click("#bench .chip >> text=surgeon − mask")
    page.wait_for_function(OVER)
    assert page.input_value("#prompt textarea") == "portrait of a surgeon"
    assert page.input_value("#seed input") == "27"
    assert verdict(page).startswith("NAG takes the mask away")
    with begins(page):
        page.click("#bench .moves >> text=Another seed")
        page.wait_for_function("document.querySelector('#seed input').value == '28'")
    page.wait_for_function(OVER)
    assert "seed 28, 4 steps" in page.inner_text("#bench .cell.nag")


def test_a_preset_chosen_in_the_midst_of_a_run_shows_its_own_pictures(page):
    long_run(page)
    choose(page, "Pocket joint (Flux-like)")
    page.wait_for_function(OVER)
    page.wait_for_timeout(2500)
    assert "seed 2" in page.inner_text("#bench .cell.nag")
    assert "sample" in page.inner_text("#bench .cell.nag") and "seed=" not in page.url


def test_a_link_brings_the_run_back_in_another_browser(page, browser, server):
    live(page, False)
    put(page, "nag_alpha", 0.6)
    put(page, "seed", 29)
    compare(page)
    page.wait_for_function("location.search.includes('seed=29')")
    first = page.inner_text("#bench .cell.nag .set")
    other = browser.new_context().new_page()
    other.goto(page.url)
    other.wait_for_function("document.querySelector('#seed input')?.value == '29'")
    assert other.input_value("#nag_alpha input[type=number]") == "0.6"
    compare(other)
    assert other.inner_text("#bench .cell.nag .set") == first
    other.context.close()


def test_words_and_knobs_survive_a_reload(page, server):
    live(page, False)
    page.wait_for_timeout(1500)
    page.fill("#prompt textarea", "portrait of a pirate")
    put(page, "nag_scale", 6)
    page.wait_for_timeout(500)
    page.reload()
    page.wait_for_function(
        "document.querySelector('#prompt textarea')?.value == 'portrait of a pirate'"
    )
    page.wait_for_function("document.querySelector('#nag_scale input[type=number]').value == '6'")


def test_a_saved_picture_carries_its_settings_and_gives_them_back(page, tmp_path):
    live(page, False)
    put(page, "nag_alpha", 0.7)
    put(page, "seed", 31)
    compare(page)
    with page.expect_download() as saved:
        page.click("#bench .cell.nag a.save")
    assert saved.value.suggested_filename == "portrait-of-a-cowboy_not-hat_31_nag.png"
    file = tmp_path / "nag.png"
    saved.value.save_as(file)
    with Image.open(file) as image:
        image.load()
        texts = image.text
    assert "Negative prompt: hat\nSteps: 4, Seed: 31, NAG scale: 4" in texts["parameters"]
    assert not re.search(r"/tmp|/root|127\.0", json.dumps(texts)), "a path or a host"
    put(page, "seed", 1)
    page.set_input_files("#bench .opened", str(file))
    page.wait_for_function("document.querySelector('#seed input').value == '31'")
    assert page.input_value("#nag_alpha input[type=number]") == "0.7"


def test_settings_are_left_out_of_pictures_on_request(page, tmp_path):
    compare(page)
    page.click("#save")
    page.uncheck("#save-menu .choice input")
    page.keyboard.press("Escape")
    with page.expect_download() as saved:
        page.click("#bench .cell.nag a.save")
    saved.value.save_as(tmp_path / "bare.png")
    with Image.open(tmp_path / "bare.png") as image:
        image.load()
        assert image.size == (128, 128) and not image.text


@pytest.mark.parametrize(
    "texts, wanted",
    [
        (
            {"parameters": "a cat\nNegative prompt: dog\nSteps: 12, Sampler: Euler, Seed: 7"},
            {"prompt": "a cat", "negative_prompt": "dog", "num_inference_steps": 12, "seed": 7},
        ),
        (
            {
                "prompt": json.dumps(
                    {
                        "3": {"inputs": {"seed": 5, "steps": 9, "positive": ["6", 0]}}
                        | {"class_type": "KSampler"},
                        "6": {"inputs": {"text": "a fox"}, "class_type": "CLIPTextEncode"},
                    }
                )
            },
            {"prompt": "a fox", "seed": 5, "num_inference_steps": 9},
        ),
    ],
)
def test_settings_of_other_tools_are_read_as_far_as_they_go(texts, wanted):
    assert metadata.settings_in(texts) == wanted


def kept(page, label):
    page.click("#save")
    with page.expect_download() as saved:
        page.click(f"#save-menu >> text={label}")
    return saved.value


def test_a_run_is_kept_as_a_strip_a_zip_and_a_page_that_works_offline(page, browser, tmp_path):
    compare(page)
    kept(page, "All in one picture").save_as(tmp_path / "strip.png")
    assert Image.open(tmp_path / "strip.png").size[0] > 3 * 384
    kept(page, "Everything").save_as(tmp_path / "all.zip")
    with zipfile.ZipFile(tmp_path / "all.zip") as archive:
        assert json.loads(archive.read("run.json"))["columns"].keys() == {"none", "cfg", "nag"}
        assert sum(name.endswith(".png") for name in archive.namelist()) == 4
    report = tmp_path / "report.html"
    kept(page, "A page that works offline").save_as(report)
    context = browser.new_context(offline=True)
    opened, errors = context.new_page(), []
    opened.on("pageerror", lambda e: errors.append(str(e)))
    opened.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
    opened.goto(report.as_uri())
    opened.wait_for_function(
        "[...document.querySelectorAll('.cell img.new')].filter(i => i.naturalWidth == 128)"
        ".length == 3"
    )
    assert "NAG takes the hat away" in opened.inner_text(".hint")
    opened.keyboard.press("2")
    assert opened.is_visible(".stage.wipe .handle")
    opened.keyboard.press("4")
    opened.wait_for_function("/of 255/.test(document.querySelector('.mean').innerText)")
    assert not errors, errors
    context.close()


def test_runs_of_the_visit_come_back_and_can_be_pinned_as_a_column(page):
    compare(page)
    live(page, False)
    put(page, "nag_alpha", 0.4)
    compare(page)
    assert page.locator("#bench .past").count() == 2
    second = sources(page)[2]
    page.locator("#bench .past").nth(1).click()
    page.wait_for_function("document.querySelector('#nag_alpha input[type=number]').value == '0.5'")
    assert sources(page)[2] != second
    page.click("#bench .add")
    page.click("#add-menu >> text=Pin NAG as it is")
    assert page.locator("#bench .cell.pinned").count() == 1
    page.click("#save")
    assert "Pinned columns are not in these" in page.inner_text("#save-menu")
    page.keyboard.press("Escape")
    page.locator("#bench .pinned .unpin").click()
    assert page.locator("#bench .cell").count() == 3


def test_the_bench_is_used_with_keys_alone(page):
    page.wait_for_function(f"{DONE} == 3")
    page.focus("#prompt textarea")
    with begins(page):
        page.keyboard.press("Control+Enter")
    page.wait_for_function(OVER)
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("2")
    frame = page.locator("#bench .stage .frame")
    frame.focus()
    for key, at in (("Home", "0"), ("End", "100"), ("PageUp", "90"), ("ArrowLeft", "88")):
        page.keyboard.press(key)
        assert frame.get_attribute("aria-valuenow") == at
    page.keyboard.press("b")
    assert page.input_value("#bench .side-b") != "nag"
    page.keyboard.down(" ")
    assert page.is_visible("#bench .stage.peeking")
    page.keyboard.up(" ")
    page.keyboard.press("f")
    page.wait_for_function("document.fullscreenElement?.id == 'bench'")
    box = frame.bounding_box()
    assert box["height"] > 0.85 * page.viewport_size["height"], "full screen is not"
    page.keyboard.press("f")
    outlines = page.evaluate(FOCUS)
    assert not outlines, outlines


FOCUS = """() => {
  const bare = [];
  for (const e of document.querySelectorAll('button, input, select, textarea, a[href], .frame')) {
    if (!e.offsetParent || e.disabled || e.type === 'file' || e.closest('.sidebar')) continue;
    e.focus({ preventScroll: true, focusVisible: true });
    if (document.activeElement !== e) continue;
    const seen = [e, e.closest('.field'), e.closest('.wrap'), e.closest('label')].some(one => {
      if (!one) return false;
      const s = getComputedStyle(one);
      const line = s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) > 0;
      return line || s.boxShadow !== 'none';
    });
    if (!seen) bare.push(e.outerHTML.slice(0, 120) + e.parentElement.outerHTML.slice(0, 80));
  }
  return bare;
}"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_text_has_the_contrast_of_wcag_aa(browser, server, theme):
    opened = browser.new_page(viewport={"width": 1440, "height": 900})
    opened.goto(f"{server}/?__theme={theme}")
    opened.wait_for_function(f"{DONE} == 3")
    opened.wait_for_timeout(800)
    for press in ("", "2", "4", "1"):
        if press:
            opened.keyboard.press(press)
            opened.wait_for_timeout(300)
        low = opened.evaluate(CONTRAST)
        assert not low["below"], low["below"]
        print(theme, press or "load", low["least"], low["texts"])
    opened.close()


CONTRAST = """() => {
  const parse = c => (c.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const over = (top, under) => { const a = top[3] === undefined ? 1 : top[3];
    return [0, 1, 2].map(i => top[i] * a + under[i] * (1 - a)); };
  const ground = e => { const stack = []; for (let n = e; n; n = n.parentElement) {
      const c = parse(getComputedStyle(n).backgroundColor); if (c.length && c[3] !== 0) {
        stack.push(c); if (c[3] === undefined || c[3] === 1) break; } }
    return stack.reverse().reduce((under, top) => over(top, under), [255, 255, 255]); };
  const below = []; let least = 99, texts = 0;
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const e = walker.currentNode.parentElement, s = getComputedStyle(e);
    if (!walker.currentNode.textContent.trim() || s.fontSize === '0px') continue;
    if (!e.offsetParent || s.visibility === 'hidden') continue;
    if (e.closest(':disabled, .sr, option')) continue;
    if (e.closest('.sidebar') || e.closest('[style*=opacity]')) continue;
    const g = ground(e), ink = over(parse(s.color), g);
    const [a, b] = [light(ink), light(g)].sort((x, y) => y - x), ratio = (a + .05) / (b + .05);
    texts += 1; least = Math.min(least, ratio);
    if (ratio < 4.5) below.push([e.textContent.trim().slice(0, 30), ratio.toFixed(2)]);
  }
  return { below, least: least.toFixed(2), texts };
}"""
