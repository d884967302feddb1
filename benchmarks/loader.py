"""How fast images come: 500 x 375 JPEG files decoded, a random part resized to 224 x 224, mirrored or not, in batches.

On one core, with no worker processes. The files are parts of the two photographs that scikit-learn ships. The arms cut
the same parts out of the same files and mirror the same ones; the mean difference of their pixels is told too.

foveal   the loader of `foveal train`
v2       torchvision's ImageFolder with its v2 transforms on tensors, in torch's DataLoader
v1       torchvision's ImageFolder with its v1 transforms on Pillow images, in torch's DataLoader
"""

import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from common import arguments, machine, paired, report, spread, within
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.transforms import v2

from foveal.data.loader import Loader
from foveal.data.sources import load_dataset
from foveal.data.transforms import HorizontalFlip, Pipeline, RandomResizedCrop

SIZE, BATCH, FILES = 224, 32, 128
TARGETS = {"v2": 2.0, "v1": 3.0}
CROP = RandomResizedCrop((SIZE, SIZE))
MIRROR = HorizontalFlip()


class Draws:
    """What foveal draws for each image of an epoch, in order, for the others to do the same."""

    def __init__(self) -> None:
        self.boxes, self.flips = [], []
        for index in range(FILES):
            rng = np.random.default_rng([0, 0, index])  # seed, epoch, index: as in Pipeline
            self.boxes.append(CROP.draw(375, 500, rng))
            self.flips.append(rng.random() < MIRROR.p)

    def start(self) -> None:
        self.next_box, self.next_flip = iter(self.boxes), iter(self.flips)


DRAWS = Draws()


class V2Crop(v2.RandomResizedCrop):
    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        return dict(zip(("top", "left", "height", "width"), next(DRAWS.next_box), strict=True))


class V1Crop(transforms.RandomResizedCrop):
    @staticmethod
    def get_params(img: Any, scale: Any, ratio: Any) -> Any:
        return next(DRAWS.next_box)


class V2Flip(v2.RandomHorizontalFlip):
    def forward(self, image: Any) -> Any:
        return v2.functional.horizontal_flip(image) if next(DRAWS.next_flip) else image


class V1Flip(transforms.RandomHorizontalFlip):
    def forward(self, img: Any) -> Any:
        return transforms.functional.hflip(img) if next(DRAWS.next_flip) else img


def write_photographs(root: Path) -> None:
    """Folders of two classes with JPEG files of about 100 kB."""
    rng = np.random.default_rng(0)
    for number in range(FILES):
        for split in ("train", "val"):
            photograph = load_sample_images().images[number % 2]
            top, left = rng.integers(photograph.shape[0] - 375), rng.integers(photograph.shape[1] - 500)
            path = root / split / "ab"[number >= FILES // 2] / f"{number:04d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            if split == "train" or number % 2:
                Image.fromarray(photograph[top : top + 375, left : left + 500]).save(path, quality=95)


def timed(batches: Iterable[Any]) -> tuple[float, Tensor]:
    """(images a second, the images of the epoch)."""
    started = time.perf_counter()
    images = [batch if isinstance(batch, Tensor) else batch[0] for batch in batches]
    seconds = time.perf_counter() - started
    return FILES / seconds, torch.cat(images)


def main() -> None:
    options = arguments(__doc__, rounds=9).parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        write_photographs(Path(folder))
        dataset = load_dataset(folder).select("train")
        loader = Loader(dataset, Pipeline((CROP, MIRROR)), batch_size=BATCH)
        chains = {
            "v2": v2.Compose([v2.PILToTensor(), V2Crop(SIZE, antialias=True), V2Flip()]),
            "v1": transforms.Compose([V1Crop(SIZE), V1Flip(), transforms.PILToTensor()]),
        }
        theirs = {
            name: DataLoader(torchvision.datasets.ImageFolder(f"{folder}/train", chain), BATCH)
            for name, chain in chains.items()
        }
        rates: dict[str, list[float]] = {}
        pixels: dict[str, Tensor] = {}
        for number in range(options.rounds + 1):
            DRAWS.start()
            for name, batches in (("foveal", (batch.images for batch in loader.epoch())), *theirs.items()):
                DRAWS.start()
                rate, pixels[name] = timed(batches)
                if number > 0:  # the first round warms up
                    rates.setdefault(name, []).append(rate)
        size = sum(path.stat().st_size for path in Path(folder, "train").rglob("*.jpg")) / FILES
    document: dict[str, Any] = {"machine": machine(), "bytes_a_file": size, "arms": {}}
    table = [["arm", "images/s", "foveal is so many times as fast", "target", "mean difference of 255"]]
    for name, values in rates.items():
        ratio = paired(rates["foveal"], values)
        apart = float((pixels[name].float() - pixels["foveal"].float()).abs().mean())
        document["arms"][name] = {"images_per_second": spread(values), "ratio": ratio, "difference": apart}
        target = TARGETS.get(name)
        said = "" if target is None else f"> {target:g} {'met' if ratio['median'] > target else 'MISSED'}"
        table.append([name, f"{spread(values)['median']:.0f}", within(ratio), said, f"{apart:.2f}"])
    report(document, [table], as_json=options.json)


if __name__ == "__main__":
    main()
