"""The settings that NAG takes. Nothing here needs torch: a page can show them before that is loaded."""

import math
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class NAGSettings:
    """How strongly to guide. The only place where the defaults stand; `NAGSettings.ranges` says what is valid.

    scale: strength of the negative prompt, 1 (off) and up; the paper's phi + 1.
    tau: the most that attention at any point of the picture may grow, 1 and up, in multiples of its un-guided size.
    alpha: how much of the guided result is mixed in, 0 (off) to 1.
    end: share of the steps that are guided, 0 (off) to 1. Not the noise level that the authors' code asks for.
    """

    scale: float = 5.0
    tau: float = 2.5
    alpha: float = 0.25
    end: float = 1.0

    def __post_init__(self):
        for field in fields(self):
            value, (low, high) = getattr(self, field.name), RANGES[field.name]
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or not low <= value <= high:
                limit = f"between {low:g} and {high:g}" if math.isfinite(high) else f"a finite number from {low:g} up"
                raise ValueError(f"NAG {field.name} must be {limit}, got {value!r}.")

    @property
    def off(self) -> bool:
        """Whether these settings mean: do not touch anything."""
        return self.scale == 1 or self.alpha == 0 or self.end == 0


RANGES = {"scale": (1.0, math.inf), "tau": (1.0, math.inf), "alpha": (0.0, 1.0), "end": (0.0, 1.0)}
