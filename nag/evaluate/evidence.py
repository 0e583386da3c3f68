"""The columns of `--evidence`: every method at strengths of its own, for one table and one plot."""

from ..methods import METHODS
from ..presets import Preset
from .plan import Column, columns_of

# method -> what is swept. From weak to strong on the pocket models; the same number for each rival.
STRENGTHS: dict[str, dict[str, list[float]]] = {
    "none": {},
    "cfg": {"guidance_scale": [3, 7, 12, 20]},
    "apg": {"guidance_scale": [3, 7, 12, 20]},
    "nag": {"nag_scale": [2, 3, 4, 6]},
    "cfg+nag": {"guidance_scale": [3], "nag_scale": [2, 4]},
    "nasa": {"nasa_scale": [0.25, 0.5, 0.75, 1]},
    "ong": {"ong_scale": [1, 2, 4, 8]},
    "vsf": {"vsf_scale": [0.5, 1, 2, 4]},
    "negpip": {"negpip_scale": [0.5, 1, 2, 4]},
}
# where they must be others
ELSEWHERE: dict[str, dict[str, dict[str, list[float]]]] = {
    "pocket-joint": {
        "nag": {"nag_scale": [3, 4, 6, 8]},
        "ong": {"ong_scale": [1, 3, 6, 12]},
        "vsf": {"vsf_scale": [1, 3, 6, 12]},
        "negpip": {"negpip_scale": [2, 4, 8, 16]},
    },
}
STEPPED = "none", "cfg", "nag"  # at the preset's own settings, for `--steps`


def columns_for(
    preset: Preset, steps: list[int], others: dict[str, list[float]] | None = None
) -> list[Column]:
    """At the preset's own number of steps all methods in `STRENGTHS` that it allows, and with these
    steps three of them. others: {setting: values} in the place of those here. Raises `Refused`, as
    `presets.resolve` says it."""
    own = preset.settings["num_inference_steps"]
    elsewhere = ELSEWHERE.get(preset.name.removesuffix("-teacher"), {})
    columns = []
    for kind, sweep in (STRENGTHS | elsewhere).items():
        if preset.cfg or not METHODS[kind].cfg:
            within = {name: _within(preset, name, values) for name, values in sweep.items()}
            mine = {k: v for k, v in (others or {}).items() if k in METHODS[kind].settings}
            within |= mine
            columns += columns_of(preset, [kind], [own], within)
    settings = [column.settings for column in columns]
    for count in [count for count in dict.fromkeys(steps) if count]:
        for kind in STEPPED:
            if preset.cfg or not METHODS[kind].cfg:
                # two numbers of steps, so that the column's name says which
                more = columns_of(preset, [kind], [count, own if count != own else 1], {})[0]
                if more.settings not in settings:
                    columns.append(more)
                    settings.append(more.settings)
    return columns


def _within(preset: Preset, name: str, values: list[float]) -> list[float]:
    low, high = preset.range(name)
    return [value for value in values if low <= value <= high]
