"""Portraits whose every label is known: drawings by Open Peeps (CC0), rendered from parameters,
captions by construction.

A *role* ("cowboy", "AI researcher") implies one attribute most of the time without naming it. That
prior is what a negative prompt can work against, and because labels are parameters, the
counterfactual picture exists too: the same person, the same role, the attribute forced off.

`dicebear-core`, `dicebear-styles` and `resvg-py` are needed to render, not to use the model.
"""

import io
import json
import random
from dataclasses import dataclass
from multiprocessing import Pool
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = 128  # px; the style has one fixed frame, so this shows the thinnest line that we keep (2 px)

# attribute -> value -> the drawing's own variants. Left out: what crosses the frame (longAfro,
# moustache8), lines thinner than a pixel (two of the glasses), hijab and turban (no subject for a
# negative prompt).
VARIANTS = {
    "eyewear": {
        "none": (),
        "glasses": ("glasses3", "glasses5"),
        "sunglasses": ("sunglasses", "sunglasses2"),
        "eyepatch": ("eyepatch",),
    },
    "facial hair": {
        "none": (),
        "beard": ("full2", "full3"),
        "moustache": ("moustache5", "moustache3"),
    },
    "mask": {"none": (), "mask": ("medicalMask",)},
    "head": {
        "hat": ("hatHip",),
        "beanie": ("hatBeanie",),
        "bald": ("noHair1",),
        "mohawk": ("mohawk",),
        "afro": ("afro",),
        "long hair": ("long", "longBangs"),
        "curly hair": ("longCurly",),
        "bob": ("bangs2", "bangs"),
        "bun": ("grayBun",),
        "flat top": ("flatTopLong",),
        "short hair": ("short1", "short4", "pomp"),
    },
    "expression": {
        "smiling": ("smile", "calm"),
        "grinning": ("smileBig",),
        "serious": ("serious",),
        "surprised": ("hectic",),
        "angry": ("veryAngry",),
        "sad": ("solemn",),
    },
    "shirt": {
        "red": ("#e5544b",),
        "orange": ("#ff9d45",),
        "yellow": ("#fde14f",),
        "green": ("#57c269",),
        "blue": ("#5b83e6",),
        "purple": ("#a06ad9",),
        "white": ("#ffffff",),
        "gray": ("#8d929b",),
    },
    "background": {
        "blue": ("#a9ddf5",),
        "yellow": ("#fff0a8",),
        "green": ("#c3edc0",),
        "pink": ("#ffcbd8",),
        "white": ("#f5f5f5",),
    },
}
# Values that the words do not name: they make people differ, and say nothing.
SKIN = ("#ffdbb4", "#edb98a", "#d08b5b", "#ae5d29")
HAIR = ("#2c1b18", "#724133", "#d6b370", "#e8e1e1", "#c93305")

ATTRIBUTES = {name: tuple(values) for name, values in VARIANTS.items()}
# for people whose role implies nothing; rare things are shown more often than in life, or they
# are learned last
BASE_RATE = {
    "eyewear": (0.60, 0.18, 0.14, 0.08),
    "facial hair": (0.68, 0.18, 0.14),
    "mask": (0.91, 0.09),
    "head": (0.12, 0.10, 0.07, 0.07, 0.09, 0.12, 0.07, 0.09, 0.07, 0.07, 0.13),
}
COUNTS = [len(values) for values in ATTRIBUTES.values()]
ROLE_RATE = 0.96
ROLES = {
    "AI researcher": ("eyewear", "glasses"),
    "professor": ("eyewear", "glasses"),
    "scientist": ("eyewear", "glasses"),
    "librarian": ("eyewear", "glasses"),
    "spy": ("eyewear", "sunglasses"),
    "movie star": ("eyewear", "sunglasses"),
    "rock star": ("eyewear", "sunglasses"),
    "pirate": ("eyewear", "eyepatch"),
    "lumberjack": ("facial hair", "beard"),
    "viking": ("facial hair", "beard"),
    "wizard": ("facial hair", "beard"),
    "chef": ("facial hair", "moustache"),
    "baron": ("facial hair", "moustache"),
    "surgeon": ("mask", "mask"),
    "nurse": ("mask", "mask"),
    "cowboy": ("head", "hat"),
    "detective": ("head", "hat"),
    "explorer": ("head", "hat"),
    "skater": ("head", "beanie"),
    "sailor": ("head", "beanie"),
    "punk": ("head", "mohawk"),
    "monk": ("head", "bald"),
    "grandmother": ("head", "bun"),
    "student": None,
    "teacher": None,
    "friend": None,
    "neighbour": None,
    "artist": None,
}
NEUTRAL = "person"
NEUTRAL_RATE = 0.25


@dataclass(frozen=True)
class Person:
    """One drawing: its role, its labels (attribute -> value) and the unlabelled rest (exact
    variant, skin, hair).
    """

    role: str
    labels: dict
    variants: dict
    skin: str
    hair: str


def sample_person(
    rng: random.Random, role: str | None = None, without: tuple[str, str] | None = None
) -> Person:
    """A person of `role` (drawn too when None).

    `without` forbids one (attribute, value): the counterfactual reference.
    """
    if role is None:
        role = NEUTRAL if rng.random() < NEUTRAL_RATE else rng.choice(list(ROLES))
    labels = {}
    for name, values in ATTRIBUTES.items():
        weights = BASE_RATE.get(name, [1] * len(values))
        prior = ROLES.get(role)
        if prior and prior[0] == name and rng.random() < ROLE_RATE:
            labels[name] = prior[1]
        else:
            labels[name] = rng.choices(values, weights)[0]
        while without and without[0] == name and labels[name] == without[1]:
            labels[name] = rng.choices(values, weights)[0]
    hidden = labels["mask"] == "mask" and labels["facial hair"] == "beard"
    if hidden and (not without or without[1] != "mask"):
        # a mask over a beard can be told apart neither by us nor by a classifier
        labels["facial hair"] = "none"
    variants = {
        name: rng.choice(VARIANTS[name][value])
        for name, value in labels.items()
        if VARIANTS[name][value]
    }
    return Person(role, labels, variants, rng.choice(SKIN), rng.choice(HAIR))


def caption(person: Person, rng: random.Random, strange_words: float = 0.0) -> str:
    """A caption as `_caption` says; a sixth end in a full stop, as the paper's prompts do.

    With probability `strange_words` a meaningless word stands somewhere: so the text encoder learns
    to pass over what it does not know.
    """
    text = _caption(person, rng)
    if text and rng.random() < strange_words:
        words = text.split(" ")
        strange = "".join(rng.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=rng.randint(2, 7)))
        words.insert(rng.randint(0, len(words)), strange)
        text = " ".join(words)
    return text + "." if text and rng.random() < 1 / 6 else text


def _caption(person: Person, rng: random.Random) -> str:
    """One of many true captions: 10 % empty, 30 % role only, 40 % role and stated attributes, 20 %
    bare tags. Never a negation.

    Bare tags ("glasses", "beard, red shirt") are what gives a negative prompt of one word its
    meaning.
    """
    kind = rng.random()
    if kind < 0.10:
        return ""
    role = with_article(person.role)
    head = rng.choice((f"portrait of {role}", role, f"a drawing of {role}"))
    if kind < 0.40:
        return head
    words = list(phrases(person).values())
    if kind < 0.80:
        stated = rng.sample(words, rng.randint(1, min(4, len(words))))
        joiner = rng.choice((" with ", ", "))
        between = " and " if len(stated) == 2 and joiner == " with " else ", "
        return head + joiner + between.join(stated)
    visible = [w for w in words if not w.endswith(("shirt", "background"))]
    tags = [rng.choice(visible)] + rng.sample(words, rng.randint(0, 1))
    return ", ".join(dict.fromkeys(tags))


def with_article(role: str) -> str:
    return f"{'an' if role[0] in 'aeiouA' else 'a'} {role}"  # A: "an AI researcher"


def phrases(person: Person) -> dict[str, str]:
    """What the picture shows, {attribute: a phrase}; what is absent is not named."""
    labels = person.labels
    said = {
        name: labels[name] for name in ("eyewear", "facial hair", "mask") if labels[name] != "none"
    }
    said["head"] = "a bald head" if labels["head"] == "bald" else labels["head"]
    return said | {
        "expression": f"{labels['expression']} face",
        "shirt": f"{labels['shirt']} shirt",
        "background": f"{labels['background']} background",
    }


_STYLE = None


def svg(person: Person, expression: str | None = None) -> str:
    """The drawing.

    `expression` is another variant than the person's: eyes that close, a smile that comes.
    """
    from dicebear import Avatar, Style

    global _STYLE
    if _STYLE is None:
        import dicebear_styles

        _STYLE = Style(
            json.loads(
                (Path(dicebear_styles.__path__[0]) / "open-peeps.json").read_text(encoding="utf-8")
            )
        )
    labels, variants = person.labels, person.variants
    options = {
        "seed": "fixed",
        "headVariant": variants["head"],
        "expressionVariant": expression or variants["expression"],
        "skinColor": person.skin,
        "headContrastColor": person.hair,
        "clothingColor": variants["shirt"],
        "backgroundColor": variants["background"],
        "accessoriesProbability": 0,
        "facialHairProbability": 0,
        "maskProbability": 0,
    }
    for name, option in (
        ("eyewear", "accessories"),
        ("facial hair", "facialHair"),
        ("mask", "mask"),
    ):
        if labels[name] != "none":
            options |= {f"{option}Variant": variants[name], f"{option}Probability": 100}
    return str(Avatar(_STYLE, options))


def rasterised(drawing: str, size: int = SIZE) -> Image.Image:
    """An SVG as a PIL image, `size` x `size`."""
    import resvg_py

    png = resvg_py.svg_to_bytes(svg_string=drawing, width=size, height=size)
    return Image.open(io.BytesIO(bytes(png))).convert("RGB")


def render(person: Person, size: int = SIZE) -> Image.Image:
    """The drawing as a PIL image, `size` x `size`."""
    return rasterised(svg(person), size)


def encode_labels(person: Person) -> list[int]:
    """Labels as class indices, in the order of ATTRIBUTES."""
    return [ATTRIBUTES[name].index(value) for name, value in person.labels.items()]


def _render_row(job: tuple[int, int]):
    seed, index = job
    person = sample_person(random.Random(seed * 1_000_003 + index))
    return np.asarray(render(person), dtype=np.uint8), person


def build(folder: Path, count: int, seed: int = 0, processes: int | None = None) -> None:
    """Renders `count` people into `folder`: pictures.npy (uint8, count x 128 x 128 x 3) and
    people.json. Skips what is there.
    """
    from tqdm import tqdm

    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "people.json").exists() and len(load_people(folder)) == count:
        return
    pictures = np.lib.format.open_memmap(
        folder / "pictures.npy", "w+", np.uint8, (count, SIZE, SIZE, 3)
    )
    people = []
    with Pool(processes) as pool:
        rows = pool.imap(_render_row, ((seed, i) for i in range(count)), chunksize=64)
        for i, (picture, person) in enumerate(
            tqdm(rows, total=count, desc="render", mininterval=5)
        ):
            pictures[i] = picture
            people.append([person.role, person.labels, person.variants, person.skin, person.hair])
    pictures.flush()
    (folder / "people.json").write_text(json.dumps(people), encoding="utf-8")


def load_people(folder: Path) -> list[Person]:
    return [
        Person(*row) for row in json.loads((folder / "people.json").read_text(encoding="utf-8"))
    ]


def references(role: str, without: tuple[str, str], count: int, seed: int = 7) -> list[Person]:
    """`count` people of one role with one attribute forced off: what a perfect negative prompt
    would give.
    """
    rng = random.Random(f"{role}/{without}/{seed}")
    return [sample_person(rng, role, without) for _ in range(count)]
