"""The comparison without a page: `python -m nag compare --prompt "..." --negative-prompt "..." --out DIR`."""

import argparse
import json
import sys
from pathlib import Path

from . import presets


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m nag", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    compare = commands.add_parser("compare", help="draw one seed without guidance, with CFG and with NAG")
    compare.add_argument("--preset", default=presets.DEFAULT, help="a file of presets/, without .json")
    compare.add_argument("--prompt")
    compare.add_argument("--negative-prompt")
    compare.add_argument("--seed", type=int)
    compare.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="pairs",
                         help="any other setting, e.g. --set nag_scale=6 --set 'guidance=[\"none\",\"nag\"]'")
    compare.add_argument("--model", help="a local folder or a repository on the hub, in place of the preset's own model")
    compare.add_argument("--out", type=Path, required=True, help="folder for the pictures and run.json")
    options = parser.parse_args(arguments)
    try:
        return _compare(options)
    except presets.Refused as error:
        print(error, file=sys.stderr)
        return 2


def _settings(options) -> dict:
    raw = {"preset": options.preset}
    for pair in options.pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise presets.Refused(f"--set wants KEY=VALUE, got {pair!r}.")
        try:
            raw[key] = json.loads(value)
        except ValueError:
            raw[key] = value
    for key in ("prompt", "negative_prompt", "seed"):
        if getattr(options, key) is not None:
            raw[key] = getattr(options, key)
    return raw


def _compare(options) -> int:
    known = dict(presets.load_all())
    if options.model and options.preset in known:
        known[options.preset] = known[options.preset].with_model(options.model)
    preset, request = presets.resolve(_settings(options), known)
    from tqdm import tqdm

    from .compare import Engine

    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise presets.Refused(f"--out {options.out} cannot be made: {error.strerror}.") from None
    run, bar = None, tqdm(total=request.num_inference_steps * len(request.guidance), desc="loading", unit="step")
    for run, column, _ in Engine(previews=False).run(preset, request):
        bar.update(sum(c.step for c in run.columns) - bar.n)
        if column is not None:
            bar.set_description(f"{column.key}, {column.state}")
    bar.close()
    pictures = [(column, column.image) for column in run.columns if column.state == "done"]
    for column, image in pictures:
        image.save(options.out / f"{column.key.replace('+', '-')}.png")
    if pictures:
        from .strip import strip

        strip(run).save(options.out / "strip.png")
    (options.out / "run.json").write_text(json.dumps(run.json(), indent=2) + "\n")
    for column in run.columns:
        relative = run.relative(column)
        print(f"{column.key:8} {column.state:8} {column.seconds:7.2f} s  " + (f"{relative:.2f}x time  " if relative else "") + column.reason)
    print(run.hint)
    return 0 if len(pictures) == len(run.columns) else 1


if __name__ == "__main__":
    sys.exit(main())
