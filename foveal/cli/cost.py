"""foveal cost"""

from dataclasses import dataclass

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
    json: bool = False
    """One JSON document on stdout."""


def run(words: list[str]) -> None:
    options = parse(Cost, "cost", words)
    from foveal.cost import cost

    costs = cost(find_system(options.system, untrained=True), options.size)
    answer({"system": options.system, **costs.json()}, options.json, costs.table())
