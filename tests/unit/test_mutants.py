"""The known mistakes of a re-implementation are noticed: each, injected, makes a golden test fail."""

from __future__ import annotations

import pytest

from tests.mutants import MUTANTS, run_mutant


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_mistake_is_noticed(mutant, tmp_path):
    assert run_mutant(mutant, tmp_path), f"{mutant.tests} passes with {mutant.name}"
