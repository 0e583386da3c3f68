"""`python -m nag bench`: one row of what guidance costs on this machine."""

import re

import pytest

from nag.__main__ import main
from nag.commands import bench

FEW = ["--preset", "pocket-portrait", "--set", "num_inference_steps=2"]
GUIDANCE = ["--set", 'guidance=["none","cfg","nag"]']


def test_a_preset_is_measured_in_several_rounds_and_printed_as_a_row(capsys, monkeypatch):
    drawn, rounds = [], bench.rounds

    def seen(*arguments):
        for run in rounds(*arguments):
            drawn.append(run)
            yield run

    monkeypatch.setattr(bench, "rounds", seen)
    assert main(["bench", *FEW, *GUIDANCE, "--rounds", "2"]) == 0
    heads, _, cells = ([c.strip() for c in line.split("|")[1:-1]] for line in _lines(capsys))
    assert heads[-2:] == ["CFG", "NAG"] and cells[0] == "pocket-portrait"
    assert float(cells[3]) > 0 and cells[1].endswith(", 2")
    for cell in cells[-2:]:
        middle, low, high = map(float, re.findall(r"\d+\.\d+", cell)[:3])
        assert 0 < low <= middle <= high
    assert len(drawn) == 2 and not any(c.reused for run in drawn for c in run.columns)


def _lines(capsys) -> list[str]:
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--set", 'guidance=["nag"]'], "column without guidance"),
        ([*GUIDANCE, "--rounds", "0"], "--rounds must be 1 or more"),
    ],
)
def test_what_cannot_be_compared_is_refused_with_a_sentence(arguments, said, capsys):
    assert main(["bench", *FEW, *arguments]) == 2
    assert said in capsys.readouterr().err
