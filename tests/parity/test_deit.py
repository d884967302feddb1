"""DeiT against timm: what it answers, both heads, and the plain ones, which are ViT."""

import pytest
import torch

from foveal.build import create
from foveal.weights import translate

from .compare import check_timm_preprocessing, oracle, randomise, relative_error

LABELS = ("a", "b", "c", "d", "e")
SIZE = (32, 48)
PLAIN = ["deit_tiny_patch16_224", "deit_small_patch16_224", "deit_base_patch16_224"]
DISTILLED = ["deit_tiny_distilled_patch16_224", "deit_small_distilled_patch16_224", "deit_base_distilled_patch16_224"]


def fields_of(name: str) -> dict[str, int]:
    """The large one with two of its blocks."""
    return {"depth": 2} if "base" in name else {}


@pytest.mark.parametrize("name", PLAIN + DISTILLED)
def test_equal_to_timm(name, compare_by_file):
    fields = fields_of(name)
    reference = oracle("timm").create_model(name, num_classes=5, img_size=SIZE, **fields)
    compare_by_file(name, "timm", name, reference, size=SIZE, layout="timm", labels=LABELS, image_size=SIZE, **fields)


def test_both_heads_equal_to_timm():
    """Logits and gradients of each head by itself."""
    name = DISTILLED[0]
    reference = oracle("timm").create_model(name, num_classes=5, img_size=SIZE, depth=3)
    system = create(name, labels=LABELS, image_size=SIZE, depth=3)
    system.load_state_dict(translate(system, randomise(reference).state_dict())[1])
    system, reference = system.double(), reference.double().train()
    reference.distilled_training = True
    images = torch.rand(2, 3, *SIZE, dtype=torch.float64)
    heads = system.heads(images)
    assert torch.equal(heads["class"], system(images))
    for ours, theirs in zip(("class_token", "distillation_token"), reference(system.normalize(images)), strict=True):
        assert relative_error(heads[ours], theirs) < 1e-12
        system.zero_grad()
        reference.zero_grad()
        heads[ours].square().sum().backward(retain_graph=True)
        theirs.square().sum().backward(retain_graph=True)
        found = {name: parameter.grad for name, parameter in system.named_parameters()}
        there = {name: p.grad for name, p in reference.named_parameters() if p.grad is not None}
        for parameter, gradient in translate(system, there)[1].items():
            assert relative_error(found[parameter], gradient) < 1e-12, parameter
    torch.testing.assert_close(heads["class"], (heads["class_token"] + heads["distillation_token"]) / 2)


@pytest.mark.parametrize("name", PLAIN + DISTILLED)
def test_parameters_and_preprocessing_are_timms(name):
    check_timm_preprocessing(name, name)
