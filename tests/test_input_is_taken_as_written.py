"""Captions keep their words, numbers keep their digits, and a refusal says the range and stands
alone."""

import json
import sys

import pytest

from nag import presets
from nag.__main__ import main
from nag.errors import Refused
from nag.evaluate import plan
from nag.presets import resolve

# --- captions of a file


@pytest.mark.parametrize(
    ("name", "text", "captions"),
    [
        ("a.csv", 'caption\n"a pirate\nwith a hat"\na chef\n', ["a pirate with a hat", "a chef"]),
        ("a.csv", 'id,caption\r\n1,"a pirate\r\nwith a hat"\r\n', ["a pirate with a hat"]),
        ("a.tsv", 'caption\tid\n"a pirate\n\nwith a hat"\t1\n', ["a pirate with a hat"]),
        ("a.csv", "caption\na pirate\u2028with a hat\n", ["a pirate with a hat"]),
        ("a.csv", "caption\na pirate\x0cwith a hat\n", ["a pirate with a hat"]),
        ("a.txt", "a pirate\x85with a hat\na chef\n", ["a pirate with a hat", "a chef"]),
        ("a.txt", "a pirate\u2029with a hat\r\na chef", ["a pirate with a hat", "a chef"]),
        ("a.csv", 'caption\n"a sign that says ""open"""\n', ['a sign that says "open"']),
    ],
)
def test_a_caption_keeps_all_its_words(tmp_path, name, text, captions):
    (tmp_path / name).write_bytes(text.encode())
    assert plan.captions_in(tmp_path / name) == captions


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("a.csv", "caption\na pirate, with a hat\n", "line 2 has more fields than the first"),
        ("a.csv", "id,caption\n1,a chef\n2\n", "line 3 has no caption"),
        ("a.csv", 'caption\n"a pirate\na chef\na nurse\n', "a quotation mark that is not closed"),
        ("a.tsv", 'caption\n"open" says the sign\n', "in line 2 is a quotation mark"),
        ("a.json", '{"annotations": [{"caption": "a chef"}, {"caption": 7}]}', "caption 2 must be"),
        ("a.json", '{"annotations": [{"caption": "\\ud800"}]}', "caption 1 must be valid Unicode"),
        ("a.txt", "a chef\na\x00nurse\n", "caption 2 must not contain zero bytes"),
        ("a.txt", "x" * 2001, "caption 1 .*not 2001 characters"),
    ],
)
def test_a_caption_that_would_lose_words_is_refused(tmp_path, name, text, sentence):
    (tmp_path / name).write_text(text)
    with pytest.raises(Refused, match=sentence):
        plan.captions_in(tmp_path / name)


@pytest.mark.parametrize("negative", ["x" * 2001, "a\x00b"])
def test_the_negative_for_all_captions_is_checked_too(tmp_path, capsys, negative):
    (tmp_path / "a.txt").write_text("a chef\n")
    words = ["--prompts", str(tmp_path / "a.txt"), "--negative", negative]
    assert main(["evaluate", *words, "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith("--negative must ")


# --- numbers


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        ({"seed": 2**53 + 1}, f"seed must be between 0 and {2**32 - 1}, got {2**53 + 1}."),
        ({"seed": -(2**53) - 1}, f"seed must be between 0 and {2**32 - 1}, got {-(2**53) - 1}."),
        ({"seed": 2**32}, f"seed must be between 0 and {2**32 - 1}, got {2**32}."),
        ({"seed": 1e300}, f"seed must be between 0 and {2**32 - 1}, got 1e+300."),
        ({"width": -1e300}, "width must be between 16 and 4096, got -1e+300."),
        ({"nag_alpha": 1 + 1e-9}, "nag_alpha must be between 0 and 1, got 1.000000001."),
        ({"seed": 4.5}, f"seed must be a whole number between 0 and {2**32 - 1}, got 4.5."),
        ({"seed": True}, f"seed must be a finite number between 0 and {2**32 - 1}, got True."),
        ({"nag_scale": 10**400}, "nag_scale must be a finite number between 1 and 50, got 1000"),
        ({"width": 10**400}, "width must be a finite number between 16 and 4096, got 1000"),
        ({"nag_tau": "2.5"}, "nag_tau must be a finite number between 1 and 20, got '2.5'."),
        ({"nag_end": None}, "nag_end must be a finite number between 0 and 1, got None."),
    ],
)
def test_a_number_out_of_range_is_told_the_range(raw, sentence):
    with pytest.raises(Refused) as caught:
        resolve(raw)
    assert str(caught.value).startswith(sentence)


def test_a_number_that_is_equal_is_the_same():
    """Settings decide whether a column is drawn anew: -0.0 and 0.0, 7 and 7.0 are one."""
    for one, other in (({"nag_alpha": -0.0}, {"nag_alpha": 0}), ({"seed": -0.0}, {"seed": 0})):
        settings = [resolve(raw)[1].model_dump_json() for raw in (one, other)]
        assert settings[0] == settings[1]


def test_a_presets_own_range_is_said_with_all_digits():
    text = (presets.FOLDER / "pocket-portrait.json").read_text()
    narrow = {"ranges": {"seed": [1, 2**31 + 1], "nag_alpha": [0.25, 0.9]}}
    preset = presets.parse("mine", json.dumps(json.loads(text) | narrow))
    for raw, sentence in (
        ({"seed": 2**31 + 2}, f"seed must be between 1 and {2**31 + 1} .*, got {2**31 + 2}"),
        ({"nag_alpha": 0.9000001}, "nag_alpha must be between 0.25 and 0.9 .*, got 0.9000001"),
    ):
        with pytest.raises(Refused, match=sentence):
            resolve({"preset": "mine", **raw}, {"mine": preset})


# --- the command line


def refusal(capsys, *words) -> str:
    assert main(["compare", *words]) == 2
    return capsys.readouterr().err


def test_a_refused_command_line_says_its_sentence_and_nothing_else(tmp_path, capsys):
    out = ["--out", str(tmp_path / "out")]
    for words, sentence in (
        (["--preset", "flux-kontext"], "begins with a picture"),
        (
            ["--preset", "flux-kontext", "--image", str(tmp_path / "none.png")],
            "none.png is no file",
        ),
        (["--image", __file__], "takes no picture"),
        (["--set", "seed=9007199254740993"], "seed must be between"),
    ):
        said = refusal(capsys, *words, *out)
        assert sentence in said and said.count("\n") == 1 and "\r" not in said, said
        assert not (tmp_path / "out").exists()


def test_a_model_that_does_not_load_is_said_below_the_closed_bar(tmp_path, capsys):
    said = refusal(capsys, "--model", str(tmp_path), "--out", str(tmp_path / "out"))
    assert "does not load as a diffusers pipeline" in said.split("\n")[-2]
    assert not [bar for bar in sys.modules["tqdm"].tqdm._instances if not bar.disable]


def test_a_file_of_another_models_weights_is_named(tmp_path, capsys):
    import torch
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    words = ["--model", str(tmp_path / "other.safetensors"), "--out", str(tmp_path / "out")]
    said = refusal(capsys, *words).split("\n")[-2]
    assert said.startswith("other.safetensors does not have the weights of a UNet2DConditionModel")
