"""The page on the network."""

import os

import gradio as gr

from ..engine.loading import import_libraries
from .gate import Gate
from .layout import CSS, THEME


def launch(demo: gr.Blocks, host: str, port: int, **options):
    from starlette.middleware import Middleware

    # bound to this machine only, the page answers to its names only: no foreign page can reach it by rebinding its own
    local = {"127.0.0.1", "localhost", "::1"}
    hosts = local if host in local and not os.environ.get("SPACE_ID") else None
    demo.queue(max_size=20).launch(
        server_name=host,
        server_port=port,
        css=CSS,
        theme=THEME,
        show_error=False,
        allowed_paths=[],
        app_kwargs={"middleware": [Middleware(Gate, hosts=hosts)]},
        run_history=False,
        enable_monitoring=False,
        footer_links=["api"],
        share=False,
        prevent_thread_lock=True,
        **options,
    )
    import_libraries()  # while the page is looked at: the first Compare finds them there
    demo.block_thread()
