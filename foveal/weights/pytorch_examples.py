"""Names in the checkpoints of pytorch/examples: DCGAN, one file a player, whose layers are counted through with norms
and activations as one Sequential, `main`; and the variational autoencoder."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from foveal.system import System
from foveal.weights.rules import Rule, rename


def generator(system: Any) -> list[Rule]:
    """Stages of convolution, norm and relu, and a convolution at the end."""
    stages = len(system.spec.widths)
    rules = [Rule(rf"main\.{3 * stages}\.", "generator.body.output.")]
    for i in range(stages):
        rules.append(Rule(rf"main\.{3 * i}\.", f"generator.body.stage{i + 1}.conv."))
        rules.append(Rule(rf"main\.{3 * i + 1}\.", f"generator.body.stage{i + 1}.norm."))
    return rules


def discriminator(system: Any) -> list[Rule]:
    """The first stage has no norm, the others have one between convolution and relu."""
    stages = len(system.spec.widths)
    rules = [Rule(r"main\.0\.", "discriminator.body.stage1.conv.")]
    for i in range(1, stages):
        rules.append(Rule(rf"main\.{3 * i - 1}\.", f"discriminator.body.stage{i + 1}.conv."))
        rules.append(Rule(rf"main\.{3 * i}\.", f"discriminator.body.stage{i + 1}.norm."))
    return [*rules, Rule(rf"main\.{3 * stages - 1}\.", "discriminator.score.")]


VAE = (
    Rule(r"fc1\.", "encoder.body.fc."),
    Rule(r"fc21\.", "encoder.mean."),
    Rule(r"fc22\.", "encoder.log_variance."),
    Rule(r"fc3\.", "decoder.body.fc."),
    Rule(r"fc4\.", "decoder.output."),
)


def convert(system: System, state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """The weights, of DCGAN those of one player, under our names; None where the names are not of this layout."""
    # After the generator's first layer comes a norm, after that of the discriminator a relu, which has no weights.
    rules = generator if "main.1.weight" in state else discriminator
    return rename({"DCGAN": rules, "VAE": VAE}, system, state)
