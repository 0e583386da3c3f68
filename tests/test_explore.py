"""Axes, counts and votes: what is typed becomes values, outcomes become shares with intervals."""

import itertools
import random

import pytest

from nag.__main__ import main
from nag.errors import Refused
from nag.explore import axis, counting, votes


@pytest.mark.parametrize(
    "field, text, values",
    [
        ("nag_scale", "2, 5, 10", (2, 5, 10)),
        ("nag_alpha", ".25, .4 .. 1", (0.25, 0.4, 0.55, 0.7, 0.85, 1)),
        ("nag_alpha", ".25, .4, .., 1", (0.25, 0.4, 0.55, 0.7, 0.85, 1)),
        ("nag_alpha", "0 .. 1", (0, 0.25, 0.5, 0.75, 1)),
        ("nag_alpha", "0..1", (0, 0.25, 0.5, 0.75, 1)),
        ("seed", "17 .. 20", (17, 18, 19, 20)),
        ("seed", "20..18", (20, 19, 18)),
        ("seed", "1, 3 .. 9, 100", (1, 3, 5, 7, 9, 100)),
        ("nag_tau", "1, 1, 2,", (1, 2)),
        ("negative_prompt", "hat, cap | beard |", ("hat, cap", "beard", "")),
        ("num_inference_steps", "4", (4,)),
    ],
)
def test_what_is_typed_becomes_values(field, text, values):
    assert axis.parse(field, text).values == values


@pytest.mark.parametrize(
    "field, text, sentence",
    [
        ("nag_scale", "two", "'two' is not a number"),
        ("nag_scale", "", "give one value at least"),
        ("nag_scale", "nan", "not a finite number"),
        ("nag_scale", "1, 1 .. 5", "cannot go from 1 to 5 in steps of 0"),
        ("nag_scale", "5, 4 .. 9", "cannot go from 4 to 9 in steps of -1"),
        ("nag_scale", ".. 5", "needs a value before it"),
        ("seed", "1 .. 1000000000", "at most 24 values"),
        ("seed", "1.5", "not a whole number"),
        ("seed", "1e1000000", "is too large"),  # as a whole number it takes Python a minute
        ("seed", "1, 2 .. 1e999999", "is too large"),
        ("nag_alpha", "1, 1e-999999 .. 1e12", "is too small"),
        ("nag_alpha", "x" * 9999, "^.{,120}$"),
        ("width", "64", "can go over nag_scale"),
    ],
)
def test_what_cannot_be_an_axis_is_refused(field, text, sentence):
    with pytest.raises(Refused, match=sentence):
        axis.parse(field, text)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 24])
def test_a_sweep_begins_at_its_ends_and_halves(count):
    levels = axis.coarse_to_fine(count)
    assert len(levels) == count and levels[0] == levels[-1] == 0
    assert all(levels[1:-1]) if count > 2 else not any(levels)
    for level in range(
        1, max(levels) + 1
    ):  # what is there before a level leaves no gap twice as wide as another
        there = [i for i, one in enumerate(levels) if one <= level]
        gaps = [b - a for a, b in itertools.pairwise(there)]
        assert max(gaps) <= 2 * min(gaps) + 1


def test_intervals_are_those_of_the_literature():
    """Newcombe 1998: 81 of 263, and the pairs (36, 12, 2, 0); McNemar's p of 1 and 8 by hand."""
    assert counting.wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert counting.mcnemar(1, 8) == pytest.approx(2 * (1 + 9) / 2**9)
    assert counting.mcnemar(0, 0) == 1 and counting.mcnemar(4, 4) == 1
    first = [True] * 36 + [True] * 12 + [False] * 2
    second = [True] * 36 + [False] * 12 + [True] * 2
    difference, low, high = counting.paired_difference(first, second)
    assert difference == pytest.approx(0.2) and low == pytest.approx(0.0569, abs=2e-3)
    assert high == pytest.approx(0.3404, abs=2e-3)
    assert counting.paired_difference([True] * 9, [True] * 9)[0] == 0


def test_intervals_of_differences_hold_what_they_promise():
    rng, held, runs = random.Random(0), 0, 2000
    for _ in range(runs):
        pairs = [(rng.random() < 0.7, rng.random()) for _ in range(30)]
        first = [one for one, _ in pairs]
        second = [one if other < 0.5 else other < 0.7 for one, other in pairs]
        truth = 0.7 - (0.7 * 0.5 + 0.2)
        _, low, high = counting.paired_difference(first, second)
        held += low <= truth <= high
    assert 0.93 <= held / runs <= 0.99


def vote(left="nag", right="cfg", question="words", choice="left", **more):
    words = {"preset": "p", "prompt": "a spy", "negative_prompt": "sunglasses", "seed": 1}
    return votes.Vote(**words | more, left=left, right=right, question=question, choice=choice)


def test_the_tally_counts_for_nag_whatever_its_side():
    cast = [
        vote(),
        vote("cfg", "nag", choice="right"),
        vote("cfg", "nag", choice="left"),
        vote(choice="tie"),
        vote(choice="neither"),
        vote(question="looks", choice="right"),
        vote("none", "cfg"),
    ]
    words = votes.tally(cast, "words")
    assert (words.wins, words.losses, words.draws) == (2, 1, 2)
    assert words.score == pytest.approx(1 / 5)
    assert words.interval == counting.wilson(2, 3)
    assert votes.tally(cast, "looks").score == -1
    assert votes.tally([], "looks").score is None and votes.tally([], "looks").interval is None


def test_sides_are_shuffled():
    rng = random.Random(0)
    assert {votes.sides("nag", "cfg", rng) for _ in range(50)} == {("nag", "cfg"), ("cfg", "nag")}


def test_votes_outlive_the_server_only_in_the_owners_file(tmp_path):
    file, cast = (
        votes.VoteFile(tmp_path / "votes.db"),
        [vote(), vote(prompt='=1+1, "x"\n', seed=2**32 - 1)],
    )
    for one in cast:
        file.add(one)
    assert votes.VoteFile(tmp_path / "votes.db").read() == cast
    with pytest.raises(Refused, match=r"cannot be kept in nowhere\.db"):
        votes.VoteFile(tmp_path / "missing" / "nowhere.db")
    (tmp_path / "text.db").write_text(
        "this is not a database, and long enough to be none at all" * 9
    )
    with pytest.raises(Refused, match="cannot be kept"):
        votes.VoteFile(tmp_path / "text.db")


def test_a_spreadsheet_takes_no_vote_for_a_formula():
    text = votes.to_csv([vote(prompt="=HYPERLINK(1)"), vote(prompt="@SUM(1)")])
    assert text.splitlines()[0].startswith("preset,prompt,negative_prompt,seed,left,right")
    assert "'=HYPERLINK(1)" in text and "'@SUM(1)" in text


def test_an_answer_that_is_none_is_refused():
    with pytest.raises(Refused, match="one of left, right, tie, neither"):
        vote(choice="both")


def test_the_command_line_counts_what_the_page_has_kept(tmp_path, capsys):
    path = tmp_path / "votes.db"
    assert main(["votes", str(path)]) == 2
    assert "There is no file" in capsys.readouterr().err
    file = votes.VoteFile(path)
    for choice in ("left", "left", "right", "tie"):
        file.add(votes.Vote("pocket-portrait", "a", "hat", 1, "nag", "cfg", "words", choice))
    assert main(["votes", str(path)]) == 0
    said = capsys.readouterr().out
    assert "NAG, follows the words: 2 wins, 1 losses, 1 draws" in said and "+0.25" in said
    assert "NAG, looks better: no votes yet" in said
    assert main(["votes", str(path), "--csv"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 5
