"""The README is a path: what it shows must exist and run."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

from nag import presets
from nag.__main__ import families_table, main

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def test_every_file_is_in_the_tree_and_every_picture_exists():
    for path in (ROOT / "nag").glob("*.py"):
        assert path.name == "__init__.py" or f"nag/{path.name}" in README, path
    for picture in re.findall(r"!\[[^]]*\]\(([^)]+)\)", README):
        assert (ROOT / picture).is_file(), picture
    assert "@" not in re.sub(r"```.*?```", "", README, flags=re.S)


def test_the_table_of_families_is_the_codes():
    assert f"<!-- families -->\n{families_table()}\n<!-- /families -->" in README, (
        "python -m nag families --write README.md"
    )


def test_every_preset_is_in_the_table_with_its_settings():
    for name, preset in presets.load_all().items():
        numbers = ", ".join(
            f"{preset.settings[key]:g}".removeprefix("0")
            for key in ("nag_scale", "nag_tau", "nag_alpha")
        )
        frames = (
            f" {preset.settings['width']} x {preset.settings['height']}, {preset.settings['num_frames']} |"
            if preset.fps
            else ""
        )
        row = rf"`{name}` \|.*\| {preset.settings['num_inference_steps']} \| {re.escape(numbers)} \|{re.escape(frames)}\n"
        assert re.search(row, README), (name, numbers, frames)


def test_the_command_line_runs_as_written(tmp_path):
    command = re.search(r"^python (-m nag compare .*) --out out$", README, re.M).group(1)
    done = subprocess.run(
        [sys.executable, *shlex.split(command), "--out", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert {p.name for p in tmp_path.iterdir()} == {
        "none.png",
        "cfg.png",
        "nag.png",
        "strip.png",
        "run.json",
    }


def test_a_refused_comparison_says_why(tmp_path, capsys):
    assert main(["compare", "--set", "nag_tau=99", "--out", str(tmp_path)]) == 2
    assert "nag_tau must be between" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_models_and_check_run_as_written(capsys):
    assert "\npython -m nag models\n" in README
    assert main(["models"]) == 0
    listed = capsys.readouterr().out.splitlines()
    for name, preset in presets.load_all().items():
        line = next(line for line in listed if line.startswith(f"{name} "))
        assert (
            preset.licence in line
            and ("runs here" in line or "needs a GPU" in line)
            and ("gated" in line) == preset.gated
        )
    assert main(["check", "--preset", "pocket-portrait"]) == 0
    checked = capsys.readouterr().out
    assert "4 cross-attention layers" in checked, checked
    for key, guided in (("none", 0), ("cfg", 0), ("nag", 2)):
        assert re.search(rf"^{key} +done .*for 2 steps, guided {guided}", checked, re.M), checked
    assert main(["check", "--preset", "sd15"]) == 2
    assert "hub cannot be reached" in capsys.readouterr().err


def test_the_python_example_runs_as_written(monkeypatch):
    monkeypatch.chdir(ROOT)
    example = next(
        block for block in re.findall(r"```python\n(.*?)```", README, re.S) if "nag.guide" in block
    )
    names = {}
    exec(compile(example, "README.md", "exec"), names)
    assert names["image"].size == (128, 128)
