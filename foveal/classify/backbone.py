"""A classifier without its end: the maps that detectors and others are built upon."""

from collections.abc import Iterator, Sequence
from math import log2

import torch
from torch import Tensor, nn
from torch.func import functional_call

from foveal.errors import InputError
from foveal.nn.norm import freeze_norms
from foveal.nn.record import record
from foveal.system import System

SIDE = 256  # pixels of the image that strides are measured with


class Backbone(nn.Module):
    """Normalised images (B, channels, H, W) -> a map (B, C, H / stride, W / stride) for each of the strides.

    network:     any system with `maps`, as classifiers have them; it is taken over, and what no map depends on is
                 removed from it.
    strides:     how many times smaller than the image each map is, finest first; of several maps with one stride the
                 last is taken, unless they have names.
    frozen_norm: batch norms keep their statistics and affine terms, as suits batches of few images.
    names:       of the modules of the network that make these maps, one for each stride, where that is not the end of
                 a stage. What follows the stages, such as a last convolution, may be among them.
    channels:    C of each map.
    removed:     names of the modules of the network that were removed.

    Raises InputError for strides that the network has no maps of.
    """

    def __init__(
        self, network: System, strides: Sequence[int], frozen_norm: bool = False, names: Sequence[str] = ()
    ) -> None:
        super().__init__()
        self.network = network.eval()
        self.strides, self.names = tuple(strides), tuple(names)
        name = network.name or type(network).__name__
        try:
            seen = list(_maps_on_meta(network, self.names))
        except RuntimeError as error:  # of torch, about the shape of what enters a module
            if not names:
                raise
            raise InputError(f"{name} does not make maps {', '.join(names)}: {error}") from None
        found = [stride for stride, _, _ in seen]
        known = _listed(found if names else list(dict.fromkeys(found)))
        if names and found != list(strides):
            raise InputError(f"maps {', '.join(names)} of {name} have strides {known}, not {_listed(strides)}")
        if missing := [stride for stride in strides if stride not in found]:
            raise InputError(f"{name} has maps with strides {known}, none with {_listed(missing)}")
        if not names and len(set(strides)) < len(strides):
            raise InputError(f"maps of one stride are told apart by their names, which strides {_listed(strides)} need")
        last = {stride: place for place, stride in enumerate(found)}
        self.places = tuple(range(len(names))) if names else tuple(last[stride] for stride in strides)
        self.channels = tuple(seen[place][1] for place in self.places)
        self.removed = tuple(_keep(network, seen[self.places[-1]][2]))
        if frozen_norm:
            freeze_norms(network)

    def forward(self, x: Tensor, count: int | None = None) -> list[Tensor]:
        """The maps, or the first `count` of them alone."""
        maps, places = [], self.places[:count]
        for place, found in enumerate(_maps(self.network, x, self.names[:count])):
            if place in places:
                maps.append(found)
            if place == places[-1]:
                break
        return maps


def dilate(stage: nn.Sequential) -> None:
    """Take its stride from a stage of a residual network: its map is twice as fine, and the convolutions after the
    first block look at places twice as far apart, as far as they did. Weights stay what they are (Yu, Koltun and
    Funkhouser 2017, arXiv:1705.09914)."""
    for number, block in enumerate(stage):
        for layer in block.modules():
            if isinstance(layer, nn.Conv2d) and number == 0:
                layer.stride = (1, 1)
            elif isinstance(layer, nn.Conv2d) and layer.kernel_size != (1, 1):
                layer.dilation = layer.padding = (2, 2)


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def _maps(network: System, x: Tensor, names: Sequence[str]) -> Iterator[Tensor]:
    """The map of each stage as soon as there is one; or those of the modules of these names, of which those that are
    not on the way to the last stage's map begin with that, one after another."""
    if not names:
        yield from network.maps(x)
        return
    with record(network, *names) as found:
        for stage in network.maps(x):
            x = stage
            if found.keys() == set(names):
                break
        for name in names:
            if name not in found:
                x = network.get_submodule(name)(x)
    yield from (network.as_map(found[name]) for name in names)


class _Maps(nn.Module):
    """All maps of a network, as a module that can be called with other tensors for its weights."""

    def __init__(self, network: System, names: Sequence[str]) -> None:
        super().__init__()
        self.network, self.names = network, names

    def forward(self, x: Tensor) -> list[tuple[Tensor, set[nn.Module]]]:
        ran: set[nn.Module] = set()
        handles = [m.register_forward_hook(lambda module, *_: ran.add(module)) for m in self.network.modules()]
        try:
            return [(found, set(ran)) for found in _maps(self.network, x, self.names)]
        finally:
            for handle in handles:
                handle.remove()


def _maps_on_meta(network: System, names: Sequence[str]) -> Iterator[tuple[int, int, set[nn.Module]]]:
    """Stride and channels of each map, and the modules that have run by then. Nothing is computed."""
    maps = _Maps(network, names)
    tensors = {**dict(maps.named_parameters()), **dict(maps.named_buffers())}
    tensors = {name: tensor.to("meta") for name, tensor in tensors.items()}
    size = network.preprocess.size if network.one_size else (SIDE, SIDE)
    image = torch.empty(1, network.preprocess.channels, *size, device="meta")
    with torch.no_grad():
        for x, ran in functional_call(maps, tensors, (image,)):
            times = size[0] / x.shape[2]
            yield round(times) if network.one_size else 2 ** round(log2(times)), x.shape[1], ran


def _keep(module: nn.Module, ran: set[nn.Module], name: str = "") -> Iterator[str]:
    """Remove from a module what has weights and has not run; the names of what is gone."""
    for child_name, child in list(module.named_children()):
        if child in ran:
            continue
        if ran.isdisjoint(child.modules()):
            if any(True for _ in child.parameters()):
                delattr(module, child_name)
                yield name + child_name
        else:
            yield from _keep(child, ran, f"{name}{child_name}.")
