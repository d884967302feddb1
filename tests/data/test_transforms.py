import copy
import math
import pickle
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import pad

from foveal.data import color, transforms
from foveal.data.mixing import ClassWeights, CutMix, LabelSmoothing, MixUp, Mosaic
from foveal.data.transforms import (
    ColorJitter,
    Cutout,
    External,
    Fit,
    HorizontalFlip,
    ObjectCrop,
    Pipeline,
    RandomResizedCrop,
    Resize,
    Sample,
    ScaleJitter,
    Shift,
    TrivialAugment,
)
from foveal.errors import InputError
from foveal.structures import Batch, Caption, Label, Objects
from foveal.system import Preprocess

try:
    import torchvision.transforms.v2 as tv
    import torchvision.transforms.v2.functional as oracle
except (ImportError, RuntimeError):  # RuntimeError: a torchvision that was built for another torch
    tv = oracle = None
needs_torchvision = pytest.mark.skipif(oracle is None, reason="needs torchvision")

HEIGHT, WIDTH = 41, 56


def noise(height=HEIGHT, width=WIDTH, seed=0):
    return torch.randint(0, 256, (3, height, width), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def smooth(height=HEIGHT, width=WIDTH):
    y, x = torch.meshgrid(torch.linspace(0, 3, height), torch.linspace(0, 4, width), indexing="ij")
    return (127 + 100 * torch.stack([torch.sin(x + y), torch.cos(x * y / 2), torch.sin(2 * x - y)])).to(torch.uint8)


IMAGES = {
    "noise": noise(),
    "smooth": smooth(),
    "grey": noise()[:1].expand(3, -1, -1),
    "constant": torch.full((3, HEIGHT, WIDTH), 77, dtype=torch.uint8),
    "dark": noise() // 9 + 5,
    "two levels": (noise() > 200).to(torch.uint8) * 255,
}


def objects(boxes, height=HEIGHT, width=WIDTH):
    """Objects of which box, mask and keypoints (centres of pixels in the corners and the middle) say the same."""
    masks = torch.zeros(len(boxes), height, width, dtype=torch.bool)
    points = torch.zeros(len(boxes), 3, 3)
    for i, (x1, y1, x2, y2) in enumerate(boxes):
        masks[i, y1:y2, x1:x2] = True
        points[i] = torch.tensor([[x1 + 0.5, y1 + 0.5, 2], [(x1 + x2) / 2, (y1 + y2) / 2, 2], [x2 - 0.5, y2 - 0.5, 2]])
    boxes = torch.tensor(boxes, dtype=torch.float32).view(-1, 4)
    return Objects(boxes, torch.arange(len(boxes)), masks=masks, keypoints=points)


BOXES = [(3, 4, 20, 30), (30, 10, 55, 40), (0, 0, 56, 41), (25, 20, 26, 21), (10, 33, 48, 38)]


def boxes_of(masks):
    """Box of each mask, pixel by pixel."""
    rows = []
    for mask in masks:
        y, x = mask.nonzero().unbind(1)
        rows.append([x.min(), y.min(), x.max() + 1, y.max() + 1])
    return torch.tensor(rows, dtype=torch.float32).view(-1, 4)


def sample(image=None, target=None, index=0):
    return Sample.original(noise() if image is None else image, target, index)


def rng(seed=0):
    return np.random.default_rng(seed)


def close(actual, expected, atol):
    assert actual.dtype == torch.uint8
    assert actual.shape == expected.shape
    difference = (actual.int() - expected.int()).abs().max()
    assert difference <= atol, difference


# Colours. torchvision drops the fraction where foveal rounds, hence one level of difference.


@needs_torchvision
@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("factor", [0.0, 0.3, 1.0, 1.7])
@pytest.mark.parametrize("operation", ["brightness", "contrast", "saturation", "sharpness"])
def test_blends_as_torchvision(operation, factor, name):
    actual = getattr(color, f"adjust_{operation}")(IMAGES[name], factor)
    # Its luminance is rounded down too, before it is blended.
    atol = 2 if operation in ("contrast", "saturation") else 1
    close(actual, getattr(oracle, f"adjust_{operation}")(IMAGES[name], factor), atol)
    if factor == 1:
        assert actual.equal(IMAGES[name])


@needs_torchvision
@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("turn", [-0.5, -0.21, 0.0, 0.07, 1 / 3, 0.5])
def test_hue_as_torchvision(turn, name):
    close(color.adjust_hue(IMAGES[name], turn), oracle.adjust_hue(IMAGES[name], turn), atol=1)


def test_a_third_of_a_turn_moves_the_channels_round():
    assert color.adjust_hue(noise(), 1 / 3).equal(noise().roll(1, 0))
    assert color.adjust_hue(noise(), -1 / 3).equal(noise().roll(-1, 0))


@needs_torchvision
@pytest.mark.parametrize("name", IMAGES)
def test_histogram_operations_as_torchvision(name):
    image = IMAGES[name]
    for bits in range(1, 9):
        assert color.posterize(image, bits).equal(oracle.posterize(image, bits))
    for threshold in (0.0, 1.0, 100.5, 255.0):
        assert color.solarize(image, threshold).equal(oracle.solarize(image, threshold))
    assert color.solarize(image, 256.0).equal(image)
    assert color.equalize(image).equal(oracle.equalize(image))
    close(color.autocontrast(image), oracle.autocontrast(image), atol=1)


def test_autocontrast_spans_the_range():
    stretched = color.autocontrast(IMAGES["dark"])
    assert stretched.amin((1, 2)).tolist() == [0] * 3
    assert stretched.amax((1, 2)).tolist() == [255] * 3


def test_sharpness_of_images_without_an_inside():
    assert color.adjust_sharpness(noise(2, 9), 0.0).equal(noise(2, 9))


def test_colour_jitter_draws_within_its_amounts(monkeypatch):
    drawn, order = {"brightness": [], "contrast": [], "saturation": [], "hue": []}, []

    def spy(name):
        def adjust(image, amount):
            drawn[name].append(amount)
            order.append(name)
            return image

        return adjust

    for name in drawn:
        monkeypatch.setattr(transforms, f"adjust_{name}", spy(name))
    generator = rng()
    for _ in range(400):
        ColorJitter(0.4, 1.5, 0.2, 0.1)(sample(), generator)
    for name, (low, high) in zip(drawn, [(0.6, 1.4), (0, 2.5), (0.8, 1.2), (-0.1, 0.1)], strict=True):
        values = np.array(drawn[name])
        assert low <= values.min() < low + 0.02 * (high - low)
        assert high >= values.max() > high - 0.02 * (high - low)
        assert abs(values.mean() - (low + high) / 2) < 0.06 * (high - low)
    assert len({tuple(order[i : i + 4]) for i in range(0, len(order), 4)}) == 24


def test_colour_jitter_of_nothing_is_nothing():
    assert ColorJitter()(sample(), rng()).image.equal(noise())
    assert not ColorJitter(hue=0.3)(sample(), rng()).image.equal(noise())


# Places.


@needs_torchvision
@pytest.mark.parametrize("name", ["noise", "smooth"])
def test_warp_as_torchvision(name):
    image = IMAGES[name]
    bilinear = tv.InterpolationMode.BILINEAR
    still = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0], "interpolation": bilinear}

    def compare(affine, **change):
        close(transforms.warp_image(image, affine), oracle.affine(image, **(still | change)), atol=1)

    for degrees in (-135.0, -30.0, 7.0, 90.0):
        compare(transforms.rotation(math.radians(degrees), HEIGHT, WIDTH), angle=degrees)
    for amount in (-0.99, 0.4):
        degrees = math.degrees(math.atan(amount))
        # Its shear has the other sign, as its matrix goes from new positions to old ones.
        compare(transforms.matrix(1, -amount, 0, 0, 1, 0), shear=[degrees, 0.0], center=[0, 0])
        compare(transforms.matrix(1, 0, 0, -amount, 1, 0), shear=[0.0, degrees], center=[0, 0])
    compare(transforms.matrix(1, 0, -9, 0, 1, 20), translate=[-9, 20])


def test_warps_in_whole_pixels_are_exact():
    image = noise()
    assert transforms.warp_image(image, transforms.matrix(-1, 0, WIDTH, 0, 1, 0)).equal(image.flip(2))
    assert transforms.warp_image(image, transforms.matrix(1, 0, 5, 0, 1, -3)).equal(pad(image, (5, -5, -3, 3)))
    square = noise(31, 31)
    assert transforms.warp_image(square, transforms.rotation(math.pi / 2, 31, 31)).equal(square.rot90(-1, (1, 2)))


def test_compose_applies_the_first_map_first():
    points = torch.rand(7, 2, dtype=torch.float64)
    first, second = (torch.rand(2, 3, dtype=torch.float64) for _ in range(2))
    moved = points @ first[:, :2].T + first[:, 2]
    moved = moved @ second[:, :2].T + second[:, 2]
    both = transforms.compose(second, first)
    assert (points @ both[:, :2].T + both[:, 2] - moved).abs().max() < 1e-14


def blob(x, y, height, width):
    """An image with one soft spot at (x, y)."""
    rows, columns = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    spot = 255 * torch.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 5.0**2))
    return spot.to(torch.uint8).expand(3, -1, -1).contiguous()


def centre_of(image):
    weight = image[0].double()
    rows, columns = torch.meshgrid(*(torch.arange(side) + 0.5 for side in image.shape[1:]), indexing="ij")
    return torch.stack([(weight * columns).sum(), (weight * rows).sum()]) / weight.sum()


MOVES = {
    "resize": Resize((150, 81)),
    "squash": Fit(Preprocess(size=(70, 60), resize="squash")),
    "fit": Fit(Preprocess(size=(70, 90), resize="fit", mean=(0.0,) * 3)),
    "crop": Fit(Preprocess(size=(100, 84), resize="crop", crop=0.9)),
    "random crop": RandomResizedCrop((64, 80), scale=(0.6, 0.9)),
    "shift": Shift(0.15),
    "scale jitter": ScaleJitter((130, 170), (0.6, 1.4)),
    "object crop": ObjectCrop(),
    "flip": HorizontalFlip(1.0),
    "trivial": TrivialAugment(),
}


@pytest.mark.parametrize("name", MOVES)
def test_what_is_seen_at_a_point_moves_with_it(name):
    height, width = 120, 160
    image = blob(76, 57, height, width)
    points = Objects(
        torch.tensor([[70.0, 50, 82, 64]]), torch.zeros(1).long(), keypoints=torch.tensor([[[76.0, 57, 2]]])
    )
    checked = 0
    for seed in range({"trivial": 40, "object crop": 60}.get(name, 5)):
        start = sample(image, points)
        end = MOVES[name](start, rng(seed))
        place = end.affine[:, :2] @ torch.tensor([76.0, 57], dtype=torch.float64) + end.affine[:, 2]
        room = min(place[0], place[1], end.image.shape[2] - place[0], end.image.shape[1] - place[1])
        assert end.size == (height, width)
        if room < 20 or (end.affine.equal(start.affine)):  # cut off at the border, or a matter of colours
            continue
        checked += 1
        assert (centre_of(end.image) - place).abs().max() < 0.6
        assert (end.target.keypoints[0, 0, :2] - place).abs().max() < 1e-4
        assert end.target.keypoints[0, 0, 2] == 2
    assert checked >= (5 if name == "trivial" else 3)


@pytest.mark.parametrize(
    ("transform", "atol"),
    [
        (HorizontalFlip(1.0), 0),
        (Shift(0.4), 0),
        (RandomResizedCrop((50, 50)), 1.0),
        (Resize((97, 30)), 1.0),
        (ScaleJitter((60, 50), (0.5, 2.0)), 1.0),
        (ObjectCrop(), 0),
    ],
)
def test_the_box_of_a_mask_stays_the_box_of_that_mask(transform, atol):
    gone = 0
    for seed in range(20):
        target = transform(sample(target=objects(BOXES)), rng(seed)).target
        seen = target.masks.flatten(1).any(1)  # a sliver of a box can pass between the centres of two pixels
        assert seen.sum() >= len(seen) - 2
        gone += len(BOXES) - len(target)
        assert (boxes_of(target.masks[seen]) - target.boxes[seen]).abs().max() <= atol
    assert (gone > 0) == isinstance(transform, Shift | RandomResizedCrop | ScaleJitter | ObjectCrop)


def test_targets_without_objects_follow_too():
    target = Resize((10, 20))(sample(target=objects([])), rng()).target
    assert target.masks.shape == (0, 10, 20)
    assert Resize((10, 20))(sample(), rng()).target is None
    label = Label(torch.tensor(3))
    assert Resize((10, 20))(sample(target=label), rng()).target is label


def test_flipping_twice_is_the_identity():
    flip = HorizontalFlip(1.0)
    start = sample(target=objects(BOXES))
    once = flip(start, rng())
    twice = flip(once, rng())
    assert once.image.equal(start.image.flip(2))
    assert not once.target.boxes.equal(start.target.boxes)
    assert twice.image.equal(start.image)
    assert twice.affine.equal(start.affine)
    for (name, before), (_, after) in zip(start.target.tensors(), twice.target.tensors(), strict=True):
        assert before is after is None or before.equal(after), name


def test_a_flip_makes_left_keypoints_right_ones():
    start = sample(target=objects(BOXES))
    plain = HorizontalFlip(1.0)(start, rng()).target.keypoints
    swapped = HorizontalFlip(1.0, keypoints=(0, 2, 1))(start, rng()).target.keypoints
    assert swapped.equal(torch.stack([plain[:, 0], plain[:, 2], plain[:, 1]], 1))
    assert not swapped.equal(plain)
    assert HorizontalFlip(0.0, keypoints=(0, 2, 1))(start, rng()).target is start.target


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_flip_probability(p):
    generator = rng()
    flips = sum(not HorizontalFlip(p)(sample(), generator).image.equal(noise()) for _ in range(600))
    assert abs(flips / 600 - p) <= (0.06 if 0 < p < 1 else 0)


def test_shift_is_pad_and_crop():
    image = noise(32, 32)
    offsets, generator = set(), rng()
    for _ in range(1500):
        moved = Shift(4 / 32)(sample(image), generator)
        x, y = moved.affine[:, 2].int().tolist()
        offsets.add((x, y))
        assert moved.image.equal(pad(image, (4, 4, 4, 4))[:, 4 - y : 36 - y, 4 - x : 36 - x])
    assert offsets == {(x, y) for x in range(-4, 5) for y in range(-4, 5)}


def test_fit_is_what_the_system_does():
    for resize in ("squash", "fit", "crop"):
        preprocess = Preprocess(size=(20, 30), resize=resize)
        fitted = Fit(preprocess)(sample(), rng())
        assert fitted.image.equal(preprocess.apply(noise()))
        assert fitted.affine.equal(preprocess.affine(HEIGHT, WIDTH))
    # Also where the image has the size already: what is learned from is what `predict` sees.
    exact = noise(20, 30)
    assert Fit(Preprocess(size=(20, 30)))(sample(exact), rng()).image.equal(Preprocess(size=(20, 30)).apply(exact))


@needs_torchvision
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_random_resized_crop_as_torchvision_cuts_and_resizes(interpolation):
    generator = rng()
    for _ in range(20):
        cut = RandomResizedCrop((33, 29), interpolation=interpolation)
        copied = copy.deepcopy(generator)
        moved = cut(sample(), generator)
        top, left, height, width = cut.draw(HEIGHT, WIDTH, copied)
        expected = oracle.resized_crop(noise(), top, left, height, width, [33, 29], tv.InterpolationMode(interpolation))
        close(moved.image, expected, atol=0)
        corners = torch.tensor([[left, top, 1.0], [left + width, top + height, 1.0]], dtype=torch.float64)
        corners = corners @ moved.affine.T
        assert (corners - torch.tensor([[0.0, 0.0], [29, 33]])).abs().max() < 1e-12


@needs_torchvision
@pytest.mark.parametrize(("height", "width"), [(300, 400), (400, 150)])
def test_random_resized_crop_draws_as_torchvision(height, width):
    cut, generator = RandomResizedCrop((1, 1)), rng()
    ours = np.array([cut.draw(height, width, generator) for _ in range(3000)], float)
    torch.manual_seed(0)
    theirs = tv.RandomResizedCrop(1, antialias=True)
    image = torch.empty(3, height, width)
    theirs = [theirs.make_params([image]) for _ in range(3000)]
    theirs = np.array([[params[key] for key in ("top", "left", "height", "width")] for params in theirs], float)
    top, left, h, w = ours.T
    assert min(top.min(), left.min()) >= 0
    assert (top + h).max() <= height
    assert (left + w).max() <= width
    for mine, other in zip(features(*ours.T), features(*theirs.T), strict=True):
        error = math.hypot(mine.std(), other.std()) / math.sqrt(3000)
        assert abs(mine.mean() - other.mean()) < 4 * error
        assert abs(mine.std() / other.std() - 1) < 0.1


def test_random_resized_crop_reaches_every_border():
    generator = rng()
    cuts = [RandomResizedCrop((1, 1), scale=(0.2, 0.5)).draw(9, 8, generator) for _ in range(500)]
    assert {top for top, _, height, _ in cuts if height == 5} == set(range(5))
    assert {left for _, left, _, width in cuts if width == 5} == set(range(4))


def features(top, left, height, width):
    return top, left, height, width, height * width, np.log(width / height)


@needs_torchvision
@pytest.mark.parametrize(("height", "width"), [(10, 400), (400, 10), (1, 50), (1, 1)])
def test_random_resized_crop_falls_back_to_the_centre(height, width):
    # The whole area and more is asked for, which no part of the right shape has.
    cut = RandomResizedCrop((7, 7), scale=(0.99, 1.0))
    theirs = tv.RandomResizedCrop(7, scale=(0.99, 1.0)).make_params([torch.empty(3, height, width)])
    assert cut.draw(height, width, rng()) == tuple(theirs[key] for key in ("top", "left", "height", "width"))
    assert cut(sample(noise(height, width)), rng()).image.shape == (3, 7, 7)


def share_left(before, affine, height, width):
    """Of each box the share that stays in the new frame, box by box."""
    shares = []
    for x1, y1, x2, y2 in before.tolist():
        (a, _, c), (_, e, f) = affine.tolist()
        u1, u2, v1, v2 = a * x1 + c, a * x2 + c, e * y1 + f, e * y2 + f
        seen = max(0, min(u2, width) - max(u1, 0)) * max(0, min(v2, height) - max(v1, 0))
        shares.append(seen / ((u2 - u1) * (v2 - v1)))
    return np.array(shares)


@pytest.mark.parametrize("least", [0.2, 0.7])
def test_scale_jitter_drops_what_it_leaves_too_little_of(least):
    jitter, sizes, dropped, generator = ScaleJitter((50, 60), (0.5, 2.0), min_visible=least), [], 0, rng()
    for _ in range(200):
        start = sample(target=objects(BOXES))
        end = jitter(start, generator)
        assert end.image.shape == (3, 50, 60)
        shares = share_left(start.target.boxes, end.affine, 50, 60)
        assert end.target.labels.tolist() == [k for k, share in enumerate(shares) if share >= least]
        dropped += ((shares > 0) & (shares < least)).sum()
        sizes.append(float(end.affine[0, 0]) / min(50 / HEIGHT, 60 / WIDTH))
        # The frame is full along each side that the image covers, and the image whole where it is smaller.
        (_, _, x), (_, _, y) = end.affine.tolist()
        for at, extent, frame in ((x, WIDTH * float(end.affine[0, 0]), 60), (y, HEIGHT * float(end.affine[1, 1]), 50)):
            low, high = sorted((0, round(frame - extent)))
            assert low <= at <= high
    assert dropped > 10
    assert 0.48 < min(sizes) < 0.55
    assert 1.95 < max(sizes) < 2.03


def test_scale_jitter_pads_with_black_and_moves_other_targets():
    white = torch.full((3, HEIGHT, WIDTH), 255, dtype=torch.uint8)
    end = ScaleJitter((HEIGHT, WIDTH), (0.5, 0.5))(sample(white), rng())
    assert set(end.image.unique().tolist()) == {0, 255}
    assert (end.image[0] > 0).sum() == round(HEIGHT / 2) * round(WIDTH / 2)
    still = ScaleJitter((HEIGHT, WIDTH), (1.0, 1.0))(sample(target=objects(BOXES)), rng())
    assert still.image.equal(noise())
    assert still.target.boxes.equal(objects(BOXES).boxes)


def test_object_crop_keeps_objects_by_their_centres():
    sizes, wholes, overlaps, generator = [], 0, [], rng()
    for _ in range(400):
        start, copied = sample(target=objects(BOXES)), copy.deepcopy(generator)
        copied.random()
        least = (1.0, 0.0, 0.1, 0.3, 0.5, 0.7, 0.9)[copied.integers(7)]
        end = ObjectCrop()(start, generator)
        _, height, width = end.image.shape
        left, top = (-end.affine[:, 2]).int().tolist()
        assert end.image.equal(noise()[:, top : top + height, left : left + width])
        assert len(end.target) > 0
        if (height, width) == (HEIGHT, WIDTH):
            wholes += 1
            continue
        sizes.append((height / HEIGHT, width / WIDTH))
        assert 0.5 <= width / height <= 2
        shares, expected, best = share_left(start.target.boxes, end.affine, height, width), [], 0.0
        for k, (x1, y1, x2, y2) in enumerate(BOXES):
            x, y = (x1 + x2) / 2, (y1 + y2) / 2
            if left < x < left + width and top < y < top + height and shares[k] >= 0.2:
                expected.append(k)
            shared = shares[k] * (x2 - x1) * (y2 - y1)
            best = max(best, shared / ((x2 - x1) * (y2 - y1) + height * width - shared))
        assert end.target.labels.tolist() == expected
        overlaps.append(best)
        assert best >= least
    assert 35 < wholes < 57 + 80  # one in seven, and some of those that are to have an IoU of .7 or .9
    assert min(overlaps) < 0.1
    assert np.min(sizes) < 0.25
    assert np.max(sizes) > 0.95


def test_object_crop_leaves_alone_what_has_no_objects():
    for target in (None, Label(torch.tensor(1)), objects([])):
        start = sample(target=target)
        assert ObjectCrop()(start, rng()) is start
    assert ObjectCrop(0.0)(sample(target=objects(BOXES)), rng()).image.equal(noise())


def test_cutout_is_a_grey_square_within_the_image():
    image = torch.zeros(3, 20, 30, dtype=torch.uint8)
    areas, hit, generator = set(), torch.zeros(20, 30), rng()
    for _ in range(800):
        end = Cutout(0.4)(sample(image), generator)
        grey = end.image[0] == 128
        assert (end.image == grey * 128).all()
        rows, columns = grey.any(1).sum(), grey.any(0).sum()
        assert grey.sum() == rows * columns
        assert max(rows, columns) <= 8
        areas.add(int(grey.sum()))
        hit += grey
    assert max(areas) == 64
    assert min(areas) < 30  # the centre may lie at the border
    assert hit.min() > 0
    y, x = torch.meshgrid(torch.arange(20.0), torch.arange(30.0), indexing="ij")
    assert abs((hit * y).sum() / hit.sum() - 9.5) < 0.8
    assert abs((hit * x).sum() / hit.sum() - 14.5) < 1.2
    assert not image.any()


@needs_torchvision
def test_trivial_augment_has_the_wide_space():
    """Each operation at each strength is that of torchvision's TrivialAugmentWide, up to interpolation and rounding."""
    space = tv.TrivialAugmentWide()._AUGMENTATION_SPACE
    assert len(transforms._MOVES) + len(transforms._COLOURS) == len(space)
    for index in (0, 7, 15, 30):

        def at(operation, index=index):
            magnitudes, _ = space[operation]
            values = magnitudes(31, HEIGHT, WIDTH)
            return float(values[index])

        m = index / 30
        shear_x, shear_y, shift_x, shift_y, turn = (move(m, HEIGHT, WIDTH) for move in transforms._MOVES)
        assert shear_x[0, 1] == pytest.approx(at("ShearX"), abs=1e-6)
        assert shear_y[1, 0] == pytest.approx(at("ShearY"), abs=1e-6)
        assert shift_x[0, 2] == pytest.approx(at("TranslateX"), abs=1e-5)
        assert shift_y[1, 2] == pytest.approx(at("TranslateY"), abs=1e-5)
        assert math.degrees(math.atan2(turn[1, 0], turn[0, 0])) == pytest.approx(at("Rotate"), abs=1e-4)
        image = noise()
        same, bright, colour, contrast, sharp, poster, solar, auto, equal = (c(image, m) for c in transforms._COLOURS)
        assert same.equal(image)
        close(bright, oracle.adjust_brightness(image, 1 + at("Brightness")), atol=1)
        close(colour, oracle.adjust_saturation(image, 1 + at("Color")), atol=1)
        close(contrast, oracle.adjust_contrast(image, 1 + at("Contrast")), atol=2)
        close(sharp, oracle.adjust_sharpness(image, 1 + at("Sharpness")), atol=1)
        assert poster.equal(oracle.posterize(image, int(at("Posterize"))))
        assert solar.equal(color.solarize(image, 256 * (1 - m)))
        assert abs(256 * (1 - m) - 255 * at("Solarize")) <= 1
        close(auto, oracle.autocontrast(image), atol=1)
        assert equal.equal(oracle.equalize(image))


def test_trivial_augment_draws_uniformly(monkeypatch):
    drawn = []
    monkeypatch.setattr(
        transforms,
        "_MOVES",
        tuple(lambda m, h, w, k=k: drawn.append((k, m)) or torch.eye(2, 3).double() for k in range(5)),
    )
    monkeypatch.setattr(
        transforms, "_COLOURS", tuple(lambda image, m, k=k: drawn.append((k, m)) or image for k in range(5, 14))
    )
    generator = rng()
    for _ in range(4000):
        TrivialAugment()(sample(noise(4, 4)), generator)
    counts = np.bincount([k for k, _ in drawn], minlength=14)
    assert abs(counts / 4000 - 1 / 14).max() < 0.02
    strengths = np.array([m for _, m in drawn])
    assert set(np.rint(np.abs(strengths) * 30)) == set(range(31))
    assert np.allclose(strengths * 30, np.rint(strengths * 30))
    assert abs((strengths > 0).mean() - 30 / 62) < 0.03
    assert abs(np.abs(strengths).mean() - 0.5) < 0.02


# Draws.

ALL = (
    ObjectCrop(),
    ScaleJitter((50, 44), (0.5, 1.5)),
    RandomResizedCrop((32, 40)),
    Shift(0.2),
    HorizontalFlip(),
    ColorJitter(0.4, 0.4, 0.4, 0.1),
    TrivialAugment(),
    Cutout(0.3),
    External(lambda image: image.bitwise_not_().roll(int(torch.randint(0, 9, ())), 1)),
    Fit(Preprocess(size=(24, 24))),
)


def equal_samples(a, b):
    tensors = [(a.image, b.image), (a.affine, b.affine)]
    tensors += [(x, y) for (_, x), (_, y) in zip(a.target.tensors(), b.target.tensors(), strict=True) if x is not None]
    return all(x.shape == y.shape and x.equal(y) for x, y in tensors)


def test_a_pipeline_is_a_pure_function_of_seed_epoch_and_index():
    pipeline = Pipeline(ALL, seed=7)
    start = sample(target=objects(BOXES), index=5)
    end = pipeline(start, 3)
    torch.rand(5), np.random.default_rng().random(), random.random()
    assert equal_samples(pipeline(start, 3), end)
    assert not equal_samples(pipeline(start, 4), end)
    assert not equal_samples(pipeline(replace(start, index=6), 3), end)
    assert not equal_samples(Pipeline(ALL, seed=8)(start, 3), end)
    assert end.index == 5
    assert end.size == (HEIGHT, WIDTH)


def test_a_pipeline_composes_its_maps():
    start = sample(target=objects(BOXES))
    moves = (Resize((80, 100)), HorizontalFlip(1.0), Shift(0.1))
    end = Pipeline(moves)(start, 0)
    corner = start.target.keypoints[..., :2].double() @ end.affine[:, :2].T + end.affine[:, 2]
    assert (end.target.keypoints[..., :2] - corner[: len(end.target)]).abs().max() < 1e-4
    assert not end.affine.equal(start.affine)


@pytest.mark.parametrize("transform", ALL, ids=lambda transform: type(transform).__name__)
def test_a_transform_leaves_its_input_alone(transform):
    for seed in range(20):
        start = sample(target=objects(BOXES))
        transform(start, rng(seed))
        assert equal_samples(start, sample(target=objects(BOXES)))


def test_pipelines_travel_to_workers():
    pipeline = Pipeline(tuple(part for part in ALL if not isinstance(part, External)), seed=2)
    start = sample(target=objects(BOXES))
    assert equal_samples(pickle.loads(pickle.dumps(pipeline))(start, 1), pipeline(start, 1))


def test_external_draws_from_the_sample_alone():
    def function(image):
        draw = torch.rand(()) + random.random() + np.random.rand()  # noqa: NPY002
        return (image * draw / 3).to(torch.uint8)

    external = External(function)
    first = external(sample(), rng(1)).image
    torch.manual_seed(0), random.seed(0), np.random.seed(0)  # noqa: NPY002
    expected = torch.rand(3), random.random(), np.random.rand()  # noqa: NPY002
    torch.manual_seed(0), random.seed(0), np.random.seed(0)  # noqa: NPY002
    assert external(sample(), rng(1)).image.equal(first)
    after = torch.rand(3), random.random(), np.random.rand()  # noqa: NPY002
    assert after[0].equal(expected[0])
    assert after[1:] == expected[1:]
    assert not external(sample(), rng(2)).image.equal(first)


def test_external_restores_the_generators_after_an_error():
    def function(image):
        raise ZeroDivisionError

    torch.manual_seed(0), random.seed(0), np.random.seed(0)  # noqa: NPY002
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1]  # noqa: NPY002
    with pytest.raises(ZeroDivisionError):
        External(function)(sample(), rng())
    assert torch.get_rng_state().equal(states[0])
    assert random.getstate() == states[1]
    assert (np.random.get_state()[1] == states[2]).all()  # noqa: NPY002


@needs_torchvision
def test_external_takes_a_torchvision_transform():
    external = External(tv.Compose([tv.RandomHorizontalFlip(0.5), tv.ColorJitter(0.5)]))
    ends = [external(sample(), rng(seed)).image for seed in (1, 1, 2, 3, 4)]
    assert ends[0].equal(ends[1])
    assert any(not ends[0].equal(end) for end in ends[2:])


def test_external_checks_what_comes_back():
    with pytest.raises(InputError, match=r"<lambda> returned torch.float32 \(3, 41, 56\); it must return a uint8"):
        External(lambda image: image.float())(sample(), rng())
    with pytest.raises(InputError, match=r"returned torch.uint8 \(1, 41, 56\)"):
        External(lambda image: image[:1])(sample(), rng())
    with pytest.raises(InputError, match=r"returned ndarray"):
        External(lambda image: image.numpy())(sample(), rng())
    with pytest.raises(InputError, match=r"changes the image's size but cannot move the target"):
        External(lambda image: image[:, :9])(sample(target=objects(BOXES)), rng())
    for target in (None, Label(torch.tensor(1)), Caption(torch.tensor([1, 2]))):
        assert External(lambda image: image[:, :9])(sample(target=target), rng()).image.shape == (3, 9, WIDTH)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Shift(1.1),
        lambda: Shift(-0.1),
        lambda: HorizontalFlip(2),
        lambda: HorizontalFlip(math.nan),
        lambda: Cutout(-1),
        lambda: ColorJitter(brightness=-1),
        lambda: ColorJitter(hue=0.6),
        lambda: RandomResizedCrop((5, 5), scale=(0, 1)),
        lambda: RandomResizedCrop((5, 5), scale=(0.5, 0.1)),
        lambda: RandomResizedCrop((5, 5), ratio=(0, 1)),
        lambda: MixUp(0, 3),
        lambda: CutMix(-1, 3),
        lambda: LabelSmoothing(1.1, 3),
        lambda: ScaleJitter((5, 5), (0, 1)),
        lambda: ScaleJitter((5, 5), (2, 1)),
        lambda: ScaleJitter((5, 5), min_visible=1.5),
        lambda: ObjectCrop(1.5),
        lambda: ObjectCrop(min_visible=-1),
        lambda: Mosaic(2),
        lambda: Mosaic(0.5, -0.1),
    ],
)
def test_settings_that_make_no_sense(wrong):
    with pytest.raises(InputError, match=r"must lie between|lowest <= highest"):
        wrong()


# Batches.

CLASSES = 5


def batch(size=4, height=12, width=10, images=None, targets=None):
    if images is None:
        images = torch.rand(size, 3, height, width, generator=torch.Generator().manual_seed(1))
    if targets is None:
        targets = tuple(Label(torch.tensor(i % CLASSES)) for i in range(len(images)))
    return Batch(
        images, targets, torch.arange(len(images)), torch.zeros(len(images), 2, 3), torch.zeros(len(images), 2)
    )


def rows(batch):
    return torch.stack([target.scores for target in batch.targets])


def test_mixup_mixes_images_and_labels_by_one_share():
    start, shares = batch(), []
    for seed in range(300):
        end = MixUp(0.3, CLASSES)(start, rng(seed))
        share = float(rows(end)[0, 0])
        shares.append(share)
        for i in range(4):
            expected = share * start.images[i] + (1 - share) * start.images[i - 1]
            assert (end.images[i] - expected).abs().max() < 1e-6
            expected = torch.zeros(CLASSES)
            expected[i] += share
            expected[i - 1 if i else 3] += 1 - share
            assert (end.targets[i].scores - expected).abs().max() < 1e-6
            assert end.targets[i].label == i
    shares = np.array(shares)
    assert shares.min() >= 0
    assert shares.max() <= 1
    # Beta(a, a) has mean 1/2 and variance 1 / (4 (2a + 1)).
    assert abs(shares.mean() - 0.5) < 4 * shares.std() / math.sqrt(300)
    assert abs(shares.var() - 1 / (4 * 1.6)) < 0.03
    assert start.targets[0].scores is None


def test_cutmix_shares_labels_by_the_area_that_is_seen():
    # Each image is one value, its number, so that pixels can be counted.
    start = batch(images=torch.arange(1.0, 5).view(4, 1, 1, 1).expand(4, 3, 12, 10).clone())
    before, shares, places = start.images.clone(), [], torch.zeros(12, 10)
    for seed in range(400):
        end = CutMix(1.0, CLASSES)(start, rng(seed))
        own = (end.images == start.images).all(1)
        other = (end.images == start.images.roll(1, 0)).all(1)
        assert (own ^ other).all()
        assert (other == other[0]).all()
        assert other[0].sum() == other[0].any(1).sum() * other[0].any(0).sum()  # a box
        share = own[0].double().mean()
        expected = torch.eye(4, CLASSES) * share + torch.eye(4, CLASSES).roll(1, 0) * (1 - share)
        assert (rows(end) - expected).abs().max() < 1e-6
        shares.append(share)
        places += other[0]
    assert start.images.equal(before)
    assert min(shares) < 0.2
    assert max(shares) > 0.99
    assert 0.5 < np.mean(shares) < 0.75  # above one half, as boxes are cut off at the border
    assert places.min() > 0


def test_label_smoothing_formula_and_sum():
    end = LabelSmoothing(0.1, CLASSES)(batch(), rng())
    expected = torch.full((4, CLASSES), 0.02)
    expected[range(4), range(4)] = 0.92
    assert (rows(end) - expected).abs().max() < 1e-6
    weighted = batch(targets=tuple(Label(torch.tensor(0), torch.tensor([2.0, 1, 0, 0, 0.5])) for _ in range(4)))
    assert (rows(LabelSmoothing(0.3, CLASSES)(weighted, rng())).sum(1) - 3.5).abs().max() < 1e-6
    assert end.images.equal(batch().images)


def test_class_weights_multiply():
    weights = torch.tensor([2.0, 1, 0.5, 4, 1])
    end = ClassWeights(weights)(LabelSmoothing(0.1, CLASSES)(batch(), rng()), rng())
    smoothed = rows(LabelSmoothing(0.1, CLASSES)(batch(), rng()))
    assert rows(end).equal(smoothed * weights)


@pytest.mark.parametrize("mix", [MixUp(1.0, CLASSES), CutMix(1.0, CLASSES)], ids=["mixup", "cutmix"])
@pytest.mark.parametrize("other", [LabelSmoothing(0.2, CLASSES), ClassWeights(torch.tensor([2.0, 1, 0.5, 4, 1]))])
def test_mixing_commutes_with_what_is_linear_in_the_rows(mix, other):
    one, two = other(mix(batch(), rng(3)), rng()), mix(other(batch(), rng()), rng(3))
    assert (rows(one) - rows(two)).abs().max() < 1e-6
    assert one.images.equal(two.images)
    if isinstance(other, LabelSmoothing):
        assert (rows(one).sum(1) - 1).abs().max() < 1e-6


def test_mixing_twice_keeps_row_sums():
    end = CutMix(1.0, CLASSES)(MixUp(1.0, CLASSES)(batch(), rng(1)), rng(2))
    assert (rows(end).sum(1) - 1).abs().max() < 1e-6
    assert (rows(end) > 0).sum(1).max() == 3


def test_a_batch_of_one_is_mixed_with_itself():
    for mix in (MixUp(1.0, CLASSES), CutMix(1.0, CLASSES)):
        end = mix(batch(1), rng())
        assert (end.images - batch(1).images).abs().max() < 1e-6
        assert (rows(end) - torch.eye(1, CLASSES)).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("transform", "name"),
    [
        (MixUp(1.0, 3), "mixup"),
        (CutMix(1.0, 3), "cutmix"),
        (LabelSmoothing(0.1, 3), "label_smoothing"),
        (ClassWeights(torch.ones(3)), "class_weights"),
    ],
)
def test_batch_transforms_want_labels(transform, name):
    with pytest.raises(InputError, match=f"^{name} has no effect on objects; it takes one label for each image$"):
        transform(batch(targets=(objects(BOXES),) * 4), rng())
    with pytest.raises(InputError, match=f"^{name} has no effect on images without targets"):
        transform(batch(targets=()), rng())


def places(count, height=40, width=48):
    """Images of which each pixel tells the image, the row and the column that it came from."""
    y, x = torch.meshgrid(torch.arange(height) / 64, torch.arange(width) / 64, indexing="ij")
    return torch.stack([torch.stack([torch.full_like(y, i / 8), y, x]) for i in range(count)])


@pytest.mark.parametrize("count", [1, 3, 6])
def test_mosaic_moves_objects_with_their_pixels(count):
    boxes, own = [(3, 4, 20, 30), (30, 10, 45, 40), (0, 0, 48, 40), (25, 20, 26, 21)], set()
    targets = tuple(
        replace(objects(boxes[i % 5 :], 40, 48), labels=torch.arange(4)[i % 5 :] + 10 * i) for i in range(count)
    )
    start = batch(images=places(count), targets=targets)
    before = start.images.clone()
    for seed in range(20):
        end = Mosaic(1.0)(start, rng(seed))
        for i, (image, target) in enumerate(zip(end.images, end.targets, strict=True)):
            number, row, column = (image * torch.tensor([8, 64, 64]).view(3, 1, 1)).round().long()
            sources = set(number.unique().tolist())
            assert sources == {(i - k) % count for k in range(4)}
            own.add(int(number[0, 0]) == i)
            # Which pixels of the mosaic show each object, looked up pixel by pixel in where they came from. One source
            # may fill several tiles; a tile is a source and an offset.
            y, x = torch.meshgrid(torch.arange(40), torch.arange(48), indexing="ij")
            tiles = torch.stack([number, row - y, column - x]).flatten(1).unique(dim=1).T.tolist()
            expected = []
            for j, down, right in tiles:
                here = (number == j) & (row - y == down) & (column - x == right)
                for label, mask in zip(targets[j].labels.tolist(), targets[j].masks, strict=True):
                    shown = mask[row, column] & here
                    if shown.sum() >= 0.2 * mask.sum():
                        expected.append((label, shown))
            found = list(zip(target.labels.tolist(), target.masks, strict=True))
            if len(tiles) == 4:  # else two tiles go on into one another
                assert sorted(label for label, _ in found) == sorted(label for label, _ in expected)
                for label, mask in found:
                    assert any(label == other and mask.equal(shown) for other, shown in expected)
            assert boxes_of(target.masks).equal(target.boxes)
            seen = target.keypoints[..., 2] > 0
            for mask, points, visible in zip(target.masks, target.keypoints, seen, strict=True):
                for (px, py, _), inside in zip(points.tolist(), visible.tolist(), strict=True):
                    assert not inside or mask[int(py), int(px)]
    assert start.images.equal(before)
    assert own == ({True, False} if count > 1 else {True})


def test_mosaic_draws_from_its_generator_and_by_its_share():
    targets = tuple(objects(BOXES[:k], 40, 48) for k in (0, 2, 5, 1, 3, 0))
    start = batch(images=places(6), targets=targets)
    one, two, three = (Mosaic(0.5)(start, rng(seed)) for seed in (4, 4, 5))
    assert one.images.equal(two.images)
    assert all(a.boxes.equal(b.boxes) for a, b in zip(one.targets, two.targets, strict=True))
    assert not one.images.equal(three.images)
    generator = rng()
    changed = [
        not image.equal(old)
        for _ in range(100)
        for image, old in zip(Mosaic(0.3)(start, generator).images, start.images, strict=True)
    ]
    assert abs(np.mean(changed) - 0.3) < 0.06
    assert Mosaic(0.0)(start, rng()).images.equal(start.images)


def test_mosaic_of_images_of_which_different_things_are_known():
    plain, flagged = objects(BOXES[2:3]), replace(objects(BOXES[2:3]), crowd=torch.tensor([True]), masks=None)
    start = batch(images=places(2, HEIGHT, WIDTH), targets=(plain, flagged))
    target = Mosaic(1.0, min_visible=0.0)(start, rng()).targets[0]
    assert target.masks is None
    assert target.ignored is None
    assert sorted(target.crowd.tolist()) == [False, False, True, True]


def test_mosaic_wants_objects():
    for targets in ((), None):
        with pytest.raises(InputError, match=r"^mosaic has no effect on images without objects$"):
            Mosaic(1.0)(batch(targets=targets), rng())
