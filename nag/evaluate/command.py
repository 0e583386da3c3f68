"""`python -m nag evaluate`: draw what is missing, measure the files, write the results.

A unit of work is one batch of one column. Which pictures share a batch depends on --batch alone,
and what is measured are the files, so the numbers do not depend on how many processes there were.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections import Counter
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from ..engine.run import versions
from ..errors import Refused
from . import captions, compare, draw, judged, motions, processes, report
from . import pictures as each
from .matched import matched
from .options import HUB, JUDGED, POCKET, Plan, add_arguments, plan_of
from .pocket import Yardstick
from .references import References
from .table import table

if TYPE_CHECKING:
    from .processes import Several

__all__ = ["add_arguments", "run"]


def run(options: argparse.Namespace) -> int:
    """Raises `Refused`."""
    if options.denoiser:
        options.model = str(_trained(options.run, options.denoiser))
    try:
        plan = plan_of(options)
    except Refused:
        if not processes.is_first():  # the first process says the same
            return 2
        raise
    import diffusers

    diffusers.logging.set_verbosity_error()
    painter = draw.Painter(plan.preset, options.out)
    with processes.here() as process:
        try:
            draw_missing(painter, plan, process)
        except KeyboardInterrupt:
            raise Refused(
                "Stopped. Run the same command again to go on: finished pictures are kept."
            ) from None
        process.wait()
        if not process.first:
            return 0
        paths = _files(painter, plan.columns, plan.pictures, options.out)
        results, outcomes = measure(options, painter, plan, paths)
        results["settings"]["processes"] = process.count
        remarks = report.write(options.out, plan.columns, results, paths, plan.pictures)
        each.write(options.out, plan.columns, plan.pictures, paths, outcomes)
    print(table(results))
    print("\n".join([*remarks, f"Written to {options.out}."]))
    return 0


def _trained(run: Path, denoiser: str) -> Path:
    """A pipeline of a training run, as a folder. Every process writes it, and none sees a file
    that another has half written."""
    from ..pocket.export import pipeline

    folder, part = (run / "pipelines" / name for name in (denoiser, f"{os.getpid()}.part"))
    pipeline(run, denoiser).save_pretrained(part)
    for file in filter(Path.is_file, part.rglob("*")):
        target = folder / file.relative_to(part)
        target.parent.mkdir(parents=True, exist_ok=True)
        file.replace(target)
    shutil.rmtree(part)
    return folder


def _files(painter: draw.Painter, columns, pictures, out: Path) -> dict[str, list[Path]]:
    """{column: its files, in the order of the pictures}"""
    paths = {c.key: [painter.path(c, picture) for picture in pictures] for c in columns}
    if absent := sum(not path.exists() for of_column in paths.values() for path in of_column):
        raise Refused(
            f"{absent} pictures that other processes drew are not in {out}: --out must be a folder "
            "that all of them see."
        )
    return paths


def draw_missing(painter: draw.Painter, plan: Plan, process: Several) -> None:
    """This process's units.

    Columns take turns, so that a busy minute of the machine hits all of them.
    """
    from tqdm import tqdm

    units = [
        (i + start // plan.batch, column, pictures[start : start + plan.batch])
        for columns, pictures in ((plan.columns, plan.pictures), (plan.controlled, plan.controls))
        for start in range(0, len(pictures), plan.batch)
        for i, column in enumerate(columns)
    ]
    mine = [unit[1:] for unit in units if unit[0] % process.count == process.index]
    todo = [(column, part) for column, part in mine if painter.missing(column, part)]
    total, left = (sum(len(part) for _, part in some) for some in (mine, todo))
    if not todo:
        return
    shown = {"desc": "loading", "unit": "picture", "disable": not process.first}
    with tqdm(total=total, initial=total - left, **shown) as bar:
        painter.loaded.pipe.set_progress_bar_config(disable=True)
        for column, part in todo:
            bar.set_description(column.key)
            painter.draw(column, part)
            bar.update(len(part))


def measure(
    options: argparse.Namespace, painter: draw.Painter, plan: Plan, paths: dict[str, list[Path]]
) -> tuple[dict, dict[str, dict]]:
    """All numbers, as `results.json` has them, and {column: what became of each picture}."""
    numbers, found, outcomes = {column.key: {} for column in plan.columns}, {}, {}
    if plan.cases and set(POCKET) & set(plan.metrics):
        levels, outcomes = _measure_cases(options, painter, plan, paths, numbers)
        found |= levels
    if set(HUB) & set(plan.metrics):
        request = plan.columns[0].request
        measured = captions.measure(
            plan.pictures,
            paths,
            plan.metrics,
            (request.width, request.height),
            painter.identity["device"],
            options.reference_images,
            options.clip_model,
            options.inception,
        )
        for key, values in measured.items():
            numbers[key] |= values
    if set(JUDGED) & set(plan.metrics):
        found |= _measure_judged(options, painter, plan, paths, numbers)
    cut: dict[str, int] = {}
    for key, of_column in numbers.items():
        of_column["count"] = len(plan.pictures)
        if "motion" in plan.metrics:
            of_column["motion"] = draw.motion(paths[key])
        made = [draw.read(path)[1] for path in paths[key]]
        of_column["seconds"] = median(one["seconds"] for one in made)
        if black := sum(one.get("blacked_out", False) for one in made):
            of_column["blacked_out"] = black  # by the model's own safety checker
        for one in made:
            cut |= one.get("cut", {})
    texts = {text for picture in plan.pictures for text in (picture.prompt, picture.negative)}
    found["cut"] = {"texts": len(texts), "words": cut}
    settings = _settings(options, painter, plan)
    results = {"columns": numbers, "settings": settings, "versions": versions(), **found}
    return report.rounded(results), outcomes


def _measure_judged(options, painter, plan: Plan, paths, numbers: dict[str, dict]) -> dict:
    """Presence by questions and what is preserved, into `numbers`. -> what belongs to no column."""
    measured, each_one = judged.measure(
        plan.pictures,
        paths,
        plan.plain,
        plan.metrics,
        painter.identity["device"],
        options.out,
        options.judge,
        options.dino_model,
    )
    for key, values in measured.items():
        numbers[key] |= values
    if plan.controls and plan.controlled:
        files = _files(painter, plan.columns, plan.controls, options.out)
        for key, controls in judged.controls(
            plan.controls,
            {column.key: files[column.key] for column in plan.controlled},
            {column.key: files[plan.plain[column.key]] for column in plan.controlled},
            plan.metrics,
            painter.identity["device"],
            options.dino_model,
        ).items():
            numbers[key]["controls"] = controls
    prompts = [picture.prompt for picture in plan.pictures]
    compare.paired_judged(each_one, plan.rivals, prompts, numbers)
    return compare.matched_judged(plan.columns, each_one, prompts, plan.plain)


def _measure_cases(
    options, painter, plan: Plan, paths, numbers: dict[str, dict]
) -> tuple[dict, dict[str, dict]]:
    """By the classifier, into `numbers`. -> what belongs to no column, and each picture's
    outcome."""
    size = plan.columns[0].request.width
    references = References(painter, options.out, plan.cases, options.tuning, size)
    yardstick = Yardstick(references, plan.pictures, plan.metrics)
    measured = yardstick.measure(paths, plan.plain)
    if plan.controls and plan.controlled:
        files = _files(painter, plan.columns, plan.controls, options.out)
        columns = {column.key: files[column.key] for column in plan.controlled}
        plain = {key: files[plan.plain[key]] for key in columns}
        for key, controls in yardstick.controls(plan.controls, columns, plain).items():
            measured[key]["controls"] = controls
    if "motion" in plan.metrics:
        prompts = [picture.prompt for picture in plan.pictures]
        for key, files in paths.items():
            measured[key] |= motions.numbers(files, prompts)
    for key, values in measured.items():
        numbers[key] |= values
    compare.at_same_strength(plan.columns, numbers)
    compare.paired(yardstick, plan.rivals, plan.plain, numbers)
    each_one = {key: yardstick.outcomes(key, plan.plain.get(key)) for key in paths}
    for key, plain in plan.plain.items():
        each_one[key]["before"] = each_one[plain]["shown"]
    levels = yardstick.levels(plan.plain)
    if {"attribute", "keep"} <= set(plan.metrics):
        prompts = [picture.prompt for picture in plan.pictures]
        levels["matched"] = matched(plan.columns, each_one, prompts, plan.plain)
    return levels, each_one


def _settings(options, painter: draw.Painter, plan: Plan) -> dict:
    # whatever the number of steps
    tried = {
        (c.guidance, json.dumps(c.settings | {"num_inference_steps": 0})): None
        for c in plan.columns
    }
    return {
        "preset": options.preset,
        "model": plan.preset.model_name,
        "revision": plan.preset.revision,
        "count": len(plan.pictures),
        "metrics": plan.metrics,
        "cases": plan.cases,
        "tuning": options.tuning,
        "captions": options.prompts and options.prompts.name,
        "pairs": options.pairs and options.pairs.name,
        "judge": options.judge if "presence" in plan.metrics else None,
        "negative": options.negative,
        "device": painter.identity["device"],
        "columns": {column.key: column.settings for column in plan.columns},
        "tried": Counter(kind for kind, _ in tried),
    }
