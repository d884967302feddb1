"""The contract that every system fulfils, and the two records that describe one: Preprocess and Spec."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from math import isfinite
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from foveal.errors import InputError, nearest
from foveal.nn.init import Init, initialise
from foveal.structures import Batch, Target, to_float

MAX_SIDE = 2**13  # pixels of the height and width that a system sees, and of the image that it is cut out of
MIN_STD = 1e-6  # of a channel of images in [0, 1]


@dataclass(frozen=True)
class Preprocess:
    """How a photograph becomes what a system takes. Part of the system and of its checkpoint, so never guessed.

    size:   height and width that the system sees.
    resize: "squash" to that size, aspect ratio lost; "crop": the shorter side becomes size / crop, then the centre is
            cut out; "fit": the whole image inside the size, aspect ratio kept, the rest padded at the right and the
            bottom; "bound": as large as fits inside the size or, whichever is larger, inside the size turned by a right
            angle, padded to multiples of 32 pixels, so that sizes differ. Padding has the mean colour, so that it is
            zero once it is normalised.
    crop:   for "crop", the part of the resized shorter side that remains.
    mean, std: of each channel of images in [0, 1], subtracted and divided as the system's first operation.
    grey:   the system sees one channel, the luminance; mean and std then have one value.
    """

    size: tuple[int, int] = (224, 224)
    resize: Literal["squash", "crop", "fit", "bound"] = "crop"
    crop: float = 0.875
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    grey: bool = False
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"

    def __post_init__(self) -> None:
        if len(self.size) != 2 or min(self.size) < 1:
            raise InputError(f"size must be two positive numbers of pixels, not {self.size}")
        if not 0 < self.crop <= 1 or max(self.size) > MAX_SIDE * self.crop:
            raise InputError(
                f"size / crop must be at most {MAX_SIDE} pixels, and crop above 0 and at most 1, "
                f"not {max(self.size):.9g} / {self.crop}"
            )
        if {len(self.mean), len(self.std)} - {1, self.channels}:
            raise InputError(f"mean and std must have {self.channels} values, not {len(self.mean)} and {len(self.std)}")
        if not all(map(isfinite, (*self.mean, *self.std))) or min(self.std) < MIN_STD:
            raise InputError("mean and std must be finite, and std above 0")

    @property
    def channels(self) -> int:
        return 1 if self.grey else 3

    def affine(self, height: int, width: int) -> Tensor:
        """(2, 3) float64: from pixels of an image of this height and width to pixels of the prepared one."""
        (rows, columns), top, left, _ = self._placement(height, width)
        return torch.tensor([[columns / width, 0, -left], [0, rows / height, -top]], dtype=torch.float64)

    def apply(self, image: Tensor) -> Tensor:
        """(3, H, W) uint8 or float in [0, 1] -> (3, *size), same type; with "bound" the image decides of what size."""
        (rows, columns), top, left, (height, width) = self._placement(*image.shape[-2:])
        image = resize(image, (rows, columns), self.interpolation)[:, top : top + height, left : left + width]
        return self.padded(image, (height, width))

    def padded(self, image: Tensor, size: tuple[int, int]) -> Tensor:
        """(3, h, w) uint8 or float -> (3, *size), same type, with the mean colour at the right and the bottom."""
        if tuple(image.shape[1:]) == size:
            return image
        mean = torch.tensor(self.mean).expand(3)
        mean = (mean * 255).round() if image.dtype == torch.uint8 else mean
        whole = mean.to(image)[:, None, None].repeat(1, *size)
        whole[:, : image.shape[1], : image.shape[2]] = image
        return whole

    def stacked(self, images: Sequence[Tensor]) -> Tensor:
        """Prepared images (3, h, w) of any sizes as one tensor (B, 3, H, W) of the largest height and width."""
        size = max(image.shape[1] for image in images), max(image.shape[2] for image in images)
        return torch.stack([self.padded(image, size) for image in images])

    def batch(self, images: Sequence[Tensor]) -> Batch:
        """Images of any sizes as one float batch without targets."""
        return Batch(
            self.stacked([to_float(self.apply(image)) for image in images]),
            (),
            torch.arange(len(images)),
            torch.stack([self.affine(*image.shape[-2:]) for image in images]).float(),
            torch.tensor([image.shape[-2:] for image in images]),
        )

    def _placement(self, height: int, width: int) -> tuple[tuple[int, int], int, int, tuple[int, int]]:
        """(rows, columns) to resize to, the upper left corner (top, left) of the part that is kept, and the size that
        the system sees."""
        target_height, target_width = self.size
        if self.resize == "squash":
            return self.size, 0, 0, self.size
        if self.resize == "crop":
            scale = max(round(target_height / self.crop) / height, round(target_width / self.crop) / width)
            rows, columns = max(target_height, int(height * scale + 1e-6)), max(target_width, int(width * scale + 1e-6))
            return (rows, columns), round((rows - target_height) / 2), round((columns - target_width) / 2), self.size
        scale = min(target_height / height, target_width / width)
        if self.resize == "bound":
            scale = max(scale, min(target_width / height, target_height / width))
        rows, columns = max(1, round(height * scale)), max(1, round(width * scale))
        return (
            (rows, columns),
            0,
            0,
            self.size if self.resize == "fit" else (-(-rows // 32) * 32, -(-columns // 32) * 32),
        )


def resize(image: Tensor, size: tuple[int, int], interpolation: str = "bilinear") -> Tensor:
    """(..., C, H, W) uint8 or float -> (..., C, *size), same type; antialiased when it shrinks."""
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    images = image.reshape(-1, *image.shape[-3:])
    resized = interpolate(images, size, mode=interpolation, align_corners=False, antialias=True)
    resized = resized.view(*image.shape[:-2], *size)
    return resized.clamp_(0, 1) if interpolation == "bicubic" and image.is_floating_point() else resized


def shown(images: Tensor, part: "System") -> Tensor:
    """(B, 3, H, W) in [0, 1] as one system prepared them -> (B, 3, *size) for another that it is made of.

    The part sees what lies in the frame of the whole, squeezed or stretched to the part's own size.
    """
    return resize(images, part.preprocess.size, part.preprocess.interpolation)


@dataclass(frozen=True)
class Spec:
    """One variant of a family of systems, as data. A family adds its own fields; those of type `System | None` or
    `tuple[System, ...]` hold the trained systems that it is made of, one of type `System | str` the system that it is
    built upon, or the name of one that is yet to learn (catalog.py).

    labels:     class names, in the order of the outputs.
    preprocess: size rule and normalisation.
    recipe:     settings of TrainConfig that suit this variant; what the user sets goes first.
    finetune:   those that suit it where it starts from trained weights, as far as they differ from the ones that all
                systems of its task share (train/defaults.py).
    """

    labels: tuple[str, ...] = ()
    preprocess: Preprocess = Preprocess()
    recipe: Mapping[str, Any] = field(default_factory=dict)
    finetune: Mapping[str, Any] = field(default_factory=dict, kw_only=True)

    def taken(self, parts: "Sequence[System]") -> dict[str, Any]:
        """Fields that a variant takes from the systems it is made of, where nothing else says so: images are prepared
        as the largest of them has it, and class names are the first one's."""
        largest = max(parts, key=lambda part: part.preprocess.size[0] * part.preprocess.size[1])
        return {"preprocess": largest.preprocess, "labels": self.labels or parts[0].labels}


@dataclass(frozen=True)
class Player:
    """A module that one optimizer trains, and how its optimisation differs from the settings of the run.

    module: whose parameters are optimised.
    lr:     factor on the learning rate, above 0.
    betas:  factors on the two betas of adam and adamw; None: the run's own.
    every:  it is updated in steps 0, every, 2 every ... alone.
    parts:  name of a module within `module` -> factor on top of `lr` for its parameters; of two that overlap the later
            one holds. L-BFGS, which has one learning rate, takes `lr` alone.

    Raises InputError for numbers out of range and names of no module.
    """

    module: nn.Module
    lr: float = 1.0
    betas: tuple[float, float] | None = None
    every: int = 1
    parts: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.every < 1 or min((self.lr, *self.parts.values(), *(self.betas or ()))) <= 0:
            raise InputError("a player's every is at least 1, and its factors are above 0")
        if unknown := [name for name in self.parts if name not in dict(self.module.named_modules())]:
            raise InputError(f"a player has no part {unknown[0]!r}")

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Those of the module."""
        return self.module.named_parameters()

    def parameters(self) -> Iterator[nn.Parameter]:
        """Those of the module."""
        return self.module.parameters()

    def settings(self) -> dict[str, Any]:
        """All but the module, as JSON."""
        return {name: value for name, value in vars(self).items() if name != "module"} | {"parts": dict(self.parts)}

    def rates(self) -> dict[nn.Parameter, float]:
        """The factor on the learning rate of each parameter."""
        rates = dict.fromkeys(self.parameters(), self.lr)
        for name, factor in self.parts.items():
            rates |= dict.fromkeys(self.module.get_submodule(name).parameters(), self.lr * factor)
        return rates


class System(nn.Module):
    """A network, or a rule, with its loss, its class names and its preprocessing.

    A subclass gives `forward`, and either `loss`, or `fit` where it is learned in closed form or by a rule of its own.
    Systems that answer about an image give `decode` and `score`; those that make images give `sample`.
    What a method returns never depends on `self.training`.

    answers: the type of what `predict` returns; None where a system only makes images.
    learns_from: the type of the targets that `loss` takes; the same, where a class does not say otherwise.
    task:    the name of that type's task, from which figures, drawing, check and report follow (foveal/task.py).
    labels:  class names, without background.
    name, variant: set by `foveal.create`: the catalog's name and the fields that differ from its entry there.
    started_from, licence: the weights that this system began with, in words, and their licence; None where it was
             trained from scratch.
    class_ids: class name -> its id in the annotation file that this system was trained on; empty where it had none.
    trained_on: from which its training data is recognised (train/origin.py); empty where its checkpoint does not say,
             None where it comes from no checkpoint of a run.
    """

    answers: ClassVar[type[Target] | None] = None
    learns_from: ClassVar[type[Target] | None] = None
    task: ClassVar[str]
    pixel_mean: Tensor
    pixel_std: Tensor

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        own = vars(cls)
        if "answers" in own and "learns_from" not in own:
            cls.learns_from = cls.answers
        if cls.learns_from is not None:
            cls.task = cls.learns_from.task

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec = spec
        self.labels = tuple(spec.labels)
        self.name: str | None = None
        self.variant: dict[str, Any] = {}
        self.started_from: str | None = None
        self.licence: str | None = None
        self.class_ids: dict[str, int] = {}
        self.trained_on: dict[str, str] | None = None
        self.register_buffer("pixel_mean", torch.tensor(spec.preprocess.mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(spec.preprocess.std).view(-1, 1, 1), persistent=False)

    @property
    def preprocess(self) -> Preprocess:
        return self.spec.preprocess

    @property
    def players(self) -> dict[str, Player]:
        """Who is optimised in turn within a step, each by an optimizer of its own: one, several in adversarial systems,
        none where the system has its own `fit`."""
        return {} if self.can("fit") else {"system": Player(self)}

    def normalize(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> (B, channels, H, W) with the mean removed, in units of the standard deviation."""
        if self.preprocess.grey:
            images = (images * images.new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)
        return (images - self.pixel_mean) / self.pixel_std

    def index(self, label: str) -> int:
        """Where a class name stands in the outputs."""
        if label not in self.labels:
            raise InputError(f"unknown class {label!r}{nearest(label, self.labels)}")
        return self.labels.index(label)

    def loss(self, batch: Batch, player: str | None = None) -> dict[str, Tensor]:
        """The terms of the objective that `player` minimises, each a scalar; the total is their sum.

        A term that is computed in some steps only is left out of the others; `batch.step` numbers them."""
        raise self._cannot("be trained by gradient")

    def fit(self, data: Iterable[Batch]) -> None:
        """Learn from all batches at once; `data` can be gone through again and again, in the same order."""
        raise self._cannot("be fitted")

    def fitted_limits(self) -> dict[str, int | range]:
        """Sizes of the axes, and ranges of the integers, in this system's Fitted parts, as `check_fitted` of
        nn/fitted.py takes them. They are needed when a checkpoint is loaded."""
        return {}

    def predict(self, images: Any) -> Sequence[Target]:
        """An image or a list of images of any sizes -> a list with one target each, in the image's own pixels.

        images: paths, PIL images, arrays (H, W, 3) uint8, or tensors (3, H, W), uint8 or float in [0, 1].
        Raises InputError for anything else, and for weights so large that answers are not finite."""
        # By name, not by import: the decoder of files lies in a layer below.
        tensors = import_module("foveal.data.foreign").as_images(images)
        if not tensors:
            return []
        with evaluating(self):
            batch = self.preprocess.batch(tensors).to(self.device)
            found = self.decode(self.outputs(batch), batch)
        for target in found:
            for name, value in target.tensors():
                if isinstance(value, Tensor) and value.is_floating_point() and not value.isfinite().all():
                    raise InputError(f"the {name} that {self.name or type(self).__name__} predicts are not finite")
        return found

    def outputs(self, batch: Batch) -> Any:
        """What `forward` gives for a prepared batch; a system that has to know what is padding asks the batch here."""
        return self(batch.images)

    def decode(self, outputs: Any, batch: Batch) -> Sequence[Target]:
        """Raw outputs of `forward` on a prepared batch -> one target an image, in its original pixels."""
        raise self._cannot("predict")

    def score(self, images: Tensor, target: Any) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> (B,): how strongly each shows `target`; differentiable."""
        raise self._cannot("score a target")

    def confidence(self, images: Tensor, target: Any) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> (B,) in [0, 1]: how sure the system is that each shows `target`. Here it is the
        score, for systems whose score is a probability."""
        return self.score(images, target)

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """n new images (n, 3, H, W) in [0, 1]."""
        raise self._cannot("make images")

    # The method that `accelerate` makes faster: images to tensors, the same operations for all images of one size. None
    # where there is none.
    accelerated: ClassVar[str | None] = "forward"
    one_size: ClassVar[bool] = False  # whether images have to be of the size in `preprocess`

    def maps(self, x: Tensor) -> Iterator[Tensor]:
        """Normalised images (B, channels, H, W) -> the map (B, C, h, w) that leaves each stage, one after another: what
        detectors and others build on. A stage runs when its map is asked for."""
        raise self._cannot("serve as a backbone: it has no maps")

    @property
    def base(self) -> "System | None":
        """The system that this one is built upon, whose weights it may begin with; most have none."""
        return None

    @property
    def explained_layer(self) -> str:
        """Name of the module whose output methods of explanation look at where the user names none."""
        raise self._cannot("be explained by the activations of a layer")

    def as_map(self, activation: Tensor) -> Tensor:
        """A module's output as a map (B, C, H, W) over the image; here it is one already."""
        if activation.ndim != 4:
            raise self._cannot(f"lay an activation of shape {tuple(activation.shape)} out on the image")
        return activation

    def needed(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Those of a file's weights, under this system's names, that this variant has a place for; here all of them."""
        return dict(weights)

    def optional(self, weights: Mapping[str, Tensor]) -> tuple[str, ...]:
        """Names of tensors that a file with these weights, under this system's names, may do without: those of parts
        that were added to a network which is published without them. They begin anew, and `started_from` says so.
        Here none."""
        return ()

    def class_major(self, name: str) -> bool:
        """Of a tensor with several rows for each class, whether those of one class lie together, (C, k), or those of
        one place, (k, C); here the latter. A row of no class, as of background, is the last."""
        return False

    def misfit(self, weights: Mapping[str, Tensor]) -> str | None:
        """Why weights under this system's names are not its own, where it knows better than names and shapes tell."""
        return None

    def refuses(self, layout: str) -> str | None:
        """Why weights in a publisher's layout are of another network, where neither names nor shapes show it."""
        return None

    def pictures(self) -> dict[str, tuple[Tensor, tuple[str, ...]]]:
        """What can be seen of the learned weights: title -> (images (N, 3, H, W) in [0, 1], a caption for each)."""
        return {}

    def initialise(self, how: Init) -> None:
        """Begin with other weights, by a rule of nn/init.py; what a family wants to be zero at the start stays so."""
        if self.can("fit"):
            raise self._cannot("begin otherwise: it has no weights before it is fitted")
        initialise(self, how)

    @classmethod
    def can(cls, verb: str) -> bool:
        """Whether this system has its own `loss`, `fit`, `decode`, `score`, `sample` or whatever else the contract of
        its task names: the class that names a verb first refuses it."""
        first = next((base for base in reversed(cls.__mro__) if verb in vars(base)), None)
        return first is not None and getattr(cls, verb) is not getattr(first, verb)

    def train(self, mode: bool = True) -> Self:
        """As of any module; but what a fitted system is made of does not learn by gradient, and has no such mode."""
        super().train(mode)
        if self.can("fit"):
            for part in self.children():
                part.eval()
        return self

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def _cannot(self, what: str) -> InputError:
        return InputError(f"{self.name or type(self).__name__} cannot {what}")


@contextmanager
def evaluating(system: nn.Module):
    """Evaluation mode without gradients inside the block; afterwards each module is in its former mode."""
    modes = {module: module.training for module in system.modules()}
    system.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def wait(device: torch.device) -> None:
    """Until the device has done all that it was given, which one that works beside the CPU does later."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
