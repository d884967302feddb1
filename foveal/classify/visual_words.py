"""Bags of visual words: Csurka, Dance, Fan, Willamowsky and Bray 2004, "Visual categorization with bags of keypoints".

An image is described by how often each of a set of small patterns, its visual words, occurs in it:

    descriptors of patches -> the nearest of K words, found by k-means -> histogram -> support vector machine

A descriptor is the patch itself without its mean, divided by its norm (Coates, Lee and Ng 2011), or the histograms of
its gradients' directions (Dalal and Triggs 2005), each pixel weighted by the length of its gradient:

    (gx, gy) by central differences, theta = atan2(gy, gx) mod pi, shared by the two directions that are nearest

Where a word stands is told by histograms of the whole and of its quarters (Lazebnik, Schmid and Ponce 2006). A machine
for each class against the others is linear, or compares histograms by

    k(x, y) = exp(-gamma sum (x - y)^2 / (x + y))              1 / gamma = the mean of that sum (Zhang et al. 2007)

Departs from the paper: patches lie on a dense grid instead of at interest points, and SIFT's weights are left out. The
words and the machines are scikit-learn's, and are kept as tensors.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, normalize, pad, unfold

from foveal.classify.classifier import Scorer, label_indices
from foveal.classify.labels import DIGITS
from foveal.errors import InputError
from foveal.nn.fitted import Fitted
from foveal.structures import Batch
from foveal.system import Preprocess, Spec

DIRECTIONS = 8
FLAT = 0.02  # length of a descriptor, as a share of the longest possible, below which nothing is to be seen in it
GLYPH = 21  # pixels of a quarter in the picture of a word
MOST_SHOWN = 60  # words in a picture


@dataclass(frozen=True)
class VisualWordsSpec(Spec):
    """descriptor: the patch itself, or histograms of the directions of its gradients.
    machine: the kernel of the support vector machines.
    words: size of the codebook.
    patch: side of a patch in pixels.
    stride: pixels from one patch to the next.
    levels: 1 for one histogram of the whole image, 2 with its quarters, 3 with their quarters.
    cost: the weight of errors in the support vector machines, their C.
    sample: most patches that the codebook is made from, drawn at random.
    """

    descriptor: Literal["patch", "gradients"] = "patch"
    machine: Literal["linear", "chi2"] = "linear"
    words: int = 200
    patch: int = 6
    stride: int = 1
    levels: int = 2
    cost: float = 1.0
    sample: int = 50000


class VisualWords(Scorer):
    """Scores are the distances to the planes of the support vector machines."""

    def __init__(self, spec: VisualWordsSpec) -> None:
        super().__init__(spec)
        if spec.words < 2 or min(spec.stride, spec.levels, spec.sample) < 1 or spec.cost <= 0:
            raise InputError(
                "words are at least 2, of which one is for what is flat; stride, levels, sample and cost are above 0"
            )
        if spec.patch < 2 or (spec.descriptor == "gradients" and spec.patch % 2):
            raise InputError(f"patch is at least 2 and, for gradients, even, not {spec.patch}")
        if spec.descriptor == "gradients" and not spec.preprocess.grey:
            raise InputError("gradients are those of grey images: its preprocess has to be grey")
        self.check_smallest(spec.preprocess.size, spec.patch + spec.stride * (2 ** (spec.levels - 1) - 1))
        self.spec: VisualWordsSpec = spec
        self.codebook = Fitted(words="K D", counts="K")
        # Scores are weight applied to the histogram (F,) or, with a kernel, to its likeness to the `supports`.
        if spec.machine == "linear":
            self.machines = Fitted(weight="C F", bias="C", supports="0", gamma="0")
        else:
            self.machines = Fitted(weight="C S", bias="C", supports="S F", gamma="")

    @torch.no_grad()
    def fitted_limits(self) -> dict[str, int | range]:
        blank, words = torch.zeros(1, 3, *self.preprocess.size, device=self.device), self.spec.words
        regions = sum(4**level for level in range(self.spec.levels))
        return {"C": len(self.labels), "D": self.describe(blank).shape[1], "K": words, "F": words * regions}

    def describe(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> descriptors of the patches (B, D, h, w)."""
        grey, spec = self.normalize(images), self.spec
        if spec.descriptor == "gradients":
            return gradient_histograms(grey, spec.patch, spec.stride)
        columns = unfold(grey, spec.patch, stride=spec.stride)  # (B, patch^2, h w)
        columns = columns - columns.mean(1, keepdim=True)
        length = spec.patch / 2  # of a patch that is half black, half white
        return columns_to_map(shortened(columns, FLAT * length), grey, spec.patch, spec.stride)

    def encode(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> histograms of the words (B, regions K), each region's share of the patches summing to 1."""
        words = self.codebook.get_buffer("words")
        found = nearest_words(self.describe(images).permute(0, 2, 3, 1), words)  # (B, h, w)
        return torch.cat([histograms(part, len(words)) for part in regions(found, self.spec.levels)], 1)

    def forward(self, images: Tensor) -> Tensor:
        if self.codebook.empty:  # nothing is known yet
            return images.new_zeros(len(images), len(self.labels))
        seen, machines = self.encode(images), self.machines
        if self.spec.machine == "chi2":
            seen = chi2_kernel(seen, machines.get_buffer("supports"), machines.get_buffer("gamma"))  # (B, S)
        return seen @ machines.get_buffer("weight").T + machines.get_buffer("bias")  # (B, C)

    @torch.no_grad()
    def fit(self, data: Iterable[Batch]) -> None:
        from sklearn.cluster import MiniBatchKMeans

        seed, spec = int(torch.randint(2**31, ())), self.spec
        count = sum(len(batch) for batch in data)
        each = math.ceil(spec.sample / count)  # patches of each image
        drawn = []
        for batch in data:
            found = self.describe(batch.images.to(self.device)).flatten(2).cpu()  # (B, D, h w)
            for image in found:
                drawn.append(image[:, torch.randperm(image.shape[1])[:each]].T)
        sample = torch.cat(drawn)
        sample = sample[sample.any(1)]  # what is flat is a word by itself
        if len(sample) < spec.words:
            raise InputError(f"{len(sample)} patches that show something are too few for {spec.words} words")
        means = MiniBatchKMeans(spec.words - 1, random_state=seed, n_init=3, batch_size=1024).fit(sample.numpy())
        words = torch.from_numpy(means.cluster_centers_).float()
        words = torch.cat([words.new_zeros(1, words.shape[1]), words]).to(self.device)
        self.codebook.keep(words=words, counts=torch.zeros(len(words)))
        rows = [(self.encode(batch.images.to(self.device)).cpu(), label_indices(batch).cpu()) for batch in data]
        seen, labels = (torch.cat(column) for column in zip(*rows, strict=True))
        used = seen[:, : spec.words].mean(0)  # the histogram of the whole image comes first
        self.codebook.keep(words=words, counts=used.to(self.device))
        learn = learn_linear if spec.machine == "linear" else learn_chi2
        machines = learn(seen, labels, len(self.labels), spec.cost, seed)
        self.machines.keep(**{name: tensor.float().to(self.device) for name, tensor in machines.items()})

    def pictures(self) -> dict[str, tuple[Tensor, tuple[str, ...]]]:
        """The words, those that occur most first, each with its share of all patches."""
        words, counts = self.codebook.get_buffer("words").cpu(), self.codebook.get_buffer("counts").cpu()
        order = counts.argsort(descending=True, stable=True)
        order = order[words[order].any(1)][:MOST_SHOWN]  # the flat one shows nothing
        if self.spec.descriptor == "gradients":
            drawn = glyphs(words[order])
        else:
            drawn = words[order].view(-1, 1, self.spec.patch, self.spec.patch)
            drawn = 0.5 + drawn / (2 * drawn.abs().amax((1, 2, 3), keepdim=True))
        return {
            "visual words": (drawn.expand(-1, 3, -1, -1), tuple(f"{share:.1%}" for share in counts[order].tolist()))
        }


def gradient_histograms(grey: Tensor, patch: int, stride: int) -> Tensor:
    """(B, 1, H, W) -> (B, 4 * DIRECTIONS, h, w): the directions of the gradients in the quarters of each patch.

    Channels: upper left, upper right, lower left, lower right quarter, in each the directions from 0 to pi.
    """
    padded = pad(grey, (1, 1, 1, 1), mode="replicate")
    gx = (padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]) / 2
    gy = (padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]) / 2
    length = torch.hypot(gx, gy)
    place = torch.atan2(gy, gx).remainder(math.pi) * (DIRECTIONS / math.pi)  # (B, 1, H, W) in [0, DIRECTIONS]
    distance = (place - torch.arange(DIRECTIONS, device=grey.device).view(-1, 1, 1)).abs()
    distance = torch.minimum(distance, DIRECTIONS - distance)  # pi is 0 again
    votes = length * (1 - distance).clamp(min=0)  # (B, DIRECTIONS, H, W)
    half = patch // 2
    cells = avg_pool2d(votes, half, stride=1)  # of each square of half a patch
    rows = range(0, cells.shape[2] - half, stride)
    columns = range(0, cells.shape[3] - half, stride)
    ends = rows[-1] + 1, columns[-1] + 1
    quarters = [cells[:, :, y : y + ends[0] : stride, x : x + ends[1] : stride] for y in (0, half) for x in (0, half)]
    return shortened(torch.cat(quarters, 1), FLAT)


def shortened(descriptors: Tensor, flat: float) -> Tensor:
    """(B, D, ...) with the length 1, or 0 for those that were shorter than `flat`."""
    return normalize(descriptors, dim=1) * (descriptors.norm(dim=1, keepdim=True) >= flat)


def columns_to_map(columns: Tensor, images: Tensor, patch: int, stride: int) -> Tensor:
    """What `unfold` gave, (B, D, h w), as a map (B, D, h, w)."""
    return columns.unflatten(2, [(side - patch) // stride + 1 for side in images.shape[2:]])


def nearest_words(descriptors: Tensor, words: Tensor) -> Tensor:
    """(..., D), (K, D) -> (...) int64: the word at the least distance."""
    # |x - w|^2 without |x|^2, which is the same for all words.
    return (words.square().sum(1) - 2 * descriptors @ words.T).argmin(-1)


def regions(found: Tensor, levels: int) -> Iterable[Tensor]:
    """(B, h, w) -> the whole, its quarters, their quarters and so on, as (B, n) each."""
    for level in range(levels):
        for rows in found.tensor_split(2**level, 1):
            for part in rows.tensor_split(2**level, 2):
                yield part.flatten(1)


def histograms(words: Tensor, count: int) -> Tensor:
    """(B, n) int64 below `count` -> the share of each, (B, count)."""
    offsets = count * torch.arange(len(words), device=words.device)[:, None]
    counted = torch.bincount((words + offsets).flatten(), minlength=count * len(words))
    return counted.view(len(words), count).float() / words.shape[1]


def chi2_distance(x: Tensor, y: Tensor) -> Tensor:
    """(A, F), (B, F), not negative -> (A, B): sum (x - y)^2 / (x + y), where 0 / 0 is 0."""
    rows = []
    for row in x:  # one at a time: all differences together would not fit
        difference, total = row - y, row + y
        rows.append((difference.square() / total.clamp(min=torch.finfo(total.dtype).tiny)).sum(1))
    return torch.stack(rows) if rows else x.new_zeros(0, len(y))


def chi2_kernel(x: Tensor, y: Tensor, gamma: Tensor | float) -> Tensor:
    """(A, F), (B, F) -> (A, B): exp(-gamma chi2_distance)."""
    return torch.exp(-gamma * chi2_distance(x, y))


def learn_linear(seen: Tensor, labels: Tensor, classes: int, cost: float, seed: int) -> dict[str, Tensor]:
    """One plane a class against the rest, from histograms (N, F): weight (C, F) and bias (C,)."""
    from sklearn.svm import LinearSVC

    # Shares of many words are small; so that C means the same for each codebook, they are brought to unit variance.
    scale = 1 / seen.std(0).norm().clamp(min=1e-12)
    weight, bias = torch.zeros(classes, seen.shape[1]), torch.full((classes,), -1.0)
    for c in labels.unique().tolist() if len(labels.unique()) > 1 else []:
        machine = LinearSVC(C=cost, random_state=seed, max_iter=5000).fit((seen * scale).numpy(), (labels == c).numpy())
        weight[c] = torch.from_numpy(machine.coef_[0]) * scale
        bias[c] = float(machine.intercept_[0])
    return {"weight": weight, "bias": bias}


def learn_chi2(seen: Tensor, labels: Tensor, classes: int, cost: float, seed: int) -> dict[str, Tensor]:
    """The same with the kernel: weight (C, S) of the S `supports` (S, F), bias (C,) and gamma ()."""
    from sklearn.svm import SVC

    distance = chi2_distance(seen, seen)
    gamma = 1 / distance.mean().clamp(min=1e-12)
    likeness = torch.exp(-gamma * distance).double().numpy()
    weight, bias = torch.zeros(classes, len(seen)), torch.full((classes,), -1.0)
    for c in labels.unique().tolist() if len(labels.unique()) > 1 else []:
        machine = SVC(C=cost, kernel="precomputed").fit(likeness, (labels == c).numpy())
        weight[c, torch.from_numpy(machine.support_).long()] = torch.from_numpy(machine.dual_coef_[0]).float()
        bias[c] = float(machine.intercept_[0])
    known = weight.any(0)
    return {"weight": weight[:, known], "bias": bias, "supports": seen[known], "gamma": gamma}


def glyphs(words: Tensor) -> Tensor:
    """(K, 4 * DIRECTIONS) -> (K, 1, 2 GLYPH, 2 GLYPH): in each quarter a line along the edges of each direction.

    An edge runs across its gradient; the brightness goes with the square of its strength, so that the main ones show.
    """
    offset = torch.arange(GLYPH) - GLYPH // 2
    y, x = offset[:, None].float(), offset[None].float()
    angle = torch.arange(DIRECTIONS).view(-1, 1, 1) * (math.pi / DIRECTIONS)
    # Distance from a line through the middle whose normal is the gradient, a pixel wide with soft borders.
    lines = (1.5 - (x * angle.cos() + y * angle.sin()).abs()).clamp(0, 1) * (torch.hypot(x, y) < GLYPH // 2)
    strength = words.clamp(min=0).view(-1, 4, DIRECTIONS, 1, 1)
    strength = strength / strength.amax((1, 2), keepdim=True).clamp(min=1e-12)
    cells = (strength.square() * lines).amax(2)  # (K, 4, GLYPH, GLYPH)
    upper, lower = torch.cat([cells[:, 0], cells[:, 1]], 2), torch.cat([cells[:, 2], cells[:, 3]], 2)
    return torch.cat([upper, lower], 1)[:, None]


SEEN = Preprocess(size=(24, 24), resize="squash", crop=1.0, mean=(0.0,), std=(1.0,), grey=True)

VARIANTS = {
    "visual_words_patches": VisualWordsSpec(DIGITS, SEEN),
    "visual_words_hog": VisualWordsSpec(
        DIGITS, SEEN, descriptor="gradients", machine="chi2", patch=8, stride=2, cost=10.0
    ),
}
