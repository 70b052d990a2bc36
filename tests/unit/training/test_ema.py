"""Averaged weights against their formula, also over an interruption."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from flashvideo.training.ema import AveragedWeights


def trained(weights, steps, decay=0.9):
    """The average after the weights were 1, 2, 3, ... in turn, by hand; the start was 0."""
    average = 0.0
    for step in range(1, steps + 1):
        kept = min(decay, (1 + step) / (10 + step))
        average = kept * average + (1 - kept) * weights(step)
    return average


def test_early_steps_forget_the_start_and_later_ones_have_the_decay():
    parameter = nn.Parameter(torch.zeros(3))
    ema = AveragedWeights([parameter], 0.9)
    for step in range(1, 101):
        with torch.no_grad():
            parameter.fill_(step)
        ema.update([parameter])
        assert ema.averages[0][0].item() == pytest.approx(trained(float, step), rel=1e-5)


def test_a_resumed_average_goes_on_where_it_was(tmp_path):
    parameter = nn.Parameter(torch.zeros(3))
    written = AveragedWeights([parameter], 0.9)
    written.steps, written.averages = 40, [torch.ones(3)]
    written.save(tmp_path / "averages.safetensors")
    averages = []
    for resumed in (False, True):
        ema = AveragedWeights([parameter], 0.9)
        if resumed:
            ema.load(tmp_path / "averages.safetensors")
        with torch.no_grad():
            parameter.fill_(2.0)
        ema.update([parameter])
        averages.append(ema.averages[0][0].item())
        with torch.no_grad():
            parameter.fill_(0.0)
    assert averages[0] == pytest.approx(2 * (1 - 2 / 11))
    assert averages[1] == pytest.approx(1 + (1 - 42 / 51)), "the 41st step"


def test_averages_of_other_weights_are_refused(tmp_path):
    path = tmp_path / "averages.safetensors"
    AveragedWeights([nn.Parameter(torch.zeros(3))], 0.9).save(path)
    for other in ([torch.zeros(4)], [torch.zeros(3), torch.zeros(3)]):
        with pytest.raises(ValueError, match="does not hold the averages of these weights"):
            AveragedWeights([nn.Parameter(tensor) for tensor in other], 0.9).load(path)


def test_averages_are_there_inside_only():
    parameter = nn.Parameter(torch.zeros(3))
    ema = AveragedWeights([parameter], 0.5)
    with torch.no_grad():
        parameter.fill_(8.0)
    with ema.swapped_in([parameter]):
        assert parameter.eq(0).all()
    assert parameter.eq(8).all()
