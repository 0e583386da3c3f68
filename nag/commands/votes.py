"""`python -m nag votes`: counts the blind votes that `python app.py --votes FILE` has kept."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..errors import Refused
from ..explore.votes import QUESTIONS, Tally, VoteFile, tally, to_csv
from ..methods import METHODS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="the file that app.py was started with")
    parser.add_argument(
        "--column",
        default="nag",
        choices=list(METHODS),
        help="whose wins are counted against all others; default: nag",
    )
    parser.add_argument("--csv", action="store_true", help="print every vote instead, as CSV")


def run(options: argparse.Namespace) -> int:
    """Prints a line a question. Raises `Refused`."""
    if not options.file.is_file():
        raise Refused(f"There is no file {options.file}: it is made by python app.py --votes FILE.")
    votes = VoteFile(options.file).read()
    if options.csv:
        sys.stdout.write(to_csv(votes))
        return 0
    for question, said in QUESTIONS.items():
        print(_line(METHODS[options.column].name, said, tally(votes, question, options.column)))
    return 0


def _line(name: str, said: str, one: Tally) -> str:
    """One question's counts, with the interval and the paper's score."""
    if not one.votes:
        return f"{name}, {said}: no votes yet"
    text = f"{name}, {said}: {one.wins} wins, {one.losses} losses, {one.draws} draws"
    if one.interval:
        low, high = (round(100 * share) for share in one.interval)
        text += f"; of the decided 95 %: {low} to {high} of 100"
    return f"{text}; (wins - losses) / votes {one.score:+.2f}"
