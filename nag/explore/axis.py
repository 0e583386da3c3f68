"""The values along an axis of a sweep, from what is typed: "2, 5, 10" or ".25, .4 .. 1"."""

from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from ..errors import Refused
from ..request import quoted

MOST = 24  # values on one axis
DIGITS = 12  # of a number, before its point or behind it
PARTS = 4  # of a range of real numbers for which no second value says how wide a step is


@dataclass(frozen=True)
class Kind:
    """One setting that can be swept. whole: in whole numbers; text: words, parted by "|"."""

    label: str
    whole: bool = False
    text: bool = False


KINDS = {
    "nag_scale": Kind("NAG scale"),
    "nag_tau": Kind("Tau"),
    "nag_alpha": Kind("Alpha"),
    "nag_end": Kind("NAG until"),
    "num_inference_steps": Kind("Steps", whole=True),
    "guidance_scale": Kind("CFG scale"),
    "seed": Kind("Seed", whole=True),
    "negative_prompt": Kind("Negative prompt", text=True),
}


@dataclass(frozen=True)
class Axis:
    """A setting of `Request` and the values it takes, in the order in which they are shown."""

    field: str
    values: tuple

    @property
    def label(self) -> str:
        return KINDS[self.field].label

    def name(self, index: int) -> str:
        """A value as a heading: numbers short, words as they are."""
        value = self.values[index]
        return value if isinstance(value, str) else f"{value:.6g}" if value < 1e6 else str(value)


def parse(field: str, text: str) -> Axis:
    """`text` -> Axis. Raises `Refused`.

    Numbers stand between commas. ".." fills: "a, b .. c" goes on from b in steps of b - a up to c,
    "a .. c" in steps of 1 (whole numbers) or in quarters of the range. Words stand between "|".
    """
    if field not in KINDS:
        raise Refused(f"A sweep can go over {', '.join(KINDS)}; got {quoted(field)}.")
    kind = KINDS[field]
    values = [part.strip() for part in text.split("|")] if kind.text else _numbers(text, kind)
    values = tuple(dict.fromkeys(values))
    if not values:
        raise Refused(f"{kind.label}: give one value at least, such as {_example(kind)}.")
    if len(values) > MOST:
        raise Refused(f"{kind.label}: an axis has at most {MOST} values, these are {len(values)}.")
    return Axis(field, values)


def _example(kind: Kind) -> str:
    return "'hat | beard'" if kind.text else "'17 .. 24'" if kind.whole else "'.25, .5 .. 1'"


def _numbers(text: str, kind: Kind) -> list:
    values: list[Decimal] = []
    tokens = iter(text.replace("..", " .. ").replace(",", " ").split())
    for token in tokens:
        if token == "..":
            values += _filled(values, _number(next(tokens, ""), kind), kind)
        else:
            values.append(_number(token, kind))
    return [int(value) if kind.whole else float(value) for value in values]


def _number(text: str, kind: Kind) -> Decimal:
    try:
        value = Decimal(text)
    except InvalidOperation:
        raise Refused(
            f"{kind.label}: {quoted(text)} is not a number; write {_example(kind)}."
        ) from None
    # before anything is computed with it: 1e1000000 as a whole number takes Python a minute
    if value.is_finite() and value and abs(value.adjusted()) > DIGITS:
        small = "small" if value.adjusted() < 0 else "large"
        raise Refused(f"{kind.label}: {quoted(text)} is too {small}.")
    if not value.is_finite() or (kind.whole and value != value.to_integral_value()):
        raise Refused(
            f"{kind.label}: {quoted(text)} is not a {'whole' if kind.whole else 'finite'} number."
        )
    return value


def _filled(before: list[Decimal], stop: Decimal, kind: Kind) -> list[Decimal]:
    """What ".." stands for, with the value behind it."""
    if not before:
        raise Refused(f"{kind.label}: '..' needs a value before it, as in {_example(kind)}.")
    start = before[-1]
    if len(before) > 1:
        step = before[-1] - before[-2]
    else:
        step = (1 if stop > start else -1) if kind.whole else (stop - start) / PARTS
    if not step or (stop - start) / step < 0:
        raise Refused(f"{kind.label}: '..' cannot go from {start} to {stop} in steps of {step}.")
    count = int((stop - start) / step)
    if count > MOST:
        raise Refused(f"{kind.label}: an axis has at most {MOST} values, these are {count + 1}.")
    return [start + step * i for i in range(1, count + 1)]


def coarse_to_fine(count: int) -> list[int]:
    """In how many halvings each of `count` places is reached: ends 0, middle 1, quarters 2."""
    levels = [0] * count
    parts, level = [(0, count - 1)], 0
    while parts:
        level, halves = level + 1, []
        for low, high in parts:
            if high - low > 1:
                middle = (low + high) // 2
                levels[middle] = level
                halves += [(low, middle), (middle, high)]
        parts = halves
    return levels
