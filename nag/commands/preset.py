"""`python -m nag preset`: settings of the command line as a preset file."""

import argparse
from pathlib import Path

from .. import preset_text
from ..errors import Refused
from . import asked


def add_arguments(parser: argparse.ArgumentParser) -> None:
    asked.add_arguments(parser)
    parser.add_argument("--out", type=Path, help="the file; without it, the text is printed")


def run(options: argparse.Namespace) -> int:
    """Raises `Refused` for settings that no preset can have, and for a file that is there."""
    preset, request = asked.settings_of(options)
    text = preset_text.text_of(preset, request)
    if options.out is None:
        print(text, end="")
    elif options.out.exists():
        raise Refused(f"There is a file {options.out} already: give --out another name.")
    else:
        options.out.write_text(text, encoding="utf-8")
    return 0
