"""Boxes, suppression, regions, anchors, matching against torchvision and loops written from the definitions."""

import importlib
import itertools
import math
import sys

import pytest
import torch
from torch import Tensor

import foveal
from foveal.errors import InputError
from foveal.ops import boxes as box
from foveal.ops.anchors import anchor_shapes, default_boxes, grid_anchors, grid_points
from foveal.ops.matching import assign, claim_best, match, sample_balanced
from foveal.ops.nms import batched_nms, nms, soft_nms
from foveal.ops.roi import roi_align, roi_pool

try:
    from torchvision import ops as peer
except (ImportError, RuntimeError):  # a build for another torch raises RuntimeError
    pytest.skip("torchvision", allow_module_level=True)


def some(count: int, size: float = 100, integer: bool = False, dtype: torch.dtype = torch.float64) -> Tensor:
    """Boxes; with integer sides many are equal, touch, or have no area."""
    points = torch.rand(count, 4, dtype=dtype) * size
    points = (points / 10).floor() * 10 if integer else points
    return torch.cat([points[:, :2].minimum(points[:, 2:]), points[:, :2].maximum(points[:, 2:])], 1)


def test_nms_has_the_indices_of_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    ways = importlib.import_module("foveal.ops.nms")  # the module, whose name in the package is the function
    for number in range(2000):
        monkeypatch.setattr(ways, "FEW", number % 200)  # the way for few boxes and the one for many
        torch.manual_seed(number)
        count = int(torch.randint(0, 150, ()))
        dtype = torch.float64 if number % 5 == 0 else torch.float32
        boxes, scores = some(count, (30, 100, 400)[number % 3], number % 2 == 0, dtype), torch.rand(count, dtype=dtype)
        if number % 3 == 0:
            scores = (scores * 10).floor() / 10
        threshold = (0.1, 0.3, 0.5, 0.6, 0.7, 0.0, 1.0, 1 / 3)[number % 8]
        assert torch.equal(foveal.ops.nms(boxes, scores, threshold), peer.nms(boxes, scores, threshold)), number
        groups = torch.randint(0, (1, 3, 20)[number % 3], (count,))
        kept = batched_nms(boxes, scores, groups, threshold)
        expected = [(groups == g).nonzero().flatten() for g in groups.unique()]
        expected = [own[peer.nms(boxes[own], scores[own], threshold)] for own in expected]
        alone = torch.cat([*expected, groups[:0]]).sort()[0]
        assert torch.equal(kept, alone[scores[alone].argsort(descending=True, stable=True)]), number


def test_nms_of_many_boxes_in_blocks() -> None:
    torch.manual_seed(0)
    boxes, scores = some(3000, 300, dtype=torch.float32), torch.rand(3000)
    assert torch.equal(nms(boxes, scores, 0.5), peer.nms(boxes, scores, 0.5))
    groups = (torch.rand(3000) ** 4 * 30).long()
    assert torch.equal(batched_nms(boxes, scores, groups, 0.4), peer.batched_nms(boxes, scores, groups, 0.4))
    chain = torch.tensor([0.0, 0, 10, 10]) + torch.arange(400)[:, None] * torch.tensor([3.0, 0, 3, 0])
    falling = torch.arange(400, 0, -1).float()
    assert torch.equal(nms(chain, falling, 0.5), peer.nms(chain, falling, 0.5))


def test_nms_takes_no_notice_of_boxes_that_are_not_finite() -> None:
    boxes = torch.tensor([[0.0, 0, 9, 9], [math.nan, 0, 9, 9], [0, 0, 9, 9], [0, 0, math.inf, 9]])
    assert nms(boxes, torch.tensor([0.5, 0.9, 0.4, 0.8]), 0.5).tolist() == [1, 3, 0]
    assert batched_nms(boxes, torch.tensor([0.5, 0.9, 0.4, 0.8]), torch.zeros(4).long(), 0.5).tolist() == [1, 3, 0]
    for wrong in (math.nan, math.inf, 2e38):  # among so many that they are settled in blocks
        torch.manual_seed(0)
        boxes, scores = some(600, 30, dtype=torch.float32), torch.rand(600)
        boxes = boxes.masked_fill(torch.rand(600, 4) < 0.05, wrong)
        assert torch.equal(nms(boxes, scores, 0.3), peer.nms(boxes, scores, 0.3))


@pytest.mark.parametrize("method", ["gaussian", "linear"])
def test_soft_nms_is_the_loop_of_the_paper(method: str) -> None:
    for number in range(30):
        torch.manual_seed(number)
        boxes, scores = some(40, 40, number % 2 == 0), torch.rand(40, dtype=torch.float64)
        overlap, now, left, expected = box.iou(boxes, boxes), scores.clone(), set(range(40)), []
        while left:
            i = max(left, key=lambda k: (float(now[k]), -k))
            left.remove(i)
            if now[i] < 0.01:
                continue
            expected.append((i, float(now[i])))
            for j in left:
                lower = 1 - overlap[i, j] if overlap[i, j] > 0.3 else 1.0
                now[j] *= math.exp(-(float(overlap[i, j]) ** 2) / 0.5) if method == "gaussian" else lower
        indices, values = soft_nms(boxes, scores, method, score_threshold=0.01)  # type: ignore[arg-type]
        assert indices.tolist() == [i for i, _ in expected]
        assert values.tolist() == pytest.approx([value for _, value in expected], rel=1e-12)


@pytest.mark.parametrize("sampling", [-1, 2, 3])
@pytest.mark.parametrize("aligned", [True, False])
def test_roi_align_has_values_and_gradients_of_torchvision(sampling: int, aligned: bool) -> None:
    for number in range(9):
        features, boxes, size, scale = regions(number)
        compare(
            roi_align(features, boxes, size, scale, sampling, aligned),
            peer.roi_align(features, boxes, size, scale, sampling, aligned),
            features,
        )


def test_roi_pool_has_values_and_gradients_of_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(18):
        features, boxes, size, scale = regions(number)
        if number % 2:  # of values that are equal the first has the gradient
            features = features.detach().relu().round().requires_grad_()
        if number > 8:  # a few boxes at a time
            monkeypatch.setattr(sys.modules[roi_pool.__module__], "PLACES", 500)
        compare(roi_pool(features, boxes, size, scale), peer.roi_pool(features, boxes, size, scale), features)


def regions(number: int) -> tuple[Tensor, Tensor, tuple[int, int], float]:
    torch.manual_seed(number)
    features = torch.randn(2, 3, 13, 17, dtype=torch.float64, requires_grad=True)
    count = number % 5 * 3
    boxes = torch.cat([torch.randint(0, 2, (count, 1)).double(), some(count, 80, number % 2 == 0) - 10], 1)
    return features, boxes, ((7, 7), (2, 3), (1, 1))[number % 3], (0.25, 1.0, 0.125)[number % 3]


def compare(ours: Tensor, theirs: Tensor, features: Tensor) -> None:
    weight = torch.randn_like(theirs)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    gradients = [torch.autograd.grad((value * weight).sum(), features)[0] for value in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-10)


def test_rois_as_one_list_an_image_and_in_half_precision() -> None:
    features, boxes = torch.randn(2, 3, 8, 8), [some(3, 8).float(), some(2, 8).float()]
    expected = peer.roi_align(features, boxes, (2, 2), 1.0, 2)
    torch.testing.assert_close(roi_align(features, boxes, (2, 2), 1.0, 2), expected)
    assert roi_align(features.bfloat16(), boxes, 2, 1.0, 2).dtype == torch.bfloat16
    with pytest.raises(InputError, match="as many of"):
        roi_align(features, boxes[:1], 2)
    with pytest.raises(InputError, match=r"boxes \(K, 5\)"):
        roi_pool(features, boxes[0], 2)


def test_overlaps_against_torchvision() -> None:
    torch.manual_seed(0)
    a, b = some(70, integer=True), some(50, integer=True)
    torch.testing.assert_close(box.iou(a, b), peer.box_iou(a, b).nan_to_num(0), rtol=1e-12, atol=0)
    a, b = (x[(x[:, 2:] > x[:, :2]).all(1)] for x in (a, b))
    torch.testing.assert_close(box.giou(a, b), peer.generalized_box_iou(a, b), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(box.diou(a, b), peer.distance_box_iou(a, b, eps=0), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(box.ciou(a, b), peer.complete_box_iou(a, b, eps=0).nan_to_num(1), rtol=1e-12, atol=1e-12)
    count = min(len(a), len(b))
    for measure in (box.iou, box.giou, box.diou, box.ciou, box.iof):
        rows = measure(a[:count], b[:count], paired=True)
        torch.testing.assert_close(rows, measure(a[:count], b[:count]).diag(), rtol=1e-12, atol=0)
    assert box.iof(torch.tensor([[0.0, 0, 4, 4]]), torch.tensor([[2.0, 0, 9, 9]])).item() == 0.5


def test_degenerate_boxes_give_no_nan() -> None:
    points = torch.zeros(2, 4, requires_grad=True)
    for measure in (box.iou, box.giou, box.diou, box.ciou, box.iof):
        value = measure(points, points)
        assert (value == 0).all()
        assert torch.autograd.grad(value.sum(), points)[0].isfinite().all()
    assert box.encode(points, points).isfinite().all()


def test_codes_and_conversions_turn_back() -> None:
    torch.manual_seed(0)
    a, b = some(50) + torch.tensor([0, 0, 1, 1]), some(50) + torch.tensor([0, 0, 1, 1])
    weights = (10.0, 10.0, 5.0, 5.0)
    from torchvision.models.detection._utils import BoxCoder

    code = box.encode(a, b, weights)
    torch.testing.assert_close(code, BoxCoder(weights).encode_single(a, b), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(box.decode(code, b, weights, limit=99), a)
    wild = torch.randn(50, 4, dtype=torch.float64) * 50
    torch.testing.assert_close(box.decode(wild, b, weights), BoxCoder(weights).decode_single(wild, b))
    torch.testing.assert_close(box.xywh_to_xyxy(box.xyxy_to_xywh(a)), a)
    torch.testing.assert_close(box.cxcywh_to_xyxy(box.xyxy_to_cxcywh(a)), a)
    points = torch.rand(50, 2, dtype=torch.float64) * 100
    torch.testing.assert_close(box.decode_sides(points, box.encode_sides(points, a)), a)
    clipped = box.clip(a.expand(2, -1, 4), torch.tensor([[50, 60], [20, 30]]))
    torch.testing.assert_close(clipped[1], peer.clip_boxes_to_image(a, (20, 30)), rtol=0, atol=0)


def test_anchors_are_those_of_torchvision() -> None:
    from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
    from torchvision.models.detection.image_list import ImageList

    images = ImageList(torch.zeros(1, 3, 64, 96), [(64, 96)])
    expected = AnchorGenerator(((32, 64),), ((0.5, 1.0, 2.0),))(images, [torch.zeros(1, 1, 8, 12)])[0]
    assert torch.equal(grid_anchors(anchor_shapes((32, 64), (0.5, 1, 2), rounded=True), (8, 12), 8), expected)
    sides, steps = (38, 19, 10, 5, 3, 1), (8, 16, 32, 64, 100, 300)
    ratios, scales = [[2], [2, 3], [2, 3], [2, 3], [2], [2]], [0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05]
    images = ImageList(torch.zeros(1, 3, 300, 300), [(300, 300)])
    maps = [torch.zeros(1, 1, side, side) for side in sides]
    expected = DefaultBoxGenerator(ratios, scales=scales, steps=list(steps))(images, maps)[0]
    strides = [(step / 300, step / 300) for step in steps]
    boxes = default_boxes([(side, side) for side in sides], scales, ratios, strides)
    assert boxes.shape == (8732, 4)
    torch.testing.assert_close(box.cxcywh_to_xyxy(boxes) * 300, expected, rtol=0, atol=1e-4)
    assert grid_points((2, 2), (4, 8)).tolist() == [[4, 2], [12, 2], [4, 6], [12, 6]]


def test_matches_and_samples_are_those_of_torchvision() -> None:
    from torchvision.models.detection._utils import BalancedPositiveNegativeSampler, Matcher

    for number in range(200):
        torch.manual_seed(number)
        overlap = (torch.rand(1 + number % 5, 40) * 10).floor() / 10
        for keep_best in (True, False):
            assert torch.equal(match(overlap, 0.7, 0.3, keep_best), Matcher(0.7, 0.3, keep_best)(overlap))
        matches = match(overlap, 0.7, 0.3, True)
        torch.manual_seed(number)
        drawn = sample_balanced(matches, 20, 0.5)
        torch.manual_seed(number)
        labels = torch.where(matches >= 0, 1, torch.where(matches == -1, 0, -1))
        for ours, theirs in zip(drawn, BalancedPositiveNegativeSampler(20, 0.5)([labels]), strict=True):
            assert torch.equal(ours.sort()[0], theirs[0].nonzero().flatten())


def test_matches_without_truths_and_without_overlap() -> None:
    assert match(torch.zeros(0, 3), 0.7, 0.3, True).tolist() == [-1, -1, -1]
    assert match(torch.tensor([[0.0, 0.0], [0.2, 0.1]]), 0.7, 0.3, True).tolist() == [1, -1]
    assert claim_best(torch.tensor([0, -1]), torch.tensor([[0.6, 0.0], [0.5, 0.1]])).tolist() == [1, -1]


def test_assignment_costs_as_little_as_the_best_of_all_that_there_are() -> None:
    for number in range(60):
        torch.manual_seed(number)
        rows, columns = 1 + number % 5, 1 + number % 4
        cost = torch.randn(rows, columns, dtype=torch.float64)
        cost = cost.round() if number % 3 == 0 else cost  # ties
        wide = cost if rows <= columns else cost.T
        best = min(
            sum(float(wide[i, j]) for i, j in enumerate(chosen))
            for chosen in itertools.permutations(range(wide.shape[1]), len(wide))
        )
        found = assign(cost)
        assert all(len(part) == len(part.unique()) == len(wide) for part in found)
        assert float(cost[found].sum()) == pytest.approx(best, abs=1e-12)


def test_assignment_is_the_cheapest_and_survives_what_is_not_finite() -> None:
    rows, columns = assign(torch.tensor([[1.0, math.nan], [math.inf, 2], [0, -math.inf]]))
    assert (rows.tolist(), columns.tolist()) == ([0, 2], [0, 1])
    assert [len(part) for part in assign(torch.zeros(0, 3))] == [0, 0]
    assert len(assign(torch.full((2, 2), math.nan))[0]) == 2
