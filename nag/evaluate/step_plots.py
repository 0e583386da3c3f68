"""Every method over numbers of steps, in one plot."""

from pathlib import Path

from ..methods import METHODS
from .plan import Column
from .plots import bars, colour_of, legend, style_of
from .table import HEADS

WANTED = (
    "clean",
    "keep",
    "removed",
    "dino",
    "attribute_rate",
    "frechet",
    "clip",
    "fid",
)  # a panel each
Lines = dict[str, list[Column]]


def lines_of(columns: list[Column]) -> Lines:
    """{label: its columns by steps} of those whose settings, but for the steps, were drawn at
    several numbers of steps."""
    same: dict[tuple, list[Column]] = {}
    for column in sorted(columns, key=lambda one: one.steps):
        others = {k: v for k, v in column.settings.items() if k != "num_inference_steps"}
        key = (column.ablation, *sorted((k, str(v)) for k, v in others.items()))
        same.setdefault(key, []).append(column)
    several = [members for members in same.values() if len({c.steps for c in members}) > 1]
    names = [_name(members[0]) for members in several]
    found: Lines = {}
    for name, members in zip(names, several, strict=True):
        words = (word for word in members[0].key.split(" ") if not word.startswith("steps="))
        found[name if names.count(name) == 1 else " ".join(words)] = members
    return found


def _name(column: Column) -> str:
    scale = "" if column.scale is None else f" {column.scale:g}"
    return METHODS[column.guidance].name + scale + f" {column.ablation}" * bool(column.ablation)


def by_steps(folder: Path, columns: list[Column], numbers: dict[str, dict]) -> None:
    """Writes by_steps.png: a panel for each metric, a line for each method, with 95 % intervals;
    nothing where nothing was drawn at several numbers of steps. Raises ImportError without
    matplotlib."""
    from matplotlib.figure import Figure

    lines = lines_of(columns)
    metrics = [name for name in WANTED if any(name in numbers[c.key] for c in columns)]
    if not metrics or not lines:
        return
    steps = sorted({column.steps for members in lines.values() for column in members})
    figure = Figure((2.2 + 3.8 * len(metrics), 4), dpi=110, layout="constrained")
    panels = figure.subplots(1, len(metrics), squeeze=False)[0]
    once = [members[0].guidance for members in lines.values()]
    for axes, metric in zip(panels, metrics, strict=True):
        for i, (label, members) in enumerate(lines.items()):
            members = [column for column in members if metric in numbers[column.key]]
            kind = members[0].guidance if members else ""
            if not members:
                continue
            colour = colour_of(kind if once.count(kind) == 1 else label, i)
            values = [numbers[column.key][metric] for column in members]
            counts = [column.steps for column in members]
            spread = bars(members, numbers, metric)
            axes.errorbar(counts, values, spread, label=label, color=colour, **style_of(colour))
        axes.set_xscale("log")
        axes.set_xticks(steps, [str(count) for count in steps])
        axes.minorticks_off()
        name = HEADS[metric][0].replace("(95 %)", "with 95 % interval")
        axes.set(xlabel="steps", ylabel=name)
        axes.grid(alpha=0.25)
    legend(figure)
    folder.mkdir(exist_ok=True)
    figure.savefig(folder / "by_steps.png")
