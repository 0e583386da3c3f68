"""`python -m nag compare`: one seed without guidance, with CFG and with NAG, as files."""

import argparse
import json
from pathlib import Path

from ..engine.run import Column, Run
from ..errors import Refused
from ..media import metadata
from ..methods import METHODS
from . import asked

SENT = ("zip", "html", "webp", "mp4")  # of page/keep.py


def add_arguments(parser: argparse.ArgumentParser) -> None:
    asked.add_arguments(parser)
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for the pictures or videos and run.json"
    )
    parser.add_argument(
        "--send",
        nargs="+",
        choices=SENT,
        default=[],
        help="all columns in one file, too: zip (pictures and run.json), html (one page that works "
        "offline, with the bench in it), webp (animated), mp4",
    )


def run(options: argparse.Namespace) -> int:
    """0 where every column was drawn. Raises `Refused`."""
    preset, request, start = asked.asked(options)
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Refused(f"--out {options.out} cannot be made: {error.strerror}.") from None
    run = _draw(preset, request, start)
    _save(run, options.out)
    if options.send and any(column.state == "done" for column in run.columns):
        from ..page.keep import send

        for path in send(run, options.send, options.out):
            print(path)
    for column in run.columns:
        print(_line(run, column))
    print(run.hint)
    if older := _older(run, options):
        print(f"Of an earlier run, and none of this one's: {', '.join(older)}")
    return 0 if all(column.state == "done" for column in run.columns) else 1


def _draw(preset, request, start) -> Run:
    from tqdm import tqdm

    from ..engine.engine import Engine

    total = request.num_inference_steps * len(request.guidance)
    with tqdm(total=total, desc="loading", unit="step") as bar:
        for run, column, _ in Engine(previews=False).run(preset, request, image=start):
            bar.update(sum(c.step for c in run.columns) - bar.n)
            if column is not None:
                bar.set_description(f"{column.key}, {column.state}")
    return run


def _save(run: Run, folder: Path) -> None:
    done = [column for column in run.columns if column.state == "done"]
    for column in done:
        name = _name(column.key)
        info = metadata.png_info(run.preset, run.request, column.key)
        column.image.save(folder / f"{name}.png", pnginfo=info)
        if column.video:
            (folder / f"{name}.mp4").write_bytes(column.video)
    if done:
        from ..page.strip import strip

        strip(run).save(folder / "strip.png")
    told = json.dumps(run.json(), indent=2)
    (folder / "run.json").write_text(told + "\n", encoding="utf-8")


def _older(run: Run, options: argparse.Namespace) -> list[str]:
    """Files of the names that this command gives, which this run did not write."""
    done = [column for column in run.columns if column.state == "done"]
    written = {f"{_name(column.key)}.png" for column in done}
    written |= {f"{_name(column.key)}.mp4" for column in done if column.video}
    written |= {f"compare.{kind}" for kind in options.send if done}
    ours = [f"{_name(key)}{kind}" for key in METHODS for kind in (".png", ".mp4")]
    ours += [f"compare.{kind}" for kind in SENT]
    return [name for name in ours if name not in written and (options.out / name).exists()]


def _name(key: str) -> str:
    """Of a column's file, without its ending."""
    return key.replace("+", "-")


def _line(run: Run, column: Column) -> str:
    relative, speed = run.relative(column), ""
    if column.together:
        speed = f"for {' and '.join(column.together)} together  "
    elif relative:
        speed = f"{relative:.2f}x time  "
    if column.peak:
        speed += f"{column.peak / 1e9:.1f} GB on the GPU  "
    return f"{column.key:8} {column.state:8} {column.seconds:7.2f} s  {speed}{column.reason}"
