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

CHUNK = 50  # people that a process draws at a time
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

    All that is worn and that the role does not imply is said, whatever the kind, but for the empty
    one. Bare tags ("glasses", "beard, red shirt") are what gives a negative prompt of one word its
    meaning.
    """
    kind = rng.random()
    if kind < 0.10:
        return ""
    said, prior = phrases(person), ROLES.get(person.role)
    worn = [name for name in said if is_worn(name, person.labels[name])]
    if kind < 0.80:
        role = with_article(person.role)
        head = rng.choice((f"portrait of {role}", role, f"a drawing of {role}"))
        names = [name for name in worn if (name, person.labels[name]) != prior]
        free = [name for name in said if name not in names]
        words = [said[name] for name in names]
        if kind >= 0.40:
            plain = plain_words(person, rng, 0.3) if len(words) < 3 else []
            room = max(1, 4 - len(words) - 2 * len(plain))  # 24 tokens
            words += [said[name] for name in rng.sample(free, rng.randint(1, room))] + plain
        rng.shuffle(words)
        adjectives = any(word in PLAIN.values() and " " not in word for word in words)
        joiner = ", " if adjectives else rng.choice((" with ", ", "))
        between = " and " if len(words) == 2 and joiner == " with " else ", "
        return head + (joiner + between.join(words) if words else "")
    tags = [said[name] for name in worn]
    if not tags:
        visible = [said["head"], said["expression"]]
        tags = plain_words(person, rng, 0.5) or [rng.choice(visible)]
    if rng.random() < 0.5:
        tags.append(said[rng.choice([name for name in said if name not in worn])])
    rng.shuffle(tags)
    return ", ".join(dict.fromkeys(tags))


def plain_words(person: Person, rng: random.Random, rate: float) -> list[str]:
    """At `rate` a word for something that is not worn, else nothing; often for what the role would
    imply."""
    bare = [name for name in PLAIN if not is_worn(name, person.labels[name])]
    if not bare or rng.random() >= rate:
        return []
    prior = ROLES.get(person.role)
    if prior and prior[0] in bare and rng.random() < 0.5:
        bare = [prior[0]]
    return [PLAIN[rng.choice(bare)]]


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


def _render_rows(job: tuple[Path, list[Person], int]) -> int:
    """Draws these people into the rows of a file from `first` on."""
    path, people, first = job
    pictures = np.lib.format.open_memmap(path, "r+")
    for row, person in enumerate(people, first):
        pictures[row] = np.asarray(render(person), dtype=np.uint8)
    return len(people)


def build(folder: Path, count: int, seed: int = 0, processes: int | None = None) -> None:
    """Renders `count` people into `folder`: people.json, written first, since a text encoder needs
    nothing else, and pictures.npy (uint8, count x 128 x 128 x 3). Skips what is there.
    """
    from tqdm import tqdm

    folder.mkdir(parents=True, exist_ok=True)
    done, part = folder / "pictures.npy", folder / "pictures.part.npy"
    if done.exists() and len(load_people(folder)) == count:
        return
    people = [sample_person(random.Random(seed * 1_000_003 + i)) for i in range(count)]
    rows = [[p.role, p.labels, p.variants, p.skin, p.hair] for p in people]
    (folder / "people.part").write_text(json.dumps(rows), encoding="utf-8")
    (folder / "people.part").replace(folder / "people.json")
    np.lib.format.open_memmap(part, "w+", np.uint8, (count, SIZE, SIZE, 3)).flush()
    jobs = [(part, people[first : first + CHUNK], first) for first in range(0, count, CHUNK)]
    with Pool(processes) as pool, tqdm(total=count, desc="render", mininterval=5) as bar:
        for drawn in pool.imap_unordered(_render_rows, jobs):
            bar.update(drawn)
    part.replace(done)


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
