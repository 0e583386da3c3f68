"""gr.Blocks and gr.Image as the page needs them: no way around the queue, no file of the machine,
and a sentence for everything that goes wrong."""

from __future__ import annotations

import html
import logging
import re
import uuid
from typing import TYPE_CHECKING

import gradio as gr
from fastapi import HTTPException
from gradio_client.utils import is_file_obj_with_meta, traverse

from .. import private
from ..errors import NAGError, Refused, unexpected
from ..request import DEFAULT, between
from .controls import LABELS
from .files import FULL, not_written
from .gate import Audience
from .line import Place, address_of, refusal

if TYPE_CHECKING:
    from gradio.block_function import BlockFunction
    from gradio.data_classes import FileData
    from gradio.state_holder import SessionState

ENGINE = "engine"  # concurrency_id of the events that draw
UNREADABLE = (
    "These values cannot be read as the inputs of this call. Under More, the page shows how it is "
    'called: "Use via API".'
)

log = logging.getLogger("nag")


class StartPicture(gr.Image):
    """Hands on the path of the upload as it came: `Folder.uploaded` and `uploads.load` look at it,
    and only where the preset begins with a picture. gr.Image would open it before that, with
    whatever decoder it asks for, and end the click where it cannot."""

    def preprocess(self, payload: FileData | None) -> str | None:
        """-> str, or None where no picture was given."""
        return payload.path if payload else None

    def get_block_name(self) -> str:
        return "image"  # the component of the browser


class Settings(gr.JSON):
    """Settings as one JSON object. Of gr.JSON's "any valid json" MCP clients make no schema, and a
    strict one takes none of the tools beside it."""

    def api_info(self) -> dict[str, str]:
        """Its JSON schema."""
        return {"type": "object", "title": "Settings"}

    def example_payload(self) -> dict[str, int | str]:
        """What "Use via API" shows."""
        return {"preset": DEFAULT, "seed": 7}

    def get_block_name(self) -> str:
        return "json"  # the component of the browser


class Page(gr.Blocks):
    """gr.Blocks with its doors shut: a queue that cannot be skipped and where nobody takes every
    place, inputs that name no file of the machine, and refusals in sentences."""

    def __init__(self, **options: object) -> None:
        self.audience = Audience()
        super().__init__(**options)

    def queue(self, *args: object, **options: object) -> Page:
        """As gr.Blocks does, but `api_open` is False, and `line.refusal` decides who may wait."""
        super().queue(*args, **options | {"api_open": False})
        line, arriving = private.queue_of(self), []
        push = line.push

        async def admitted(body, request, username):
            if body.fn_index not in self.fns:
                raise HTTPException(404, "This page is of another version: load it again.")
            fn = self.fns[body.fn_index]
            if fn.concurrency_id != ENGINE:
                return await push(body, request, username)
            place = _place(fn, request, body.session_hash or uuid.uuid4().hex)
            if reason := refusal([*self.waiting(), *arriving], place):
                raise HTTPException(429, reason)
            arriving.append(place)  # `push` waits before it queues
            try:
                return await push(body, request, username)
            finally:
                arriving.remove(place)

        line.push = admitted
        return self

    def waiting(self) -> list[Place]:
        """The runs that wait for the engine, by Gradio's own queue."""
        events = private.waiting_events(self, ENGINE)
        return [_place(event.fn, event.request, event.session_hash) for event in events]

    def direct(self) -> list[str]:
        """The handlers that would be called past the queue; there must be none."""
        return [fn.name for fn in self.fns.values() if fn.fn is not None and not fn.queue]

    def public(self) -> list[str]:
        """The names of the API."""
        return [fn.api_name for fn in self.fns.values() if fn.api_visibility == "public"]

    async def preprocess_data(
        self,
        block_fn: BlockFunction,
        inputs: list,
        state: SessionState | None,
        explicit_call: bool = False,
    ) -> list:
        """Raises gr.Error with a sentence for whatever is no value of these inputs."""
        got, wanted = len(inputs), len(block_fn.inputs)
        if got > wanted:  # Gradio leaves out what is too much
            raise Refused(f"This call takes {wanted} values, and got {got}.")
        for block, value in zip(block_fn.inputs, inputs, strict=False):
            if sentence := _no_number(private.as_visitor_has_it(state, block), value):
                raise Refused(sentence)
        try:
            inputs = [
                _path_alone(value) if isinstance(block, StartPicture) else _no_file(value)
                for block, value in zip(block_fn.inputs, inputs, strict=False)
            ]
            return await super().preprocess_data(block_fn, inputs, state, explicit_call)
        except (gr.Error, NAGError):
            raise
        except Exception:
            log.info("inputs of %s", block_fn.name, exc_info=True)
            counted = f"This call takes {wanted} values, and got {got}. " if got != wanted else ""
            raise Refused(counted + UNREADABLE) from None

    async def process_api(
        self, block_fn: BlockFunction | int, *args: object, **options: object
    ) -> dict:
        """Raises gr.Error alone: Gradio answers every other error with `null`."""
        try:
            return await super().process_api(block_fn, *args, **options)
        except gr.Error:
            raise
        except Exception as error:
            reason = _reason(error)
            if block_fn.api_visibility != "public":
                reason = html.escape(by_label(reason), quote=False)  # a toast is HTML
            raise gr.Error(reason, print_exception=False) from None


def _no_number(block: gr.blocks.Block, value: object) -> str:
    """A sentence where a field for a number has none, or one beyond its ends: Gradio's own names no
    field."""
    if not isinstance(block, (gr.Slider, gr.Number)):
        return ""
    if value is None:
        return f"{block.label} is empty: give it a number."
    low, high = block.minimum, block.maximum
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or low is None or high is None or low <= value <= high:
        return ""
    return f"{block.label} must be {between(low, high)}, got {value:g}."


def by_label(sentence: str) -> str:
    """A sentence whose settings are called as the page calls them, not as the API does."""
    names = "|".join(sorted(LABELS, key=len, reverse=True))
    return re.sub(rf"\b({names})\b", lambda found: LABELS[found[1]], sentence)


def _place(fn, request, session: str) -> Place:
    client = address_of(request.client and request.client.host)
    return Place(client, session, fn.api_visibility == "public")


def _reason(error: Exception) -> str:
    """What people are told of an error; the log has the rest."""
    if isinstance(error, NAGError):
        return str(error)
    if isinstance(error, OSError) and error.errno in FULL:
        log.exception("a request")
        return not_written("A file", error)
    run_id = uuid.uuid4().hex[:12]
    log.exception("run %s", run_id)
    return unexpected(error, run_id, "This request")


def _path_alone(payload) -> dict | None:
    """A picture's path, without what would make Gradio copy, download or decode the file."""
    if payload is None:
        return None
    path = payload.get("path") if isinstance(payload, dict) else payload
    return {"path": path if isinstance(path, str) else ""}


def _no_file(value):
    """The value. Raises `Refused` where it names a file: Gradio would copy or download it."""
    return traverse(value, _refuse, is_file_obj_with_meta)


def _refuse(file: dict):
    raise Refused(f"A file, {file['path'][:60]!r}, stands where text or a number is expected.")
