"""Every method as a curve over its scales: how strong it is, and what that costs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..methods import METHODS
from .plan import Column
from .table import HEADS, interval_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PALE = "#64748b"
Curves = dict[tuple[str, int], list[Column]]  # (label, steps) -> columns by scale


def plots(folder: Path, columns: list[Column], numbers: dict[str, dict], chance: dict) -> None:
    """Writes PNG files. Raises ImportError without matplotlib.

    chance: {un-guided column: {"likeness": its chance level}}
    """
    curves = _curves(columns)
    rate = "attribute_rate"

    def measured(name: str) -> Callable[[Column], float | None]:
        return lambda column: numbers[column.key].get(name)

    if any(len(members) > 1 for members in curves.values()):
        for y in (rate, "clip"):
            _panels(folder, f"{y}_by_scale", curves, numbers, lambda c: c.scale or None, y)
    for y in ("keep", "frechet"):
        _panels(folder, f"{y}_by_{rate}", curves, numbers, measured(rate), y)
    for y in ("keep", "likeness"):
        _panels(folder, f"{y}_by_clean", curves, numbers, measured("clean"), y, chance)
    for y in ("dino", "lpips"):
        _panels(folder, f"{y}_by_removed", curves, numbers, measured("removed"), y)
    _panels(folder, "fid_by_clip", curves, numbers, measured("clip"), "fid")


X_LABELS = {
    "attribute_rate_by_scale": "scale, each method's own",
    "clip_by_scale": "scale, each method's own",
    "keep_by_attribute_rate": "attribute rate: less is what was asked",
    "frechet_by_attribute_rate": "attribute rate: less is what was asked",
    "keep_by_clean": "clean removal, with 95 % interval: more is what was asked",
    "likeness_by_clean": "clean removal, with 95 % interval: more is what was asked",
    "dino_by_removed": "removed, with 95 % interval: more is what was asked",
    "lpips_by_removed": "removed, with 95 % interval: more is what was asked",
    "fid_by_clip": "CLIP score",
}


def label_of(column: Column) -> str:
    """A column's name without its scale and its steps."""
    drop = (f"{METHODS[column.guidance].scale}=", "steps=")
    return " ".join(word for word in column.key.split(" ") if not word.startswith(drop))


def _curves(columns: list[Column]) -> Curves:
    curves: Curves = {}
    for column in sorted(columns, key=lambda column: column.scale or 0):
        curves.setdefault((label_of(column), column.steps), []).append(column)
    return curves


def _panels(folder: Path, name: str, curves: Curves, numbers, x_of, y: str, chance=None) -> None:
    """One panel for each number of steps; nothing where nothing was measured.

    Where a method was drawn at several scales at some numbers of steps, panels of those alone. By
    clean removal, every curve begins at the un-guided pictures.
    """
    from matplotlib.figure import Figure

    points = {
        curve: [c for c in members if y in numbers[c.key] and x_of(c) is not None]
        for curve, members in curves.items()
    }
    points = {curve: members for curve, members in points.items() if members}
    if not points:
        return
    swept = {count for (_, count), members in points.items() if len(members) > 1}
    steps = sorted(swept or {count for _, count in points})
    labels = list(dict.fromkeys(label for label, _ in curves))
    wide, high = (3.8, 4) if len(steps) > 1 else (6.2, 5)
    figure = Figure((2.2 + wide * len(steps), high), dpi=110, layout="constrained")
    panels = figure.subplots(1, len(steps), squeeze=False, sharey=True)[0]
    plain = {members[0].key: count for (label, count), members in points.items() if label == "none"}
    for axes, count in zip(panels, steps, strict=True):
        for i, label in enumerate(labels):
            if members := points.get((label, count)):
                if name.endswith(("by_clean", "by_removed")) and label != "none":
                    members = points.get(("none", count), []) + members
                kind = label.partition(" ")[0]
                once = sum(one.partition(" ")[0] == kind for one in labels) == 1
                colour = colour_of(kind if once else label, i)
                _curve(axes, members, numbers, x_of, y, label, colour)
        axes.set(xlabel=X_LABELS[name], title=f"{count} step{'s' * (count > 1)}")
        if name.endswith("by_scale"):
            _logarithmic(axes, sorted({x_of(c) for members in points.values() for c in members}))
        levels = [one for key, one in (chance or {}).items() if plain.get(key) == count]
        for level in (one[y] for one in levels if y in one):  # none where no words came twice
            style = {"color": PALE, "linewidth": 0.8, "linestyle": ":"}
            axes.axhline(level, label="another seed", **style)
        axes.grid(alpha=0.25)
    figure.axes[0].set_ylabel(HEADS[y][0].replace("(95 %)", "with 95 % interval"))
    legend(figure)
    folder.mkdir(exist_ok=True)
    figure.savefig(folder / f"{name}.png")


def colour_of(label: str, number: int) -> str:
    """A method's own colour, or the next of matplotlib's."""
    return METHODS[label].colour if label in METHODS else f"C{number % 10}"


def _curve(axes, members: list[Column], numbers, x_of, y: str, label: str, colour: str) -> None:
    xs, ys = [x_of(c) for c in members], [numbers[c.key][y] for c in members]
    beside = None
    for name in ("clean", "removed"):
        if all(numbers[c.key].get(name) == x for c, x in zip(members, xs, strict=True)):
            beside = bars(members, numbers, name)
    spread = bars(members, numbers, y)
    axes.errorbar(xs, ys, spread, beside, label=name_of(label), color=colour, **style_of(colour))
    if len(members) > 1:
        for column, x, value in zip(members, xs, ys, strict=True):
            if column.scale is not None and x != column.scale and column.guidance != "none":
                place = {"textcoords": "offset points", "fontsize": 7, "color": PALE}
                axes.annotate(f"{column.scale:g}", (x, value), (3, 3), **place)


def name_of(label: str) -> str:
    """What people read: the method's name, and the settings that are not its scale."""
    kind, _, rest = label.partition(" ")
    return f"{METHODS[kind].name if kind in METHODS else kind} {rest}".strip()


def style_of(colour: str) -> dict:
    """Of a curve with intervals, which stand back behind it."""
    from matplotlib.colors import to_rgb

    pale = (*to_rgb(colour), 0.35)
    style = {"marker": "o", "markersize": 4, "linewidth": 1.4}
    return style | {"ecolor": pale, "elinewidth": 0.8, "capsize": 0}


def bars(members: list[Column], numbers: dict[str, dict], name: str) -> list[list[float]]:
    """How far the interval of a metric goes below and above it, for each column."""
    values = [numbers[c.key][name] for c in members]
    ends = [
        interval_of(numbers[c.key], name) or (value, value)
        for c, value in zip(members, values, strict=True)
    ]
    below = [max(0, value - low) for value, (low, _) in zip(values, ends, strict=True)]
    above = [max(0, high - value) for value, (_, high) in zip(values, ends, strict=True)]
    return [below, above]


def _logarithmic(axes, marks: list[float]) -> None:
    axes.set_xscale("log")
    axes.set_xticks(marks, [f"{mark:g}" for mark in marks], fontsize=8)
    axes.minorticks_off()


def legend(figure: Figure) -> None:
    """One for all panels, beside them."""
    handles = {
        label: line
        for axes in figure.axes
        for line, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside right upper", fontsize=7)
