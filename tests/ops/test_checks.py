"""Every public function of ops/ refuses tensors of other shapes, types and devices in one line."""

import inspect
from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor

from foveal.errors import InputError
from foveal.ops import anchors, boxes, diffusion, masks, matching, nearest, positions, regions, roi

nms = import_module("foveal.ops.nms")  # the name in the package is the function


def some(*shape: int) -> Tensor:
    return torch.rand(*shape)


WHOLE = torch.ones(3, dtype=torch.int64)
A = torch.tensor(0.5, dtype=torch.float64)

# function -> what it takes, then what it has to refuse.
CALLS: dict[Callable[..., Any], tuple[tuple[Any, ...], list[tuple[Any, ...]]]] = (
    {
        nms.nms: (
            (some(3, 4), some(3), 0.5),
            [
                (some(5, 4), some(3), 0.5),
                (some(3, 5), some(3), 0.5),
                (some(3, 4), some(3, 1), 0.5),
                ([[0, 0, 1, 1]], 1, 0.5),
            ],
        ),
        nms.batched_nms: (
            (some(3, 4), some(3), WHOLE, 0.5),
            [
                (some(5, 4), some(3), WHOLE, 0.5),
                (some(3, 4), some(5), WHOLE, 0.5),
                (some(5, 4), some(5), WHOLE, 0.5),
                (some(3, 4), some(3), some(3), 0.5),
            ],
        ),
        nms.soft_nms: (
            (some(3, 4), some(3)),
            [(some(5, 4), some(3)), (some(3, 4), some(5)), (some(3, 4), WHOLE), (some(3, 4), some(3), "cubic")],
        ),
        boxes.area: ((some(3, 4),), [(some(3, 5),), (some(0),), (3,)]),
        boxes.clip: (
            (some(3, 4), (5, 5)),
            [(some(4), (5, 5)), (some(3, 4), (5, 5, 3)), (some(2, 3, 4), torch.ones(3, 2))],
        ),
        boxes.encode: (
            (some(3, 4), some(3, 4)),
            [(some(3, 4), some(2, 4)), (some(3, 4), some(3, 2)), (some(4, 3), some(4))],
        ),
        boxes.decode: ((some(3, 4), some(3, 4)), [(some(3, 4), some(2, 4)), (some(3, 2), some(3, 4))]),
        boxes.encode_sides: ((some(3, 2), some(3, 4)), [(some(3, 4), some(3, 4)), (some(3, 2), some(2, 4))]),
        boxes.decode_sides: ((some(3, 2), some(3, 4)), [(some(3, 4), some(3, 4)), (some(3, 2), some(2, 4))]),
        roi.roi_align: (
            (some(2, 3, 8, 8), some(3, 5), 2),
            [
                (some(3, 8, 8), some(3, 5), 2),
                (some(2, 3, 8, 8), some(3, 4), 2),
                (some(2, 3, 8, 8), [some(3, 4)], 2),
                (some(2, 3, 8, 8), [some(3, 4), some(3, 5)], 2),
            ],
        ),
        roi.roi_pool: (
            (some(2, 3, 8, 8), some(3, 5), 2),
            [
                (some(3, 8, 8), some(3, 5), 2),
                (some(2, 3, 8, 8), some(3, 4), 2),
                (some(2, 3, 8, 8), [some(3, 4)], 2),
                (some(2, 3, 8, 8), [some(3, 4), some(3)], 2),
            ],
        ),
        anchors.grid_anchors: ((some(3, 4), (2, 2), 8), [(some(3, 2), (2, 2), 8), (some(4), (2, 2), 8)]),
        anchors.default_boxes: (
            ([(2, 2)], [0.1, 0.2], [[2]]),
            [([(2, 2)], [0.1], [[2]]), ([(2, 2)], [0.1, 0.2], []), ([(2, 2)], [0.1, 0.2], [[2]], [(1, 1)] * 2)],
        ),
        masks.rle_encode: ((some(3, 4) > 0.5,), [(some(3),), (some(1, 3, 4),)]),
        masks.rle_decode: ((WHOLE, (1, 3)), [(WHOLE[None], (1, 3)), (some(3), (1, 3))]),
        masks.rle_box: ((WHOLE, (1, 3)), [(WHOLE[None], (1, 3)), (some(3), (1, 3))]),
        masks.rle_text: ((WHOLE,), [(WHOLE[None],), (some(3),)]),
        masks.polygon_mask: ((some(3, 2), (4, 4)), [(some(3, 3), (4, 4)), (some(6), (4, 4))]),
        matching.match: ((some(2, 3), 0.5, 0.4, True), [(some(3), 0.5, 0.4, True), (WHOLE[None], 0.5, 0.4, True)]),
        matching.claim_best: ((WHOLE, some(2, 3)), [(WHOLE, some(3, 2)), (some(3), some(2, 3)), (WHOLE, some(3))]),
        matching.assign: ((some(3, 2),), [(some(3),), (some(2, 3, 2),)]),
        matching.sample_balanced: ((WHOLE, 2, 0.5), [(WHOLE[None], 2, 0.5), (some(3), 2, 0.5)]),
        nearest.nearest: (
            (some(2, 3), some(5, 3), 2),
            [
                (some(2, 3), some(5, 4), 2),
                (some(3), some(5, 3), 2),
                (some(2, 3), some(5, 3), 6),
                (some(2, 3), some(5, 3), 0),
                (some(2, 3), some(5, 3), 2, "l3"),
            ],
        ),
        nearest.distance: (
            (some(2, 3), some(2, 3), "l2"),
            [(some(2, 3), some(2, 4), "l2"), (some(2, 3), some(4, 3), "l2")],
        ),
        positions.sine_code: ((some(3), 4), [(some(3), 5), (some(3), 0), (WHOLE, 4)]),
        positions.time_code: ((some(3), 4), [(some(3), 5), (some(3), 2), (WHOLE, 4)]),
        positions.box_code: ((some(3, 2), 4), [(some(3, 1), 4), (some(3, 2), 3), (WHOLE[None], 4)]),
        positions.grid_places: ((some(1, 2, 3) > 0.5,), [(some(2, 3) > 0.5,), (some(1, 1, 2, 3) > 0.5,)]),
        regions.propose_regions: ((some(3, 9, 9),), [(some(1, 9, 9),), (some(3, 9),), (WHOLE.view(3, 1, 1),)]),
        diffusion.kept: ((some(3),), [(some(3, 1),), (WHOLE,)]),
        diffusion.linear_betas: ((3,), [(0,)]),
        diffusion.cosine_betas: ((3,), [(0,)]),
        diffusion.chosen_times: ((3, 2), [(3, 4), (3, 0), (0, 1)]),
        diffusion.diffuse: (
            (some(2, 3), some(2, 3), A),
            [(some(2, 3), some(3, 2), A), (some(2, 3), some(2, 3), some(3))],
        ),
        diffusion.clean_in: (
            (some(2, 3), some(2, 3), A),
            [(some(2, 3), some(2), A), (some(2, 3), some(2, 3), some(3)), (some(2, 3), some(2, 3), 0 * A)],
        ),
        diffusion.noise_in: (
            (some(2, 3), some(2, 3), A),
            [(some(2, 3), some(2), A), (some(2, 3), some(2, 3), some(3))],
        ),
        diffusion.posterior: (
            (some(2, 3), some(2, 3), A, A),
            [(some(2, 3), some(2), A, A), (some(2, 3), some(2, 3), A, A / 2)],
        ),
        diffusion.ancestral_step: (
            (some(2, 3), some(2, 3), A, A, some(2, 3)),
            [(some(2, 3), some(2), A, A, some(2, 3)), (some(2, 3), some(2, 3), A, A, some(3, 3))],
        ),
        diffusion.ddim_step: (
            (some(2, 3), some(2, 3), A, A),
            [(some(2, 3), some(3, 3), A, A), (some(2, 3), some(2, 3), A, A, some(3, 3))],
        ),
        diffusion.dpm_step: (
            (some(2, 3), some(2, 3), A, A),
            [
                (some(2, 3), some(3, 3), A, A),
                (some(2, 3), some(2, 3), A, A, (some(3, 3), A)),
                (some(2, 3), some(2, 3), A, A, None, some(3, 3)),
            ],
        ),
    }
    | {
        measure: (
            (some(3, 4), some(2, 4)),
            [(some(3, 4), some(2, 5)), (some(4), some(2, 4)), (some(3, 4), some(2, 4), True)],
        )
        for measure in (boxes.iou, boxes.giou, boxes.diou, boxes.ciou, boxes.iof)
    }
    | {
        turn: ((some(2, 3, 4),), [(some(3, 2),), (some(3, 8),), ([0, 0, 1, 1],)])
        for turn in (boxes.xywh_to_xyxy, boxes.xyxy_to_xywh, boxes.cxcywh_to_xyxy, boxes.xyxy_to_cxcywh)
    }
)
# They take no tensors; `rle_counts` has its own tests, and parts of selective search are for NumPy.
OTHERS = {
    anchors.anchor_shapes,
    anchors.grid_points,
    masks.rle_counts,
    regions.graph,
    regions.segment,
    regions.hierarchy,
    *diffusion.SOLVERS.values(),  # whose steps check what they are given
}


def test_every_public_function_is_here() -> None:
    for module in (anchors, boxes, diffusion, masks, matching, nearest, nms, positions, regions, roi):
        for name, function in inspect.getmembers(module, inspect.isfunction):
            if function.__module__ == module.__name__ and not name.startswith("_"):
                assert function in CALLS or function in OTHERS, f"{module.__name__}.{name}"


@pytest.mark.parametrize("function", CALLS, ids=lambda function: function.__name__)
def test_what_it_refuses(function: Callable[..., Any]) -> None:
    right, wrong = CALLS[function]
    function(*right)
    for arguments in wrong:
        with pytest.raises(InputError) as error:
            function(*arguments)
        assert "\n" not in str(error.value)
        assert function.__name__ in str(error.value) or function is regions.propose_regions


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (nms.nms, (some(3, 4), some(3).to("meta"), 0.5)),
        (boxes.iou, (some(3, 4), some(3, 4).to("meta"))),
        (boxes.decode, (some(3, 4), some(3, 4).to("meta"))),
        (roi.roi_align, (some(2, 3, 8, 8), some(3, 5).to("meta"), 2)),
        (nearest.nearest, (some(3, 4), some(3, 4).to("meta"), 1)),
    ],
)
def test_tensors_are_on_one_device(function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    with pytest.raises(InputError, match=r"on one device, not .* on cpu, .* on meta"):
        function(*arguments)


def test_the_line_says_what_was_wanted_and_what_was_given() -> None:
    with pytest.raises(InputError) as error:
        nms.batched_nms(some(5, 4), some(3), some(3), 0.5)
    assert str(error.value) == (
        "batched_nms takes boxes (N, 4), scores (N,), groups (N,) integers; "
        "not (5, 4) float32, (3,) float32, (3,) float32"
    )


def test_checks_do_not_break_a_compiled_graph() -> None:
    def codes(t: Tensor, places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return positions.time_code(t, 8), positions.box_code(places, 8), boxes.iou(places, places)

    compiled = torch.compile(codes, backend="eager", fullgraph=True)
    for ours, theirs in zip(compiled(some(3), some(3, 4)), codes(some(3), some(3, 4)), strict=True):
        assert ours.shape == theirs.shape
    with pytest.raises(InputError, match="time_code"):
        codes(WHOLE, some(3, 4))
