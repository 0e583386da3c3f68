"""What may be said of one column against another: at one strength, and on the same pictures."""

import numpy as np

from ..errors import Refused
from ..explore.counting import mcnemar, paired_difference
from .matched import matched
from .plan import Column
from .pocket import Yardstick
from .statistics import Frechet, at_same_rate, paired_frechet, paired_mean

OTHERS = "keep", "likeness", "frechet"


def at_same_strength(columns: list[Column], numbers: dict[str, dict]) -> None:
    """Gives every guided column what CFG has at its attribute rate and at its clean removal.

    Where CFG was swept; no guidance is CFG's scale 1. Written as `cfg_at_same_rate` and
    `cfg_at_same_clean`.
    """
    for column in columns:
        near = [other for other in columns if other.steps == column.steps]
        if column.guidance in ("none", "cfg") or sum(c.guidance == "cfg" for c in near) < 2:
            continue
        points = [numbers[other.key] for other in near if other.guidance in ("none", "cfg")]
        for measure, name in (("attribute_rate", "rate"), ("clean", "clean")):
            if measure in numbers[column.key]:
                curve = [(p[measure], {o: p[o] for o in OTHERS if o in p}) for p in points]
                found = at_same_rate(numbers[column.key][measure], curve)
                numbers[column.key][f"cfg_at_same_{name}"] = found


def rivals_of(columns: list[Column], against: str | None) -> dict[str, str]:
    """{guided column: the one with as many steps that it is compared with}: `against`, else the
    CFG that is nearest to the preset's own.

    Raises `Refused` for a column that is not there.
    """
    if against is not None and against not in {column.key for column in columns}:
        keys = ", ".join(column.key for column in columns)
        raise Refused(f"--against must be one of the columns {keys}; got {against!r}.")
    rivals = {}
    for column in columns:
        near = [other for other in columns if other.steps == column.steps]
        named = [c.key for c in near if c.key == against]
        cfg = sorted((c for c in near if c.guidance == "cfg"), key=lambda c: c.strangeness)
        found = named if against else [c.key for c in cfg]
        if found and found[0] != column.key and column.guidance != "none":
            rivals[column.key] = found[0]
    return rivals


def paired(
    yardstick: Yardstick, rivals: dict[str, str], plain: dict[str, str], numbers: dict[str, dict]
) -> None:
    """Gives every column its differences to its rival, picture by picture, as `paired`.

    clean: of the shares, with Newcombe's interval, and McNemar's exact p. keep, likeness: of the
    means, by a bootstrap within each prompt. frechet: by a bootstrap of both columns alike.
    """
    prompts = [picture.prompt for picture in yardstick.pictures]
    for key, rival in rivals.items():
        first, second = (yardstick.outcomes(one, plain.get(one)) for one in (key, rival))
        found = {"against": rival}
        if "clean" in numbers[key]:
            found |= _shares("clean", first["clean"], second["clean"])
        for name in ("keep", "likeness"):
            if name in numbers[key] and name in numbers[rival]:
                found[name] = paired_mean(first[name], second[name], prompts)
        if "frechet" in numbers[key]:
            found["frechet"] = _frechet(yardstick, key, rival)
        numbers[key]["paired"] = found


def _shares(name: str, first: np.ndarray, second: np.ndarray) -> dict:
    """Two columns of yes and no, picture by picture: the difference of shares, and its p."""
    a, b = first.tolist(), second.tolist()
    pairs = list(zip(a, b, strict=True))
    p = mcnemar(pairs.count((True, False)), pairs.count((False, True)))
    return {name: paired_difference(a, b), f"{name}_p": p}


def paired_judged(
    each: dict[str, dict], rivals: dict[str, str], prompts: list[str], numbers: dict[str, dict]
) -> None:
    """The same of what `judged.measure` found of each picture: removed, dino, lpips."""
    for key, rival in rivals.items():
        found = {"against": rival}
        for name in each[key].keys() & each[rival].keys():
            first, second = each[key][name], each[rival][name]
            if name == "removed":
                found |= _shares(name, first, second)
            else:
                found[name] = paired_mean(first, second, prompts)
        numbers[key]["paired"] = found


def matched_judged(
    columns: list[Column], each: dict[str, dict], prompts: list[str], plain: dict[str, str]
) -> dict:
    """What `matched.matched` finds at equal removal, with DINO's cosine as what is kept, and beside
    it one less LPIPS where that was measured. {} where there is no removal or no cosine."""
    if not all({"removed", "dino"} <= each[key].keys() for key in plain):
        return {}
    second = "lpips" if all("lpips" in each[key] for key in plain) else "dino"
    outcomes = {
        key: {
            "clean": each[key]["removed"],
            "keep": each[key]["dino"],
            "likeness": 1 - each[key]["lpips"] if second == "lpips" else each[key]["dino"],
        }
        for key in plain
    }
    names = ["removed", "dino", "1 - lpips" if second == "lpips" else "dino"]
    return {"matched": matched(columns, outcomes, prompts, plain), "matched_as": names}


def _frechet(yardstick: Yardstick, key: str, rival: str) -> tuple[float, float, float]:
    references, rows_of = yardstick.references, yardstick.rows_of
    cases = [case for case, rows in rows_of.items() if len(rows) > 1]
    distances = [Frechet(references.found[case]) for case in cases]
    near = [references.components(yardstick.seen[one].features) for one in (key, rival)]
    first, second = ([rows[rows_of[case]] for case in cases] for rows in near)
    return paired_frechet(distances, first, second)
