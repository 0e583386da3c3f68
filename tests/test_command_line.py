"""`python -m nag` in a process of its own, on machines that are not as ours."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import nag

HOUSE = Path(nag.__file__).parent
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def run(*words, **environment) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "nag", *words],
        capture_output=True,
        cwd=HOUSE.parent,
        env={**os.environ, **environment},
        timeout=300,
        check=False,
    )


def test_a_locale_that_knows_ascii_alone_takes_every_word(tmp_path):
    done = run(
        *("compare", "--prompt", "Schöne Grüße → 海賊", "--seed", "7"),
        *("--set", "num_inference_steps=1", "--set", 'guidance=["none"]', "--out", str(tmp_path)),
        **ASCII,
    )
    assert done.returncode == 0, done.stderr.decode()
    told = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))
    assert told["settings"]["prompt"] == "Schöne Grüße → 海賊"


def test_every_text_file_is_opened_as_utf_8():
    """Without an encoding it is the locale's, and a preset with a dash ends the program in C."""
    for path in [*HOUSE.rglob("*.py"), HOUSE.parent / "app.py"]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            given = {keyword.arg for keyword in node.keywords}
            text = name in ("read_text", "write_text") or (
                name == "open"
                and getattr(getattr(node.func, "value", None), "id", "") != "Image"
                and not any(
                    "b" in arg.value
                    for arg in node.args[-1:]
                    if isinstance(arg, ast.Constant) and isinstance(arg.value, str)
                )
            )
            decoded = name == "read_text" and node.args
            assert not text or decoded or "encoding" in given, f"{path}:{node.lineno}"
