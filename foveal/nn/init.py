"""Numbers to start from."""

from torch import nn


def init_for_relu(module: nn.Module) -> None:
    """Weights of deviation (2 / fan-in) ** 0.5 and biases of zero, for each convolution and linear layer inside.

    Relu halves the mean square and the weights double it again, so that a signal neither fades nor explodes on its way
    through many layers without norms: He, Zhang, Ren and Sun 2015, arXiv:1502.01852, equation 10.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def init_scores(layer: nn.Linear) -> None:
    """Weights of a tenth of the deviation that keeps a signal, biases of zero: no class is preferred at the start."""
    nn.init.normal_(layer.weight, std=0.1 * layer.in_features**-0.5)
    nn.init.zeros_(layer.bias)
