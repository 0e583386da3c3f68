"""Who is drawn: roles, what they imply, and people whose every label is known.

A *role* ("cowboy", "AI researcher") implies one attribute most of the time without naming it. That
prior is what a negative prompt can work against, and because labels are parameters, the
counterfactual picture exists too: the same person, the same role, the attribute forced off.
"""

import random
from dataclasses import dataclass

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
# How often people wear what their role does not imply. Captions say all of it: what is neither said
# nor implied is not there, so that a model's unmarked state is plain. Rare things are shown more
# often than in life, or they are learned last.
BASE_RATE = {
    "eyewear": (0.72, 0.12, 0.10, 0.06),
    "facial hair": (0.74, 0.14, 0.12),
    "mask": (0.93, 0.07),
    "head": (0.10, 0.09, 0.07, 0.07, 0.09, 0.12, 0.07, 0.09, 0.07, 0.07, 0.13),
}
HEADGEAR = ("hat", "beanie")  # the values of "head" that are worn; the others are hair
# words for what is not there, which say it without a negation
PLAIN = {
    "eyewear": "bare eyes",
    "facial hair": "clean-shaven",
    "mask": "bare mouth",
    "head": "bare-headed",
}
COUNTS = [len(values) for values in ATTRIBUTES.values()]
# of what a role implies. The rest is what a negative prompt can lead to: nearly always plain
ROLE_RATE, OTHER_RATE = 0.86, 0.03
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


def is_worn(attribute: str, value: str) -> bool:
    """Whether this is something on a face or head, and not the face, its expression or a colour."""
    if attribute == "head":
        return value in HEADGEAR
    return attribute in PLAIN and value != "none"


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
    labels, prior = {}, ROLES.get(role)
    for name, values in ATTRIBUTES.items():
        weights = list(BASE_RATE.get(name, [1] * len(values)))
        if prior and prior[0] == name:
            kind = rng.random()
            if kind < ROLE_RATE:
                weights = [float(value == prior[1]) for value in values]
            elif kind < 1 - OTHER_RATE:
                weights = [w * (not is_worn(name, v)) for w, v in zip(weights, values, strict=True)]
        if without and without[0] == name:
            weights = [w * (v != without[1]) for w, v in zip(weights, values, strict=True)]
            if not any(weights):  # what the role implies is what is forbidden: plain in its place
                weights = [float(not is_worn(name, v) and v != without[1]) for v in values]
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


def encode_labels(person: Person) -> list[int]:
    """Labels as class indices, in the order of ATTRIBUTES."""
    return [ATTRIBUTES[name].index(value) for name, value in person.labels.items()]


def references(role: str, without: tuple[str, str], count: int, seed: int = 7) -> list[Person]:
    """`count` people of one role with one attribute forced off: what a perfect negative prompt
    would give.
    """
    rng = random.Random(f"{role}/{without}/{seed}")
    return [sample_person(rng, role, without) for _ in range(count)]
