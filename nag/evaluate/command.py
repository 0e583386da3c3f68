"""`python -m nag evaluate`: draw what is missing, measure the files, write the results; in one process, or in several.

    torchrun --nproc-per-node 2 -m nag evaluate ...           two processes on a processor
    accelerate launch --num_processes 2 -m nag evaluate ...   on two GPUs

A unit of work is one batch of one column. Which pictures share a batch depends on --batch alone, and what is measured are the files, so the
numbers do not depend on how many processes there were.
"""

import argparse
import contextlib
import os
import signal
import sys
import time
from pathlib import Path

from nag.engine import loading
from nag.errors import Refused
from nag.methods import METHODS
from nag.pocket import DENOISERS
from nag.request import DEFAULT, check_text

from . import captions, draw, plan, pocket, report

POCKET, HUB, VIDEO = (
    ("attribute", "keep", "frechet", "clipped"),
    ("clip", "fid", "pfid", "pickscore"),
    ("motion",),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = f"{__doc__}\n{pocket.__doc__}\n{captions.__doc__}"
    parser.add_argument("--preset", default=DEFAULT, help="a file of presets/, without .json")
    parser.add_argument(
        "--count",
        type=int,
        default=64,
        help="pictures in every column, shared out among the cases or captions",
    )
    parser.add_argument(
        "--guidance",
        nargs="+",
        metavar="KIND",
        help=f"columns, out of {', '.join(METHODS)}; default none,cfg,nag",
    )
    parser.add_argument(
        "--steps", nargs="+", default=[], metavar="N", help="numbers of steps; default the preset's"
    )
    parser.add_argument(
        "--sweep",
        nargs="+",
        default=[],
        metavar="SETTING=VALUE,VALUE",
        help="e.g. nag_scale=1,3,5,8 guidance_scale=2,7",
    )
    parser.add_argument(
        "--ablate",
        action="store_true",
        help="NAG without normalisation, without refinement, and with neither",
    )
    parser.add_argument(
        "--cases", help=f"of a pocket preset, out of {','.join(pocket.CASES)}; default all"
    )
    parser.add_argument(
        "--tuning",
        action="store_true",
        help="roles and seeds kept apart for tuning, instead of those that are reported",
    )
    parser.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE",
        help="captions: COCO's JSON, TSV or CSV with a column caption, or lines",
    )
    parser.add_argument(
        "--negative", help="negative prompt for all captions, e.g. 'Low resolution, blurry'"
    )
    parser.add_argument(
        "--reference-images", type=Path, metavar="DIR", help="real pictures, for fid and pfid"
    )
    parser.add_argument(
        "--metrics",
        nargs="+",
        metavar="NAME",
        help=f"out of {', '.join(POCKET)} (pocket models), {', '.join(HUB)}, and of "
        "videos motion: how much a frame differs from the one before it, 0 to 255",
    )
    parser.add_argument(
        "--clip-model", default=captions.CLIP, metavar="REPO_OR_FOLDER", help="default %(default)s"
    )
    parser.add_argument(
        "--inception",
        type=Path,
        metavar="FILE",
        help="Inception weights for fid and pfid; default: fetched once",
    )
    parser.add_argument(
        "--batch",
        type=int,
        help="pictures drawn together; default 32 for models that ship with this project, else 4",
    )
    parser.add_argument(
        "--model",
        help="a local folder or a repository on the hub, in place of the preset's own model",
    )
    parser.add_argument(
        "--denoiser",
        choices=DENOISERS,
        help="of a training run of the pocket models, instead of the shipped one",
    )
    parser.add_argument("--run", type=Path, default=Path("runs"), help="that training run's folder")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="folder for results.json, table.md, sheet.png, plots and the pictures",
    )


def run(options) -> int:
    """Raises `Refused`."""
    alone = int(os.environ.get("WORLD_SIZE", 1)) == 1
    if options.denoiser:
        from nag.pocket.export import pipeline

        folder = options.run / "pipelines" / options.denoiser
        pipeline(options.run, options.denoiser).save_pretrained(folder)
        options.model = str(folder)
    try:
        preset, columns, pictures, metrics, batch, cases = _plan(options)
    except Refused:
        if int(os.environ.get("RANK", 0)):  # the first process says the same
            return 2
        raise
    import diffusers

    diffusers.logging.set_verbosity_error()
    painter = draw.Painter(preset, options.out)
    with contextlib.nullcontext(Alone()) if alone else _several() as processes:
        try:
            _draw(painter, columns, pictures, batch, processes)
        except KeyboardInterrupt:
            raise Refused(
                "Stopped. Run the same command again to go on: finished pictures are kept."
            ) from None
        processes.wait()
        if not processes.first:
            return 0
        paths = {
            column.key: [painter.path(column, picture) for picture in pictures]
            for column in columns
        }
        if absent := sum(not path.exists() for of_column in paths.values() for path in of_column):
            raise Refused(
                f"{absent} pictures that other processes drew are not in {options.out}: --out must be a folder that all of them see."
            )
        results = _measure(options, painter, columns, pictures, metrics, cases, paths)
        results["settings"]["processes"] = processes.count
        remarks = report.write(options.out, columns, results, paths, pictures)
    print(report.table(results))
    print("\n".join([*remarks, f"Written to {options.out}."]))
    return 0


def _plan(options):
    if options.count < 1:
        raise Refused(f"--count must be 1 or more, got {options.count}.")
    if options.batch is not None and options.batch < 1:
        raise Refused(f"--batch must be 1 or more, got {options.batch}.")
    preset = plan.preset_of(options.preset, options.model, options.prompts is not None)
    kinds = plan.kinds_of(options.guidance, preset)
    try:
        steps = [int(number) for word in options.steps for number in word.split(",")]
    except ValueError:
        raise Refused(f"--steps wants whole numbers, got {' '.join(options.steps)}.") from None
    columns = plan.columns_of(
        preset, kinds, steps, plan.sweep_of(options.sweep, kinds), options.ablate
    )
    if options.prompts is not None:
        if options.negative is None:
            raise Refused(
                "--prompts needs --negative TEXT, the negative prompt for all of its captions."
            )
        try:
            check_text(options.negative)
        except ValueError as error:
            raise Refused(f"--negative {error}.") from None
        cases = []
        pictures = plan.of_captions(
            plan.captions_in(options.prompts), options.negative, options.count
        )
    else:
        if options.negative is not None:
            raise Refused(
                "--negative goes with --prompts; without captions, each case has a negative prompt of its own."
            )
        cases = list(dict.fromkeys((options.cases or ",".join(pocket.CASES)).split(",")))
        if unknown := [case for case in cases if case not in pocket.CASES]:
            raise Refused(f"--cases is out of {', '.join(pocket.CASES)}; got {', '.join(unknown)}.")
        pictures = plan.of_cases(pocket.CASES, cases, options.count, options.tuning)
        cases = [case for case in cases if case in {picture.case for picture in pictures}]
    metrics = _metrics(options, bool(cases), bool(preset.fps))
    if preset.batch and (options.batch or 0) > preset.batch:
        raise Refused(
            f"--batch must be at most {preset.batch} for {preset.title}: its pictures depend on how many are drawn together."
        )
    batch = options.batch or preset.batch or (32 if preset.shipped else 4)
    _writable(options.out)
    return preset, columns, pictures, metrics, batch, cases


def _metrics(options, of_cases: bool, of_video: bool) -> list[str]:
    if options.metrics is None:
        metrics = (
            list(POCKET)
            if of_cases
            else ["clip", *(["fid", "pfid"] if options.reference_images else [])]
        )
        metrics += VIDEO if of_video else ()
    else:
        metrics = list(dict.fromkeys(name for word in options.metrics for name in word.split(",")))
    if unknown := [name for name in metrics if name not in POCKET + HUB + VIDEO]:
        raise Refused(
            f"--metrics is out of {', '.join(POCKET + HUB + VIDEO)}; got {', '.join(unknown)}."
        )
    if "motion" in metrics and not of_video:
        raise Refused("motion can be measured on videos only.")
    if not of_cases and (wrong := [name for name in metrics if name in POCKET]):
        raise Refused(
            f"{', '.join(wrong)} can be measured on a pocket preset's own cases only, not on captions."
        )
    pocket.check("frechet" in metrics)
    captions.check(metrics, options.reference_images)
    return metrics


def _writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".{os.getpid()}.part"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise Refused(f"--out {folder} cannot be written: {error.strerror}.") from None


def _draw(painter: draw.Painter, columns, pictures, batch: int, processes) -> None:
    """This process's units. Columns take turns, so that a busy minute of the machine hits all of them."""
    from tqdm import tqdm

    units = [
        (i + start // batch, column, pictures[start : start + batch])
        for start in range(0, len(pictures), batch)
        for i, column in enumerate(columns)
    ]
    mine = [
        (column, part) for turn, column, part in units if turn % processes.count == processes.index
    ]
    todo = [(column, part) for column, part in mine if painter.missing(column, part)]
    total, left = (sum(len(part) for _, part in some) for some in (mine, todo))
    if not todo:
        return
    with tqdm(
        total=total,
        initial=total - left,
        desc="loading",
        unit="picture",
        disable=not processes.first,
    ) as bar:
        pipe = painter.loaded.pipe
        pipe.set_progress_bar_config(disable=True)
        for column, part in todo:
            bar.set_description(column.key)
            painter.draw(column, part)
            bar.update(len(part))


def _measure(options, painter, columns, pictures, metrics, cases, paths) -> dict:
    request = columns[0].request
    numbers = {column.key: {} for column in columns}
    found = {}
    if cases and set(POCKET) & set(metrics):
        yardstick = pocket.Yardstick(painter, options.out, cases, options.tuning, request.width)
        plain = {column.steps: column.key for column in columns if column.guidance == "none"}
        against = {column.key: plain[column.steps] for column in columns if column.steps in plain}
        for key, measured in yardstick.measure(pictures, paths, against, metrics).items():
            numbers[key] |= measured
        if "frechet" in metrics:
            found["classifier"] = {"accuracy": yardstick.accuracy, "renders": yardstick.known}
        report.compare_at_same_rate(columns, numbers)
    if set(HUB) & set(metrics):
        device = painter.identity["device"]
        measured = captions.measure(
            pictures,
            paths,
            metrics,
            (request.width, request.height),
            device,
            options.reference_images,
            options.clip_model,
            options.inception,
        )
        for key, values in measured.items():
            numbers[key] |= values
    for column in columns:
        numbers[column.key]["count"] = len(pictures)
        if "motion" in metrics:
            numbers[column.key]["motion"] = draw.motion(paths[column.key])
        made = [draw.read(path)[1] for path in paths[column.key]]
        numbers[column.key]["seconds"] = _median(sorted(one["seconds"] for one in made))
        if black := sum(one.get("blacked_out", False) for one in made):
            numbers[column.key]["blacked_out"] = black  # by the model's own safety checker
    settings = {
        "preset": options.preset,
        "model": painter.preset.model_name,
        "revision": painter.preset.revision,
        "count": options.count,
        "metrics": metrics,
        "cases": cases,
        "tuning": options.tuning,
        "captions": options.prompts and options.prompts.name,
        "negative": options.negative,
        "device": painter.identity["device"],
        "columns": {column.key: column.settings for column in columns},
    }
    return report.rounded(
        {"columns": numbers, "settings": settings, "versions": loading.versions(), **found}
    )


def _median(values: list[float]) -> float:
    return (values[(len(values) - 1) // 2] + values[len(values) // 2]) / 2


class Alone:
    """The only process."""

    first, index, count = True, 0, 1

    def wait(self):
        pass


class Several:
    """One of several processes, as accelerate finds them."""

    def __init__(self):
        import datetime

        import torch
        from accelerate import PartialState

        here = PartialState(
            cpu=not torch.cuda.is_available()
            or os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true"
        )
        self.first, self.index, self.count = (
            here.is_main_process,
            here.process_index,
            here.num_processes,
        )
        # a slow process may be hours behind; one that died is noticed at once, because its connection closes
        self.group = torch.distributed.new_group(
            backend="gloo", timeout=datetime.timedelta(days=30)
        )

    def wait(self) -> None:
        """Until all processes are here. Raises `Refused` when one never will be."""
        import torch

        barrier = torch.distributed.barrier(self.group, async_op=True)
        try:
            while not barrier.is_completed():
                time.sleep(0.1)  # in Python, where a signal is heard
            barrier.wait()
        except RuntimeError as error:
            raise Refused(GONE) from error


GONE = "Another process ended before its pictures were drawn; it says why itself. Run the same command again: finished pictures are kept."


@contextlib.contextmanager
def _several():
    import torch

    def asked_to_end(*_):  # launchers end the other processes when one fails
        print(GONE, file=sys.stderr, flush=True)
        raise SystemExit(2)  # not an error that somebody on the way may catch

    before = signal.signal(signal.SIGTERM, asked_to_end)
    try:
        yield Several()
    finally:
        signal.signal(signal.SIGTERM, before)
        if sys.exc_info()[0] is None and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
