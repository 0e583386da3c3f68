"""What a page on the network must refuse before anybody looks at it: bodies too large, and posts from foreign pages."""

import os

BODY_LIMIT = 256 * 1024  # bytes; the longest prompt has 2,000 characters


class Gate:
    """ASGI middleware: 413 above BODY_LIMIT, 403 for a POST whose Origin is not the Host it arrives at."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if scope["method"] == "POST":
            origin, host = headers.get("origin"), headers.get("x-forwarded-host") or headers.get("host", "")
            # a Space stands behind proxies that rename the host, and does the check for itself
            if origin and origin.split("://")[-1] != host and not os.environ.get("SPACE_ID"):
                return await _answer(send, 403, "This page takes no requests from other sites.")
            length = headers.get("content-length", "0")
            if not length.isdigit() or int(length) > BODY_LIMIT:
                return await _answer(send, 413, f"Requests may have at most {BODY_LIMIT // 1024} kB.")
        seen = 0

        async def counted():  # a body sent in pieces has no length to check beforehand
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            return {"type": "http.disconnect"} if seen > BODY_LIMIT else message

        await self.app(scope, counted, send)


async def _answer(send, status: int, text: str) -> None:
    body = text.encode()
    await send({"type": "http.response.start", "status": status,
                "headers": [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]})
    await send({"type": "http.response.body", "body": body})
