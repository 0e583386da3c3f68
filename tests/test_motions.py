"""What moves in a clip is read as the drawings move, and counted against what the words say."""

import numpy as np
import pytest

from nag.evaluate import motions
from nag.pocket import clips


@pytest.fixture(scope="module")
def reader():
    pytest.importorskip("resvg_py", reason="rendering needs dicebear-core dicebear-styles resvg-py")
    return motions.Reader.of_renders(96)


def test_motions_of_other_people_are_read_as_they_were_drawn(reader):
    drawn = motions.sampled(40, seed=3)
    found = reader.read(clips.render(one, 96) for one in drawn)  # of any size
    right = np.equal(found, motions.motions_of(drawn))
    assert right.mean() >= 0.9
    held = [clips.render(one)[:1].repeat(clips.FRAMES, 0) for one in drawn[:8]]
    assert reader.read(held) == ["still"] * 8


def test_a_clip_of_other_length_is_not_read(reader):
    with pytest.raises(ValueError):
        reader.read([np.zeros((4, 64, 64, 3), np.uint8)])


def test_words_lead_to_a_motion():
    assert motions.implied("portrait of an AI researcher") == "nodding"
    assert motions.implied("portrait of a professor, blinking") == "blinking"
    assert motions.implied("portrait of a professor, holding still") == "still"
    assert motions.implied("portrait of a friend") == motions.implied("") == "still"
    assert motions.implied("portrait of a movie star") == "starting to smile"
    asked, wanted = motions.asked(64)
    assert [motions.implied(caption) for caption in asked] == wanted
    assert all(wanted.count(motion) == 8 for motion in clips.MOTIONS)
    prompts, habits = motions.of_roles(12, tuning=False)
    assert [motions.implied(prompt) for prompt in prompts] == habits
    assert not set(motions.TUNED) & set(motions.REPORTED)


def test_of_every_motion_that_was_wanted_it_says_what_was_read():
    found = ["nodding", "still", "still", "nodding", "panning", "still"]
    wanted = ["nodding", "nodding", "still", "nodding", "panning", "still"]
    assert motions.confusion(found, wanted) == {
        "still": "still 2",
        "nodding": "nodding 2, still 1",
        "panning": "panning 1",
    }


def test_files_of_an_evaluation_are_counted(reader, tmp_path, monkeypatch):
    from PIL import Image

    from nag.evaluate import draw

    monkeypatch.setattr(motions, "of_renders", lambda: reader)
    person = motions.sampled(1, seed=4)[0].person
    videos = {motion: clips.render(clips.Clip(person, motion)) for motion in ("nodding", "still")}
    monkeypatch.setattr(draw, "read", lambda path: ([*map(Image.fromarray, videos[path])], {}))
    prompts = ["portrait of a professor", "portrait of a professor"]
    found = motions.numbers(["nodding", "still"], prompts)
    assert found["moves"] == 0.5 and found["moves_interval"][0] < 0.5 < found["moves_interval"][1]
    videos["still"] = videos["still"][:4]
    assert motions.numbers(["nodding", "still"], prompts) == {}
