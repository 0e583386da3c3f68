"""What every method keeps at equal clean removal, read off its curve over its strengths."""

from dataclasses import dataclass
from itertools import pairwise

import torch

from ..methods import METHODS
from .plan import Column
from .statistics import resamples

LEVELS = 0.3, 0.5, 0.7, 0.9  # of clean removal
REACHED = 0.95  # share of the resamples in which a curve must come to a level, for an interval
KEPT = "keep", "likeness"


def at_level(curve: list[tuple[float, float]], level: float) -> float | None:
    """The most that is kept where a curve of (clean removal, kept), in the order of strength, is at
    a level, by straight lines between its points. None where it never is."""
    found = []
    for (left, before), (right, after) in pairwise(curve):
        if min(left, right) <= level <= max(left, right):
            share = (level - left) / (right - left) if right != left else float(after > before)
            found.append(before + share * (after - before))
    return max(found, default=None)


@dataclass
class Method:
    """One method at one number of steps: its curves as numbers of columns, the un-guided one first.

    settings: how many it was given, over all curves.
    """

    curves: list[list[int]]
    settings: int

    def best(self, clean: list[float], kept: list[float], level: float) -> float | None:
        """The most that any of its curves keeps at a level."""
        found = [at_level([(clean[i], kept[i]) for i in rows], level) for rows in self.curves]
        return max((one for one in found if one is not None), default=None)


def methods_of(columns: list[Column], row: dict[str, int], plain: str) -> dict[str, Method]:
    """{method: its curves} of columns of one number of steps. row: {column: its row}.

    A curve is what differs in the method's own scale alone, and begins without guidance.
    """
    found: dict[str, Method] = {}
    curves: dict[tuple, list[int]] = {}
    for column in sorted(columns, key=lambda one: one.scale or 0.0):
        if column.guidance == "none":
            continue
        name = " ".join(filter(None, [column.guidance, column.ablation]))
        scale = METHODS[column.guidance].scale
        others = {k: v for k, v in column.settings.items() if k != scale}
        key = (name, *sorted((k, str(v)) for k, v in others.items()))
        method = found.setdefault(name, Method([], 0))
        if key not in curves:
            curves[key] = [row[plain]]
            method.curves.append(curves[key])
        curves[key].append(row[column.key])
        method.settings += 1
    return found


def matched(
    columns: list[Column], outcomes: dict[str, dict], prompts: list[str], plain: dict[str, str]
) -> dict[str, dict]:
    """{number of steps: {method: {"settings": n, "at": {level: {"keep": (value, low, high), ...}}}}

    With `less` beside `at`: the same less NAG's there, where NAG was drawn. Intervals are of a
    bootstrap of the pictures within each prompt, the same ones in every column; None where fewer
    than 95 % of the resamples come to the level. outcomes: {column: `pocket.Asked.outcomes`}.
    """
    order = sorted(range(len(prompts)), key=prompts.__getitem__)
    index = resamples([prompts.count(one) for one in sorted(set(prompts))])
    found = {}
    for steps in sorted({column.steps for column in columns}):
        near = [c for c in columns if c.steps == steps and c.key in plain]
        if not any(c.guidance != "none" for c in near):
            continue
        row = {column.key: i for i, column in enumerate(near)}
        samples, values = {}, {}
        for name in ("clean", *KEPT):
            each = torch.stack([outcomes[c.key][name].double() for c in near])  # (columns, n)
            values[name] = each.mean(1).tolist()
            samples[name] = each[:, order][:, index].mean(2).T.tolist()  # resamples of columns
        methods = methods_of(near, row, plain[near[0].key])
        found[str(steps)] = _read(methods, values, samples)
    return found


def _read(methods: dict[str, Method], values: dict, samples: dict) -> dict[str, dict]:
    told = {name: {"settings": one.settings, "at": {}, "less": {}} for name, one in methods.items()}
    for level in LEVELS:
        for kept in KEPT:
            drawn = {}
            for name, method in methods.items():
                value = method.best(values["clean"], values[kept], level)
                pairs = zip(samples["clean"], samples[kept], strict=True)
                spread = [method.best(clean, one, level) for clean, one in pairs]
                drawn[name] = value, spread
                if value is not None:
                    ends = _ends(spread)
                    told[name]["at"].setdefault(f"{level:g}", {})[kept] = [value, *ends]
            if "nag" not in methods or drawn["nag"][0] is None:
                continue
            for name, (value, spread) in drawn.items():
                if name == "nag" or value is None:
                    continue
                apart = [
                    None if a is None or b is None else a - b
                    for a, b in zip(spread, drawn["nag"][1], strict=True)
                ]
                less = [value - drawn["nag"][0], *_ends(apart)]
                told[name]["less"].setdefault(f"{level:g}", {})[kept] = less
    return told


def _ends(spread: list[float | None]) -> tuple[float | None, float | None]:
    """The 2.5 % and 97.5 % quantiles of the resamples that came to the level."""
    reached = [one for one in spread if one is not None]
    if len(reached) < REACHED * len(spread):
        return None, None
    wanted = torch.tensor([0.025, 0.975], dtype=torch.float64)
    low, high = torch.quantile(torch.tensor(reached, dtype=torch.float64), wanted).tolist()
    return low, high
