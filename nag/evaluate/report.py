"""What was measured, as JSON, a Markdown table, plots and a contact sheet."""

import json
from pathlib import Path

from nag.methods import METHODS

from . import draw
from .plan import Column
from .statistics import at_same_rate

HEADS = {  # metric -> its head in the table, and how its values are written
    "attribute_rate": ("attribute rate (95 %)", "{:.2f}"),
    "keep": ("keep", "{:.2f}"),
    "frechet": ("Frechet (95 %)", "{:.0f}"),
    "frechet_pooled": ("pooled", "{:.0f}"),
    "clipped": ("clipped", "{:.2f}"),
    "motion": ("motion", "{:.2f}"),
    "clip": ("CLIP (95 %)", "{:.2f}"),
    "fid": ("FID", "{:.2f}"),
    "pfid": ("PFID", "{:.2f}"),
    "pickscore": ("PickScore (95 %)", "{:.2f}"),
    "blacked_out": ("blacked out", "{:d}"),
    "seconds": ("s / picture", "{:.3f}"),
}
INTERVALS = {"attribute_rate": "attribute_interval"}
SHEET_ROWS, SHEET_PICTURES, SHEET_SIDE = 40, 8, 128
MATPLOTLIB = (
    "The plots need matplotlib: pip install '.[evaluate]' and run this again; nothing is drawn "
    "anew."
)


def compare_at_same_rate(columns: list[Column], numbers: dict[str, dict]) -> None:
    """Gives every guided column what CFG has at its attribute rate, where CFG was swept: no
    guidance is CFG's scale 1.
    """
    for column in columns:
        near = [other for other in columns if other.steps == column.steps]
        swept = [other for other in near if other.guidance == "cfg"]
        if (
            column.guidance in ("none", "cfg")
            or len(swept) < 2
            or "attribute_rate" not in numbers[column.key]
        ):
            continue
        points = [numbers[other.key] for other in near if other.guidance in ("none", "cfg")]
        curve = [
            (
                point["attribute_rate"],
                {name: point[name] for name in ("keep", "frechet") if name in point},
            )
            for point in points
        ]
        numbers[column.key]["cfg_at_same_rate"] = at_same_rate(
            numbers[column.key]["attribute_rate"], curve
        )


def rounded(value):
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    return [rounded(one) for one in value] if isinstance(value, (list, tuple)) else value


def table(results: dict) -> str:
    """All columns, then attribute rate, keep and Frechet distance of every case, then CFG at equal
    rate.
    """
    columns = results["columns"]
    metrics = [name for name in HEADS if any(name in numbers for numbers in columns.values())]
    lines = [
        f"| {' | '.join(['column', *(HEADS[name][0] for name in metrics)])} |",
        "|---" * (len(metrics) + 1) + "|",
    ]
    for key, numbers in columns.items():
        lines.append(f"| {' | '.join([key, *(_cell(numbers, name) for name in metrics)])} |")
    cases = list(next(iter(columns.values())).get("cases", {}))
    per_case = [name for name in ("attribute_rate", "keep", "frechet") if name in metrics]
    if cases and per_case:
        heads = ", ".join(HEADS[name][0].removesuffix(" (95 %)") for name in per_case)
        lines += ["", f"| {heads} | {' | '.join(cases)} |", "|---" * (len(cases) + 1) + "|"]
        for key, numbers in columns.items():
            cells = [
                ", ".join(HEADS[name][1].format(one[name]) for name in per_case if name in one)
                for one in numbers["cases"].values()
            ]
            lines.append(f"| {' | '.join([key, *cells])} |")
    same = {
        key: numbers["cfg_at_same_rate"]
        for key, numbers in columns.items()
        if "cfg_at_same_rate" in numbers
    }
    if same:
        lines += [
            "",
            "| column | attribute rate | its keep, Frechet | CFG's at this rate |",
            "|---|---|---|---|",
        ]
        for key, at in same.items():
            if "lowest_rate" in at:
                what = f"CFG never got below {at['lowest_rate']:.2f}"
            elif "highest_rate" in at:
                what = f"CFG never left more than {at['highest_rate']:.2f}"
            else:
                what = _both(at)
            lines.append(
                f"| {key} | {columns[key]['attribute_rate']:.2f} | {_both(columns[key])} | {what} |"
            )
    return "\n".join(lines) + "\n"


def _both(numbers: dict) -> str:
    return ", ".join(
        HEADS[name][1].format(numbers[name]) for name in ("keep", "frechet") if name in numbers
    )


def _cell(numbers: dict, name: str) -> str:
    if name not in numbers:
        return ""
    text, interval = (
        HEADS[name][1].format(numbers[name]),
        numbers.get(INTERVALS.get(name, f"{name}_interval")),
    )
    return (
        text
        if interval is None
        else f"{text} ({'-'.join(HEADS[name][1].format(end) for end in interval)})"
    )


def write(
    folder: Path, columns: list[Column], results: dict, paths: dict[str, list[Path]], pictures
) -> list[str]:
    """Everything but the pictures themselves. Returns sentences about what could not be written."""
    (folder / "results.json").write_text(
        json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    (folder / "table.md").write_text(table(results), encoding="utf-8")
    sheet(columns, results["columns"], paths, pictures).save(folder / "sheet.png", optimize=True)
    try:
        plots(folder / "plots", columns, results["columns"])
    except ImportError:
        return [MATPLOTLIB]
    return []


def sheet(columns: list[Column], numbers: dict[str, dict], paths: dict[str, list[Path]], pictures):
    """A line for every column, the first eight pictures in it; of a video its middle frame."""
    import textwrap

    from PIL import Image, ImageDraw, ImageFont

    side, margin, head = SHEET_SIDE, 170, 40
    shown = columns[:SHEET_ROWS]
    image = Image.new("RGB", (margin + SHEET_PICTURES * side, head + len(shown) * side), "white")
    pen, font, small = ImageDraw.Draw(image), ImageFont.load_default(13), ImageFont.load_default(11)
    for x, picture in enumerate(pictures[:SHEET_PICTURES]):
        words = textwrap.shorten(
            picture.prompt.removeprefix("portrait of "), 22, placeholder=" ..."
        )
        negative = textwrap.shorten(picture.negative, 20, placeholder=" ...")
        pen.multiline_text(
            (margin + x * side + 4, 6), f"{words}\nnot: {negative}", "#1e293b", small, spacing=3
        )
    for y, column in enumerate(shown):
        lines = textwrap.wrap(column.key, 22)
        if "attribute_rate" in numbers[column.key]:
            lines.append(f"{numbers[column.key]['attribute_rate']:.0%} left")
        pen.multiline_text((8, head + y * side + 8), "\n".join(lines), "#1e293b", font, spacing=5)
        for x, path in enumerate(paths[column.key][:SHEET_PICTURES]):
            frames, _ = draw.read(path)
            thumb = frames[len(frames) // 2]
            thumb.thumbnail((side, side))
            image.paste(thumb, (margin + x * side, head + y * side))
    return image


def plots(folder: Path, columns: list[Column], numbers: dict[str, dict]) -> None:
    """Raises ImportError without matplotlib."""
    from matplotlib.figure import Figure

    steps = sorted({column.steps for column in columns})
    curves = {}  # (label, steps) -> columns by scale
    for column in columns:
        scale = METHODS[column.guidance].scale
        label = " ".join(
            word for word in column.key.split(" ") if not word.startswith((f"{scale}=", "steps="))
        )
        curves.setdefault((label, column.steps), []).append(column)
    for members in curves.values():
        members.sort(key=lambda column: column.scale or 0)
    labels = list(dict.fromkeys(label for label, _ in curves))

    def panels(name: str, x_of, y: str, x_label: str, logarithmic: bool = False):
        points = {
            curve: [
                column
                for column in members
                if y in numbers[column.key] and x_of(column) is not None
            ]
            for curve, members in curves.items()
        }
        if not any(points.values()):
            return
        figure = Figure((2.2 + 3.8 * len(steps), 4), dpi=90, layout="constrained")
        for axes, count in zip(
            figure.subplots(1, len(steps), squeeze=False, sharey=True)[0], steps, strict=True
        ):
            for i, label in enumerate(labels):
                members = points.get((label, count))
                if not members:
                    continue
                xs, ys = (
                    [x_of(column) for column in members],
                    [numbers[column.key][y] for column in members],
                )
                ends = [
                    numbers[column.key].get(INTERVALS.get(y, f"{y}_interval"), (value, value))
                    for column, value in zip(members, ys, strict=True)
                ]
                spread = [
                    [max(0, value - low) for value, (low, _) in zip(ys, ends, strict=True)],
                    [max(0, high - value) for value, (_, high) in zip(ys, ends, strict=True)],
                ]
                axes.errorbar(
                    xs,
                    ys,
                    spread,
                    marker="o",
                    markersize=4,
                    linewidth=1.3,
                    elinewidth=0.6,
                    capsize=2,
                    label=label,
                    color=METHODS[label].colour if label in METHODS else f"C{i % 10}",
                )
                if not logarithmic:
                    for column, a, b in zip(members, xs, ys, strict=True):
                        if column.scale is not None and len(members) > 1:
                            axes.annotate(
                                f"{column.scale:g}",
                                (a, b),
                                (3, 3),
                                textcoords="offset points",
                                fontsize=7,
                                color="#64748b",
                            )
            axes.set(xlabel=x_label, title=f"{count} step{'s' * (count > 1)}")
            if logarithmic:
                marks = sorted({x_of(column) for column in columns if x_of(column) is not None})
                axes.set_xscale("log")
                axes.set_xticks(marks, [f"{mark:g}" for mark in marks], fontsize=8)
                axes.minorticks_off()
            axes.grid(alpha=0.25)
        figure.axes[0].set_ylabel(HEADS[y][0].replace("(95 %)", "with 95 % interval"))
        handles = {
            label: line
            for axes in figure.axes
            for line, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        figure.legend(handles.values(), handles.keys(), loc="outside right upper", fontsize=7)
        folder.mkdir(exist_ok=True)
        figure.savefig(folder / f"{name}.png")

    rate = "attribute_rate"
    if any(len(members) > 1 for members in curves.values()):
        for y in (rate, "clip"):
            panels(
                f"{y}_by_scale",
                lambda column: column.scale or None,
                y,
                "scale, each method's own",
                logarithmic=True,
            )
    for y in ("keep", "frechet"):
        panels(
            f"{y}_by_{rate}",
            lambda column: numbers[column.key].get(rate),
            y,
            "attribute rate: less is what was asked",
        )
    panels("fid_by_clip", lambda column: numbers[column.key].get("clip"), "fid", "CLIP score")
    if len(steps) > 1:
        metrics = [
            name
            for name in (rate, "frechet", "clip", "fid")
            if any(name in one for one in numbers.values())
        ]
        if not metrics:
            return
        figure = Figure((2.2 + 3.8 * len(metrics), 4), dpi=90, layout="constrained")
        for axes, metric in zip(
            figure.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True
        ):
            families = {}
            for column in columns:
                families.setdefault(
                    " ".join(
                        word for word in column.key.split(" ") if not word.startswith("steps=")
                    ),
                    [],
                ).append(column)
            for label, members in families.items():
                members = [column for column in members if metric in numbers[column.key]]
                axes.plot(
                    [column.steps for column in members],
                    [numbers[column.key][metric] for column in members],
                    marker="o",
                    label=label,
                )
            axes.set(xlabel="steps", ylabel=HEADS[metric][0].removesuffix(" (95 %)"), xticks=steps)
            axes.grid(alpha=0.25)
        figure.legend(
            *figure.axes[0].get_legend_handles_labels(), loc="outside right upper", fontsize=7
        )
        folder.mkdir(exist_ok=True)
        figure.savefig(folder / "by_steps.png")
