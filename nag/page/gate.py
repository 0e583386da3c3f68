"""What a page on the network must refuse before anybody looks at it: bodies too large, posts from foreign pages, rebound names."""

from ..media import uploads

BODY_LIMIT = 256 * 1024  # bytes; the longest prompt has 2,000 characters
UPLOAD_LIMIT = uploads.BYTES + BODY_LIMIT  # of a picture, with what a form puts around it


class Gate:
    """ASGI middleware: 413 above BODY_LIMIT, for pictures above UPLOAD_LIMIT; 421 for a Host that is not in `hosts`; 403 for a POST
    whose Origin is not its Host.

    hosts: the names under which the page may be reached, or None where that is not known (a public address, a Space behind
    proxies that rename the host): then neither Host nor Origin can be judged here.
    """

    def __init__(self, app, hosts: set[str] | None = None):
        self.app, self.hosts = app, hosts

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers = {
            name.decode("latin-1").lower(): value.decode("latin-1")
            for name, value in scope["headers"]
        }
        host = headers.get("host", "")
        limit = UPLOAD_LIMIT if scope["path"].endswith("/upload") else BODY_LIMIT
        if (
            self.hosts is not None
            and host.rpartition(":")[0].strip("[]") not in self.hosts
            and host not in self.hosts
        ):
            return await _answer(send, 421, "This page does not answer to that name.")
        if scope["method"] == "POST":
            origin = headers.get("origin")
            if origin and self.hosts is not None and origin.split("://")[-1] != host:
                return await _answer(send, 403, "This page takes no requests from other sites.")
            length = headers.get("content-length", "0")
            if not length.isdigit() or int(length) > limit:
                return await _answer(send, 413, f"Requests may have at most {limit // 1024} kB.")
        seen = 0

        async def counted():  # a body sent in pieces has no length to check beforehand
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            return {"type": "http.disconnect"} if seen > limit else message

        await self.app(scope, counted, send)


async def _answer(send, status: int, text: str) -> None:
    body = text.encode()
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [
                (b"content-type", b"text/plain; charset=utf-8"),
                (b"content-length", str(len(body)).encode()),
            ],
        }
    )
    await send({"type": "http.response.body", "body": body})
