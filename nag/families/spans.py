"""Where the texts stand in an attention's keys, where "text, image" is not enough.

Each is a function (kind, lengths, count) -> (pieces of the positive, pieces of the negative),
pieces being (start, length). lengths: (T+, T-) of every text. count: number of keys.
"""

from collections.abc import Sequence

from ..segments import Pieces

Lengths = Sequence[tuple[int, int]]  # (T+, T-) of every text


def one_after_another(lengths: Lengths, start: int) -> tuple[Pieces, Pieces]:
    """Each positive before its negative, from `start` on."""
    positives, negatives = [], []
    for positive, negative in lengths:
        positives.append((start, positive))
        negatives.append((start + positive, negative))
        start += positive + negative
    return positives, negatives


def hidream_spans(kind: str, lengths: Lengths, count: int) -> tuple[Pieces, Pieces]:
    """Behind the image T5's text, then Llama's last layer, then the Llama layer of the block."""
    t5, llama = lengths
    return one_after_another([t5, llama, llama], count - sum(t5) - 2 * sum(llama))


def hunyuan_image_spans(kind: str, lengths: Lengths, count: int) -> tuple[Pieces, Pieces]:
    """Behind the image the text between quotation marks, if any, then the prompt."""
    return one_after_another(lengths[::-1], count - sum(map(sum, lengths)))


def second_text_first(kind: str, lengths: Lengths, count: int) -> tuple[Pieces, Pieces]:
    """(image, second text, first text), where the first is the one by which conditional rows are
    known."""
    (first, first_negative), (second, second_negative) = lengths
    start = count - first - first_negative - second - second_negative
    middle = start + second + second_negative
    return [(middle, first), (start, second)], [
        (middle + first, first_negative),
        (start + second, second_negative),
    ]


def own_attentions(kind: str, lengths: Lengths, count: int) -> tuple[Pieces, Pieces]:
    """Two texts, each in attentions of its own."""
    positive, negative = lengths[kind == "cross_second"]
    return [(0, positive)], [(positive, negative)]


def after_shared(kind: str, lengths: Lengths, count: int) -> tuple[Pieces, Pieces]:
    """The text behind what goes with either text, [shared, text]."""
    positive, negative = lengths[0]
    start = count - positive - negative
    return [(0, start), (start, positive)], [(0, start), (start + positive, negative)]


def around_the_image(kind: str, lengths: Lengths, count: int) -> tuple[Pieces, Pieces]:
    """The positive text, the image, the negative text."""
    positive, negative = lengths[0]
    return [(0, positive)], [(count - negative, negative)]


def gists_or_text(kind: str, lengths: Lengths, count: int) -> tuple[Pieces, Pieces]:
    """Keys are the text itself where it is injected, and else its gist tokens, whose numbers the
    adapter `gist_tokens` puts behind the texts' lengths."""
    positive, negative = lengths[0 if kind == "injected" else -1]
    return [(0, positive)], [(positive, negative)]
