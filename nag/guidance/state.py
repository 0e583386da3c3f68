"""What `guide` is doing, while it runs."""

from dataclasses import dataclass, field

from ..segments import Layout
from ..settings import NAGSettings


@dataclass
class Guidance:
    """What `guide` is doing, readable while it runs: steps counted by the scheduler, and how many of them were guided."""

    settings: NAGSettings
    exact: bool = False  # two passes in joint attention
    backend: str = "native"  # diffusers' attention for layers that name none
    step: int = 0  # scheduler steps done in the running pipeline call
    schedule_start: int = 0  # of these, done when the schedule was last set: pipelines that go chunk by chunk set it for each
    guided_calls: int = 0  # denoiser calls with at least one guided row
    guided_steps: int = 0  # scheduler steps with such a call
    stepped: bool = False  # the scheduler has made a step in the running pipeline call, whoever made the denoiser's
    called: bool = False  # a denoiser call since the last scheduler step
    fresh: bool = False  # a guided one
    layout: Layout | None = None  # of the running denoiser call
    encoded: tuple | None = (
        None  # positive and negative of the running pipeline call: ({argument: tensor}, {argument: tensor})
    )
    calls: int = 0  # which call of `encode_prompt` in the running pipeline call was the latest
    cfg: bool = True  # whether there may be unconditional rows in the running pipeline call
    without_negative: list = field(
        default_factory=list
    )  # for each row of the positive: whether its prompt has no negative one
    results: tuple | None = (
        None  # what `encode_prompt` returned for the positive and (None if given by hand) for the negative
    )
    plans: dict = field(
        default_factory=dict
    )  # ids of a text's tensors -> (the tensors, what to do)
