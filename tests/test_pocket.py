"""How pocket models are made: true captions, stages that resume, an export that diffusers loads."""

import importlib
import random
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from nag.errors import NAGRuntimeError
from nag.evaluate.cases import CASES
from nag.pocket import ASSETS, SHIPPED, data, film, loop, reader, text, vae
from nag.pocket.portrait import Portrait, build_scheduler, shipped_unet
from nag.pocket.train import distill, train_teacher


def test_captions_are_true_and_never_say_what_is_absent():
    rng = random.Random(0)
    for _ in range(2000):
        person = data.sample_person(rng)
        text = data.caption(person, rng)
        assert " no " not in f" {text} " and "none" not in text and "without" not in text
        for name, values in data.ATTRIBUTES.items():
            if name in ("expression", "shirt", "background"):
                continue
            for value in values:
                if value not in ("none", person.labels[name]):
                    assert value not in [
                        part.strip(" .") for part in text.replace(" with ", ", ").split(", ")
                    ], (text, person)


def test_roles_imply_their_attribute_and_references_lack_it():
    rng = random.Random(0)
    cowboys = [data.sample_person(rng, "cowboy") for _ in range(500)]
    assert 0.8 < sum(p.labels["head"] == "hat" for p in cowboys) / 500 < 0.92
    for case, (attribute, value, tuning, reported) in CASES.items():
        assert not set(tuning) & set(reported), case
        for role in reported:
            assert data.ROLES[role] == (attribute, value)
            assert all(
                p.labels[attribute] != value for p in data.references(role, (attribute, value), 50)
            )


def test_what_is_neither_said_nor_implied_is_not_worn():
    rng, plain, others = random.Random(1), 0, 0
    for _ in range(3000):
        person = data.sample_person(rng)
        text, prior = data.caption(person, rng), data.ROLES.get(person.role)
        said = data.phrases(person)
        for name in data.PLAIN if text else ():
            worn = data.is_worn(name, person.labels[name])
            implied = prior == (name, person.labels[name]) and person.role in text
            assert not worn or implied or said[name] in text, (text, person)
            assert not (worn and data.PLAIN[name] in text), (text, person)
        if prior and prior[0] in data.PLAIN and person.labels[prior[0]] != prior[1]:
            plain += not data.is_worn(prior[0], person.labels[prior[0]])
            others += data.is_worn(prior[0], person.labels[prior[0]])
    assert plain > 3 * others > 0, "in place of what a role implies there is mostly nothing"


def test_any_text_becomes_tokens():
    from tiny import clip_tokenizer

    tokenizer = clip_tokenizer()
    for words in ("", "Portrait of AI researcher.", "zażółć 🦓 42 ¿", "x" * 500):
        ids = text.tokenize(tokenizer, [words], "cpu")
        assert ids.shape == (1, text.TOKENS) and ids.max() < len(tokenizer)


def test_a_stage_that_was_interrupted_ends_where_an_uninterrupted_one_does(tmp_path, monkeypatch):
    def stage(run, fail_at=None):
        torch.manual_seed(0)
        layer = torch.nn.Linear(4, 4)

        def loss(step):
            if step == fail_at:
                raise KeyboardInterrupt
            return (layer(torch.randn(8, 4)) - 1).square().mean(), {}

        return loop.fit("stage", run, layer, loss, steps=12, lr=1e-2)

    monkeypatch.setattr(loop, "SAVE_EVERY", 0)
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    whole = stage(tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        stage(tmp_path / "b", fail_at=7)
    again = stage(tmp_path / "b")
    assert torch.equal(whole.weight, again.weight) and torch.equal(whole.bias, again.bias)


def test_the_whole_recipe_runs_and_its_exports_load_with_diffusers(tmp_path, monkeypatch):
    pytest.importorskip("resvg_py", reason="rendering needs dicebear-core dicebear-styles resvg-py")
    from diffusers import DiffusionPipeline

    from nag.pocket import joint, motion_words, second, video
    from nag.pocket.export import export, pipeline

    data.build(tmp_path / "data", 32, processes=1)
    vae.train_vae(tmp_path, 1, size=2)
    text.train_text(tmp_path, 1, size=8)
    reader.train_classifier(tmp_path, 1, size=16)
    reader.train_moved(tmp_path, 1, size=16)
    vae.encode_pictures(tmp_path)
    joint.train_t5(tmp_path, 1, size=8)
    for kind, names in (
        (Portrait, ("student", "control")),
        (joint.Joint, ("joint-student", "joint-control")),
    ):
        source = kind(tmp_path)
        source.size = 4
        train_teacher(tmp_path, 2, source)
        for name, guidance in zip(names, (3.0, 1.0), strict=False):
            distill(
                tmp_path,
                1,
                source,
                guidance=guidance,
                name=name,
                size=4,
            )
    for rows, of in ((1, "HELD"), (2, "LED"), (1, "MIXED")):
        monkeypatch.setattr(second, of, rows)
    second.train_second(tmp_path, 1, count=4, pairs=2)
    motion_words.train_text(tmp_path, 1, size=8)
    motion_words.train_habits(tmp_path, 1, size=4)
    video.train_video(tmp_path, 2, size=16)  # parts of clips, then a whole one
    export(tmp_path, tmp_path / "assets")
    for name, variant, denoiser in (
        ("pocket-portrait", None, "second"),
        ("pocket-joint", None, "joint-student"),
        ("pocket-joint", "teacher", "joint"),
        ("pocket-video", None, "video-student"),
    ):
        folder = tmp_path / "assets" / name
        pipe = DiffusionPipeline.from_pretrained(folder, dtype=torch.float32, variant=variant)
        pipe.set_progress_bar_config(disable=True)

        def draw(pipe, **more):
            options = {
                "num_inference_steps": 2,
                "height": 128,
                "width": 128,
                "output_type": "latent",
                "guidance_scale": 1.0,
                **more,
            }
            return pipe("a cowboy", generator=torch.Generator().manual_seed(0), **options)[0]

        more = {"pocket-joint": {"max_sequence_length": 24}, "pocket-video": {"num_frames": 4}}.get(
            name, {}
        )
        trained = pipeline(tmp_path, denoiser)
        for part in trained.components.values():
            if isinstance(part, torch.nn.Module):
                part.half().float()  # as on disk
        out, trained = draw(pipe, **more), draw(trained, **more)
        assert (out - trained).abs().max() < 1e-3 * trained.abs().max()
        sizes = [f.stat().st_size for f in folder.rglob("*.safetensors")]
        assert sum(sizes) < 52e6 and max(sizes) < 12.5e6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fidelity_draws_the_same_noise_in_every_dtype(dtype):
    """That of the engine: seed 70000 is one picture, whatever the weights' dtype."""
    from types import SimpleNamespace

    from diffusers.utils.torch_utils import randn_tensor

    from nag.evaluate import fidelity

    seen = []

    def pipe(prompts, generator, **_):
        seen.append(randn_tensor((len(prompts), 4), generator=generator, dtype=dtype))
        return SimpleNamespace(images=prompts)

    pipe.__call__ = pipe
    fidelity.draw(pipe, SimpleNamespace(arguments={}), ["a", "b"], 1)
    expected = [torch.randn(4, generator=torch.Generator().manual_seed(70_000 + i)) for i in (0, 1)]
    assert torch.equal(seen[0], torch.stack(expected).to(dtype))


def test_what_fidelity_measures():
    pytest.importorskip("resvg_py", reason="rendering needs dicebear-core dicebear-styles resvg-py")
    from PIL import Image, ImageFilter

    from nag import presets
    from nag.engine import loading
    from nag.evaluate import fidelity

    people, captions, stated = fidelity.asked(40)
    for person, words, names in zip(people, captions, stated, strict=True):
        assert all(data.phrases(person)[name] in words for name in names) and 1 <= len(names) <= 3
    exact = [data.render(person) for person in people]
    assert fidelity.lines(
        [one.filter(ImageFilter.GaussianBlur(1)) for one in exact]
    ) < 0.6 * fidelity.lines(exact)
    between = [Image.blend(*two, 0.5) for two in zip(exact[::2], exact[1::2], strict=True)]
    assert fidelity.off_palette(between) > 2 * fidelity.off_palette(exact)
    preset = presets.load_all()["pocket-portrait"]
    pipe = loading.load(preset).pipe
    pipe.set_progress_bar_config(disable=True)
    found = fidelity.measure(pipe, preset, 40, [1])[1]
    assert (
        found["stated"] > 0.85
        and found["interval"][0] < found["all"] <= found["interval"][1]
        and 0.8 < found["lines"] < 1.2
    )
    assert 0 < found["off_renders"] < found["off"] < 0.3


def test_a_drawing_is_found_again_by_its_labels_and_by_trying():
    pytest.importorskip("resvg_py", reason="rendering needs dicebear-core dicebear-styles resvg-py")
    from nag.pocket import second

    rng = random.Random(5)
    for _ in range(3):
        person = data.sample_person(rng)
        picture = np.asarray(data.render(person))
        noisy = np.clip(
            picture + np.random.default_rng(0).normal(0, 20, picture.shape), 0, 255
        ).astype(np.uint8)
        drawn, error = second.nearest((noisy, person.labels))
        assert np.array_equal(drawn, picture) and error > 0


def test_mixtures_have_an_answer():
    """The drawing to be seen has the larger share of what differs; only some places are mixed."""
    from nag.pocket import second

    rng, difference = random.Random(0), torch.rand(1, 16, 16)
    masks = [second.mask(difference, rng) for _ in range(200)]
    shares = [float((mask * difference).sum() / difference.sum()) for mask in masks]
    assert max(shares) <= 0.43 and 0.1 < sum(share == 0 for share in shares) / 200 < 0.4
    assert sum(float(mask.std()) > 0.05 for mask in masks) > 40
    people, pictures = second.pair(3)
    assert (
        people[0].role == people[1].role
        and people[0] != people[1]
        and pictures.shape == (2, 128, 128, 3)
    )


def test_muon_is_pytorchs_in_float32():
    from nag.pocket.muon import Muon

    torch.manual_seed(0)
    ours = [
        torch.nn.Parameter(torch.randn(shape)) for shape in ((24, 24), (24, 24), (48, 16), (16, 40))
    ]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    before = [p.detach().clone() for p in ours]
    optimisers = (
        Muon(ours, lr=0.1, weight_decay=0.01),
        torch.optim.Muon(theirs, lr=0.1, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
    )
    for _ in range(3):
        for mine, other in zip(ours, theirs, strict=True):
            mine.grad = torch.randn_like(mine)
            other.grad = mine.grad.clone()
        for optimiser in optimisers:
            optimiser.step()
    for mine, other, start in zip(ours, theirs, before, strict=True):
        moved = (mine - start).abs().max()
        assert (
            moved > 0.05 and (mine - other).abs().max() < 0.02 * moved
        )  # theirs computes in bfloat16


EYES = slice(None), slice(None), slice(56, 78), slice(63, 106)  # of pictures


def video_source(words: str, motions: tuple[str, ...]):
    """What clips of the shipped portrait's pictures teach, and a row of each motion."""
    from nag.pocket import clips, video

    source = object.__new__(video.Video)
    source.portrait, source.reader = shipped_unet().eval(), Portrait.without_data(Path("no run"))
    source.vae, source.encode = vae.load_vae(Path("no run")), source.reader.encode
    person = data.sample_person(random.Random(0), "cowboy")
    torch.manual_seed(0)
    rows = [video.Row(clips.Clip(person, m), words, words) for m in motions]
    return source, rows


def followed(source, rows, frames):
    """Where the four steps lead from noise, (B, 12, F, 16, 16), and by how much a clip was off from
    what its lesson shows on the way, (4, B)."""
    from nag.pocket import video

    torch.manual_seed(1)
    noise = torch.randn(1, 12, len(frames), 16, 16).expand(len(rows), -1, -1, -1, -1).clone()
    x, off = noise, []
    for k in range(4):
        at = torch.full((len(rows), 1, 1, 1), float(k))
        s, after = (video.noise_level(at + i)[:, None] for i in (0, 1))
        seen, shown = source.answer(noise, at, rows, frames)
        off.append((x - (1 - s) * shown - s * noise).abs().amax((1, 2, 3, 4)))
        x = x + (after - s) * (x - seen) / s
    return noise, x, torch.stack(off)


@pytest.mark.parametrize("frames", [16, 4])
def test_what_a_still_clip_teaches_leads_to_the_portraits_own_picture(frames):
    """Of the mean of its frames' noise, whatever is left of the frames' own."""
    from nag.pocket import video

    source, rows = video_source("portrait of a cowboy", ("still",))
    looks = source.reader.encode(["portrait of a cowboy"])
    noise, x, off = followed(source, rows, np.arange(frames))
    assert off.max() < 1e-4
    picture = noise.mean(2) * frames**0.5
    for k in range(4):
        t, then = (
            video.shifted(video.noise_level(torch.full((1, 1, 1, 1), k + i)), frames**-0.5)
            for i in (0.0, 1.0)
        )
        with torch.no_grad():
            picture = picture + (then - t) * source.predict(source.portrait, picture, t, looks)
    torch.testing.assert_close(x, picture[:, :, None].expand_as(x), rtol=0, atol=1e-4)
    assert picture.std() > 0.5


def test_what_a_clip_that_moves_teaches_leads_to_the_portraits_picture_in_motion(monkeypatch):
    """The same as a still clip's, moved as a picture is."""
    from contextlib import nullcontext

    from nag.pocket import clips, lids, video
    from nag.pocket.warp import warped

    monkeypatch.setattr(video, "autocast", nullcontext)
    frames = np.array([0, 4, 8, 13])
    moving = "blinking", *clips.MOVED
    source, rows = video_source("portrait of a cowboy", ("still", *moving))
    _, x, _ = followed(source, rows, frames)

    def seen(latents):
        with torch.no_grad():
            return source.vae.decode(latents.transpose(0, 1)).sample

    still = seen(x[0])
    for row, motion in enumerate(moving, start=1):
        if motion == "blinking":
            wanted = torch.cat([still[:1], lids.closed(still[:1])])[[0, 1, 0, 1]]
        else:
            wanted = warped(still[:1], motion, frames)[0]
        # a blink changes a part of these, by thin lines, which the VAE draws softer
        places, share = (EYES, 0.65) if motion == "blinking" else (..., 0.5)
        off = (seen(x[row]) - wanted).abs()[places].mean((1, 2, 3))
        gone = (still - wanted).abs()[places].mean((1, 2, 3))
        moves = gone > 0.05
        assert moves.sum() >= 2, motion
        assert (off[moves] < share * gone[moves]).all() and (off < 0.06).all(), (motion, off, gone)


def test_a_lesson_is_the_way_from_what_is_under_the_noise_to_what_is_to_be_seen(monkeypatch):
    from nag.pocket import clips, video

    source, _ = video_source("portrait of a cowboy", ())
    told, answer = [], source.answer

    def recorded(noise, at, rows, frames):
        told.append((noise, rows, *answer(noise, at, rows, frames)))
        return told[-1][2:]

    monkeypatch.setattr(source, "answer", recorded)
    motions = set()
    for step, count in enumerate((4, 16, 4, 8)):
        lesson = source.lesson(step, 32)
        noise, rows, seen, shown = told[-1]
        assert lesson.x.shape == lesson.target.shape == (32 // count, 12, count, 16, 16)
        assert len(lesson.frames) == count == len(set(lesson.frames))
        found = lesson.x - lesson.s * lesson.target
        torch.testing.assert_close(found, seen, rtol=0, atol=1e-4)
        torch.testing.assert_close(
            lesson.x, (1 - lesson.s) * shown + lesson.s * noise, rtol=0, atol=1e-5
        )
        motions |= {row.clip.motion for row in rows}
        assert torch.equal(lesson.moves, video.moving(seen))
        for row, moves in zip(rows, lesson.moves, strict=True):
            assert row.clip.motion in ("blinking", *clips.MOVED) or not moves[..., :5, :].any()
    assert {"blinking", "still"} < motions and set(clips.MOVED) & motions
    with pytest.raises(NAGRuntimeError, match="15 frames is less than a clip: train with 16"):
        source.lesson(1, 15)


def test_what_moves_counts_as_much_as_all_the_rest():
    """However little that is: of a blink a lesson says next to nothing in a mean of all places."""
    from nag.pocket import video

    seen = torch.zeros(2, 12, 4, 16, 16)
    seen[0, :, 2, 7, 9] = 1.0  # one place of one frame, which four frames are away from their mean
    moves = video.moving(seen)
    assert moves.shape == (2, 1, 4, 16, 16)
    assert moves[0].sum() == 4 and moves[0, 0, :, 7, 9].all() and not moves[1].any()

    class Silent(torch.nn.Module):
        def forward(self, x, *_, **__):
            return (torch.zeros_like(x),)

    def loss(target):
        nothing = torch.zeros_like(seen)
        words = (torch.zeros(2, 1, 1),)
        lesson = video.Lesson(nothing, torch.ones(2), words, target, np.arange(4), moves)
        return video.loss_of(Silent(), lesson)

    missed, plain = loss(seen)
    assert plain == pytest.approx(1 / (2 * 4 * 16 * 16))
    assert missed == pytest.approx(video.FACE_COUNTS * float(plain) + 1 / 4)
    elsewhere = torch.zeros_like(seen)
    elsewhere[1, :, 2, 0, 0] = 1.0
    assert loss(elsewhere)[0] == pytest.approx(float(plain))


def test_who_begins_to_smile_changes_in_the_face_alone():
    from nag.pocket import video

    frames = np.array([1, 4, 8, 12])  # two before the smile, two after
    source, rows = video_source("portrait of a cowboy", ("starting to smile",))
    _, x, _ = followed(source, rows, frames)
    torch.testing.assert_close(x[0, :, 1], x[0, :, 0], rtol=0, atol=1e-5)
    torch.testing.assert_close(x[0, :, 3], x[0, :, 2], rtol=0, atol=1e-5)
    came = (x[0, :, 2] - x[0, :, 0]).abs().amax(0)
    assert came[~video.FACE].max() < 1e-5 and came[video.FACE].max() > 0.5


@pytest.mark.parametrize("caption", ["a cowboy, angry face", "a cowboy.", ""])
def test_a_caption_takes_another_expression(caption):
    from nag.pocket import video

    person = data.sample_person(random.Random(0), "cowboy")
    person.labels["expression"] = "angry"
    told = video.expressed(caption, person, "serious")
    assert told == ("a cowboy, serious face" if caption else "serious face")
    assert video.expressed(caption, person, None) == caption


def test_a_picture_is_moved_as_the_drawing_moves():
    """Nearly: a drawing's head goes as a whole, a picture's neck bends."""
    pytest.importorskip("resvg_py", reason="rendering needs dicebear-core dicebear-styles resvg-py")
    from nag.pocket import clips
    from nag.pocket.warp import warped

    rng, frames = random.Random(3), [0, 3, 8, 15]
    for motion in clips.MOVED:
        person = data.sample_person(rng)
        whole = torch.from_numpy(np.array(data.render(person))).permute(2, 0, 1)[None].float()
        drawn = clips.render(clips.Clip(person, motion))[frames]
        drawn = torch.from_numpy(drawn).permute(0, 3, 1, 2).float()
        off = (warped(whole, motion, frames)[0] - drawn).abs().mean((1, 2, 3))
        gone = (whole - drawn).abs().mean((1, 2, 3))
        assert gone.max() > 12 and off.max() < 8, (motion, off, gone)
        assert (off[gone > 5] < 0.45 * gone[gone > 5]).all(), (motion, off, gone)
    torch.testing.assert_close(warped(whole, "nodding", [0])[0], whole, rtol=0, atol=1e-2)


def people(count: int, labels: dict[str, str]) -> list[data.Person]:
    rng, found = random.Random(4), []
    while len(found) < count:
        person = data.sample_person(rng)
        if all(person.labels[name] == value for name, value in labels.items()):
            found.append(person)
    return found


def test_eyes_close_where_they_are_seen_and_nothing_else_changes():
    """Round eyes and small ones, between frames of glasses; not behind dark glasses."""
    pytest.importorskip("resvg_py", reason="rendering needs dicebear-core dicebear-styles resvg-py")
    from nag.pocket import lids

    def closed(eyewear, expression):
        labels = {"eyewear": eyewear, "expression": expression, "mask": "none"}
        shown = [replace(one, skin=skin) for one in people(2, labels) for skin in data.SKIN]
        drawn = [data.render(one) for one in shown]
        before = torch.from_numpy(np.stack([np.asarray(one) for one in drawn]))
        before = before.permute(0, 3, 1, 2) / 127.5 - 1
        after = lids.closed(before)
        assert after.min() >= -1 and after.max() <= 1
        changed = (after - before).abs().amax(1)
        face = torch.zeros(128, 128, dtype=torch.bool)
        face[EYES[2:]] = True
        assert changed[:, ~face].max() == 0
        return before[EYES], after[EYES], changed[:, face]

    y, x = torch.meshgrid(torch.arange(128) + 0.5, torch.arange(128) + 0.5, indexing="ij")
    each = [((x - across) ** 2 + (y - down) ** 2).sqrt() for across, down in lids.EYES]
    far = (torch.stack(each).amin(0) > lids.SMALL + 0.5)[EYES[2:]]
    before, after, _ = closed("none", "surprised")
    whites = [((x > 0.9).all(1)).flatten(1).float().mean(1) for x in (before, after)]
    assert (whites[0] > 0.1).all() and (whites[1] < 0.02).all(), whites
    for worn in ("none", "glasses"):
        before, after, changed = closed(worn, "serious")
        assert (changed > 0.5).float().mean(1).min() > 0.02, worn
        dark = (before.amax(1) < -0.6) & far  # frames, hair, the face's edge
        assert dark.any() and after.amax(1)[dark].max() < -0.5, worn
    assert closed("sunglasses", "serious")[2].max() == 0


def test_a_caption_names_a_motion_wherever_its_words_would_lead_to_another():
    from nag.pocket import clips

    rng, named, unnamed = random.Random(0), 0, 0
    for _ in range(2000):
        clip = clips.sample_clip(rng)
        picture, words = clips.captions(clip, rng)
        said = [m for m in clips.MOTIONS if clips.named(m) in words]
        assert len(said) <= 1 and (not said or said == [clip.motion])
        role = clip.person.role
        usual = clips.HABITS.get(role, "still") if role in picture else "still"
        if picture and clip.motion != usual:
            assert said
        named, unnamed = named + bool(said), unnamed + (not said)
    assert named > 500 and unnamed > 500
    assert set(data.ROLES) - set(clips.HABITS) == {
        "student",
        "teacher",
        "friend",
        "neighbour",
        "artist",
    }
    assert {c.motion for c in clips.references("professor", ("eyewear", "glasses"), 20)} == {
        "nodding"
    }


def test_the_video_model_begins_as_the_portrait_on_every_frame_and_numbers_its_frames():
    from diffusers import UNet2DConditionModel

    from nag.pocket import video

    torch.manual_seed(0)
    model = video.build_unet().eval()
    portrait = UNet2DConditionModel.from_pretrained(SHIPPED / "unet", dtype=torch.float32)
    x, s, text = (
        torch.randn(2, 12, 3, 16, 16),
        torch.tensor([0.3, 0.8]).view(2, 1, 1, 1, 1),
        (torch.randn(2, 24, 192),),
    )

    def answer(*frames):
        return video.velocity(model, video.Lesson(x, s, text, x, np.array(frames), x > 0))

    with torch.no_grad():
        first = answer(1, 4, 9)
        for frame, rows in zip(x.unbind(2), first.unbind(2), strict=True):
            torch.testing.assert_close(
                rows, portrait(frame, 1000 * s.flatten(), *text).sample, rtol=0, atol=1e-4
            )
        for name, parameter in model.named_parameters():
            if "motion_modules" in name and "proj_out" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        moved = answer(1, 4, 9)
        assert (answer(2, 5, 10) - moved).abs().max() > 1e-3  # other numbers, other answers
        assert torch.equal(answer(1, 4, 9), moved)
    assert all(place.pe.shape[1] == 16 for place in video.numbered(model, [0]).places)


def test_the_video_models_levels_are_its_schedulers():
    from nag.pocket import video

    scheduler = build_scheduler(shift=4.0)
    scheduler.set_timesteps(4)
    levels = [float(video.noise_level(torch.tensor(float(k)))) for k in range(5)]
    assert levels == pytest.approx(scheduler.sigmas.tolist(), abs=5e-3)


def test_a_batch_of_clips_that_a_gpu_cannot_take_is_refused(monkeypatch):
    """Attention over time has 256 rows a clip; 65,536 are "CUDA error: invalid argument"."""
    from nag.pocket import video

    source = object.__new__(video.Video)
    monkeypatch.setattr(video, "device", lambda: torch.device("cuda"))
    with pytest.raises(NAGRuntimeError, match="train with a batch of 1020 or less"):
        source.lesson(0, 1024)

    class Asked(Exception):
        pass

    def row(self, rng):
        raise Asked

    monkeypatch.setattr(video.Video, "row", row)
    with pytest.raises(Asked):  # for a clip, and so was not refused
        source.lesson(0, source.large)


def test_training_further_begins_with_what_ships(tmp_path, monkeypatch):
    """`joint --further`: the shipped T5 reads, and no step taken is the shipped teacher. `video
    --further`: the shipped text encoder reads, and no step taken is the UNet that ships."""
    from diffusers import FluxTransformer2DModel, UNetMotionModel
    from transformers import CLIPTextModel

    from nag.pocket import joint, motion_words, video

    tok, encoder = joint.load_t5(tmp_path)
    assert not any(p.requires_grad for p in encoder.parameters())
    assert tok.tokenize("a hat") == ["\u2581a", "\u2581hat"]
    teacher, shipped = joint.shipped_teacher(), ASSETS / "pocket-joint" / "transformer"
    student = FluxTransformer2DModel.from_pretrained(shipped, dtype=torch.float32)
    assert not torch.equal(teacher.proj_out.weight, student.proj_out.weight)

    class Source:
        name, lr, muon, size = "joint", 1e-3, None, 4
        build = None

    model = train_teacher(tmp_path, 0, Source, begin=lambda: teacher)
    assert model is teacher
    tok, reader = motion_words.load_text(tmp_path)
    encoder = CLIPTextModel.from_pretrained(ASSETS / "pocket-video" / "text_encoder")
    ids = text.tokenize(tok, ["an owl, blinking"], "cpu")
    told = [one(ids).last_hidden_state.float() for one in (reader.cpu(), encoder.float())]
    torch.testing.assert_close(*told, rtol=0, atol=1e-5)
    assert not any(p.requires_grad for p in reader.parameters())
    with pytest.raises(NAGRuntimeError, match="run the stage video-text"):
        motion_words.train_habits(tmp_path, 1)
    monkeypatch.setattr(
        video,
        "Video",
        lambda run: SimpleNamespace(name="video", lr=1e-3, muon=("motion_modules", 1e-3), size=32),
    )
    rates, fit = [], video.fit

    def noted(*stage, lr, muon, **more):
        rates.append((lr, muon))
        return fit(*stage, lr=lr, muon=muon, **more)

    monkeypatch.setattr(video, "fit", noted)
    begun = video.train_video(tmp_path, 0, further=True)
    assert rates == [(5e-4, ("motion_modules", 5e-4))]
    assert all(p.requires_grad for p in begun.parameters())
    there = UNetMotionModel.from_pretrained(ASSETS / "pocket-video" / "unet", dtype=torch.float32)
    for one, other in zip(begun.parameters(), there.parameters(), strict=True):
        assert torch.equal(one, other)
    for stage in ("t5", "video-text"):
        with pytest.raises(SystemExit):
            monkeypatch.setattr("sys.argv", ["nag.pocket", stage, "--further"])
            importlib.import_module("nag.pocket.__main__").main()


def test_frames_that_are_the_same_are_found_and_put_back():
    from nag.pocket import clips

    frames = np.random.default_rng(0).integers(0, 9, (5, 2, 2, 3), np.uint8)[[3, 0, 3, 4, 0]]
    different, places = clips.distinct(frames)
    assert (
        len(different) == 3
        and places == [0, 1, 0, 2, 1]
        and np.array_equal(different[places], frames)
    )


def test_the_joint_models_latents_are_packed_as_its_pipeline_packs_them():
    from diffusers import FluxPipeline

    from nag.pocket import joint

    latents = torch.randn(2, 12, 16, 16)
    packed = FluxPipeline._pack_latents(latents, 2, 12, 16, 16)
    assert torch.equal(joint.pack(latents), packed) and torch.equal(
        joint.unpack(packed, 16, 16), latents
    )
    ids = FluxPipeline._prepare_latent_image_ids(1, 8, 8, "cpu", torch.float32)
    assert torch.equal(joint.places(), ids)


def test_words_are_single_tokens_and_nothing_is_too_long_for_the_joint_models_text(tmp_path):
    from nag.pocket import joint

    tok = joint.build_tokenizer(tmp_path)
    assert tok.tokenize("portrait of a cowboy, hat") == [
        "\u2581portrait",
        "\u2581of",
        "\u2581a",
        "\u2581cowboy",
        ",",
        "\u2581hat",
    ]
    rng = random.Random(3)
    captions = [data.caption(data.sample_person(rng), rng) for _ in range(500)]
    ids = tok(captions).input_ids
    assert max(map(len, ids)) <= 24 and not any(tok.unk_token_id in row for row in ids)


def test_all_shipped_models_together_are_small():

    assert (
        sum(
            f.stat().st_size
            for folder in ASSETS.glob("pocket-*")
            for f in folder.rglob("*")
            if f.is_file()
        )
        < 120e6
    )


@pytest.mark.parametrize("name", ["pocket-portrait", "pocket-joint", "pocket-video"])
def test_a_shipped_model_has_a_card_and_no_code(name):
    from huggingface_hub import ModelCard

    files = [f for f in (ASSETS / name).rglob("*") if f.is_file()]
    assert max(f.stat().st_size for f in files) < 12.5e6
    card = ModelCard.load(ASSETS / name / "README.md")
    assert card.data.to_dict() == {  # what a model hub shows it with, and finds it by
        "license": "mit",
        "library_name": "diffusers",
        "pipeline_tag": "text-to-video" if name == "pocket-video" else "text-to-image",
    }
    assert card.text.startswith(f"\n# {name}\n")
    assert not [f for f in files if f.suffix in (".py", ".bin", ".pt", ".pkl")]
    assert not [
        f for f in files if f.suffix == ".json" and "_name_or_path" in f.read_text()
    ]  # a path of the machine that made it


def test_the_joint_model_obeys_and_nag_takes_away_what_it_was_told_to():
    """On a few of the pictures that the README counts on many."""
    from diffusers import DiffusionPipeline

    import nag
    from nag.media.meter import Meter

    pipe = DiffusionPipeline.from_pretrained(
        ASSETS / "pocket-joint", dtype=torch.float32, local_files_only=True
    )
    pipe.set_progress_bar_config(disable=True)
    meter = Meter.load(ASSETS / "pocket-portrait" / "classifier")

    def glasses(count=12):
        images = pipe(
            ["portrait of an AI researcher"] * count,
            num_inference_steps=4,
            guidance_scale=0.0,
            height=128,
            width=128,
            max_sequence_length=24,
            generator=[torch.Generator().manual_seed(i) for i in range(count)],
        ).images
        return sum(shown["eyewear"]["glasses"] > 0.5 for shown in meter.read(images))

    with torch.inference_mode():
        assert glasses() >= 9
        with nag.guide(pipe, "glasses", scale=8.0, tau=2.5, alpha=0.75) as guidance:
            assert glasses() <= 3
        assert guidance.guided_steps == 4


def test_the_video_model_obeys_moves_and_nag_takes_away_what_it_was_told_to():
    """On a few short clips; the README counts whole ones."""
    from diffusers import DiffusionPipeline

    import nag
    from nag.media.meter import Meter

    pipe = DiffusionPipeline.from_pretrained(
        ASSETS / "pocket-video", dtype=torch.float32, local_files_only=True
    )
    pipe.set_progress_bar_config(disable=True)
    meter = Meter.load(ASSETS / "pocket-video" / "classifier")

    def clips(words, count):
        return pipe(
            [words] * count,
            num_inference_steps=4,
            guidance_scale=1.0,
            height=128,
            width=128,
            num_frames=8,
            generator=[torch.Generator().manual_seed(i) for i in range(count)],
        ).frames

    def hats():
        return sum(
            shown["head"]["hat"] > 0.5
            for frames in clips("portrait of a cowboy", 3)
            for shown in meter.read(frames[::4])
        )

    def moved(words):
        return np.mean(
            [
                np.abs(np.diff(np.stack(frames).astype(float), axis=0)).mean()
                for frames in clips(words, 4)
            ]
        )

    with torch.inference_mode():
        assert hats() >= 5
        with nag.guide(pipe, "hat", scale=5.0, tau=2.5, alpha=0.5) as guidance:
            assert hats() <= 1
        assert guidance.guided_steps == 4
        assert moved("portrait of a professor, nodding") > 1.5 * moved(
            "portrait of a professor, holding still"
        )


def test_the_videos_classifier_reads_people_who_move():
    """The portrait's sees no glasses on a face that has gone two pixels."""
    pytest.importorskip("resvg_py", reason="rendering needs dicebear-core dicebear-styles resvg-py")
    from nag.media.meter import Meter
    from nag.pocket import clips

    meter, rng = Meter.load(ASSETS / "pocket-video" / "classifier"), random.Random(4)
    for motion in clips.MOVED:
        people = [data.sample_person(rng) for _ in range(10)]
        right = []
        for person in people:
            frames = [
                Image.fromarray(f) for f in clips.render(clips.Clip(person, motion))[[3, 8, 13]]
            ]
            right += [
                max(read[name], key=read[name].get) == person.labels[name]
                for read in meter.read(frames)
                for name in ("eyewear", "facial hair", "mask", "head")
            ]
        assert np.mean(right) >= 0.9, (motion, np.mean(right))


def test_the_video_models_text_encoder_reads_a_role_as_if_its_habit_stood_behind_it():
    """What stands behind the words is nearest to that of the same words and this motion."""
    from transformers import CLIPTextModel, CLIPTokenizer

    from nag.pocket import clips

    folder = ASSETS / "pocket-video"
    tok = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32)
    for role, habit in (clips.HABITS | {"person": "still"}).items():
        words = f"portrait of {data.with_article(role)}"
        asked = [words, *(f"{words}, {clips.named(motion)}" for motion in clips.MOTIONS)]
        with torch.no_grad():
            behind = encoder(text.tokenize(tok, asked, "cpu")).last_hidden_state[:, -1]
        off = (behind[1:] - behind[0]).norm(dim=1)
        assert clips.MOTIONS[int(off.argmin())] == habit, role


def test_the_teacher_is_the_same_pipeline_with_another_transformer():
    from nag import presets
    from nag.engine import loading

    student, teacher = (
        loading.load(presets.load_all()[name]).pipe
        for name in ("pocket-joint", "pocket-joint-teacher")
    )
    for name in ("vae", "text_encoder", "text_encoder_2", "transformer"):
        mine, other = (getattr(pipe, name).state_dict() for pipe in (student, teacher))
        assert mine.keys() == other.keys()
        assert all(torch.equal(mine[key], other[key]) for key in mine) == (name != "transformer")


def test_the_moving_picture_of_the_readme_goes_from_no_guidance_to_the_full_push(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(film, "STEPS", 2)
    monkeypatch.setattr(film, "PAIRS", 1)
    film.film(tmp_path / "alpha.webp")
    with Image.open(tmp_path / "alpha.webp") as moving:
        assert (moving.n_frames, moving.info["loop"]) == (4, 0)
        frames = [np.asarray(frame.convert("RGB"), int) for frame in ImageSequence.Iterator(moving)]
    portraits = [frame[film.HEAD : film.HEAD + film.SIDE] for frame in frames]
    assert abs(portraits[0] - portraits[2]).mean() > 5  # a hat less
    assert abs(portraits[1] - portraits[3]).mean() < 5  # there and back: the same alpha
    assert (ASSETS / "alpha.webp").stat().st_size < 1e6
