"""The Swin Transformer against torchvision and timm, and a file as Microsoft publishes them; the large ones with some
of their blocks."""

import re

import pytest
import torch
from torch import nn

from foveal.build import create
from foveal.weights import translate

from .compare import check_published, oracle, randomise

LABELS = ("a", "b", "c", "d", "e")
TIMM = {
    "swin_t": "swin_tiny_patch4_window7_224",
    "swin_s": "swin_small_patch4_window7_224",
    "swin_b": "swin_base_patch4_window7_224",
}
# Maps of 18 x 20, 9 x 10, 5 x 5 and 3 x 3 tokens: larger and smaller than windows, and not tiled by them.
SIZE = (72, 80)
# Maps of 16 x 32, 8 x 16, 4 x 8 and 2 x 4 tokens, which windows of 2 x 2 tile, with a shift along one axis in the last.
TILED = (64, 128)


def shortened(name: str) -> dict[str, tuple[int, ...]]:
    return {} if name == "swin_t" else {"depths": (2, 2, 3, 2)}


@pytest.mark.parametrize("name", TIMM)
def test_equal_to_torchvision(name, compare_by_file):
    with torch.device("meta"):
        reference = oracle("torchvision.models").get_model(name, weights=None, num_classes=5)
    if name != "swin_t":
        reference.features[5] = reference.features[5][:3]
    reference = with_index(reference.to_empty(device="cpu"))
    compare_by_file(
        name, "torchvision", name, reference, size=SIZE, layout="torchvision", labels=LABELS, **shortened(name)
    )


def with_index(reference: nn.Module) -> nn.Module:
    """A network of torchvision's that was made without numbers, with its constants."""
    for module in reference.modules():
        if "relative_position_index" in dict(module.named_buffers(recurse=False)):
            module.define_relative_position_index()
    return reference


def test_pixels_beyond_the_last_patch_equal_to_torchvision(compare_by_file):
    reference = oracle("torchvision.models").swin_transformer.SwinTransformer(
        [4, 4], 24, [2, 3], [2, 4], [3, 3], num_classes=5
    )
    fields = {"width": 24, "depths": (2, 3), "heads": (2, 4), "window": 3, "labels": LABELS}
    compare_by_file(
        "swin_t", "torchvision", "SwinTransformer", reference, size=(47, 33), layout="torchvision", **fields
    )


@pytest.mark.parametrize("name", TIMM)
def test_equal_to_timm(name, compare_by_file):
    """Where windows tile the maps: timm's are smaller on a map that is smaller, and it rolls the others before it pads
    them, so that its mask does not meet what rolling brought together."""
    fields = shortened(name)
    reference = oracle("timm").create_model(TIMM[name], num_classes=5, img_size=TILED, window_size=2, **fields)
    compare_by_file(name, "timm", TIMM[name], reference, size=TILED, layout="timm", labels=LABELS, window=2, **fields)


def microsofts(name: str) -> str:
    """A merging belongs to the stage before it, and the head is one linear layer."""
    name = re.sub(r"layers\.(\d)\.downsample", lambda match: f"layers.{int(match[1]) - 1}.downsample", name)
    return name.replace("head.fc.", "head.")


def test_microsofts_layout(tmp_path):
    """A file with constants beside the weights and a wrapping around them. timm's network stands for Microsoft's."""
    timm = oracle("timm")
    reference = randomise(timm.create_model(TIMM["swin_t"], num_classes=5, img_size=TILED, window_size=2))
    state = {microsofts(name): tensor for name, tensor in reference.state_dict().items()}
    assert {"head.weight", "layers.0.downsample.reduction.weight"} <= state.keys()
    for name in [name for name in state if name.endswith("bias_table")]:
        state[name.replace("bias_table", "index")] = torch.zeros(4, 4, dtype=torch.long)
    for stage, count in enumerate((128, 32, 8)):
        state[f"layers.{stage}.blocks.1.attn_mask"] = torch.zeros(count, 4, 4)
    torch.save({"model": state}, tmp_path / "swin.pth")

    system = create("swin_t", weights=tmp_path / "swin.pth", labels=LABELS, window=2)
    assert translate(system, state)[0] == "microsoft"
    assert system.licence == "that of the weights published by microsoft"
    assert all(torch.equal(value, system.state_dict()[name]) for name, value in translated(system, reference).items())

    images = torch.rand(2, 3, *TILED)
    expected = reference(system.normalize(images))
    torch.testing.assert_close(system(images), expected, rtol=1e-4, atol=1e-4)


def translated(system, reference):
    layout, weights = translate(system, reference.state_dict())
    assert layout == "timm"
    return weights


@pytest.mark.parametrize("name", TIMM)
def test_parameters_and_preprocessing_are_those_that_torchvision_publishes(name):
    check_published(name)


def test_training_equal_to_torchvision_draw_for_draw():
    """Stochastic depth and the dropout of each mlp in the same places, in the same order."""
    reference = oracle("torchvision.models").swin_transformer.SwinTransformer(
        [4, 4], 24, [2, 2], [2, 4], [3, 3], dropout=0.2, stochastic_depth_prob=0.3, num_classes=5
    )
    fields = {"width": 24, "depths": (2, 2), "heads": (2, 4), "window": 3, "dropout": 0.2, "stochastic_depth": 0.3}
    system = create("swin_t", labels=LABELS, **fields)
    system.load_state_dict(translate(system, randomise(reference).state_dict())[1])
    blocks = [block for place in (1, 3) for block in reference.features[place]]
    system.dropout.p = 0.0  # torchvision has none of the patches
    for ours, theirs in zip([*system.stage1, *system.stage2], blocks, strict=True):
        # torchvision's line begins at zero in the first block, the paper's of stochastic depth one step later.
        theirs.stochastic_depth.p = ours.drop.probability
        ours.dropout.p = theirs.attn.dropout = 0.0  # there before the windows are joined, which is another order
    system, reference = system.double().train(), reference.double().train()
    images = torch.rand(4, 3, 40, 40, dtype=torch.float64)
    torch.manual_seed(3)
    expected = reference(system.normalize(images))
    torch.manual_seed(3)
    torch.testing.assert_close(system(images), expected, rtol=1e-9, atol=0)
    assert not torch.allclose(system.eval()(images), expected, rtol=0.1)
