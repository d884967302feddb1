import pytest
import torch

from foveal.build import create
from foveal.errors import InputError
from foveal.nn.record import record


@pytest.fixture
def system():
    return create("resnet_nano")


def test_record_gives_the_outputs_of_the_named_modules(system):
    images = torch.rand(2, 3, 16, 16)
    with record(system, "stem", "stage1", "stage2.0.relu", "classifier") as outputs:
        scores = system(images)
    x = system.stem(system.normalize(images))
    assert list(outputs) == ["stem", "stage1", "stage2.0.relu", "classifier"]
    assert torch.equal(outputs["stem"], x)
    assert torch.equal(outputs["stage1"], system.stage1(x))
    assert torch.equal(outputs["stage2.0.relu"], system.stage2(system.stage1(x)))
    assert outputs["classifier"] is scores


def test_recorded_outputs_are_attached_to_the_graph(system):
    images = torch.rand(2, 3, 16, 16)
    with record(system, "stage3") as outputs:
        score = system(images)[:, 3].sum()
    (gradient,) = torch.autograd.grad(score, outputs["stage3"])
    # The classifier is linear in the average of the last maps, so this gradient is known.
    row = system.classifier.weight[3] / outputs["stage3"][0, 0].numel()
    torch.testing.assert_close(gradient, row[None, :, None, None].expand_as(gradient))


def test_each_forward_pass_replaces_the_record_and_none_is_kept_after_the_block(system):
    first, second = torch.rand(2, 1, 3, 16, 16)
    with record(system, "stem") as outputs:
        system(first)
        before = outputs["stem"]
        system(second)
        assert not torch.equal(outputs["stem"], before)
        during = outputs["stem"]
    system(first)
    assert outputs["stem"] is during


def test_hooks_are_gone_after_an_error_in_the_block(system):
    with pytest.raises(ZeroDivisionError), record(system, "stem"):
        raise ZeroDivisionError
    assert not any(module._forward_hooks for module in system.modules())


@pytest.mark.parametrize(
    ("name", "hint"), [("stage4", "did you mean stage"), ("", "known: "), ("xyz", "known: activate, classifier, drop")]
)
def test_an_unknown_module_is_told_with_the_nearest_names(system, name, hint):
    with pytest.raises(InputError, match=f"ResNet has no module '{name}'; {hint}"), record(system, "stem", name):
        pass
    assert not any(module._forward_hooks for module in system.modules())
