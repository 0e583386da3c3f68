"""The CLIP text encoder of all pocket models, trained alone: jointly with a UNet it is ignored.

Shapes: B captions, T = 24 tokens, 192 features.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from . import SHIPPED, data
from .loop import batch_at, device, fit, load_average

if TYPE_CHECKING:
    from transformers import CLIPTokenizer, PreTrainedTokenizerBase

TOKENS = 24
WIDTH = 192  # of the text encoder, and of the denoisers where they attend


def build_tokenizer(folder: Path, count: int = 20_000) -> CLIPTokenizer:
    """A CLIPTokenizer with a vocabulary trained on our captions, saved into `folder`.

    Every byte is added with and without the end-of-word mark: the trainer drops pieces that never
    end a word, and a word it never saw must become bytes, not an error.
    """
    from transformers import CLIPTokenizer

    rng = random.Random(0)
    captions = [data.caption(data.sample_person(rng), rng) for _ in range(count)]
    alphabet, merges = _byte_pairs(captions)
    pieces = alphabet + [letter + "</w>" for letter in alphabet]
    pieces += ["".join(pair) for pair in merges]
    pieces = list(dict.fromkeys(pieces)) + ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    vocab, merged = folder / "vocab.json", folder / "merges.txt"
    vocab.write_text(
        json.dumps({p: i for i, p in enumerate(pieces)}, ensure_ascii=False), encoding="utf-8"
    )
    lines = [" ".join(pair) for pair in merges]
    merged.write_text("#version: 0.2\n" + "\n".join(lines) + "\n", encoding="utf-8")
    tokenizer = CLIPTokenizer(vocab=str(vocab), merges=str(merged), model_max_length=TOKENS)
    tokenizer.save_pretrained(folder)
    return tokenizer


def _byte_pairs(captions: list[str]) -> tuple[list[str], list[list[str]]]:
    """The alphabet of bytes, and the pairs that byte pair encoding merges."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE(unk_token="<|endoftext|>", end_of_word_suffix="</w>"))
    bpe.normalizer = normalizers.Lowercase()
    # the same split as CLIP's: words, digits, punctuation
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=1024, end_of_word_suffix="</w>", initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(captions, trainer)
    learned = json.loads(bpe.to_str())["model"]
    return alphabet, [p.split(" ") if isinstance(p, str) else p for p in learned["merges"]]


def build_text_encoder(tokenizer: CLIPTokenizer) -> nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            projection_dim=WIDTH,
            num_hidden_layers=3,
            num_attention_heads=3,
            max_position_embeddings=TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


class AttributeReader(nn.Module):
    """A text encoder with one linear head per attribute: what does a caption imply?"""

    def __init__(
        self, text_encoder: nn.Module, attributes: dict[str, tuple] = data.ATTRIBUTES
    ) -> None:
        super().__init__()
        self.text_encoder = text_encoder
        self.heads = nn.ModuleList(nn.Linear(WIDTH, len(v)) for v in attributes.values())

    def forward(self, ids: torch.Tensor) -> list[torch.Tensor]:
        """ids (B, T) -> logits (B, T, values) per attribute"""
        hidden = self.text_encoder(ids).last_hidden_state
        return [head(hidden) for head in self.heads]


def tokenizer(run: Path) -> CLIPTokenizer:
    from transformers import CLIPTokenizer

    if not (run / "tokenizer" / "vocab.json").exists():
        build_tokenizer(run / "tokenizer")
    return CLIPTokenizer.from_pretrained(run / "tokenizer")


def tokenize(
    tok: PreTrainedTokenizerBase, captions: list[str], where: torch.device | str | None = None
) -> torch.Tensor:
    """-> ids (B, T)"""
    full = {"padding": "max_length", "max_length": TOKENS, "truncation": True}
    return tok(captions, return_tensors="pt", **full).input_ids.to(where or device())


def train_text(
    run: Path,
    steps: int,
    size: int = 256,
    name: str = "text",
    tok: PreTrainedTokenizerBase | None = None,
    encoder: nn.Module | None = None,
    source: ModuleType = data,
    rows: list | None = None,
    more: Callable | None = None,
) -> AttributeReader:
    """Trains a text encoder to say what a caption implies.

    The loss stands at the end-of-text token and at the padding behind it, because that is what
    attention to the text mostly sees.

    source: the module where captions and labels of the `rows` come from.
    more: a further loss, called with the encoder and some of the rows.
    """
    tok = tok or tokenizer(run)
    reader = AttributeReader(encoder or build_text_encoder(tok), source.ATTRIBUTES)
    people = data.load_people(run / "data") if rows is None else rows
    labels = torch.tensor([source.encode_labels(p) for p in people])

    def loss(step):
        rng = random.Random(step)
        chosen = batch_at(step, len(people), size, seed=2)
        captions = [source.caption(people[i], rng, strange_words=0.15) for i in chosen]
        # a tokenizer may keep capitals
        captions = [c[:1].upper() + c[1:] if rng.random() < 0.2 else c for c in captions]
        ids = tokenize(tok, captions)
        ended = ids.eq(tok.eos_token_id) | ids.eq(tok.pad_token_id)
        truth = labels[chosen].to(ids.device)
        parts = [
            F.cross_entropy(logits.float()[ended], truth[:, k, None].expand_as(ids)[ended])
            for k, logits in enumerate(reader(ids))
        ]
        if more:
            parts.append(more(reader.text_encoder, [people[i] for i in chosen[: size // 4]]))
        return sum(parts), {"eyewear": parts[0].detach(), "head": parts[3].detach()}

    reader = fit(name, run, reader, loss, steps, lr=1e-3)
    _report(reader, tok)
    return reader


@torch.no_grad()
def _report(reader: AttributeReader, tok) -> None:
    for prompt, name, value in (
        ("portrait of a professor", "eyewear", "glasses"),
        ("portrait of a cowboy", "head", "hat"),
        ("a spy", "eyewear", "sunglasses"),
        ("a viking", "facial hair", "beard"),
        ("hat", "head", "hat"),
        ("portrait of a person", "head", "hat"),
    ):
        logits = reader(tokenize(tok, [prompt]))[list(data.ATTRIBUTES).index(name)][0, -1]
        share = logits.softmax(-1)[data.ATTRIBUTES[name].index(value)]
        print(f"P({value} | {prompt!r}) = {share:.2f}", flush=True)


def trained_encoder(reader: AttributeReader, path: Path) -> nn.Module:
    """The text encoder of a checkpoint, to be used and not trained."""
    load_average(reader, path)
    return reader.text_encoder.to(device()).eval().requires_grad_(False)


def load_text(run: Path) -> tuple:
    """Tokenizer and text encoder of this run, or those that ship."""
    if not (run / "text.pt").exists():
        return shipped_text(SHIPPED)
    tok = tokenizer(run)
    reader = AttributeReader(build_text_encoder(tok))
    return tok, trained_encoder(reader, run / "text.pt")


def shipped_text(model: Path) -> tuple:
    """Tokenizer and text encoder of a model that ships, to be used and not trained."""
    from transformers import CLIPTextModel, CLIPTokenizer

    encoder = CLIPTextModel.from_pretrained(model / "text_encoder", dtype=torch.float32)
    encoder = encoder.to(device()).eval().requires_grad_(False)
    return CLIPTokenizer.from_pretrained(model / "tokenizer"), encoder
