"""The gallery of an evaluation's pictures: what is looked at, what is served, what opens."""

import json
import time
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from test_page import browser, opened_page, serving  # noqa: F401

from nag import presets
from nag.errors import Refused
from nag.evaluate import pictures
from nag.evaluate.draw import Painter
from nag.evaluate.plan import columns_of, of_cases
from nag.page.handlers import PageHandlers
from nag.page.rooms.gallery import LITTLE_KIND, PAGE, GalleryRoom

SOMEBODY = SimpleNamespace(session_hash="somebody", client=None)
PRESET, _ = presets.resolve({"preset": "pocket-portrait"})
COLUMNS = columns_of(PRESET, ["none", "cfg", "nag"], [], {"nag_scale": [4.0, 10.0]})
KEYS = [column.key for column in COLUMNS]


def said(**data):
    return SimpleNamespace(_data=data)


def evaluation(folder, count=8, files=None):
    """An evaluation's folder, without drawing. Kinds and keep take turns; files: how many PNGs
    there are for all of it."""
    found, painter = of_cases(["hat", "glasses"], count), Painter(PRESET, folder)
    paths = {column.key: [painter.path(column, one) for one in found] for column in COLUMNS}
    if files:
        paths = {key: [some[i % files] for i in range(count)] for key, some in paths.items()}
    for column in COLUMNS:
        for path in set(paths[column.key]):
            pixels = np.full((1, 128, 128, 3), int(path.name[:2], 16) / 255)
            painter._save(path, column, found[0], pixels, 0.1)
    turns = np.arange(count) % 4
    shown, replaced = turns == 0, turns == 1
    before, keep = turns != 3, np.where(np.arange(count) % 5 == 0, 0.25, 0.75)
    one = {"shown": shown, "replaced": replaced, "before": before, "keep": keep}
    pictures.write(folder, COLUMNS, found, paths, dict.fromkeys(KEYS, one))
    settings = {
        "preset": PRESET.name,
        "model": PRESET.model_name,
        "device": "cpu",
        "columns": {column.key: column.settings for column in COLUMNS},
    }
    (folder / "results.json").write_text(json.dumps({"settings": settings, "columns": {}}))
    return folder


def gallery(folder):
    return GalleryRoom(PageHandlers(None), folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return evaluation(tmp_path_factory.mktemp("results"))


def test_outcomes_are_those_that_the_evaluation_wrote(folder):
    results = pictures.Results(folder)
    kinds = Counter(one.kind for one in results.all if one.column == KEYS[2])
    assert kinds == {"left": 2, "replaced": 2, "gone": 2, "absent": 2}
    assert [one.little for one in results.all[:6]] == [True, *[False] * 4, True]
    assert results.cases == ["hat", "glasses"] and results.plain(KEYS[3]) == "none"


def test_pictures_are_filtered_by_column_case_and_outcome(folder):
    room = gallery(folder)
    first = room.value({})
    assert first["asked"]["column"] == "nag nag_scale=4" and first["count"] == 8
    assert dict(first["outcomes"])["left"] == 2 and dict(first["outcomes"])[LITTLE_KIND] == 2
    hats = room.value({"column": "cfg", "case": "hat"})
    assert {one["negative"] for one in hats["pictures"]} == {"hat"} and hats["count"] == 4
    gone = room.value({"outcome": "gone"})
    assert {one["outcome"] for one in gone["pictures"]} == {"gone"} and gone["whole"] == 8
    little = room.value({"outcome": "little"})
    assert [one["number"] for one in little["pictures"]] == [0, 5]
    json.dumps(little)


@pytest.mark.parametrize(
    "sort, order",
    [
        ("drawn", [0, 1, 2, 3, 4, 5, 6, 7]),
        ("least", [0, 5, 1, 2, 3, 4, 6, 7]),
        ("most", [1, 2, 3, 4, 6, 7, 0, 5]),
        ("kind", [0, 4, 1, 5, 2, 6, 3, 7]),
        ("case", [0, 4, 2, 6, 1, 5, 3, 7]),
    ],
)
def test_pictures_are_sorted(folder, sort, order):
    assert [one["number"] for one in gallery(folder).value({"sort": sort})["pictures"]] == order


@pytest.mark.parametrize(
    "asked, sentence",
    [
        ({"column": "nag nag_scale=5"}, "column must be one of none, cfg"),
        ({"outcome": "burnt"}, "outcome must be one of left, replaced, gone, absent, little"),
        ({"sort": ["seed"]}, "sort must be one of"),
    ],
)
def test_what_is_not_there_is_refused(folder, asked, sentence):
    with pytest.raises(Refused, match=sentence):
        gallery(folder).value(asked)


def test_five_thousand_pictures_come_a_page_at_a_time(tmp_path):
    room = gallery(evaluation(tmp_path, 5000, files=60))
    begun, first = time.process_time(), room.value({})
    assert len(first["pictures"]) == PAGE and first["pages"] == 105 and first["count"] == 5000
    assert len(json.dumps(first)) < 400_000 and time.process_time() - begun < 3
    last = room.value({"page": 10**9})
    assert last["page"] == 104 and len(last["pictures"]) == 5000 - 104 * PAGE
    assert room.value({"page": -1})["page"] == 0 and room.value({"page": "2"})["page"] == 0


def opened(room, number, column):
    updates = room.open(said(number=number, column=column), SOMEBODY)
    return next(one for one in updates if isinstance(one, dict) and "cells" in one), updates


def test_a_picture_opens_in_the_bench_with_the_settings_that_made_it(folder):
    room = gallery(folder)
    bench, updates = opened(room, 3, "nag nag_scale=10")
    assert [cell["key"] for cell in bench["cells"]] == ["none", "cfg", "nag"] and bench["opened"]
    request = bench["request"]
    assert request["nag_scale"] == 10 and request["seed"] == room.results.all[3].picture.seed
    assert request["negative_prompt"] == "glasses" and request["prompt"] in updates
    nag = bench["cells"][2]
    shown = room.results.path(room.results.by_place[3, "nag nag_scale=10"])
    assert Image.open(nag["image"]["path"]).tobytes() == Image.open(shown).tobytes()
    assert nag["seconds"] == 0, "a time of a batch is no time of one picture"
    assert room.handlers.keeper.answer(said(run=bench["run"], kind="zip"))["name"].endswith(".zip")
    other, _ = opened(room, 3, "nag nag_scale=4")
    assert other["request"]["nag_scale"] == 4 and other["run"] != bench["run"]


@pytest.mark.parametrize("number, column", [(99, "nag nag_scale=4"), (0, "../x"), ("0", "none")])
def test_only_pictures_of_the_results_open(folder, number, column):
    with pytest.raises(Refused, match="no such picture"):
        opened(gallery(folder), number, column)


def test_only_files_inside_the_folder_are_served(tmp_path):
    room = gallery(evaluation(tmp_path / "results", 2))
    shown = room.results.by_place[0, "none"]
    path, secret = room.results.path(shown), tmp_path / "secret.png"
    path.replace(secret)
    path.symlink_to(secret)
    assert room.value({"column": "none", "sort": "drawn"})["pictures"][0]["preview"] == ""
    with pytest.raises(Refused, match="no longer in the results"):
        opened(room, 0, "none")
    told = json.loads((tmp_path / "results" / pictures.FILE).read_text())
    told["pictures"][0]["columns"]["none"]["file"] = "../../secret.png"
    (tmp_path / "results" / pictures.FILE).write_text(json.dumps(told))
    with pytest.raises(Refused, match="these results cannot be read"):
        gallery(tmp_path / "results")


def test_a_folder_without_results_is_refused_in_a_sentence(tmp_path, folder):
    with pytest.raises(Refused, match=r"has no results\.json; run the same python -m nag evaluate"):
        gallery(tmp_path)
    (tmp_path / "results.json").write_text((folder / "results.json").read_text())
    with pytest.raises(Refused, match=r"has no pictures\.json"):
        gallery(tmp_path)
    (tmp_path / pictures.FILE).write_text('{"pictures": [{"seed": 1}]}')
    with pytest.raises(Refused, match="cannot be read"):
        gallery(tmp_path)


@pytest.mark.browser
def test_a_gallery_on_the_page(tmp_path_factory, folder, browser):  # noqa: F811
    with (
        serving(tmp_path_factory, "app.py", "--results", str(folder), "--port") as url,
        opened_page(url, browser) as page,
    ):
        page.get_by_role("tab", name="Gallery", exact=True).click()
        page.wait_for_selector("#room-gallery .hung")
        assert page.locator("#room-gallery .hung").count() == 8
        page.click("#room-gallery .outcomes button:has-text('replaced')")
        page.wait_for_function("document.querySelectorAll('#room-gallery .hung').length == 2")
        page.select_option("#room-gallery .case", "glasses")
        page.wait_for_function(
            "/1 to 2 of 2/.test(document.querySelector('#room-gallery .what').innerText)"
        )
        page.locator("#room-gallery .hung").first.click()
        page.wait_for_function("window.nagSettings[2] === 'glasses'")
        page.wait_for_function("document.querySelector('#bench').offsetParent !== null")
        assert page.locator("#bench .cell.done").count() == 3
        assert "sample" not in page.inner_text("#bench .cell.nag")
