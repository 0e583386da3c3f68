"""What a page on the network must refuse before anybody looks at it: foreign pages and names, ways
around the queue, bodies too large. Every refusal is a sentence in JSON, which the page shows."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse

from ..media import uploads

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

API = "/gradio_api"
BODY_LIMIT = 256 * 1024  # bytes; the longest prompt has 2,000 characters
UPLOAD_LIMIT = uploads.BYTES + BODY_LIMIT  # of a picture, with what a form puts around it
POSTS = [f"{API}/{path}" for path in ("queue/join", "upload", "cancel", "reset")]  # of the page
CALL = re.compile(f"{API}/call/(?:v2/)?([^/]+)/?")
STREAM = re.compile(f"{API}/call/(?:v2/)?[^/]+/([^/]+)/?")
# What Gradio offers beside the page: a fetcher of other sites, sessions written to disk.
SHUT = re.compile(f"{API}/(file[=/][a-z]+:|proxy=|deep_link)", re.IGNORECASE)
PORTS = {"http": 80, "https": 443}

log = logging.getLogger("nag")


class Refusal(NamedTuple):
    """An HTTP status, and the sentence that goes with it."""

    status: int
    sentence: str


class Audience:
    """Who listens to what is drawn: the event streams that are open, by tab or by event."""

    def __init__(self) -> None:
        self.streams, self.lock = Counter(), threading.Lock()
        self.watched = False  # without a gate, nobody is seen to come and go

    @contextlib.contextmanager
    def listening(self, key: str) -> Iterator[None]:
        with self.lock:
            self.streams[key] += 1
        try:
            yield
        finally:
            with self.lock:
                self.streams[key] -= 1
                if not self.streams[key]:
                    del self.streams[key]

    def away(self, key: str) -> bool:
        """Whether no stream of that tab or event is open."""
        return self.watched and key not in self.streams


@dataclass(frozen=True)
class Origin:
    """Scheme, name and port of an address; a Host header has no scheme, and often no port."""

    scheme: str
    name: str
    port: int | None

    @classmethod
    def parse(cls, text: str) -> Origin | None:
        """ "http://name:port", or "//name:port" of a Host header; None of everything else."""
        try:
            url = urlsplit(text)
            port = url.port
        except ValueError:
            return None
        name = url.hostname or ""
        plain = text.lower() in (f"{url.scheme}://{url.netloc}".lower(), f"//{url.netloc}".lower())
        if not plain or "@" in url.netloc or not re.fullmatch(r"[\w.-]+|[0-9a-f:.]+", name):
            return None
        return cls(url.scheme, name.lower(), port) if url.scheme in ("", *PORTS) else None

    def same(self, origin: Origin) -> bool:
        """Whether an Origin header names this address."""
        ports = [each.port or PORTS.get(origin.scheme) for each in (self, origin)]
        scheme = self.scheme or origin.scheme
        return (scheme, self.name, ports[0]) == (origin.scheme, origin.name, ports[1])


class Gate:
    """ASGI middleware. Answers 421, 403, 404 and 413 itself.

    names: the names under which the page may be reached; None: whatever a Host header says.
    public: the address that people type, where a reverse proxy stands before the page.
    endpoints: the names of the API; all other handlers are the page's own. mcp: whether they are
        called by MCP too, which puts its calls into the same queue.
    audience: told who listens. sweep: makes room before an upload.
    """

    def __init__(
        self,
        app: ASGIApp,
        names: Collection[str] | None = None,
        public: str = "",
        endpoints: Collection[str] = (),
        mcp: bool = False,
        audience: Audience | None = None,
        sweep: Callable[[], None] = lambda: None,
    ) -> None:
        self.app, self.names, self.endpoints, self.sweep = app, names, endpoints, sweep
        self.mcp = mcp
        url = urlsplit(public)
        self.public = Origin.parse(f"{url.scheme}://{url.netloc}") if public else None
        self.prefix = url.path.rstrip("/")
        self.audience = audience or Audience()
        self.audience.watched = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers, path = Headers(scope=scope), scope["path"].removeprefix(self.prefix)
        upload = path.rstrip("/") == f"{API}/upload"
        limit = UPLOAD_LIMIT if upload else BODY_LIMIT
        refusal = (
            self.host(headers.get("host", ""))
            or self.origin(headers)
            or self.path(scope["method"], path)
            or size(headers.get("content-length", "0"), limit)
        )
        if refusal:
            return await answer(refusal)(scope, receive, send)
        if upload:
            await asyncio.to_thread(self.sweep)
        with self.heard(scope, path):
            await Exchange(self.app, limit).run(scope, receive, send)

    def host(self, header: str) -> Refusal | None:
        """Against names that were bound to this machine's address by somebody else."""
        host = Origin.parse(f"//{header}")
        known = {*(self.names or ()), *([self.public.name] if self.public else ())}
        if host is None or (self.names is not None and host.name not in known):
            return Refusal(421, "This page does not answer to that name.")
        return None

    def origin(self, headers: Headers) -> Refusal | None:
        """Against the scripts of other sites, which a browser lets in and names."""
        text = headers.get("origin")
        if text is None:
            foreign = headers.get("sec-fetch-site") == "cross-site"
            foreign = foreign and headers.get("sec-fetch-mode") not in ("navigate", None)
        else:
            origin, host = Origin.parse(text), Origin.parse(f"//{headers.get('host', '')}")
            own = [each for each in (host, self.public) if each]
            foreign = not (origin and origin.scheme and any(each.same(origin) for each in own))
        if foreign:
            return Refusal(403, "This page takes no requests from other sites.")
        return None

    def path(self, method: str, path: str) -> Refusal | None:
        """Against ways around the queue, and what is not of the page."""
        if method in ("GET", "HEAD", "OPTIONS"):
            return Refusal(404, "There is nothing at this address.") if SHUT.match(path) else None
        if self.mcp and path.rstrip("/") == f"{API}/mcp":
            return None
        call = CALL.fullmatch(path)
        if path.rstrip("/") in POSTS or (call and call[1] in self.endpoints):
            return None
        calls = " or ".join(f"{API}/call/{name}" for name in self.endpoints)
        return Refusal(404, f"There is no such call. Calls wait in the queue: POST to {calls}.")

    @contextlib.contextmanager
    def heard(self, scope: Scope, path: str) -> Iterator[None]:
        """Tells the audience of an event stream, for as long as it is open."""
        stream = STREAM.fullmatch(path)
        keys = [stream[1]] if stream else []
        if path == f"{API}/queue/data":
            keys = parse_qs(scope["query_string"].decode("latin-1")).get("session_hash", [])
        with contextlib.ExitStack() as stack:
            for key in keys:
                stack.enter_context(self.audience.listening(key))
            yield


class TooLarge(Exception):
    """Raised where a body that came in pieces is longer than its limit."""


class Exchange:
    """One request and its answer: counts the bytes of the body, and answers in a sentence where
    the application raises, or would have a proxy keep events back."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app, self.limit = app, limit
        self.seen, self.started, self.refusal = 0, False, None

    async def run(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.receive, self.send = receive, send
        try:
            await self.app(scope, self.counted, self.passed)
        except Exception as error:
            if self.started:
                raise
            if not self.refusal:
                log.exception("%s %s", scope["method"], scope["path"])
                self.refusal = Refusal(500, f"The server failed ({type(error).__name__}).")
        if self.refusal and not self.started:
            await answer(self.refusal)(scope, receive, send)

    async def counted(self) -> Message:
        message = await self.receive()
        self.seen += len(message.get("body", b""))
        if self.seen > self.limit:
            self.refusal = too_large(self.limit)
            raise TooLarge
        return message

    async def passed(self, message: Message) -> None:
        if self.refusal:
            return  # what the application makes of half a body
        if message["type"] == "http.response.start":
            self.started, headers = True, MutableHeaders(scope=message)
            if headers.get("content-type", "").startswith("text/event-stream"):
                headers["X-Accel-Buffering"] = "no"  # nginx would keep events back
        await self.send(message)


def size(length: str, limit: int) -> Refusal | None:
    return None if re.fullmatch(r"\d{1,15}", length) and int(length) <= limit else too_large(limit)


def too_large(limit: int) -> Refusal:
    return Refusal(413, f"Requests may have at most {limit // 1024} kB.")


def answer(refusal: Refusal) -> JSONResponse:
    """JSON under the two names where Gradio's clients look for it."""
    sentence = refusal.sentence
    return JSONResponse({"error": sentence, "detail": sentence}, refusal.status)
