"""NAG side by side: no guidance, CFG and Normalized Attention Guidance on one seed. `python app.py`, then open the page."""

import argparse
import os

from nag.engine.engine import Engine
from nag.errors import Refused
from nag.page.controls import PRESETS
from nag.page.layout import build
from nag.page.serve import launch
from nag.request import DEFAULT


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default=os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"))
    parser.add_argument(
        "--port", type=int, default=int(os.environ.get("GRADIO_SERVER_PORT", "7860"))
    )
    parser.add_argument("--preset", default=DEFAULT, choices=list(PRESETS))
    parser.add_argument(
        "--model",
        help="loaded in place of the preset's own model: a local folder, a repository on the hub, "
        "or one .safetensors or .gguf file, for which that model gives what the file lacks",
    )
    arguments = parser.parse_args()
    if arguments.model:
        try:
            PRESETS[arguments.preset] = PRESETS[arguments.preset].with_model(arguments.model)
        except Refused as error:
            parser.error(str(error))
    demo = build(Engine(), arguments.preset)
    launch(demo, arguments.host, arguments.port)


if __name__ == "__main__":
    main()
