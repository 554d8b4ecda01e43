"""A picture's error and a GRU's gates in one pass, against torch's own functions in float64."""

from __future__ import annotations

import math

import pytest
import torch

from reverie.nn.onepass import gated, picture_error


def gradients(y, given):
    """What was computed, and the gradients of a weighed sum of it."""
    weight = torch.linspace(-1, 2, y.numel()).view_as(y)
    return y.detach(), *torch.autograd.grad((weight * y).sum(), given)


@pytest.mark.parametrize("last", [True, False], ids=["channels last", "channels first"])
@pytest.mark.parametrize("sigmoid", [True, False])
def test_the_error_of_pictures_is_the_sum_of_squares(sigmoid, last):
    raw, image = 3 * torch.randn(5, 3, 6, 4), torch.randint(0, 256, (5, 3, 6, 4))
    image = image.to(torch.uint8)
    if last:
        raw = raw.contiguous(memory_format=torch.channels_last)
    raw.requires_grad_()
    exact = raw.double()
    exact = (exact.sigmoid() if sigmoid else exact + 0.5) - image.double() / 255
    wanted = gradients(exact.square().sum((1, 2, 3)), [raw])
    found = gradients(picture_error(raw, image, sigmoid=sigmoid), [raw])
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs.float(), rtol=1e-5, atol=1e-6)


def test_the_error_of_a_known_picture():
    """White where black was drawn, by a sigmoid of 0: a quarter a pixel; and 255 is 1."""
    image = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 2, 2)
    grey = picture_error(torch.zeros(2, 3, 2, 2), image, sigmoid=True)
    assert grey.tolist() == pytest.approx([3.0, 3.0])
    white = picture_error(torch.full((2, 3, 2, 2), 0.5), image, sigmoid=False)
    assert white.tolist() == pytest.approx([12.0, 0.0], abs=1e-6)


@pytest.mark.parametrize("rows", [1, 7, 300])
@pytest.mark.parametrize("blocks", [1, 4])
def test_gates_and_their_gradients_are_the_gru_s(rows, blocks):
    gates = (2 * torch.randn(rows, 3 * 24)).requires_grad_()
    memory = torch.randn(rows, 24, requires_grad=True)
    parts = gates.double().unflatten(-1, (blocks, 3, -1)).unbind(-2)
    reset, fresh, update = (part.flatten(1) for part in parts)
    write = torch.sigmoid(update - 1)
    exact = write * torch.tanh(torch.sigmoid(reset) * fresh) + (1 - write) * memory.double()
    wanted = gradients(exact, [gates, memory])
    found = gradients(gated(gates, memory, blocks), [gates, memory])
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs.float(), rtol=1e-4, atol=2e-6)
    with torch.no_grad():
        assert torch.equal(gated(gates, memory, blocks), found[0])


def test_gates_far_out_are_shut_or_open():
    memory = torch.tensor([[0.25]])
    far = 1e4
    for gates, wanted in (
        ([far, far, far], 1.0),  # written: the candidate's tanh
        ([-far, far, far], 0.0),  # written, but reset
        ([far, far, -far], 0.25),  # kept
    ):
        assert gated(torch.tensor([gates]), memory).item() == pytest.approx(wanted, abs=1e-6)


def test_what_is_not_a_number_stays_so():
    """A run that diverges must be seen to."""
    nan, ones = math.nan, torch.ones(1, 2)
    raw = torch.zeros(2, 1, 2, 2)
    raw[1, 0, 1, 1] = nan
    for sigmoid in (True, False):
        error = picture_error(raw, raw.to(torch.uint8), sigmoid=sigmoid)
        assert error.isnan().tolist() == [False, True]
    for place in range(6):
        gates = torch.zeros(1, 6)
        gates[0, place] = nan
        found = gated(gates, ones)
        assert found.isnan().tolist() == [[place % 2 == 0, place % 2 == 1]]
    assert gated(torch.zeros(1, 6), nan * ones).isnan().all()


def test_under_autocast_gates_are_float32():
    gates, memory = torch.randn(3, 12), torch.randn(3, 4)
    found = gated(gates.bfloat16(), memory.bfloat16())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, gated(gates, memory), atol=0.02, rtol=0.02)


def test_elsewhere_the_same_is_composed_of_torch_s_own_functions():
    """On a device without values: shapes and types are those of the compiled ones."""
    raw, image = torch.zeros(2, 3, 4, 4, dtype=torch.bfloat16), torch.zeros(2, 3, 4, 4).byte()
    for sigmoid in (True, False):
        here = picture_error(raw, image, sigmoid=sigmoid)
        there = picture_error(raw.to("meta"), image.to("meta"), sigmoid=sigmoid)
        assert (there.shape, there.dtype) == (here.shape, here.dtype)
    gates, memory = torch.zeros(5, 24), torch.zeros(5, 8)
    for blocks in (1, 4):
        here = gated(gates, memory, blocks)
        there = gated(gates.to("meta"), memory.to("meta"), blocks)
        assert (there.shape, there.dtype) == (here.shape, here.dtype)
