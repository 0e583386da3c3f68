"""Blind votes on pairs of pictures: which follows the words, which looks better.

Sides are shuffled, and names hidden until the end. The score is that of the paper's user study
(arXiv 2505.21179): (P - N) / (P + S + N), of votes for NAG, for neither (S) and against NAG.
"""

import contextlib
import csv
import io
import random
import sqlite3
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from ..errors import Refused
from .counting import wilson

QUESTIONS = {"words": "follows the words", "looks": "looks better"}
CHOICES = ("left", "right", "tie", "neither")


@dataclass(frozen=True)
class Vote:
    """One answer. `left` and `right` are the columns that stood there, such as "nag" and "cfg"."""

    preset: str
    prompt: str
    negative_prompt: str
    seed: int
    left: str
    right: str
    question: str
    choice: str

    def __post_init__(self) -> None:
        if self.question not in QUESTIONS or self.choice not in CHOICES:
            raise Refused(
                f"A vote answers one of {', '.join(QUESTIONS)} with one of {', '.join(CHOICES)}; "
                f"got {self.question!r} and {self.choice!r}."
            )

    @property
    def winner(self) -> str | None:
        """The column that was preferred, or None."""
        return {"left": self.left, "right": self.right}.get(self.choice)


def sides(first: str, second: str, rng: random.Random) -> tuple[str, str]:
    """(left, right), either way equally often."""
    return (first, second) if rng.random() < 0.5 else (second, first)


@dataclass(frozen=True)
class Tally:
    """Of one question, for `column` against all else: wins, losses, draws."""

    wins: int
    losses: int
    draws: int

    @property
    def votes(self) -> int:
        return self.wins + self.losses + self.draws

    @property
    def score(self) -> float | None:
        """(P - N) / (P + S + N), from -1 to 1; 0 is no preference, None no vote."""
        return (self.wins - self.losses) / self.votes if self.votes else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval of the share of wins among decided votes."""
        decided = self.wins + self.losses
        return wilson(self.wins, decided) if decided else None

    def json(self) -> dict:
        """The counts, and what follows of them."""
        return {**vars(self), "score": self.score, "interval": self.interval}


def tally(votes: Iterable[Vote], question: str, column: str = "nag") -> Tally:
    """Votes on pairs in which `column` stood."""
    seen = [v for v in votes if v.question == question and column in (v.left, v.right)]
    wins = sum(v.winner == column for v in seen)
    draws = sum(v.winner is None for v in seen)
    return Tally(wins, len(seen) - wins - draws, draws)


def to_csv(votes: Iterable[Vote]) -> str:
    """A heading and one line a vote. An apostrophe keeps a spreadsheet from running a cell."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([f.name for f in fields(Vote)])
    for vote in votes:
        writer.writerow(
            [
                f"'{v}" if isinstance(v, str) and v[:1] in "=+-@\t\r" and v else v
                for v in astuple(vote)
            ]
        )
    return out.getvalue()


class VoteFile:
    """Votes in a SQLite file that the owner names at the start.

    Each call opens and closes it: visitors come from several threads.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.names = path, [f.name for f in fields(Vote)]
        columns = ", ".join(
            f"{name} {'INTEGER' if name == 'seed' else 'TEXT'} NOT NULL" for name in self.names
        )
        with self._open() as file:
            file.execute(f"CREATE TABLE IF NOT EXISTS votes ({columns})")

    @contextlib.contextmanager
    def _open(self):
        try:
            with contextlib.closing(sqlite3.connect(self.path, timeout=10)) as file, file:
                yield file
        except sqlite3.Error as error:
            raise Refused(f"Votes cannot be kept in {self.path.name}: {error}.") from None

    def add(self, vote: Vote) -> None:
        marks = ", ".join("?" * len(self.names))
        with self._open() as file:
            file.execute(f"INSERT INTO votes VALUES ({marks})", astuple(vote))

    def read(self) -> list[Vote]:
        with self._open() as file:
            return [
                Vote(*row) for row in file.execute(f"SELECT {', '.join(self.names)} FROM votes")
            ]
