"""The perceptron: Rosenblatt 1958, "The perceptron: a probabilistic model for information storage and organization in
the brain", Psychological Review 65.

One unit a class answers whether the sum of its weighted inputs exceeds a threshold, and learns from its errors alone:

    s = W x + b                                   x: (D,) pixels in a row, W: (C, D), b: (C,)
    where y_c s_c <= 0:  W_c += eta y_c x, b_c += eta y_c         y_c = 1 for the class of the image, -1 for the others

Images come one after another in one order; where a class can be cut off from the others by a plane, errors end after
finitely many (Novikoff 1962). With several classes each is learned against the rest, and the highest sum decides.

Departs from the paper: its random wires from the retina to association units are left out, the response units see the
pixels; a first error is also a sum of exactly zero, and the threshold is learned, as in scikit-learn's Perceptron, with
whose weights it agrees to the last bit.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from foveal.classify.classifier import Scorer, label_indices, template_pictures, templates
from foveal.classify.labels import DIGITS
from foveal.classify.linear import PIXELS
from foveal.errors import InputError
from foveal.structures import Batch
from foveal.system import Spec


@dataclass(frozen=True)
class PerceptronSpec(Spec):
    """eta0:   factor on each correction.
    passes: how often all images are gone through, at most; a pass without an error is the last.
    """

    eta0: float = 1.0
    passes: int = 20


class Perceptron(Scorer):
    """Scores that are linear in the pixels, learned by the correction of errors."""

    def __init__(self, spec: PerceptronSpec) -> None:
        super().__init__(spec)
        if spec.eta0 <= 0 or spec.passes < 1:
            raise InputError(f"eta0 is above 0 and passes at least 1, not {spec.eta0} and {spec.passes}")
        self.eta0, self.passes = spec.eta0, spec.passes
        self.classifier = templates(spec)

    def forward(self, images: Tensor) -> Tensor:
        self.check_exact(images.shape[2:])
        return self.classifier(self.normalize(images).flatten(1))  # (B, 3, H, W) -> (B, D) -> (B, C)

    def fit(self, data: Iterable[Batch]) -> None:
        weight = torch.zeros(self.classifier.weight.shape, dtype=torch.float64)
        bias = torch.zeros(len(self.labels), dtype=torch.float64)
        for _ in range(self.passes):
            errors = 0
            for batch in data:
                pixels = self.normalize(batch.images.to(self.device)).flatten(1).cpu().double()
                errors += correct_errors(weight, bias, pixels, label_indices(batch).cpu(), self.eta0)
            if not errors:
                break
        with torch.no_grad():
            self.classifier.weight.copy_(weight)
            self.classifier.bias.copy_(bias)

    def pictures(self) -> dict[str, tuple[Tensor, tuple[str, ...]]]:
        return template_pictures(self.classifier.weight, self)


def correct_errors(weight: Tensor, bias: Tensor, inputs: Tensor, labels: Tensor, eta: float) -> int:
    """Show inputs (N, D) with their labels (N,), one after another, to units (C, D), (C,), which are changed in place.

    Returns how many times a unit was wrong.
    """
    # NumPy's calls take a fifth of the time of torch's, which here is most of it.
    sign = np.where(np.arange(len(weight)) == labels.numpy()[:, None], 1.0, -1.0)  # (N, C): y
    w, b, errors = weight.numpy(), bias.numpy(), 0
    for x, y in zip(inputs.numpy(), sign, strict=True):
        wrong = y * (w @ x + b) <= 0  # (C,)
        if wrong.any():
            w[wrong] += (eta * y[wrong])[:, None] * x
            b[wrong] += eta * y[wrong]
            errors += int(wrong.sum())
    return errors


VARIANTS = {"perceptron": PerceptronSpec(DIGITS, PIXELS)}
