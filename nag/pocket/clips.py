"""Short videos of the portraits in `nag.pocket.data`: one motion each, named by the caption or
implied by the role.

The drawing's head is a group of its own, so it can be moved; smiles come by another variant of the
expression, and closed eyes are painted (`lids`).
"""

import functools
import math
import random
import re
from dataclasses import dataclass

import numpy as np

from . import data

FRAMES = 16
SMILES = 0.45  # when in a clip a smile comes
SIDE = 704  # of a drawing, in its units
NECK = 330, 470  # in these: what a head turns around

MOTIONS = (
    "still",
    "nodding",
    "shaking the head",
    "tilting the head",
    "blinking",
    "starting to smile",
    "zooming in",
    "panning",
)
# by which the drawing is only moved, and not drawn anew
MOVED = ("nodding", "shaking the head", "tilting the head", "zooming in", "panning")
# What a role does when nobody says what to do. Who is not here holds still; the last five are of
# videos alone.
HABITS = {
    "AI researcher": "nodding",
    "professor": "nodding",
    "scientist": "tilting the head",
    "librarian": "shaking the head",
    "spy": "shaking the head",
    "movie star": "starting to smile",
    "rock star": "nodding",
    "pirate": "shaking the head",
    "lumberjack": "nodding",
    "viking": "shaking the head",
    "wizard": "tilting the head",
    "chef": "tilting the head",
    "baron": "nodding",
    "surgeon": "blinking",
    "nurse": "tilting the head",
    "cowboy": "tilting the head",
    "detective": "shaking the head",
    "explorer": "nodding",
    "skater": "nodding",
    "sailor": "tilting the head",
    "punk": "nodding",
    "monk": "blinking",
    "grandmother": "starting to smile",
    "drummer": "nodding",
    "judge": "shaking the head",
    "puppy": "tilting the head",
    "owl": "blinking",
    "comedian": "starting to smile",
}
ROLES = tuple(role for role in HABITS if role not in data.ROLES)  # that pictures do not know
LONG = 8  # words, behind which a motion may be cut off
ASKED = 0.5  # of the clips do what their captions ask for, whatever the role would do
ATTRIBUTES = data.ATTRIBUTES | {"motion": MOTIONS}


@dataclass(frozen=True)
class Clip:
    """A person who moves."""

    person: data.Person
    motion: str


def sample_clip(
    rng: random.Random,
    role: str | None = None,
    without: tuple[str, str] | None = None,
    asked: float = ASKED,
) -> Clip:
    """As `data.sample_person`; a fifth are of the roles that only videos know.

    asked: how many have a motion drawn by chance, and not their role's.
    """
    if role is None and rng.random() < 0.2:
        role = rng.choice(ROLES)
    person = data.sample_person(rng, role, without)
    motion = rng.choice(MOTIONS) if rng.random() < asked else HABITS.get(person.role, "still")
    while without and without[0] == "motion" and motion == without[1]:
        motion = rng.choice(MOTIONS)
    return Clip(person, motion)


def caption(clip: Clip, rng: random.Random, strange_words: float = 0.0) -> str:
    """As `data.caption`, and what moves."""
    return captions(clip, rng, strange_words)[1]


def captions(clip: Clip, rng: random.Random, strange_words: float = 0.0) -> tuple[str, str]:
    """A caption of the picture, and the same of the clip.

    A motion is named wherever the words before it would lead to another one. Of an empty caption
    some name the motion alone, others nothing.
    """
    text = data.caption(clip.person, rng, strange_words)
    if not text:
        return text, named(clip.motion) if rng.random() < 0.6 else ""
    role = clip.person.role
    has_role = role in text
    if clip.motion == (HABITS.get(role, "still") if has_role else "still") and rng.random() < 0.7:
        return text, text
    if has_role and (len(text.split()) > LONG or rng.random() < 0.4):
        return text, text.replace(role, f"{role} {named(clip.motion)}", 1)
    return text, f"{text.rstrip('.')}, {named(clip.motion)}"


def named(motion: str) -> str:
    """The words for it."""
    return "holding still" if motion == "still" else motion


def encode_labels(clip: Clip) -> list[int]:
    return [*data.encode_labels(clip.person), MOTIONS.index(clip.motion)]


def drawings(clip: Clip) -> list[str]:
    """FRAMES drawings, with open eyes. Many are the same string, and need to be rasterised once
    only."""
    base = functools.cache(lambda expression: data.svg(clip.person, expression))
    return [_posed(base, clip.motion, frame / FRAMES) for frame in range(FRAMES)]


def _posed(base, motion: str, t: float) -> str:
    if motion == "starting to smile":
        return base("serious" if t < SMILES else "smileBig")
    head, frame = pose(motion, t)
    return _framed(_head_moved(base(None), *head), *frame)


def eyes_closed(t: float) -> bool:
    """Whether who blinks has closed eyes at the time t of 0 to 1."""
    return 0.2 <= t <= 0.35 or 0.7 <= t <= 0.85


def pose(motion: str, t: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """How the head stands, and what is in the picture, of one of MOVED at the time t of 0 to 1.

    The head has gone across and down, in the drawing's units, after it has turned around NECK, in
    degrees. The picture has a left and an upper edge and a side.
    """
    swing, head, frame = math.sin(2 * math.pi * 1.5 * t), (0.0, 0.0, 0.0), (0.0, 0.0, float(SIDE))
    match motion:
        case "nodding":
            head = 0.0, 22 * swing, 4 * swing
        case "shaking the head":
            head = 26 * swing, 0.0, 0.0
        case "tilting the head":
            head = 0.0, 0.0, 12 * swing
        case "zooming in":
            frame = 72 * t, 48 * t, SIDE - 144 * t
        case "panning":
            frame = 112 * t, 40.0, 592.0
    return head, frame


def _head_moved(drawing: str, across: float, down: float, degrees: float) -> str:
    """All that stands in the drawing as a part (head, face, what is worn) is the head's."""
    first, end = drawing.index("<use "), drawing.rindex("</g></svg>")
    turn = f"rotate({degrees:.1f} {NECK[0]} {NECK[1]})"
    moved = f'<g transform="translate({across:.1f} {down:.1f}) {turn}">{drawing[first:end]}</g>'
    return drawing[:first] + moved + drawing[end:]


def _framed(drawing: str, x: float, y: float, side: float) -> str:
    return re.sub(
        r'viewBox="[^"]*"', f'viewBox="{x:.1f} {y:.1f} {side:.1f} {side:.1f}"', drawing, count=1
    )


def render(clip: Clip, size: int = data.SIZE) -> np.ndarray:
    """uint8 (FRAMES, size, size, 3)"""
    raster = functools.cache(
        lambda drawing: np.asarray(data.rasterised(drawing, size), dtype=np.uint8)
    )
    frames = np.stack([raster(drawing) for drawing in drawings(clip)])
    return blinking(frames) if clip.motion == "blinking" else frames


def blinking(frames: np.ndarray) -> np.ndarray:
    """A still clip, uint8 (FRAMES, H, W, 3), whose eyes are closed now and then."""
    import torch

    from . import lids

    still = torch.from_numpy(frames[:1].copy()).permute(0, 3, 1, 2) / 127.5 - 1
    shut = ((lids.closed(still) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    closed = [eyes_closed(frame / FRAMES) for frame in range(FRAMES)]
    return np.where(np.array(closed)[:, None, None, None], shut, frames)


def distinct(frames: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """uint8 (N, height, width, 3) -> the frames that differ, (M, height, width, 3), and for each of
    the N its place among them.
    """
    first, places = {}, []
    for i, frame in enumerate(frames):
        places.append(first.setdefault(frame.tobytes(), (len(first), i))[0])
    return frames[[i for _, i in first.values()]], places


def references(role: str, without: tuple[str, str], count: int, seed: int = 7) -> list[Clip]:
    """As `data.references`: clips of one role with one attribute forced off."""
    rng = random.Random(f"{role}/{without}/{seed}")
    return [sample_clip(rng, role, without, asked=0) for _ in range(count)]
