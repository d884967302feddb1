"""What may be done to an image and its target on the way to a system.

A transform takes a Sample, one uint8 image in a worker process, and draws its random numbers once, for image and target
alike. One that moves pixels is an affine map of the plane; `Sample.moved` takes the target along, whatever its type.
What is done to whole batches is in mixing.py.
"""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, pad

from foveal.data.color import (
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    adjust_sharpness,
    autocontrast,
    equalize,
    posterize,
    solarize,
    to_uint8,
)
from foveal.errors import InputError
from foveal.structures import Objects, Target
from foveal.system import Preprocess, resize


@dataclass(frozen=True)
class Sample:
    """One image on its way to a system.

    image:  (3, H, W) uint8.
    target: in pixels of this image; None where nothing is known of it.
    index:  which item of the data set it is.
    affine: (2, 3) float64, from pixels of the original image to pixels of this one.
    size:   height and width of the original image.
    """

    image: Tensor
    target: Target | None
    index: int
    affine: Tensor
    size: tuple[int, int]

    @classmethod
    def original(cls, image: Tensor, target: Target | None, index: int) -> "Sample":
        """An image as it was read."""
        return cls(image, target, index, torch.eye(2, 3, dtype=torch.float64), (image.shape[1], image.shape[2]))

    def moved(self, image: Tensor, affine: Tensor) -> "Sample":
        """The sample with the image that `affine`, (2, 3) float64, makes of this one, and the target moved along."""
        target = None if self.target is None else self.target.warp(affine, (image.shape[1], image.shape[2]))
        return replace(self, image=image, target=target, affine=compose(affine, self.affine))


Transform = Callable[[Sample, np.random.Generator], Sample]


@dataclass(frozen=True)
class Pipeline:
    """Transforms in a row. What they draw is a pure function of (seed, epoch, sample.index)."""

    transforms: tuple[Transform, ...]
    seed: int = 0

    def __call__(self, sample: Sample, epoch: int) -> Sample:
        rng = np.random.default_rng([self.seed, epoch, sample.index])
        for transform in self.transforms:
            sample = transform(sample, rng)
        return sample


def matrix(a: float, b: float, c: float, d: float, e: float, f: float) -> Tensor:
    """x' = a x + b y + c,  y' = d x + e y + f."""
    return torch.tensor([[a, b, c], [d, e, f]], dtype=torch.float64)


def compose(second: Tensor, first: Tensor) -> Tensor:
    """The map that applies `first`, then `second`: A2 (A1 p + t1) + t2."""
    return torch.cat([second[:, :2] @ first[:, :2], second[:, :2] @ first[:, 2:] + second[:, 2:]], 1)


def warp_image(image: Tensor, affine: Tensor) -> Tensor:
    """(3, H, W) uint8 moved by `affine` within its frame: bilinear, black where nothing is."""
    height, width = image.shape[1:]
    # grid_sample wants, for each new pixel, the old position in units where the frame is [-1, 1] x [-1, 1].
    units = matrix(2 / width, 0, -1, 0, 2 / height, -1)
    linear = torch.linalg.inv(affine[:, :2])
    back = torch.cat([linear, -linear @ affine[:, 2:]], 1)
    theta = compose(units, compose(back, matrix(width / 2, 0, width / 2, 0, height / 2, height / 2)))
    grid = affine_grid(theta[None].float(), [1, 3, height, width], align_corners=False)
    return to_uint8(grid_sample(image[None].float(), grid, align_corners=False)[0])


@dataclass(frozen=True)
class Resize:
    """To `size`, height and width, whatever that does to the aspect ratio."""

    size: tuple[int, int]
    interpolation: str = "bilinear"

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        height, width = sample.image.shape[1:]
        affine = matrix(self.size[1] / width, 0, 0, 0, self.size[0] / height, 0)
        return sample.moved(resize(sample.image, self.size, self.interpolation), affine)


@dataclass(frozen=True)
class Fit:
    """As the system itself prepares an image."""

    preprocess: Preprocess

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        height, width = sample.image.shape[1:]
        return sample.moved(self.preprocess.apply(sample.image), self.preprocess.affine(height, width))


@dataclass(frozen=True)
class RandomResizedCrop:
    """A part of the image, resized to `size` (Szegedy et al. 2014, arXiv:1409.4842, section 6).

    scale: smallest and largest share of the image's area.
    ratio: smallest and largest width / height before resizing, drawn log-uniformly.
    """

    size: tuple[int, int]
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        if not (0 < self.scale[0] <= self.scale[1] <= 1 and 0 < self.ratio[0] <= self.ratio[1]):
            raise InputError(f"a random crop takes 0 < lowest <= highest, not scale {self.scale}, ratio {self.ratio}")

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        top, left, height, width = self.draw(sample.image.shape[1], sample.image.shape[2], rng)
        part = sample.image[:, top : top + height, left : left + width]
        x, y = self.size[1] / width, self.size[0] / height
        return sample.moved(resize(part, self.size, self.interpolation), matrix(x, 0, -left * x, 0, y, -top * y))

    def draw(self, rows: int, columns: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
        """Top, left, height and width of a part of an image with so many rows and columns."""
        for _ in range(10):
            area = rows * columns * rng.uniform(*self.scale)
            ratio = math.exp(rng.uniform(*np.log(self.ratio)))
            height, width = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
            if 0 < height <= rows and 0 < width <= columns:
                return int(rng.integers(rows - height + 1)), int(rng.integers(columns - width + 1)), height, width
        # Ten misses: the largest part in the middle whose aspect ratio is allowed.
        height = min(rows, max(1, round(columns / self.ratio[0])))
        width = min(columns, max(1, round(rows * self.ratio[1])))
        return (rows - height) // 2, (columns - width) // 2, height, width


@dataclass(frozen=True)
class ScaleJitter:
    """The image at another scale, then cut or padded to `size` at a random place: large-scale jittering (Ghiasi et al.
    2020, arXiv:2012.07177, section 3), whose small factors are the zoom out of SSD (Liu et al. 2015, section 3.6).

    scale:       smallest and largest factor, drawn uniformly; at 1 the whole image just fits into `size`.
    min_visible: objects of whose box the cut leaves less than this share are gone.
    What is padded is black, and aspect ratios stay.
    """

    size: tuple[int, int]
    scale: tuple[float, float] = (0.1, 2.0)
    min_visible: float = 0.2
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1] < math.inf:
            raise InputError(f"a scale jitter takes 0 < lowest <= highest, not {self.scale}")
        check_range("the visible share of a scale jitter", self.min_visible, 0, 1)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        height, width = sample.image.shape[1:]
        factor = rng.uniform(*self.scale) * min(self.size[0] / height, self.size[1] / width)
        rows, columns = max(1, round(height * factor)), max(1, round(width * factor))
        image = resize(sample.image, (rows, columns), self.interpolation)
        # Where the image is larger than the frame its corner lies outside, else inside.
        y, x = (
            int(rng.integers(min(0, room), max(0, room), endpoint=True))
            for room in (self.size[0] - rows, self.size[1] - columns)
        )
        image = pad(image, (x, self.size[1] - columns - x, y, self.size[0] - rows - y))
        affine = matrix(columns / width, 0, x, 0, rows / height, y)
        return keep_visible(sample, affine, self.size, self.min_visible).moved(image, affine)


@dataclass(frozen=True)
class ObjectCrop:
    """A part of the image that keeps objects, with probability `p` (Liu et al. 2015, arXiv:1512.02325, section 2.2).

    Each side is 0.1 to 1 of the image's, and width / height 1/2 to 2. One time in seven the whole image stays; else the
    part has an IoU of at least 0, .1, .3, .5, .7 or .9 with one of the objects. Those with their centre in it stay, at
    least one. An image stays whole where fifty draws find no such part, and where it has no objects.

    min_visible: objects of whose box the crop leaves less than this share are gone too.
    """

    p: float = 1.0
    min_visible: float = 0.2

    def __post_init__(self) -> None:
        check_range("the probability of an object crop", self.p, 0, 1)
        check_range("the visible share of an object crop", self.min_visible, 0, 1)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        if rng.random() >= self.p or not isinstance(sample.target, Objects) or not len(sample.target):
            return sample
        least = (None, 0.0, 0.1, 0.3, 0.5, 0.7, 0.9)[int(rng.integers(7))]
        if least is None:
            return sample
        rows, columns = sample.image.shape[1:]
        boxes = sample.target.boxes.double()
        areas, centres = (boxes[:, 2:] - boxes[:, :2]).prod(1), (boxes[:, 2:] + boxes[:, :2]) / 2
        for _ in range(50):
            height, width = (max(1, round(side * rng.uniform(0.1, 1))) for side in (rows, columns))
            if not 0.5 <= width / height <= 2:
                continue
            top, left = int(rng.integers(rows - height + 1)), int(rng.integers(columns - width + 1))
            low, high = boxes.new_tensor([left, top]), boxes.new_tensor([left + width, top + height])
            shared = (boxes[:, 2:].minimum(high) - boxes[:, :2].maximum(low)).clamp(min=0).prod(1)
            kept = ((centres > low) & (centres < high)).all(1) & (shared > 0) & (shared >= self.min_visible * areas)
            if kept.any() and bool((shared / (areas + height * width - shared)).max() >= least):
                part = sample.image[:, top : top + height, left : left + width]
                affine = matrix(1, 0, -left, 0, 1, -top)
                return replace(sample, target=sample.target[kept]).moved(part, affine)
        return sample


def keep_visible(sample: Sample, affine: Tensor, size: tuple[int, int], share: float) -> Sample:
    """The sample, not yet moved, without the objects of whose boxes less than `share` will be in a frame of `size`
    (height, width), as `affine` moves them."""
    if not isinstance(sample.target, Objects):
        return sample
    return replace(sample, target=sample.target[visible_share(sample.target.boxes, affine, size) >= share])


def visible_share(boxes: Tensor, affine: Tensor, size: tuple[int, int]) -> Tensor:
    """(N,) of each box (N, 4) the share that a map that only scales and moves takes into a frame of `size`; 0 of a box
    without area."""
    affine = affine.to(boxes)
    low, high = (corner @ affine[:, :2].T + affine[:, 2] for corner in (boxes[:, :2], boxes[:, 2:]))
    limit = low.new_tensor([size[1], size[0]])
    left = (high.minimum(limit) - low.clamp(min=0)).clamp(min=0).prod(1)
    return left / (high - low).prod(1).clamp(min=1e-9)


@dataclass(frozen=True)
class Shift:
    """Moved by up to `fraction` of height and width, in whole pixels; black where nothing is.

    With 4/32 it is the "pad by 4, crop at random" of CIFAR networks (He et al. 2015, arXiv:1512.03385, section 4.2).
    """

    fraction: float

    def __post_init__(self) -> None:
        check_range("the fraction of a shift", self.fraction, 0, 1)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        most = np.array([round(self.fraction * side) for side in sample.image.shape[1:]])
        y, x = rng.integers(-most, most, endpoint=True).tolist()
        # Positive padding adds black, negative padding cuts.
        return sample.moved(pad(sample.image, (x, -x, y, -y)), matrix(1, 0, x, 0, 1, y))


@dataclass(frozen=True)
class HorizontalFlip:
    """The mirror image, with probability `p`.

    keypoints: which keypoint each becomes, for kinds that come in a left and a right: (0, 2, 1) swaps the last two.
    """

    p: float = 0.5
    keypoints: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        check_range("the probability of a flip", self.p, 0, 1)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        if rng.random() >= self.p:
            return sample
        sample = sample.moved(sample.image.flip(2), matrix(-1, 0, sample.image.shape[2], 0, 1, 0))
        if self.keypoints is None or not isinstance(sample.target, Objects) or sample.target.keypoints is None:
            return sample
        return replace(sample, target=replace(sample.target, keypoints=sample.target.keypoints[:, self.keypoints]))


@dataclass(frozen=True)
class Cutout:
    """A mid-grey square, its centre anywhere (DeVries and Taylor 2017, arXiv:1708.04552).

    fraction: side of the square in terms of the image's shorter side.
    """

    fraction: float = 0.5

    def __post_init__(self) -> None:
        check_range("the fraction of a cutout", self.fraction, 0, 1)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        height, width = sample.image.shape[1:]
        side = round(self.fraction * min(height, width))
        top, left = int(rng.integers(height)) - side // 2, int(rng.integers(width)) - side // 2
        image = sample.image.clone()
        image[:, max(0, top) : max(0, top + side), max(0, left) : max(0, left + side)] = 128
        return replace(sample, image=image)


@dataclass(frozen=True)
class ColorJitter:
    """Brightness, contrast and saturation by factors up to that far from 1, hue by up to so many turns; any order."""

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0

    def __post_init__(self) -> None:
        for name in ("brightness", "contrast", "saturation"):
            check_range(f"the {name} of a colour jitter", getattr(self, name), 0, math.inf)
        check_range("the hue of a colour jitter", self.hue, 0, 0.5)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        image = sample.image
        adjustments = (
            (adjust_brightness, self.brightness, 1),
            (adjust_contrast, self.contrast, 1),
            (adjust_saturation, self.saturation, 1),
            (adjust_hue, self.hue, 0),
        )
        for i in rng.permutation(4):
            adjust, amount, centre = adjustments[i]
            if amount:
                image = adjust(image, rng.uniform(max(centre - amount, centre - 1), centre + amount))
        return replace(sample, image=image)


@dataclass(frozen=True)
class TrivialAugment:
    """One operation at one of 31 strengths, both uniformly at random (Müller and Hutter 2021, arXiv:2103.10158).

    The paper's wide space, its table 1. Where the operation moves pixels, the target moves along.
    """

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        choice = int(rng.integers(len(_MOVES) + len(_COLOURS)))
        strength = float(rng.integers(31) / 30) * (1 if rng.random() < 0.5 else -1)
        if choice < len(_MOVES):
            affine = _MOVES[choice](strength, sample.image.shape[1], sample.image.shape[2])
            return sample.moved(warp_image(sample.image, affine), affine)
        return replace(sample, image=_COLOURS[choice - len(_MOVES)](sample.image, strength))


def rotation(angle: float, height: int, width: int) -> Tensor:
    """About the centre of an image, from x towards y, which is clockwise to the eye; radians."""
    cos, sin, x, y = math.cos(angle), math.sin(angle), width / 2, height / 2
    return matrix(cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y)


# Strength m lies in [-1, 1]. Translation is in pixels and shear fixes the upper left corner, as in the paper's code.
_MOVES: tuple[Callable[[float, int, int], Tensor], ...] = (
    lambda m, height, width: matrix(1, 0.99 * m, 0, 0, 1, 0),
    lambda m, height, width: matrix(1, 0, 0, 0.99 * m, 1, 0),
    lambda m, height, width: matrix(1, 0, 32 * m, 0, 1, 0),
    lambda m, height, width: matrix(1, 0, 0, 0, 1, 32 * m),
    lambda m, height, width: rotation(math.radians(135 * m), height, width),
)
_COLOURS: tuple[Callable[[Tensor, float], Tensor], ...] = (
    lambda image, m: image,
    lambda image, m: adjust_brightness(image, 1 + 0.99 * m),
    lambda image, m: adjust_saturation(image, 1 + 0.99 * m),
    lambda image, m: adjust_contrast(image, 1 + 0.99 * m),
    lambda image, m: adjust_sharpness(image, 1 + 0.99 * m),
    lambda image, m: posterize(image, 8 - round(6 * abs(m))),
    lambda image, m: solarize(image, 256 * (1 - abs(m))),
    lambda image, m: autocontrast(image),
    lambda image, m: equalize(image),
)


@dataclass(frozen=True)
class External:
    """Any callable (3, H, W) uint8 -> (3, H, W) uint8, of torchvision v2, kornia, albumentations or one's own.

    The global generators of torch, numpy and random are seeded for the call and restored after it, so a callable that
    draws from these is as reproducible as the rest. It sees no target: give one that moves pixels only to data with one
    label for each image. Raises InputError where it returns anything else, or a new size while the target has places.
    """

    function: Callable[[Tensor], Tensor]

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        seed = int(rng.integers(2**32))
        states = random.getstate(), np.random.get_state()  # noqa: NPY002  the callable may draw from the old generator
        try:
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(seed)
                np.random.seed(seed)  # noqa: NPY002
                random.seed(seed)
                image = self.function(sample.image.clone())  # what it does in place stays its own
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002
        name = getattr(self.function, "__name__", type(self.function).__name__)
        if not isinstance(image, Tensor) or image.dtype != torch.uint8 or image.ndim != 3 or len(image) != 3:
            what = f"{image.dtype} {tuple(image.shape)}" if isinstance(image, Tensor) else type(image).__name__
            raise InputError(f"the transform {name} returned {what}; it must return a uint8 tensor (3, height, width)")
        has_places = sample.target is not None and type(sample.target).warp is not Target.warp
        if has_places and image.shape != sample.image.shape:
            raise InputError(f"the transform {name} changes the image's size but cannot move the target")
        return replace(sample, image=image)


def check_range(what: str, value: float, low: float, high: float) -> None:
    """Raise InputError for a strength outside what makes sense."""
    if not low <= value <= high:
        raise InputError(f"{what} must lie between {low:g} and {high:g}, not {value}")
