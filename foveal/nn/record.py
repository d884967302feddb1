"""Seeing inside a network: the outputs of its named modules."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from foveal.errors import InputError, nearest


@contextmanager
def record(system: nn.Module, *names: str) -> Iterator[dict[str, Any]]:
    """The outputs of the named modules, filled in by each forward pass inside the block, attached to the graph.

        with record(system, "stage4") as outputs:
            scores = system(images)
        outputs["stage4"]  # (B, C, H, W)

    A module that runs several times keeps its last output. Raises InputError for a name that is no module's.
    """
    modules = dict(system.named_modules(remove_duplicate=False))
    for name in names:
        if not name or name not in modules:
            # Names as deep as the wrong one, or less: a deep network has too many to list.
            known = [other for other in modules if other and other.count(".") <= name.count(".")]
            raise InputError(f"{type(system).__name__} has no module {name!r}{nearest(name, known)}")
    outputs: dict[str, Any] = {}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            outputs[name] = output

        return hook

    handles = [modules[name].register_forward_hook(keep(name)) for name in names]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()
