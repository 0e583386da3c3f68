"""Videos and start pictures: from a real tiny pipeline in a folder to three players in step."""

import io
import urllib.request

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image
from test_page import DONE, browser, compare, opened_page, put, serving  # noqa: F401
from tiny import folder_of
from video_page import preset

from nag import presets
from nag.__main__ import main
from nag.engine import previews
from nag.engine.engine import Engine
from nag.engine.verdict import mean_difference
from nag.errors import Refused
from nag.media import uploads, video
from nag.page import gate


def moving(count=9, width=48, height=32):
    """Frames with a bright square that moves on by three pixels each."""
    frames = []
    for i in range(count):
        frame = np.full((height, width, 3), 40, np.uint8)
        frame[8:20, 3 * i : 3 * i + 10] = (250, 200, 30)
        frames.append(Image.fromarray(frame))
    return frames


def test_frames_come_back_from_the_file_in_order(tmp_path):
    frames = moving()
    path = tmp_path / "x.mp4"
    path.write_bytes(video.encode(frames, 8))
    reader = imageio_ffmpeg.read_frames(str(path))
    meta = next(reader)
    decoded = [np.frombuffer(frame, np.uint8).reshape(32, 48, 3) for frame in reader]
    assert (
        meta["codec"] == "h264"
        and meta["fps"] == 8
        and meta["size"] == (48, 32)
        and len(decoded) == len(frames)
    )
    for one, frame in zip(decoded, frames, strict=True):
        assert np.abs(one.astype(int) - np.asarray(frame)).mean() < 6
    assert path.read_bytes().find(b"moov") < path.read_bytes().find(b"mdat"), (
        "the header comes last: a browser would wait for the whole file"
    )


def test_frames_of_whatever_a_pipeline_returns():
    import torch

    floats = np.random.default_rng(0).random((3, 16, 24, 3))
    for name, frames in (
        ("frames", floats),
        ("videos", floats),
        ("frames", torch.from_numpy(floats).permute(0, 3, 1, 2)),
    ):
        result = type("Output", (), {name: [frames]})()
        got = video.pictures(video.pixels_of(result))
        assert len(got) == 3 and got[0].size == (24, 16)
        assert np.abs(np.asarray(got[1]) / 255 - floats[1]).max() < 0.01
    one = type("Output", (), {"images": floats})()
    assert np.array_equal(video.pixels_of(one, 2), floats[2:])


def test_a_comparison_of_videos(monkeypatch):
    monkeypatch.setattr(previews, "PREVIEW_EVERY", 0)
    monkeypatch.setattr(previews, "PREVIEW_SHARE", 1e9)
    chosen = preset(folder_of("wan"))
    _, request = presets.resolve({"preset": "tiny-video", "num_frames": 9}, {"tiny-video": chosen})
    events = [
        (c.key, c.state, bool(c.image), bool(c.video), p.size if p else None)
        for _, c, p in Engine().run(chosen, request)
        if c
    ]
    for key in request.guidance:
        mine = [e for e in events if e[0] == key]
        assert any(e[4] == (96, 64) for e in mine), "no preview of a frame"
        assert (key, "done", True, False, None) in mine and mine[-1] == (
            key,
            "done",
            True,
            True,
            None,
        ), "poster first, video behind it"
    *_, (run, _, _) = Engine(previews=False).run(chosen, request)
    columns = {c.key: c for c in run.columns}
    assert all(len(c.frames) == 9 and c.frames[0].size == (96, 64) for c in columns.values())
    assert (
        len({c.latents_sha256 for c in columns.values()}) == 1 and columns["nag"].guided_steps == 3
    )
    moved = {
        key: mean_difference(columns["none"].frames, columns[key].frames) for key in ("cfg", "nag")
    }
    assert moved["cfg"] > 0.1 and moved["nag"] > 0.1 and "NAG changed" in run.hint


@pytest.fixture(scope="module")
def video_server(tmp_path_factory):
    with serving(tmp_path_factory, "tests/video_page.py", folder_of("wan")) as url:
        yield url


@pytest.mark.browser
def test_three_players_in_step(video_server, browser):  # noqa: F811
    with opened_page(video_server, browser) as page:
        compare(page)
        page.wait_for_function(
            "[...document.querySelectorAll('#bench .cell video')]"
            ".filter(v => v.readyState >= 2).length == 3"
        )

        def times():
            return page.evaluate(
                "[...document.querySelectorAll('#bench .cell video')].map(v => v.currentTime)"
            )

        # it plays by itself; on its way three clocks stay within half a frame
        page.wait_for_function(
            "[...document.querySelectorAll('#bench .cell video')].every(v => !v.paused)"
        )
        seen = set()
        for _ in range(12):
            now = times()
            seen.add(now[0])
            if 0.2 < now[0] < 1.9:  # not while it starts anew
                assert max(now) - min(now) < 0.5 / 8, now
            page.wait_for_timeout(80)
        assert len(seen) > 6, "it does not play"
        page.click("#bench .play")
        page.locator("#bench .seek").fill("5")
        assert times() == pytest.approx([5.5 / 8] * 3) and page.inner_text("#bench .at") == "6 / 17"
        page.click("#bench .next")
        assert times() == pytest.approx([6.5 / 8] * 3) and page.inner_text("#bench .at") == "7 / 17"
        page.locator("#bench .hint").click()
        page.keyboard.press(",")
        page.keyboard.press(",")
        assert times() == pytest.approx([4.5 / 8] * 3)
        page.keyboard.press("2")
        page.wait_for_function(
            "[...document.querySelectorAll('#bench .stage video')].every(v => v.readyState >= 2)"
        )
        wiped = page.evaluate(
            "[...document.querySelectorAll('#bench .stage video')]"
            ".map(v => [v.currentTime, v.style.clipPath])"
        )
        assert (
            [t for t, _ in wiped] == pytest.approx([4.5 / 8] * 2)
            and wiped[1][1].startswith("inset")
            and not wiped[0][1]
        )
        page.keyboard.press(" ")
        page.wait_for_function(
            "[...document.querySelectorAll('#bench .stage video')]"
            ".every(v => !v.paused && v.currentTime > .8)"
        )
        page.keyboard.press("1")
        links = page.eval_on_selector_all(
            "#bench a.save", "all => all.map(a => [a.download, a.href])"
        )
        assert [name.rpartition("_")[2] for name, _ in links] == ["none.mp4", "cfg.mp4", "nag.mp4"]
        files = [urllib.request.urlopen(href).read() for _, href in links]
        assert all(data[4:8] == b"ftyp" for data in files) and len(set(files)) == 3


def png(width, height, kind="PNG"):
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(buffer, kind)
    return buffer.getvalue()


def test_start_pictures_are_looked_at_before_they_are_decoded(tmp_path):
    path = tmp_path / "picture"
    for data, sentence in (
        (b"GIF89a" + b"x" * 100, "cannot|can be read"),
        (b"\x89PNG\r\n\x1a\n" + b"x" * 50, "can be read"),
        (png(5000, 4000), "million pixels"),
        (b"\xff" * (uploads.BYTES + 1), "at most 12 MB"),
        (png(20, 20, "GIF"), "PNG, JPEG or WebP"),
    ):
        path.write_bytes(data)
        with pytest.raises(Refused, match=sentence):
            uploads.load(path, "Kontext")
    with pytest.raises(Refused, match="Kontext begins with a picture"):
        uploads.load(None, "Kontext")
    for kind in ("PNG", "JPEG", "WEBP"):
        path.write_bytes(png(30, 20, kind))
        assert uploads.load(path, "Kontext").size == (30, 20)
    assert gate.UPLOAD_LIMIT > uploads.BYTES


def test_a_preset_that_begins_with_a_picture():
    """Flux Kontext from a real tiny pipeline: the picture reaches it, fitted to the size asked for,
    and NAG changes what comes of it."""
    chosen = preset(
        folder_of("kontext"),
        image=True,
        multiple=16,
        num_frames=1,
        height=96,
        arguments={"max_sequence_length": 24, "max_area": 96 * 96, "_auto_resize": False},
        ranges={"num_inference_steps": [1, 8]},
    )
    _, request = presets.resolve({"preset": "tiny-video"}, {"tiny-video": chosen})
    with pytest.raises(Refused, match="begins with a picture"):
        list(Engine().run(chosen, request))
    shots = []
    for colour in ("red", "blue"):
        *_, (run, _, _) = Engine(previews=False).run(
            chosen, request, image=Image.new("RGB", (300, 200), colour)
        )
        assert [c.state for c in run.columns] == ["done"] * 3, [c.reason for c in run.columns]
        assert run.start.size == (96, 96)
        shots.append([c.image for c in run.columns])
    assert mean_difference(shots[0][0], shots[1][0]) > 0.05, "the picture did not reach the model"
    assert mean_difference(shots[0][0], shots[0][2]) > 0.05, "NAG changed nothing"


def test_the_command_line_writes_videos(tmp_path, monkeypatch):
    monkeypatch.setattr(presets, "load_all", lambda: {"tiny-video": preset(folder_of("wan"))})
    assert (
        main(["compare", "--preset", "tiny-video", "--set", "num_frames=5", "--out", str(tmp_path)])
        == 0
    )
    assert {p.name for p in tmp_path.iterdir()} == {
        f"{k}.{e}" for k in ("none", "cfg", "nag") for e in ("png", "mp4")
    } | {"strip.png", "run.json"}
