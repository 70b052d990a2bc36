"""The text encoder: the authors' arithmetic, what is said about prompts, saved embeddings."""

from __future__ import annotations

import importlib.util
import logging
import shutil
from pathlib import Path

import pytest
import torch

from flashvideo.loading import text
from flashvideo.loading.text import check_prompt, encode_prompts, load_text_encoder, stage2_prompt
from tests.unit.conftest import PROMPT, TINY_TEXT

ROOT = Path(__file__).parents[3]
LONG = " ".join(f"word{i}" for i in range(60))


class TestArithmetic:
    def test_is_the_authors(self, golden, within, tiny_text):
        t5 = golden("t5")
        embeds = text.encode_ids(tiny_text.model, t5["input_ids"])
        within(embeds, t5["context"], 2e-5)
        masked = t5["context_WRONG_with_attention_mask"]
        assert (embeds[:, : masked.shape[1]] - masked).abs().max() > 1e-2

    def test_transformers_own_loading_gives_the_same_bytes(self, tiny_text):
        from transformers import T5EncoderModel

        theirs = T5EncoderModel.from_pretrained(TINY_TEXT)
        embeds = encode_prompts(theirs, tiny_text.tokenizer, PROMPT, warn=False)
        assert torch.equal(embeds, tiny_text.encode(PROMPT, warn=False))
        assert not embeds.requires_grad

    def test_a_prompt_does_not_depend_on_its_batch(self, tiny_text):
        alone = tiny_text.encode(PROMPT, warn=False)
        assert alone.shape == (1, 226, 32)
        batch = tiny_text.encode([LONG, PROMPT, PROMPT + "!"], warn=False)
        assert torch.equal(batch[1:2], alone)
        assert torch.equal(tiny_text.encode([PROMPT], warn=False), alone)

    def test_padding_is_attended_to(self, tiny_text):
        short = encode_prompts(tiny_text.model, tiny_text.tokenizer, PROMPT, 64, warn=False)
        assert (short - tiny_text.encode(PROMPT, warn=False)[:, :64]).abs().max() > 1e-3

    def test_ids_are_cut_or_padded_with_the_end_token_last(self, tiny_text):
        ids = text.token_ids(tiny_text.tokenizer, "ab")
        assert ids.tolist() == [[3, 4, 1] + [0] * 223]
        long = text.token_ids(tiny_text.tokenizer, LONG)
        assert long.shape == (1, 226)
        assert long[0, -1] == 1
        assert long[0, -2] > 2

    @pytest.mark.parametrize(
        ("said", "length"),
        [(None, 226), ("{}", 226), ('{"model_max_length": 512}', 226), ('{"model_max_length": 32}', 32)],
    )
    def test_the_length_is_the_tokenizers_where_that_is_small(self, tmp_path, said, length):
        shutil.copytree(TINY_TEXT, tmp_path / "text")
        config = tmp_path / "text" / "tokenizer_config.json"
        config.unlink()
        if said is not None:
            config.write_text(said)
        assert load_text_encoder(tmp_path / "text").encode(PROMPT, warn=False).shape == (1, length, 32)

    def test_a_broken_tokenizer_configuration_is_refused(self, tmp_path):
        shutil.copytree(TINY_TEXT, tmp_path / "text")
        (tmp_path / "text" / "tokenizer_config.json").write_text("{")
        with pytest.raises(ValueError, match="no tokenizer configuration"):
            load_text_encoder(tmp_path / "text")

    def test_nan_is_an_error(self, tiny_text):
        broken = load_text_encoder(TINY_TEXT)
        broken.model.encoder.final_layer_norm.weight.data.fill_(float("nan"))
        with pytest.raises(ValueError, match="NaN"):
            broken.encode(PROMPT)

    def test_no_prompts(self, tiny_text):
        with pytest.raises(ValueError, match="no prompts"):
            tiny_text.encode([])


class TestPrompts:
    def test_report(self, tiny_text, caplog):
        prompt = " ".join(["boat"] * 40)
        assert tiny_text.check(prompt) == text.PromptReport(tokens=200, words=40, cut="", unknown=0)
        assert not caplog.records

    def test_cut(self, tiny_text, caplog):
        report = check_prompt(tiny_text.tokenizer, LONG)
        assert report.tokens == len(LONG) + 1
        assert report.cut == LONG[225:].strip()
        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        assert f"The last {report.tokens - 226} are lost" in record.message
        assert report.cut in record.message

    def test_exactly_full(self, tiny_text, caplog):
        prompt = ("ab " * 100)[:225]
        assert check_prompt(tiny_text.tokenizer, prompt).cut == ""
        assert check_prompt(tiny_text.tokenizer, prompt + "c").cut == "c"

    def test_short_and_unreadable(self, tiny_text, caplog):
        report = check_prompt(tiny_text.tokenizer, "日本の boat")
        assert report.unknown == 3
        assert ["60 to 130" in r.message or "reads English" in r.message for r in caplog.records] == [True, True]
        caplog.clear()
        tiny_text.encode("boat")
        assert len(caplog.records) == 1
        tiny_text.encode("boat", warn=False)
        assert len(caplog.records) == 1

    def test_small_models_take_short_prompts(self, tiny_text, caplog):
        check_prompt(tiny_text.tokenizer, "a boat", 32)
        assert not caplog.records

    @pytest.mark.parametrize("prompt", ["", "  \n", None])
    def test_empty(self, tiny_text, prompt):
        with pytest.raises(ValueError, match="expected some text"):
            tiny_text.encode([prompt])

    def test_stage2_prompt(self, golden):
        with_motion = stage2_prompt(PROMPT)
        assert with_motion == "medium motion,a tiny red boat on a calm lake"
        assert stage2_prompt(PROMPT, motion="") == PROMPT


class TestTinyFolder:
    def test_weights_are_the_golden_ones(self, golden, tiny_text):
        t5 = golden("t5")
        named = dict(tiny_text.model.named_parameters())
        assert {f"weight.{name}" for name in named} == {name for name in t5.names if name.startswith("weight.")}
        assert all(torch.equal(parameter, t5[f"weight.{name}"]) for name, parameter in named.items())

    def test_the_tool_writes_the_same_bytes(self, tmp_path):
        spec = importlib.util.spec_from_file_location("make_golden", ROOT / "tools" / "make_golden_tokenizer.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        module.write_text_folder(tmp_path)
        for file in sorted(TINY_TEXT.iterdir()):
            assert (tmp_path / file.name).read_bytes() == file.read_bytes(), file.name

    def test_tokenizer(self, tiny_text):
        tokenizer = tiny_text.tokenizer
        assert len(tokenizer) <= 96
        ids = tokenizer("A Réd\n  BOAT, 12%")["input_ids"]
        assert tokenizer.decode(ids) == "a red boat, 12%</s>"
        assert ids == [*text.token_ids(tokenizer, "a red boat, 12%", 16)[0].tolist()]

    def test_transformers_loads_it(self, tiny_text):
        from transformers import AutoTokenizer

        assert AutoTokenizer.from_pretrained(TINY_TEXT)(PROMPT)["input_ids"] == tiny_text.tokenizer(PROMPT)["input_ids"]
