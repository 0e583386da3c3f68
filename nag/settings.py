"""The settings that NAG takes. Nothing here needs torch: a page shows them before it is loaded."""

import math
from dataclasses import dataclass

from .errors import NAGValueError

METHODS = ("nag", "nasa", "ong", "vsf", "negpip")


def as_number(value: object) -> float | None:
    """A real number as Python has it, of numpy's and torch's too; None for anything else: words,
    truth values, several numbers."""
    if type(value) in (int, float):
        return value
    words = isinstance(value, (bool, str, bytes, bytearray))
    if words or getattr(value, "ndim", 0) or "bool" in str(getattr(value, "dtype", "")):
        return None
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return None


@dataclass(frozen=True)
class NAGSettings:
    """How strongly to guide. The only place where the defaults stand; RANGES says what is valid.

    scale: strength of the negative prompt, 1 (off) and up; the paper's phi + 1.
    tau: the most that attention at any point of the picture may grow, 1 and up, in multiples of its
        un-guided size; infinity is no limit.
    alpha: how much of the guided result is mixed in, 0 (off) to 1.
    end: share of the steps that are guided, 0 (off) to 1, counted by the pipeline's scheduler. Not
        the noise level that the authors' code asks for.
    method: "nag", or for comparison one of `nag/rivals.py`: "nasa" (Z+ - scale Z-), "ong" (the same
        with the part of Z- that is orthogonal to Z+), "vsf" (value sign flip: the negative's values
        count -scale times in one softmax with all others) or "negpip" (a negative weight on the
        values of words in the prompt). These know scale (0, off, and up) and end only, and
        "vsf" bias.
    bias: how much lower "vsf" makes the logits of the negative's tokens, 0 and up.
    """

    scale: float = 5.0
    tau: float = 2.5
    alpha: float = 0.25
    end: float = 1.0
    method: str = "nag"
    bias: float = 0.1

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise NAGValueError(
                f"NAG method must be one of {', '.join(METHODS)}, got {self.method!r}."
            )
        for name, (low, high) in ranges_of(self.method).items():
            given = getattr(self, name)
            value = as_number(given)
            if value is None or not low <= value <= high or (name != "tau" and math.isinf(value)):
                limit = (
                    f"between {low:g} and {high:g}"
                    if math.isfinite(high)
                    else f"a {'' if name == 'tau' else 'finite '}number from {low:g} up"
                )
                raise NAGValueError(f"NAG {name} must be {limit}, got {given!r}.")
            object.__setattr__(self, name, value)  # frozen for everybody else

    @property
    def off(self) -> bool:
        """Whether these settings mean: do not touch anything."""
        return self.end == 0 or (
            self.scale == 1 or self.alpha == 0 if self.method == "nag" else self.scale == 0
        )


RANGES = {"scale": (1.0, math.inf), "tau": (1.0, math.inf), "alpha": (0.0, 1.0), "end": (0.0, 1.0)}
OTHER_RANGES = {"scale": (0.0, math.inf), "end": (0.0, 1.0)}


def ranges_of(method: str) -> dict[str, tuple[float, float]]:
    """{setting: (lowest, highest)} of those that a method reads."""
    if method == "nag":
        return RANGES
    return OTHER_RANGES | ({"bias": (0.0, math.inf)} if method == "vsf" else {})
