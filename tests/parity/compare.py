"""How a system is held against its oracle: the same weights in, the same outputs and gradients out."""

from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import version
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from foveal.build import create
from foveal.system import System
from foveal.weights import translate

LABELS = ("a", "b", "c", "d", "e")
TOLERANCE = 1e-9  # relative, in float64: rounding gives about 1e-14, any difference of substance far more than 1e-9


def oracle(name: str) -> ModuleType:
    """An optional module; skips the test where it is not installed, or does not go with the installed torch."""
    try:
        return import_module(name)
    except ImportError as error:
        pytest.skip(f"{name} is not installed: {error}", allow_module_level=True)
    except RuntimeError as error:
        # How a torchvision that was built for another torch shows itself, in timm too.
        if "torchvision::" not in str(error):
            raise
        pytest.skip(f"{name} does not go with this torch: {error}", allow_module_level=True)


def randomise(module: nn.Module, seed: int = 0) -> nn.Module:
    """Random numbers for all that a default initialisation leaves at zero or one, and weights that keep the signal.

    Gains in (0.5, 1), biases and running means of deviation 0.2, running variances in (0.5, 1.5), other weights with
    the deviation (2 / fan-in) ** 0.5. Done in float32, so that the numbers pass through a file without rounding.
    """
    generator = torch.Generator().manual_seed(seed)
    kept = module.state_dict().keys()
    with torch.no_grad():
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if not tensor.is_floating_point() or name not in kept:
                continue  # counters, and constants such as those of a System's own normalisation
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5, generator=generator)
            elif tensor.dim() == 1 and name.endswith("weight"):
                tensor.uniform_(0.5, 1.0, generator=generator)
            elif tensor.dim() < 2 or len(tensor) == 1:
                tensor.normal_(0, 0.2, generator=generator)
            else:
                tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5, generator=generator)
    return module.eval()


def relative_error(actual: Tensor, expected: Tensor, least: float = 0.0) -> float:
    """|actual - expected| / |expected|, Euclidean norms, of which the second counts as no less than `least`."""
    assert actual.shape == expected.shape, f"{tuple(actual.shape)} for {tuple(expected.shape)}"
    norm = expected.norm().clamp(min=least)
    assert norm > 0, "the oracle's value is zero, which shows nothing"
    return ((actual - expected).norm() / norm).item()


def compare_gradients(
    found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], tolerance: float = TOLERANCE, floor: float = 0.0
) -> float:
    """Asserts that both have the same gradients under the same names; returns the largest error.

    floor: what the norm of one counts as at least, in parts of that of all, where some are zero but for rounding.
    """
    assert found.keys() == wanted.keys()
    least = floor * torch.stack([gradient.norm() for gradient in wanted.values()]).norm().item()
    errors = {name: relative_error(found[name], wanted[name], least) for name in wanted}
    worst = max(errors, key=errors.__getitem__)
    assert errors[worst] < tolerance, f"the gradient of {worst} differs by {errors[worst]:.1e}"
    return errors[worst]


def gradients_of(module: nn.Module) -> dict[str, Any]:
    """None where nothing reached a parameter: an oracle may have such, a system of ours may not."""
    return {name: parameter.grad for name, parameter in module.named_parameters()}


def compare_logits_and_gradients(
    system: System,
    reference: nn.Module,
    to_ours: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]],
    *,
    size: int | tuple[int, int] = 64,
    tolerance: float = TOLERANCE,
) -> dict[str, float]:
    """Asserts that both give the same logits for two random images in float64, and the same gradients of them.

    The objective is a random combination of the logits. Gradients are those of the images and of every parameter;
    `to_ours` takes what is under the oracle's names to ours. The oracle gets the images that our system normalised.

    Returns what a row of the table of parity says: parameters, and the larger of the errors of each kind.
    """
    torch.manual_seed(0)
    height, width = (size, size) if isinstance(size, int) else size
    system, reference = system.double().eval(), reference.double().eval()
    images = torch.rand(2, 3, height, width, dtype=torch.float64)
    ours, theirs = images.clone().requires_grad_(), images.clone().requires_grad_()
    logits, expected = system(ours), reference(system.normalize(theirs))
    direction = torch.randn_like(expected)
    (logits * direction).sum().backward()
    (expected * direction).sum().backward()

    logits_error = relative_error(logits, expected)
    assert logits_error < tolerance, f"logits differ by {logits_error:.1e}"
    wanted = dict(to_ours(gradients_of(reference))) | {"images": theirs.grad}
    worst = compare_gradients(gradients_of(system) | {"images": ours.grad}, wanted, tolerance)
    return {"parameters": parameters_of(system), "logits": logits_error, "gradients": worst}


def compare_losses(
    system: System,
    reference: nn.Module,
    losses: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    *,
    rename: Callable[[str], str] = str,
    tolerance: float = TOLERANCE,
    floor: float = 0.0,
) -> dict[str, float]:
    """Asserts that our terms of the loss are the oracle's, and so are their gradients by every parameter of ours.

    The objective is the sum of the terms, all brought to the size of one, so that none hides. `rename` takes the
    oracle's names to those in its files, `floor` is that of `compare_gradients`.

    Returns what a row of the table of parity says, with the largest error of a term as that of logits.
    """
    assert losses.keys() == expected.keys()
    errors = {name: relative_error(losses[name], expected[name]) for name in expected}
    assert max(errors.values()) < tolerance, errors
    for terms in (losses, expected):
        torch.stack([term / expected[name].detach() for name, term in terms.items()]).sum().backward()
    theirs = {rename(name): gradient for name, gradient in gradients_of(reference).items() if gradient is not None}
    wanted = translate(system, theirs)[1]
    worst = compare_gradients(gradients_of(system), wanted, tolerance, floor)
    return {"parameters": parameters_of(system), "logits": max(errors.values()), "gradients": worst}


def parameters_of(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def by_order(reference: nn.Module, name: str, **fields: Any) -> dict[str, str]:
    """The oracle's names -> ours, where tensors stand in one order: for packages whose names we do not read."""
    with torch.device("meta"):
        return dict(zip(reference.state_dict(), create(name, **fields).state_dict(), strict=True))


def on_meta(build: Callable[[], nn.Module]) -> nn.Module:
    """An oracle without numbers, whose own initial ones would take time."""
    with torch.device("meta"):
        return build()


def row(variant: str, package: str, model: str, layout: str, figures: Mapping[str, float]) -> dict[str, object]:
    """A row of the table of parity, for `record_property("parity", ...)`; conftest.py gathers and writes them."""
    return {"variant": variant, "oracle": by(package, model), "layout": layout, **figures}


def by(package: str, model: str) -> str:
    """The oracle as the table of parity names it."""
    return f"{package} {version(package)} `{model}`"


def check_published(name: str, weights: str = "IMAGENET1K_V1") -> None:
    """Asserts that parameters, class names and preprocessing are those that torchvision publishes."""
    published = oracle("torchvision.models").get_model_weights(name)[weights]
    with torch.device("meta"):
        system = create(name)
    assert sum(parameter.numel() for parameter in system.parameters()) == published.meta["num_params"]
    assert list(system.labels) == published.meta["categories"]
    theirs, ours = published.transforms(), system.preprocess
    assert (list(ours.mean), list(ours.std)) == (theirs.mean, theirs.std)
    assert (ours.interpolation, ours.resize) == (theirs.interpolation.value, "crop")
    assert ([ours.size[0]], [round(ours.size[0] / ours.crop)]) == (theirs.crop_size, theirs.resize_size)


def check_timm_preprocessing(name: str, model: str) -> None:
    """Asserts that parameters and preprocessing are those of timm's model."""
    with torch.device("meta"):
        reference, system = oracle("timm").create_model(model), create(name)
    assert sum(p.numel() for p in system.parameters()) == sum(p.numel() for p in reference.parameters())
    theirs, ours = reference.default_cfg, system.preprocess
    assert (ours.mean, ours.std, ours.interpolation) == (theirs["mean"], theirs["std"], theirs["interpolation"])
    assert (3, *ours.size) == theirs["input_size"]
    assert round(ours.size[0] / ours.crop) == int(ours.size[0] / theirs["crop_pct"])
