"""DeiT, a Vision Transformer with a token that learns from a teacher: Touvron, Cord, Douze, Massa, Sablayrolles and
Jegou 2020, "Training data-efficient image transformers and distillation through attention", arXiv:2012.12877.

A second token beside the class token goes through all blocks and has a classifier of its own. The class token learns
what the labels say, the distillation token what a teacher says of the same image (`teacher` in foveal/train/config.py);
both answer together:

    z_0 = [class token; distillation token; patches E] + positions
    loss = 1/2 cross-entropy(class scores, label) + 1/2 cross-entropy(distillation scores, teacher's answer)
    forward = (class scores + distillation scores) / 2

Without a teacher both learn from the labels. Departs from the paper: it adds the probabilities of the two heads in the
end, here their scores are averaged, as its authors' code does. DeiT without this token is a plain ViT: see
foveal/classify/vit.py.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from foveal.classify.labels import DIGITS, IMAGENET_1K
from foveal.classify.vit import DEIT, NANO, NANO_RECIPE, RECIPE, SMALL, ViT, ViTSpec
from foveal.errors import InputError
from foveal.structures import Batch


@dataclass(frozen=True)
class DeiTSpec(ViTSpec):
    __doc__ = ViTSpec.__doc__

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pool != "token":
            raise InputError("the classifiers of DeiT read its tokens: pool must be token")


class DeiT(ViT):
    """Images are (B, 3, H, W) of the one size in `preprocess`, whose places the positions are."""

    spec: DeiTSpec
    token_names: ClassVar[tuple[str, ...]] = ("class_token", "distillation_token")
    taught: ClassVar[str] = "distillation_token"

    def __init__(self, spec: DeiTSpec) -> None:
        super().__init__(spec)
        self.distillation_classifier = nn.Linear(spec.width, len(spec.labels))
        nn.init.trunc_normal_(self.distillation_classifier.weight, std=0.02)
        nn.init.zeros_(self.distillation_classifier.bias)

    def forward(self, images: Tensor) -> Tensor:
        return self.heads(images)["class"]

    def heads(self, images: Tensor) -> dict[str, Tensor]:
        """Each token's scores, and their mean, which is what the system answers."""
        y = self.norm(self.encode(images)[:, :2])  # (B, 2, width)
        scores = self.classifier(y[:, 0]), self.distillation_classifier(y[:, 1])
        return {"class": torch.stack(scores).mean(0), **dict(zip(self.token_names, scores, strict=True))}

    def losses(self, heads: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        learning = [name for name in self.token_names if name != self.taught or batch.targets[0].teacher is None]
        terms = [super(DeiT, self).losses({"class": heads[name]}, batch)["class"] for name in learning]
        return {"class": torch.stack(terms).mean()}


VARIANTS = {
    "deit_tiny_distilled_patch16_224": DeiTSpec(IMAGENET_1K, DEIT, RECIPE, width=192, heads=3),
    "deit_small_distilled_patch16_224": DeiTSpec(IMAGENET_1K, DEIT, RECIPE, width=384, heads=6),
    "deit_base_distilled_patch16_224": DeiTSpec(IMAGENET_1K, DEIT, RECIPE),
    "deit_nano": DeiTSpec(DIGITS, SMALL, NANO_RECIPE, **NANO),
}
