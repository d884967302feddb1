"""The one table of systems: a line a family, with the names of its variants. The task is the family's folder.

The lines name modules without importing them, so that `names()` costs nothing; a test holds them against each family's
own table VARIANTS. What builds a system by its name is in build.py.
"""

import re
from dataclasses import fields
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_type_hints

from foveal.errors import InputError, nearest

FAMILIES = {
    "classify.perceptron:Perceptron": "perceptron",
    "classify.neocognitron:Neocognitron": "neocognitron",
    "classify.visual_words:VisualWords": "visual_words_patches visual_words_hog",
    "classify.linear:Linear": "linear_softmax linear_svm",
    "classify.neighbors:Neighbors": "knn",
    "classify.pca:PCA": "pca",
    "classify.ensemble:Ensemble": "ensemble",
    "classify.lenet:LeNet": "lenet lenet_relu lenet_cifar",
    "classify.alexnet:AlexNet": "alexnet alexnet_paper alexnet_nano zfnet zfnet_nano",
    "classify.vgg:VGG": "vgg11 vgg13 vgg16 vgg19 vgg11_bn vgg13_bn vgg16_bn vgg19_bn vgg_nano",
    "classify.googlenet:GoogLeNet": "googlenet googlenet_paper googlenet_nano",
    "classify.inception:InceptionV3": "inception_v3 inception_v3_fid inception_v3_nano",
    "classify.resnet:ResNet": "resnet18 resnet34 resnet50 resnet101 resnet152 wide_resnet50_2 wide_resnet101_2 "
    "resnext50_32x4d resnext101_32x8d resnext101_64x4d resnetv2_18 resnetv2_34 resnetv2_50 resnetv2_101 resnetv2_152 "
    "resnet20_cifar resnet32_cifar resnet44_cifar resnet56_cifar resnet110_cifar resnet_nano resnet10_nano",
    "classify.densenet:DenseNet": "densenet121 densenet161 densenet169 densenet201 densenet40_cifar "
    "densenet100_bc_cifar densenet_nano",
    "classify.mobilenet:MobileNet": "mobilenetv1_100 mobilenet_v2 mobilenet_v3_large mobilenet_v3_small "
    "mobilenet_v3_large_reduced mobilenetv3_large_100 mobilenetv3_small_100 tf_mobilenetv3_large_100 "
    "tf_mobilenetv3_small_100 efficientnet_lite0 tf_efficientnet_lite0 mobilenet_v1_nano mobilenet_v2_nano "
    "mobilenet_v3_nano",
    "classify.senet:SENet": "seresnet18 seresnet34 seresnet50 seresnet101 seresnet152 seresnext50_32x4d "
    "seresnext101_32x4d senet154 legacy_seresnet18 legacy_seresnet34 legacy_seresnet50 legacy_seresnet101 "
    "legacy_seresnet152 legacy_seresnext50_32x4d legacy_seresnext101_32x4d legacy_senet154 senet_nano",
    "classify.nonlocal_resnet:NonLocalResNet": "resnet50_nonlocal resnet101_nonlocal resnet_nonlocal_nano",
    "classify.local_attention:LocalAttentionResNet": "sasa_resnet26 sasa_resnet38 sasa_resnet50 sasa_nano",
    "classify.pixel_transformer:PixelTransformer": "pixel_transformer pixel_transformer_nano",
    "classify.vit:ViT": "vit_b_16 vit_b_32 vit_l_16 vit_l_32 vit_h_14 vit_t_16 vit_s_16 vit_s_32 deit_tiny_patch16_224 "
    "deit_small_patch16_224 deit_base_patch16_224 vit_nano",
    "classify.deit:DeiT": "deit_tiny_distilled_patch16_224 deit_small_distilled_patch16_224 "
    "deit_base_distilled_patch16_224 deit_nano",
    "classify.swin:Swin": "swin_t swin_s swin_b swin_nano",
    "classify.mixer:Mixer": "mixer_s16_224 mixer_s32_224 mixer_b16_224 mixer_b32_224 mixer_l16_224 mixer_l32_224 "
    "mixer_nano",
    "classify.probe:Probe": "probe probe_nano",
    "detect.sliding_window:SlidingWindow": "sliding_window sliding_window_nano",
    "detect.rcnn:RCNN": "rcnn_vgg16 rcnn_nano",
    "detect.fast_rcnn:FastRCNN": "fast_rcnn_vgg16 fast_rcnn_nano",
    "detect.proposals:RPN": "rpn_resnet50_fpn rpn_nano",
    "detect.faster_rcnn:FasterRCNN": "fasterrcnn_resnet50_fpn fasterrcnn_resnet50_fpn_v2 fasterrcnn_resnet50_c4 "
    "fasterrcnn_mobilenet_v3_large_fpn fasterrcnn_mobilenet_v3_large_320_fpn fasterrcnn_efficientnet_lite0_fpn "
    "faster_rcnn_nano",
    "detect.retinanet:RetinaNet": "retinanet_resnet50_fpn retinanet_resnet50_fpn_v2 retinanet_efficientnet_lite0_fpn "
    "retinanet_nano",
    "detect.fcos:FCOS": "fcos_resnet50_fpn fcos_nano",
    "detect.ssd:SSD": "ssd300_vgg16 ssd512_vgg16 ssd_nano",
    "detect.ssdlite:SSDLite": "ssdlite320_mobilenet_v3_large",
    "detect.detr:DETR": "detr_resnet50 detr_resnet50_dc5 detr_resnet101 detr_resnet101_dc5 detr_nano",
    "generate.vae:VAE": "vae_fc vae vae_fc_nano vae_nano",
    "generate.autoencoder:Autoencoder": "autoencoder autoencoder_nano",
    "generate.gan:GAN": "gan gan_nano",
    "generate.dcgan:DCGAN": "dcgan dcgan_nano",
    "generate.vqvae:VQVAE": "vqvae vqvae_nano",
    "generate.vqvae_prior:VQVAEPrior": "vqvae_prior vqvae_prior_nano",
    "generate.ddpm:DDPM": "ddpm_cifar10 ddpm_nano",
    "generate.pixelcnn:PixelCNN": "pixelcnn pixelcnn_nano",
    "generate.gated_pixelcnn:GatedPixelCNN": "gated_pixelcnn gated_pixelcnn_nano",
    "generate.pixelrnn:PixelRNN": "pixelrnn_row pixelrnn_row_nano pixelrnn_diagonal pixelrnn_diagonal_nano",
}
PREPARATION = ("image_size", "mean", "std")  # settings of every system, that its Preprocess holds
ENTRIES = {name: family for family, variants in FAMILIES.items() for name in variants.split()}


def names(task: str | None = None) -> list[str]:
    """The names that `create` takes, of one task or of all."""
    tasks = {family.split(".")[0] for family in FAMILIES}
    if task is not None and task not in tasks:
        raise InputError(f"unknown task {task!r}{nearest(task, tasks)}")
    return [name for name in ENTRIES if task in (None, task_of(name))]


def task_of(name: str) -> str:
    """The task of a catalog name."""
    return ENTRIES[name].split(".")[0]


def told(name: str) -> tuple[str, str]:
    """What the family of a name is, and its source, an arXiv id or a year: by the head of its file, which is read as
    text, since to import all of them takes seconds."""
    module = ENTRIES[name].partition(":")[0].replace(".", "/")
    head = (Path(__file__).parent / f"{module}.py").read_text(encoding="utf-8").split('"""')[1]
    source = re.search(r"arXiv:\d{4}\.\d{4,5}", head) or re.search(r"\b(19|20)\d\d\b", head)
    return " ".join(head.partition(":")[0].split()), source[0] if source else ""


class Size(NamedTuple):
    """Height and width of a system's images, its parameters, as `create` makes it without further settings, and the
    package that brings weights of it, or "-"."""

    height: int
    width: int
    parameters: int
    package: str


@cache
def sizes() -> dict[str, Size]:
    """The size of each catalog name, from a file that recipes/sizes.py writes, since building them all takes long."""
    rows = (line.split("\t") for line in (Path(__file__).parent / "sizes.txt").read_text("utf-8").splitlines())
    return {name: Size(int(height), int(width), int(count), package) for name, height, width, count, package in rows}


def variant(name: str) -> Any:
    """The catalog's Spec of a name."""
    if name not in ENTRIES:
        raise InputError(f"unknown system {name!r}{nearest(name, ENTRIES)}")
    return _module(name).VARIANTS[name]


def family(name: str) -> Any:
    """The class of the system of a name."""
    return getattr(_module(name), ENTRIES[name].split(":")[1])


def settable(spec: Any) -> list[str]:
    """The fields of a variant that a user may change by name, besides labels and weights."""
    return [*PREPARATION, *(field.name for field in fields(spec) if field.name not in ("labels", "recipe", "finetune"))]


def holds_systems(hint: Any) -> bool:
    """Whether a field of this type is for systems: `System | None` or `tuple[System, ...]`."""
    from foveal.system import System

    return System in (hint, *get_args(hint))


def is_base(hint: Any) -> bool:
    """Whether a field of this type is for the system that another is built upon: `System | str`."""
    return holds_systems(hint) and str in get_args(hint)


def base_fields(spec: Any) -> list[str]:
    """The fields of a variant for the system that it is built upon."""
    return [field for field, hint in get_type_hints(type(spec)).items() if is_base(hint)]


def needs_systems(name: str) -> bool:
    """Whether a name cannot be made without trained systems, of which its own weights are."""
    hints = get_type_hints(type(variant(name)))
    return any(holds_systems(hint) and not is_base(hint) for hint in hints.values())


def _module(name: str) -> Any:
    return import_module(f"foveal.{ENTRIES[name].split(':')[0]}")
