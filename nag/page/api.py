"""The API with one parameter a setting, which describes itself to people, programs and MCP clients.

Beside it `/compare` and `/compare_from_image`, which take the same settings as one JSON object.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import gradio as gr
from gradio.data_classes import FileData
from PIL import Image

from ..engine.loading import import_libraries
from ..engine.memory import runs_here
from ..errors import Refused
from ..methods import METHODS
from ..presets import Preset, resolve
from ..request import RANGED, SETTINGS
from .arguments import checked
from .blocks import ENGINE, Settings, StartPicture
from .controls import PRESETS
from .files import FOLDER, file_data
from .handlers import PageHandlers
from .keep import WRITERS

KINDS = {".png": "image/png", ".mp4": "video/mp4"}
Name = Literal[tuple(PRESETS)]
Kind = Literal[tuple(WRITERS)]
Columns = list[Literal[tuple(METHODS)]]


class Endpoints:
    """The functions of the API. Gradio and MCP tell programs their names, hints and docstrings."""

    def __init__(self, handlers: PageHandlers) -> None:
        self.handlers = handlers

    def draw(
        self,
        request: gr.Request,
        prompt: str | None = None,
        negative_prompt: str | None = None,
        preset: Name | None = None,
        seed: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        nag_scale: float | None = None,
        nag_tau: float | None = None,
        nag_alpha: float | None = None,
        nag_end: float | None = None,
        nag_normalisation: bool | None = None,
        nag_refinement: bool | None = None,
        nasa_scale: float | None = None,
        ong_scale: float | None = None,
        vsf_scale: float | None = None,
        vsf_bias: float | None = None,
        negpip_scale: float | None = None,
        width: int | None = None,
        height: int | None = None,
        num_frames: int | None = None,
        guidance: Columns | None = None,
        batched: bool | None = None,
        fresh: bool | None = None,
        start_picture: str | None = None,
    ) -> tuple[dict, FileData | None, list[FileData]]:
        """Draw one seed without guidance, with CFG and with Normalized Attention Guidance (NAG).

        Whatever is left out is the preset's own. /presets lists models, ranges and settings.

        Args:
            prompt: What to draw.
            negative_prompt: What must not be in it.
            preset: The model and its settings. Pocket presets run on every machine in seconds.
            seed: Starting noise, the same for every column.
            num_inference_steps: Denoiser passes.
            guidance_scale: Strength of CFG, off at 1.
            nag_scale: Strength of NAG, off at 1.
            nag_tau: The most that attention may grow at any point of the picture, 1 and up.
            nag_alpha: How much of the guided result is mixed in, 0 (off) to 1.
            nag_end: Share of the steps that are guided, 0 (off) to 1.
            nag_normalisation: False is an ablation, nothing bounds the norm.
            nag_refinement: False is an ablation, nothing is blended.
            nasa_scale: Strength of the rival method NASA, off at 0.
            ong_scale: Strength of the rival method Orthogonal Negative Guidance, off at 0.
            vsf_scale: Strength of the rival method value sign flip, off at 0.
            vsf_bias: How much lower value sign flip makes the negative's logits.
            negpip_scale: Weight of the negative's words under NegPiP, off at 0.
            width: Pixels.
            height: Pixels.
            num_frames: Of a video.
            guidance: The columns to draw, in this order.
            batched: Draw columns in one pipeline call, faster, without a time for each.
            fresh: Draw anew what was drawn with the same settings before.
            start_picture: For editing presets, the path that POST /gradio_api/upload answered.

        Returns:
            The run: settings, time, cost and what was measured, by column.
            Its columns side by side; of videos the middle frames.
            A file for each column, in the order of the run's "files".
        """
        given = dict(locals())
        asked = {n: given[n] for n in ("preset", *SETTINGS) if given[n] is not None}
        *_, (run, files) = self.handlers.api(request, asked, start_picture)
        beside = file_data(side_by_side(run["run"], files), "image/png") if files else None
        return run, beside, [file_data(Path(path), KINDS[Path(path).suffix]) for path in files]

    def picture(self, run: str) -> FileData:
        """Show the columns of a finished run side by side, in one picture.

        For programs that see one picture an answer, such as most that speak MCP.

        Args:
            run: The number that a run of /draw answered.
        """
        path = FOLDER.drawn / f"{run}-columns.png"
        if not re.fullmatch("[0-9a-f]{12}", run) or not path.is_file():
            raise Refused(f"There are no pictures of a run {run[:20]!r} here: /draw them again.")
        return file_data(path, KINDS[path.suffix])

    def keep(self, run: str, kind: Kind, bare: bool = False) -> FileData:
        """Give a finished run as one file, as the page's Save menu does.

        Args:
            run: The number that a run answered.
            kind: strip (PNG with captions), zip (pictures and run.json), html (one page that works
                offline), webp (animated) or mp4.
            bare: Leave the settings out of its pictures and videos.
        """
        path, _ = self.handlers.keeper.make(run, kind, bare)
        return file_data(path, "application/octet-stream")

    def save_preset(self, settings: dict) -> FileData:
        """Write settings as a preset file, which the folder presets/ accepts.

        Args:
            settings: Any subset of the settings, as /compare takes them.
        """
        resolve(settings, PRESETS)  # none is left aside in silence
        path, _ = self.handlers.keeper.preset(settings)
        return file_data(path, "application/json")

    def presets(self) -> list[dict]:
        """List the presets: models, and what this machine can do with each.

        Returns:
            Name, title, model, licence, kind and "here" of every preset.
        """
        import_libraries()
        return [listed(preset) for preset in PRESETS.values()]

    def preset(self, name: Name) -> dict:
        """Tell everything about one preset.

        Args:
            name: One of the names that /presets lists.

        Returns:
            Settings, ranges, prompts, what to look for, and the source of the settings.
        """
        import_libraries()
        return listed(PRESETS[name]) | told(PRESETS[name])

    def compare(self, request: gr.Request, settings: dict) -> Iterator[tuple[dict, list[str]]]:
        """Draw as /draw does, by one JSON object.

        Args:
            settings: Any of the parameters of /draw, by name, such as {"seed": 7}.

        Returns:
            The run: settings, time, cost and what was measured, by column.
            A file for each column, in the order of the run's "files".
        """
        yield from self.handlers.api(request, settings)

    def compare_from_image(
        self, request: gr.Request, settings: dict, image: str | None
    ) -> Iterator[tuple[dict, list[str]]]:
        """The same of a preset that begins with a picture.

        Args:
            settings: Any of the parameters of /draw, by name, such as {"preset": "flux-kontext"}.
            image: The picture to begin with.

        Returns:
            The run: settings, time, cost and what was measured, by column.
            A file for each column, in the order of the run's "files".
        """
        yield from self.handlers.api(request, settings, image)


def add_api(handlers: PageHandlers) -> None:
    """Adds the endpoints to the gr.Blocks that is being built."""
    api, turn = Endpoints(handlers), {"concurrency_id": ENGINE, "concurrency_limit": 1}
    with gr.Row(visible=False):
        settings, picture = Settings(label="settings"), StartPicture(label="image")
        told = [gr.JSON(label="run"), gr.Files(label="files")]
        for name, asked in {
            "compare": [settings],
            "compare_from_image": [settings, picture],
        }.items():
            gr.Button().click(getattr(api, name), asked, told, api_name=name, **turn)
    gr.api(api.draw, api_name="draw", **turn)
    gr.api(checked(api.picture), api_name="picture")
    gr.api(checked(api.keep), api_name="keep")
    gr.api(checked(api.save_preset), api_name="save_preset")
    gr.api(api.presets, api_name="presets")
    gr.api(checked(api.preset), api_name="preset")


def listed(preset: Preset) -> dict:
    """A preset in a line."""
    kind = "video" if preset.fps else "edit" if preset.image else "image"
    names = ("name", "title", "licence", "gated")
    line = {name: getattr(preset, name) for name in names}
    return line | {"model": preset.model_name, "kind": kind, "here": runs_here(preset)}


def told(preset: Preset) -> dict:
    """What else there is to know of it."""
    names = ("memory", "fetched_gb", "look_for", "source")
    prompts = [pair.model_dump() for pair in preset.prompts]
    ranges = {name: preset.range(name) for name in RANGED}
    settings = {"settings": preset.settings, "ranges": ranges, "prompts": prompts}
    return {name: getattr(preset, name) for name in names} | settings


def side_by_side(run_id: str, files: list[str]) -> Path:
    """The finished pictures in one; of videos the middle frames, which are saved beside them."""
    pictures = [Image.open(Path(path).with_suffix(".png")) for path in files]
    width = sum(picture.width for picture in pictures)
    sheet = Image.new("RGB", (width, max(picture.height for picture in pictures)))
    left = 0
    for picture in pictures:
        sheet.paste(picture, (left, 0))
        left += picture.width
    return FOLDER.write(f"{run_id}-columns.png", lambda path: sheet.save(path, "PNG"))
