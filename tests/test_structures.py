import pickle
from dataclasses import replace
from typing import Any

import pytest
import torch

from foveal.errors import InputError
from foveal.structures import Batch, Caption, Label, Objects, SemanticMap, to_float


def boxes(*rows: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float32).view(-1, 4)


def test_objects_are_indexed_together() -> None:
    objects = Objects(boxes((0, 0, 4, 4), (1, 1, 3, 3), (5, 5, 9, 9)), torch.tensor([2, 0, 1]), torch.rand(3))
    picked = objects[torch.tensor([True, False, True])]
    assert len(picked) == 2
    assert picked.labels.tolist() == [2, 1]
    assert torch.equal(picked.scores, objects.scores[[0, 2]])
    assert picked.masks is None
    assert len(objects[1]) == len(objects[-1]) == 1
    assert objects[-1].labels.tolist() == [1]


def test_warp_moves_boxes_masks_and_keypoints_alike() -> None:
    mask = torch.zeros(2, 20, 30, dtype=torch.bool)
    mask[0, 4:9, 6:16] = True
    mask[1, 0:3, 0:2] = True
    points = torch.tensor([[[7.0, 5, 1]], [[1.0, 1, 1]]])
    objects = Objects(boxes((6, 4, 16, 9), (0, 0, 2, 3)), torch.tensor([0, 1]), masks=mask, keypoints=points)
    # Twice the size, moved left and up: the second object leaves the image.
    moved = objects.warp(torch.tensor([[2.0, 0, -8], [0, 2, -7]]), (24, 40))
    assert moved.boxes.tolist() == [[4, 1, 24, 11]]
    assert moved.keypoints.tolist() == [[[6, 3, 1]]]
    rows, columns = moved.masks[0].nonzero().T
    assert [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] == moved.boxes[0].tolist()


def test_warp_of_a_semantic_map_takes_the_nearest_pixel() -> None:
    classes = torch.randint(-1, 5, (7, 9), generator=torch.Generator().manual_seed(0))
    affine = torch.tensor([[1.7, 0.3, -2], [-0.2, 0.8, 1.5]], dtype=torch.float64)
    moved = SemanticMap(classes).warp(affine, (8, 11)).classes
    assert moved.dtype == torch.int64
    back = torch.linalg.inv(torch.cat([affine, torch.tensor([[0.0, 0, 1]], dtype=torch.float64)]))
    for row in range(8):
        for column in range(11):
            x, y, _ = (back @ torch.tensor([column + 0.5, row + 0.5, 1], dtype=torch.float64)).tolist()
            inside = 0 <= x < 9 and 0 <= y < 7
            assert moved[row, column] == (classes[int(y), int(x)] if inside else -1)
    assert (moved == -1).any()
    flipped = SemanticMap(classes).warp(torch.tensor([[-1.0, 0, 9], [0, 1, 0]]), (7, 9))
    assert flipped.classes.equal(classes.flip(1))


def test_relabel() -> None:
    mapping = torch.tensor([2, 0, 1])
    assert int(Label(torch.tensor(1)).relabel(mapping).label) == 0
    assert Objects(boxes((0, 0, 1, 1)), torch.tensor([2])).relabel(mapping).labels.tolist() == [1]
    assert SemanticMap(torch.tensor([[0, -1], [2, 1]])).relabel(mapping).classes.tolist() == [[2, -1], [1, 0]]
    assert Caption(torch.tensor([0, 1, 2, 0])).relabel(mapping).tokens.tolist() == [2, 0, 1, 2]


def test_top_names_the_most_probable() -> None:
    label = Label(torch.tensor(1), torch.tensor([0.2, 0.7, 0.1]))
    assert [name for name, _ in label.top(("a", "b", "c"), 2)] == ["b", "a"]
    assert Label(torch.tensor(2)).top(("a", "b", "c")) == [("c", 1.0)]


def test_batch_travels_whole() -> None:
    targets = (
        Objects(boxes(), torch.zeros(0, dtype=torch.int64), masks=torch.zeros(0, 4, 4, dtype=torch.bool)),
        Objects(boxes((0, 0, 2, 2), (1, 1, 3, 4)), torch.tensor([1, 0]), masks=torch.rand(2, 4, 4) > 0.5),
    )
    images = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    batch = Batch(images, targets, torch.tensor([4, 7]), torch.rand(2, 2, 3), torch.tensor([[9, 9], [8, 7]]))
    for copy in (pickle.loads(pickle.dumps(batch)), batch.to("cpu")):
        assert torch.equal(copy.images, images)
        assert torch.equal(copy.indices, batch.indices)
        for one, two in zip(copy.targets, targets, strict=True):
            for (name, a), (_, b) in zip(one.tensors(), two.tensors(), strict=True):
                assert (a is None) == (b is None), name
                assert a is None or (torch.equal(a, b) and a.dtype == b.dtype and a.shape == b.shape), name
    assert pickle.loads(pickle.dumps(Batch(images, (), *[torch.zeros(2)] * 3))).targets == ()


def test_pixels_become_shares() -> None:
    assert to_float(torch.tensor([0, 51, 255], dtype=torch.uint8)).tolist() == [0, torch.tensor(0.2).item(), 1]


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"targets": (Label(torch.tensor(1)),)}, "a batch of 2 images has 1 targets"),
        ({"targets": (Label(torch.tensor(1)), None)}, "image 8 of the data has no target"),
    ],
)
def test_a_batch_is_of_as_many_targets_as_images(changes: dict[str, Any], error: str) -> None:
    whole = Batch(
        torch.rand(2, 3, 4, 4), (), torch.tensor([7, 8]), torch.eye(2, 3).repeat(2, 1, 1), torch.full((2, 2), 4)
    )
    with pytest.raises(InputError, match=error):
        replace(whole, **changes)
