"""Every method as a curve over its scales: how strong it is, and what that costs."""

from collections.abc import Callable
from pathlib import Path

from nag.methods import METHODS

from .plan import Column
from .table import HEADS, interval_of

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
    _panels(folder, "likeness_by_clean", curves, numbers, measured("clean"), "likeness", chance)
    _panels(folder, "fid_by_clip", curves, numbers, measured("clip"), "fid")
    if len({column.steps for column in columns}) > 1:
        _by_steps(folder, columns, numbers)


X_LABELS = {
    "attribute_rate_by_scale": "scale, each method's own",
    "clip_by_scale": "scale, each method's own",
    "keep_by_attribute_rate": "attribute rate: less is what was asked",
    "frechet_by_attribute_rate": "attribute rate: less is what was asked",
    "likeness_by_clean": "clean removal: more is what was asked",
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
    """One panel for each number of steps; nothing where nothing was measured."""
    from matplotlib.figure import Figure

    points = {
        curve: [c for c in members if y in numbers[c.key] and x_of(c) is not None]
        for curve, members in curves.items()
    }
    points = {curve: members for curve, members in points.items() if members}
    if not points:
        return
    steps = sorted({count for _, count in curves})
    labels = list(dict.fromkeys(label for label, _ in curves))
    figure = Figure((2.2 + 3.8 * len(steps), 4), dpi=90, layout="constrained")
    panels = figure.subplots(1, len(steps), squeeze=False, sharey=True)[0]
    for axes, count in zip(panels, steps, strict=True):
        for i, label in enumerate(labels):
            if members := points.get((label, count)):
                colour = METHODS[label].colour if label in METHODS else f"C{i % 10}"
                _curve(axes, members, numbers, x_of, y, label, colour)
        axes.set(xlabel=X_LABELS[name], title=f"{count} step{'s' * (count > 1)}")
        if name.endswith("by_scale"):
            _logarithmic(axes, sorted({x_of(c) for members in points.values() for c in members}))
        for levels in (one for one in (chance or {}).values() if y in one):
            axes.axhline(levels[y], color=PALE, linewidth=0.8, linestyle=":", label="another seed")
        axes.grid(alpha=0.25)
    figure.axes[0].set_ylabel(HEADS[y][0].replace("(95 %)", "with 95 % interval"))
    _legend(figure)
    folder.mkdir(exist_ok=True)
    figure.savefig(folder / f"{name}.png")


def _curve(axes, members: list[Column], numbers, x_of, y: str, label: str, colour: str) -> None:
    xs, ys = [x_of(c) for c in members], [numbers[c.key][y] for c in members]
    ends = [
        interval_of(numbers[c.key], y) or (value, value)
        for c, value in zip(members, ys, strict=True)
    ]
    below = [max(0, value - low) for value, (low, _) in zip(ys, ends, strict=True)]
    above = [max(0, high - value) for value, (_, high) in zip(ys, ends, strict=True)]
    style = {"marker": "o", "markersize": 4, "linewidth": 1.3, "elinewidth": 0.6, "capsize": 2}
    axes.errorbar(xs, ys, [below, above], label=label, color=colour, **style)
    if len(members) > 1:
        for column, x, value in zip(members, xs, ys, strict=True):
            if column.scale is not None and x != column.scale:
                place = {"textcoords": "offset points", "fontsize": 7, "color": PALE}
                axes.annotate(f"{column.scale:g}", (x, value), (3, 3), **place)


def _logarithmic(axes, marks: list[float]) -> None:
    axes.set_xscale("log")
    axes.set_xticks(marks, [f"{mark:g}" for mark in marks], fontsize=8)
    axes.minorticks_off()


def _legend(figure) -> None:
    handles = {
        label: line
        for axes in figure.axes
        for line, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside right upper", fontsize=7)


def _by_steps(folder: Path, columns: list[Column], numbers: dict[str, dict]) -> None:
    """A panel for each metric, a line for each column over its numbers of steps."""
    from matplotlib.figure import Figure

    wanted = ("attribute_rate", "clean", "frechet", "clip", "fid")
    metrics = [name for name in wanted if any(name in one for one in numbers.values())]
    if not metrics:
        return
    lines: dict[str, list[Column]] = {}
    for column in columns:
        words = [word for word in column.key.split(" ") if not word.startswith("steps=")]
        lines.setdefault(" ".join(words), []).append(column)
    figure = Figure((2.2 + 3.8 * len(metrics), 4), dpi=90, layout="constrained")
    panels = figure.subplots(1, len(metrics), squeeze=False)[0]
    for axes, metric in zip(panels, metrics, strict=True):
        for label, members in lines.items():
            members = [column for column in members if metric in numbers[column.key]]
            values = [numbers[column.key][metric] for column in members]
            axes.plot([column.steps for column in members], values, marker="o", label=label)
        steps = sorted({column.steps for column in columns})
        axes.set(xlabel="steps", ylabel=HEADS[metric][0].removesuffix(" (95 %)"), xticks=steps)
        axes.grid(alpha=0.25)
    _legend(figure)
    folder.mkdir(exist_ok=True)
    figure.savefig(folder / "by_steps.png")
