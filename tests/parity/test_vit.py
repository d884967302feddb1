"""The Vision Transformer against torchvision and timm; the large ones with some of their blocks."""

import pytest
import torch

from foveal.build import create
from foveal.catalog import variant
from foveal.weights import load_weights, translate

from .compare import LABELS, check_published, on_meta, oracle, randomise

TORCHVISION = ["vit_b_16", "vit_b_32", "vit_l_16", "vit_l_32", "vit_h_14"]
TIMM = {
    "vit_b_16": "vit_base_patch16_224",
    "vit_b_32": "vit_base_patch32_224",
    "vit_l_16": "vit_large_patch16_224",
    "vit_l_32": "vit_large_patch32_224",
    "vit_t_16": "vit_tiny_patch16_224",
    "vit_s_16": "vit_small_patch16_224",
    "vit_s_32": "vit_small_patch32_224",
}
LARGE = ("vit_l_16", "vit_l_32", "vit_h_14")  # tested with two blocks, the others with all


@pytest.mark.parametrize("name", TORCHVISION)
def test_equal_to_torchvision(name, compare_by_file):
    models, side = oracle("torchvision.models"), 2 * variant(name).patch
    fields = {"depth": 2} if name in LARGE else {}
    reference = on_meta(lambda: models.get_model(name, weights=None, num_classes=5, image_size=side))
    if name in LARGE:
        reference.encoder.layers = reference.encoder.layers[:2]
    reference = reference.to_empty(device="cpu")
    fields |= {"labels": LABELS, "image_size": side}
    compare_by_file(name, "torchvision", name, reference, size=side, layout="torchvision", **fields)


@pytest.mark.parametrize("name", TIMM)
def test_equal_to_timm(name, compare_by_file):
    timm, patch = oracle("timm"), variant(name).patch
    size = 2 * patch, 3 * patch  # rows and columns are not the same
    fields = {"depth": 2} if name in LARGE else {}
    reference = on_meta(lambda: timm.create_model(TIMM[name], num_classes=5, img_size=size, **fields))
    reference = reference.to_empty(device="cpu")
    fields |= {"labels": LABELS, "image_size": size}
    compare_by_file(name, "timm", TIMM[name], reference, size=size, layout="timm", **fields)


def test_mean_of_the_patches_equal_to_timm(compare_by_file):
    reference = oracle("timm").create_model(
        "vit_tiny_patch16_224", num_classes=5, img_size=(32, 48), global_pool="avg", class_token=False
    )
    fields = {"labels": LABELS, "image_size": (32, 48), "pool": "mean"}
    compare_by_file("vit_t_16", "timm", "vit_tiny_patch16_224", reference, size=(32, 48), layout="timm", **fields)


def test_training_equal_to_timm_draw_for_draw():
    """Dropout and stochastic depth in the same places, in the same order."""
    reference = randomise(
        oracle("timm").create_model(
            "vit_tiny_patch16_224", num_classes=5, img_size=32, depth=3, pos_drop_rate=0.2, proj_drop_rate=0.2,
            drop_path_rate=0.3,
        )
    )  # fmt: skip
    system = create("vit_t_16", labels=LABELS, image_size=32, depth=3, dropout=0.2, stochastic_depth=0.3)
    system.load_state_dict(translate(system, reference.state_dict())[1])
    for ours, theirs in zip(system.blocks, reference.blocks, strict=True):
        # timm's line begins at zero in the first block, the paper's one step later.
        theirs.drop_path1 = theirs.drop_path2 = type(reference.blocks[-1].drop_path1)(ours.drop.probability)
    system, reference = system.double().train(), reference.double().train()
    images = torch.rand(8, 3, 32, 32, dtype=torch.float64)
    torch.manual_seed(3)
    expected = reference(system.normalize(images))
    torch.manual_seed(3)
    torch.testing.assert_close(system(images), expected, rtol=1e-9, atol=0)
    assert not torch.allclose(system.eval()(images), expected, rtol=0.1)


@pytest.mark.parametrize("name", TORCHVISION)
def test_parameters_and_preprocessing_are_those_that_torchvision_publishes(name):
    check_published(name, "IMAGENET1K_SWAG_E2E_V1" if name == "vit_h_14" else "IMAGENET1K_V1")


@pytest.mark.parametrize("name", ["vit_t_16", "vit_s_16", "vit_s_32"])
def test_parameters_and_preprocessing_are_timms(name):
    with torch.device("meta"):
        reference, system = oracle("timm").create_model(TIMM[name]), create(name)
    assert sum(p.numel() for p in system.parameters()) == sum(p.numel() for p in reference.parameters())
    theirs, ours = reference.default_cfg, system.preprocess
    assert (ours.mean, ours.std, ours.interpolation) == (theirs["mean"], theirs["std"], theirs["interpolation"])
    assert ((3, *ours.size), ours.crop) == (theirs["input_size"], theirs["crop_pct"])


def test_files_from_before_2022(tmp_path):
    """torchvision's published files call the matrices of an mlp linear_1 and linear_2."""
    reference = oracle("torchvision.models").VisionTransformer(32, 16, 2, 2, 32, 64, num_classes=5)
    state = randomise(reference).state_dict()
    old = {name.replace("mlp.0", "mlp.linear_1").replace("mlp.3", "mlp.linear_2"): x for name, x in state.items()}
    assert old.keys() != state.keys()
    torch.save(old, tmp_path / "weights.pth")
    system = create("vit_b_16", labels=LABELS, image_size=32, width=32, depth=2, heads=2, mlp_ratio=2.0)
    load_weights(system, tmp_path / "weights.pth")
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(system(images), reference(system.normalize(images)))
