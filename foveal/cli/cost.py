"""foveal cost"""

from dataclasses import dataclass

from foveal.build import create
from foveal.catalog import ENTRIES
from foveal.cli.common import RunOrName, answer, find_system, parse


@dataclass
class Cost:
    """Parameters, multiply-accumulates, memory and receptive field, layer by layer and in sum.

    Example: foveal cost resnet50 --size 224
    """

    system: RunOrName
    """A system's name, or a run or checkpoint."""
    size: int | None = None
    """Height and width of the image in pixels; default the system's own."""
    depth: int | None = None
    """One line for each module of this depth: 1 gives stages, 2 blocks; default each layer."""
    json: bool = False
    """One JSON document on stdout."""


def run(words: list[str]) -> None:
    options = parse(Cost, "cost", words)
    from foveal.cost import cost

    if options.system in ENTRIES and options.size is not None:
        system = create(options.system, image_size=options.size)  # some systems are built for one size
    else:
        system = find_system(options.system, untrained=True)
    costs = cost(system, options.size)
    answer({"system": options.system, **costs.json()}, options.json, costs.table(options.depth))
