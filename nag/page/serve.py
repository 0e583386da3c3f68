"""The page on the network."""

import importlib.util
import os
import re
import signal
import threading

from starlette.middleware import Middleware

from ..engine.loading import import_libraries
from ..errors import NAGRuntimeError, Refused
from .blocks import Page
from .files import FOLDER
from .gate import Gate
from .layout import THEME, head

LOOPBACK = ("127.0.0.1", "localhost", "::1")
PRIVATE = "127.0.0.1,::1,10.0.0.0/8,172.16.0.0/12,192.168.0.0/16"
TABS = 500  # browser tabs whose fields Gradio remembers


def launch(
    demo: Page, host: str, port: int, public: str = "", mcp: bool = False, **options: object
) -> None:
    """Serves the page until the process is told to end.

    public: the address that people type, such as https://example.org/nag, where a reverse proxy
    stands before the page. mcp: whether the API is a server of the Model Context Protocol too, at
    /gradio_api/mcp/. Raises `Refused` where `public` is no address, `NAGRuntimeError` where the
    port is taken, or a package is missing.
    """
    if mcp and importlib.util.find_spec("mcp") is None:
        raise NAGRuntimeError("--mcp needs one more package: pip install 'mcp>=1.21,<2'.")
    # as tidy an end as with Ctrl+C; by an event, for an exception is lost where Python happens to
    # be in a callback that none may leave
    told_to_end = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: told_to_end.set())
    try:
        demo.queue().launch(
            server_name=host,
            server_port=port,
            root_path=public or None,
            head=head(),
            theme=THEME,
            show_error=False,
            allowed_paths=[],
            app_kwargs={"middleware": [gate(demo, host, public, mcp)]},
            state_session_capacity=TABS,
            ssr_mode=False,  # Node in front would hide who asks
            num_workers=0,  # of Gradio's, which would serve files without the gate
            mcp_server=mcp,
            run_history=False,
            enable_monitoring=False,
            footer_links=["api"],  # hidden: the page has a link of its own to that panel
            share=False,
            prevent_thread_lock=True,
            **options,
        )
        import_libraries()  # while the page is looked at: the first Compare finds them there
        told_to_end.wait()
        demo.close()
    except KeyboardInterrupt:
        demo.close()
    except OSError as error:
        if "empty port" not in str(error):
            raise
        raise NAGRuntimeError(
            f"Port {port} of {host} cannot be used: another program may have it. "
            f"Name another one: python app.py --port {port + 1 if port < 65535 else 7860}"
        ) from None


def gate(demo: Page, host: str, public: str = "", mcp: bool = False) -> Middleware:
    """The gate for a page that listens on `host`. On a Space its public address is known."""
    if public and not re.match(r"https?://[\w.:\[\]-]+(/|$)|/", public):
        raise Refused(f"--public is an address like https://example.org/nag, got {public!r}.")
    space = os.environ.get("SPACE_HOST")
    if space:
        # of its own proxies, X-Forwarded-For is believed: it says who asks
        os.environ.setdefault("FORWARDED_ALLOW_IPS", PRIVATE)
    return Middleware(
        Gate,
        names=LOOPBACK if host in LOOPBACK and not space else None,
        public=public or (f"https://{space}" if space else ""),
        endpoints=demo.public(),
        mcp=mcp,
        audience=demo.audience,
        sweep=FOLDER.sweep,
    )
