"""MLP-Mixer against timm; the large ones with two of their blocks."""

import pytest
import torch

from foveal.build import create
from foveal.catalog import variant
from foveal.weights import translate

from .compare import check_timm_preprocessing, oracle, randomise

LABELS = ("a", "b", "c", "d", "e")
NAMES = [f"mixer_{size}{patch}_224" for size in "sbl" for patch in (16, 32)]


@pytest.mark.parametrize("name", NAMES)
def test_equal_to_timm(name, compare_by_file):
    patch = variant(name).patch
    size = 2 * patch, 3 * patch  # rows and columns are not the same
    with torch.device("meta"):  # an oracle's own initial numbers would take time
        reference = oracle("timm").create_model(name, num_classes=5, img_size=size)
    fields = {"depth": 2} if "_l" in name else {}
    if fields:
        reference.blocks = reference.blocks[:2]
    reference = reference.to_empty(device="cpu")
    compare_by_file(name, "timm", name, reference, size=size, layout="timm", image_size=size, labels=LABELS, **fields)


@pytest.mark.parametrize("name", NAMES)
def test_parameters_and_preprocessing_are_timms(name):
    check_timm_preprocessing(name, name)


def test_training_equal_to_timm_draw_for_draw():
    """Dropout and stochastic depth in the same places, in the same order."""
    reference = randomise(
        oracle("timm").create_model("mixer_s32_224", num_classes=5, img_size=64, proj_drop_rate=0.2, drop_path_rate=0.3)
    )
    system = create("mixer_s32_224", labels=LABELS, image_size=64, dropout=0.2, stochastic_depth=0.3)
    system.load_state_dict(translate(system, reference.state_dict())[1])
    for ours, theirs in zip(system.blocks, reference.blocks, strict=True):
        ours.drop.probability = theirs.drop_path.drop_prob  # timm's are all alike
    system, reference = system.double().train(), reference.double().train()
    images = torch.rand(8, 3, 64, 64, dtype=torch.float64)
    torch.manual_seed(3)
    expected = reference(system.normalize(images))
    torch.manual_seed(3)
    torch.testing.assert_close(system(images), expected, rtol=1e-9, atol=1e-12)
    assert not torch.allclose(system.eval()(images), expected, rtol=0.1)
