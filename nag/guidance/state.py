"""What `guide` knows while it runs: `Progress` for its users, `CallState` for this package."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from ..errors import NAGRuntimeError
from ..segments import Layout
from ..settings import NAGSettings
from ..xray import Recorder
from .recognition import PromptRows
from .texts import Texts


@dataclass
class Progress:
    """What `with nag.guide(...) as progress` shows while it runs. Written by `StepCounter` alone.

    step: scheduler steps done in the running pipeline call.
    guided_steps: scheduler steps with a guided denoiser call, of all pipeline calls.
    guided_calls: denoiser calls with at least one guided row, of all pipeline calls.
    """

    settings: NAGSettings
    step: int = 0
    guided_steps: int = 0
    guided_calls: int = 0


@dataclass
class CallState:
    """What the parts of one `guide` share. Attention and adapters read it, this package writes it.

    exact: two passes in joint attention.
    backend: diffusers' attention for layers that name none.
    layout: of the running denoiser call; None while none is guided.
    texts: of the running pipeline call; None until its prompt is encoded.
    unencoded: sends embeddings that were given in place of a prompt through `encode_prompt`, for
        pipelines that skip it. None for calls with words, and after it has run.
    prompt_rows: finds the prompt's rows in the texts of the running pipeline call.
    plans: {what the packed tensors are known by: (the tensors, their `Plan`)}. Comparing values is
        a wait for the GPU: it happens once for each tensor, and not in each step.
    running: whether a call of the guided pipeline runs.
    watched: whether it has a callback, which may change the text.
    thread: the one that entered `guide`.
    record: is told of every guided output; None where nobody wants to know.
    """

    prompt_rows: PromptRows
    exact: bool = False
    backend: str = "native"
    layout: Layout | None = None
    texts: Texts | None = None
    unencoded: Callable | None = None
    plans: dict = field(default_factory=dict)
    running: bool = False
    watched: bool = False
    thread: threading.Thread = field(default_factory=threading.current_thread)
    record: Recorder | None = None

    def hear_embeddings(self) -> None:
        """Makes `texts` of embeddings that did not come through `encode_prompt`, if there are."""
        lead, self.unencoded = self.unencoded, None
        if lead is not None and self.texts is None:
            lead()

    def forget(self) -> None:
        """Another picture begins."""
        self.texts = None
        self.plans.clear()
        self.prompt_rows.forget()

    def check_thread(self) -> None:
        """Raises NAGRuntimeError in any thread but the one that entered `guide`."""
        if threading.current_thread() is not self.thread:
            raise NAGRuntimeError(
                "This pipeline is guided in another thread, and the two pictures would be mixed. "
                "Enter nag.guide in the thread that calls the pipeline, and let other threads "
                "wait until it is left."
            )
