"""`trim`: the negative without the padding behind its words."""

import pytest
from test_guidance import STRONG, close, differ, state
from tiny import NEGATIVE, PROMPT, draw, pipeline

import nag
from nag import families

# pipeline -> tokens of "with big glasses" in its text: letters and an end in T5-like tokenizers; CLIP's too, with a start; 24 of CLIP before SD3's T5
OWN = {
    "flux": "tokenizer_2",
    "sd": "tokenizer",
    "sdxl": "tokenizer",
    "sd3": "tokenizer_3",
    "wan": "tokenizer",
}


def own(pipe, words: str, name: str) -> int:
    ids = getattr(pipe, OWN[name])(words).input_ids
    return len(ids) + (pipe.tokenizer_max_length if name == "sd3" else 0)


@pytest.mark.parametrize("name", OWN)
def test_only_the_words_of_the_negative_are_attended(name):
    pipe, words = pipeline(name), "hat"
    draw(name)
    before = state(pipe)
    with nag.guide(pipe, words, trim=True, **STRONG) as guidance:
        out = draw(name)
    text = families.find(pipe).inputs[0].argument
    positive, negative = guidance.encoded[0][text], guidance.encoded[1][text]
    assert negative.shape[1] == own(pipe, words, name) < positive.shape[1]
    with nag.guide(pipe, words, **STRONG):
        padded = draw(name)
    assert differ(out, padded)
    with nag.guide(pipe, negative_prompt_embeds=negative, **STRONG):
        close(out, draw(name))
    assert state(pipe) == before


@pytest.mark.parametrize("name", OWN)
def test_of_several_negatives_the_longest_counts_and_one_that_fills_the_text_is_left_whole(name):
    pipe, text = pipeline(name), families.find(pipeline(name)).inputs[0].argument
    with nag.guide(pipe, ["hat", "beard"], trim=True, **STRONG) as guidance:
        draw(name, [PROMPT, "a"])
    assert guidance.encoded[1][text].shape[1] == own(pipe, "beard", name)
    with nag.guide(pipe, NEGATIVE * 40, trim=True, **STRONG) as guidance:
        out = draw(name)
    assert guidance.encoded[1][text].shape == guidance.encoded[0][text].shape
    with nag.guide(pipe, NEGATIVE * 40, **STRONG):
        assert (out == draw(name)).all()


def test_where_padding_is_masked_or_unknown_it_is_refused():
    with (
        pytest.raises(ValueError, match="trim is not possible here: LTXPipeline masks"),
        nag.guide(pipeline("ltx"), "hat", trim=True),
    ):
        pass
    with (
        pytest.raises(ValueError, match="trim needs the negative prompt as words"),
        nag.guide(
            pipeline("flux"),
            negative_prompt_embeds=pipeline("flux").encode_prompt("a")[0],
            trim=True,
        ),
    ):
        pass
