"""What may be done to an image and its target on the way to a system, in two kinds.

A transform of a Sample works on one uint8 image in a worker process and draws its random numbers once, for the image
and its target alike. One that moves pixels is an affine map of the plane; `Sample.moved` takes the target along,
whatever its type. A transform of a Batch works on float images on any device and mixes or reweights their labels.
"""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import affine_grid, conv2d, grid_sample, pad

from foveal.classify.classifier import target_weights
from foveal.errors import InputError
from foveal.structures import Batch, Label, Objects, Target
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
BatchTransform = Callable[[Batch, np.random.Generator], Batch]


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


# --- Affine maps, (2, 3) float64 -------------------------------------------------------------------------------------


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
    return _to_uint8(grid_sample(image[None].float(), grid, align_corners=False)[0])


# --- Size and place --------------------------------------------------------------------------------------------------


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
    """As the system itself prepares an image; one that already has the system's size stays as it is."""

    preprocess: Preprocess

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        height, width = sample.image.shape[1:]
        if (height, width) == self.preprocess.size:
            return sample
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
class Shift:
    """Moved by up to `fraction` of height and width, in whole pixels; black where nothing is.

    With 4/32 it is the "pad by 4, crop at random" of CIFAR networks (He et al. 2015, arXiv:1512.03385, section 4.2).
    """

    fraction: float

    def __post_init__(self) -> None:
        _check("the fraction of a shift", self.fraction, 0, 1)

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
        _check("the probability of a flip", self.p, 0, 1)

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
        _check("the fraction of a cutout", self.fraction, 0, 1)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        height, width = sample.image.shape[1:]
        side = round(self.fraction * min(height, width))
        top, left = int(rng.integers(height)) - side // 2, int(rng.integers(width)) - side // 2
        image = sample.image.clone()
        image[:, max(0, top) : max(0, top + side), max(0, left) : max(0, left + side)] = 128
        return replace(sample, image=image)


# --- Colour: (3, H, W) uint8 -> the same -----------------------------------------------------------------------------


def adjust_brightness(image: Tensor, factor: float) -> Tensor:
    """Blend with black: 0 is black, 1 the image, above 1 brighter."""
    return _to_uint8(image.float() * factor)


def adjust_contrast(image: Tensor, factor: float) -> Tensor:
    """Blend with the mean luminance: 0 is one grey, 1 the image."""
    return _blend(image, luminance(image).mean(), factor)


def adjust_saturation(image: Tensor, factor: float) -> Tensor:
    """Blend with the luminance: 0 is grey, 1 the image."""
    return _blend(image, luminance(image), factor)


def adjust_sharpness(image: Tensor, factor: float) -> Tensor:
    """Blend with a smoothed image, but for the outermost pixels: 0 is smooth, 1 the image."""
    if min(image.shape[1:]) < 3:
        return image
    kernel = torch.tensor([[1.0, 1, 1], [1, 5, 1], [1, 1, 1]]).div(13).expand(3, 1, 3, 3)
    smooth = image.float()
    smooth[:, 1:-1, 1:-1] = conv2d(image.float()[None], kernel, groups=3)[0]
    return _blend(image, smooth, factor)


def adjust_hue(image: Tensor, turn: float) -> Tensor:
    """Hue moved by `turn`, in turns of the colour circle; saturation and value of HSV stay.

    With v = max(r, g, b), chroma c = v - min(r, g, b) and hue h in sixths of a turn, where 0 is red:
    channel = v - c clamp(min(k, 4 - k), 0, 1),  k = (n + h) mod 6,  n = 5, 3, 1 for r, g, b.
    """
    red, green, blue = pixels = image.float()
    value, brightest = pixels.max(0)
    chroma = value - pixels.amin(0)
    hue = torch.stack([green - blue, blue - red, red - green]).gather(0, brightest[None])[0]
    hue = hue / chroma.clamp(min=1) + 2 * brightest + 6 * turn
    k = (torch.tensor([5.0, 3.0, 1.0]).view(3, 1, 1) + hue) % 6
    return _to_uint8(value - chroma * k.minimum(4 - k).clamp(0, 1))


def posterize(image: Tensor, bits: int) -> Tensor:
    """Only the upper `bits` of the eight."""
    return image & (256 - 2 ** (8 - bits))


def solarize(image: Tensor, threshold: float) -> Tensor:
    """Values from the threshold on inverted."""
    return torch.where(image >= threshold, 255 - image, image)


def autocontrast(image: Tensor) -> Tensor:
    """Each channel stretched so that it goes from 0 to 255; a constant one stays."""
    pixels = image.float()
    low, high = pixels.amin((1, 2), keepdim=True), pixels.amax((1, 2), keepdim=True)
    return torch.where(high > low, _to_uint8((pixels - low) * (255 / (high - low).clamp(min=1))), image)


def equalize(image: Tensor) -> Tensor:
    """Each channel mapped so that its histogram is as flat as it can be (the rule of PIL.ImageOps.equalize).

    new value of v = (step // 2 + number of pixels below v) // step,  step = (pixels - those of the top value) // 255
    """
    channels = []
    for channel in image:
        counts = channel.flatten().bincount(minlength=256)
        step = int(channel.numel() - counts[int(channel.max())]) // 255
        table = ((counts.cumsum(0) - counts + step // 2) // max(step, 1)).clamp(max=255).to(torch.uint8)
        channels.append(table[channel.long()] if step else channel)
    return torch.stack(channels)


def luminance(image: Tensor) -> Tensor:
    """(3, H, W) -> (1, H, W) float: 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601)."""
    return (image * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(0, keepdim=True)


@dataclass(frozen=True)
class ColorJitter:
    """Brightness, contrast and saturation by factors up to that far from 1, hue by up to so many turns; any order."""

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0

    def __post_init__(self) -> None:
        for name in ("brightness", "contrast", "saturation"):
            _check(f"the {name} of a colour jitter", getattr(self, name), 0, math.inf)
        _check("the hue of a colour jitter", self.hue, 0, 0.5)

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
            raise InputError(
                f"the transform {name} changes the image's size but cannot move its {_kind(sample.target)}"
            )
        return replace(sample, image=image)


# --- Batches: labels as rows of class weights (B, C) -----------------------------------------------------------------


@dataclass(frozen=True)
class MixUp:
    """Each image blended with the one before it (Zhang et al. 2017, arXiv:1710.09412).

    x = l x_i + (1 - l) x_j,  t = l t_i + (1 - l) t_j,  l ~ Beta(alpha, alpha), one l a batch
    """

    alpha: float
    num_classes: int

    def __post_init__(self) -> None:
        _check("alpha of mixup", self.alpha, 1e-6, math.inf)

    def __call__(self, batch: Batch, rng: np.random.Generator) -> Batch:
        rows = class_rows(batch, self.num_classes, "mixup")
        share = float(rng.beta(self.alpha, self.alpha))
        images = torch.lerp(batch.images.roll(1, 0), batch.images, share)
        return with_rows(replace(batch, images=images), torch.lerp(rows.roll(1, 0), rows, share))


@dataclass(frozen=True)
class CutMix:
    """A box of each image replaced by that of the one before it (Yun et al. 2019, arXiv:1905.04899).

    The box has 1 - l of the area, l ~ Beta(alpha, alpha), and its centre anywhere; it is the same for the whole batch.
    Labels are mixed by the areas that are seen in the end, after the box is clipped to the image.
    """

    alpha: float
    num_classes: int

    def __post_init__(self) -> None:
        _check("alpha of cutmix", self.alpha, 1e-6, math.inf)

    def __call__(self, batch: Batch, rng: np.random.Generator) -> Batch:
        rows = class_rows(batch, self.num_classes, "cutmix")
        side = math.sqrt(1 - rng.beta(self.alpha, self.alpha))
        spans = []
        for extent in batch.images.shape[2:]:
            start = int(rng.integers(extent)) - int(extent * side) // 2
            spans.append(slice(max(0, start), max(0, start + int(extent * side))))
        images = batch.images.clone()
        box = images[:, :, spans[0], spans[1]]
        box.copy_(batch.images.roll(1, 0)[:, :, spans[0], spans[1]])
        share = 1 - box[0, 0].numel() / images[0, 0].numel()
        return with_rows(replace(batch, images=images), torch.lerp(rows.roll(1, 0), rows, share))


@dataclass(frozen=True)
class LabelSmoothing:
    """t' = (1 - epsilon) t + epsilon sum(t) / C (Szegedy et al. 2015, arXiv:1512.00567, section 7)."""

    epsilon: float
    num_classes: int

    def __post_init__(self) -> None:
        _check("the label smoothing", self.epsilon, 0, 1)

    def __call__(self, batch: Batch, rng: np.random.Generator) -> Batch:
        rows = class_rows(batch, self.num_classes, "label_smoothing")
        return with_rows(batch, torch.lerp(rows, rows.mean(1, keepdim=True).expand_as(rows), self.epsilon))


@dataclass(frozen=True, eq=False)
class ClassWeights:
    """t'_c = w_c t_c, with weights (C,). After LabelSmoothing, which would spread the weights over the classes."""

    weights: Tensor

    def __call__(self, batch: Batch, rng: np.random.Generator) -> Batch:
        rows = class_rows(batch, len(self.weights), "class_weights")
        return with_rows(batch, rows * self.weights.to(rows))


def class_rows(batch: Batch, num_classes: int, name: str) -> Tensor:
    """The labels of a batch as rows of class weights (B, C). Raises InputError where its targets are no labels."""
    if not batch.targets or not isinstance(batch.targets[0], Label):
        kind = _kind(batch.targets[0]) if batch.targets else "images without targets"
        raise InputError(f"{name} has no effect on {kind}; it takes one label for each image")
    return target_weights(batch.targets, torch.empty(0, num_classes, device=batch.images.device))


def with_rows(batch: Batch, rows: Tensor) -> Batch:
    """The batch with rows (B, C) as the class weights of its labels."""
    targets = zip(batch.targets, rows, strict=True)
    return replace(batch, targets=tuple(replace(target, scores=row) for target, row in targets))


def _blend(image: Tensor, other: Tensor, factor: float) -> Tensor:
    """factor * image + (1 - factor) * other, in uint8."""
    return _to_uint8(torch.lerp(other.expand(image.shape), image.float(), factor))


def _to_uint8(pixels: Tensor) -> Tensor:
    return pixels.round().clamp(0, 255).to(torch.uint8)


def _kind(target: Target | None) -> str:
    return type(target).__name__.lower()


def _check(what: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise InputError(f"{what} must lie between {low:g} and {high:g}, not {value}")
