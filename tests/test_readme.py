"""The READMEs are a path: what they show exists, and what they say to type runs."""

import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nag import presets
from nag.__main__ import COMMANDS, main
from nag.families.markdown import table

ROOT = Path(__file__).resolve().parent.parent
FRONT = (ROOT / "README.md").read_text()
READMES = {
    str(path.relative_to(ROOT)): path.read_text()
    for pattern in ("", "assets/*/", "nag/*/", "presets/", "tests/", "tests/*/")
    for path in ROOT.glob(f"{pattern}README.md")
}
readmes = pytest.mark.parametrize("name", sorted(READMES))


def blocks(language: str) -> list[tuple[str, str]]:
    """(file, text) of every fenced block in a language."""
    pattern = rf"^```{language}\n(.*?)^```$"
    return [(n, b) for n, text in READMES.items() for b in re.findall(pattern, text, re.S | re.M)]


def spans(text: str) -> list[str]:
    """What stands between backticks outside of fenced blocks, in one line each."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.S | re.M)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]


def commands() -> list[str]:
    """Every `python -m nag ...` of every README, brackets around what may be left out removed."""
    fenced = [line for _, block in blocks("sh") for line in block.replace("\\\n", "").split("\n")]
    prose = [span for text in READMES.values() for span in spans(text)]
    found = [re.sub(r"^(accelerate launch|torchrun) .*?-m nag", "python -m nag", c) for c in fenced]
    series = [c for c in spans(READMES["nag/evaluate/README.md"]) if c.startswith("--")]
    found += [f"python -m nag evaluate {c}" for c in series if "N" not in c and "launch" not in c]
    return [re.sub(r"[][]", "", c) for c in found + prose if c.startswith("python -m nag ")]


def test_the_front_page_is_read_in_two_minutes():
    assert len((ROOT / "README.md").read_bytes()) <= 10_000


@pytest.mark.parametrize("folder", ["nag/page", "tests"])
def test_a_table_of_files_leaves_none_out(folder):
    text, here = READMES[f"{folder}/README.md"], ROOT / folder
    files = [path.name for path in here.glob("test_*.py" if folder == "tests" else "*.py")]
    assert [name for name in files if name != "__init__.py" and f"`{name}`" not in text] == []


def test_the_house_has_every_room_with_its_purpose():
    house = FRONT[FRONT.index("## The house") :]
    rooms = {f"nag/{path.name}" for path in (ROOT / "nag").glob("*.py")} - {"nag/__init__.py"}
    rooms |= {f"nag/{path.parent.name}/" for path in (ROOT / "nag").glob("*/__init__.py")}
    rows = [row.split("|")[1:3] for row in re.findall(r"^\|.*\|$", house, re.M)]
    named = {span for room, purpose in rows if purpose.strip() for span in spans(room)}
    assert not rooms - named, f"not in the README's house: {sorted(rooms - named)}"
    assert not [room for room in named - {"room"} if not (ROOT / room).exists()]


@readmes
def test_links_pictures_and_files_that_are_named_exist(name):
    text, here = READMES[name], (ROOT / name).parent
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text)
    for link in links:
        assert re.match("https?://", link) or (here / link).exists(), link
    for path in spans(text):
        if re.fullmatch(r"(nag|tests|presets|assets)/[\w./-]*", path):
            assert (ROOT / path).exists(), path
        elif re.fullmatch(r"[\w/]+\.py", path):
            assert (here / path).exists() or (ROOT / path).exists(), path
    assert "@" not in re.sub(r"```.*?```", "", text, flags=re.S)


@readmes
def test_prose_stays_within_100_columns(name):
    prose = re.sub(r"^```.*?^```$", "", READMES[name], flags=re.S | re.M).split("\n")
    assert not [line for line in prose if len(line) > 100 and not line.startswith(("|", "!["))]


def test_the_table_of_families_is_the_codes():
    assert (
        f"<!-- families -->\n{table()}\n<!-- /families -->" in READMES["nag/families/README.md"]
    ), "python -m nag families --write nag/families/README.md"


def test_every_preset_is_in_the_table_with_its_settings():
    for name, preset in presets.load_all().items():
        settings = preset.settings
        numbers = ", ".join(
            f"{settings[key]:g}".removeprefix("0") for key in ("nag_scale", "nag_tau", "nag_alpha")
        )
        size = f"{settings['width']} x {settings['height']}, {settings.get('num_frames')}"
        row = rf"`{name}` \|.*\| {settings['num_inference_steps']} \| {re.escape(numbers)} \|"
        row += rf" {size} \|\n" if preset.fps else r"\n"
        assert re.search(row, READMES["presets/README.md"]), (name, numbers, size)


def test_every_command_is_one_that_the_program_takes(monkeypatch):
    """Parsed as written; nothing is drawn."""
    taken = []
    for name, command in list(COMMANDS.items()):
        recorded = command._replace(run=lambda options: taken.append(options) or 0)
        monkeypatch.setitem(COMMANDS, name, recorded)
    for line in commands():
        words = shlex.split(line)[3:]
        where = ["--out", "out"] if words[0] in ("evaluate", "compare") else []
        assert main([*words, *where]) == 0, line
    assert len(taken) > 10
    assert {"compare", "evaluate", "fidelity"} <= {options.command for options in taken}


def test_compare_runs_as_written(tmp_path):
    line = re.search(r"^python (-m nag compare .*) --out out$", FRONT, re.M).group(1)
    done = subprocess.run(
        [sys.executable, *shlex.split(line), "--out", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    pictures = {"none.png", "cfg.png", "nag.png", "strip.png"}
    assert {path.name for path in tmp_path.iterdir()} == pictures | {"run.json"}


def test_evaluate_runs_as_written_on_fewer_pictures(tmp_path, capsys):
    line = re.search(r"^python -m nag (evaluate .*) --out out$", FRONT, re.M).group(1)
    fewer = ["--count", "5", "--metrics", "attribute", "keep", "--out", str(tmp_path)]
    assert main([*shlex.split(line), *fewer]) == 0
    assert "| none |" in capsys.readouterr().out and (tmp_path / "results.json").is_file()


def test_a_refused_comparison_says_why(tmp_path, capsys):
    assert main(["compare", "--set", "preset=pocket-joint", "--out", str(tmp_path)]) == 2
    assert "name it by --preset pocket-joint" in capsys.readouterr().err
    assert main(["compare", "--set", "nag_tau=99", "--out", str(tmp_path)]) == 2
    assert "nag_tau must be between" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_models_and_check_run_as_written(capsys):
    assert "\npython -m nag models\n" in FRONT
    assert main(["models"]) == 0
    listed = capsys.readouterr().out.splitlines()
    for name, preset in presets.load_all().items():
        line = next(line for line in listed if line.startswith(f"{name} "))
        assert preset.licence in line and ("gated" in line) == preset.gated
        assert "runs here" in line or "needs a GPU" in line
    assert main(["check", "--preset", "pocket-portrait"]) == 0
    checked = capsys.readouterr().out
    assert "4 cross-attention layers" in checked, checked
    for key, guided in (("none", 0), ("cfg", 0), ("nag", 2)):
        assert re.search(rf"^{key} +done .*for 2 steps, guided {guided}", checked, re.M), checked
    assert main(["check", "--preset", "sd15"]) == 2
    assert "hub cannot be reached" in capsys.readouterr().err


PYTHON = [(name, block) for name, block in blocks("python") if "Client(" not in block]


@pytest.mark.parametrize("name, example", PYTHON, ids=[name for name, _ in PYTHON])
def test_the_python_examples_run_as_written(name, example, monkeypatch):
    monkeypatch.chdir(ROOT)
    names = {}
    exec(compile(example, name, "exec"), names)
    for picture in [names[key] for key in ("image",) if key in names] + names.get("images", []):
        assert picture.size == (128, 128)
    assert "pipe" in names


def test_the_page_answers_the_api_example_as_written(tmp_path_factory):
    from test_page import serving

    assert "&& python app.py\n" in FRONT
    example = next(block for _, block in blocks("python") if "Client(" in block)
    # the example leaves its connection open, and a server that is asked to end waits for it
    with serving(tmp_path_factory, "app.py", "--port", sign=signal.SIGKILL) as url:
        names = {}
        exec(compile(example.replace("http://127.0.0.1:7860", url), "README.md", "exec"), names)
    assert names["run"]["settings"]["seed"] == 7 and len(names["images"]) == 3


@pytest.mark.parametrize(
    "text", ["no marks", "<!-- /families --> <!-- families -->", "<!-- families -->"]
)
def test_the_table_of_families_is_put_between_two_marks_or_nowhere(text, tmp_path, capsys):
    path = tmp_path / "page.md"
    path.write_text(text)
    assert main(["families", "--write", str(path)]) == 2
    assert "has not both marks" in capsys.readouterr().err and path.read_text() == text
