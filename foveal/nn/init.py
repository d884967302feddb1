"""Numbers to start from."""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, Literal, get_args

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.overrides import TorchFunctionMode

from foveal.errors import InputError, nearest
from foveal.nn.frozen import frozen_modules

Init = Literal["zero", "small", "large", "xavier", "kaiming"]
SMALL, LARGE = 0.01, 1.0  # deviations that know nothing of the number of inputs


def initialise(module: nn.Module, how: Init) -> None:
    """Weights from a normal distribution, biases of zero, for each convolution and linear layer inside; the rest stays,
    as does what is Frozen.

    how: the deviation of the weights of a layer whose outputs are each a sum of D inputs.
        zero     0: all units of a layer get the same gradient, or none, and stay alike
        small    0.01: in a deep network activations fade from layer to layer, and gradients with them
        large    1: activations grow by D^0.5 a layer; what saturates passes no gradient
        xavier   (1 / D)^0.5: keeps the variance of what is centred on zero (Glorot and Bengio 2010)
        kaiming  (2 / D)^0.5: keeps the mean square through relu (He et al. 2015, arXiv:1502.01852)

    D is the number of input channels of a group times the area of the kernel; of a transposed convolution the part of
    it that meets in one output. Raises InputError where there is no such layer.
    """
    if how not in get_args(Init):
        raise InputError(f"there is no init {how!r}{nearest(str(how), get_args(Init))}")
    frozen = {layer for _, part in frozen_modules(module) for layer in part.modules()}
    found = [layer for layer in module.modules() if isinstance(layer, _ConvNd | nn.Linear) and layer not in frozen]
    if not found:
        raise InputError(f"init has no effect: {type(module).__name__} has neither convolutions nor linear layers")
    for layer in found:
        nn.init.normal_(layer.weight, std=deviation(how, inputs(layer)))
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def deviation(how: Init, inputs: float) -> float:
    """The deviation of weights for a sum of so many inputs."""
    match how:
        case "zero":
            return 0.0
        case "small":
            return SMALL
        case "large":
            return LARGE
        case "xavier":
            return (1 / inputs) ** 0.5
        case "kaiming":
            return (2 / inputs) ** 0.5


def inputs(layer: _ConvNd | nn.Linear) -> float:
    """How many inputs an output of a layer is the sum of, in the mean."""
    if isinstance(layer, _ConvTransposeNd):
        return layer.in_channels / layer.groups * prod(layer.kernel_size) / prod(layer.stride)
    return layer.weight[0].numel()


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


class uninitialised(TorchFunctionMode):
    """Within the block random initialisation is left out: what is built takes all its weights from a file.

    Normal draws give their mean: `trunc_normal_` draws again until all numbers are within its bounds, and would never
    end with what lies in memory by chance."""

    SKIPPED = frozenset({nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_})

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if func in self.SKIPPED:
            return args[0] if args else kwargs["tensor"]
        if func is Tensor.normal_:
            return _mean_of_normal(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _mean_of_normal(tensor: Tensor, mean: float = 0.0, std: float = 1.0, *, generator: Any = None) -> Tensor:
    return tensor.fill_(mean)
