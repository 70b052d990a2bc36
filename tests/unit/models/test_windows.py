"""Attention in windows is attention with a mask, without the mask."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from flashvideo import AttentionWindows, refine_latents
from flashvideo.models import windows
from flashvideo.models.attention import sdpa_attention
from flashvideo.models.network import FlashVideoNetwork
from flashvideo.models.windows import window_pattern, windowed_attention

TEXT, HEADS, WIDTH = 5, 2, 8


def start_and_owner(place, size, window, shifted):
    """Where the window that owns a place begins: tiles from 0 or from half a window on, moved into the frame."""
    window = min(window, size)
    half = window // 2 if shifted and window < size else 0
    tile = (place - half) // window
    return min(max(half + tile * window, 0), size - window)


def mask_of(grid, rows, columns, shifted):
    """``[N, N]``: which video tokens a query sees."""
    frames, height, width = grid
    seen = torch.zeros(height, width, height, width, dtype=torch.bool)
    for y in range(height):
        for x in range(width):
            top, left = (start_and_owner(*of, shifted) for of in ((y, height, rows), (x, width, columns)))
            seen[y, x, top : top + rows, left : left + columns] = True
    n = height * width
    return seen.view(1, n, 1, n).expand(frames, n, frames, n).reshape(frames * n, frames * n)


def averages(grid, size):
    """``[P, N]``: pooled tokens as means of the video tokens."""
    frames, height, width = grid
    rows = []
    for t in range(frames):
        for top in range(0, height, size):
            for left in range(0, width, size):
                one = torch.zeros(grid)
                one[t, top : top + size, left : left + size] = 1
                rows.append(one.flatten() / one.sum())
    return torch.stack(rows)


def masked(q, k, v, grid, rows, columns, shifted, pooled):
    """The same by a mask over everything: ``[B, S, heads * head_dim]``."""
    tokens = q.shape[1]
    mask = torch.ones(tokens, tokens, dtype=torch.bool)
    mask[TEXT:, TEXT:] = mask_of(grid, rows, columns, shifted)
    if pooled:
        means = averages(grid, pooled)
        k, v = (torch.cat((part, torch.einsum("pn,bnhd->bphd", means, part[:, TEXT:])), dim=1) for part in (k, v))
        more = torch.ones(tokens, len(means), dtype=torch.bool)
        more[:TEXT] = False
        mask = torch.cat((mask, more), dim=1)
    q, k, v = (part.transpose(1, 2) for part in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


def tensors(grid, batch=2, seed=0):
    tokens = TEXT + grid[0] * grid[1] * grid[2]
    made = torch.randn(3, batch, tokens, HEADS, WIDTH, generator=torch.Generator().manual_seed(seed))
    return made.unbind(0)


CASES = [
    ((2, 8, 12), 4, 6, 0),  # an exact tiling
    ((3, 7, 11), 4, 4, 0),  # windows moved inwards on both axes
    ((2, 7, 12), 3, 5, 2),  # odd windows; pools that are cut at the border
    ((1, 5, 9), 9, 2, 4),  # one axis not cut
    ((2, 6, 6), 1, 1, 3),  # a token a window
    ((2, 9, 4), 8, 4, 1),  # a last window that owns one row
]


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize(("grid", "rows", "columns", "pooled"), CASES)
def test_it_is_attention_with_a_mask(monkeypatch, within, grid, rows, columns, pooled, shifted):
    made = AttentionWindows(2 * rows, 2 * columns, pooled=pooled)
    pattern = window_pattern(made, grid, 2, odd=shifted)
    q, k, v = (part.clone().requires_grad_() for part in tensors(grid))
    wanted = masked(q, k, v, grid, rows, columns, shifted, pooled)
    weights = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(1))
    slopes = torch.autograd.grad((wanted * weights).sum(), (q, k, v))
    for limit in (windows.KEYS_ON_CPU, 1):  # many windows at a time, one
        monkeypatch.setattr(windows, "KEYS_ON_CPU", limit)
        result = windowed_attention(sdpa_attention, q, k, v, HEADS, pattern, TEXT)
        within(result, wanted, 1e-5)
        for slope, right in zip(torch.autograd.grad((result * weights).sum(), (q, k, v)), slopes, strict=True):
            within(slope, right, 1e-5)


@given(st.integers(1, 70), st.integers(1, 70), st.booleans())
def test_windows_tile_an_axis(size, window, shifted):
    spans = windows._spans(size, window, shifted)
    assert [place for span in spans for place in range(span.first, span.stop)] == list(range(size))
    for span in spans:
        assert 0 <= span.start <= span.first < span.stop <= span.start + min(window, size) <= size


def test_each_query_is_computed_once_and_batches_are_dense():
    grid, calls = (2, 9, 11), []

    def attend(q, k, v, heads):
        assert k.shape == v.shape
        assert k.shape[2] in (TEXT + 2 * 9 * 11, TEXT + 2 * 4 * 4)
        calls.append(q.shape[0] * q.shape[2])
        return sdpa_attention(q, k, v, heads)

    pattern = window_pattern(AttentionWindows(8, 8), grid, 2, odd=True)
    windowed_attention(attend, *tensors(grid, batch=1), HEADS, pattern, TEXT)
    assert sum(calls) == TEXT + 2 * 9 * 11


def network():
    torch.manual_seed(0)
    made = FlashVideoNetwork(
        num_layers=3, num_attention_heads=2, text_embed_dim=32, time_embed_dim=64, use_noise_step_embedding=True
    ).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.2)
    return made


def evaluate(made, **more):
    generator = torch.Generator().manual_seed(0)
    x, text = (torch.randn(shape, generator=generator) for shape in ((1, 16, 3, 12, 20), (1, 226, 32)))
    with torch.no_grad():
        return made(x, torch.tensor([500.0]), text, noise_step=675, **more)


@pytest.mark.parametrize("size", [(12, 20), (12, 40), (14, 20), (1000, 1000)])
@pytest.mark.parametrize("pooled", [0, 4])
def test_windows_over_the_whole_frame_change_no_byte(size, pooled):
    made = network()
    assert torch.equal(evaluate(made, attention_windows=AttentionWindows(*size, pooled=pooled)), evaluate(made))


@pytest.mark.parametrize("inplace", [False, True])
def test_layers_take_turns(monkeypatch, within, inplace):
    """Even layers have windows that begin in the corner; on odd ones they are shifted, if they are."""
    made, seen = network(), []
    monkeypatch.setattr(
        "flashvideo.models.layer.windowed_attention",
        lambda *arguments, **more: seen.append(arguments[5]) or windowed_attention(*arguments, **more),
    )
    moved = evaluate(made, attention_windows=AttentionWindows(8, 8), inplace=inplace)
    even, odd, last = seen
    assert even is last
    assert odd is not even
    still = evaluate(made, attention_windows=AttentionWindows(8, 8, shift=False), inplace=inplace)
    assert all(pattern is seen[3] for pattern in seen[3:])
    assert (moved - still).abs().max() > 0.01
    assert (still - evaluate(made)).abs().max() > 0.01
    within(moved, evaluate(made, attention_windows=AttentionWindows(8, 8), inplace=not inplace), 1e-4)


def test_options_of_the_attention_function_may_have_any_name():
    """ComfyUI's has the text's length."""
    made, given = network(), {"attention_windows": AttentionWindows(8, 8)}
    assert torch.equal(evaluate(made, **given, attention_options={"text_length": 1}), evaluate(made, **given))


def test_a_refinement_in_windows():
    made, generator = network(), torch.Generator().manual_seed(0)
    latents, prompt = (torch.randn(shape, generator=generator) for shape in ((1, 16, 3, 12, 20), (1, 226, 32)))
    full, covered, cut = (
        refine_latents(made, latents, prompt, num_steps=2, attention_windows=given)
        for given in (None, AttentionWindows(12, 20), AttentionWindows(8, 8, pooled=2))
    )
    assert torch.equal(full, covered)
    assert not torch.equal(full, cut)


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"height": 0, "width": 4}, "height is 0; expected a whole number of latents, 1 or more"),
        ({"height": 4, "width": 4.0}, r"width is 4\.0; expected a whole number"),
        ({"height": True, "width": 4}, "height is True"),
        ({"height": 4, "width": 4, "pooled": -1}, "pooled is -1; expected a whole number of patches, 0 or more"),
    ],
)
def test_sizes_that_are_none(sizes, words):
    with pytest.raises(ValueError, match=words):
        AttentionWindows(**sizes)


def test_sizes_that_do_not_fit_are_told_before_the_first_evaluation(monkeypatch):
    made = network()
    monkeypatch.setattr(made, "forward", lambda *_, **__: pytest.fail("evaluated"))
    latents, prompt = torch.zeros(1, 16, 3, 12, 20), torch.zeros(1, 226, 32)
    with pytest.raises(ValueError, match=r"are 7x8 latents; expected multiples of 2, .* for example 8x8"):
        refine_latents(made, latents, prompt, attention_windows=AttentionWindows(7, 8))
