"""Auxiliary classifiers: more heads, on maps in the midst of a network, whose losses help the first layers to learn
(Szegedy et al. 2014, "Going deeper with convolutions", arXiv:1409.4842, section 5). Answers do without them.

    loss = L(scores) + weight * sum of L(scores of each auxiliary classifier)
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from foveal.classify.classifier import Classifier
from foveal.structures import Batch

PREFIX = "auxiliary"  # the names of the heads, and of their parameters, begin so


class AuxiliaryClassifier(Classifier):
    """A classifier that has such heads if `spec.auxiliary`, their losses multiplied by `spec.auxiliary_weight`.

    Each is a module whose name begins with `PREFIX` and whose last layer is called output.
    """

    spec: Any

    def losses(self, heads: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        terms = {
            name: super(AuxiliaryClassifier, self).losses({"class": x}, batch)["class"] for name, x in heads.items()
        }
        return {name: term if name == "class" else self.spec.auxiliary_weight * term for name, term in terms.items()}

    def needed(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: x for name, x in weights.items() if self.spec.auxiliary or not name.startswith(PREFIX)}

    def misfit(self, weights: Mapping[str, Tensor]) -> str | None:
        has_them = any(name.startswith(PREFIX) and name.endswith(".output.weight") for name in weights)
        if not self.spec.auxiliary or has_them or "classifier.weight" not in weights:
            return None
        return "it has no auxiliary classifiers; create it with auxiliary=False"
