"""foveal: every system of deep computer vision, trained, evaluated, explained and run on your own images.

The names below are all there is to know to begin; each is imported when first used, so that `import foveal` costs
nothing. `foveal.train`, `foveal.explain`, `foveal.cost` and `foveal.accelerate` are modules that can be called.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "names": "catalog",
    "create": "build",
    "load": "build",
    "load_dataset": "data.sources",
    "evaluate": "train.evaluate",
    "check_gradients": "train.gradients",
    "predict": "report.answers",
    "signals": "explain.depth",
    "TrainConfig": "train.config",
    "InputError": "errors",
}
_MODULES = (
    "accelerate",
    "train",
    "explain",
    "cost",
    "structures",
    "ops",
    "losses",
    "metrics",
    "nn",
    "system",
    "catalog",
    "data",
    "report",
)

__all__ = [
    "InputError",
    "TrainConfig",
    "accelerate",
    "check_gradients",
    "cost",
    "create",
    "evaluate",
    "explain",
    "load",
    "load_dataset",
    "names",
    "predict",
    "signals",
    "train",
]

if TYPE_CHECKING:
    from foveal.accelerate import accelerate
    from foveal.build import create, load
    from foveal.catalog import names
    from foveal.cost import cost
    from foveal.data.sources import load_dataset
    from foveal.errors import InputError
    from foveal.explain.depth import signals
    from foveal.explain.explanation import explain
    from foveal.report.answers import predict
    from foveal.report.training import train
    from foveal.train.config import TrainConfig
    from foveal.train.evaluate import evaluate
    from foveal.train.gradients import check_gradients


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"foveal.{_HOMES[name]}"), name)
    if name in _MODULES:
        return import_module(f"foveal.{name}")
    raise AttributeError(f"module 'foveal' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_MODULES, "__version__"])
