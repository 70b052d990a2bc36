"""The known mistakes of a re-implementation are noticed: each, injected, makes a golden test fail."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.mutants import MUTANTS, Nursery


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with Nursery() as nursery:
        yield nursery


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_mistake_is_noticed(mutant, nursery, tmp_path):
    assert nursery.notices(mutant, tmp_path), f"{mutant.tests} passes with {mutant.name}"
