"""The names and tooltips in ``locales/`` against what the nodes declare."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.comfy.server import PACK_FOLDER, ROOT, ComfyServer
from tools.make_locale import FILE, node_texts

LANGUAGES = ("en", "zh")
_FILES = {"commands.json", "main.json", "nodeDefs.json", "settings.json"}
_HAN = re.compile(r"[\u4e00-\u9fff]")


def read(language: str, file: str) -> dict[str, Any]:
    return dict(json.loads((ROOT / "locales" / language / file).read_text(encoding="utf-8")))


def keys_of(value: Any) -> Any:
    """The same structure without its texts."""
    return {key: keys_of(each) for key, each in value.items()} if isinstance(value, dict) else None


def texts_of(value: Any) -> list[str]:
    return [text for each in value.values() for text in texts_of(each)] if isinstance(value, dict) else [value]


def test_english_is_what_the_nodes_declare(server: ComfyServer) -> None:
    assert FILE.read_text(encoding="utf-8") == node_texts(server.get("/object_info")), (
        "run: python -m tools.make_locale"
    )


@pytest.mark.parametrize("file", sorted(_FILES))
def test_chinese_has_the_same_keys(file: str) -> None:
    english, chinese = read("en", file), read("zh", file)
    assert keys_of(chinese) == keys_of(english)
    assert all(texts_of(chinese)), "no text is empty"


def test_chinese_is_chinese() -> None:
    """Texts of more than a name are translated."""
    untouched = [text for file in _FILES for text in texts_of(read("zh", file)) if not _HAN.search(text)]
    assert all(len(text) <= len("Sigmas") + 4 for text in untouched), untouched


@pytest.mark.parametrize("language", LANGUAGES)
def test_nothing_else_lies_there(language: str) -> None:
    assert {path.name for path in (ROOT / "locales" / language).iterdir()} == _FILES


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_editor_can_read_every_text(language: str) -> None:
    """Braces, pipes and at signs are syntax in the editor's messages."""
    texts = [text for file in _FILES for text in texts_of(read(language, file))]
    assert not [text for text in texts if re.search(r"[{}|@]", text)]


@pytest.mark.parametrize("language", LANGUAGES)
def test_commands_and_settings_exist(language: str) -> None:
    """The keys are ids of ``js/``, with underscores for dots."""
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "js").glob("*.js"))
    ids = {name.replace(".", "_") for name in re.findall(r'"(FlashVideo(?:\.\w+)+)"', source)}
    for file in ("commands.json", "settings.json"):
        assert set(read(language, file)) <= ids
    main = read("en", "main.json")
    assert all(f'"{text}"' in source for group in main.values() for text in group)


def test_the_server_gives_them_to_the_editor(server: ComfyServer) -> None:
    served = server.get("/i18n")
    for language in LANGUAGES:
        for file in _FILES - {"main.json"}:
            assert served[language][file.removesuffix(".json")].items() >= read(language, file).items()
        for group, texts in read(language, "main.json").items():
            assert served[language][group].items() >= texts.items()


def test_the_values_of_menus_have_chinese_names(server: ComfyServer) -> None:
    """But for formats and sizes, which say the same everywhere; and menus of files."""
    table = (
        (ROOT / "js" / "option_names.js").read_text(encoding="utf-8").partition("const zh = {")[2].partition("};")[0]
    )
    named = dict(re.findall(r'^ {2}"?(.+?)"?: "(.+)",$', table, re.MULTILINE))
    assert all(_HAN.search(name) for name in named.values())
    values = {
        value
        for info in server.get("/object_info").values()
        if PACK_FOLDER in info["python_module"]
        for group in info["input"].values()
        for key, spec in group.items()
        if spec[0] == "COMBO" and not key.endswith("_name")
        for value in spec[1]["options"]
    }
    same = {value for value in values if re.fullmatch(r"(?:bf|fp)\d+(?:_\w+)?|\d+[pk] \(\d+x\d+\)|x\d+", value)}
    assert values - same == set(named)
