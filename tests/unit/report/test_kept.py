"""The report in the repository is of the weights in the repository, and the README.md files tell its numbers."""

from __future__ import annotations

import re

import pytest

from flashvideo.loading.model_store import ASSETS, BUNDLED
from flashvideo.report.record import hash_weights, read_record
from tools.keep_report import BEGIN, END, PAGE, README, block, kept_folders, read_all, summary

FOLDERS = kept_folders()
PARTS = {"stage1": "stage1.safetensors", "stage2": "stage2.safetensors", "vae": "vae.safetensors", "text": "text"}


@pytest.mark.parametrize(("file", "written"), [(PAGE, block), (README, summary)], ids=["its page", "the first page"])
def test_pages_tell_its_numbers(file, written):
    assert FOLDERS
    assert f"{BEGIN}\n\n{written(read_all(FOLDERS))}\n\n{END}" in file.read_text(encoding="utf-8")


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_it_is_of_the_bundled_weights(folder):
    sections = read_record(folder).sections
    assert sections
    for section in sections.values():
        for part in section.weights.keys() & PARTS.keys():
            assert section.weights[part].sha256 == hash_weights(ASSETS / BUNDLED / PARTS[part]).sha256


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_its_pictures_are_there(folder):
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", (folder / "report.md").read_text(encoding="utf-8"))
    assert pictures
    assert all((folder / picture).is_file() for picture in pictures)


def test_its_numbers_come_from_enough_clips():
    sections = read_all(FOLDERS).sections
    assert min(row.n for one in sections.values() for table in one.result.tables for row in table.rows) >= 200
