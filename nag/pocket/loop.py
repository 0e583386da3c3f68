"""The one training loop of all stages: a stage is a module, a loss and a number of steps."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from .. import private
from ..errors import NAGRuntimeError
from .muon import Muon

# cuDNN's attention, PyTorch's choice on Hopper, is left out: with it the first gradients of
# pocket-joint ended in CUBLAS_STATUS_EXECUTION_FAILED (H100, torch 2.11), without it they did not
ATTENTION = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
SAVE_EVERY = 120  # seconds between checkpoints


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast() -> torch.autocast:
    """bfloat16 where there are units for it: without them a processor is a hundred times slower."""
    fast = device().type == "cuda" or torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    return torch.autocast(device().type, torch.bfloat16, enabled=fast)


def fit(
    name: str,
    run: Path,
    module: nn.Module,
    loss: Callable[[int], tuple[torch.Tensor, dict]],
    steps: int,
    lr: float,
    decay: float = 0.995,
    muon: tuple[str, float] | None = None,
    seconds: float | None = None,
) -> nn.Module:
    """Trains `module` and returns it with the average of its weights.

    AdamW with warm-up and a linear decay over the last half, bf16 where it is fast, a checkpoint
    `run / f"{name}.pt"` every two minutes. Run again, it resumes; a finished stage returns at once.

    loss: `loss(step) -> (scalar, {name: value to show})`.
    decay: of the average, per step.
    muon: (word, learning rate) for the matrices whose names contain the word: Muon learns them in
        fewer steps than AdamW.
    seconds: ends the stage by the clock where that comes before `steps`; the learning rate falls
        with whichever is further on. Such a stage is not resumed but begun anew with fewer seconds.
    """
    from tqdm import tqdm

    run.mkdir(parents=True, exist_ok=True)
    module = module.to(device()).train()
    training = Training(run / f"{name}.pt", module, _optimisers(module, lr, muon))
    first = training.resume()
    begun = saved = time.monotonic()
    shown = {}
    bar = tqdm(range(first, steps), initial=first, total=steps, desc=name, mininterval=20)
    for step in bar:
        torch.manual_seed(1_000_003 * step + 17)  # the same noise whether resumed or not
        spent = (time.monotonic() - begun) / seconds if seconds else 0
        done = max(step / steps, min(1, spent))
        training.set_rate(min(1, (step + 1) / 100, 2 * (1 - done) + 1e-3))
        with autocast(), sdpa_kernel(ATTENTION):
            value, notes = loss(step)
        if step % 20 == 0 and not torch.isfinite(value):
            raise NAGRuntimeError(
                f"The loss of {name} became {value} at step {step}; "
                "resume with a lower learning rate."
            )
        training.learn(value, min(decay, (1 + step) / (10 + step)))
        if step % 20 == 0:  # each number waits for the device
            for key, new in {"loss": value.detach(), **notes}.items():
                shown[key] = 0.7 * shown.get(key, float(new)) + 0.3 * float(new)
            bar.set_postfix({key: f"{v:.4f}" for key, v in shown.items()}, refresh=False)
        if time.monotonic() - saved > SAVE_EVERY or step == steps - 1 or spent >= 1:
            training.save(step + 1 if spent < 1 else steps, taken=step + 1)
            saved = time.monotonic()
        if spent >= 1:
            break
    _set_weights(training.trained, training.average)
    return module.eval()


class Training:
    """A module being trained, its optimisers and the average of its weights, in one file."""

    def __init__(
        self, path: Path, module: nn.Module, optimisers: list[torch.optim.Optimizer]
    ) -> None:
        self.path, self.module, self.optimisers = path, module, optimisers
        self.trained = [p for p in module.parameters() if p.requires_grad]
        self.average = [p.detach().clone() for p in self.trained]

    def resume(self) -> int:
        """Takes up what the file holds, if there is one. Returns the number of steps done."""
        if not self.path.exists():
            return 0
        state = torch.load(self.path, map_location=device())
        self.module.load_state_dict(state["module"])
        for optimiser, kept in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(kept)
        self.average = state["average"]
        return state["step"]

    def save(self, step: int, taken: int) -> None:
        """step: where to resume. taken: how many there were, for who ends a stage by the clock."""
        state = {
            "module": self.module.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "average": self.average,
            "step": step,
            "taken": taken,
        }
        torch.save(state, self.path.with_suffix(".part"))
        self.path.with_suffix(".part").replace(self.path)

    def set_rate(self, share: float) -> None:
        """`share` of the learning rate that each group began with."""
        for group in (group for optimiser in self.optimisers for group in optimiser.param_groups):
            group["lr"] = share * group["initial_lr"]

    def learn(self, value: torch.Tensor, decay: float) -> None:
        value.backward()
        nn.utils.clip_grad_norm_(self.trained, 1.0)
        for optimiser in self.optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        private.lerp_all(self.average, [p.detach() for p in self.trained], 1 - decay)


def _optimisers(
    module: nn.Module, lr: float, muon: tuple[str, float] | None
) -> list[torch.optim.Optimizer]:
    inside = {
        id(p)
        for name, p in module.named_parameters()
        if muon and p.ndim == 2 and muon[0] in name and p.requires_grad
    }
    matrices = [p for p in module.parameters() if id(p) in inside]
    others = [p for p in module.parameters() if p.requires_grad and id(p) not in inside]
    optimisers = [
        torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.99), weight_decay=1e-3, fused=True)
    ]
    if matrices:
        optimisers.append(Muon(matrices, lr=muon[1], weight_decay=1e-3))
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["initial_lr"] = group["lr"]
    return optimisers


def _set_weights(trained: list[nn.Parameter], average: list[torch.Tensor]) -> None:
    for parameter, mean in zip(trained, average, strict=True):
        parameter.data.copy_(mean)


def load_average(module: nn.Module, path: Path) -> None:
    """The averaged weights of a checkpoint of `fit`, into a module that is built like it."""
    state = torch.load(path, map_location="cpu")
    module.load_state_dict(state["module"])
    _set_weights([p for p in module.parameters() if p.requires_grad], state["average"])


def batch_at(step: int, count: int, size: int, seed: int) -> np.ndarray:
    """Indices (size,) of one batch: each of `count` once per pass, the same for the same seed and
    step.

    Raises NAGRuntimeError where there are fewer than a batch.
    """
    if count < size:
        raise NAGRuntimeError(
            f"A batch has {size} rows and this run's data only {count}: render more of them."
        )
    per_epoch = count // size
    order = np.random.default_rng([seed, step // per_epoch]).permutation(count)
    return order[(step % per_epoch) * size :][:size]
