"""The U-Net of diffusion against diffusers' UNet2DModel, through its files."""

import re

import pytest
import torch
from safetensors.torch import save_file

from foveal.build import create
from foveal.errors import InputError
from foveal.system import Preprocess
from foveal.weights import load_weights, translate

from .compare import TOLERANCE, oracle, randomise, relative_error, row

LABELS = ("a", "b", "c")
HALVES = (0.5, 0.5, 0.5)
PREPROCESS = Preprocess((16, 24), "squash", 1.0, HALVES, HALVES)
WIDTH, MULTIPLES, GROUPS = 16, (1, 2, 3), 8
# How the authors' code is told to diffusers, whose defaults are otherwise.
AUTHORS = {"downsample_padding": 0, "norm_eps": 1e-6, "flip_sin_to_cos": False, "freq_shift": 1}


def unet(attention=(2,), blocks=1, head_width=None, convention="paper", **settings):
    """Of width 16, with as many levels as there are multiples."""
    levels = range(1, len(MULTIPLES) + 1)
    down = tuple("AttnDownBlock2D" if level in attention else "DownBlock2D" for level in levels)
    up = tuple("AttnUpBlock2D" if level in attention else "UpBlock2D" for level in reversed(levels))
    if convention == "paper":
        settings |= AUTHORS
    model = oracle("diffusers").UNet2DModel(
        in_channels=3, out_channels=3, layers_per_block=blocks, block_out_channels=tuple(WIDTH * m for m in MULTIPLES),
        down_block_types=down, up_block_types=up, norm_num_groups=GROUPS, attention_head_dim=head_width, **settings,
    )  # fmt: skip
    return randomise(model)


def build(file, conditional=False, **fields):
    shape = {"width": WIDTH, "multiples": MULTIPLES, "groups": GROUPS, "blocks": 1, "attention": (2,)} | fields
    return create("ddpm_cifar10", labels=LABELS, preprocess=PREPROCESS, weights=file, conditional=conditional, **shape)


def written(model, tmp_path, rename=lambda name: name):
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    save_file({rename(name): tensor.contiguous() for name, tensor in model.state_dict().items()}, file)
    return file


CASES = {
    "paper": {},
    "diffusers' defaults": {"convention": "diffusers", "head_width": 8},
    "two blocks, attention at two levels": {"blocks": 2, "attention": (1, 3)},
    "of classes": {"conditional": True},
}


@pytest.mark.parametrize("case", CASES)
def test_equal_to_diffusers(case, tmp_path, record_property):
    fields = dict(CASES[case])
    conditional = fields.pop("conditional", False)
    classes = {"num_class_embeds": len(LABELS) + 1} if conditional else {}
    model = unet(**fields, **classes)
    system = build(written(model, tmp_path), conditional, **fields).double()
    assert translate(system, model.state_dict())[0] == "diffusers"
    model = model.double()
    draw = torch.Generator().manual_seed(1)
    ours = torch.randn(2, 3, 16, 24, dtype=torch.float64, generator=draw).requires_grad_()
    theirs, times = ours.detach().clone().requires_grad_(), torch.tensor([3, 777])
    which = torch.tensor([1, 3]) if conditional else None
    found = system.network(ours, times, which)
    expected = model(theirs, times, class_labels=which).sample
    direction = torch.randn(expected.shape, dtype=torch.float64, generator=draw)
    (found * direction).sum().backward()
    (expected * direction).sum().backward()
    error = relative_error(found, expected)
    assert error < TOLERANCE

    wanted = translate(system, {name: p.grad for name, p in model.named_parameters()})[1] | {"x": theirs.grad}
    gradients = {name: p.grad for name, p in system.named_parameters()} | {"x": ours.grad}
    assert gradients.keys() == wanted.keys()
    whole = torch.stack([gradient.norm() for gradient in wanted.values()]).norm()
    # Those of keys' biases are zero but for rounding.
    errors = {n: ((gradients[n] - g).norm() / g.norm().clamp(min=1e-6 * whole)).item() for n, g in wanted.items()}
    worst = max(errors, key=errors.__getitem__)
    assert errors[worst] < TOLERANCE, f"the gradient of {worst} differs by {errors[worst]:.1e}"
    figures = {"parameters": sum(p.numel() for p in system.parameters()), "logits": error, "gradients": errors[worst]}
    record_property("parity", row(f"ddpm_cifar10 ({case}, tiny)", "diffusers", "UNet2DModel", "diffusers", figures))


def test_files_from_before_attention_was_renamed(tmp_path):
    model = unet()
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def rename(name):
        return re.sub("|".join(map(re.escape, old)), lambda match: old[match[0]], name)

    new = build(written(model, tmp_path)).state_dict()
    renamed = build(written(model, tmp_path, rename)).state_dict()
    assert all(torch.equal(tensor, renamed[name]) for name, tensor in new.items())


def test_a_file_of_another_shape_is_told(tmp_path):
    file = written(unet(), tmp_path)
    with pytest.raises(InputError, match=r"diffusers's layout\) does not fit ddpm_cifar10: missing: network\.down1\.1"):
        load_weights(build(None, blocks=2), file)
    with pytest.raises(InputError, match=r"missing: network\.classes\.weight"):
        load_weights(build(None, conditional=True), file)


def test_parameters_are_the_published_ones():
    with torch.device("meta"):
        system = create("ddpm_cifar10")
        theirs = oracle("diffusers").UNet2DModel(
            sample_size=32, block_out_channels=(128, 256, 256, 256), norm_num_groups=32, attention_head_dim=None,
            down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"), **AUTHORS,
        )  # fmt: skip
    assert sum(p.numel() for p in system.parameters()) == 35_746_307
    assert translate(system, theirs.state_dict())[1].keys() == system.state_dict().keys()
