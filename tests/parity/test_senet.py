"""SE-ResNet, SE-ResNeXt and SENet-154, two kinds of each, against timm; the large ones with two blocks a stage."""

import pytest
import torch
from safetensors.torch import save_file

from foveal.build import create
from foveal.catalog import FAMILIES
from foveal.errors import InputError
from foveal.weights import translate

from .compare import LABELS, check_timm_preprocessing, oracle

NAMES = [name for name in FAMILIES["classify.senet:SENet"].split() if name != "senet_nano"]
LARGE = [name for name in NAMES if name.endswith(("101", "152", "101_32x4d", "154"))]


@pytest.mark.parametrize("name", NAMES)
def test_equal_to_timm(name, compare_by_file):
    shallow = {"layers": (2, 2, 2, 2)} if name in LARGE else {}
    fields = {"depths": (2, 2, 2, 2)} if name in LARGE else {}
    reference = oracle("timm").create_model(name, num_classes=5, **shallow)
    compare_by_file(name, "timm", name, reference, layout="timm", labels=LABELS, **fields)


@pytest.mark.parametrize("name", ["seresnet18", "legacy_seresnet18"])
@pytest.mark.parametrize("size", [(33, 62), (29, 47)])
def test_pooling_at_the_borders_of_odd_maps(name, size, compare_by_file):
    reference = oracle("timm").create_model(name, num_classes=5)
    compare_by_file(name, "timm", name, reference, size=size, layout="timm", labels=LABELS)


@pytest.mark.parametrize("name", NAMES)
def test_parameters_and_preprocessing_are_timms(name):
    check_timm_preprocessing(name, name)


@pytest.mark.parametrize(("ours", "theirs"), [("seresnet18", "legacy_seresnet18"), ("legacy_senet154", "senet154")])
def test_the_other_kinds_weights_are_refused(ours, theirs, tmp_path):
    shallow = (1, 1, 1, 1)
    reference = oracle("timm").create_model(theirs, num_classes=1000, layers=shallow)
    save_file(reference.state_dict(), tmp_path / "weights.safetensors")
    with pytest.raises(InputError, match=rf"does not fit {ours}: missing: stem.*left over: "):
        create(ours, weights=tmp_path / "weights.safetensors", depths=shallow)
    create(theirs, weights=tmp_path / "weights.safetensors", depths=shallow)
    (tmp_path / "weights.safetensors").unlink()


def test_stochastic_depth_stands_where_timm_has_it():
    """It leaves out the excited branch, draw for draw."""
    reference = oracle("timm").create_model("seresnet18", num_classes=1000, drop_path_rate=0.3, layers=(1, 1, 1, 1))
    system = create("seresnet18", depths=(1, 1, 1, 1), stochastic_depth=0.4)
    system.load_state_dict(translate(system, reference.state_dict())[1])
    for number in range(1, 5):  # timm's line begins at zero, the paper's one step later
        theirs = getattr(reference, f"layer{number}")[0]
        system.get_submodule(f"stage{number}.0").drop.probability = theirs.drop_path.drop_prob if number > 1 else 0
    images = torch.rand(8, 3, 64, 64)
    torch.manual_seed(3)
    expected = reference.train()(system.normalize(images))
    torch.manual_seed(3)
    torch.testing.assert_close(system.train()(images), expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(system.eval()(images), expected, rtol=0.1)
