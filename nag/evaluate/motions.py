"""Reads what moves in clips of pocket-video, and counts whether they do what they are told.

    python -m nag.evaluate.motions [--count 64] [--tuning]

asked     share of clips that make the motion that their caption names, without guidance: people and
          seeds of their own, every motion equally often, holding still among them
implied   share of clips that make the motion that their role implies and the negative prompt names:
          without guidance, under CFG and under NAG, at the preset's settings. Low is right under
          guidance

with 95 % Wilson intervals; then, of every motion that was asked for, what was read. `evaluate`
reads motions too, of videos (*moves*).
"""

from __future__ import annotations

import argparse
import functools
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ..media import video
from ..pocket import clips, data

if TYPE_CHECKING:
    from ..engine.loading import Loaded
    from ..request import Request

SIZE, CELLS = 64, 8  # a frame is read at SIZE px, in CELLS x CELLS parts
LEARNED, RIDGE = 300, 10.0
SEED, BATCH = 80_000, 4
# roles to tune on, and to report on
TUNED = "baron", "viking", "nurse"
REPORTED = "drummer", "judge", "puppy", "professor", "spy", "cowboy"


def features(frames: Sequence[Image.Image | np.ndarray]) -> np.ndarray:
    """F frames of any size -> (3 * F * CELLS * CELLS,): of every part of every frame how far it has
    gone since the first, across and down, by the least squares of Lucas and Kanade without their
    mixed term, and how much it differs.
    """
    small = [
        np.asarray(
            Image.fromarray(np.asarray(frame))
            .convert("L")
            .resize((SIZE, SIZE), Image.Resampling.BOX)
        )
        for frame in frames
    ]
    grey = np.stack(small).astype(np.float32) / 255
    changed = grey - grey[:1]
    down, across = np.gradient((grey + grey[:1]) / 2, axis=(1, 2))

    def parts(x):
        side = SIZE // CELLS
        return x.reshape(len(x), CELLS, side, CELLS, side).mean((2, 4))

    texture = parts(across**2 + down**2) + 1e-3
    gone = parts(across * changed) / texture, parts(down * changed) / texture
    return np.concatenate([*(one.ravel() for one in gone), 3 * np.sqrt(parts(changed**2)).ravel()])


class Reader:
    """A linear reader of `clips.MOTIONS`, learned in closed form (ridge regression)."""

    def __init__(self, seen: np.ndarray, motions: Sequence[str]) -> None:
        """seen: (clips, features)"""
        self.middle = seen.mean(0)
        seen = seen - self.middle
        truth = np.array([[one == motion for motion in clips.MOTIONS] for one in motions])
        near = seen @ seen.T + RIDGE * np.eye(len(seen))
        self.weights = seen.T @ np.linalg.solve(near, truth - 1 / len(clips.MOTIONS))

    @classmethod
    def of_renders(cls, count: int = LEARNED) -> Reader:
        drawn = sampled(count, seed=1)
        return cls(np.stack([features(clips.render(one)) for one in drawn]), motions_of(drawn))

    def read(self, videos: Iterable[Sequence]) -> list[str]:
        """The motion of each; they must have as many frames as what it was learned from.

        Raises ValueError where they have not.
        """
        seen = np.stack([features(frames) for frames in videos])
        return [clips.MOTIONS[i] for i in ((seen - self.middle) @ self.weights).argmax(1)]


def sampled(count: int, seed: int) -> list[clips.Clip]:
    """Clips that make every motion equally often."""
    rng = random.Random(f"motions/{seed}")
    people = [data.sample_person(rng) for _ in range(count)]
    return [
        clips.Clip(person, clips.MOTIONS[i % len(clips.MOTIONS)]) for i, person in enumerate(people)
    ]


def motions_of(drawn: list[clips.Clip]) -> list[str]:
    return [one.motion for one in drawn]


def implied(prompt: str) -> str:
    """What the words lead to: the role's motion where they name no other."""
    for motion in clips.MOTIONS:
        if clips.named(motion) in prompt:
            return motion
    # the longest first, so that a role in another's name is not taken for it
    roles = (role for role in sorted(clips.HABITS, key=len, reverse=True) if role in prompt)
    return clips.HABITS.get(next(roles, ""), "still")


def numbers(paths: list[Path], prompts: list[str]) -> dict:
    """Of files of `evaluate`, the share that makes the motion that its words lead to, and its
    interval. Nothing where the videos have not the frames that the reader learned."""
    from ..explore.counting import wilson
    from .draw import read

    videos = [read(path)[0] for path in paths]
    if any(len(frames) != clips.FRAMES for frames in videos):
        return {}
    found = of_renders().read(videos)
    hits = sum(motion == implied(words) for motion, words in zip(found, prompts, strict=True))
    return {"moves": hits / len(paths), "moves_interval": wilson(hits, len(paths))}


@functools.cache
def of_renders() -> Reader:
    """`Reader.of_renders`, once in a process: it takes half a minute."""
    return Reader.of_renders()


def asked(count: int) -> tuple[list[str], list[str]]:
    """Captions that name a motion, or that somebody holds still, and what they name."""
    rng, drawn = random.Random(99_991), sampled(count, seed=2)
    captions = [
        f"portrait of {data.with_article(one.person.role)}, {clips.named(one.motion)}"
        for one in drawn
    ]
    rng.shuffle(together := list(zip(captions, motions_of(drawn), strict=True)))
    return tuple(map(list, zip(*together, strict=True)))


def of_roles(count: int, tuning: bool) -> tuple[list[str], list[str]]:
    """Prompts that name a role alone, and the motion that it implies."""
    roles = (TUNED if tuning else REPORTED) * count
    prompts = [f"portrait of {data.with_article(role)}" for role in roles[:count]]
    return prompts, [clips.HABITS[role] for role in roles[:count]]


def drawn(
    loaded: Loaded, request: Request, kind: str, prompts: list[str], negatives: list[str], seed: int
) -> list[list[np.ndarray]]:
    """Frames of one clip of each prompt, by the settings of `request`."""
    from ..engine.call import Row, call_pipeline

    rows = [
        Row(kind, prompt, negative, seed + i)
        for i, (prompt, negative) in enumerate(zip(prompts, negatives, strict=True))
    ]
    videos = []
    for start in range(0, len(rows), BATCH):
        some = call_pipeline(loaded, request, rows[start : start + BATCH])
        videos += [list(map(np.asarray, video.pictures(one))) for one in some.pixels]
    return videos


def confusion(found: list[str], wanted: list[str]) -> dict[str, str]:
    """Of every motion that was wanted what was read, as in "nodding 5, still 1"."""
    told = {}
    for motion in clips.MOTIONS:
        pairs = zip(found, wanted, strict=True)
        read = Counter(one for one, other in pairs if other == motion)
        if read:
            told[motion] = ", ".join(f"{one} {count}" for one, count in read.most_common())
    return told


def main(words: list[str] | None = None) -> None:
    from .. import presets
    from ..engine import loading
    from ..explore.counting import wilson
    from . import references

    parser = argparse.ArgumentParser(
        prog="python -m nag.evaluate.motions",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--count", type=int, default=64, help="clips of each row")
    parser.add_argument("--tuning", action="store_true", help="roles and seeds to tune settings on")
    options = parser.parse_args(words)
    references.check(frechet=False, motions=True)
    preset, request = presets.resolve({"preset": "pocket-video"})
    loaded, reader, shares = loading.load(preset), of_renders(), {}
    loaded.pipe.set_progress_bar_config(disable=True)

    def count(title, videos, motions):
        found = reader.read(videos)
        shares[title] = [one == motion for one, motion in zip(found, motions, strict=True)]
        return found

    known = sampled(128, seed=3)
    count("renders, read rightly", map(clips.render, known), motions_of(known))
    seed = SEED + 10_000 * options.tuning
    prompts, motions = asked(options.count)
    videos = drawn(loaded, request, "none", prompts, prompts, seed)
    told = confusion(count("asked, no guidance", videos, motions), motions)
    prompts, motions = of_roles(options.count, options.tuning)
    for kind, title in (("none", "no guidance"), ("cfg", "CFG"), ("nag", "NAG")):
        videos = drawn(loaded, request, kind, prompts, motions, seed)
        count(f"implied and not wanted, {title}", videos, motions)
    print("| | share (95 %) | clips |\n|---|---|---|")
    for title, hits in shares.items():
        low, high = wilson(sum(hits), len(hits))
        share = sum(hits) / len(hits)
        print(f"| {title} | {share:.2f} ({low:.2f}-{high:.2f}) | {len(hits)} |", flush=True)
    print("\n| asked | read |\n|---|---|")
    for motion, read in told.items():
        print(f"| {motion} | {read} |", flush=True)


if __name__ == "__main__":
    main()
