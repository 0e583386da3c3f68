"""`python -m nag families`: the table of denoiser classes in nag/families/README.md."""

import argparse
from pathlib import Path

from ..errors import Refused

MARKS = "<!-- families -->", "<!-- /families -->"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--write", type=Path, help="a Markdown file to put it into, between its two families marks"
    )


def run(options: argparse.Namespace) -> int:
    from ..families.markdown import table

    if not options.write:
        print(table())
        return 0
    text = options.write.read_text(encoding="utf-8")
    before, begin, rest = text.partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not (begin and end):
        raise Refused(f"{options.write} has not both marks, {MARKS[0]} and behind it {MARKS[1]}.")
    text = f"{before}{MARKS[0]}\n{table()}\n{MARKS[1]}{after}"
    options.write.write_text(text, encoding="utf-8")
    return 0
