"""The values that flow: targets, which are also predictions, and batches of images with their targets.

A target is a frozen dataclass of tensors. Coordinates are continuous pixels with (0, 0) at the upper left corner of the
upper left pixel, x to the right, y down; a box is (x1, y1, x2, y2). An affine map is a (2, 3) matrix that takes a point
(x, y, 1) of one image to the same point in another.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from foveal.errors import InputError

ANYTHING = ("object",)  # the class names of a system that finds objects and does not name them


@dataclass(frozen=True)
class Target:
    """What is known, or predicted, of one image.

    task: the name of the task whose answers are of this type (foveal/task.py)."""

    task: ClassVar[str] = ""

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """The same value with `function` applied to each tensor."""
        changed = {name: function(value) for name, value in self.tensors() if value is not None}
        return replace(self, **changed)

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """As torch.Tensor.to, for each tensor."""
        return self.map(lambda tensor: tensor.to(*args, **kwargs))

    def tensors(self) -> Iterator[tuple[str, Tensor | None]]:
        """Name and tensor of each field, in order."""
        return ((field.name, getattr(self, field.name)) for field in fields(self))

    def warp(self, affine: Tensor, size: tuple[int, int]) -> Self:
        """The target of the image that `affine` makes of this one, with `size` (height, width). Here: unchanged."""
        return self

    def relabel(self, mapping: Tensor) -> Self:
        """The same target where class i is called mapping[i]. Here: there are no classes."""
        return self


@dataclass(frozen=True)
class Label(Target):
    """One class for the whole image.

    label:  () int64, index into the system's or data set's class names.
    scores: (C,) probability of each class in a prediction; in a training target the weight of each class, where mixing,
            smoothing or class weights made it other than one; None where the label says it all.
    teacher: (C,) scores that a teacher gives this image, before any softmax; None where there is no teacher.
    """

    task = "classify"
    label: Tensor
    scores: Tensor | None = None
    teacher: Tensor | None = None

    def relabel(self, mapping: Tensor) -> "Label":
        return replace(self, label=mapping[self.label])

    def top(self, labels: Sequence[str], k: int = 5) -> list[tuple[str, float]]:
        """The k most probable class names with their probabilities, best first."""
        if self.scores is None:
            return [(labels[int(self.label)], 1.0)]
        values, indices = self.scores.topk(min(k, len(labels)))
        return [(labels[i], float(v)) for v, i in zip(values, indices.tolist(), strict=True)]


@dataclass(frozen=True)
class Masks:
    """Masks (N, H, W) bool of one image that are drawn one at a time, when they are needed: large images with many
    objects have more pixels in them than fit into memory.

    shapes: of each object, as `draw` takes it.
    draw:   (shape, (height, width) of the image) -> (height, width) bool.
    sizes:  height and width of the image, and of what each of `affines` makes of it; the last is that of the masks.
    affines: (2, 3), from pixels to pixels, applied one after the other.
    """

    shapes: tuple[Any, ...]
    draw: Callable[[Any, tuple[int, int]], Tensor]
    sizes: tuple[tuple[int, int], ...]
    affines: tuple[Tensor, ...] = ()

    @property
    def shape(self) -> torch.Size:
        return torch.Size((len(self.shapes), *self.sizes[-1]))

    def __len__(self) -> int:
        return len(self.shapes)

    def __iter__(self) -> Iterator[Tensor]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: Any) -> Any:
        """(H, W) bool of one object; the Masks of those that a slice, a mask or a tensor of indices names."""
        if not isinstance(index, int):
            return replace(self, shapes=tuple(self.shapes[row] for row in torch.arange(len(self))[index].tolist()))
        mask = self.draw(self.shapes[index], self.sizes[0])
        for affine, size in zip(self.affines, self.sizes[1:], strict=True):
            mask = _warp_masks(mask, affine, size)
        return mask

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Unchanged: they are drawn on the CPU."""
        return self

    def warp(self, affine: Tensor, size: tuple[int, int]) -> Self:
        """The masks of the warped image, of which nothing is drawn yet."""
        return replace(self, sizes=(*self.sizes, size), affines=(*self.affines, affine))

    def stack(self) -> Tensor:
        """(N, H, W) bool, all of them."""
        masks = torch.zeros(self.shape, dtype=torch.bool)
        for row, mask in enumerate(self):
            masks[row] = mask
        return masks


@dataclass(frozen=True)
class Objects(Target):
    """The objects in one image, N of them, indexed together.

    boxes:     (N, 4) float, x1, y1, x2, y2 in pixels.
    labels:    (N,) int64, index into the class names.
    scores:    (N,) float confidence in [0, 1]; None on ground truth.
    masks:     (N, H, W) bool, or Masks, which are drawn one at a time.
    keypoints: (N, K, 3) float: x, y in pixels, visible (> 0) or not.
    crowd:     (N,) bool: the box stands for a group, which no detection has to match one by one.
    areas:     (N,) float, pixels that each object covers, where they are known and no masks say it.
    ignored:   (N,) bool: too difficult to ask for: neither missed when not found nor wrong when found.
    """

    task = "detect"
    boxes: Tensor
    labels: Tensor
    scores: Tensor | None = None
    masks: Tensor | Masks | None = None
    keypoints: Tensor | None = None
    crowd: Tensor | None = None
    areas: Tensor | None = None
    ignored: Tensor | None = None

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: Any) -> "Objects":
        """The objects that a slice, a mask or a tensor of indices names."""
        if isinstance(index, int):
            index = slice(index, index + 1 or None)
        return self.map(lambda tensor: tensor[index])

    def relabel(self, mapping: Tensor) -> "Objects":
        return replace(self, labels=mapping[self.labels])

    def warp(self, affine: Tensor, size: tuple[int, int]) -> "Objects":
        """Boxes, masks and keypoints in the warped image, clipped to it; objects with nothing left in it are gone."""
        height, width = size
        affine = affine.to(self.boxes)
        x1, y1, x2, y2 = self.boxes.unbind(-1)
        corners = torch.stack([x1, y1, x2, y1, x2, y2, x1, y2], -1).view(-1, 4, 2)
        corners = corners @ affine[:, :2].T + affine[:, 2]
        limit = corners.new_tensor([width, height])
        low, high = corners.amin(1).clamp(min=0).minimum(limit), corners.amax(1).clamp(min=0).minimum(limit)
        moved = replace(self, boxes=torch.cat([low, high], -1))
        if self.keypoints is not None:
            points = self.keypoints[..., :2] @ affine[:, :2].T + affine[:, 2]
            inside = ((points >= 0) & (points < limit)).all(-1)
            visible = self.keypoints[..., 2] * inside
            moved = replace(moved, keypoints=torch.cat([points, visible[..., None]], -1))
        if self.masks is not None:
            if isinstance(self.masks, Masks):
                moved = replace(moved, masks=self.masks.warp(affine, size))
            else:
                moved = replace(moved, masks=_warp_masks(self.masks, affine, size))
        if self.areas is not None:
            # What is cut away takes its share of the area, as far as the box can tell.
            kept = (high - low).prod(-1) / (corners.amax(1) - corners.amin(1)).prod(-1).clamp(min=1e-9)
            moved = replace(moved, areas=self.areas * torch.linalg.det(affine[:, :2]).abs() * kept)
        return moved[((high - low) > 0).all(-1)]


def _warp_masks(masks: Tensor, affine: Tensor, size: tuple[int, int]) -> Tensor:
    """(..., H, W) bool -> (..., *size): False outside the old image."""
    picked, inside = _pick(masks, affine, size)
    return picked & inside


def _pick(planes: Tensor, affine: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """(..., H, W) -> (..., *size), each new pixel the old one under its centre; and (*size) bool: there is one."""
    height, width = size
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    points = (torch.stack([x, y], -1).to(affine) - affine[:, 2]) @ torch.linalg.inv(affine[:, :2]).T
    column, row = points.floor().long().unbind(-1)
    rows, columns = planes.shape[-2:]
    inside = (column >= 0) & (column < columns) & (row >= 0) & (row < rows)
    return planes[..., row.clamp(0, rows - 1), column.clamp(0, columns - 1)], inside


@dataclass(frozen=True)
class SemanticMap(Target):
    """A class for each pixel. classes: (H, W) int64, index into the class names; -1 where it is not known."""

    task = "segment"
    classes: Tensor

    def relabel(self, mapping: Tensor) -> "SemanticMap":
        return replace(self, classes=torch.where(self.classes < 0, self.classes, mapping[self.classes.clamp(min=0)]))

    def warp(self, affine: Tensor, size: tuple[int, int]) -> "SemanticMap":
        """The map of the warped image: the class of the nearest old pixel, unknown outside the old image."""
        picked, inside = _pick(self.classes, affine.to(self.classes.device), size)
        return replace(self, classes=torch.where(inside, picked, -1))


@dataclass(frozen=True)
class Caption(Target):
    """A sentence about the image. tokens: (T,) int64, indices into the system's labels, which are its words."""

    task = "caption"
    tokens: Tensor

    def relabel(self, mapping: Tensor) -> "Caption":
        return replace(self, tokens=mapping[self.tokens])


@dataclass(frozen=True)
class Picture(Target):
    """An image. pixels: (3, H, W) in [0, 1]. Where a system learns to make images, a batch's own images are these, and
    its targets at most their classes."""

    task = "generate"
    pixels: Tensor


@dataclass(frozen=True)
class Batch:
    """Images of one size with their targets.

    images:  (B, 3, H, W): uint8 as the loader makes them, float in [0, 1] after `float()`.
    targets: one target an image, in pixels of these images; empty where no image has one.
    indices: (B,) int64, which items of the data set these are.
    affines: (B, 2, 3) float, from pixels of each original image to pixels of this one.
    sizes:   (B, 2) int64, height and width of each original image.
    step:    number of the training step, counted from 0; 0 outside of training.

    Raises InputError where some images have a target and others none.
    """

    images: Tensor
    targets: tuple[Any, ...]
    indices: Tensor
    affines: Tensor
    sizes: Tensor
    step: int = 0

    def __post_init__(self) -> None:
        if self.targets and len(self.targets) != len(self.images):
            raise InputError(f"a batch of {len(self.images)} images has {len(self.targets)} targets")
        for place, target in enumerate(self.targets):
            if target is None:
                which = (
                    f"image {int(self.indices[place])} of the data has no target, while others of its batch have one"
                )
                raise InputError(f"{which}: give one to every image or to none")

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device | str) -> "Batch":
        """The batch on a device."""
        return _unpack(*_map_tensors(self.__reduce__()[1], lambda tensor: tensor.to(device, non_blocking=True)))

    def pin_memory(self) -> "Batch":
        """The batch in memory that a GPU can fetch from by itself; what torch's DataLoader asks of its batches."""
        return _unpack(*_map_tensors(self.__reduce__()[1], lambda tensor: tensor.pin_memory()))

    def float(self) -> "Batch":
        """The batch with images as float32 in [0, 1]."""
        return replace(self, images=to_float(self.images))

    def shown(self) -> Tensor:
        """(B, H, W) bool: which pixels show the original image, and are not padding."""
        height, width = self.images.shape[-2:]
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        points = (torch.stack([x, y], -1) + 0.5).to(self.affines).view(1, -1, 2)
        back = torch.linalg.inv(self.affines[:, :, :2]).transpose(1, 2)
        places = (points - self.affines[:, None, :, 2]) @ back  # (B, H W, 2), in pixels of the original images
        limits = self.sizes.flip(1)[:, None].to(places)
        return ((places >= 0) & (places < limits)).all(2).view(-1, height, width)

    def first(self, count: int) -> "Batch":
        """The first images alone."""
        return replace(self, **{name: value[:count] for name, value in vars(self).items() if name != "step"})

    def __reduce__(self) -> tuple[Callable[..., "Batch"], tuple[Any, ...]]:
        # Between processes and devices a batch is a handful of flat tensors, not one for each field of each target.
        return _unpack, (self.images, _pack(self.targets), self.indices, self.affines, self.sizes, self.step)


def to_float(image: Tensor) -> Tensor:
    """uint8 pixels as float32 in [0, 1], contiguous; a float image as it is."""
    if image.dtype != torch.uint8:
        return image
    return image.to(torch.float32, memory_format=torch.contiguous_format).div_(255)


def _pack(targets: Sequence[Target]) -> tuple[type, dict[str, tuple[Any, list[torch.Size | None] | None]]] | None:
    """Targets of one type as (type, {field: (all values in one row, the shape of each; None where it has none)}).
    Values that are no tensors stand in a list, with no shapes."""
    if not targets:
        return None
    columns: dict[str, tuple[Any, list[torch.Size | None] | None]] = {}
    for name, _ in targets[0].tensors():
        values = [getattr(target, name) for target in targets]
        known = [value for value in values if value is not None]
        if any(isinstance(value, Masks) for value in known):
            columns[name] = values, None
        elif known:
            shapes = [None if value is None else value.shape for value in values]
            columns[name] = torch.cat([value.reshape(-1) for value in known]), shapes
    return type(targets[0]), columns


def _unpack(images: Tensor, packed: Any, indices: Tensor, affines: Tensor, sizes: Tensor, step: int) -> Batch:
    if packed is None:
        return Batch(images, (), indices, affines, sizes, step)
    kind, columns = packed
    parts = {}
    for name, (row, shapes) in columns.items():
        if shapes is None:
            parts[name] = row
            continue
        pieces = iter(row.split([shape.numel() for shape in shapes if shape is not None]))
        parts[name] = [None if shape is None else next(pieces).view(shape) for shape in shapes]
    targets = tuple(kind(**{name: values[i] for name, values in parts.items()}) for i in range(len(images)))
    return Batch(images, targets, indices, affines, sizes, step)


def _map_tensors(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, torch.Size):
        return value
    if isinstance(value, tuple | list):
        return type(value)(_map_tensors(item, function) for item in value)
    if isinstance(value, dict):
        return {key: _map_tensors(item, function) for key, item in value.items()}
    return value
