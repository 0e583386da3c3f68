"""What is made once and shown twice: embeddings, and columns that are finished already."""

import contextlib
import time

import pytest
import torch
from tiny import NEGATIVE, PIPELINES, draw, pipeline

import nag
from nag.adapters import replaced
from nag.reuse import Kept, Words


@contextlib.contextmanager
def encodings(pipe):
    """A list that grows by one name with every call of a text encoder."""
    seen, handles = [], []
    for name, part in pipe.components.items():
        if name.startswith("text_encoder") and part is not None:
            handles += [m.register_forward_hook(lambda *_, name=name: seen.append(name)) for m in part.modules()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def both_ways(name) -> list:
    """Latents without guidance, with every style of CFG, and with NAG."""
    out = [draw(name), *(draw(name, cfg=style) for style in range(len(PIPELINES[name].cfg)))]
    with nag.guide(pipeline(name), NEGATIVE, scale=8, alpha=.9):
        return [*out, draw(name)]


@pytest.mark.parametrize("name", PIPELINES)
def test_words_encoded_once_give_the_same_bits(name):
    pipe, words = pipeline(name), Words()
    with torch.inference_mode(), encodings(pipe) as seen:
        plain = both_ways(name)
        assert seen
        with replaced(pipe, "encode_prompt", words.recall):
            first = both_ways(name)
            seen.clear()
            second = both_ways(name)
        assert not seen and "encode_prompt" not in vars(pipe)
    assert all(map(torch.equal, plain, first)) and all(map(torch.equal, plain, second))
    assert not torch.equal(plain[0], plain[-1])


def test_nag_finds_the_prompt_of_an_earlier_column():
    """Without guidance the prompt is encoded; NAG's column needs its negative prompt only."""
    pipe, words = pipeline("sd"), Words()
    with torch.inference_mode(), replaced(pipe, "encode_prompt", words.recall):
        draw("sd")
        assert len(words.kept.values) == 1
        with nag.guide(pipe, NEGATIVE):
            draw("sd")
    assert len(words.kept.values) == 2


class Encoder:
    """Counts its calls."""

    def __init__(self):
        self.calls = 0

    def encode_prompt(self, prompt, device=None, count=1, prompt_embeds=None, **more):
        self.calls += 1
        return [torch.full((2,), float(self.calls))], None, {"mask": torch.ones(1)}


def test_what_is_handed_out_may_be_written_into():
    encoder, words = Encoder(), Words()
    for _ in range(3):
        (embeds,), nothing, masks = words.recall(encoder.encode_prompt, "a")
        assert torch.equal(embeds, torch.ones(2)) and nothing is None and torch.equal(masks["mask"], torch.ones(1))
        embeds.zero_()
        masks["mask"].zero_()
    assert encoder.calls == 1


@pytest.mark.parametrize(("args", "kwargs", "calls"), [
    (("a",), {}, 1), ((), {"prompt": "a", "count": 1}, 1),  # the same call, spelled out
    (("b",), {}, 2), (("a", None, 2), {}, 2), ((["a"],), {}, 2), (("a", torch.device("cpu")), {}, 2), (("a",), {"clip_skip": 1}, 2),
    (("a",), {"count": True}, 2),  # True == 1
])
def test_only_the_same_call_is_remembered(args, kwargs, calls):
    encoder, words = Encoder(), Words()
    words.recall(encoder.encode_prompt, "a")
    for _ in range(2):
        words.recall(encoder.encode_prompt, *args, **kwargs)
    assert encoder.calls == calls


@pytest.mark.parametrize("more", [torch.ones(1), torch.Generator(), object()])
def test_calls_with_more_than_words_are_not_remembered(more):
    encoder, words = Encoder(), Words()
    for _ in range(2):
        words.recall(encoder.encode_prompt, "a", prompt_embeds=more)
    assert encoder.calls == 2 and not words.kept.values


def test_kept_values_are_bounded_by_count_bytes_and_age(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    kept = Kept(3, 10, 60)
    for key in "abc":
        kept.put(key, key.upper(), 2)
    assert kept.get("a") == "A"
    kept.put("d", "D", 2)
    assert kept.get("b") is None and [kept.get(key) for key in "acd"] == ["A", "C", "D"], "the one unused for longest goes first"
    kept.put("e", "E", 8)
    assert [kept.get(key) for key in "acde"] == [None, None, "D", "E"]
    kept.put("f", "F", 11)
    assert kept.get("f") is None and kept.get("e") == "E", "one too large pushes nothing out"
    now[0] = 50
    assert kept.get("d") == "D"
    now[0] = 80
    assert kept.get("e") is None and kept.get("d") == "D"
