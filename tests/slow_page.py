"""The page with the model that ships as if it were a large one, 9 s a picture: `python
tests/slow_page.py PORT`. For tests/test_instrument.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import app
from nag.engine.engine import Engine
from nag.page import cells


class Slow(Engine):
    """An engine that says so."""

    def run(self, *asked, **more):
        for run, column, preview in super().run(*asked, **more):
            for one in run.columns:
                if one.state == "done" and not one.reused:
                    one.seconds = 9.0
            yield run, column, preview


if __name__ == "__main__":
    about = cells.about
    cells.about = lambda preset: about(preset) | {"shipped": False}
    app.launch(app.build(Slow(), "pocket-portrait"), "127.0.0.1", int(sys.argv[1]))
