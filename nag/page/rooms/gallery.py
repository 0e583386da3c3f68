"""Gallery: the pictures of an evaluation, sorted and filtered, each opening in the bench."""

from __future__ import annotations

import functools
import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import gradio as gr

from ... import private
from ...engine.run import Column, Run
from ...engine.verdict import judge
from ...errors import Refused
from ...evaluate import draw
from ...evaluate.pictures import KINDS, LITTLE, Results, Shown
from ...explore.reading import meter_of
from ...media import video
from ...presets import resolve
from ..controls import INPUTS, PRESETS
from ..inline import data_uri
from ..painting import Painting
from ..restore import shown as fields_of

if TYPE_CHECKING:
    from ..handlers import PageHandlers

PAGE = 48  # pictures that are looked at together
SIDE = 160  # px of one
SORTS = {
    "case": "by case",
    "drawn": "as drawn",
    "kind": "by outcome",
    "least": "least kept first",
    "most": "most kept first",
    "seed": "by seed",
}
LITTLE_KIND = "little"  # among the outcomes to choose from: whatever became of the thing


class GalleryRoom:
    """Answers the room's buttons. handlers: the page's handlers, who stop what still draws and keep
    what can be saved. The browser names pictures by number and column, never by file."""

    def __init__(self, handlers: PageHandlers, folder: Path) -> None:
        self.handlers, self.results = handlers, Results(folder)
        if self.results.preset not in PRESETS:
            raise Refused(f"{folder}: there is no preset {self.results.preset!r} here any more.")
        self.preset = PRESETS[self.results.preset]
        self.small = functools.lru_cache(2048)(self._small)

    def page(self, event: gr.EventData) -> dict:
        """{"column", "case", "outcome", "sort", "page"}, all may be left out -> what the browser
        draws."""
        return self.value(private.event_data(event))

    def value(self, asked: dict) -> dict:
        """One page of pictures, and what there is to choose from."""
        results, columns = self.results, list(self.results.columns)
        guided = next((k for k in columns if "nag" in results.columns[k]["guidance"]), columns[-1])
        column, case = _one_of(asked, "column", columns, guided), asked.get("case") or ""
        of_case = [s for s in results.all if s.column == column and case in ("", s.picture.case)]
        counts = Counter(s.kind for s in of_case if s.kind)
        counts[LITTLE_KIND] = sum(s.little for s in of_case)
        outcome = _one_of(asked, "outcome", ["", *KINDS, LITTLE_KIND], "")
        sort = _one_of(asked, "sort", list(SORTS), "case")
        found = [s for s in of_case if _fits(s, outcome)]
        found.sort(key=functools.partial(_order, sort, results.cases))
        pages = max(1, -(-len(found) // PAGE))
        page = asked.get("page") if isinstance(asked.get("page"), int) else 0
        page = min(max(page, 0), pages - 1)
        return {
            "room": "gallery",
            "title": f"{self.preset.title}, {results.model}",
            "asked": {"column": column, "case": case, "outcome": outcome, "sort": sort},
            "columns": columns,
            "cases": results.cases,
            "outcomes": [[kind, counts[kind]] for kind in (*KINDS, LITTLE_KIND) if counts[kind]],
            "whole": len(of_case),
            "sorts": list(SORTS.items()),
            "little": LITTLE,
            "count": len(found),
            "page": page,
            "pages": pages,
            "first": page * PAGE,
            "aspect": self._size(column)[0] / self._size(column)[1],
            "pictures": [self._told(one) for one in found[page * PAGE : (page + 1) * PAGE]],
        }

    def _size(self, column: str) -> tuple[int, int]:
        settings = self.results.columns[column]
        return settings["width"], settings["height"]

    def _told(self, one: Shown) -> dict:
        picture, plain = one.picture, self.results.plain(one.column)
        before = (
            self.results.by_place[one.number, plain] if plain not in (None, one.column) else None
        )
        return {
            "number": one.number,
            "column": one.column,
            "prompt": picture.prompt,
            "negative": picture.negative,
            "seed": picture.seed,
            "outcome": one.kind,
            "keep": one.keep,
            "little": one.little,
            "preview": self.small(one.file, one.number, one.column),
            "before": self.small(before.file, before.number, before.column) if before else "",
        }

    def _small(self, file: str, number: int, column: str) -> str:
        """A data URI; "" where the file is gone or broken. file: so that it is remembered by it."""
        try:
            frames, _ = draw.read(self.results.path(self.results.by_place[number, column]))
        except (Refused, OSError, ValueError, KeyError):
            return ""
        return data_uri(frames[len(frames) // 2], SIDE)

    def open(self, event: gr.EventData, request: gr.Request) -> list:
        """{"number", "column"} -> the page's fields and bench with that picture, beside the same
        one without guidance, with CFG and with NAG. Raises `Refused`."""
        asked = private.event_data(event)
        place = asked.get("number"), asked.get("column")
        if place not in self.results.by_place:
            raise Refused("There is no such picture in these results.")
        self.handlers.leave(request)
        run = self.run(self.results.by_place[place])
        painting = Painting(self.preset, run.request, run.id)
        painting.update(run, None)
        told = painting.shown(None)
        self.handlers.keeper.put(told)
        updates = fields_of(self.preset, run.request)
        bench = len(INPUTS) + 2  # behind the start picture and the notches
        updates[bench] = told.bench | {"opened": True}
        return updates

    def run(self, one: Shown) -> Run:
        """The columns beside each other, as if they had been compared."""
        results, settings = self.results, {}
        own = results.columns[one.column]["guidance"]
        keys = {g: results.like(one.column, g) for g in ("none", "cfg", "nag", own)}
        keys = {g: key for g, key in (keys | {own: one.column}).items() if key}
        for key in (*keys.values(), one.column):
            settings |= {k: v for k, v in results.columns[key].items() if k in INPUTS}
        picture = one.picture
        words = {"prompt": picture.prompt, "negative_prompt": picture.negative}
        raw = settings | words | {"seed": picture.seed, "guidance": list(keys)}
        _, request = resolve(raw | {"preset": self.preset.name}, PRESETS)
        files = [results.by_place[one.number, key].file for key in keys.values()]
        number = hashlib.sha256(json.dumps([one.column, files]).encode()).hexdigest()[:12]
        columns = [self._column(g, one.number, key, number) for g, key in keys.items()]
        run = Run(number, self.preset, request, columns, device=results.device, over=True)
        judge(meter_of(self.preset), run)
        return run

    def _column(self, guidance: str, number: int, key: str, run: str) -> Column:
        """Without a time: that of an evaluation is a whole batch's, shared out."""
        frames, made = draw.read(self.results.path(self.results.by_place[number, key]))
        steps = made["num_inference_steps"]
        column = Column(guidance, steps, "done", steps, guided_steps=steps)
        column.image, column.run, column.reused = frames[len(frames) // 2], run, True
        if len(frames) > 1:
            column.frames, column.video = frames, video.encode(frames, self.preset.fps or 16)
        return column


def _one_of(asked: dict, name: str, known: list[str], default: str) -> str:
    value = asked.get(name, default)
    if value not in known:
        raise Refused(f"{name} must be one of {', '.join(filter(None, known))}; got {value!r:.60}.")
    return value


def _fits(one: Shown, outcome: str) -> bool:
    return one.little if outcome == LITTLE_KIND else outcome in ("", one.kind)


def _order(sort: str, cases: list[str], one: Shown):
    case = cases.index(one.picture.case) if one.picture.case else 0
    kind = KINDS.index(one.kind) if one.kind else 0
    keep = one.keep if one.keep is not None else -1.0
    first = {
        "case": (case, kind),
        "drawn": (),
        "kind": (kind, case),
        "least": (keep,),
        "most": (-keep,),
        "seed": (one.picture.seed,),
    }[sort]
    return *first, one.number
