"""What comes early and what late in a network: layers with learning rates of their own, and a frozen beginning.

Modules stand in a system in the order in which images go through them.
"""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from foveal.errors import InputError, nearest

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def units(module: nn.Module) -> Iterator[nn.Module]:
    """The blocks of a residual network or a transformer, the layers of a plain chain: the outermost modules that stand
    in an nn.Sequential, nn.ModuleList or nn.ModuleDict, are none of these, and have more than biases and norms."""
    containers = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
    for child in module.children():
        if type(module) in containers and type(child) not in containers:
            if any(parameter.ndim > 1 for parameter in child.parameters()):
                yield child
        else:
            yield from units(child)


def layers(module: nn.Module) -> list[list[nn.Parameter]]:
    """Its parameters, layer by layer: each unit is one, what comes before them the first, what comes after the last."""
    unit_of = {parameter: number for number, unit in enumerate(units(module), 1) for parameter in unit.parameters()}
    last, current = max(unit_of.values(), default=0), 0
    found: dict[int, list[nn.Parameter]] = defaultdict(list)
    for parameter in module.parameters():
        current = unit_of.get(parameter, last + 1 if current >= last > 0 else current)
        found[current].append(parameter)
    return [found[number] for number in sorted(found)]


@contextmanager
def frozen(system: nn.Module, last: str | None) -> Iterator[None]:
    """Inside the block nothing up to and with the module of this name takes a gradient. Raises InputError for a name
    that is not there."""
    if last is not None and (not last or last not in dict(system.named_modules())):
        raise InputError(
            f"there is no module {last!r} to freeze up to{nearest(last, [*dict(system.named_children())])}"
        )
    early = _up_to(system, last) if last else []
    before = [parameter.requires_grad for parameter in early]
    for parameter in early:
        parameter.requires_grad = False
    try:
        yield
    finally:
        for parameter, grad in zip(early, before, strict=True):
            parameter.requires_grad = grad


def _up_to(system: nn.Module, last: str) -> list[nn.Parameter]:
    """The parameters of the modules that stand before the one named `last`, and of all in it."""
    names = [name for name, _ in system.named_modules()]
    end = max(place for place, name in enumerate(names) if name == last or name.startswith(f"{last}."))
    modules = dict(system.named_modules())
    return [parameter for name in names[: end + 1] for parameter in modules[name].parameters(recurse=False)]


def learning(system: nn.Module, keep_statistics: bool = False) -> None:
    """Training mode, but for modules whose parameters are all frozen, whose statistics stay as they are, too.

    keep_statistics: all batch norms stay in evaluation mode, while their affine terms are trained.
    """
    system.train()
    for module in system.modules():
        own = list(module.parameters(recurse=False))
        frozen = own and not any(parameter.requires_grad for parameter in own)
        if frozen or (keep_statistics and isinstance(module, BATCH_NORMS)):
            module.eval()
