"""Measures pictures of the pocket models, whose every label is known, by their own classifier.

attribute_rate   share of pictures that show what the negative prompt names, with its 95 % Wilson
                 interval
clean            share in which it is gone and nothing stands in its place: bare eyes, a bare chin,
                 a head without headgear; with its Wilson interval
replaced         share in which something else stands there: an eyepatch for glasses
added            share that wears something, elsewhere, that the un-guided picture of the same seed
                 does not
keep             share of the other attributes that are as in the un-guided picture of the same seed
likeness         the same, counting the colours of skin and hair too
frechet          Frechet distance, in 32 principal components of the classifier's features, to
                 renders of the same roles *without* the attribute. Each case is compared with its
                 own references, and the mean of the cases is taken, with its 95 % bootstrap
                 interval. Compare equal counts only: true renders in this number are the floor
frechet_pooled   the same of all cases together: what a hat on a cowboy costs is hidden there by the
                 hats of the other references
clipped          share of colour values at 0 or 255: a burnt picture has more than the un-guided one
control          keep, likeness and added under negative prompts that have nothing to do: a word for
                 what is not there, and an empty one

The chance level of keep and likeness is that of two un-guided pictures of the same words and
different seeds. Of a video, features and readings are means over its frames.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..explore.counting import wilson
from ..media import meter
from ..media.outcome import HEADGEAR, PLAIN
from . import colours, draw
from .cases import CASES, CONTROLS
from .plan import Picture
from .references import References, look
from .statistics import Frechet, around, of_mean

WORN = "eyewear", "facial hair", "mask", "head"


@dataclass
class Seen:
    """What is read from the pictures of one column.

    labels: (n, attributes) class indices; colours: (n, 2) of skin and hair; features: (n, 256);
    clipped: mean share of colour values at either end.
    """

    labels: torch.Tensor
    colours: torch.Tensor
    features: torch.Tensor
    clipped: float


def see(reader: meter.Meter, paths: list[Path]) -> Seen:
    """Reads files in the order given."""
    labels, features, found, ends = [], [], [], []
    for start in range(0, len(paths), 64):
        pictures = [draw.read(path)[0] for path in paths[start : start + 64]]
        some, near = look(reader, pictures)
        labels.append(some)
        features.append(near)
        found += [colours.skin_and_hair(frames) for frames in pictures]
        ends += [
            np.isin(np.stack([*map(np.asarray, frames)]), (0, 255)).mean() for frames in pictures
        ]
    return Seen(torch.cat(labels), torch.tensor(found), torch.cat(features), float(np.mean(ends)))


class Asked:
    """What was asked of each picture, in the classifier's numbers.

    slot: (n,) the attribute that the negative names; value: (n,) which value of it; others:
    (n, attributes + 2) what may be compared with the un-guided picture, skin and hair last.
    """

    def __init__(self, pictures: list[Picture], attributes: dict[str, tuple[str, ...]]) -> None:
        names = list(attributes)
        self.pictures, self.attributes = pictures, attributes
        self.slot = torch.tensor([names.index(CASES[p.case][0]) for p in pictures])
        values = [attributes[CASES[p.case][0]].index(CASES[p.case][1]) for p in pictures]
        self.value = torch.tensor(values)
        # (attributes, most values): whether a value is nothing worn
        most = max(map(len, attributes.values()))
        self.plain = torch.ones(len(names), most, dtype=torch.bool)
        for row, values in enumerate(attributes.values()):
            for column, value in enumerate(values):
                self.plain[row, column] = (
                    value == PLAIN if PLAIN in values else value not in HEADGEAR
                )
        self.worn = torch.tensor([name in WORN for name in names])
        named = torch.arange(len(names)) == self.slot[:, None]
        bared = self.slot == names.index("head")  # hair that a hat hid may have any colour
        skin, hair = torch.ones(len(pictures), dtype=torch.bool), ~bared
        if pictures and pictures[0].control:
            named, hair = torch.zeros_like(named), torch.ones_like(bared)
        self.others = torch.cat([~named, skin[:, None], hair[:, None]], 1)

    def outcomes(self, seen: Seen, plain: Seen | None) -> dict[str, torch.Tensor]:
        """(n,) each: shown, clean, replaced, and beside the un-guided column added, keep, likeness.

        Yes or no, but for keep and likeness, which are shares.
        """
        there = seen.labels.gather(1, self.slot[:, None])[:, 0]  # (n,) what stands in the slot
        shown, bare = there == self.value, self.plain[self.slot, there]
        found = {"shown": shown, "clean": bare, "replaced": ~shown & ~bare}
        if plain is None:
            return found
        worn = [self.plain.gather(1, one.labels.T).T.logical_not() for one in (seen, plain)]
        elsewhere = self.others[:, :-2] & self.worn
        same = torch.cat([seen.labels == plain.labels, seen.colours == plain.colours], 1)
        labels = self.others[:, :-2]
        return found | {
            "added": (worn[0] & ~worn[1] & elsewhere).any(1),
            "keep": (same[:, :-2] & labels).sum(1) / labels.sum(1),
            "likeness": (same & self.others).sum(1) / self.others.sum(1),
        }

    def idle(self, plain: Seen) -> torch.Tensor:
        """(n,) of a control: whether its negative names nothing that is there un-guided."""
        names, idle = list(self.attributes), []
        for picture, labels in zip(self.pictures, plain.labels.tolist(), strict=True):
            named = [CASES[case][:2] for case in CASES if CASES[case][1] == picture.negative]
            there = [self.attributes[a][labels[names.index(a)]] == value for a, value in named]
            idle.append(not any(there))
        return torch.tensor(idle)


def chance(asked: Asked, plain: Seen) -> dict[str, float]:
    """keep and likeness between un-guided pictures of the same words and different seeds."""
    found = {"keep": [], "likeness": []}
    prompts = [picture.prompt for picture in asked.pictures]
    for turn in range(1, len(prompts)):
        rows = [(i - turn) % len(prompts) for i in range(len(prompts))]
        other = Seen(plain.labels[rows], plain.colours[rows], plain.features, 0.0)
        here = torch.tensor([prompts[i] == prompts[row] for i, row in enumerate(rows)])
        measured = asked.outcomes(other, plain)
        for name, values in found.items():
            values.append(measured[name][here])
    means = {name: torch.cat(values) for name, values in found.items() if values}
    return {name: float(values.mean()) for name, values in means.items() if len(values)}


class Yardstick:
    """Measures the columns of one evaluation."""

    def __init__(self, references: References, pictures: list[Picture], metrics: list[str]) -> None:
        self.references, self.metrics = references, metrics
        self.reader = references.reader
        self.pictures = [picture for picture in pictures if not picture.control]
        self.asked = Asked(self.pictures, self.reader.attributes)
        self.rows_of = {
            case: [i for i, picture in enumerate(self.pictures) if picture.case == case]
            for case in references.cases
        }
        self.seen: dict[str, Seen] = {}

    def measure(self, columns: dict[str, list[Path]], plain: dict[str, str]) -> dict[str, dict]:
        """{column: its numbers}.

        columns: every column's files, in the order of the pictures. plain: the un-guided column of
        each, where there is one.
        """
        self.seen = {key: see(self.reader, paths) for key, paths in columns.items()}
        numbers = {}
        for key, seen in self.seen.items():
            found = self.outcomes(key, plain.get(key))
            numbers[key] = self._shares(found, range(len(self.pictures)))
            cases = {case: self._shares(found, rows) for case, rows in self.rows_of.items()}
            if "frechet" in self.metrics:
                numbers[key] |= self._distances(seen.features, cases)
            if "clipped" in self.metrics:
                numbers[key]["clipped"] = seen.clipped
            numbers[key]["cases"] = cases
        return numbers

    def outcomes(self, key: str, plain: str | None) -> dict[str, torch.Tensor]:
        return self.asked.outcomes(self.seen[key], self.seen[plain] if plain else None)

    def _shares(self, found: dict[str, torch.Tensor], rows) -> dict:
        rows, numbers = list(rows), {"count": len(rows)}
        if "attribute" in self.metrics:
            for name, of in (("attribute", "shown"), ("clean", "clean")):
                hits = int(found[of][rows].sum())
                rate = "attribute_rate" if name == "attribute" else name
                numbers[rate] = hits / len(rows)
                numbers[f"{name}_interval"] = wilson(hits, len(rows))
            numbers["replaced"] = float(found["replaced"][rows].float().mean())
        if "keep" in self.metrics and "keep" in found:
            for name in ("added", "keep", "likeness"):
                numbers[name] = float(found[name][rows].float().mean())
                if name != "added":
                    low, high = of_mean(found[name][rows])
                    numbers[f"{name}_interval"] = max(0.0, low), min(1.0, high)
        return numbers

    def controls(
        self, pictures: list[Picture], columns: dict[str, list[Path]], plain: dict[str, list[Path]]
    ) -> dict[str, dict]:
        """{column: {kind of control: its numbers}} of guided columns' files of `pictures`.

        Pictures that show what the negative names without guidance are left out.
        """
        numbers = {key: {} for key in columns}
        for kind in CONTROLS:
            rows = [i for i, picture in enumerate(pictures) if picture.control == kind]
            asked = Asked([pictures[i] for i in rows], self.reader.attributes)
            known: dict[tuple, Seen] = {}  # un-guided pictures are the same for many columns
            for key, paths in columns.items():
                files = tuple(plain[key][i] for i in rows)
                if files not in known:
                    known[files] = see(self.reader, list(files))
                before = known[files]
                after = see(self.reader, [paths[i] for i in rows])
                idle = asked.idle(before)
                if idle.any():
                    found = asked.outcomes(after, before)
                    numbers[key][kind] = {"count": int(idle.sum())} | {
                        name: float(found[name][idle].float().mean())
                        for name in ("keep", "likeness", "added")
                    }
        return numbers

    def _distances(self, features: torch.Tensor, cases: dict[str, dict]) -> dict:
        """Of all pictures; each case's own is put into `cases`."""
        near = self.references.components(features)  # (n, 32)
        distances, resampled = [], []
        for case, rows in self.rows_of.items():
            if len(rows) > 1:  # one picture has no spread
                frechet = Frechet(self.references.found[case])
                distances.append(float(frechet(near[rows])))
                resampled.append(frechet.resampled(near[rows]))
                cases[case]["frechet"] = distances[-1]
        if not distances:
            return {}
        mean = sum(distances) / len(distances)
        pooled = Frechet(torch.cat([self.references.found[case] for case in self.rows_of]))
        return {
            "frechet": mean,
            "frechet_interval": around(mean, torch.stack(resampled).mean(0)),
            "frechet_pooled": float(pooled(near)),
        }

    def levels(self, plain: dict[str, str]) -> dict:
        """What belongs to no column: chance of each un-guided one, floor, the classifier."""
        found = {}
        if "keep" in self.metrics and plain:
            found["chance"] = {
                key: chance(self.asked, self.seen[key]) for key in set(plain.values())
            }
        if "frechet" in self.metrics:
            found["floor"] = self.floor()
            known = self.references.known
            found["classifier"] = {"accuracy": self.references.accuracy, "renders": known}
        return found

    def floor(self) -> float | None:
        """The distance of as many true renders of each case, mean of the cases.

        None where fewer were rendered.
        """
        found = []
        for case, rows in self.rows_of.items():
            others = self.references.found[f"{case} floor"]
            chunks = [c for c in others.split(max(2, len(rows))) if len(c) == len(rows) > 1]
            if not chunks:
                return None
            frechet = Frechet(self.references.found[case])
            found.append(sum(float(frechet(chunk)) for chunk in chunks) / len(chunks))
        return sum(found) / len(found)
