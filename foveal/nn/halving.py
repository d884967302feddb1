"""The two sides of an autoencoder: convolutions that halve maps again and again, transposed ones that double them."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from foveal.errors import InputError


def halved(size: Sequence[int], stages: int, name: str) -> tuple[int, int]:
    """Height and width after so many halvings. Raises InputError where a side cannot be halved so often."""
    factor = 2**stages
    if any(side % factor for side in size):
        raise InputError(
            f"{name} halves its maps {stages} times: image_size must be a multiple of {factor}, not "
            f"{size[0]} x {size[1]}"
        )
    return size[0] // factor, size[1] // factor


def _layers(layer: nn.Module, channels: int) -> nn.Sequential:
    return nn.Sequential(OrderedDict(conv=layer, norm=nn.BatchNorm2d(channels), relu=nn.ReLU()))


class Halving(nn.Module):
    """(B, channels, H, W) -> (B, width 2^stages, H / 2^stages, W / 2^stages): a 3x3 convolution, then one of 4x4 with
    stride 2 for each stage; norm and relu behind each."""

    def __init__(self, channels: int, width: int, stages: int) -> None:
        super().__init__()
        self.stages = stages
        self.stem = _layers(nn.Conv2d(channels, width, 3, padding=1, bias=False), width)
        for number in range(1, stages + 1):
            out = width * 2**number
            self.add_module(f"stage{number}", _layers(nn.Conv2d(out // 2, out, 4, 2, padding=1, bias=False), out))

    def maps(self, x: Tensor) -> Iterator[Tensor]:
        """The maps after the stem and after each stage, one after another."""
        x = self.stem(x)
        yield x
        for number in range(1, self.stages + 1):
            x = self.get_submodule(f"stage{number}")(x)
            yield x

    def forward(self, x: Tensor) -> Tensor:
        for each in self.maps(x):
            x = each
        return x


class Doubling(nn.Module):
    """The way back: (B, width 2^stages, h, w) -> (B, channels, h 2^stages, w 2^stages). Each stage is a transposed
    convolution of 4x4 with stride 2, norm and relu; the last layer a 3x3 convolution."""

    def __init__(self, channels: int, width: int, stages: int) -> None:
        super().__init__()
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for number in range(stages, 0, -1):
            out = width * 2 ** (number - 1)
            layers[f"stage{number}"] = _layers(nn.ConvTranspose2d(2 * out, out, 4, 2, padding=1, bias=False), out)
        layers["output"] = nn.Conv2d(width, channels, 3, padding=1)
        self.layers = nn.Sequential(layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)
