"""Words that do not reach a picture are named: not read by any encoder, or never taught."""

import json
import logging
from pathlib import Path

import pytest
from tiny import NEGATIVE, PIPELINES, PROMPT, draw, pipeline

from nag import presets
from nag.__main__ import main
from nag.engine.engine import Engine
from nag.engine.loading import PipelineCache
from nag.engine.words import CutWords, tokenizers_of, unknown_words

LONG = (
    "glasses, beard, hat, mask, sad face, " * 4 + "red shirt, blue background, banana"
)  # 29 words


SHELF = PipelineCache()


def finish(engine, **settings):
    settings = {"num_inference_steps": 1, "guidance": ["none", "nag"], **settings}
    *_, (over, _, _) = engine.run(*presets.resolve(settings))
    return over


def run(preset="pocket-portrait", **settings):
    return finish(Engine(SHELF, previews=False), preset=preset, **settings)


@pytest.mark.parametrize("preset", ["pocket-portrait", "pocket-joint", "pocket-video"])
def test_a_long_negative_prompt_says_how_many_of_its_words_are_cut(preset, caplog):
    with caplog.at_level(logging.WARNING, "nag"):
        over = run(preset, negative_prompt=LONG)
    said = over.json()["words"]["negative_prompt"]
    read = said["count"] - said["cut"]
    assert said["count"] == 29 and 7 <= read < 24 and said["unknown"] == ["banana"]
    sentence = (
        f"Negative prompt: the model reads {read} of its 29 words, the last {29 - read} are cut"
    )
    assert sentence in over.hint and "the model does not know: banana" in over.hint
    assert sentence in caplog.text and "prompt" not in set(over.json()["words"]) - {
        "negative_prompt"
    }


def test_a_word_without_an_end_is_not_repeated_to_it():
    said = run(negative_prompt="x" * 2000).hint
    assert "its only word is cut" in said and "xxx…" in said and len(said) < 400


def test_what_is_cut_is_what_the_encoder_never_saw():
    """Other words there, the same picture; one word earlier, another."""
    words = [
        "glasses",
        "beard",
        "hat",
        "mask",
        "sad",
        "red",
        "blue",
        "green",
        "portrait",
        "of",
        "a",
        "drawing",
        "person",
    ] * 3
    over = run(negative_prompt=" ".join(words))
    read = len(words) - over.json()["words"]["negative_prompt"]["cut"]
    picture = over.columns[1].image.tobytes()
    after = [*words[:read], *["chef"] * (len(words) - read)]
    assert run(negative_prompt=" ".join(after)).columns[1].image.tobytes() == picture
    before = [*words[: read - 1], "chef", *words[read:]]
    assert run(negative_prompt=" ".join(before)).columns[1].image.tobytes() != picture


def test_a_long_prompt_is_told_too_and_short_ones_say_nothing():
    over = run(prompt="portrait of a cowboy with " + LONG, guidance=["none"])
    assert over.json()["words"]["prompt"]["cut"] == 37 - 17 or over.json()["words"]["prompt"]["cut"]
    assert over.hint.startswith("Prompt: the model reads ") and "Negative prompt" not in over.hint
    over = run(negative_prompt="glasses")
    assert "words" not in over.json() and "reads" not in over.hint and "know" not in over.hint


def test_it_is_said_again_when_words_or_whole_columns_are_taken_from_before():
    shared, hints = Engine(SHELF, previews=False), []
    for seed, fresh in ((1, False), (2, False), (2, False), (2, True)):
        over = finish(shared, negative_prompt=LONG, seed=seed, fresh=fresh)
        hints.append(over.hint[over.hint.index("Negative prompt") :])
        assert over.json()["words"]["negative_prompt"]["cut"]
    assert len(set(hints)) == 1


def test_words_that_a_pocket_model_was_never_taught_are_named():
    over = run(prompt="Portrait of a cowboy, eating a banana!", negative_prompt="no hat")
    words = over.json()["words"]
    assert words["prompt"]["unknown"] == ["eating", "banana"]
    assert words["negative_prompt"]["unknown"] == ["no"]
    assert "Prompt: the model does not know: eating, banana." in over.hint
    assert "Negative prompt: the model does not know: no." in over.hint
    many = run(negative_prompt=" ".join("abcdefghijk"))
    assert "b, c, d, e, f, g, h, i and 2 more" in many.hint


@pytest.mark.parametrize("name", ["pocket-portrait", "pocket-joint", "pocket-video"])
def test_what_a_pocket_model_was_taught_are_the_words_of_its_captions(name):
    from nag.pocket import clips, data
    from nag.pocket.export import taught

    captions = clips if name == "pocket-video" else data
    listed = (presets.FOLDER.parent / "assets" / name / "words.txt").read_text()
    known = set(taught(captions).split())
    assert listed == "".join(f"{word}\n" for word in sorted(known))
    for role in [*captions.ROLES, *data.ROLES, "person"]:
        assert set(role.lower().split()) <= set(listed.split())
    preset = presets.load_all()[name]
    for pair in preset.prompts:  # what the page offers
        assert not unknown_words(preset, f"{pair.prompt} {pair.negative_prompt}")


def test_another_model_in_a_pocket_models_place_is_not_spoken_for(tmp_path):
    pocket = presets.load_all()["pocket-portrait"]
    file = tmp_path / "other.safetensors"
    file.touch()
    assert unknown_words(pocket, "banana") == ["banana"]
    for model in (tmp_path, file):
        assert unknown_words(pocket.with_model(str(model)), "banana") == []


def test_the_command_line_says_it(tmp_path, capsys):
    words = ["--negative-prompt", LONG, "--set", "num_inference_steps=1", "--out", str(tmp_path)]
    assert main(["compare", *words]) == 0
    assert "of its 29 words" in capsys.readouterr().out
    assert json.loads((Path(tmp_path) / "run.json").read_text())["words"]["negative_prompt"]["cut"]


@pytest.mark.parametrize("name", PIPELINES)
def test_the_tokenizers_of_every_pipeline_are_heard(name):
    """Beside templates, instructions and several encoders; a short prompt loses nothing."""
    pipe, cut = pipeline(name), CutWords()
    long = f"{PROMPT} " * 40
    before = [type(tokenizer) for tokenizer in tokenizers_of(pipe)]
    with cut.listening(pipe, [long, NEGATIVE, ""]):
        draw(name, long, steps=1)
        draw(name, NEGATIVE, steps=1)
    assert 0 < cut.of(long) < 240 and not cut.of(NEGATIVE) and not cut.of("")
    assert [type(tokenizer) for tokenizer in tokenizers_of(pipe)] == before


def test_a_tokenizer_written_in_python_is_heard_too():
    """Kolors has one. It does not say where in a text its tokens stand."""
    from transformers import PreTrainedTokenizer

    class Letters(PreTrainedTokenizer):
        vocab_size = 256

        def get_vocab(self):
            return {chr(i): i for i in range(256)}

        def _tokenize(self, text, **_):
            return list(text)

        def _convert_token_to_id(self, token):
            return ord(token)

        def _convert_id_to_token(self, index):
            return chr(index)

        def convert_tokens_to_string(self, tokens):
            return "".join(tokens)

    class Pipe:
        def __init__(self):
            self.components = {"tokenizer": Letters(), "scheduler": None}

    pipe, cut, text = Pipe(), CutWords(), "hat mask beard"
    for length, words in ((14, 0), (13, 1), (9, 1), (8, 1), (7, 2), (2, 3)):
        with cut.listening(pipe, [text]):
            pipe.components["tokenizer"](text, truncation=True, max_length=length)
        assert cut.of(text) == words, length
        cut = CutWords()
