"""Portraits whose every label is known: drawings by Open Peeps (CC0), rendered from parameters,
captions by construction.

Who is drawn is in `people.py`; its names stand here too, for those who ask for data of a kind.

`dicebear-core`, `dicebear-styles` and `resvg-py` are needed to render, not to use the model.
"""

import io
import json
import random
from multiprocessing import Pool
from pathlib import Path

import numpy as np
from PIL import Image

from .people import (  # noqa: F401  stages and readers ask this module for all of them
    ATTRIBUTES,
    COUNTS,
    HAIR,
    HEADGEAR,
    NEUTRAL,
    PLAIN,
    ROLES,
    SKIN,
    VARIANTS,
    Person,
    encode_labels,
    is_worn,
    references,
    sample_person,
)

CHUNK = 50  # people that a process draws at a time
SIZE = 128  # px; the style has one fixed frame, so this shows the thinnest line that we keep (2 px)


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

    `expression` is another variant than the person's: a smile that comes.
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
    save_people(folder, people)
    np.lib.format.open_memmap(part, "w+", np.uint8, (count, SIZE, SIZE, 3)).flush()
    jobs = [(part, people[first : first + CHUNK], first) for first in range(0, count, CHUNK)]
    with Pool(processes) as pool, tqdm(total=count, desc="render", mininterval=5) as bar:
        for drawn in pool.imap_unordered(_render_rows, jobs):
            bar.update(drawn)
    part.replace(done)


def save_people(folder: Path, people: list[Person]) -> None:
    rows = [[p.role, p.labels, p.variants, p.skin, p.hair] for p in people]
    (folder / "people.part").write_text(json.dumps(rows), encoding="utf-8")
    (folder / "people.part").replace(folder / "people.json")


def load_people(folder: Path) -> list[Person]:
    return [
        Person(*row) for row in json.loads((folder / "people.json").read_text(encoding="utf-8"))
    ]
