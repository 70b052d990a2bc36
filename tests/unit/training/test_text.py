"""Tokenizers and text encoders that are made for a training run."""

from __future__ import annotations

import torch
from torch import Tensor

from flashvideo.loading.text import token_ids
from flashvideo.training.config import Phase, from_table
from flashvideo.training.text import TextModel, build_tokenizer, new_text_encoder


def test_known_words_are_one_token_and_others_are_spelt():
    tokenizer = build_tokenizer(["red", "star", "moves"])
    assert tokenizer.encode("A red Star, moves!").tokens == ["▁a", "▁red", "▁star", "▁moves", "</s>"]
    assert tokenizer.encode("medium motion,a red").tokens[-3:] == ["▁a", "▁red", "</s>"]
    assert "<unk>" not in tokenizer.encode("an unheard-of zebra, 42 times").tokens
    assert from_table(Phase, {"steps": 3}, "x").steps == 3


def test_a_new_text_encoder_knows_what_belongs_together(tmp_path):
    """At first already, each noun sees its own phrase far better than another one's."""
    colours, forms = ("red", "blue", "green", "pink"), ("star", "circle", "cross", "square")
    encoder = new_text_encoder(TextModel(), ["a", "and", "moves", *colours, *forms], tmp_path, 0, 32)

    def nouns(first: str, second: str) -> tuple[Tensor, Tensor]:
        ids = token_ids(encoder.tokenizer, f"a {first} star moves and a {second} circle moves", encoder.max_length)
        states = encoder.model(ids).last_hidden_state[0]
        return states[2], states[7]

    with torch.no_grad():
        usual = nouns("red", "blue")
        own, other = nouns("green", "blue"), nouns("red", "pink")
    for index, (mine, foreign) in enumerate(((own, other), (other, own))):
        seen, unseen = ((usual[index] - changed[index]).norm() / usual[index].norm() for changed in (mine, foreign))
        assert seen > 0.3
        assert unseen < 0.4 * seen
