import pickle

import numpy as np
import pytest
import torch

from foveal.data.builtin import digits
from foveal.data.check import check
from foveal.data.dataset import Dataset
from foveal.data.scenes import COUNTS, INKS, LABELS, MIN_VISIBLE, OBJECTS, TEXTURES, WORDS, Scenes, _Painter
from foveal.data.sources import load_dataset
from foveal.errors import InputError


@pytest.fixture(scope="module")
def scenes() -> Dataset:
    return load_dataset("scenes")


def other(scenes: Dataset, task: str) -> Scenes:
    """The same scenes as targets of another task, without painting them again."""
    targets = scenes.targets
    assert isinstance(targets, Scenes)
    arrays = (targets.ends, targets.owners, targets.boxes, targets.labels, targets.inks, targets.points, targets.stuff)
    return Scenes(task, *arrays)


def test_what_is_there(scenes: Dataset) -> None:
    assert (scenes.task, scenes.labels, scenes.in_memory) == ("detect", OBJECTS, True)
    assert (scenes.upright, scenes.mirrored) == (False, (0, 2, 1))
    assert scenes.split_counts() == COUNTS
    assert scenes.image(0).shape == (3, 96, 96)
    assert scenes.image(0).dtype == torch.uint8
    contents = {scenes.content(index) for index in range(len(scenes))}
    assert len(contents) == len(scenes)
    counts = np.bincount([len(scenes.target(index)) for index in range(len(scenes))])
    assert counts[0] == 0
    assert len(counts) == 5
    assert counts[1:].min() > 200
    for split in COUNTS:
        view = scenes.select(split)
        labels = torch.cat([view.target(index).labels for index in range(len(view))])
        assert labels.bincount(minlength=len(OBJECTS)).min() > 0.08 * len(labels)


def test_objects_are_counted_in_each_split(scenes: Dataset) -> None:
    for split in COUNTS:
        view = scenes.select(split)
        labels = [scenes.labels[i] for index in range(len(view)) for i in view.target(index).labels.tolist()]
        assert view.class_counts() == {label: labels.count(label) for label in scenes.labels}
    assert check(scenes).faults == 0


def test_boxes_masks_and_keypoints_say_the_same(scenes: Dataset) -> None:
    hidden = cut = 0
    for index in range(0, len(scenes), 5):
        target = scenes.target(index)
        assert target.masks.dtype == torch.bool
        assert not (target.masks.sum(0) > 1).any()  # only what is seen
        for box, mask, points in zip(target.boxes, target.masks, target.keypoints, strict=True):
            rows, columns = mask.nonzero().unbind(1)
            assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert mask.sum() > 30
            top, left, right = points[:, :2]
            assert top[1] < (left[1] + right[1]) / 2 + 1e-3
            assert left[0] < right[0]
            inside = ((points[:, :2] >= 0) & (points[:, :2] < 96)).all(1)
            assert (inside == (points[:, 2] > 0)).all()
            hidden += int((points[:, 2] == 1).sum())
            cut += int((~inside).sum())
    assert hidden > 0
    assert cut > 0


def test_no_object_is_hidden_or_invisible(scenes: Dataset) -> None:
    painter, rng = _Painter(digits()), np.random.default_rng(3)
    for label in range(len(OBJECTS)):
        for _ in range(20):
            part, depth, _, area = painter.place(label, "train", rng)
            rows, columns = part
            assert depth.shape == (rows.stop - rows.start, columns.stop - columns.start)
            assert (depth > 0).sum() <= area
            # What is looked at ends within the image only where the object has ended.
            borders = {"top": (rows.start, 0, depth[0]), "bottom": (rows.stop, 96, depth[-1])}
            borders |= {"left": (columns.start, 0, depth[:, 0]), "right": (columns.stop, 96, depth[:, -1])}
            for at, end, line in borders.values():
                assert at == end or (line <= 0).all()
    for index in range(0, len(scenes), 7):
        image, target = scenes[index]
        for mask in target.masks:
            # Ink and border differ from each other, so an object never is one even colour on its own kind.
            assert image[:, mask].float().std(1).max() > 10


def test_what_others_leave_of_an_object() -> None:
    painter = _Painter(digits())
    areas: list[list[int]] = []
    place = painter.place

    def spy(*words: object) -> object:
        found = place(*words)  # type: ignore[arg-type]
        areas[-1].append(found[3])
        return found

    painter.place = spy  # type: ignore[method-assign,assignment]
    overlapping = 0
    for seed in range(60):
        areas.append([])
        scene = painter.paint("train", np.random.default_rng(seed))
        if len(areas[-1]) != len(scene.labels):  # some were placed again, so that areas do not go by number
            continue
        for k, area in enumerate(areas[-1]):
            seen = (scene.owner == k + 1).sum()
            assert seen >= MIN_VISIBLE * area
            overlapping += seen < area
    assert overlapping > 10


def test_splits_share_no_digit_and_no_place() -> None:
    painter = _Painter(digits())
    for label in range(4):
        originals = [set(painter.originals[split][label].tolist()) for split in COUNTS]
        assert all(originals)
        assert len(set.union(*originals)) == sum(map(len, originals))
    # Photographs whose columns are numbers: what a ground shows says where it was cut out.
    ramp = (torch.arange(640) * 255 // 639).to(torch.uint8).expand(3, 427, 640)
    painter.photographs = [ramp, ramp]
    shown: dict[str, list[tuple[int, int]]] = {split: [] for split in COUNTS}

    class Plain:
        """The draws of a generator, but contrast and brightness stay."""

        def __init__(self, seed: int) -> None:
            self.rng = np.random.default_rng(seed)
            self.integers, self.random = self.rng.integers, self.rng.random

        def uniform(self, *_: float) -> float:
            return 1.0

    for split in COUNTS:
        for seed in range(60):
            pixels = painter.ground(0, split, Plain(seed))  # type: ignore[arg-type]
            shown[split].append((pixels.min(), pixels.max()))
    ranges = [(min(low for low, _ in shown[split]), max(high for _, high in shown[split])) for split in COUNTS]
    assert ranges[0][1] <= ranges[1][0] + 1
    assert ranges[1][1] <= ranges[2][0] + 1


def test_semantic_maps(scenes: Dataset) -> None:
    maps = other(scenes, "segment")
    names = LABELS["segment"]
    assert names == OBJECTS + TEXTURES
    stuff = set()
    for index in range(0, len(scenes), 11):
        classes, target = maps[index].classes, scenes.target(index)
        assert classes.dtype == torch.int64
        for label, mask in zip(target.labels, target.masks, strict=True):
            assert (classes[mask] == label).all()
        rest = classes[~target.masks.any(0)].unique().tolist()
        assert len(rest) == 1
        stuff.add(names[rest[0]])
    assert stuff == set(TEXTURES)


def test_captions_name_the_two_largest_objects(scenes: Dataset) -> None:
    captions, said = other(scenes, "caption"), set()
    for index in range(0, len(scenes), 3):
        words, target = [WORDS[token] for token in captions[index].tokens.tolist()], scenes.target(index)
        said.update(words)
        names = [OBJECTS[label] for label in target.labels]
        sides = target.boxes[:, 2:] - target.boxes[:, :2]
        order = sides.prod(1).argsort(descending=True, stable=True).tolist()
        assert [word for word in words if word in OBJECTS] == [names[k] for k in order[:2]]
        assert len([word for word in words if word in INKS]) == min(2, len(target))
        if len(target) > 1:
            x, y = ((target.boxes[k, :2] + target.boxes[k, 2:]) / 2 for k in order[:2])
            away = dict(
                zip(
                    ("left", "right", "above", "below"),
                    (y[0] - x[0], x[0] - y[0], y[1] - x[1], x[1] - y[1]),
                    strict=True,
                )
            )
            between = next(word for word in words if word in away)
            assert away[between] == max(away.values())
    assert said == set(WORDS)


def test_a_seed_makes_the_same_scene_again(scenes: Dataset) -> None:
    painter = _Painter(digits())
    for index in (1, 700, 1400):
        split = ("train", "val", "test")[scenes.splits[index]]
        scene = painter.paint(split, np.random.default_rng([0, index]))
        assert torch.from_numpy(scene.image).permute(2, 0, 1).equal(scenes.image(index))
        assert scene.labels.tolist() == scenes.target(index).labels.tolist()


def test_scenes_travel_to_workers(scenes: Dataset) -> None:
    again = pickle.loads(pickle.dumps(scenes.targets))[3]
    assert again.boxes.equal(scenes.target(3).boxes)
    assert again.masks.equal(scenes.target(3).masks)


def test_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"^scenes is data to detect, segment, caption, not to classify$"):
        load_dataset("scenes", task="classify")
    monkeypatch.setattr("foveal.data.scenes.COUNTS", {"train": 3, "val": 2, "test": 2})
    for task, labels in LABELS.items():
        dataset = load_dataset("scenes", task=task)
        assert (dataset.task, dataset.labels, dataset.upright) == (task, labels, task == "caption")
        assert len(dataset) == 7
