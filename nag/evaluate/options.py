"""The options of `python -m nag evaluate`, and what they come to: everything refused beforehand."""

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

from ..errors import Refused
from ..methods import METHODS
from ..pocket import DENOISERS
from ..presets import Preset
from ..request import DEFAULT, check_text
from . import captions, compare, evidence, judged, pairs, plan, pocket, references
from .cases import CASES

DESCRIPTION = """Draw what is missing, measure the files, write the results; in one process or more.

    torchrun --nproc-per-node 2 -m nag evaluate ...           two processes on a processor
    accelerate launch --num_processes 2 -m nag evaluate ...   on two GPUs"""
POCKET = "attribute", "keep", "frechet", "clipped", "control"
HUB = "clip", "fid", "pfid", "pickscore"
JUDGED = "presence", "dino", "lpips"
COUNT = 64
VIDEO = ("motion",)


@dataclass(frozen=True)
class Plan:
    """What is drawn and measured.

    batch: pictures drawn together.
    cases: keys of `cases.CASES`, none of captions.
    controls: some of the pictures again, under negative prompts that have nothing to do.
    rivals: {column: the one that it is compared with, picture by picture}
    """

    preset: Preset
    columns: list[plan.Column]
    pictures: list[plan.Picture]
    metrics: list[str]
    batch: int
    cases: list[str]
    controls: list[plan.Picture]
    rivals: dict[str, str]

    @property
    def plain(self) -> dict[str, str]:
        """{column: the un-guided one with as many steps}, where there is one."""
        none = {column.steps: column.key for column in self.columns if column.guidance == "none"}
        return {column.key: none[column.steps] for column in self.columns if column.steps in none}

    @property
    def controlled(self) -> list[plan.Column]:
        """The columns in which the controls are drawn."""
        return [c for c in self.columns if c.guidance != "none" and c.key in self.plain]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    told = pocket.__doc__, captions.__doc__, judged.__doc__
    parser.description = "\n".join([f"{DESCRIPTION}\n", *filter(None, told)])
    for add in (_add_drawn, _add_words, _add_measured):
        add(parser)


def _add_drawn(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what is drawn")
    group.add_argument("--preset", default=DEFAULT, help="a file of presets/, without .json")
    group.add_argument(
        "--model",
        help="a local folder or a repository on the hub, in place of the preset's own model",
    )
    group.add_argument(
        "--denoiser",
        choices=DENOISERS,
        help="of a training run of the pocket models, instead of the shipped one",
    )
    group.add_argument("--run", type=Path, default=Path("runs"), help="that training run's folder")
    group.add_argument(
        "--guidance",
        nargs="+",
        metavar="KIND",
        help=f"columns, out of {', '.join(METHODS)}; default none,cfg,nag",
    )
    group.add_argument(
        "--steps", nargs="+", default=[], metavar="N", help="numbers of steps; default the preset's"
    )
    group.add_argument(
        "--sweep",
        nargs="+",
        default=[],
        metavar="SETTING=VALUE,VALUE",
        help="e.g. nag_scale=1,3,5,8 guidance_scale=2,7",
    )
    group.add_argument(
        "--evidence",
        action="store_true",
        help="all methods at several strengths each, for one table and one plot, in place of "
        "--guidance; --sweep says other strengths; with --steps also three of the methods at these "
        "numbers of steps",
    )
    group.add_argument(
        "--ablate",
        action="store_true",
        help="NAG without normalisation, without refinement, and with neither",
    )
    group.add_argument(
        "--count",
        type=int,
        help=f"pictures in every column, shared out among the cases or captions; default {COUNT}, "
        "of --pairs one of each",
    )
    group.add_argument(
        "--batch",
        type=int,
        help="pictures drawn together; default 32 for models that ship with this project, else 4",
    )


def _add_words(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("of which words")
    group.add_argument("--cases", help=f"of a pocket preset, out of {','.join(CASES)}; default all")
    group.add_argument(
        "--tuning",
        action="store_true",
        help="roles and seeds kept apart for tuning, instead of those that are reported",
    )
    group.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE",
        help="captions: COCO's JSON, TSV or CSV with a column caption, or lines",
    )
    group.add_argument(
        "--pairs",
        type=Path,
        metavar="FILE",
        help="prompts with a negative each, and a question about it: JSON, TSV or CSV with prompt, "
        "negative and question, as in NegGenBench",
    )
    group.add_argument(
        "--negative", help="negative prompt for all captions, e.g. 'Low resolution, blurry'"
    )


def _add_measured(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what is measured, and where it is kept")
    group.add_argument(
        "--metrics",
        nargs="+",
        metavar="NAME",
        help=f"out of {', '.join(POCKET)} (pocket models), {', '.join(HUB)}, "
        f"{', '.join(JUDGED)} (pairs), and of videos motion: how much a frame differs from the one "
        "before it, 0 to 255, and of pocket-video how many move as their words say",
    )
    group.add_argument(
        "--against",
        metavar="COLUMN",
        help="compare all others with this column, picture by picture; default: CFG's",
    )
    group.add_argument(
        "--reference-images", type=Path, metavar="DIR", help="real pictures, for fid and pfid"
    )
    group.add_argument(
        "--clip-model", default=captions.CLIP, metavar="REPO_OR_FOLDER", help="default %(default)s"
    )
    group.add_argument(
        "--judge", default=judged.JUDGE, metavar="REPO_OR_FOLDER", help="default %(default)s"
    )
    group.add_argument(
        "--dino-model", default=judged.DINO, metavar="REPO_OR_FOLDER", help="default %(default)s"
    )
    group.add_argument(
        "--inception",
        type=Path,
        metavar="FILE",
        help="Inception weights for fid and pfid; default: fetched once",
    )
    group.add_argument(
        "--out",
        type=Path,
        required=True,
        help="folder for results.json, pictures.json, table.md, sheet.png, plots and the pictures",
    )


def plan_of(options: argparse.Namespace) -> Plan:
    """Raises `Refused` for whatever cannot work, before a model is loaded."""
    for name in ("count", "batch"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise Refused(f"--{name} must be 1 or more, got {value}.")
    if options.pairs and options.prompts:
        raise Refused("Give --pairs or --prompts: either file says what to draw.")
    own = options.prompts is not None or options.pairs is not None
    preset = plan.preset_of(options.preset, options.model, own)
    columns = _columns(options, preset)
    if options.pairs is not None:
        cases, pictures = [], _pairs(options)
    elif options.prompts is None:
        cases, pictures = _cases(options)
    else:
        cases, pictures = [], _captions(options)
    metrics = _metrics(options, bool(cases), bool(preset.fps))
    none = {column.steps for column in columns if column.guidance == "none"}
    judged.check(metrics, bool(options.pairs), none >= {column.steps for column in columns})
    if preset.batch and (options.batch or 0) > preset.batch:
        raise Refused(
            f"--batch must be at most {preset.batch} for {preset.title}: its pictures depend on "
            "how many are drawn together."
        )
    batch = options.batch or preset.batch or (32 if preset.shipped else 4)
    controls = plan.controls_of(pictures) if "control" in metrics else []
    rivals = compare.rivals_of(columns, options.against)
    _writable(options.out)
    return Plan(preset, columns, pictures, metrics, batch, cases, controls, rivals)


def _columns(options, preset: Preset) -> list[plan.Column]:
    try:
        steps = [int(number) for word in options.steps for number in word.split(",")]
    except ValueError:
        raise Refused(f"--steps wants whole numbers, got {' '.join(options.steps)}.") from None
    if options.evidence:
        if options.guidance or options.ablate:
            raise Refused("--evidence has columns of its own: leave out --guidance and --ablate.")
        others = plan.sweep_of(options.sweep, list(evidence.STRENGTHS))
        return evidence.columns_for(preset, steps, others)
    kinds = plan.kinds_of(options.guidance, preset)
    sweep = plan.sweep_of(options.sweep, kinds)
    return plan.columns_of(preset, kinds, steps, sweep, options.ablate)


def _captions(options) -> list[plan.Picture]:
    if options.negative is None:
        raise Refused(
            "--prompts needs --negative TEXT, the negative prompt for all of its captions."
        )
    try:
        check_text(options.negative)
    except ValueError as error:
        raise Refused(f"--negative {error}.") from None
    return plan.of_captions(
        plan.captions_in(options.prompts), options.negative, options.count or COUNT
    )


def _pairs(options) -> list[plan.Picture]:
    if options.negative is not None:
        raise Refused(
            "--pairs has a negative prompt for each of its prompts: leave out --negative."
        )
    return pairs.pairs_in(options.pairs, options.count)


def _cases(options) -> tuple[list[str], list[plan.Picture]]:
    """The cases that have a picture, and the pictures."""
    if options.negative is not None:
        raise Refused(
            "--negative goes with --prompts; without captions, each case has a negative prompt of "
            "its own."
        )
    cases = list(dict.fromkeys((options.cases or ",".join(CASES)).split(",")))
    if unknown := [case for case in cases if case not in CASES]:
        raise Refused(f"--cases is out of {', '.join(CASES)}; got {', '.join(unknown)}.")
    pictures = plan.of_cases(cases, options.count or COUNT, options.tuning)
    return [case for case in cases if case in {picture.case for picture in pictures}], pictures


def _metrics(options, of_cases: bool, of_video: bool) -> list[str]:
    if options.metrics is None:
        real = ["fid", "pfid"] if options.reference_images else []
        pairs_own = [*JUDGED, "control"] if options.pairs else []
        mine = POCKET if of_cases else [*pairs_own, "clip", *real]
        metrics = [*mine, *(VIDEO if of_video else ())]
    else:
        metrics = list(dict.fromkeys(name for word in options.metrics for name in word.split(",")))
    known = POCKET + HUB + JUDGED + VIDEO
    if unknown := [name for name in metrics if name not in known]:
        raise Refused(f"--metrics is out of {', '.join(known)}; got {', '.join(unknown)}.")
    if "motion" in metrics and not of_video:
        raise Refused("motion can be measured on videos only.")
    mine = set(POCKET) - ({"control"} if options.pairs else set())
    if not of_cases and (wrong := [name for name in metrics if name in mine]):
        raise Refused(
            f"{', '.join(wrong)} can be measured on a pocket preset's own cases only, not on "
            "captions."
        )
    references.check("frechet" in metrics, of_cases and "motion" in metrics)
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
