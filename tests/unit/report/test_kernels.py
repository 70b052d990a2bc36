"""What the networks cost a device, counted at full size: exact numbers, which may fall and must not grow."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from flashvideo.cli import main
from flashvideo.models.windows import AttentionWindows
from flashvideo.report.kernels.counter import (
    ATTENTION,
    CONVOLUTION,
    COPY,
    ELEMENTWISE,
    PRODUCT,
    REDUCTION,
    Count,
    KernelCounter,
    Work,
    counting,
)
from flashvideo.report.kernels.networks import META, Case, count, transformer
from flashvideo.report.kernels.page import comparison
from flashvideo.report.kernels.rates import CARDS, Rates, predict

FULL, SMALL = (1072, 1920), (256, 480)
# (part, size, frames, with kernels of our own) -> launches, GB, peak in MiB: lower them with what becomes cheaper.
MOST = {
    ("stage1", SMALL, 49, True): (526, 85.1, 266),
    ("stage2", FULL, 49, True): (613, 541.7, 1930),
    ("stage1", SMALL, 49, False): (1408, 99.0, 266),
    ("stage2", FULL, 49, False): (1483, 641.5, 1931),
    ("decode", SMALL, 9, True): (2023, 38.5, 1090),
    ("encode", SMALL, 9, True): (1147, 19.5, 606),
}


@pytest.mark.parametrize("key", MOST, ids=lambda key: f"{key[0]} {'fused' if key[3] else 'plain'}")
def test_the_published_networks_cost_no_more_than_they_did(key):
    part, size, frames, fused = key
    counted = count(Case(part, size, frames), fused=fused)
    launches, gigabytes, peak = MOST[key]
    assert counted.total.launches <= launches
    assert counted.total.bytes / 1e9 <= gigabytes
    assert counted.peak_bytes / 2**20 <= peak
    assert counted.host_reads == 0


def test_a_product_an_activation_and_a_view():
    layer = nn.Linear(8, 16, device=META)
    with counting(layer) as counter:
        hidden = F.gelu(layer(torch.empty(4, 8, device=META)))
        hidden.view(8, 8).transpose(0, 1)[2:]
    work = counter.count().work
    product = Work(1, 4 * (4 * 8 + 8 * 16 + 16 + 4 * 16), 2 * 4 * 8 * 16)
    assert work == {("network", PRODUCT): product, ("network", ELEMENTWISE): Work(1, 4 * 2 * 4 * 16)}
    assert counter.peak["computing"] == 4 * 2 * 4 * 16


def test_what_is_written_over_is_not_read_and_what_is_expanded_is_read_once():
    x, row = torch.empty(10, 4, device=META), torch.empty(4, device=META)
    with counting(nn.Identity()) as counter:
        x.copy_(row.expand(10, 4))
        x.add_(1.0)
        torch.add(x, 1.0, out=x)
    assert counter.count().of(COPY) == Work(1, 4 * (4 + 40))
    assert counter.count().of(ELEMENTWISE).bytes == 2 * 4 * (40 + 40)


def test_parts_have_the_names_of_modules():
    network = nn.ModuleDict({"up": nn.Linear(2, 2), "norm": nn.LayerNorm(2)}).to(META)
    with counting(network) as counter:
        network["norm"](network["up"](torch.empty(1, 2, device=META)))
    assert set(counter.count().work) == {("up", PRODUCT), ("norm", REDUCTION)}


def test_a_value_that_the_host_reads_is_counted():
    with counting(nn.Identity()) as counter:
        assert torch.isfinite(torch.empty(3, device=META)).all()
    assert counter.host_reads == 1


def test_a_device_is_counted_while_it_computes():
    layer = nn.Linear(8, 16)
    x = torch.randn(4, 8)
    with torch.no_grad(), KernelCounter(layer, meta=False) as counter:
        result = layer(x)
    assert torch.equal(result, F.linear(x, layer.weight, layer.bias))
    assert counter.count().of(PRODUCT).operations == 2 * 4 * 8 * 16


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("windows", [None, AttentionWindows(8, 8, pooled=2)])
def test_equal_layers_are_counted_once(fused, windows):
    case = Case("stage2", (128, 128), 9, windows=windows)
    whole = count(case, fused=fused, layers=6)
    with counting(network := transformer("stage2", 6), fused=fused) as counter:
        x = torch.empty(1, 16, 3, 16, 16, device=META, dtype=torch.bfloat16)
        prepared = network.prepare(torch.empty(1, 226, 4096, device=META, dtype=torch.bfloat16), x.shape)
        before = counter.count()
        step = torch.empty(1, device=META)
        network(x, step, None, noise_step=step, prepared=prepared, inplace=True, attention_windows=windows)
    counted, none = counter.count(), Work()
    for key, work in whole.work.items():
        assert work == counted.work[key] - before.work.get(key, none), key


def test_equal_chunks_of_the_vae_are_counted_once():
    one, two, three = (count(Case("decode", (32, 32), frames)) for frames in (25, 33, 41))
    assert three.total - two.total == two.total - one.total
    assert three.peak_bytes == two.peak_bytes


def test_operations_of_stage_two_are_those_of_the_paper_s_size():
    counted = count(Case("stage2", FULL))
    tokens, width, layers = 226 + 13 * 67 * 120, 1920, 30
    assert counted.of(ATTENTION).operations == 4 * tokens**2 * width * layers
    assert counted.of(PRODUCT).operations == pytest.approx(24 * tokens * width**2 * layers, rel=0.01)


def test_seconds_are_those_of_operations_bytes_and_launches():
    rates = Rates(products=10, convolutions=5, attention=2, memory=100, launch=0.5)
    work = {
        ("a", PRODUCT): Work(1, 100, 100),
        ("b", PRODUCT): Work(1, 10, 0),
        ("a", CONVOLUTION): Work(1, 1000, 10),
        ("a", ATTENTION): Work(1, 0, 4),
        ("a", COPY): Work(2, 300, 0),
    }
    prediction = predict(Count(work), rates)
    assert (prediction.products, prediction.convolutions, prediction.attention) == (10.0, 10.0, 2.0)
    assert (prediction.other, prediction.launches, prediction.total) == (3.0, 3.0, 28.0)


def test_predictions_are_near_what_was_measured_on_a_gpu():
    """docs/windows.md: an H200 with Triton's kernels."""
    measured = {None: 6.71, AttentionWindows(68, 120, pooled=4): 2.67, AttentionWindows(68, 120): 2.25}
    for windows, seconds in measured.items():
        predicted = predict(count(Case("stage2", FULL, windows=windows)), CARDS["H200"])
        assert predicted.total == pytest.approx(seconds, rel=0.1), windows


def test_counts_survive_a_file_and_are_compared(tmp_path, capsys):
    cheap, dear = Count({("a", COPY): Work(1, 8, 0)}, 5, 6, 7), Count({("a", COPY): Work(4, 16, 0)}, 5, 6, 0)
    assert Count.from_dict(cheap.to_dict()) == cheap
    text = "\n".join(comparison({"x": cheap, "y": cheap}, {"x": dear}))
    assert "| x | " in text
    assert "4.000" in text
    assert "y" not in text
    with pytest.raises(ValueError, match="no case is in both"):
        list(comparison({"x": cheap}, {"y": dear}))
    other = tmp_path / "other.json"
    other.write_text("[]")
    assert main(["bench", "--compare", str(other), str(other)]) == 2
    assert "holds no counts" in capsys.readouterr().err


def test_an_unknown_part_is_told():
    with pytest.raises(ValueError, match="'stage3'"):
        count(Case("stage3", FULL))
