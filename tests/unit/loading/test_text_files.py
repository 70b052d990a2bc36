"""The text encoder: every layout and tokenizer that people have, and what is refused."""

from __future__ import annotations

import io
import json
import logging
import random
import shutil
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from flashvideo.checkpoints.files import TensorInfo, WeightFile
from flashvideo.checkpoints.t5_layout import find_tokenizer, load_tokenizer, read_layout
from flashvideo.loading import text
from flashvideo.loading.text import check_prompt, load_text_encoder
from tests.unit.conftest import PROMPT, TINY_TEXT


@pytest.fixture(scope="module")
def text_weights():
    return load_file(TINY_TEXT / "model.safetensors")


def beside_tokenizer(folder: Path, name: str = "t5xxl.safetensors") -> Path:
    shutil.copy(TINY_TEXT / "tokenizer.json", folder)
    return folder / name


class TestLayouts:
    def same(self, path: Path, tiny_text, limit: float = 0.0, **keywords) -> text.TextEncoder:
        encoder = load_text_encoder(path, **keywords)
        difference = (encoder.encode(PROMPT, warn=False).float() - tiny_text.encode(PROMPT, warn=False)).abs().max()
        assert difference <= limit
        return encoder

    def test_folder_sharded(self, tmp_path, tiny_text):
        tiny_text.model.save_pretrained(tmp_path, max_shard_size="40KB")
        assert len(list(tmp_path.glob("*.safetensors"))) > 1
        self.same(tmp_path, tiny_text, tokenizer=TINY_TEXT)

    @pytest.mark.parametrize("legacy", [False, True])
    def test_folder_as_google_publishes_it(self, tmp_path, tiny_text, text_weights, legacy):
        """A pickle with the decoder in it, beside TensorFlow's weights; torch wrote no zip archives then."""
        whole = {**text_weights, "decoder.block.0.layer.0.SelfAttention.q.weight": torch.ones(2, 2)}
        torch.save(
            {**whole, "lm_head.weight": torch.ones(2)},
            tmp_path / "pytorch_model.bin",
            _use_new_zipfile_serialization=not legacy,
        )
        (tmp_path / "tf_model.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
        (tmp_path / "config.json").write_text(json.dumps({"layer_norm_epsilon": 1e-6}))
        self.same(tmp_path, tiny_text, tokenizer=TINY_TEXT)

    def test_folder_of_pickled_shards(self, tmp_path, tiny_text, text_weights):
        names = [f"pytorch_model-0000{k}-of-00002.bin" for k in (1, 2)]
        where = {name: names[number % 2] for number, name in enumerate(text_weights)}
        for file in names:
            torch.save({name: text_weights[name] for name in where if where[name] == file}, tmp_path / file)
        with pytest.raises(ValueError, match="several files of weights and no index"):
            load_text_encoder(tmp_path, tokenizer=TINY_TEXT)
        index = tmp_path / "pytorch_model.bin.index.json"
        index.write_text(json.dumps({"weight_map": where}))
        self.same(tmp_path, tiny_text, tokenizer=TINY_TEXT)
        for damaged in ({"a": "../elsewhere.bin"}, {}, {"a": 3}, []):
            index.write_text(json.dumps({"weight_map": damaged}))
            with pytest.raises(ValueError, match=r"index\.json is no index of shards"):
                load_text_encoder(tmp_path, tokenizer=TINY_TEXT)

    def test_safetensors_before_pickles(self, tmp_path, tiny_text):
        shutil.copytree(TINY_TEXT, tmp_path, dirs_exist_ok=True)
        (tmp_path / "pytorch_model.bin").write_bytes(b"damaged")
        self.same(tmp_path, tiny_text)

    def test_pipeline_folder(self, tmp_path, tiny_text):
        shutil.copytree(TINY_TEXT, tmp_path / "text_encoder", ignore=shutil.ignore_patterns("token*"))
        shutil.copytree(TINY_TEXT, tmp_path / "tokenizer", ignore=shutil.ignore_patterns("model*", "config*"))
        self.same(tmp_path, tiny_text)
        self.same(tmp_path / "text_encoder", tiny_text)

    @pytest.mark.parametrize("embedding", ["shared.weight", "encoder.embed_tokens.weight", "both"])
    def test_single_file(self, tmp_path, tiny_text, text_weights, caplog, embedding):
        table = text_weights["shared.weight"]
        names = ["shared.weight", "encoder.embed_tokens.weight"] if embedding == "both" else [embedding]
        state = {name: tensor for name, tensor in text_weights.items() if name != "shared.weight"}
        state |= {name: table.clone() for name in names}
        state |= {"logit_scale": torch.ones(()), "decoder.block.0.layer.0.SelfAttention.q.weight": torch.ones(2, 2)}
        path = beside_tokenizer(tmp_path)
        save_file(state, path)
        with caplog.at_level(logging.INFO):
            self.same(path, tiny_text)
        assert ["2 tensors are of no use" in record.message for record in caplog.records] == [True]

    @pytest.mark.parametrize(("dtype", "limit"), [(torch.float16, 0.03), (torch.bfloat16, 0.2)])
    def test_half_precision_file(self, tmp_path, tiny_text, text_weights, dtype, limit):
        path = beside_tokenizer(tmp_path)
        save_file({name: tensor.to(dtype) for name, tensor in text_weights.items()}, path)
        encoder = self.same(path, tiny_text, limit)
        assert encoder.encode(PROMPT, warn=False).dtype == dtype
        kept = {name for name, parameter in encoder.model.named_parameters() if parameter.dtype != dtype}
        wanted = {f"encoder.block.{i}.layer.1.DenseReluDense.wo.weight" for i in range(2)}
        assert kept == (wanted if dtype == torch.float16 else set())  # as transformers loads fp16
        assert load_text_encoder(path, dtype=torch.float32).encode(PROMPT, warn=False).dtype == torch.float32

    @pytest.mark.parametrize("names", [None, ("scale_weight", "scaled_fp8"), ("weight_scale", "comfy_quant")])
    def test_fp8_file(self, tmp_path, text_weights, names):
        state, expected = {}, {}
        for name, tensor in text_weights.items():
            matrix = "SelfAttention" in name or "Dense" in name
            if not matrix or "bias" in name:
                state[name] = expected[name] = tensor.bfloat16()
                continue
            scale = tensor.abs().max() / 448 if names else torch.ones(())
            state[name] = (tensor / scale).to(torch.float8_e4m3fn)
            expected[name] = (state[name].float() * scale).bfloat16()
            if names:
                state[name.replace("weight", names[0])] = scale
                state[name.replace("weight", "input_scale")] = torch.ones(())
            if names and names[1] == "comfy_quant":
                note = json.dumps({"format": "float8_e4m3fn"}).encode()
                state[name.replace("weight", "comfy_quant")] = torch.tensor(list(note), dtype=torch.uint8)
        if names and names[1] == "scaled_fp8":
            state["scaled_fp8"] = torch.zeros(2, dtype=torch.float8_e4m3fn)
        path = beside_tokenizer(tmp_path)
        save_file(state, path)
        loaded = dict(load_text_encoder(path).model.named_parameters())
        assert loaded.keys() == expected.keys()
        assert all(torch.equal(loaded[name], tensor) for name, tensor in expected.items())

    def test_scales_one_a_row_in_several_pieces(self, tmp_path, text_weights, monkeypatch):
        monkeypatch.setattr("flashvideo.checkpoints.files._BLOCK_ELEMENTS", 100)
        name = "encoder.block.1.layer.1.DenseReluDense.wi_0.weight"
        scale = torch.linspace(0.5, 2, 64)
        state = {
            **text_weights,
            name: text_weights[name].to(torch.float8_e5m2),
            name.replace("weight", "weight_scale"): scale,
        }
        path = beside_tokenizer(tmp_path)
        save_file(state, path)
        loaded = load_text_encoder(path).model.get_parameter(name)
        assert torch.equal(loaded, state[name].float() * scale[:, None])

    def test_the_full_size_encoder_is_recognised(self):
        from transformers import T5Config, T5EncoderModel

        with torch.device("meta"):
            xxl = T5Config(**XXL)
            shapes = {name: tuple(tensor.shape) for name, tensor in T5EncoderModel(xxl).named_parameters()}
        tensors = {name: TensorInfo(shape, torch.float16, lambda: torch.empty(0)) for name, shape in shapes.items()}
        layout = read_layout(WeightFile(Path("t5xxl_fp16.safetensors"), "safetensors", tensors))
        layout.check(shapes)
        assert {key: layout.config[key] for key in XXL} == XXL
        assert sum(torch.Size(shape).numel() for shape in shapes.values()) == 4_762_310_656

    @pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
    def test_memory_while_loading_scaled_fp8(self, tmp_path):
        from transformers import T5Config, T5EncoderModel

        with torch.device("meta"):
            sizes = {"d_model": 1024, "d_kv": 64, "d_ff": 2816, "num_heads": 16, "num_layers": 4, "vocab_size": 8192}
            shapes = T5EncoderModel(T5Config(**sizes, feed_forward_proj="gated-gelu"))
        state = {}
        for name, parameter in shapes.named_parameters():
            matrix = parameter.ndim == 2 and "bias" not in name
            state[name] = torch.ones(parameter.shape).to(torch.float8_e4m3fn if matrix else torch.bfloat16)
            if matrix:
                state[name.replace("weight", "scale_weight")] = torch.ones(())
        path = tmp_path / "t5.safetensors"
        save_file(state, path)
        del state
        peak, model = peak_memory(lambda: load_text_encoder(path, tokenizer=TINY_TEXT).model)
        size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
        assert size > 100e6
        assert peak <= 1.2 * max(size, path.stat().st_size)


XXL = {
    **{"d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64, "vocab_size": 32128},
    **{"feed_forward_proj": "gated-gelu", "relative_attention_num_buckets": 32},
}


def peak_memory(load):
    """Highest rise of this process's anonymous memory while ``load`` runs, and what it returns."""

    def anonymous() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))

    start, highest, done = anonymous(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.001):
            highest[0] = max(highest[0], anonymous())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        result = load()
    finally:
        done.set()
        thread.join()
    return max(highest[0], anonymous()) - start, result


class TestBadEncoders:
    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"encoder.final_layer_norm.weight": None}, "missing: encoder.final_layer_norm.weight"),
            ({"shared.weight": None}, "lacks shared.weight"),
            (
                {"encoder.block.1.layer.0.SelfAttention.q.weight": (8, 32)},
                r"q\.weight is \[8, 32\], expected \[32, 32\]",
            ),
            ({"encoder.block.0.layer.0.SelfAttention.q.weight": (31, 32)}, "4 heads"),
            ({"encoder.adapter.weight": (3, 3)}, "unexpected: encoder.adapter.weight"),
            ({"encoder.block.0.layer.0.SelfAttention.x.scale_weight": (1,)}, "unexpected: encoder.block.0"),
            ({"encoder.block.0.layer.0.layer_norm.scale_weight": (1,)}, "scales belong to a matrix"),
            ({"encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight": (32, 4)}, "UMT5"),
            ({"encoder.block.0.layer.1.DenseReluDense.wi.weight": (64, 32)}, r"older than v1\.1"),
        ],
    )
    def test_wrong_tensors(self, tmp_path, text_weights, change, words):
        state = dict(text_weights)
        for name, shape in change.items():
            state.pop(name, None)
            if shape:
                state[name] = torch.ones(shape)
        path = beside_tokenizer(tmp_path)
        save_file(state, path)
        with pytest.raises(ValueError, match=words):
            load_text_encoder(path)

    def test_integers(self, tmp_path, text_weights):
        name = "encoder.block.1.layer.0.SelfAttention.q.weight"
        path = beside_tokenizer(tmp_path)
        save_file({**text_weights, name: text_weights[name].to(torch.int8)}, path)
        with pytest.raises(ValueError, match=r"q\.weight is torch\.int8"):
            load_text_encoder(path)

    def test_other_files(self, tmp_path, text_weights):
        path = beside_tokenizer(tmp_path)
        for content, words in ((b"<!doctype html>", "web page"), (b"", "empty"), (b"\x10" * 64, "safetensors")):
            path.write_bytes(content)
            with pytest.raises(ValueError, match=words):
                load_text_encoder(path)
        save_file({"conv_in.weight": torch.ones(2)}, path)
        with pytest.raises(ValueError, match=r"no T5 v1\.1 encoder.*conv_in"):
            load_text_encoder(path)
        with pytest.raises(ValueError, match="There is no file"):
            load_text_encoder(tmp_path / "none.safetensors")

    def test_other_model_in_a_folder(self, tmp_path):
        shutil.copytree(TINY_TEXT, tmp_path / "text")
        config = json.loads((tmp_path / "text" / "config.json").read_text())
        (tmp_path / "text" / "config.json").write_text(json.dumps({**config, "model_type": "umt5"}))
        with pytest.raises(ValueError, match="umt5"):
            load_text_encoder(tmp_path / "text")

    def test_dtype(self):
        with pytest.raises(ValueError, match="bf16"):
            load_text_encoder(TINY_TEXT, dtype=torch.float8_e4m3fn)


class TestTokenizers:
    def test_missing(self, tmp_path, text_weights):
        path = tmp_path / "t5xxl.safetensors"
        save_file(text_weights, path)
        with pytest.raises(ValueError, match=r"spiece\.model or tokenizer\.json of google/t5-v1_1-xxl") as caught:
            load_text_encoder(path)
        assert f"into {tmp_path}," in str(caught.value)
        with pytest.raises(ValueError, match="No tokenizer in"):
            load_text_encoder(path, tokenizer=tmp_path / "nowhere")

    def test_given_as_anything(self, tmp_path, text_weights, tiny_text):
        path = tmp_path / "t5xxl.safetensors"
        save_file(text_weights, path)
        for given in (TINY_TEXT, str(TINY_TEXT / "tokenizer.json"), tiny_text.tokenizer):
            encoder = load_text_encoder(path, tokenizer=given)
            assert torch.equal(encoder.encode(PROMPT, warn=False), tiny_text.encode(PROMPT, warn=False))

    def test_folder_before_file_and_json_before_sentencepiece(self, tmp_path):
        (tmp_path / "tokenizer").mkdir()
        for name in ("tokenizer/spiece.model", "spiece.model", "tokenizer.json"):
            (tmp_path / name).touch()
        assert find_tokenizer(tmp_path / "t5.safetensors", None) == tmp_path / "tokenizer" / "spiece.model"
        assert find_tokenizer(tmp_path, tmp_path) == tmp_path / "tokenizer.json"

    def test_sentencepiece_ids(self, tmp_path):
        sentencepiece = pytest.importorskip("sentencepiece")
        chance, model = random.Random(0), io.BytesIO()
        words = ["a", "red", "boat", "lake", "calm", "runs", "slowly", "camera", "pans", "light", "Ünïcode", "ﬁne", "½"]
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(" ".join(chance.choices(words, k=12)) for _ in range(300)),
            **{"model_writer": model, "vocab_size": 80, "model_type": "unigram", "hard_vocab_limit": False},
            **{"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1, "pad_piece": "<pad>", "minloglevel": 2},
        )
        (tmp_path / "spiece.model").write_bytes(model.getvalue())
        ours = load_tokenizer(find_tokenizer(tmp_path, None))
        theirs = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
        parts = [
            "a",
            " ",
            "   ",
            "red ",
            "boat",
            "☃☃",
            "日本",
            "\n",
            "\t",
            "ﬁ",
            "½",
            "U\u0308",
            ".",
            "zq",
            "\u3000",
            "▁",
        ]
        for _ in range(500):
            prompt = "".join(chance.choices(parts, k=chance.randint(1, 14)))
            assert ours(prompt)["input_ids"] == [*theirs.encode(prompt), 1]
        prompt = "red boat " * 199 + "red boat"
        cut = check_prompt(ours, prompt, 8, warn=False).cut
        assert prompt.endswith(cut)
        assert len(ours(prompt.removesuffix(cut))["input_ids"]) == 8

    @pytest.mark.parametrize("content", [b"{}", b'{"model": 3}', b"", b"\x0a\xff\xff", b"<html>", b"\x08"])
    def test_damaged(self, tmp_path, content):
        path = tmp_path / "spiece.model"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"spiece\.model"):
            load_tokenizer(path)

    def test_of_another_model(self, tmp_path):
        changed = (TINY_TEXT / "tokenizer.json").read_text().replace("<pad>", "<|end|>")
        (tmp_path / "tokenizer.json").write_text(changed)
        with pytest.raises(ValueError, match="not a T5 tokenizer"):
            load_text_encoder(TINY_TEXT, tokenizer=tmp_path)

    def test_too_large_for_the_encoder(self, tmp_path, text_weights):
        path = beside_tokenizer(tmp_path)
        save_file({**text_weights, "shared.weight": torch.ones(50, 32)}, path)
        with pytest.raises(ValueError, match=r"72 tokens, the encoder .* only 50"):
            load_text_encoder(path)
