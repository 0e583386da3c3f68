"""What happened to the pictures, in plain words, and what to try next.

Everything said is measured: by the meter, which reads the pocket models' pictures; where there is
no meter, only by what the pictures and latents themselves say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..media.outcome import PLAIN, likeliest, outcome
from ..request import Request
from . import grammar
from .run import Column, Run
from .words import WORD, shortened, unknown_words

if TYPE_CHECKING:
    from PIL import Image

    from ..media.meter import Meter

NOTHING, TOO_MUCH = 1.5, 1.6  # of 255; times the spread of the un-guided latents
MANY, ALTOGETHER = 2, 4  # attributes that nobody asked to change


def mean_difference(
    a: Image.Image | list[Image.Image], b: Image.Image | list[Image.Image]
) -> float:
    """Mean absolute difference of two pictures, or of two lists of frames, 0 to 255."""
    import numpy as np

    if isinstance(a, list):
        return float(
            np.mean([mean_difference(one, other) for one, other in zip(a, b, strict=False)])
        )
    return float(
        np.abs(
            np.asarray(a.convert("RGB"), np.float32) - np.asarray(b.convert("RGB"), np.float32)
        ).mean()
    )


def judge(meter: Meter | None, run: Run) -> None:
    """Fills in what the meter (or None) reads of each column, and the run's verdict and hint.

    The verdict: {"sign": a kind or "", "head": a sentence, "text": what else was measured,
    "moves": [{"label", "set": settings to try}]}. Signs are kinds of `media.outcome.Outcome`.
    """
    done = {c.key: c for c in run.columns if c.state == "done"}
    seen, named = _read(meter, run, done) if meter and done else ({}, [])
    key = next((key for key in ("nag", "cfg+nag") if key in done), None)
    if "none" not in done or key is None:
        return
    facts = _Facts(run, done, done[key], seen, named, meter)
    run.verdict = facts.verdict()
    run.hint = " ".join(filter(None, (run.verdict["head"], facts.rest())))


def _read(meter, run: Run, done: dict[str, Column]):
    """Notes readings and outcomes in the columns -> (what each picture shows, the things named)."""
    named = meter.named_in(run.request.negative_prompt)
    read = dict(zip(done, meter.read([c.frames or c.image for c in done.values()]), strict=True))
    for key, column in done.items():
        column.readings = {meter.phrase(pair): read[key][pair[0]][pair[1]] for pair in named}
        if "none" in read and key != "none":
            column.outcomes = {
                meter.phrase(pair): outcome(read["none"], read[key], [pair]) for pair in named
            }
    return {key: likeliest(one) for key, one in read.items()}, named


class _Facts:
    """What is known of a run that is over, and the sentence that it makes."""

    def __init__(self, run: Run, done: dict, column: Column, seen: dict, named: list, meter):
        self.run, self.request, self.done, self.column = run, run.request, done, column
        self.meter, self.named = meter, named
        plain = done["none"]
        pictures = (one.frames or one.image for one in (plain, column))
        self.changed = mean_difference(*pictures)
        self.burnt = column.spread > TOO_MUCH * plain.spread
        self.things = {thing: one.kind for thing, one in column.outcomes.items()}
        asked = {name for name, _ in named}
        shows = seen.get("none", {})
        others = {n: v for n, v in shows.items() if n not in asked}
        after = seen.get(column.key, {})
        self.before, self.after = others, after
        self.also = [n for n, v in others.items() if after[n] != v]
        self.kept = [n for n, v in others.items() if after[n] == v and v != "none"]

    def verdict(self) -> dict:
        sign, head, moves = self._main()
        text = " ".join(filter(None, (self.rest(), self._cost())))
        return {"sign": sign, "head": head, "text": text, "moves": moves}

    def _main(self):
        """-> (sign, headline, next moves)."""
        if self.request.nag.off:
            return "", "NAG is off: scale 1, alpha 0 or end 0 means that nothing is touched.", []
        if not self.request.negative_prompt.strip():
            return "", "There is nothing to push away from: the negative prompt is empty.", []
        stated = self._stated()
        if stated:
            head = f"The prompt itself asks for {self._the(stated)}: what both texts say cannot be"
            return "left", f"{head} pushed away. Leave {grammar.it(stated)} out of the prompt.", []
        if self.changed < NOTHING:
            unknown = unknown_words(self.run.preset, self.request.negative_prompt)
            if unknown and len(unknown) == len(set(WORD.findall(self.request.negative_prompt))):
                named = " and ".join(f"“{shortened(word)}”" for word in unknown[:2])
                return "left", f"No effect: this model does not know {named}.", []
            words, moves = self._knob()
            advice = f"Raise {words}." if words else "Scale and tau are as high as they go here."
            return "left", f"No effect: NAG changed hardly anything. {advice}", moves
        if self.burnt:
            knobs = ", alpha or tau" if self._whole else ", or bound and blend it again"
            head = f"NAG pushed hard enough to distort the picture: lower the scale{knobs}."
            return "replaced", head, self._softer()
        if not self.things:
            return self._unmeasured()
        return self._measured()

    def _stated(self) -> str:
        """A thing that is still there and that the prompt asks for as the negative prompt does.

        Z+ and Z- then say the same of it, and their difference, which NAG extrapolates, has nothing
        of it: 1.00 of such hats, glasses, beards and masks stayed on the pocket models.
        """
        asked = self.meter.named_in(self.request.prompt) if self.meter and self.things else []
        said = (self.meter.phrase(pair) for pair in asked)
        return next((one for one in said if self.things.get(one) == "left"), "")

    def _unmeasured(self):
        head = f"NAG changed the picture, by {100 * self.changed / 255:.0f} % on average."
        if self.meter:
            words = ", ".join(self.meter.examples())
            head += f" The meter knows none of these words; it knows others, such as {words}."
        return "", head, [self._another_seed()]

    def _measured(self):
        """The headline about the thing that went worst, of those that were to go."""
        rank = ("left", "replaced", "gone", "absent")
        thing = min(self.things, key=lambda one: rank.index(self.things[one]))
        state, the = self.things[thing], self._the(thing)
        if state == "absent":
            head = f"There was no {thing} to remove with this seed."
            return "", head, [self._another_seed()]
        there = f"{the.capitalize()} {grammar.be(thing)}"
        if state == "replaced":
            new = self.column.outcomes[thing].instead
            put = f"NAG puts {grammar.with_article(new)} in {grammar.its(thing)} place"
            head = f"{there} gone, but {put}."
            either = {"negative_prompt": f"{self.request.negative_prompt}, {new}"}
            return state, head, [*self._softer()[:1], _move(f"Not “{new}” either", **either)]
        if state == "left":
            head = f"{there} still there under NAG{self._cfg(thing, 'left')}."
            return state, head, self._knob()[1]
        head = f"NAG takes {the} away{self._cfg(thing, 'gone')}."
        if len(self.also) >= ALTOGETHER:
            head = f"{there} gone, but NAG drew another picture altogether."
            return "replaced", head, self._softer()
        moves = self._softer()[:1] if self.also else []
        return state, head, [*moves, self._another_seed()]

    def _the(self, thing: str) -> str:
        value = dict((self.meter.phrase(pair), pair) for pair in self.named)[thing]
        return f"“{thing}”" if value[0] == "expression" else f"the {thing}"

    def _cfg(self, thing: str, state: str) -> str:
        """What CFG did to the same thing, where it is shown."""
        cfg = self.done.get("cfg")
        if cfg is None or thing not in cfg.outcomes:
            return ""
        gone = cfg.outcomes[thing].kind != "left"
        if state == "left":
            return "; CFG takes it away" if gone else ", and under CFG too"
        changed = cfg.outcomes[thing].changed
        if gone and len(changed) >= MANY > len(self.also):
            what = grammar.listed([grammar.attribute(name) for name in changed])
            return f"; CFG does too, and changes {what}"
        return "; CFG does too" if gone else f"; CFG leaves {grammar.it(thing)}"

    def rest(self) -> str:
        """What else changed, of all that the meter reads and nobody asked to change."""
        if self.request.nag.off or self.changed < NOTHING:
            return ""
        if len(self.also) >= MANY:
            lower = "alpha, or tau" if self._whole else "the scale, or bound and blend it again"
            what = grammar.listed([grammar.attribute(name) for name in self.also])
            return f"NAG changed more than it was asked to ({what}): lower {lower}, to keep more."
        if self.also:
            return f"Beyond what was asked, only {self._other(self.also[0])}."
        if len(self.kept) < 2:
            return ""
        # of NAG's picture alone, though the sentence before it may speak of CFG's
        return f"With NAG {grammar.listed([grammar.attribute(name) for name in self.kept])} stay."

    def _other(self, name: str) -> str:
        """What happened to an attribute that nobody named: "the shirt changed"."""
        if self.before[name] != PLAIN:
            return f"the {grammar.attribute(name)} changed"
        return f"{grammar.with_article(self.meter.phrase((name, self.after[name])))} appeared"

    def _cost(self) -> str:
        work = self.run.work(self.column)
        cfg = self.run.work(self.done["cfg"]) if "cfg" in self.done else None
        if not work or self.request.nag.off:
            return ""
        return f"{work:.2f}× the work" + (f" (CFG {cfg:.2g}×)." if cfg else ".")

    @property
    def _whole(self) -> bool:
        return self.request.nag_normalisation and self.request.nag_refinement

    def _knob(self) -> tuple[str, list[dict]]:
        """What to turn up where NAG does too little -> (in words, the move); nothing where all is
        at its end."""
        alpha, (_, high) = self.request.nag_alpha, self.run.preset.range("nag_scale")
        if self.request.nag_refinement and alpha < 1:
            stronger = round(min(1.0, max(alpha + 0.2, 0.5)), 2)
            move = _move(f"Alpha {stronger:g}", nag_alpha=stronger)
            return "alpha first, then the scale", [move]
        scale = round(min(high, self.request.nag_scale * 1.5), 1)
        if scale > self.request.nag_scale:
            return "the scale", [_move(f"Scale {scale:g}", nag_scale=scale)]
        tau = min(self.run.preset.range("nag_tau")[1], self.request.nag_tau + 1)
        if self.request.nag_normalisation and tau > self.request.nag_tau:
            return "tau", [_move(f"Tau {tau:g}", nag_tau=tau)]
        return "", []

    def _softer(self) -> list[dict]:
        """What to turn down where NAG does too much."""
        request, moves = self.request, []
        if request.nag_refinement and request.nag_alpha > 0.3:
            alpha = round(request.nag_alpha * 0.6, 2)
            moves.append(_move(f"Alpha {alpha:g}", nag_alpha=alpha))
        if request.nag_scale > 2:
            scale = round(max(2.0, request.nag_scale / 2), 1)
            moves.append(_move(f"Scale {scale:g}", nag_scale=scale))
        return moves[:2]

    def _another_seed(self) -> dict:
        return _move("Another seed", seed=(self.request.seed + 1) % 2**32)


def _move(label: str, **settings) -> dict:
    assert settings.keys() <= Request.model_fields.keys()
    return {"label": label, "set": settings}
