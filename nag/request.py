"""The schema of a request: what may be asked of a comparison."""

import math
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from .methods import METHODS
from .settings import NAGSettings

DEFAULT = "pocket-portrait"
PROMPT_LENGTH = 2000  # characters; the longest text encoder here reads 512 tokens
NAG = NAGSettings()
Value = str | int | float | bool | list[str] | None  # of a setting, as JSON has it


def _real(value):
    try:
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            return float(value) + 0.0  # -0.0 is 0.0: equal settings are the same settings
    except OverflowError:  # a whole number beyond every float
        pass
    raise ValueError("must be a finite number")


def _whole(value):
    number = _real(value)
    if isinstance(value, int):  # as it is: not every large one is a float
        return value
    if not number.is_integer():
        raise ValueError("must be a whole number")
    return int(number)


def check_text(value: object) -> str:
    """A prompt as it is. Raises ValueError with the end of a sentence, "must be text"."""
    if not isinstance(value, str):
        raise ValueError("must be text")
    if len(value) > PROMPT_LENGTH:
        raise ValueError(
            f"must have at most {PROMPT_LENGTH} characters, not {len(value)} characters"
        )
    try:
        value.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which no JSON answer could carry back
        raise ValueError("must be valid Unicode") from None
    if "\x00" in value:
        raise ValueError("must not contain zero bytes")
    return value


def _switch(value):
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def _columns(value):
    if (
        not isinstance(value, (list, tuple))
        or not value
        or any(not isinstance(v, str) or v not in METHODS for v in value)
    ):
        raise ValueError(f"must be a list out of {', '.join(METHODS)}")
    if len(set(value)) != len(value):
        raise ValueError("must name every column once")
    return tuple(value)


Whole = Annotated[int, BeforeValidator(_whole)]
Real = Annotated[float, BeforeValidator(_real)]
Text = Annotated[str, BeforeValidator(check_text)]
Switch = Annotated[bool, BeforeValidator(_switch)]
Columns = Annotated[tuple[str, ...], BeforeValidator(_columns)]


class Request(BaseModel):
    """One comparison, complete and frozen: diffusers' names, pixels, and NAG's settings as
    `NAGSettings` explains them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    preset: str = DEFAULT
    prompt: Text
    negative_prompt: Text
    seed: Annotated[Whole, Field(ge=0, le=2**32 - 1)] = 42
    num_inference_steps: Annotated[Whole, Field(ge=1, le=200)]
    guidance_scale: Annotated[Real, Field(ge=1, le=30)]
    nag_scale: Annotated[Real, Field(ge=1, le=50)] = NAG.scale
    nag_tau: Annotated[Real, Field(ge=1, le=20)] = NAG.tau
    nag_alpha: Annotated[Real, Field(ge=0, le=1)] = NAG.alpha
    nag_end: Annotated[Real, Field(ge=0, le=1)] = NAG.end
    nag_normalisation: Switch = True  # False, an ablation: nothing bounds the norm, tau is not used
    # False, an ablation: the guided result is not blended with the un-guided, alpha is not used
    nag_refinement: Switch = True
    # of the rivals, see `NAGSettings`; starting points, not published settings
    nasa_scale: Annotated[Real, Field(ge=0, le=10)] = 0.5
    ong_scale: Annotated[Real, Field(ge=0, le=20)] = 0.5
    vsf_scale: Annotated[Real, Field(ge=0, le=20)] = 1.0
    vsf_bias: Annotated[Real, Field(ge=0, le=10)] = NAG.bias
    negpip_scale: Annotated[Real, Field(ge=0, le=20)] = 1.0
    width: Annotated[Whole, Field(ge=16, le=4096)]
    height: Annotated[Whole, Field(ge=16, le=4096)]
    num_frames: Annotated[Whole, Field(ge=1, le=400)] = 1
    guidance: Columns = ("none", "cfg", "nag")
    # draw columns in one pipeline call where that is possible: faster, but none has a time of its
    # own
    batched: Switch = False
    fresh: Switch = False  # draw every column anew, also where one with the same settings is kept

    @property
    def nag(self) -> NAGSettings:
        return NAGSettings(
            self.nag_scale,
            self.nag_tau if self.nag_normalisation else math.inf,
            self.nag_alpha if self.nag_refinement else 1.0,
            self.nag_end,
        )

    def attention(self, column: str) -> NAGSettings | None:
        """What happens to attention in a column; None where nothing does."""
        method = METHODS[column]
        if method.attention in ("", "nag"):
            return self.nag if method.attention else None
        scale = getattr(self, method.scale)
        return NAGSettings(scale, end=self.nag_end, method=method.attention, bias=self.vsf_bias)


RANGED = (
    "seed",
    "num_inference_steps",
    "guidance_scale",
    "nag_scale",
    "nag_tau",
    "nag_alpha",
    "nag_end",
    "nasa_scale",
    "ong_scale",
    "vsf_scale",
    "vsf_bias",
    "negpip_scale",
    "width",
    "height",
    "num_frames",
)


def limits_of(field: str) -> tuple[float, float]:
    """Lowest and highest value of a setting out of RANGED, for all models."""
    limits = {type(m).__name__: m for m in Request.model_fields[field].metadata}
    return limits["Ge"].ge, limits["Le"].le


SETTINGS = tuple(name for name in Request.model_fields if name != "preset")


def quoted(value: object) -> str:
    """What was given, as an error may repeat it: as Python writes it, cut to 60 characters."""
    try:
        text = repr(value)
    except ValueError:  # Python refuses to write whole numbers of more than 4300 digits
        text = "a number with thousands of digits"
    return text if len(text) <= 60 else text[:57] + "..."


def _number(value: float) -> str:
    """With all its digits, a whole one without a point."""
    return quoted(int(value) if abs(value) < 1e15 and value == int(value) else value)


def between(low: float, high: float) -> str:
    return f"between {_number(low)} and {_number(high)}"


def what_is_wrong(error: ValidationError) -> str:
    """The first thing that is wrong: the field, what is asked of it, the value."""
    first = error.errors(include_url=False)[0]
    field = str(first["loc"][0]) if first["loc"] else "settings"
    match first["type"]:
        case "extra_forbidden":
            return f"{quoted(field)} is not a setting; known are {', '.join(Request.model_fields)}."
        case "missing":
            return f"{field} is missing."
        case "greater_than_equal" | "less_than_equal" if field in RANGED:
            asked = f"must be {between(*limits_of(field))}"
        case "value_error" if field in RANGED:
            asked = f"{first['msg'].removeprefix('Value error, ')} {between(*limits_of(field))}"
        case _:
            asked = first["msg"].removeprefix("Value error, ")
    return f"{field} {asked}, got {quoted(first['input'])}."
