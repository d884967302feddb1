"""Codes of places against the equations in loops."""

import math

import pytest
import torch

from foveal.ops.positions import box_code, grid_places, sine_code, time_code


def by_loops(t: float, width: int) -> list[float]:
    row = []
    for i in range(width // 2):
        angle = t * 10000 ** (-2 * i / width)
        row += [math.sin(angle), math.cos(angle)]
    return row


def test_sine_code_is_the_equation():
    t = torch.tensor([[0.0, 0.3, 6.2], [1.0, -2.0, 100.0]], dtype=torch.float64)
    code = sine_code(t, 6)
    assert code.shape == (2, 3, 6)
    for row, values in zip(code.view(-1, 6).tolist(), t.flatten().tolist(), strict=True):
        assert row == pytest.approx(by_loops(values, 6), rel=1e-12)


def test_time_code_is_the_equation_sines_first():
    t = torch.tensor([0.0, 3.0, 999.0], dtype=torch.float64)
    for shift in (0, 1):
        rates = [10000 ** (-i / (4 - shift)) for i in range(4)]
        expected = [[wave(x * rate) for wave in (math.sin, math.cos) for rate in rates] for x in t.tolist()]
        for row, values in zip(time_code(t, 8, shift).tolist(), expected, strict=True):
            assert row == pytest.approx(values, rel=1e-9, abs=1e-12)
    assert torch.allclose(time_code(t, 8, 0)[:, :4], sine_code(t, 8)[:, ::2])


def test_box_code_has_y_first_and_then_x_and_the_rest():
    code = box_code(torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64), 4)
    expected = [number for value in (0.2, 0.1, 0.3, 0.4) for number in by_loops(2 * math.pi * value, 4)]
    assert code.tolist() == pytest.approx(expected, rel=1e-12)


def test_places_are_parts_of_what_is_seen():
    seen = torch.zeros(2, 4, 6, dtype=torch.bool)
    seen[0] = True
    seen[1, 1:3, :3] = True  # begins in the second row
    places = grid_places(seen, torch.float64)
    assert places.shape == (2, 4, 6, 2)
    assert places.isfinite().all()
    torch.testing.assert_close(places[0, 0, :, 0], torch.arange(1, 7).double() / 6, rtol=1e-6, atol=0)
    torch.testing.assert_close(places[0, :, 0, 1], torch.arange(1, 5).double() / 4, rtol=1e-6, atol=0)
    torch.testing.assert_close(places[1, 1, :3, 0], torch.tensor([1, 2, 3]).double() / 3, rtol=1e-6, atol=0)
    torch.testing.assert_close(places[1, 1:3, 0, 1], torch.tensor([0.5, 1.0]).double(), rtol=1e-6, atol=0)
