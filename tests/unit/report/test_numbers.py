"""The report's numbers: enlargements, intervals, floors."""

from __future__ import annotations

import math

import pytest
import torch

from flashvideo.report import Result, Row, Table, check_floors
from flashvideo.report.bench import MORE, ONE
from flashvideo.report.fidelity import PROMPT
from flashvideo.report.results import mean_row, share_difference_row, share_row
from flashvideo.report.upsampling import bilinear, lanczos
from flashvideo.shapes.judge import Tally
from flashvideo.shapes.metrics import interval95, ratio_interval
from flashvideo.shapes.render import low_resolution


@pytest.fixture(autouse=True)
def _one_thread(one_thread):
    with one_thread():
        yield


def test_lanczos_is_its_formula():
    video = torch.rand(1, 3, 2, 5, 7, generator=torch.Generator().manual_seed(0)) * 0.2 + 0.4  # never cut off

    def kernel(d: float) -> float:
        if abs(d) >= 3:
            return 0.0
        return 1.0 if d == 0 else 3 * math.sin(math.pi * d) * math.sin(math.pi * d / 3) / (math.pi * d) ** 2

    def line(samples: list[float], after: int) -> list[float]:
        result = []
        for index in range(after):
            at = (index + 0.5) * len(samples) / after - 0.5
            weights = [kernel(at - j) for j in range(len(samples))]
            result.append(sum(w * s for w, s in zip(weights, samples, strict=True)) / sum(weights))
        return result

    frame = video[0, 1, 1].tolist()
    rows = [line(row, 28) for row in frame]
    columns = [line([row[x] for row in rows], 20) for x in range(28)]
    enlarged = lanczos(video, 20, 28)
    assert enlarged.shape == (1, 3, 2, 20, 28)
    torch.testing.assert_close(enlarged[0, 1, 1], torch.tensor(columns).T, atol=1e-5, rtol=0)
    torch.testing.assert_close(lanczos(video, 5, 7), video, atol=1e-6, rtol=0)
    torch.testing.assert_close(lanczos(torch.full_like(video, 0.3), 20, 28), torch.full((1, 3, 2, 20, 28), 0.3))
    with pytest.raises(ValueError, match="only enlarging"):
        lanczos(video, 4, 7)
    with pytest.raises(ValueError, match="expected floating point"):
        lanczos(video[0], 20, 28)


def test_enlargements_keep_places():
    ramp = torch.linspace(0.2, 0.8, 16).expand(1, 3, 1, 16, 16)
    for enlarge in (bilinear, lanczos):
        large = enlarge(ramp, 64, 64)
        torch.testing.assert_close(low_resolution(large[0], 4)[..., 4:12], ramp[0, ..., 4:12], atol=2e-3, rtol=0)


def test_intervals_of_rows():
    nine = share_row("a", "b", [Tally(1, 1)] * 9 + [Tally(0, 1)])
    assert (round(nine.low, 3), round(nine.high, 3), nine.n) == (0.596, 0.982, 10)
    tallies = [Tally(2, 3), Tally(1, 2), Tally(3, 3), Tally(0, 0)]
    several, expected = share_row("a", "b", tallies), ratio_interval([2, 1, 3], [3, 2, 3])
    assert (several.mean, several.low, several.high, several.n) == (6 / 8, expected.low, expected.high, 3)
    certain = share_row("a", "b", [Tally(3, 3)] * 8)
    assert (certain.mean, certain.high) == (1, 1)
    assert certain.low == pytest.approx(0.676, abs=1e-3)  # Wilson's, eight of eight
    assert share_row("a", "b", [Tally(), Tally()]) is None
    values = [1.0, 2.0, 4.0]
    row, expected = mean_row("a", "b", values, "dB"), interval95(values)
    assert (row.mean, row.low, row.high, row.n, row.unit) == (7 / 3, expected.low, expected.high, 3, "dB")
    apart = share_difference_row("a", "b", [Tally(1, 1), Tally(2, 2)], [Tally(0, 1), Tally(2, 2)])
    assert apart.mean == pytest.approx(1 / 3)


def result_of(section: str, rows: dict[tuple[str, str], float]) -> Result:
    return Result(section, (Table("t", tuple(Row(*key, mean, mean, mean, 200) for key, mean in rows.items())),))


def test_floors_are_met_and_missed():
    good = {
        ("refined", "spectrum error"): 1.0,
        ("bilinear", "spectrum error"): 2.0,
        ("Lanczos", "spectrum error"): 1.5,
        ("refined", "texture"): 0.9,
        ("bilinear", "texture"): 0.3,
        ("Lanczos", "texture"): 0.3,
        ("refined", "low-passed PSNR"): 39.1,
        ("Lanczos", "low-passed PSNR"): 40.0,
    }
    assert check_floors({"refinement": result_of("refinement", good)}) == []
    for key, worse in (
        (("refined", "spectrum error"), 1.6),
        (("refined", "texture"), 0.3),
        (("refined", "low-passed PSNR"), 38.9),
    ):
        missed = check_floors({"refinement": result_of("refinement", {**good, key: worse})})
        assert missed
        assert all(key[1] in text for text in missed)
    fidelity = {
        (f"{ONE}, Stage I", PROMPT): 0.9,
        (f"{ONE}, Stage II", "texture"): 0.9,
        (f"{MORE}, Stage I", PROMPT): 0.749,
    }
    missed = check_floors({"fidelity": result_of("fidelity", fidelity)})
    assert len(missed) == 2
    assert "74.9%; expected at least 75%" in missed[0]
    assert "not measured" in missed[1]
    assert check_floors({"nfe": result_of("nfe", {})}) == []
