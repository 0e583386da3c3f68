"""What is said of a picture beside the un-guided one: gone, replaced, left, or never there."""

import pytest

from nag.media.outcome import outcome

VALUES = {
    "eyewear": ("none", "glasses", "sunglasses", "eyepatch"),
    "head": ("hat", "beanie", "afro", "bald"),
    "shirt": ("red", "blue"),
}


def reading(**chosen):
    """Of each attribute the value that is chosen, else the first, by 90 %."""
    picked = {name: chosen.get(name, values[0]) for name, values in VALUES.items()}
    return {
        name: {v: 0.9 if v == picked[name] else 0.1 / (len(values) - 1) for v in values}
        for name, values in VALUES.items()
    }


@pytest.mark.parametrize(
    "before, after, named, kind, instead",
    [
        ({"eyewear": "glasses"}, {}, [("eyewear", "glasses")], "gone", ""),
        (
            {"eyewear": "glasses"},
            {"eyewear": "eyepatch"},
            [("eyewear", "glasses")],
            "replaced",
            "eyepatch",
        ),
        ({"eyewear": "glasses"}, {"eyewear": "glasses"}, [("eyewear", "glasses")], "left", ""),
        ({}, {}, [("eyewear", "glasses")], "absent", ""),
        ({}, {"eyewear": "glasses"}, [("eyewear", "glasses")], "left", ""),
        ({"head": "hat"}, {"head": "afro"}, [("head", "hat")], "gone", ""),
        ({"head": "hat"}, {"head": "beanie"}, [("head", "hat")], "replaced", "beanie"),
        ({"shirt": "red"}, {"shirt": "blue"}, [("shirt", "red")], "gone", ""),
        (
            {"eyewear": "glasses", "head": "hat"},
            {"head": "hat"},
            [("eyewear", "glasses"), ("head", "hat")],
            "left",
            "",
        ),
        (
            {"eyewear": "glasses", "head": "bald"},
            {"head": "bald"},
            [("eyewear", "glasses"), ("head", "hat")],
            "gone",
            "",
        ),
    ],
)
def test_what_became_of_it(before, after, named, kind, instead):
    found = outcome(reading(**before), reading(**after), named)
    assert (found.kind, found.instead) == (kind, instead)
    assert found.share == pytest.approx(max(reading(**after)[a][v] for a, v in named))


def test_what_nobody_named_is_listed_when_it_changes():
    before, after = reading(eyewear="glasses", head="hat"), reading(head="bald", shirt="blue")
    assert outcome(before, after, [("eyewear", "glasses")]).changed == ("head", "shirt")


def test_words_that_the_meter_does_not_read_have_no_outcome():
    assert outcome(reading(), reading(), []) is None


def test_what_the_prompt_asks_for_itself_is_told_apart_from_a_push_that_is_too_weak():
    from nag import presets
    from nag.engine.engine import Engine

    settings = {"prompt": "portrait of a friend with glasses", "negative_prompt": "glasses"}
    settings |= {"preset": "pocket-portrait", "seed": 3, "guidance": ["none", "nag"]}
    *_, (run, _, _) = Engine().run(*presets.resolve(settings))
    assert run.verdict["head"] == (
        "The prompt itself asks for the glasses: what both texts say cannot be pushed away. "
        "Leave them out of the prompt."
    )
    assert run.verdict["sign"] == "left" and run.verdict["moves"] == []
