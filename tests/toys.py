"""Small systems of tasks that foveal does not have yet, and data for them: what the contract has to carry."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, l1_loss, softplus

from foveal.classify.classifier import Scorer
from foveal.data.dataset import Dataset, ImageArray, LabelColumn
from foveal.detect import detector
from foveal.structures import Batch, Caption, Objects, Picture
from foveal.system import Player, Preprocess, Spec, System

RECIPE = {"epochs": 4, "batch_size": 8, "lr": 0.01}
FIT = Preprocess((24, 24), "fit", 1.0, (0.0,) * 3, (1.0,) * 3)


class Detector(detector.Detector):
    """Finds bright squares in an image of any size: at each place, 4 pixels apart, how surely the middle of one is
    there, and how far it goes to the left, up, right and down."""

    def __init__(self) -> None:
        super().__init__(detector.DetectorSpec(("square",), FIT, RECIPE))
        self.body = nn.Sequential(nn.Conv2d(3, 8, 5, 2, 2), nn.ReLU(), nn.Conv2d(8, 16, 5, 2, 2), nn.ReLU())
        self.head = nn.Conv2d(16, 5, 3, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(self.normalize(images)))  # (B, 5, 6, 6)

    def loss(self, batch: Batch, player: str | None = None) -> dict[str, Tensor]:
        outputs = self(batch.images)
        there, off = torch.zeros_like(outputs[:, 0]), outputs.sum() * 0
        for n, target in enumerate(detector.to_learn(batch.targets)):
            column, row = ((target.boxes[:, :2] + target.boxes[:, 2:]) / 8).long().clamp(max=5).unbind(1)
            there[n, row, column] = 1
            off = off + l1_loss(self.boxes(outputs[n])[row, column], target.boxes, reduction="sum") / 24
        objectness = binary_cross_entropy_with_logits(outputs[:, 0], there, reduction="sum")
        return {"objectness": objectness / len(batch), "box": off / len(batch)}

    def boxes(self, output: Tensor) -> Tensor:
        """(5, 6, 6) -> (6, 6, 4)."""
        y, x = torch.meshgrid(*2 * [4 * torch.arange(6, device=output.device) + 2.0], indexing="ij")
        return torch.stack([x, y, x, y], -1) + 4 * output[1:].permute(1, 2, 0).exp() * output.new_tensor([-1, -1, 1, 1])

    def candidates(self, outputs: Tensor) -> list[detector.Candidates]:
        return [
            detector.Candidates(self.boxes(output).view(36, 1, 4), output[0].sigmoid().view(36, 1))
            for output in outputs
        ]

    @property
    def explained_layer(self) -> str:
        return "body"


class Looker(detector.Detector):
    """Finds red and green squares of 8 x 8 pixels by the mean of that colour, and knows nothing else of them."""

    def __init__(self, rule: Any = "fit", labels: tuple[str, ...] = ("red", "green")) -> None:
        preprocess = Preprocess((32, 32), rule, 1.0, (0.0,) * 3, (1.0,) * 3)
        super().__init__(detector.DetectorSpec(labels, preprocess, score_threshold=0.3))
        self.look = nn.AvgPool2d(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.look(self.normalize(images))[:, :2]

    def candidates(self, outputs: Tensor) -> list[detector.Candidates]:
        y, x = torch.meshgrid(*(4.0 * torch.arange(n) for n in outputs.shape[-2:]), indexing="ij")
        boxes = torch.stack([x, y, x + 8, y + 8], -1).view(-1, 1, 4)
        return [detector.Candidates(boxes, (20 * (one - 0.6)).sigmoid().flatten(1).T) for one in outputs]

    @property
    def explained_layer(self) -> str:
        return "look"


def squares(count: int = 48) -> Dataset:
    """Images of several sizes with one bright square in each."""
    draw = np.random.default_rng(0)
    images, targets = [], []
    for _ in range(count):
        height, width = draw.integers(20, 60, 2)
        side = int(draw.integers(6, 14))
        y, x = int(draw.integers(0, height - side)), int(draw.integers(0, width - side))
        image = torch.zeros(3, height, width, dtype=torch.uint8)
        image[:, y : y + side, x : x + side] = 255
        box = torch.tensor([[x, y, x + side, y + side]], dtype=torch.float32)
        images.append(image)
        targets.append(Objects(box, torch.zeros(1, dtype=torch.int64)))
    return Dataset("squares", "detect", ("square",), ImageArray(images, "squares"), targets, splits(count))


class Gan(System):
    """Two players: a generator of 8 x 8 images and a discriminator."""

    learns_from = Picture

    def __init__(self) -> None:
        super().__init__(Spec((), Preprocess((8, 8), "squash", 1.0, (0.5,) * 3, (0.5,) * 3), RECIPE))
        self.generator = nn.Sequential(
            nn.Linear(4, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 192), nn.Sigmoid()
        )
        self.discriminator = nn.Sequential(nn.Linear(192, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1))

    @property
    def players(self) -> dict[str, Player]:
        return {"discriminator": Player(self.discriminator), "generator": Player(self.generator)}

    def forward(self, images: Tensor) -> Tensor:
        return self.discriminator(self.normalize(images).flatten(1))[:, 0]

    def loss(self, batch: Batch, player: str | None = None) -> dict[str, Tensor]:
        fake = self.sample(len(batch))
        if player == "generator":
            return {"fool": softplus(-self(fake)).mean()}
        return {"real": softplus(-self(batch.images)).mean(), "fake": softplus(self(fake.detach())).mean()}

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        return self.generator(torch.randn(n, 4, generator=generator)).view(n, 3, 8, 8)


class Captioner(System):
    """Says the brightness of an image and stops: words one after another from a recurrent net."""

    answers = Caption

    def __init__(self) -> None:
        super().__init__(Spec(("<end>", "very", "dark", "bright"), FIT, RECIPE))
        self.see, self.word, self.cell = nn.Linear(3, 16), nn.Embedding(5, 16), nn.GRUCell(16, 16)
        self.say = nn.Linear(16, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.see(self.normalize(images).mean((2, 3))).tanh()

    def loss(self, batch: Batch, player: str | None = None) -> dict[str, Tensor]:
        state, terms = self(batch.images), []
        tokens = nn.utils.rnn.pad_sequence([t.tokens for t in batch.targets], True, padding_value=-100)
        before = torch.full((len(batch),), 4)
        for column in tokens.T:
            state = self.cell(self.word(before), state)
            terms.append(cross_entropy(self.say(state), column, reduction="sum"))
            before = column.clamp(min=0)
        return {"word": torch.stack(terms).sum() / (tokens >= 0).sum()}

    def decode(self, outputs: Tensor, batch: Batch) -> list[Caption]:
        captions = []
        for state in outputs:
            words, state, before = [], state[None], torch.tensor([4])
            while len(words) < 4 and (not words or words[-1] != 0):
                state = self.cell(self.word(before), state)
                before = self.say(state).argmax(1)
                words.append(int(before))
            captions.append(Caption(torch.tensor(words)))
        return captions


def brightness(count: int = 48) -> Dataset:
    """Even images with what one says of them, in sentences of two lengths."""
    level = torch.arange(count) % 4
    sentences = torch.tensor([[1, 2, 0], [2, 0, 0], [3, 0, 0], [1, 3, 0]])
    targets = [Caption(sentences[i][: 3 if i in (0, 3) else 2]) for i in level.tolist()]
    images = (level * 80)[:, None, None, None].expand(-1, 3, 20, 30).to(torch.uint8).contiguous()
    labels = ("<end>", "very", "dark", "bright")
    return Dataset("brightness", "caption", labels, ImageArray(images, "brightness"), targets, splits(count))


class NearestMean(Scorer):
    """Closed form: the class whose mean image is nearest."""

    def __init__(self, labels: tuple[str, ...]) -> None:
        super().__init__(Spec(labels, Preprocess((8, 8), "squash", 1.0, (0.0,) * 3, (1.0,) * 3)))
        self.register_buffer("means", torch.zeros(len(labels), 192))

    def fit(self, data: Any) -> None:
        sums, counts = torch.zeros_like(self.means), torch.zeros(len(self.labels), 1)
        for batch in data:
            index = torch.stack([target.label for target in batch.targets])
            sums.index_add_(0, index, self.normalize(batch.images).flatten(1))
            counts += torch.bincount(index, minlength=len(self.labels))[:, None]
        self.means.copy_(sums / counts)

    def forward(self, images: Tensor) -> Tensor:
        return -torch.cdist(self.normalize(images).flatten(1), self.means)


def splits(count: int) -> np.ndarray:
    return np.resize(np.array([0, 0, 0, 0, 1, 2], np.int8), count)


def small_digits(count: int = 240) -> Dataset:
    """The first digits, split without regard to content; enough to learn something in a second."""
    from foveal.data.builtin import digits

    whole = digits()
    images = ImageArray(whole.images.images[:count], "digits")  # type: ignore[attr-defined]
    targets = LabelColumn(whole.targets.values[:count])  # type: ignore[union-attr]
    return replace(whole, images=images, targets=targets, splits=splits(count))


def unlabelled(dataset: Dataset) -> Dataset:
    """The images alone, as data to generate."""
    return replace(dataset, task="generate", labels=(), targets=None)
