"""NAG without a page: `python -m nag compare`, `sweep`, `seeds`, `evaluate`, `fidelity`, `models`, `check`, `families`."""

import argparse
import json
import os
import sys
from pathlib import Path

from . import presets
from .errors import NAGError, Refused
from .evaluate import command as evaluation
from .evaluate import fidelity
from .explore import command as explore
from .media import uploads
from .request import DEFAULT


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m nag", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    compare = commands.add_parser(
        "compare", help="draw one seed without guidance, with CFG and with NAG"
    )
    _add_request(compare)
    compare.add_argument(
        "--out", type=Path, required=True, help="folder for the pictures or videos and run.json"
    )
    sweep = commands.add_parser("sweep", help="a grid of pictures over two settings")
    seeds = commands.add_parser("seeds", help="the same columns on many seeds, counted")
    for parser_of, add in ((sweep, explore.add_sweep), (seeds, explore.add_seeds)):
        _add_request(parser_of)
        add(parser_of)
    evaluate = commands.add_parser(
        "evaluate", help="count what guidance does to many pictures: rates, distances, plots"
    )
    evaluation.add_arguments(evaluate)
    fidelity_parser = commands.add_parser(
        "fidelity", help="does a pocket model draw what its words say?"
    )
    fidelity.add_arguments(fidelity_parser)
    commands.add_parser(
        "models", help="list the presets: size, licence, and what this machine can run"
    )
    check = commands.add_parser(
        "check", help="load a preset's model and draw two steps with every kind of guidance"
    )
    check.add_argument("--preset", default=DEFAULT)
    check.add_argument(
        "--dry",
        action="store_true",
        help="load nothing: only ask the installed diffusers whether the preset fits it",
    )
    check.add_argument("--all", action="store_true", help="every preset, with --dry")
    families = commands.add_parser(
        "families", help="the table of denoiser classes, as it stands in the README"
    )
    families.add_argument(
        "--write", type=Path, help="a Markdown file to put it into, between its two families marks"
    )
    options = parser.parse_args(_words() if arguments is None else arguments)
    try:
        return {
            "compare": _compare,
            "sweep": lambda options: explore.sweep(options, *_asked(options)),
            "seeds": lambda options: explore.seeds(options, *_asked(options)),
            "evaluate": evaluation.run,
            "fidelity": fidelity.run,
            "models": _models,
            "check": _check,
            "families": _families,
        }[options.command](options)
    except NAGError as error:
        print(error, file=sys.stderr)
        return 2


def _words() -> list[str]:
    """The command line, also where the locale knows ASCII alone and Python decodes and prints that."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")
    return [os.fsencode(word).decode("utf-8", "surrogateescape") for word in sys.argv[1:]]


def _add_request(parser: argparse.ArgumentParser) -> None:
    """What is to be drawn, for the commands that draw."""
    parser.add_argument("--preset", default=DEFAULT, help="a file of presets/, without .json")
    parser.add_argument("--prompt")
    parser.add_argument("--negative-prompt")
    parser.add_argument("--seed", type=int)
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="pairs",
        help='any other setting, e.g. --set nag_scale=6 --set \'guidance=["none","nag"]\'',
    )
    parser.add_argument(
        "--model",
        help="a local folder, a repository on the hub, or one .safetensors or .gguf file, in place "
        "of the preset's own model",
    )
    parser.add_argument(
        "--image",
        type=Path,
        help="the picture that an editing or image-to-video preset begins with",
    )


def _settings(options) -> dict:
    raw = {"preset": options.preset}
    for pair in options.pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise Refused(f"--set wants KEY=VALUE, got {pair!r}.")
        try:
            raw[key] = json.loads(value)
        except ValueError:
            raw[key] = value
    for key in ("prompt", "negative_prompt", "seed"):
        if getattr(options, key) is not None:
            raw[key] = getattr(options, key)
    return raw


def _asked(options) -> tuple:
    """(preset, request, picture to begin with or None). Raises `Refused`."""
    known = dict(presets.load_all())
    if options.model and options.preset in known:
        known[options.preset] = known[options.preset].with_model(options.model)
    preset, request = presets.resolve(_settings(options), known)
    if options.image and not preset.image:
        raise Refused(f"{preset.title} takes no picture: leave --image out.")
    if options.image and not options.image.is_file():
        raise Refused(f"--image {options.image} is no file.")
    start = uploads.load(options.image, preset.title) if preset.image else None
    return preset, request, start


def _compare(options) -> int:
    preset, request, start = _asked(options)
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Refused(f"--out {options.out} cannot be made: {error.strerror}.") from None
    from tqdm import tqdm

    from .engine.engine import Engine

    total, run = request.num_inference_steps * len(request.guidance), None
    with tqdm(total=total, desc="loading", unit="step") as bar:
        for run, column, _ in Engine(previews=False).run(preset, request, image=start):
            bar.update(sum(c.step for c in run.columns) - bar.n)
            if column is not None:
                bar.set_description(f"{column.key}, {column.state}")
    pictures = [(column, column.image) for column in run.columns if column.state == "done"]
    for column, image in pictures:
        image.save(options.out / f"{column.key.replace('+', '-')}.png")
        if column.video:
            (options.out / f"{column.key.replace('+', '-')}.mp4").write_bytes(column.video)
    if pictures:
        from .page.strip import strip

        strip(run).save(options.out / "strip.png")
    (options.out / "run.json").write_text(json.dumps(run.json(), indent=2) + "\n", encoding="utf-8")
    for column in run.columns:
        relative = run.relative(column)
        speed = (
            f"for {' and '.join(column.together)} together  "
            if column.together
            else f"{relative:.2f}x time  "
            if relative
            else ""
        )
        print(f"{column.key:8} {column.state:8} {column.seconds:7.2f} s  {speed}{column.reason}")
    print(run.hint)
    return 0 if len(pictures) == len(run.columns) else 1


def _models(options) -> int:
    from .engine.memory import runs_here

    for name, preset in presets.load_all().items():
        size = f"{preset.size_gb:5.1f} GB" if preset.size_gb else "ships   "
        what = "video" if preset.range("num_frames")[1] > 1 else "edit" if preset.image else "image"
        print(
            f"{name:24} {what:6} {size}  {'gated' if preset.gated else '     '}  {runs_here(preset):34} {preset.licence}"
        )
    return 0


def _check(options) -> int:
    """Two steps of every column at the preset's smallest size, so that a machine with the weights can say whether all fits together."""
    if options.dry:
        return _check_dry(list(presets.load_all()) if options.all else [options.preset])
    if options.all:
        raise Refused("check --all goes with --dry: without it, every model would be fetched.")
    from .engine.engine import Engine
    from .families import supports

    preset, _ = presets.resolve({"preset": options.preset})
    engine = Engine(previews=False)
    least = {
        "num_inference_steps": max(2, int(preset.range("num_inference_steps")[0])),
        "num_frames": int(preset.range("num_frames")[0]),
    }
    preset, request = presets.resolve({"preset": options.preset, **least})
    image = None
    if preset.image:
        from PIL import Image

        image = Image.new("RGB", (request.width, request.height), "#8899aa")
    for run, _, _ in engine.run(preset, request, image=image):  # noqa: B007
        pass
    loaded = engine.shelf.get(preset)
    print(f"{preset.title}: {run.device}, {run.dtype}. {supports(loaded.pipe)[1]}")
    for column in run.columns:
        print(
            f"{column.key:8} {column.state:8} {column.seconds:7.2f} s for {column.step} steps, guided {column.guided_steps}  {column.reason}"
        )
    if run.device.startswith("cuda"):
        import torch

        print(f"peak {torch.cuda.max_memory_allocated() / 1e9:.1f} GB on the GPU")
    return 0 if all(column.state == "done" for column in run.columns) else 1


def _check_dry(names: list[str]) -> int:
    """What can be said of presets without their weights."""
    from .engine.dry import faults, missing

    found = 0
    for name in names:
        preset = presets.resolve({"preset": name})[0]
        if packages := missing(preset):
            lines = [f"cannot be checked: pip install {packages}"]
        else:
            lines = faults(preset)
            found += len(lines)
        print(f"{name:24} {' '.join(lines) or 'ok'}")
    return 1 if found else 0


def families_table() -> str:
    """All rows and refusals of `nag/families/table.py` as Markdown, with diffusers' pipelines that hold such a denoiser."""
    import re

    import diffusers

    from .families import FAMILIES, REFUSED

    users = {}
    for path in sorted((Path(diffusers.__file__).parent / "pipelines").rglob("*.py")):
        for pipeline, body in re.findall(
            r"^class (\w+)Pipeline\(.*?def __init__\((.*?)\):\n",
            path.read_text(encoding="utf-8"),
            re.S | re.M,
        ):
            hints = " ".join(re.findall(r"(?:unet|transformer|prior)\w*: ([^=\n]*)", body))
            for part in set(re.findall(r"\w+", hints)):
                users.setdefault(part, []).append(pipeline)
    lines = [
        f"{len(FAMILIES)} denoiser classes of diffusers have a row:",
        "",
        "| denoiser | in these pipelines | what is special |",
        "|---|---|---|",
    ]
    for name, family in sorted(FAMILIES.items()):
        pipelines = users.get(name, [])
        more = f" and {len(pipelines) - 5} more" if len(pipelines) > 5 else ""
        special = (
            " ".join(family.adapter.__doc__.split()).split(". ")[0].split(":")[0].rstrip(".") + "."
            if family.adapter
            else ""
        )
        lines.append(
            f"| `{name}` | {', '.join(pipelines[:5])}{more} | {' '.join(f'{special} {family.remark}'.split())} |"
        )
    lines += [
        "",
        f"{len(REFUSED)} are refused with a sentence:",
        "",
        "| refused | because |",
        "|---|---|",
    ]
    return "\n".join(
        [*lines, *(f"| `{name}` | {reason} |" for name, reason in sorted(REFUSED.items()))]
    )


def _families(options) -> int:
    if not options.write:
        print(families_table())
        return 0
    before, _, rest = options.write.read_text(encoding="utf-8").partition("<!-- families -->")
    _, _, after = rest.partition("<!-- /families -->")
    options.write.write_text(
        f"{before}<!-- families -->\n{families_table()}\n<!-- /families -->{after}",
        encoding="utf-8",
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
