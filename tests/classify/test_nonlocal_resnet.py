"""The non-local network: its attention by brute force, its start as a ResNet, weights of one, settings, learning."""

import re

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from foveal.build import create
from foveal.classify.nonlocal_resnet import NonLocalBlock
from foveal.errors import InputError

LABELS = ("a", "b", "c")


def randomised(module):
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.5)
    return module.double().eval()


@pytest.mark.parametrize("subsample", [False, True])
def test_equations_1_and_6_place_by_place(subsample):
    block = randomised(NonLocalBlock(6, subsample))
    x = torch.randn(2, 6, 3, 4, dtype=torch.float64)
    theta, phi, g = (conv.weight[:, :, 0, 0] for conv in (block.theta, block.phi, block.g))
    expected = x.clone()
    for b in range(2):
        squares = [(i, i + 1) for i in range(3)], [(j, j + 1) for j in range(4)]
        if subsample:  # the last row stands alone
            squares = [(0, 2), (2, 3)], [(0, 2), (2, 4)]
        keys, values = [], []
        for top, bottom in squares[0]:
            for left, right in squares[1]:
                places = [x[b, :, i, j] for i in range(top, bottom) for j in range(left, right)]
                keys.append(torch.stack([phi @ place for place in places]).amax(0))
                values.append(torch.stack([g @ place for place in places]).amax(0))
        for i in range(3):
            for j in range(4):
                f = torch.stack([torch.exp(theta @ x[b, :, i, j] @ key) for key in keys])
                y = sum(weight * value for weight, value in zip(f / f.sum(), values, strict=True))
                z = block.out.weight[:, :, 0, 0] @ y / (1 + block.norm.eps) ** 0.5
                expected[b, :, i, j] += z * block.norm.weight + block.norm.bias
    torch.testing.assert_close(block(x), expected)


def test_it_starts_as_the_resnet_with_the_same_weights():
    plain, system = create("resnet_nano"), create("resnet_nonlocal_nano")
    state = plain.state_dict()
    left = system.load_state_dict(state, strict=False)
    assert not left.unexpected_keys
    assert {name.split(".")[1] for name in left.missing_keys} == {"attention0"}
    images = torch.rand(2, 3, 16, 16)
    for training in (False, True):
        assert torch.equal(system.train(training)(images), plain.train(training)(images))
    nn.init.ones_(system.stage2.attention0.norm.weight)
    assert not torch.equal(system.eval()(images), plain.eval()(images))


def test_places_and_parameters():
    with torch.device("meta"):
        system, plain = create("resnet50_nonlocal"), create("resnet50")
    assert [name for name, _ in system.stage2.named_children()] == ["0", "1", "attention1", "2", "3", "attention3"]
    attended = [n for n, m in system.named_modules() if isinstance(m, NonLocalBlock)]
    assert attended == [f"stage{place}" for place in ("2.attention1", "2.attention3")] + [
        f"stage3.attention{n}" for n in (1, 3, 5)
    ]
    count = [sum(p.numel() for p in s.parameters()) for s in (system, plain)]
    assert count[0] - count[1] == sum(blocks * (4 * c * c // 2 + 2 * c) for blocks, c in ((2, 512), (3, 1024)))


def as_torchvision(state):
    """The names that torchvision gives to a ResNet."""
    names = {"stem.conv": "conv1", "stem.norm": "bn1", "classifier": "fc", "stage": "layer", "branch.norm": "bn"}
    names |= {"branch.": "", "shortcut.conv": "downsample.0", "shortcut.norm": "downsample.1"}
    changed = {}
    for name, tensor in state.items():
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        changed[name] = tensor
    return changed


@pytest.mark.parametrize(("layout", "said"), [(dict, ""), (as_torchvision, r" \(torchvision's layout\)")])
def test_the_weights_of_a_resnet_are_enough_and_it_is_said(layout, said, tmp_path):
    plain, file = create("resnet_nano", labels=LABELS), tmp_path / "weights.safetensors"
    save_file(layout(plain.state_dict()), file)
    system = create("resnet_nonlocal_nano", labels=LABELS, weights=file)
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(system(images), plain(images))
    lacking = r"which lacks stage2.attention0.theta.weight and 17 more: these begin anew$"

    assert re.search(rf"^weights.safetensors{said}, {lacking}", system.started_from)


def test_any_other_gap_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("foveal.build._fitting", lambda *_: [])  # which has tests of its own, and takes long
    file = tmp_path / "weights.safetensors"
    whole = create("resnet_nonlocal_nano", labels=LABELS).state_dict()
    save_file(whole, file)
    assert create("resnet_nonlocal_nano", labels=LABELS, weights=file).started_from == "weights.safetensors"
    for missing in ("stage3.attention0.g.weight", "stage3.0.branch.conv1.weight"):
        save_file({name: tensor for name, tensor in whole.items() if name != missing}, file)
        with pytest.raises(InputError, match=f"missing: {missing}$"):
            create("resnet_nonlocal_nano", labels=LABELS, weights=file)
    save_file(whole, file)
    with pytest.raises(InputError, match=r"left over: stage2.attention0"):
        create("resnet_nano", labels=LABELS, weights=file)
    trunk = {name: tensor for name, tensor in whole.items() if ".attention" not in name}
    save_file({name: tensor for name, tensor in trunk.items() if name != "stem.conv.weight"}, file)
    with pytest.raises(InputError, match=r"missing: stem.conv.weight$"):
        create("resnet_nonlocal_nano", labels=LABELS, weights=file)


def test_with_preactivation_too():
    system = create("resnet_nonlocal_nano", preactivation=True)
    assert torch.equal(system.stage2.attention0(x := torch.rand(1, 32, 3, 3)), x)
    assert system(torch.rand(1, 3, 16, 16)).isfinite().all()


@pytest.mark.parametrize("attention", [(0, 1), (0, 2, 0), (0, -1, 0), ()])
def test_settings_that_cannot_be_are_refused(attention):
    with pytest.raises(InputError, match="attention must give for each stage"):
        create("resnet_nonlocal_nano", attention=attention)


def test_the_nano_variant_learns_the_digits_and_its_attention_wakes(small_digits):
    system = create("resnet_nonlocal_nano")
    assert small_digits(system, epochs=3, lr=0.004) > 0.85
    assert system.stage2.attention0.norm.weight.abs().max() > 1e-3
