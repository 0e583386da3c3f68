"""Vote: two pictures of one seed, names hidden, sides shuffled."""

from __future__ import annotations

import contextlib
import random
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import gradio as gr

from ... import private
from ...engine.reuse import LeastRecentlyUsed
from ...errors import NAGRuntimeError, Refused
from ...explore.votes import CHOICES, QUESTIONS, Vote, VoteFile, sides, tally, to_csv
from ...methods import METHODS
from ...request import Value
from ..controls import in_order
from ..files import FOLDER, file_data
from ..inline import data_uri
from .asked import asked as asked_for
from .asked import fields

if TYPE_CHECKING:
    from ..zero_gpu import LentEngine

SIDE = 512  # px


@dataclass
class Ballot:
    """One visitor's votes, and the pair that waits for an answer."""

    votes: list[Vote] = field(default_factory=list)
    pair: dict | None = None
    stop: threading.Event = field(default_factory=threading.Event)


class VoteRoom:
    """Draws pairs and counts answers. file: where votes are kept beyond a visit, or None.

    engine: see `nag.engine.engine`.
    """

    def __init__(self, engine: LentEngine, file: Path | None = None) -> None:
        self.engine, self.random = engine, random.Random()
        self.file = VoteFile(file) if file else None
        self.ballots, self.lock = LeastRecentlyUsed(256, 256, 3600), threading.Lock()

    def draw(self, event: gr.EventData, request: gr.Request, *values: Value) -> Iterator[dict]:
        """A new pair, on an example of the preset with a seed of its own. Raises `Refused`."""
        ballot = self._ballot(request.session_hash)
        columns = self._columns(fields(values), private.event_data(event))
        new = {"guidance": columns, "fresh": False, "seed": self.random.randrange(2**32)}
        found = asked_for(values, **new)
        if found.preset.prompts and not found.preset.image:  # words go with the picture of these
            pair = self.random.choice(found.preset.prompts)
            words = {"prompt": pair.prompt, "negative_prompt": pair.negative_prompt}
            found = asked_for(values, **new, **words)
        preset, asked, start = found.preset, found.request, found.start
        ballot.stop = threading.Event()
        yield self.value(ballot, columns) | {"state": "running"}
        events = self.engine.run(preset, asked, ballot.stop, uuid.uuid4().hex[:12], start)
        with contextlib.closing(events):
            for run, _, _ in events:  # noqa: B007
                pass
        done = {c.key: c for c in run.columns if c.state == "done"}
        if failed := next((c.reason for c in run.columns if c.state == "failed"), None):
            raise NAGRuntimeError(failed)
        if len(done) == 2:
            left, right = sides(*done, self.random)
            ballot.pair = {
                "preset": preset.name,
                "prompt": asked.prompt,
                "negative_prompt": asked.negative_prompt,
                "seed": asked.seed,
                "left": left,
                "right": right,
                "pictures": [data_uri(done[key].image, SIDE) for key in (left, right)],
                "asked": "words",
            }
        yield self.value(ballot, columns)

    def answer(self, event: gr.EventData, request: gr.Request) -> dict:
        """{"choice": one of left, right, tie, neither} -> the room's value. Raises `Refused`."""
        ballot, choice = self._ballot(request.session_hash), private.event_data(event).get("choice")
        if ballot.pair is None:
            raise Refused("This pair was answered already: draw another.")
        if choice not in CHOICES:
            raise Refused(f"An answer is one of {', '.join(CHOICES)}, got {choice!r:.40}.")
        pair = ballot.pair
        told = {name: pair[name] for name in ("preset", "prompt", "negative_prompt", "seed")}
        vote = Vote(**told, **_sides(pair), question=pair["asked"], choice=choice)
        ballot.votes.append(vote)
        if self.file:
            self.file.add(vote)
        columns = sorted(_sides(pair).values(), key=list(METHODS).index)
        if pair["asked"] == "words":
            pair["asked"] = "looks"
            return self.value(ballot, columns)
        ballot.pair = None
        names = [METHODS[key].label for key in (pair["left"], pair["right"])]
        return self.value(ballot, columns) | {"was": pair["pictures"], "names": names}

    def halt(self, request: gr.Request) -> None:
        """Stops within a step."""
        self._ballot(request.session_hash).stop.set()

    def ended(self, request: gr.Request) -> dict:
        """The room's value after a run that ended with an error: no new pair."""
        return self.value(self._ballot(request.session_hash), [])

    def export(self, request: gr.Request) -> dict:
        """The visit's votes as CSV; with the owner's file, all votes. Raises `Refused`."""
        ballot = self._ballot(request.session_hash)
        votes = self.file.read() if self.file else ballot.votes
        if not votes:
            raise Refused("There are no votes yet.")
        path = FOLDER.write(
            f"votes-{uuid.uuid4().hex[:8]}.csv",
            lambda p: p.write_text(to_csv(votes), encoding="utf-8"),
        )
        return self.value(ballot, []) | {"file": file_data(path, "text/csv")}

    def value(self, ballot: Ballot, columns: list[str]) -> dict:
        """What the browser draws. The names of a pair that waits are not in it."""
        pair = ballot.pair
        shown = None
        if pair:
            kept = ("prompt", "negative_prompt", "pictures", "asked")
            shown = {name: pair[name] for name in kept}
        key = next((key for key in ("nag", "cfg+nag", *columns) if key in columns), "nag")
        return {
            "state": "asking" if pair else "waiting",
            "pair": shown,
            "count": sum(v.question == "looks" for v in ballot.votes),
            "columns": [METHODS[one].label for one in columns],
            "kept": self.file is not None,
            "tallies": [_tally(ballot.votes, question, key) for question in QUESTIONS],
        }

    def _columns(self, raw: dict, data: dict) -> list[str]:
        """The two ways to guide that are compared. Raises `Refused`."""
        asked = data.get("columns")
        ticked = in_order(raw["guidance"] or ())
        ordered = [key for key in ("cfg", "nag") if key in ticked]
        two = asked if isinstance(asked, list) else ordered if len(ordered) == 2 else ticked[-2:]
        if len(two) != 2 or any(key not in METHODS for key in two) or two[0] == two[1]:
            raise Refused("A vote compares two columns: tick two of them under More.")
        return list(two)

    def _ballot(self, session: str | None) -> Ballot:
        with self.lock:
            ballot = self.ballots.get(session) or Ballot()
            self.ballots.put(session, ballot, 1)
        return ballot


def _sides(pair: dict) -> dict[str, str]:
    return {side: pair[side] for side in ("left", "right")}


def _tally(votes: list[Vote], question: str, key: str) -> dict:
    """The paper's score and the interval of the decided votes, for one column."""
    found = tally(votes, question, key)
    return {"question": QUESTIONS[question], "name": METHODS[key].label, **found.json()}
