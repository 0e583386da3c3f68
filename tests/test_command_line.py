"""`python -m nag` in a process of its own, on machines that are not as ours."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nag
from nag.__main__ import main

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


def test_what_pip_installs_has_its_presets_and_models(tmp_path):
    """Not editable, and used from another folder: nothing is read of this checkout."""
    checkout = tmp_path / "checkout"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=HOUSE.parent,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (HOUSE.parent / name).is_file():
            (checkout / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(HOUSE.parent / name, checkout / name)
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", site, checkout], check=True)
    shutil.rmtree(checkout)
    words = ["compare", "--set", "num_inference_steps=1", "--out", tmp_path / "out"]
    done = subprocess.run(
        [sys.executable, "-m", "nag", *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert {"none.png", "cfg.png", "nag.png", "run.json"} <= set(os.listdir(tmp_path / "out"))
    page = "import nag.page.layout as page; print(page.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", page],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        check=True,
    )
    assert str(site) in done.stdout.decode()


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


def test_what_an_earlier_run_left_in_the_folder_is_named(tmp_path, capsys):
    once = ["compare", "--set", "num_inference_steps=1", "--out", str(tmp_path)]
    for columns, left in (('["none", "cfg"]', ""), ('["nag"]', "none.png, cfg.png")):
        assert main([*once, "--set", f"guidance={columns}"]) == 0
        said = capsys.readouterr().out
        assert ("Of an earlier run" in said) == bool(left) and left in said
