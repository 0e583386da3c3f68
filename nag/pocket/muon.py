"""Muon in float32: `torch.optim.Muon` orthogonalises in bfloat16, which a processor without units
for it does a hundred times slower.
"""

from collections.abc import Iterable

import torch

# Keller Jordan's quintic iteration (https://kellerjordan.github.io/posts/muon): brings all singular
# values near 1
COEFFICIENTS, ITERATIONS = (3.4445, -4.7750, 2.0315), 5


class Muon(torch.optim.Optimizer):
    """As torch.optim.Muon(adjust_lr_fn="match_rms_adamw"), for matrices; those of one shape are
    orthogonalised together.
    """

    def __init__(
        self,
        params: Iterable[torch.Tensor],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            shapes = {}
            for p in group["params"]:
                if p.grad is not None:
                    shapes.setdefault(p.shape, []).append(p)
            for shape, same in shapes.items():
                updates = []
                for p in same:
                    momentum = self.state[p].setdefault("momentum_buffer", torch.zeros_like(p))
                    momentum.lerp_(p.grad, 1 - group["momentum"])
                    updates.append(p.grad.lerp(momentum, group["momentum"]))  # Nesterov's
                # moves entries as far as AdamW would
                scale = -group["lr"] * 0.2 * max(shape) ** 0.5
                for p, update in zip(same, orthogonal(torch.stack(updates)), strict=True):
                    p.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=scale)


def orthogonal(x: torch.Tensor) -> torch.Tensor:
    """(N, rows, columns) -> the nearest matrices with all singular values about .7 to 1.2."""
    a, b, c = COEFFICIENTS
    tall = x.shape[1] > x.shape[2]
    x = x.transpose(1, 2) if tall else x
    x = x / x.flatten(1).norm(dim=1).clamp_min(1e-7)[:, None, None]
    for _ in range(ITERATIONS):
        gram = x @ x.transpose(1, 2)
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.transpose(1, 2) if tall else x
