"""NAG side by side: no guidance, CFG and Normalized Attention Guidance on one seed.

`python app.py`, then open the page.
"""

import argparse
import os
import sys
from pathlib import Path

from nag.errors import NAGError

try:
    from nag.engine.engine import Engine
    from nag.page.controls import PRESETS
    from nag.page.layout import build
    from nag.page.serve import launch
    from nag.page.zero_gpu import preload
    from nag.request import DEFAULT
except NAGError as error:  # a preset file that is none, no folder for temporary files
    sys.exit(str(error))


def port_number(text: str) -> int:
    """A port to listen on. Raises ArgumentTypeError."""
    if not text.isdecimal() or not 0 < int(text) < 2**16:
        raise argparse.ArgumentTypeError(f"a port is a number from 1 to 65535, got {text!r}")
    return int(text)


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--host", default=os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"))
    port = os.environ.get("GRADIO_SERVER_PORT", "7860")  # as text it is looked at, too
    parser.add_argument("--port", type=port_number, default=port)
    parser.add_argument(
        "--public",
        default=os.environ.get("GRADIO_ROOT_PATH", ""),
        metavar="URL",
        help="the address that people type, where a reverse proxy stands before the page: "
        "https://example.org/nag",
    )
    parser.add_argument("--preset", default=DEFAULT, choices=list(PRESETS))
    parser.add_argument(
        "--model",
        help="loaded in place of the preset's own model: a local folder, a repository on the hub, "
        "or one .safetensors or .gguf file, for which that model gives what the file lacks",
    )
    parser.add_argument(
        "--mcp",
        action="store_true",
        help="offer the API to programs that speak the Model Context Protocol, at /gradio_api/mcp/",
    )
    parser.add_argument(
        "--votes",
        type=Path,
        metavar="FILE",
        help="a SQLite file to keep visitors' votes in; without it they end with the visit",
    )
    parser.add_argument(
        "--results",
        type=Path,
        metavar="DIR",
        help="what python -m nag evaluate --out DIR has written, to be looked at as a gallery",
    )
    return parser


def main() -> None:
    asked = options().parse_args()
    if asked.model:
        PRESETS[asked.preset] = PRESETS[asked.preset].with_model(asked.model)
    engine = Engine()
    preload(engine)
    page = build(engine, asked.preset, asked.votes, asked.results)
    launch(page, asked.host, asked.port, asked.public, asked.mcp)


if __name__ == "__main__":
    try:
        main()
    except NAGError as error:
        sys.exit(str(error))
