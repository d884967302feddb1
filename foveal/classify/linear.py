"""Linear classifiers: one template for each class, compared with the whole image by an inner product.

    s = W x + b        x: (B, D) pixels in a row, W: (C, D), b: (C,)

Softmax regression (Cox 1958) reads the scores as logits; the multi-class support vector machine (Weston and Watkins
1999) wants the right score ahead of each other one by a margin. They differ in the loss alone. After training, row c of
W is a picture: bright where ink speaks for class c, dark where it speaks against it.
"""

from typing import Any

from torch import Tensor

from foveal.classify.classifier import Classifier, ClassifierSpec, template_pictures, templates
from foveal.classify.labels import DIGITS
from foveal.system import Preprocess


class Linear(Classifier):
    """Scores that are linear in the pixels."""

    def __init__(self, spec: ClassifierSpec) -> None:
        super().__init__(spec)
        self.classifier = templates(spec)

    def forward(self, images: Tensor) -> Tensor:
        self.check_exact(images.shape[2:])
        return self.classifier(self.normalize(images).flatten(1))  # (B, 3, H, W) -> (B, D) -> (B, C)

    def pictures(self) -> dict[str, tuple[Tensor, tuple[str, ...]]]:
        return template_pictures(self.classifier.weight, self)


PIXELS = Preprocess(size=(32, 32), resize="squash", crop=1.0, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
RECIPE: dict[str, Any] = {"optimizer": "sgd", "lr": 0.002, "momentum": 0.9, "weight_decay": 0.01}

VARIANTS = {
    "linear_softmax": ClassifierSpec(DIGITS, PIXELS, RECIPE),
    "linear_svm": ClassifierSpec(DIGITS, PIXELS, RECIPE, criterion="hinge"),
}
