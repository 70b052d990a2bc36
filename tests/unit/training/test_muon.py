"""Muon: matrices move by orthogonal updates, the rest as with AdamW."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from flashvideo.training.config import RunSettings
from flashvideo.training.loop import make_optimizer
from flashvideo.training.muon import Muon, orthogonalised


@pytest.mark.parametrize("shape", [(8, 24), (24, 8), (16, 16)])
def test_singular_values_come_to_about_one(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalised(matrix))
    assert values.min() > 0.5
    assert values.max() < 1.3
    assert torch.dist(orthogonalised(matrix, torch.bfloat16), orthogonalised(matrix)) < 0.05 * len(matrix)
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    assert (u.T @ orthogonalised(matrix) @ vh.T).diagonal().min() > 0.5, "along the same singular vectors"


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(7, 6), nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 4))


def test_weights_of_layers_are_matrices_and_the_rest_is_not():
    model = nn.ModuleDict({"net": network(), "conv": nn.Conv3d(2, 3, 3)})
    model["net"][3].weight.requires_grad_(False)
    matrices, others = make_optimizer(model, RunSettings(optimizer="muon")).param_groups
    assert matrices["matrices"]
    assert {id(p) for p in matrices["params"]} == {id(model["net"][1].weight), id(model["conv"].weight)}
    assert not others["matrices"]
    assert len(others["params"]) == 6


def test_an_update_has_the_size_of_adams():
    model = nn.Linear(64, 32, bias=False)
    before = model.weight.detach().clone()
    model.weight.grad = torch.randn(32, 64) * 1e-4
    Muon([{"params": [model.weight], "matrices": True}], lr=0.01).step()
    assert 0.1 < (model.weight - before).square().mean().sqrt() / 0.01 < 0.3


def test_everything_else_is_adamw():
    ours, theirs = (nn.LayerNorm(5) for _ in range(2))
    optimizers = [
        Muon([{"params": ours.parameters(), "matrices": False}], lr=0.1, betas=(0.8, 0.9), weight_decay=0.3),
        torch.optim.AdamW(theirs.parameters(), lr=0.1, betas=(0.8, 0.9), weight_decay=0.3),
    ]
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        gradients = [torch.randn(5, generator=generator) for _ in range(2)]
        for model, optimizer in zip((ours, theirs), optimizers, strict=True):
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                parameter.grad = gradient.clone()
            optimizer.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_it_learns_and_goes_on_from_its_state():
    settings = RunSettings(optimizer="muon", learning_rate=0.02)
    model = network()
    optimizer = make_optimizer(model, settings)
    tokens, wanted = torch.arange(7), torch.randn(7, 4)

    def step(model, optimizer):
        loss = (model(tokens) - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    losses = [step(model, optimizer) for _ in range(100)]
    assert losses[-1] < 0.2 * losses[0]
    other = copy.deepcopy(model)
    resumed = make_optimizer(other, settings)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for _ in range(3):
        assert step(model, optimizer) == step(other, resumed)


def test_vectors_are_no_matrices():
    with pytest.raises(ValueError, match="fewer than two dimensions is none"):
        Muon([{"params": [nn.Parameter(torch.zeros(3))], "matrices": True}], lr=0.1)


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_a_part_may_learn_more_slowly(optimizer):
    model = nn.ModuleDict({"net": network(), "conv": nn.Conv3d(2, 3, 3)})
    groups = make_optimizer(model, RunSettings(optimizer=optimizer), {"conv.": 0.1}).param_groups
    slow = {id(p) for group in groups if group["scale"] == 0.1 for p in group["params"]}
    assert slow == {id(p) for p in model["conv"].parameters()}
    every = [id(p) for group in groups for p in group["params"]]
    assert len(every) == len(set(every)) == len(list(model.parameters()))
