"""The ways to guide, in one table: what a column is called, what it does, what settings it uses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .request import Request

# setting -> the switch of a request that turns it off
SWITCHES = {"nag_tau": "nag_normalisation", "nag_alpha": "nag_refinement"}


@dataclass(frozen=True)
class Method:
    """One way to guide, which is one column of a comparison.

    key: what a request calls it.
    name: what people read.
    cfg: whether the pipeline runs classifier-free guidance, with a second pass for the negative
    prompt.
    projected: whether CFG's difference is projected, see `nag/guidance/projected.py`.
    attention: `NAGSettings.method`, what happens inside of attention; "" leaves attention alone.
    scale: the setting that says how strong it is; "" where there is none.
    settings: all settings that change its picture, beside those that change every picture.
    colour: of its line in a plot.
    research: a rival, for comparison.
    """

    key: str
    name: str
    colour: str
    cfg: bool = False
    projected: bool = False
    attention: str = ""
    scale: str = ""
    settings: tuple[str, ...] = ()
    research: bool = False

    @property
    def label(self) -> str:
        return f"{self.name} (research)" if self.research else self.name

    def used(self, request: Request) -> dict[str, Any]:
        """The settings out of a request that this way uses; one that is switched off is not."""
        used = {}
        for name in self.settings:
            switch = SWITCHES.get(name)
            if switch is not None:
                used[switch] = getattr(request, switch)
            if used.get(switch, True):
                used[name] = getattr(request, name)
        return used


_NAG = ("nag_scale", "nag_tau", "nag_alpha", "nag_end")
METHODS = {
    method.key: method
    for method in (
        Method("none", "No guidance", "#64748b"),
        Method(
            "cfg",
            "CFG",
            "#c2410c",
            cfg=True,
            scale="guidance_scale",
            settings=("guidance_scale",),
        ),
        Method("nag", "NAG", "#2a4bdb", attention="nag", scale="nag_scale", settings=_NAG),
        Method(
            "cfg+nag",
            "CFG + NAG",
            "#7c3aed",
            cfg=True,
            attention="nag",
            scale="nag_scale",
            settings=("guidance_scale", *_NAG),
        ),
        Method(
            "nasa",
            "NASA",
            "#0f766e",
            attention="nasa",
            scale="nasa_scale",
            settings=("nasa_scale", "nag_end"),
            research=True,
        ),
        Method(
            "ong",
            "ONG",
            "#be185d",
            attention="ong",
            scale="ong_scale",
            settings=("ong_scale", "nag_end"),
            research=True,
        ),
        Method(
            "vsf",
            "VSF",
            "#a16207",
            attention="vsf",
            scale="vsf_scale",
            settings=("vsf_scale", "vsf_bias", "nag_end"),
            research=True,
        ),
        Method(
            "negpip",
            "NegPiP",
            "#4d7c0f",
            attention="negpip",
            scale="negpip_scale",
            settings=("negpip_scale", "nag_end"),
            research=True,
        ),
        Method(
            "apg",
            "CFG + APG",
            "#0f172a",
            cfg=True,
            projected=True,
            scale="guidance_scale",
            settings=("guidance_scale",),
            research=True,
        ),
    )
}
