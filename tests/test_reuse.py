"""What is made once and shown twice: embeddings, and columns that are finished already."""

import contextlib
import sys
import threading
import time

import pytest
import torch
from test_compare import ALL, ask, engine, finish, free
from tiny import NEGATIVE, PIPELINES, draw, folder_of, pipeline
from video_page import preset as video_preset

import nag
from nag import guidance, presets
from nag.engine.engine import Engine
from nag.engine.reuse import EmbeddingCache, LeastRecentlyUsed
from nag.page import cells
from nag.patch import wrap_method


@contextlib.contextmanager
def encodings(pipe):
    """A list that grows by one name with every call of a text encoder."""
    seen, handles = [], []
    for name, part in pipe.components.items():
        if name.startswith("text_encoder") and part is not None:
            handles += [
                m.register_forward_hook(lambda *_, name=name: seen.append(name))
                for m in part.modules()
            ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def both_ways(name) -> list:
    """Latents without guidance, with every style of CFG, and with NAG."""
    out = [draw(name), *(draw(name, cfg=style) for style in range(len(PIPELINES[name].cfg)))]
    with nag.guide(pipeline(name), NEGATIVE, scale=8, alpha=0.9):
        return [*out, draw(name)]


@pytest.mark.parametrize("name", PIPELINES)
def test_words_encoded_once_give_the_same_bits(name):
    pipe, words = pipeline(name), EmbeddingCache()
    with torch.inference_mode(), encodings(pipe) as seen:
        plain = both_ways(name)
        assert seen
        with wrap_method(pipe, "encode_prompt", words.recall):
            first = both_ways(name)
            seen.clear()
            second = both_ways(name)
        assert not seen and "encode_prompt" not in vars(pipe)
    assert all(map(torch.equal, plain, first)) and all(map(torch.equal, plain, second))
    assert not torch.equal(plain[0], plain[-1])


def test_nag_finds_the_prompt_of_an_earlier_column():
    """Without guidance the prompt is encoded; NAG's column needs its negative prompt only."""
    pipe, words = pipeline("sd"), EmbeddingCache()
    with torch.inference_mode(), wrap_method(pipe, "encode_prompt", words.recall):
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
    encoder, words = Encoder(), EmbeddingCache()
    for _ in range(3):
        (embeds,), nothing, masks = words.recall(encoder.encode_prompt, "a")
        assert (
            torch.equal(embeds, torch.ones(2))
            and nothing is None
            and torch.equal(masks["mask"], torch.ones(1))
        )
        embeds.zero_()
        masks["mask"].zero_()
    assert encoder.calls == 1


@pytest.mark.parametrize(
    ("args", "kwargs", "calls"),
    [
        (("a",), {}, 1),
        ((), {"prompt": "a", "count": 1}, 1),  # the same call, spelled out
        (("b",), {}, 2),
        (("a", None, 2), {}, 2),
        ((["a"],), {}, 2),
        (("a", torch.device("cpu")), {}, 2),
        (("a",), {"clip_skip": 1}, 2),
        (("a",), {"count": True}, 2),  # True == 1
    ],
)
def test_only_the_same_call_is_remembered(args, kwargs, calls):
    encoder, words = Encoder(), EmbeddingCache()
    words.recall(encoder.encode_prompt, "a")
    for _ in range(2):
        words.recall(encoder.encode_prompt, *args, **kwargs)
    assert encoder.calls == calls


@pytest.mark.parametrize("more", [torch.ones(1), torch.Generator(), object()])
def test_calls_with_more_than_words_are_not_remembered(more):
    encoder, words = Encoder(), EmbeddingCache()
    for _ in range(2):
        words.recall(encoder.encode_prompt, "a", prompt_embeds=more)
    assert encoder.calls == 2 and not words.kept.values


def test_kept_values_are_bounded_by_count_bytes_and_age(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    kept = LeastRecentlyUsed(3, 10, 60)
    for key in "abc":
        kept.put(key, key.upper(), 2)
    assert kept.get("a") == "A"
    kept.put("d", "D", 2)
    assert kept.get("b") is None and [kept.get(key) for key in "acd"] == ["A", "C", "D"], (
        "the one unused for longest goes first"
    )
    kept.put("e", "E", 8)
    assert [kept.get(key) for key in "acde"] == [None, None, "D", "E"]
    kept.put("f", "F", 11)
    assert kept.get("f") is None and kept.get("e") == "E", "one too large pushes nothing out"
    now[0] = 50
    assert kept.get("d") == "D"
    now[0] = 80
    assert kept.get("e") is None and kept.get("d") == "D"


def test_kept_values_bear_many_threads():
    """Those of the engine, of answers and of files in the making reach one cache."""
    kept, failures = LeastRecentlyUsed(50, 50, 60), []

    def works(seed):
        try:
            for i in range(3000):
                kept.put((seed, i), i, 1)
                kept.get((seed - 1, i))
                kept.put("always", seed, 1)
                assert kept.get("always") is not None
        except BaseException as error:
            failures.append(error)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=works, args=(seed,)) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert not failures


# Finished columns


def reused(run) -> list:
    return [c.key for c in run.columns if c.reused]


def shown(run) -> list:
    return [
        (c.key, c.state, c.image.tobytes(), c.latents_sha256, c.guided_steps, c.step)
        for c in run.columns
    ]


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        ({}, ALL),
        ({"nag_scale": 6}, ["none", "cfg"]),
        ({"nag_tau": 3}, ["none", "cfg"]),
        ({"nag_end": 0.5}, ["none", "cfg"]),
        ({"guidance_scale": 3.0}, ["none", "nag"]),
        ({"negative_prompt": "hat"}, ["none"]),
        ({"prompt": "a chef"}, []),
        ({"seed": 1}, []),
        ({"num_inference_steps": 2}, []),
        ({"width": 48}, []),
        ({"height": 48}, []),
        ({"nag_normalisation": False}, ["none", "cfg"]),
        ({"nag_refinement": False}, ["none", "cfg"]),
        ({"fresh": True}, []),
    ],
)
def test_a_column_is_drawn_again_only_when_something_that_it_uses_has_changed(change, kept):
    desk = engine()
    before = finish(desk, "sd", guidance=ALL)
    after = finish(desk, "sd", **{"guidance": ALL, **change})
    assert reused(before) == [] and reused(after) == kept
    assert shown(after) == shown(finish(engine(), "sd", **{"guidance": ALL, **change}))
    said = after.json()["columns"]
    assert [key for key in said if said[key]["reused"]] == kept
    told = {c.key: cells.cell(after, c) for c in after.columns}
    assert [key for key in told if told[key]["note"].endswith("kept from an earlier run")] == kept
    assert all(one["cost"]["unit"] == "work" for one in told.values()), "no ratio over kept runs"
    assert [c.seconds for c in after.columns if c.reused] == [
        c.seconds for c in before.columns if c.key in kept
    ]


def test_a_setting_that_is_switched_off_changes_nothing():
    desk = engine()
    finish(desk, "sd", nag_normalisation=False, nag_refinement=False)
    run = finish(
        desk, "sd", nag_normalisation=False, nag_refinement=False, nag_tau=9, nag_alpha=0.1
    )
    said = run.json()["columns"]["nag"]
    assert reused(run) == ["none", "cfg", "nag"] and not {"nag_tau", "nag_alpha"} & said.keys()
    assert said["nag_normalisation"] is said["nag_refinement"] is False
    shown = [" ".join(part[1:]).strip() for part in cells.cell(run, run.columns[2])["set"]]
    assert shown[-2:] == ["no normalisation", "no refinement"]
    assert cells.cell(run, run.columns[1])["note"].endswith("kept from an earlier run")


def test_columns_kept_are_shown_before_anything_is_drawn_and_without_the_model():
    desk = engine()
    finish(desk, "sd")
    (first, _, _), *_ = desk.run(*ask("sd", nag_scale=6))
    assert [c.state for c in first.columns if c.reused] == ["done", "done"]
    assert free(desk)
    desk.shelf.loaded.clear()
    run = finish(desk, "sd")
    assert (
        reused(run) == ["none", "cfg", "nag"]
        and run.device == "cpu"
        and not desk.shelf.loaded
        and "NAG changed" in run.hint
    )


def test_failed_and_stopped_columns_are_drawn_again(monkeypatch):
    desk = engine()

    def explode(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(guidance, "guide", explode)
        assert finish(desk, "sd").columns[2].state == "failed"
    running = desk.run(*ask("sd", seed=5))
    next(running)
    running.close()
    assert free(desk)
    for run in (finish(desk, "sd"), finish(desk, "sd", seed=5)):
        assert [c.state for c in run.columns] == ["done"] * 3 and "nag" not in reused(run)


def test_another_model_or_other_words_of_a_preset_keep_nothing():
    desk = engine()
    finish(desk, "sd")
    chosen, request = ask("sd")
    for other in (
        chosen.with_model("someone/else"),
        chosen.model_copy(update={"arguments": {"eta": 0.0}}),
    ):
        *_, (run, _, _) = desk.run(other, request)
        assert reused(run) == []


def test_what_the_meter_reads_follows_the_negative_prompt():
    desk = Engine(previews=False)
    for words, kept in (("hat", []), ("glasses", ["none"]), ("hat", ["none", "nag"])):
        chosen, request = presets.resolve(
            {"negative_prompt": words, "num_inference_steps": 1, "guidance": ["none", "nag"]}
        )
        *_, (run, _, _) = desk.run(chosen, request)
        assert reused(run) == kept and all(list(c.readings) == [words] for c in run.columns)


def test_videos_are_kept_with_their_frames():
    chosen, desk = video_preset(folder_of("wan")), Engine(previews=False)
    request = presets.resolve(
        {"preset": "tiny-video", "num_frames": 5, "guidance": ["none", "nag"]},
        {"tiny-video": chosen},
    )[1]
    *_, (first, _, _) = desk.run(chosen, request)
    *_, (second, _, _) = desk.run(chosen, request)
    assert reused(second) == ["none", "nag"] and second.hint == first.hint
    assert [(c.video, len(c.frames)) for c in second.columns] == [
        (c.video, 5) for c in first.columns
    ] and first.columns[0].video
    sizes = [size for _, size, _ in desk.kept.values.values()]
    assert sizes == [len(c.video) + 5 * 96 * 64 * 3 for c in first.columns]


def test_an_earlier_run_has_encoded_the_words():
    desk = engine()
    finish(desk, "sd", guidance=ALL)
    with encodings(pipeline("sd")) as seen:
        assert [c.state for c in finish(desk, "sd", guidance=ALL, seed=1).columns] == ["done"] * 4
        assert not seen
        finish(desk, "sd", guidance=ALL, negative_prompt="hat")
        assert seen
