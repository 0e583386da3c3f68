"""`python -m nag space`: what is uploaded as a Space is whole, and says of itself what it needs."""

import os
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import metadata
from pathlib import Path

import pytest
from huggingface_hub import SpaceCard
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from nag import __main__ as command_line
from nag import presets
from nag.commands import space

HOUSE = Path(__file__).resolve().parent.parent


def made(tmp_path: Path, *more: str) -> Path:
    folder = tmp_path / "space"
    assert command_line.main(["space", "somebody/nag", "--out", str(folder), *more]) == 0
    return folder


@pytest.fixture
def few_parts(monkeypatch):
    """Without the folders, which have 100 MB."""
    monkeypatch.setattr(space, "PARTS", ("app.py", "LICENSE", "requirements.txt"))


def test_on_a_processor_it_is_what_is_tested_here(tmp_path, capsys, few_parts):
    folder = made(tmp_path)
    assert (folder / "requirements.txt").read_bytes() == (HOUSE / "requirements.txt").read_bytes()
    card = SpaceCard.load(folder / "README.md", ignore_metadata_errors=False).data
    assert (card.sdk, card.app_file, card.suggested_hardware) == ("gradio", "app.py", "cpu-basic")
    assert card.thumbnail.endswith("/somebody/nag/resolve/main/assets/screenshot.png")
    assert (HOUSE / "assets" / "screenshot.png").is_file() and card.models is None
    printed = capsys.readouterr().out.splitlines()
    assert "--flavor cpu-basic" in printed[1] and "NAG_PRESETS" not in printed[1]
    assert printed[2] == f"hf upload somebody/nag {folder} . --type space"


def test_it_runs_from_its_folder_and_holds_nothing_else(tmp_path):
    folder = made(tmp_path)
    assert {path.name for path in folder.iterdir()} == {*space.PARTS, "README.md"}
    assert not [*folder.rglob("__pycache__"), *folder.rglob("*.pyi")]
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    code = "import nag.page.layout, nag.home; print(nag.home.HOME)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=own, capture_output=True, text=True
    )
    assert Path(done.stdout.strip()) == folder.resolve(), done.stderr
    shutil.rmtree(folder)


def test_for_zero_gpu_it_takes_the_platforms_torch_and_names_its_models(
    tmp_path, capsys, few_parts
):
    folder = made(tmp_path, "--presets", "flux-schnell, pixart-sigma")
    lines = (folder / "requirements.txt").read_text("utf-8").splitlines()
    assert lines[0] == space.TORCH and lines[-2:] == ["sentencepiece", "protobuf"]
    others = (HOUSE / "requirements.txt").read_text("utf-8").splitlines()[1:]
    assert lines[1 : len(others) + 1] == others
    card = SpaceCard.load(folder / "README.md", ignore_metadata_errors=False).data
    known = presets.load_all()
    assert card.models == [known[name].model for name in ("flux-schnell", "pixart-sigma")]
    assert card.suggested_hardware == "zero-a10g"
    assert '--env "NAG_PRESETS=flux-schnell, pixart-sigma"' in capsys.readouterr().out


def test_what_a_lora_and_a_licence_need_is_said(tmp_path, capsys, few_parts):
    known = presets.load_all()
    lora = next(preset for preset in known.values() if preset.lora)
    gated = next(preset for preset in known.values() if preset.gated)
    folder = made(tmp_path, "--presets", f"{lora.name},{gated.name}")
    assert (folder / "requirements.txt").read_text("utf-8").splitlines()[-1] == "peft"
    printed = capsys.readouterr().out
    assert "--secrets HF_TOKEN" in printed and "Accept the licence on the model's page" in printed


def test_every_package_runs_on_the_oldest_python_that_is_named_and_on_the_spaces():
    project = tomllib.loads((HOUSE / "pyproject.toml").read_text("utf-8"))["project"]
    card = SpaceCard.load(HOUSE / "README.md").data
    oldest = project["requires-python"].removeprefix(">=")
    for line in (HOUSE / "requirements.txt").read_text("utf-8").splitlines():
        package = Requirement(line).name
        runs_on = SpecifierSet(metadata(package)["Requires-Python"])
        assert oldest in runs_on and card.python_version in runs_on, package


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["nag", "--out", "x"], "A Space is called OWNER/NAME, got 'nag'."),
        (["a/b", "--out", "x", "--presets", "nothing"], "There is no preset 'nothing'"),
        (["a/b", "--out", "x", "--presets", "pocket-joint"], "asks for no GPU: leave it out"),
        (["a/b", "--out", "."], "--out . is there already"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(
    arguments, sentence, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert command_line.main(["space", *arguments]) == 2
    assert sentence in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_an_install_without_app_py_is_told_that_a_checkout_is_needed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(space, "HOME", tmp_path)
    assert command_line.main(["space", "a/b", "--out", str(tmp_path / "space")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("A Space is made from a checkout, and app.py, LICENSE")
    assert not (tmp_path / "space").exists()


@pytest.mark.parametrize("port", ["99999", "0", "abc", "-1"])
def test_a_port_is_one(port):
    named = {"GRADIO_SERVER_PORT": port} if port.isdecimal() else {}  # else Gradio ends
    for more, words in (({}, ["--port", port]), (named, [] if named else ["--port", port])):
        done = subprocess.run(
            [sys.executable, "app.py", *words],
            cwd=HOUSE,
            env=os.environ | more,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 2 and "a port is a number from 1 to 65535" in done.stderr
