"""The report in the repository is of the weights in the repository, and the README.md files tell its numbers."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from flashvideo.loading.model_store import ASSETS, BUNDLED
from flashvideo.report.record import Report, hash_weights, read_report
from flashvideo.report.run import code_of_sections
from tools.keep_report import (
    BEGIN,
    END,
    PAGE,
    README,
    block,
    kept_folders,
    read_all,
    stale_sections,
    summary,
    text_of,
)

FOLDERS = kept_folders()
PARTS = {"stage1": "stage1.safetensors", "stage2": "stage2.safetensors", "vae": "vae.safetensors", "text": "text"}


@pytest.mark.parametrize(("file", "written"), [(PAGE, block), (README, summary)], ids=["its page", "the first page"])
def test_pages_tell_its_numbers(file, written):
    assert FOLDERS
    assert f"{BEGIN}\n\n{written(read_all(FOLDERS))}\n\n{END}" in file.read_text(encoding="utf-8")


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_it_is_of_the_bundled_weights(folder):
    sections = read_report(folder).sections
    assert sections
    for section in sections.values():
        for part in section.weights.keys() & PARTS.keys():
            assert section.weights[part].sha256 == hash_weights(ASSETS / BUNDLED / PARTS[part]).sha256


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_its_pictures_are_there(folder):
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", (folder / "report.md").read_text(encoding="utf-8"))
    assert pictures
    assert all((folder / picture).is_file() for picture in pictures)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_sections_that_the_code_has_outgrown_are_marked(folder):
    text = (folder / "report.md").read_text(encoding="utf-8")
    marked = set(re.findall(r"^## (\w+)\n\n\*\*Stale: ", text, re.MULTILINE))
    stale = set(stale_sections(read_report(folder)))
    assert marked == stale, (
        f"the code has outgrown {sorted(stale)} of {folder.name}, marked are {sorted(marked)}: "
        "`flashvideo report` measures them anew, `python -m tools.keep_report` marks them"
    )
    assert text == text_of(folder), "`python -m tools.keep_report` writes it"


def with_code(report, name, code):
    return Report({**report.sections, name: replace(report.sections[name], code=code)})


def test_stale_numbers_are_marked_wherever_they_are_shown():
    report = read_all(FOLDERS)
    codes = code_of_sections()
    for name in report.sections:
        report = with_code(report, name, codes[name])
    assert stale_sections(report) == ()
    assert "Stale" not in block(report) + summary(report)
    for name, title in (("fidelity", "Attributes right, held-out captions"), ("cost", "Two stages and one")):
        old = with_code(report, name, "0123456789abcdef")
        assert stale_sections(old) == (name,)
        version = old.sections[name].versions["flashvideo"]
        line = f"**Stale: measured with other code than today's (version {version}, code `0123456789ab`).**"
        assert f"**{title}**\n\n{line}\n\n| |" in block(old)
        assert block(old).count("Stale") == 1
        assert f"\n* **Stale: measured with other code than today's, as the tables say: {name}.**" in summary(old)
    assert "Stale" not in summary(with_code(report, "nfe", "0ld")), "it shows none of its numbers"


def test_its_numbers_come_from_enough_clips():
    sections = read_all(FOLDERS).sections
    assert min(row.n for one in sections.values() for table in one.result.tables for row in table.rows) >= 200
