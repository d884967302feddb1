"""How deep networks begin: activations and gradients by depth under five initialisations, and what each of them learns.

claim     ten layers of relu learn the digits from Kaiming's start, ten of tanh from Xavier's; neither from zeros
command   python recipes/initialisation.py [PICTURE]
cost      about two minutes on two cores
expected  test accuracy above 0.9 for these two, below 0.2 for zeros; a picture, default initialisation.png
measured  docs/images/initialisation.png
"""

import sys
import tempfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, get_args

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import foveal
from foveal.classify.classifier import Classifier
from foveal.data.loader import Loader
from foveal.data.transforms import Fit, Pipeline
from foveal.nn.activation import ACTIVATIONS
from foveal.nn.init import Init
from foveal.nn.record import record
from foveal.report.draw import save_figure
from foveal.system import Preprocess, Spec

DEPTH, WIDTH, EPOCHS = 10, 256, 5
SHOWN = (1, 4, 7, 10)
BINS = 40
NON_LINEARITIES = ("tanh", "relu")
TITLES = {
    "zero": "zero",
    "small": "small\nstd 0.01",
    "large": "large\nstd 1",
    "xavier": "Xavier\nstd 1 / √D",
    "kaiming": "Kaiming\nstd √(2 / D)",
}
LIMITS = {"tanh": (-1.0, 1.0), "relu": (0.0, 4.0)}  # of the activations shown; what lies beyond stands at the edge
DECADES = (-14.0, 2.0)  # of the gradients


class Deep(Classifier):
    """Fully connected layers of one width. Images are (B, 3, 8, 8)."""

    def __init__(self, labels: tuple[str, ...], non_linearity: str, how: Init) -> None:
        super().__init__(Spec(labels, Preprocess((8, 8), "squash", 1.0, (0.3,) * 3, (0.4,) * 3)))
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for n in range(1, DEPTH + 1):
            layers[f"linear{n}"] = nn.Linear(192 if n == 1 else WIDTH, WIDTH)
            layers[f"activation{n}"] = ACTIVATIONS[non_linearity](WIDTH)
        self.layers = nn.Sequential(layers)
        self.classifier = nn.Linear(WIDTH, len(labels))
        self.initialise(how)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.layers(self.normalize(images).flatten(1)))


def look(system: Deep, batch: Any) -> dict[int, tuple[Tensor, Tensor]]:
    """Layer -> its activations, and the gradient of the loss with respect to what enters its non-linearity."""
    names = [f"layers.{kind}{n}" for n in SHOWN for kind in ("activation", "linear")]
    with record(system, *names) as outputs:
        (loss,) = system.loss(batch).values()
    entering = [outputs[f"layers.linear{n}"] for n in SHOWN]
    gradients = torch.autograd.grad(loss, entering)
    activations = [outputs[f"layers.activation{n}"].detach() for n in SHOWN]
    return dict(zip(SHOWN, zip(activations, gradients, strict=True), strict=True))


def learned(system: Deep, data: Any) -> str:
    """Test accuracy after a short training, in words."""
    with tempfile.TemporaryDirectory() as folder:
        settings = foveal.TrainConfig(
            out=f"{folder}/run", epochs=EPOCHS, optimizer="sgd", lr=0.02, plan="eager", quiet=True, report=False
        )
        try:
            foveal.train(system, data, settings)
        except foveal.InputError:  # the loss is not finite
            return "overflow"
    return f"{foveal.evaluate(system, data.select('test'))['accuracy']:.0%}"


def cell(axis: Any, values: Tensor, limits: tuple[float, float], colour: str, *, decades: bool = False) -> None:
    """The histogram of the values that are not zero, or of their size in decades, and in words the rest."""
    axis.set(xlim=limits, ylim=(0, 1.3), yticks=[])
    axis.tick_params(labelsize=7, length=2)
    for side in ("left", "right", "top"):
        axis.spines[side].set_visible(False)
    rest = values[values != 0]
    zeros = 1 - len(rest) / values.numel()
    words = f"std {short(values.std().item())}" + (f", {zeros:.0%} are 0" if zeros > 0.005 else "")
    axis.text(0.03, 0.98, words if len(rest) else "all zero", fontsize=8, va="top", transform=axis.transAxes)
    if len(rest):
        counts = torch.histc((rest.abs().log10() if decades else rest).clamp(*limits), BINS, *limits)
        edges, width = torch.linspace(*limits, BINS + 1)[:-1], (limits[1] - limits[0]) / BINS
        axis.bar(edges.numpy(), (counts / counts.max()).numpy(), width, align="edge", color=colour)


def short(number: float) -> str:
    """0.26, 6e-4, 2e10"""
    if 0.01 <= number < 100:
        return f"{number:.2g}"
    digit, _, power = f"{number:.0e}".partition("e")
    return f"{digit}e{int(power)}"


def main() -> None:
    data = foveal.load_dataset("digits")
    figure = Figure(figsize=(13, 12), dpi=75, layout="constrained")
    upper, lower = figure.subfigures(2, 1, hspace=0.03)
    blocks = []
    for part, title in (
        (upper, f"Activations of a fully connected network of {DEPTH} layers at the start, by depth"),
        (lower, "Gradients of the loss that reach them, by depth: log10 of their size"),
    ):
        part.suptitle(title, fontsize=13, weight="bold")
        ratios = [1, 1, 1, 1, 0.75] * 2
        blocks.append(part.subplots(len(TITLES), 10, width_ratios=ratios, squeeze=False))
    for row, how in enumerate(get_args(Init)):
        for place, non_linearity in enumerate(NON_LINEARITIES):
            torch.manual_seed(0)
            system = Deep(data.labels, non_linearity, how)
            loader = Loader(data.select("train"), Pipeline((Fit(system.preprocess),)), batch_size=256)
            seen = look(system, next(iter(loader.epoch())).float())
            for column, (n, (activations, gradients)) in enumerate(seen.items(), 5 * place):
                above, below = (block[row, column] for block in blocks)
                cell(above, activations, LIMITS[non_linearity], "tab:blue")
                cell(below, gradients, DECADES, "tab:orange", decades=True)
                for axis in (above, below):
                    if row == 0:
                        axis.set_title(f"{non_linearity}, layer {n}", fontsize=9)
                    if row < len(TITLES) - 1:
                        axis.set_xticklabels([])
            result = learned(system, data)
            print(f"{non_linearity} {how}: {result}", flush=True)
            for block in blocks:
                block[row, 5 * place + 4].axis("off")
            side = blocks[0][row, 5 * place + 4]
            side.text(0.5, 0.45, result, fontsize=13, weight="bold", ha="center", transform=side.transAxes)
            if row == 0:
                side.set_title(f"accuracy\nafter {EPOCHS} epochs", fontsize=9)
        for block in blocks:
            block[row, 0].set_ylabel(TITLES[how], fontsize=10, rotation=0, ha="right", va="center")
    save_figure(figure, Path(sys.argv[1] if len(sys.argv) > 1 else "initialisation.png"))


if __name__ == "__main__":
    main()
