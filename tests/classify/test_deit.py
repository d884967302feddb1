"""What the parity tests of DeiT cannot see: who learns from whom, maps, refused settings."""

import pytest
import torch

from foveal.build import create
from foveal.classify.classifier import Teaching
from foveal.errors import InputError
from foveal.nn.record import record
from foveal.structures import Batch, Label

from ..parity.compare import randomise
from .learning import accuracy_on_digits


def batch_of(count: int, teacher: bool) -> Batch:
    torch.manual_seed(1)
    scores = torch.randn(count, 10)
    targets = tuple(Label(torch.tensor(i % 10), teacher=scores[i] if teacher else None) for i in range(count))
    return Batch(torch.rand(count, 3, 16, 16), targets, torch.arange(count), torch.zeros(count, 2, 3), torch.zeros(1))


@pytest.fixture
def system():
    return randomise(create("deit_nano"))


def cross_entropies(system, batch):
    heads = system.heads(batch.images)
    labels = torch.stack([target.label for target in batch.targets])
    return [torch.nn.functional.cross_entropy(heads[name], labels) for name in system.token_names]


def test_both_tokens_learn_from_the_labels_without_a_teacher(system):
    batch = batch_of(4, teacher=False)
    losses = system.loss(batch)
    assert losses.keys() == {"class"}
    torch.testing.assert_close(losses["class"], sum(cross_entropies(system, batch)) / 2)


def test_equation_3_with_a_teacher(system):
    """Half from the label for the class token, half from the teacher's answer for the distillation token."""
    system.teaching = Teaching("hard")
    batch = batch_of(4, teacher=True)
    losses = system.loss(batch)
    answers = torch.stack([target.teacher.argmax() for target in batch.targets])
    taught = torch.nn.functional.cross_entropy(system.heads(batch.images)["distillation_token"], answers)
    torch.testing.assert_close(losses["class"], cross_entropies(system, batch)[0] / 2)
    torch.testing.assert_close(losses["distill"], taught / 2)
    for term, silent in (("class", "distillation_classifier"), ("distill", "classifier")):
        system.zero_grad()
        losses[term].backward(retain_graph=True)
        assert system.get_submodule(silent).weight.grad is None, term


def test_tokens_as_a_map_leave_both_tokens_out(system):
    images = torch.rand(2, 3, 16, 16)
    with record(system, "patch_embedding", "dropout") as outputs:
        system(images)
    assert outputs["dropout"].shape == (2, 18, 64)
    placed = system.as_map(outputs["dropout"]) - system.as_map(system.position_embedding)
    torch.testing.assert_close(placed, outputs["patch_embedding"])


def test_weights_for_images_of_another_size_are_refused_with_the_size_to_use(tmp_path):
    from safetensors.torch import save_file

    save_file(create("deit_nano", image_size=24).state_dict(), tmp_path / "weights.safetensors")
    with pytest.raises(InputError, match=r"of 6 x 6 patches, the system's of 4 x 4; create it with image_size=24$"):
        create("deit_nano", weights=tmp_path / "weights.safetensors")


def test_a_mean_has_no_place_for_tokens():
    with pytest.raises(InputError, match="pool must be token"):
        create("deit_nano", pool="mean")


def test_the_nano_variant_learns_the_digits():
    assert accuracy_on_digits("deit_nano", 3) > 0.8
