"""Explanations of detected objects: what is found, of which object, and that its map lies on it."""

from typing import Any

import pytest
import torch
from torch import Tensor

import foveal
from foveal.explain import occlusion as module
from foveal.explain.occlusion import occlusion
from foveal.nn.norm import FrozenBatchNorm
from foveal.ops.boxes import clip, iou
from foveal.progress import Silent
from foveal.structures import Objects
from tests.parity.compare import randomise, relative_error
from tests.toys import Detector, Looker

METHODS = ("gradcam", "occlusion", "saliency")


RED, GREEN = (4, 8, 12, 16), (20, 16, 28, 24)


def image(height: int = 32, width: int = 32) -> Tensor:
    """A green square, and a red one that is darker."""
    pixels = torch.zeros(3, height, width)
    for box, channel, level in ((RED, 0, 0.8), (GREEN, 1, 1.0)):
        x1, y1, x2, y2 = box
        pixels[channel, y1:y2, x1:x2] = level
    return pixels


def inside(heat: Tensor, box: tuple[int, ...], margin: int = 0) -> float:
    x1, y1, x2, y2 = box
    part = heat[max(0, y1 - margin) : y2 + margin, max(0, x1 - margin) : x2 + margin]
    return float(part.sum() / heat.sum())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("words", "name", "box"),
    [
        ({}, "green", GREEN),
        ({"object": 1}, "green", GREEN),
        ({"object": 2}, "red", RED),
        ({"target": "red"}, "red", RED),
        ({"target": "red", "object": 1}, "red", RED),
    ],
)
def test_the_map_lies_on_the_object(method: str, words: dict[str, Any], name: str, box: tuple[int, ...]) -> None:
    system = Looker()
    found = foveal.explain(system, image(), method, **words)
    prediction: Any = system.predict([image()])[0]
    row = 1 if name == "red" else 0
    assert found.target == name == system.labels[int(prediction.labels[row])]
    assert found.box is not None
    assert found.box.tolist() == pytest.approx(list(box))
    assert found.probability == float(prediction.scores[row])
    assert found.score == pytest.approx(found.probability, rel=1e-5)
    assert inside(found.heat, box, 3) > 0.9  # of the image, that is a fifth
    assert inside(found.heat, box) > 0.4
    curves = found.curves(steps=8, randoms=3)
    assert float(curves.deletion[0]) == pytest.approx(found.probability, rel=1e-5)
    assert float(curves.insertion[-1]) == pytest.approx(found.probability, rel=1e-5)
    assert curves.figures()["better_than_random"] > 0.1


@pytest.mark.parametrize("rule", ["fit", "bound", "squash"])
def test_box_and_map_are_on_the_image_itself(rule: Any) -> None:
    whole, box = torch.zeros(3, 32, 64), (32, 8, 48, 24)  # prepared at half its size, or narrower
    whole[0, 8:24, 32:48] = 1
    found = foveal.explain(Looker(rule), whole, "saliency")
    assert found.box is not None
    if rule == "squash":  # the square is half as wide there, and its box as wide again
        assert inside(found.heat, box, 8) > 0.9
        return
    assert found.box.tolist() == pytest.approx(list(box))
    assert found.heat.shape == (32, 64)
    assert inside(found.heat, box, 2) > 0.9


@pytest.mark.parametrize(
    ("pixels", "words", "told"),
    [
        (torch.zeros(3, 32, 32), {}, "Looker finds nothing in this image: there is no object to explain"),
        (
            image() * torch.tensor([0, 1, 0])[:, None, None],
            {"target": "red"},
            "finds no 'red' in this image, but green",
        ),
        (image(), {"target": "rad"}, "unknown class 'rad'; did you mean red"),
        (image(), {"object": 3}, "object is from 1 to 2, the objects found in this image, not 3"),
        (image(), {"object": 0}, "object is from 1 to 2"),
        (image(), {"target": "red", "object": 2}, "object is from 1 to 1"),
    ],
)
def test_what_is_not_there(pixels: Tensor, words: dict[str, Any], told: str) -> None:
    with pytest.raises(foveal.InputError, match=told):
        foveal.explain(Looker(), pixels, **words)


def test_a_classifier_has_no_objects() -> None:
    with pytest.raises(foveal.InputError, match="object has no effect: lenet names a class for the whole image"):
        foveal.explain(foveal.create("lenet"), torch.rand(3, 32, 32), object=1)


def test_occlusion_of_an_object_is_the_loop() -> None:
    # A network whose maps change in a rectangle only, so that the quick way through it is taken.
    system: Any = randomise(Detector()).double()
    draw = torch.Generator().manual_seed(0)
    pixels = torch.rand(1, 3, 24, 24, dtype=torch.float64, generator=draw)
    target = Objects(torch.tensor([[6.0, 6.0, 15.0, 14.0]]), torch.tensor([0]))
    score, drops = system.score(pixels, target), torch.zeros(24, 24, dtype=torch.float64)
    covered = torch.zeros(24, 24, dtype=torch.float64)
    for y in range(0, 24, 4):
        for x in range(0, 24, 4):
            hidden = pixels.clone()
            hidden[:, :, y : y + 4, x : x + 4] = 0
            drops[y : y + 4, x : x + 4] += (score - system.score(hidden, target)).item()
            covered[y : y + 4, x : x + 4] += 1
    assert drops.abs().max() > 0
    assert relative_error(occlusion(system, pixels, target, 4, 4)[0], drops / covered) < 1e-9


@pytest.mark.parametrize("name", [name for name in foveal.names("detect") if name.endswith("_nano")])
def test_every_detector(name: str) -> None:
    torch.manual_seed(0)
    system = foveal.create(name, score_threshold=0.0)
    height, width = system.preprocess.size
    pixels = torch.rand(3, height + 9, width - 14, generator=torch.Generator().manual_seed(0))
    first: Any = system.predict([pixels])[0]
    methods = list(METHODS)
    try:
        assert system.explained_layer
    except foveal.InputError:  # what sees crops has no map of the image
        with pytest.raises(foveal.InputError, match="occlusion and saliency look at no layer"):
            foveal.explain(system, pixels, "gradcam")
        methods.remove("gradcam")
    for method in methods:
        settings: dict[str, Any] = {"window": height // 2, "stride": height // 2} if method == "occlusion" else {}
        found = foveal.explain(system, pixels, method, object=2, **settings)
        assert found.target == system.labels[int(first.labels[1])]
        assert found.probability == pytest.approx(float(first.scores[1]), rel=1e-4)
        assert found.score == pytest.approx(found.probability, rel=0.05)  # but for what the padding cuts off
        assert found.heat.shape == pixels.shape[1:]
        assert float(found.heat.max()) == pytest.approx(1, rel=1e-4) or not (found.map > 0).any()
        assert found.map.abs().max() > 0


def test_an_object_at_the_border_has_its_whole_score() -> None:
    class Beyond(Looker):
        def candidates(self, outputs: Tensor) -> list[Any]:
            return [type(c)(c.boxes - 3, c.scores) for c in super().candidates(outputs)]

    pixels = torch.zeros(3, 32, 32)
    pixels[0, :8, :8] = 1
    found = foveal.explain(Beyond(), pixels, "saliency")
    assert found.box is not None
    assert found.box.tolist() == [0, 0, 5, 5]
    assert found.score == pytest.approx(found.probability, rel=1e-5)


REGIONS = ("faster_rcnn_nano", "fast_rcnn_nano", "rcnn_nano", "sliding_window_nano")


def largest(system: Any, pixels: Tensor, target: Objects) -> float:
    """IoU times probability, the largest of all candidates that the system has in an image (1, 3, H, W)."""
    found, index = system.candidates(system(pixels))[0], int(target.labels[0])
    boxes = clip(found.boxes[:, index if found.boxes.shape[1] > 1 else 0], pixels.shape[2:])
    return float((iou(boxes, target.boxes)[:, 0] * found.scores[:, index]).max())


@pytest.mark.parametrize("name", REGIONS)
@torch.no_grad()
def test_the_score_of_an_object_reads_the_regions_near_it_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    system: Any = foveal.create(name, score_threshold=0.0).eval()
    pixels = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    found: Any = system.predict([pixels[0]])[0]
    targets = [found[number] for number in (0, len(found) // 2, len(found) - 1)]
    expected = [largest(system, pixels, target) for target in targets]
    look, counts = system.look, []

    def counted(maps: Any, boxes: Any) -> Any:
        counts.append(sum(map(len, boxes)))
        return look(maps, boxes)

    monkeypatch.setattr(system, "look", counted)
    system(pixels)
    assert [float(system.score(pixels, target)) for target in targets] == pytest.approx(expected, rel=1e-4)
    everything, *near = counts
    assert 0 < sum(near) < 0.7 * len(near) * everything


@torch.no_grad()
def test_an_object_that_no_region_is_near_scores_zero_with_a_gradient() -> None:
    system: Any = foveal.create("faster_rcnn_nano").eval()
    nowhere = Objects(torch.tensor([[200.0, 200.0, 210.0, 210.0]]), torch.tensor([0]))
    with torch.enable_grad():
        score = system.score(torch.rand(2, 3, 96, 96), nowhere)
    assert score.tolist() == [0, 0]
    assert score.requires_grad


def test_the_work_for_an_object_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    system, passes = Looker(), list[int]()
    score = Looker.score

    def counted(self: Any, images: Tensor, target: Any) -> Tensor:
        passes.append(len(images))
        return score(self, images, target)

    monkeypatch.setattr(Looker, "score", counted)
    monkeypatch.setattr(module, "OBJECT_PIXELS", 4 * 32 * 32)
    found = foveal.explain(system, image())
    assert sum(passes) <= 2 + 17**2  # the image twice, and windows of 5 pixels, 2 apart
    assert max(passes) == 4
    passes.clear()
    found.curves()
    assert sum(passes) == 2 * 5 * 3 + 3  # inner steps of deletion and insertion for three maps, and three ends


def test_batch_norms_are_folded_for_many_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    system: Any = foveal.create("faster_rcnn_nano", score_threshold=0.0, frozen_norm=True)
    pixels, runs = torch.rand(3, 96, 96, generator=torch.Generator().manual_seed(0)), list[int]()
    forward = FrozenBatchNorm.forward

    def counted(self: Any, x: Tensor) -> Tensor:
        runs.append(len(x))
        return forward(self, x)

    monkeypatch.setattr(FrozenBatchNorm, "forward", counted)
    found = foveal.explain(system, pixels, "saliency")
    runs.clear()
    once = system.predict([pixels]) and len(runs)
    runs.clear()
    found.curves(steps=2, randoms=1)
    assert 0 < len(runs) == once  # by the pass that shows what can be folded


@pytest.mark.parametrize(
    ("level", "method", "told"),
    [
        (0.0, "occlusion", "the score of 'red' is 0, so there is no evidence to take away"),
        (0.5, "occlusion", "the map is empty: no window changes the score of 'red', 0.5"),
        (0.5, "saliency", "the map is empty: the gradient is zero: no pixel changes the score of 'red', 0.5"),
    ],
)
def test_an_empty_map_says_why(level: float, method: str, told: str) -> None:
    class Certain(Looker):
        def score(self, images: Tensor, target: Any) -> Tensor:
            return level + 0 * images.sum((1, 2, 3))

    found = foveal.explain(Certain(), image(), method, "red")
    assert found.empty is not None
    assert told in found.empty
    assert not found.heat.any()


def test_a_map_without_evidence_and_a_flat_one_say_so() -> None:
    class Harmed(Looker):
        def score(self, images: Tensor, target: Any) -> Tensor:
            return 2 - images.mean((1, 2, 3))

    bright = 0.9 * image() + 0.1
    against = foveal.explain(Harmed(), bright, baseline=(0.0, 0.0, 0.0)).empty
    assert against == "the map shows no evidence for 'green': all of its values are negative or zero"
    flat = foveal.explain(Harmed(), bright, "saliency").empty
    assert flat is not None
    assert "the map shows no place: it has the same value everywhere" in flat
    assert foveal.explain(Looker(), image()).empty is None


def test_progress_counts_windows_and_steps() -> None:
    seen: list[Any] = []

    class Steps(Silent):
        def stage(self, title: str, total: float | None = None) -> None:
            seen.append((title, total))

        def advance(self, steps: float = 1) -> None:
            seen.append(steps)

    found = foveal.explain(Looker(), image(), bar=Steps(), window=8, stride=8)
    assert seen == [("windows", 17), 17]
    seen.clear()
    found.curves(steps=2, randoms=1, bar=Steps())
    assert seen == [("deletion and insertion", 7), 7]
    with pytest.raises(foveal.InputError, match="occlusion has no setting 'barred'"):
        foveal.explain(Looker(), image(), barred=1)
