"""What a system costs, against published figures, torch's own counter, brute force and counts by hand."""

import json
import math
from collections import OrderedDict
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import foveal.cost
from foveal.build import create
from foveal.catalog import names
from foveal.cost import cost
from foveal.errors import InputError
from foveal.structures import Batch
from foveal.system import Preprocess, Spec, System
from foveal.train.memory import training_bytes

try:
    import torchvision
    from torchvision.models import get_model_weights, list_models

    PUBLISHED = {name for name in list_models(module=torchvision.models) if get_model_weights(name)}
except (ImportError, RuntimeError):  # a torchvision made for another torch raises RuntimeError
    PUBLISHED = set()


class Toy(System):
    """Any modules as a system without normalisation; `forward` may be any function of them."""

    task = "classify"

    def __init__(self, size: int, forward: Callable[..., Tensor] | None = None, **modules: nn.Module) -> None:
        super().__init__(Spec(("a", "b"), Preprocess((size, size), mean=(0.0,) * 3, std=(1.0,) * 3)))
        for name, module in modules.items():
            self.add_module(name, module)
        self.function = forward

    def forward(self, images: Tensor) -> Tensor:
        if self.function:
            return self.function(self, images)
        for module in self.children():
            images = module(images)
        return images

    def loss(self, batch: Batch, player: str | None = None) -> dict[str, Tensor]:
        return {"square": self(batch.images).square().mean()}


def batch_of(images: Tensor) -> Batch:
    n = len(images)
    return Batch(images, (), torch.arange(n), torch.zeros(n, 2, 3), torch.zeros(n, 2, dtype=torch.long))


# Published figures


@pytest.mark.skipif(not PUBLISHED, reason="torchvision does not run here")
@pytest.mark.parametrize("name", [name for name in names("classify") if name in PUBLISHED])
def test_figures_of_the_catalog(name):
    checkpoints = list(get_model_weights(name))
    published = {(c.transforms().crop_size[0], c.meta["num_params"], c.meta["_ops"]) for c in checkpoints}
    for size, params, operations in published:  # some were trained on larger images, which have more positions
        with torch.device("meta"):  # no time for initial weights
            system = create(name, image_size=size)
        found = cost(system, size)
        assert found.params == params
        assert round(found.macs / 1e9, 3) == operations


@pytest.mark.skipif(not PUBLISHED, reason="torchvision does not run here")
@pytest.mark.parametrize(
    "name",
    ["alexnet", "convnext_tiny", "inception_v3", "mobilenet_v3_small", "shufflenet_v2_x1_0", "swin_v2_t", "vit_b_32"],
)
def test_figures_of_others(name):
    with torch.device("meta"):
        options = {"init_weights": False} if name == "inception_v3" else {}
        network = torchvision.models.get_model(name, **options)
        published = next(iter(get_model_weights(name)))
        system = Toy(published.transforms().crop_size[0], network=network)
    found = cost(system)
    assert found.params == published.meta["num_params"]
    assert round(found.macs / 1e9, 3) == published.meta["_ops"]
    assert found.receptive_field == (math.inf, math.inf)
    check_sums(found)


# torch's own counter


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.qkv, self.out = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:  # (B, C, H, W)
        tokens = x.flatten(2).transpose(1, 2) + self.bias
        q, k, v = self.qkv(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.out(seen).transpose(1, 2).unflatten(2, x.shape[2:])


def recurrent(system: Toy, images: Tensor) -> Tensor:
    rows = images.mean(1)  # (B, H, W) as H steps
    return system.lstm(rows)[0] + system.attention(rows, rows, rows, need_weights=False)[0]


def twice(system: Toy, images: Tensor) -> Tensor:
    return system.conv(system.conv(images)).relu_().sum(1) @ system.conv.weight.new_ones(16, 5)


def zoo() -> dict[str, System]:
    return {
        "lenet": create("lenet"),
        "linear": create("linear_softmax"),
        "attention": Toy(8, conv=nn.Conv2d(3, 8, 3), attention=Attention(8, 2)),
        "grouped": Toy(16, first=nn.Conv2d(3, 8, 3, 2), conv=nn.Conv2d(8, 12, (3, 5), groups=4, padding="same")),
        "transposed": Toy(16, conv=nn.Conv2d(3, 8, 3, 2), up=nn.ConvTranspose2d(8, 6, 4, 3, groups=2)),
        "shared": Toy(16, twice, conv=nn.Conv2d(3, 3, 3, padding=1)),
        "recurrent": Toy(
            12,
            recurrent,
            lstm=nn.LSTM(12, 12, batch_first=True),
            attention=nn.MultiheadAttention(12, 4, batch_first=True),
        ),
    }


@pytest.mark.parametrize("name", zoo())
def test_macs_are_those_of_torch(name):
    system = zoo()[name].eval()
    images = torch.rand(1, 3, *system.preprocess.size)
    # With gradients, and attention and recurrence not in one kernel, torch sees all their products.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        if name == "recurrent":
            system.double()(images.double())
        else:
            system(images)
    found = cost(system)
    assert found.macs == counter.get_total_flops() / 2 > 0
    assert found.flops == counter.get_total_flops()
    assert found.params == sum(p.numel() for p in system.parameters())
    check_sums(found)


def test_products_with_vectors_count():
    system = Toy(8, lambda self, x: x.mean(1)[0] @ self.line.weight[0], line=nn.Linear(8, 1))
    assert cost(system).macs == 64


def check_sums(found):
    assert sum(layer.params for layer in found.layers) == found.params
    assert sum(layer.macs for layer in found.layers) == found.macs
    assert sum(layer.activation_bytes for layer in found.layers) == found.activation_bytes
    assert sum(layer.attention_elements for layer in found.layers) == found.attention_elements


# Layers


def test_layers_of_a_small_network():
    modules = OrderedDict(
        conv=nn.Conv2d(3, 4, 3), drop=nn.Dropout(), relu=nn.ReLU(inplace=True), head=nn.Linear(144, 5)
    )

    def forward(self: Toy, images: Tensor) -> Tensor:
        return self.head(self.relu(self.drop(self.conv(images))).flatten(1)).softmax(1) + self.pixel_mean[0, 0]

    found = cost(Toy(8, forward, **modules))
    conv, relu, head, rest = found.layers  # dropout does nothing at evaluation
    assert (conv.path, conv.type, conv.shape, conv.params) == ("conv", "Conv2d", (1, 4, 6, 6), 112)
    assert (conv.macs, conv.activation_bytes) == (36 * 4 * 27, 4 * 36 * 4)
    assert (conv.receptive_field, conv.stride, conv.start) == ((3, 3), (1, 1), (0, 0))
    assert (relu.macs, relu.params, relu.activation_bytes) == (0, 0, 0)  # in place
    assert (head.macs, head.params, head.activation_bytes) == (720, 725, 20)
    assert (head.receptive_field, head.stride, head.start) == ((math.inf, math.inf), None, None)
    assert (rest.path, rest.type, rest.operations, rest.shape) == ("", "Toy", ("softmax", "add"), (1, 5))
    assert (found.macs, found.params, found.activation_bytes) == (36 * 108 + 720, 837, 576 + 20 + 20)
    assert found.receptive_field == (math.inf, math.inf)


def test_shared_parameters_count_once_and_runs_each_time():
    found = cost(Toy(16, twice, conv=nn.Conv2d(3, 3, 3, padding=1)))
    assert [layer.params for layer in found.layers] == [84, 0, 0]
    assert [layer.macs for layer in found.layers] == [84 * 256 - 3 * 256, 84 * 256 - 3 * 256, 16 * 16 * 5]
    tied = Toy(8, lambda self, x: self.two(self.one(x)), one=nn.Linear(8, 8), two=nn.Linear(8, 8))
    tied.two.weight = tied.one.weight
    assert [layer.params for layer in cost(tied).layers] == [72, 8]


def test_operations_between_modules_belong_to_the_innermost_one():
    _, bias, qkv, products, out = cost(zoo()["attention"]).layers
    assert bias.path == products.path == "attention"
    assert bias.type == products.type == "Attention"
    assert (bias.operations, bias.params) == (("add",), 8)  # what the module itself owns
    assert (qkv.path, qkv.macs, out.path) == ("attention.qkv", 36 * 8 * 24, "attention.out")
    assert [name for name in products.operations if name not in ("mul", "copy")] == ["matmul", "softmax", "matmul"]
    assert products.macs == 2 * 36 * 36 * 8


def test_modules_that_do_not_run():
    found = cost(Toy(8, lambda self, x: self.used(x), used=nn.Conv2d(3, 2, 1), auxiliary=nn.Linear(4, 3)))
    used, auxiliary = found.layers
    assert (auxiliary.path, auxiliary.shape, auxiliary.params, auxiliary.macs) == ("auxiliary", None, 15, 0)
    assert found.params == used.params + 15 == 23
    assert "not used" in found.table()


def test_image_is_not_seen_by_everything():
    found = cost(Toy(8, lambda self, x: x * self.gate(x.new_ones(1, 1)), gate=nn.Linear(1, 1)))
    assert [layer.receptive_field for layer in found.layers] == [(0, 0), (1, 1)]


# Attention matrices


def attention_of(name: str, **fields) -> int:
    with torch.device("meta"):
        found = cost(create(name, **fields))
    check_sums(found)
    return found.attention_elements


def test_attention_on_pixels_grows_with_the_fourth_power_of_the_side():
    sides = (4, 8, 16, 32)
    assert [attention_of("pixel_transformer", image_size=side, depth=2) for side in sides] == [
        2 * 3 * side**4 for side in sides
    ]


def test_patches_of_16_make_attention_matrices_65536_times_smaller():
    pixels = attention_of("pixel_transformer", image_size=32)
    patches = [attention_of("vit_t_16", image_size=side, pool="mean") for side in (32, 64, 512)]
    assert pixels == 12 * 3 * 32**4 == 16**4 * patches[0]
    assert patches[1:] == [16 * patches[0], 16**4 * patches[0]]
    assert attention_of("vit_b_16") == 12 * 12 * (1 + 14 * 14) ** 2  # the class token attends, too


def masked(self: Toy, x: Tensor) -> Tensor:
    """By hand, with scores that are masked, and weights that are scaled, dropped and copied."""
    tokens = x.flatten(2).transpose(1, 2)
    scores = (tokens @ tokens.transpose(1, 2)).masked_fill(tokens.new_ones(64, 64).triu(1).bool(), -math.inf)
    weights = self.drop(scores.softmax(2) * 0.5).transpose(1, 2).contiguous().transpose(1, 2)
    return (weights @ tokens).mean(1).softmax(1)


@pytest.mark.parametrize(
    ("forward", "expected"),
    [
        (masked, 64**2),
        (lambda self, x: x.softmax(1) + 1, 0),
        (lambda self, x: (weights := x[:, 0].softmax(2)) @ weights, 8 * 8),
        (lambda self, x: functional.scaled_dot_product_attention(*3 * [x], is_causal=True), 3 * 8 * 8),
        (lambda self, x: functional.scaled_dot_product_attention(x[:, :, :5], x, x), 3 * 5 * 8),
        (lambda self, x: self.attention(*3 * [x[:, 0]], need_weights=True)[0], 2 * 8 * 8),
    ],
)
def test_attention_is_what_a_product_sums_with(forward, expected):
    system = Toy(8, forward, drop=nn.Dropout(0.5), attention=nn.MultiheadAttention(8, 2, batch_first=True))
    assert cost(system).attention_elements == expected


def test_attention_has_a_column_where_there_is_some():
    found = cost(create("pixel_transformer_nano"))
    lines = found.table().splitlines()
    assert lines[2].split() == ["layer", "type", "output", "params", "MACs", "memory", "attention", "sees", "stride"]
    attending = [line for line in lines if line.startswith("blocks.0.attention ")]
    assert len(attending) == 1
    assert " 16.38 k " in attending[0]  # 4 heads of 64 x 64
    assert "49.15 k" in next(line for line in lines if line.startswith("total"))
    assert found.json()["attention_elements"] == 3 * 4 * 64**2
    assert "attention" not in cost(create("lenet")).table()


# Receptive fields, against the pixels that have a gradient


class Function(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Residual(nn.Module):
    def __init__(self, branch: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.branch, self.shortcut = branch, shortcut

    def forward(self, x: Tensor) -> Tensor:
        return self.branch(x).add_(self.shortcut(x)).relu()


class Skip(nn.Module):
    """The core of a U-Net."""

    def __init__(self, down: nn.Module, up: nn.Module) -> None:
        super().__init__()
        self.down, self.up = down, up

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.up(self.down(x))], 1)


class WindowAttention(nn.Module):
    """Attention within windows of `window` units that are shifted, on (B, C, H, W)."""

    def __init__(self, channels: int, window: int, shift: int) -> None:
        super().__init__()
        self.window, self.shift, self.qkv = window, shift, nn.Linear(channels, 3 * channels)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        n = self.window
        moved = x.permute(0, 2, 3, 1).roll((-self.shift, -self.shift), (1, 2))
        windows = moved.view(b, h // n, n, w // n, n, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, n * n, c)
        q, k, v = self.qkv(windows).chunk(3, -1)
        windows = (q @ k.transpose(1, 2)).softmax(-1) @ v
        moved = windows.view(b, h // n, w // n, n, n, c).permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, c)
        return x + moved.roll((self.shift, self.shift), (1, 2)).permute(0, 3, 1, 2)


def conv(channels: int, out: int, *args, **kwargs) -> nn.Conv2d:
    return nn.Conv2d(channels, out, *args, **kwargs)


def patches(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C * 16, H / 4, W / 4) by views alone."""
    b, c, h, w = x.shape
    return x.view(b, c, h // 4, 4, w // 4, 4).permute(0, 1, 3, 5, 2, 4).reshape(b, c * 16, h // 4, w // 4)


def merged(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, 4 C, H / 2, W / 2) by slices, as Swin does."""
    return torch.cat([x[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)], 1)


def resized(x: Tensor, scale: float, mode: str, **options) -> Tensor:
    return functional.interpolate(x, scale_factor=scale, mode=mode, **options)


NETWORKS: dict[str, Callable[[], list[nn.Module]]] = {
    "3x3": lambda: [conv(3, 2, 3, padding=1)],
    "five 3x3": lambda: [conv(3, 2, 3), *(conv(2, 2, 3, padding=n) for n in range(4))],
    "strides": lambda: [conv(3, 2, 7, 2, padding=3), nn.MaxPool2d(3, 2, 1), conv(2, 2, 3, 2), nn.AvgPool2d(2)],
    "ceil": lambda: [nn.MaxPool2d(3, 2, ceil_mode=True), conv(3, 2, 3), nn.MaxPool2d(2, ceil_mode=True)],
    "dilation": lambda: [conv(3, 2, 3, dilation=2, padding=2), conv(2, 2, 3, 2), conv(2, 2, 3, dilation=4)],
    "oblong": lambda: [conv(3, 2, (1, 7), (1, 2)), conv(2, 2, (3, 1), dilation=(3, 1)), nn.MaxPool2d((2, 3), (2, 1))],
    "grouped": lambda: [conv(3, 6, 3, groups=3), nn.BatchNorm2d(6), conv(6, 6, 5, groups=6), nn.GELU(), conv(6, 2, 1)],
    "residual": lambda: [
        Residual(nn.Sequential(conv(3, 4, 3, 2, 1), nn.ReLU(True), conv(4, 4, 3, 1, 1)), conv(3, 4, 1, 2)),
        Residual(nn.Sequential(conv(4, 4, 3, 1, 1), conv(4, 4, 3, 1, 1)), nn.Identity()),
    ],
    "slices": lambda: [
        Residual(conv(3, 8, 3, 4, 1), Function(lambda x: functional.pad(x[:, :, ::4, ::4], (0, 0, 0, 0, 2, 3))))
    ],
    "padding": lambda: [nn.ReflectionPad2d((3, 1, 2, 0)), conv(3, 2, 3), Function(lambda x: x[:, :, 2:-3, 1:])],
    "transposed 4/2": lambda: [conv(3, 2, 3, 2, 1), nn.ConvTranspose2d(2, 2, 4, 2, 1)],
    "transposed 3/2": lambda: [conv(3, 2, 3, 2, 1), nn.ConvTranspose2d(2, 2, 3, 2, 1, output_padding=1), conv(2, 2, 3)],
    "transposed 5/3": lambda: [conv(3, 2, 4, 4), nn.ConvTranspose2d(2, 2, 5, 3, dilation=2), conv(2, 2, 2, 2)],
    "unet": lambda: [
        conv(3, 2, 3, padding=1),
        Skip(
            nn.Sequential(nn.MaxPool2d(2), conv(2, 2, 3, 1, 1), Skip(nn.MaxPool2d(2), nn.ConvTranspose2d(2, 2, 2, 2))),
            nn.ConvTranspose2d(4, 2, 2, 2),
        ),
        conv(4, 2, 3, padding=1),
    ],
    "nearest": lambda: [conv(3, 2, 3, 2), nn.Upsample(scale_factor=3), conv(2, 2, 3), conv(2, 2, 3, 2)],
    "bilinear": lambda: [conv(3, 2, 3, 4), Function(lambda x: resized(x, 2, "bilinear")), conv(2, 2, 3)],
    "corners": lambda: [conv(3, 2, 2, 2), Function(lambda x: resized(x, 1.5, "bilinear", align_corners=True))],
    "bicubic": lambda: [Function(lambda x: resized(x, 2, "bicubic")), conv(3, 2, 3)],
    "antialias": lambda: [Function(lambda x: resized(x, 0.25, "bilinear", antialias=True)), conv(3, 2, 3)],
    "adaptive": lambda: [conv(3, 2, 3), nn.AdaptiveAvgPool2d(17), conv(2, 2, 3)],
    "shuffle": lambda: [conv(3, 8, 3, 2), nn.PixelShuffle(2), conv(2, 2, 3)],
    "patches": lambda: [Function(patches), conv(48, 2, 1), conv(2, 2, 3)],
    "channels last": lambda: [
        Function(lambda x: x.permute(0, 2, 3, 1)), nn.Linear(3, 5), nn.LayerNorm(5), nn.GELU(),
        Function(lambda x: x.permute(0, 3, 1, 2)), conv(5, 2, 3),
    ],
    "tokens": lambda: [
        conv(3, 6, 4, 4), Function(lambda x: x.flatten(2).transpose(1, 2)), nn.LayerNorm(6), nn.Linear(6, 2),
        Function(lambda x: x.transpose(1, 2).unflatten(2, (24, 24))), conv(2, 2, 3),
    ],
    "windows": lambda: [conv(3, 4, 2, 2), WindowAttention(4, 6, 0)],
    "shifted windows": lambda: [conv(3, 4, 2, 2), WindowAttention(4, 6, 0), WindowAttention(4, 6, 3), Function(merged)],
    "width": lambda: [conv(3, 2, 3), Function(lambda x: x * x.mean(3, keepdim=True))],
}  # fmt: skip


def brute_force(network: nn.Module, size: int, units: range) -> tuple[dict[int, tuple[int, int]], ...]:
    """For rows and for columns, the first and last pixel with a gradient, of each unit."""
    torch.manual_seed(0)
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.MaxPool2d):  # which sees its window without a gradient to all of it
                pool = nn.AvgPool2d(child.kernel_size, child.stride, child.padding, child.ceil_mode)
                setattr(module, name, pool)
    for parameter in network.parameters():
        nn.init.uniform_(parameter, 0.1, 1)
    images = torch.rand(1, 3, size, size, dtype=torch.float64).requires_grad_()
    output = network.double().eval()(images)
    found: tuple[dict[int, tuple[int, int]], ...] = ({}, {})
    for unit in units:
        (gradient,) = torch.autograd.grad(output[:, :, unit, unit].sum(), images, retain_graph=True)
        for axis in (0, 1):
            seen = gradient.abs().sum((0, 1, 3 - axis)).nonzero()
            found[axis][unit] = int(seen.min()), int(seen.max())
    return found


@pytest.mark.parametrize("name", NETWORKS)
def test_receptive_field_is_what_has_a_gradient(name):
    size = 96
    found = cost(Toy(size, **{f"m{n}": module for n, module in enumerate([*NETWORKS[name](), nn.ReLU()])}))
    last = found.layers[-1]
    middle = last.shape[-1] // 2
    units = range(max(0, middle - 6), min(last.shape[-2] - 1, middle + 6))
    count = [0, 0]
    for axis, pixels in enumerate(brute_force(nn.Sequential(*NETWORKS[name]()), size, units)):
        widest = max(high - low + 1 for low, high in pixels.values())
        if name == "width" and axis == 1:
            assert widest == size
            assert found.receptive_field[axis] == math.inf
            continue
        assert found.receptive_field[axis] == widest < size
        lows, highs = zip(*pixels.values(), strict=True)
        steps = {after - before for before, after in pairwise(lows)}
        if name != "width" and len(steps) == 1 and len({high - low for low, high in pixels.values()}) == 1:
            # All units are alike here.
            assert last.stride[axis] == steps.pop()
            assert lows == tuple(last.start[axis] + unit * last.stride[axis] for unit in units)
            assert highs == tuple(low + last.receptive_field[axis] - 1 for low in lows)
            count[axis] += 1
    assert sum(count) in (0, 2)


@pytest.mark.parametrize(("stride_in_1x1", "expected"), [(False, 427), (True, 483)])
def test_receptive_field_of_resnet50(stride_in_1x1, expected):
    thin = create("resnet50", width=1, stride_in_1x1=stride_in_1x1)
    found = cost(thin, 640)
    stage4 = [layer for layer in found.layers if layer.path.startswith("stage4")][-1]
    assert stage4.receptive_field == (expected, expected)
    assert stage4.stride == (32, 32)
    thin.double()
    body = nn.Sequential(thin.stem, thin.stage1, thin.stage2, thin.stage3, thin.stage4)
    for pixels in brute_force(body, 640, range(9, 11)):
        assert {high - low + 1 for low, high in pixels.values()} == {expected}
    pool, classifier = found.layers[-2:]
    assert pool.receptive_field == classifier.receptive_field == (math.inf, math.inf)
    assert pool.stride is None


@pytest.mark.parametrize(("kernel", "count"), [(3, 1), (3, 13), (5, 4)])
def test_receptive_field_of_a_stack(kernel, count):
    layers = {f"conv{n}": nn.Conv2d(3, 3, kernel, padding=kernel // 2) for n in range(count)}
    assert cost(Toy(32, **layers)).receptive_field == (1 + count * (kernel - 1),) * 2


@pytest.mark.parametrize(
    "whole",
    [
        lambda x: x - x.mean((2, 3), keepdim=True),
        lambda x: functional.adaptive_max_pool2d(x, 1),
        lambda x: x.flatten(1) @ x.new_ones(3 * 64, 2),
        lambda x: x.flatten(2).softmax(2).view(1, 3, 8, 8),
        lambda x: functional.scaled_dot_product_attention(*3 * [x.flatten(2).transpose(1, 2)]),
        lambda x: functional.grid_sample(x, x.new_zeros(1, 8, 8, 2), align_corners=False),
        lambda x: functional.conv2d(x, x.mean((2, 3)).view(1, 3, 1, 1)),
        lambda x: x.flip(3).flip(2),
        lambda x: x + x.transpose(2, 3),
        lambda x: x[:, :, :4, :4] + functional.avg_pool2d(x, 2),
        lambda x: x.flatten(2).transpose(1, 2) @ x.flatten(2),
        lambda x: x[0].permute(1, 2, 0) @ x[0].permute(2, 0, 1),
        lambda x: x.clone().index_fill_(1, torch.zeros(1, dtype=torch.long, device=x.device), 0.0),
    ],
)
def test_global_operations_see_everything(whole):
    assert cost(Toy(8, lambda self, x: whole(x))).receptive_field == (math.inf, math.inf)


def test_tensors_that_are_filled_in_place():
    def forward(self: Toy, images: Tensor) -> Tensor:
        canvas = images.new_zeros(1, 5, 8, 8)
        canvas[:, 1:4] = self.conv(images)
        canvas[:, :1].copy_(images[:, :1])
        return canvas

    found = cost(Toy(8, forward, conv=nn.Conv2d(3, 3, 3, padding=1)))
    assert found.receptive_field == (3, 3)


# The system stays as it is


class Restless(nn.Module):
    """Draws random numbers, keeps statistics and remembers what it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5)
        self.register_buffer("count", torch.zeros(()))
        self.seen: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        self.seen = self.drop(self.norm(self.conv(x)) + torch.rand(4, 1, 1, device=x.device))
        return self.seen.mean((2, 3))


def data_dependent(self: Toy, images: Tensor) -> Tensor:
    return self.net(images if images.mean() > 0.5 else -images)


@pytest.mark.parametrize("forward", [None, data_dependent])
def test_nothing_is_left_behind(forward):
    system = Toy(8, forward, net=Restless())
    system.net.norm.eval()
    before = {name: value.clone() for name, value in system.state_dict(keep_vars=False).items()}
    objects = [id(tensor) for tensor in [*system.parameters(), *system.buffers()]]
    torch.manual_seed(1)
    state = torch.get_rng_state()
    cost(system)
    training_bytes(system, batch_of(torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(2))))
    assert torch.equal(torch.get_rng_state(), state)
    assert [id(tensor) for tensor in [*system.parameters(), *system.buffers()]] == objects
    for name, value in system.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert system.net.seen is None
    assert all(parameter.grad is None for parameter in system.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in system.modules())
    assert system.training
    assert not system.net.norm.training
    assert torch.backends.mkldnn.enabled
    assert torch.backends.mha.get_fastpath_enabled()


def test_data_dependent_systems_cost_the_same():
    on_meta = zoo()["recurrent"]
    known = cost(on_meta)

    def forward(self: Toy, images: Tensor) -> Tensor:
        return recurrent(self, images + images.max().item())

    real = Toy(12, forward, lstm=on_meta.lstm, attention=on_meta.attention)
    assert cost(real).macs == known.macs
    assert cost(real).params == known.params
    assert [layer.path for layer in cost(real).layers] == ["", "lstm", "attention", ""]


def test_inside_inference_mode():
    system = create("lenet")
    with torch.inference_mode():
        assert cost(system) == cost(system)
        inside = cost(system)
    assert inside == cost(system)


def test_half_precision_halves_the_memory():
    system = create("lenet")
    full = cost(system)
    assert cost(system.half()).activation_bytes * 2 == full.activation_bytes


# Sizes


def test_size():
    system = create("resnet_nano")
    assert cost(system).size == (16, 16)
    assert cost(system, 32).layers[0].shape == (1, 3, 32, 32)
    tall = cost(system, (32, 16))
    assert tall.layers[0].shape == (1, 3, 32, 16)
    assert tall.macs == 2 * cost(system).macs - (2 - 1) * system.classifier.weight.numel()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("linear_softmax", "takes images of 32 x 32 pixels, not 64 x 48"),
        ("lenet", "does not take images of 64 x 48 pixels .*own size is 32 x 32"),
    ],
)
def test_systems_of_one_size_say_so(name, said):
    with pytest.raises(InputError, match=rf"^{name} {said}") as error:
        cost(create(name), (64, 48))
    assert "\n" not in str(error.value)


def test_a_system_may_refuse_in_its_own_words():
    def refuse(self: Toy, images: Tensor) -> Tensor:
        raise InputError("only on Sundays")

    with pytest.raises(InputError, match=r"^only on Sundays$"):
        cost(Toy(8, refuse))


def test_wrong_sizes():
    with pytest.raises(InputError, match="at least one pixel"):
        cost(create("lenet"), 0)
    broken = Toy(8, lambda self, x: x.undefined)
    with pytest.raises(InputError, match=r"Toy does not run on an image of its own size, 8 x 8 pixels: .*undefined"):
        cost(broken)


# What people and programs read


def test_table():
    found = cost(create("lenet"))
    table = found.table()
    for layer in found.layers:
        assert f"\n{layer.path or 'lenet'} " in table
    total = next(line for line in table.splitlines() if line.startswith("total"))
    assert total.split() == ["total", "61,706", "416.52", "k", "62.50", "kB", "all"]
    conv = next(line for line in table.splitlines() if line.startswith("stage2.conv"))
    assert " ".join(conv.split()) == "stage2.conv Conv2d 16 x 10 x 10 2,416 240.00 k 6.40 kB 14 2"
    assert "833.04 k FLOPs" in " ".join(table.split())
    assert max(map(len, table.splitlines())) <= 100


def test_table_stays_narrow():
    deep: nn.Module = nn.Conv2d(3, 3, 3)
    for _ in range(30):
        deep = nn.Sequential(OrderedDict(inside=deep))
    table = cost(Toy(8, deep=deep)).table()
    assert max(map(len, table.splitlines())) == 120
    assert "inside.inside  Conv2d" in table


def test_table_by_depth():
    found = cost(create("resnet18"))
    lines = found.table(depth=1).splitlines()
    rows = [line.split()[0] for line in lines[4 : lines.index(lines[3], 4)]]
    assert rows == ["resnet18", "stem", "stage1", "stage2", "stage3", "stage4", "pool", "classifier"]
    stage1 = next(line for line in lines if line.startswith("stage1"))
    assert " ".join(stage1.split()) == "stage1 14 layers 64 x 56 x 56 147,968 462.42 M 11.24 MB 43 4"


def test_json():
    found = cost(create("lenet"))
    document = json.loads(json.dumps(found.json(), allow_nan=False))
    assert document["macs"] * 2 == document["flops"] == found.flops
    assert document["receptive_field"] == ["all", "all"]
    assert document["size"] == [32, 32]
    assert [layer["path"] for layer in document["layers"]] == [layer.path for layer in found.layers]
    assert document["layers"][1]["receptive_field"] == [5, 5]
    assert document["layers"][1]["shape"] == [1, 6, 28, 28]


def test_module_is_the_verb():
    system = create("lenet")
    assert foveal.cost(system) == cost(system)
