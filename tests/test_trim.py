"""`trim`: the negative without the padding behind its words."""

import pytest
from oracle import text_seen
from test_guidance import STRONG, close, differ, state
from tiny import NEGATIVE, PROMPT, draw, pipeline

import nag
from nag import families

# pipeline -> its tokenizer with a token for each of the denoiser's; 24 of CLIP stand before SD3's
# T5
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


def text_of(name: str):
    return drawn(name, PROMPT)[1]


def drawn(name: str, prompt):
    """(the latents, the text that reached the denoiser), (B, T, D)"""
    seen = []
    with text_seen(pipeline(name), seen):
        out = draw(name, prompt)
    return out, seen[0][families.find(pipeline(name)).inputs[0].argument]


def packed_text(name: str, negative, prompt=PROMPT, **settings):
    with nag.guide(pipeline(name), negative, **STRONG, **settings):
        return drawn(name, prompt)


@pytest.mark.parametrize("name", OWN)
def test_only_the_words_of_the_negative_are_attended(name):
    pipe, words = pipeline(name), "hat"
    draw(name)
    before = state(pipe)
    out, packed = packed_text(name, words, trim=True)
    tokens = own(pipe, words, name)
    assert packed.shape[1] == text_of(name).shape[1] + tokens < 2 * text_of(name).shape[1]
    with nag.guide(pipe, words, **STRONG):
        padded = draw(name)
    assert differ(out, padded)
    with nag.guide(pipe, negative_prompt_embeds=packed[:, -tokens:], **STRONG):
        close(out, draw(name))
    assert state(pipe) == before


@pytest.mark.parametrize("name", OWN)
def test_of_several_negatives_the_longest_counts_and_one_that_fills_the_text_is_left_whole(name):
    pipe, full = pipeline(name), text_of(name).shape[1]
    _, packed = packed_text(name, ["hat", "beard"], [PROMPT, "a"], trim=True)
    assert packed.shape[1] == full + own(pipe, "beard", name)
    out, packed = packed_text(name, NEGATIVE * 40, trim=True)
    assert packed.shape[1] == 2 * full
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
