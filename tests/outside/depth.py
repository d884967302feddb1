"""Depth maps: a kind of answer that foveal does not have, with all that belongs to it, written as a user would."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from foveal.data.dataset import Dataset, ImageArray
from foveal.data.findings import Findings
from foveal.data.image import write_image
from foveal.data.writers import write_json
from foveal.explain.aim import Aim
from foveal.report.parts import join, note, picture
from foveal.structures import Batch, Target
from foveal.system import Preprocess, Spec, System
from foveal.task import Task
from foveal.train.evaluate import evaluation_loader


@dataclass(frozen=True)
class Depth(Target):
    """metres: (H, W) float, how far what each pixel shows is away."""

    task = "depth"
    metres: Tensor

    def warp(self, affine: Tensor, size: tuple[int, int]) -> "Depth":
        """By the nearest pixel; zero outside the old image."""
        y, x = torch.meshgrid(*(torch.arange(side) + 0.5 for side in size), indexing="ij")
        points = (torch.stack([x, y], -1).to(affine) - affine[:, 2]) @ torch.linalg.inv(affine[:, :2]).T
        column, row = points.floor().long().unbind(-1)
        height, width = self.metres.shape
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        return Depth(self.metres[row.clamp(0, height - 1), column.clamp(0, width - 1)] * inside)


def log_difference(predicted: Tensor, true: Tensor) -> Tensor:
    """The loss: mean absolute difference of logarithms."""
    return (predicted.clamp(min=1e-3).log() - true.clamp(min=1e-3).log()).abs().mean()


class DepthNet(System):
    """Metres from brightness, by one convolution. criterion: the loss, of predicted and true metres."""

    answers = Depth

    def __init__(self, criterion: Any = log_difference) -> None:
        recipe = {"epochs": 8, "batch_size": 8, "lr": 0.05, "optimizer": "adam", "schedule": "constant", "warmup": 0.0}
        super().__init__(Spec((), Preprocess((16, 16), "squash", 1.0, (0.5,) * 3, (0.5,) * 3), recipe))
        self.criterion, self.look = criterion, nn.Conv2d(3, 1, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, H, W) metres."""
        return 10 * self.look(self.normalize(images))[:, 0].sigmoid()

    def loss(self, batch: Batch, player: str | None = None) -> dict[str, Tensor]:
        return {"log": self.criterion(self(batch.images), torch.stack([target.metres for target in batch.targets]))}

    def decode(self, outputs: Tensor, batch: Batch) -> list[Depth]:
        found = []
        for metres, affine, size in zip(outputs, batch.affines, batch.sizes.tolist(), strict=True):
            whole = torch.cat([affine, affine.new_tensor([[0, 0, 1]])])
            found.append(Depth(metres).warp(torch.linalg.inv(whole)[:2], tuple(size)))
        return found

    def score(self, images: Tensor, target: Any) -> Tensor:
        """How near the middle of the image is."""
        height, width = images.shape[-2:]
        return -self(images)[:, height // 2, width // 2]


class DepthEvaluator:
    """The mean absolute error in metres."""

    criteria: tuple[tuple[str, str], ...] = (("error", "min"),)

    def __init__(self) -> None:
        self.sum, self.count = 0.0, 0

    def asks(self, truth: Any) -> bool:
        return True

    def update(self, system: Any, batch: Batch, truths: Sequence[Depth]) -> None:
        for found, truth in zip(system.decode(system(batch.images), batch), truths, strict=True):
            self.sum += float((found.metres - truth.metres).abs().sum())
            self.count += truth.metres.numel()

    def merge(self, other: Self) -> None:
        self.sum, self.count = self.sum + other.sum, self.count + other.count

    def compute(self) -> dict[str, float]:
        return {"error": self.sum / self.count}

    def per_class(self) -> list[dict[str, float]]:
        return []

    def basis(self) -> dict[str, tuple[int, str]]:
        return {}


def drawn(depth: Depth) -> Tensor:
    """(3, H, W) uint8: what is near is bright."""
    return (255 * (1 - depth.metres / 10)).clamp(0, 255).byte().expand(3, -1, -1)


class DepthAnswers:
    """The middle of each image in metres; and a picture of each map."""

    option: ClassVar[str | None] = None
    headings: ClassVar[tuple[str, ...]] = ("image", "nearest", "middle")

    def __init__(self, system: System, folder: Path | None, setting: Any) -> None:
        self.folder, self.style = folder, None

    def take(self, name: str, image: Tensor, prediction: Depth) -> dict[str, Any]:
        if self.folder:
            self.folder.mkdir(exist_ok=True)
            write_image(self.folder / f"{Path(name).stem}_depth.png", drawn(prediction))
        height, width = prediction.metres.shape
        middle = float(prediction.metres[height // 2, width // 2])
        return {"image": name, "nearest": float(prediction.metres.min()), "middle": middle}

    def row(self, entry: dict[str, Any]) -> tuple[str, ...]:
        return entry["image"], f"{entry['nearest']:.2f}", f"{entry['middle']:.2f}"

    def save(self, document: dict[str, Any]) -> None:
        if self.folder:
            write_json(self.folder / "predictions.json", document)


def sections(system: System, view: Dataset, batch_size: int, workers: int | None) -> Any:
    """One map beside its truth."""
    batch = next(iter(evaluation_loader(system, view, batch_size, workers).epoch())).float()
    found = system.predict(list(batch.images[:1]))[0]
    assert isinstance(found, Depth)
    pair = join([picture(drawn(found), "predicted depth"), picture(drawn(batch.targets[0]), "true depth")])
    return [("Depth maps", join([note("Predicted and true."), pair]))]


def check(dataset: Dataset, bar: Any, labels: int) -> Findings:
    """Names of images whose depth is zero or less somewhere."""
    holes = [dataset.name(i) for i in range(len(dataset)) if bool((dataset.target(i).metres <= 0).any())]
    return Findings({}, notes=[f"{name} has depths of zero" for name in holes])


def aim(system: System, prediction: Depth, batch: Batch, target: str | None, object: int | None) -> Aim:
    return Aim("nearness", "nearness of the middle", 0.5)


DEPTH = Task(
    "depth",
    Depth,
    evaluator=lambda system: DepthEvaluator(),
    answers=DepthAnswers,
    sections=sections,
    check=check,
    aim=aim,
)


def brightness_times_gradient(system: System, images: Tensor, target: Any, power: float = 1.0) -> Tensor:
    """An explanation: how much the score changes with the brightness of each pixel, times that brightness.

    power: of the brightness.
    """
    with torch.enable_grad():
        pixels = images.clone().detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(system.score(pixels, target).sum(), pixels)
    return (gradient * images**power).sum(1)


def darken(image: Tensor) -> Tensor:
    """An augmentation: (3, H, W) uint8 at a random share of its brightness."""
    return (image * (0.9 + 0.1 * torch.rand(()))).byte()


def ramps(count: int = 32) -> Dataset:
    """Images of several sizes, each brighter from left to right; what is bright is near."""
    draw = np.random.default_rng(0)
    images, targets = [], []
    for _ in range(count):
        height, width = (int(side) for side in draw.integers(16, 32, 2))
        near = torch.linspace(0.1, 0.9, width).expand(height, width)
        images.append((255 * near).byte().expand(3, -1, -1).contiguous())
        targets.append(Depth(10 * (1 - near)))
    codes = np.array([0, 0, 0, 1] * (count // 4), np.int8)
    return Dataset("ramps", "depth", (), ImageArray(images, "ramps"), targets, codes)
