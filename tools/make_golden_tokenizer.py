"""Write the text side of the golden models: a character tokenizer and the golden T5's weights.

    python tools/make_golden_tokenizer.py [FOLDER]

The folder (tests/weights/text) has transformers' layout and loads with ``load_text_encoder``.
Running this again gives the same bytes.
"""

from __future__ import annotations

import argparse
import json
import string
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, processors

ROOT = Path(__file__).resolve().parents[1]
DEFAULT_FOLDER = ROOT / "tests" / "weights" / "text"
GOLDEN = ROOT / "tests" / "golden" / "t5.safetensors"
SPECIAL_TOKENS = ("<pad>", "</s>", "<unk>")  # T5's ids 0, 1, 2
CHARACTERS = string.ascii_lowercase + string.digits + " " + string.punctuation


def build_tokenizer() -> Tokenizer:
    """A lower-casing tokenizer with one id per character (accents are dropped), which appends ``</s>``."""
    vocabulary = {token: index for index, token in enumerate([*SPECIAL_TOKENS, *CHARACTERS])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFKD(),
            normalizers.StripAccents(),
            normalizers.Lowercase(),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Strip(),
        ]
    )
    tokenizer.decoder = decoders.Fuse()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return tokenizer


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def write_text_folder(folder: Path, golden: Path = GOLDEN) -> None:
    """Write tokenizer.json, tokenizer_config.json, config.json and model.safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer()
    with safe_open(golden, framework="pt") as handle:
        config = json.loads(handle.metadata()["config"])
        names = [name for name in handle.keys() if name.startswith("weight.")]  # noqa: SIM118 (not a dict)
        weights = {name.removeprefix("weight."): handle.get_tensor(name) for name in names}
    if tokenizer.get_vocab_size() > config["vocab_size"]:
        raise ValueError(f"{tokenizer.get_vocab_size()} tokens do not fit the encoder's {config['vocab_size']}.")
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": 226,
            **dict(zip(("pad_token", "eos_token", "unk_token"), SPECIAL_TOKENS, strict=True)),
        },
    )
    write_json(
        folder / "config.json",
        {
            **config,
            "architectures": ["T5EncoderModel"],
            "model_type": "t5",
            "is_encoder_decoder": False,
            "pad_token_id": 0,
            "eos_token_id": 1,
            "dtype": "float32",
        },
    )
    (folder / "model.safetensors").write_bytes(save(weights, metadata={"format": "pt"}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=DEFAULT_FOLDER)
    write_text_folder(parser.parse_args().folder)


if __name__ == "__main__":
    main()
