"""What NAG does inside a model: how far attention is pushed, and how much of that the bound cuts.

    xray = nag.XRay()
    with nag.guide(pipe, "hat", scale=10.0, tau=2.0, alpha=0.85, record=xray):
        pipe("portrait of a cowboy", ...)
    xray.clipped(scale=10.0, tau=2.0)      # (layers, steps): share of image tokens above tau
    xray.clipped(scale=10.0, tau=4.0)      # without another run

With D = Z+ - Z- the push is Z~ = Z+ + phi D, bounded c Z~ with c = min(1, tau / R), then mixed in
by alpha (`nag/formula.py`). Of every image token are kept: R at a few scales, and <Z+, D> and
<D, D> over <Z+, Z+>. So nothing has to be run again for another tau or alpha: what is clipped
follows from R, and the change alpha |c Z~ - Z+| / |Z+| (in the Euclidean norm) from the products.
For another scale R is interpolated, which is exact at the scales that were recorded and never too
small between them, since a norm is convex. Behind the first guided layer of the first step all this
is an estimate: with other settings the model would have seen another picture there.

Letters: N image tokens, S recorded scales, L layers, K steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from .errors import NAGValueError
from .formula import EPS

if TYPE_CHECKING:
    from .guidance.state import Progress

SCALES = (1.0, 1.5, 2.0, 3.0, 5.0, 8.0, 12.0, 20.0, 50.0)
LIMIT = 60_000.0  # what half precision holds


@dataclass
class XRay:
    """A recording of the last guided picture. scales: where R is kept, 1 and up, at least two.

    It holds 2 (S + 2) bytes a token, layer and step: 5 kB a step of pocket-portrait, 5 MB of
    FLUX.1 at 1024 px. Recording takes several passes over every guided attention's output.
    """

    scales: tuple[float, ...] = SCALES
    layers: list[str] = field(default_factory=list)
    cells: dict[tuple[int, int], torch.Tensor] = field(default_factory=dict)
    steps: int = 0
    _parts: list = field(default_factory=list, repr=False)
    _open: tuple[int, int] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.scales = tuple(sorted({float(scale) for scale in self.scales}))
        if len(self.scales) < 2 or self.scales[0] < 1 or not math.isfinite(self.scales[-1]):
            raise NAGValueError(f"scales must be two or more numbers from 1 up, got {self.scales}.")

    def add(
        self,
        layer: str,
        step: int,
        z_positive: torch.Tensor,
        z_negative: torch.Tensor,
        dim: tuple[int, int],
    ) -> None:
        """Called by the attention op with outputs of image tokens, `dim` naming heads and features.

        Parts of one layer's tokens come one after another. Of a layer that runs again in one step,
        behind others, the later outputs count. Rows are frames: record one picture.
        """
        if layer not in self.layers:
            self.layers.append(layer)
        place = self.layers.index(layer), step
        if place != self._open:
            self._close()
            self._open = place
        with torch.no_grad():
            self._parts.append(measured(z_positive, z_negative, dim, self.scales).cpu())

    def clear(self) -> None:
        """Forgets what was recorded."""
        self.layers, self.cells, self.steps = [], {}, 0
        self._parts, self._open = [], None

    def _close(self) -> None:
        """Puts the parts of one layer's call together."""
        if self._parts:
            self.cells[self._open] = (
                torch.cat(self._parts, 1).flatten(0, 1).clamp(-LIMIT, LIMIT).half()
            )
            self.steps = max(self.steps, self._open[1] + 1)
        self._parts, self._open = [], None

    @property
    def recorded(self) -> dict[tuple[int, int], torch.Tensor]:
        """(layer, step) -> (N, S + 2) in half precision: all that there is."""
        self._close()
        return self.cells

    def cell(self, layer: int, step: int) -> torch.Tensor | None:
        """(N, S + 2) in float32; None where the layer was not guided in that step."""
        found = self.recorded.get((layer, step))
        return None if found is None else found.float()

    def ratio(self, layer: int, step: int, scale: float) -> torch.Tensor | None:
        """R = |Z~|_1 / |Z+|_1 of every image token, (N,), at any scale from 1 up."""
        cell = self.cell(layer, step)
        return None if cell is None else interpolated(cell[:, :-2], self.scales, scale)

    def change(
        self, layer: int, step: int, scale: float, tau: float, alpha: float
    ) -> torch.Tensor | None:
        """|Zout - Z+| / |Z+| of every image token, (N,), in the Euclidean norm."""
        cell, ratio = self.cell(layer, step), self.ratio(layer, step, scale)
        if cell is None:
            return None
        kept, phi = (tau / ratio.clamp_min(EPS)).clamp_max(1), scale - 1
        along, across = cell[:, -2], cell[:, -1]
        squared = (kept - 1) ** 2 + 2 * (kept - 1) * kept * phi * along + (kept * phi) ** 2 * across
        return alpha * squared.clamp_min(0).sqrt()

    def clipped(self, scale: float, tau: float) -> torch.Tensor:
        """Share of image tokens whose R is above tau, (L, K); nan where nothing was guided."""
        return self._map(lambda *place: (self.ratio(*place, scale) > tau).float().mean())

    def mean_ratio(self, scale: float) -> torch.Tensor:
        """Mean R, (L, K)."""
        return self._map(lambda *place: self.ratio(*place, scale).mean())

    def mean_change(self, scale: float, tau: float, alpha: float) -> torch.Tensor:
        """Mean change after alpha, (L, K)."""
        return self._map(lambda *place: self.change(*place, scale, tau, alpha).mean())

    def _map(self, of) -> torch.Tensor:
        recorded = self.recorded
        out = torch.full((len(self.layers), self.steps), math.nan)
        for layer, step in recorded:
            out[layer, step] = of(layer, step)
        return out

    @property
    def nbytes(self) -> int:
        """Memory that the recording takes."""
        return sum(cell.nbytes for cell in self.recorded.values())

    def suggest(self, scale: float) -> tuple[float, float]:
        """(tau, alpha) to begin with at this scale, by two rules.

        tau: the smallest that leaves nine image tokens in ten as they are, over all layers and
        steps, rounded up to .1. alpha: the largest, in steps of .05, at which nine in ten change by
        at most their own size; the published tau 2.5 and alpha .25 bound that by .875. Both are
        starting points and say nothing of pictures.
        """
        if not self.recorded:
            raise NAGValueError("Nothing was recorded: draw a guided picture with record= first.")
        ratios = torch.cat([self.ratio(*place, scale) for place in self.recorded])
        tau = max(1.0, math.ceil(10 * float(torch.quantile(thinned(ratios), 0.9)) - 1e-4) / 10)
        whole = torch.cat([self.change(*place, scale, tau, 1.0) for place in self.recorded])
        strongest = max(float(torch.quantile(thinned(whole), 0.9)), EPS)
        return tau, min(1.0, math.floor(20 / strongest + 1e-4) / 20)


class Recorder:
    """Tells an `XRay` what attention sees, with the step of the running picture."""

    def __init__(self, xray: XRay, progress: Progress) -> None:
        self.xray, self.progress = xray, progress

    def begin(self) -> None:
        """Another picture begins: the one before is forgotten."""
        self.xray.clear()

    @torch.compiler.disable
    def __call__(self, layer: str, z_positive: torch.Tensor, z_negative: torch.Tensor) -> None:
        """Both (B, H, I, D), of conditional rows and image tokens."""
        self.xray.add(layer, self.progress.step, z_positive, z_negative, (-3, -1))


def measured(
    z_positive: torch.Tensor,
    z_negative: torch.Tensor,
    dim: tuple[int, int],
    scales: Sequence[float],
) -> torch.Tensor:
    """What is kept of every token: (rows, N, S + 2) in float32."""
    plus = z_positive.float()
    push = plus - z_negative.float()
    size = plus.abs().sum(dim).clamp_min(EPS)  # (rows, N)
    squares = plus.square().sum(dim).clamp_min(EPS * EPS)
    ratios = [torch.add(plus, push, alpha=s - 1).abs().sum(dim) / size for s in scales]
    along, across = (plus * push).sum(dim) / squares, push.square().sum(dim) / squares
    return torch.stack([*ratios, along, across], -1)


def interpolated(ratios: torch.Tensor, scales: tuple[float, ...], scale: float) -> torch.Tensor:
    """R at a scale, (N,), from R at `scales`, (N, S). Beyond the last, on in a straight line."""
    upper = next((i for i, one in enumerate(scales) if one >= scale), len(scales) - 1)
    upper = max(1, upper)
    low, high = scales[upper - 1], scales[upper]
    return torch.lerp(ratios[:, upper - 1], ratios[:, upper], (scale - low) / (high - low))


def thinned(values: torch.Tensor, most: int = 1_000_000) -> torch.Tensor:
    """Every n-th value, for `torch.quantile` takes no more than 16 million."""
    return values[:: max(1, len(values) // most)]


def grid_of(tokens: int, width: int, height: int, frames: int = 1) -> tuple[int, int, int]:
    """(frames, rows, columns) of an attention's image tokens, for a picture of this size in px.

    frames: how many the latents have; where `tokens` is no multiple of it, those of one frame.
    Raises NAGValueError where no grid comes near the shape: not all tokens are an image's.
    """
    f = frames if tokens % frames == 0 else 1
    area, best, least = tokens // f, None, 0.12
    for rows in (i for i in range(1, area + 1) if area % i == 0):
        off = abs(math.log(area / rows / rows * height / width))
        if off < least:
            best, least = (f, rows, area // rows), off
    if best is None:
        raise NAGValueError(f"{tokens} tokens lie on no grid of the shape {width} x {height}.")
    return best


def placed(tokens: int, width: int, height: int, num_frames: int) -> tuple[int, int, int]:
    """The grid of a picture's or a video's tokens, whose latents may have a fourth, a sixth or an
    eighth of its frames and one more. Raises NAGValueError, as `grid_of` does."""
    for frames in dict.fromkeys((num_frames, *((num_frames - 1) // n + 1 for n in (4, 6, 8)), 1)):
        if tokens % frames == 0:
            try:
                return grid_of(tokens, width, height, frames)
            except NAGValueError:
                continue
    return grid_of(tokens, width, height)
