"""What the parity tests of ViT cannot see: order of the patches, maps, regularisers, refused settings and weights."""

import re

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from foveal.build import create
from foveal.errors import InputError
from foveal.nn.record import record
from foveal.nn.stochastic_depth import StochasticDepth

SMALL = {"labels": ("a", "b", "c"), "width": 24, "depth": 2, "heads": 3, "patch": 4}


def silenced(system):
    """Each block adds nothing, so that its input is its output."""
    for block in system.blocks:
        for layer in (block.attention.out, block.mlp.fc2):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
    return system


@pytest.fixture(params=["token", "mean"])
def system(request):
    torch.manual_seed(0)
    system = create("vit_nano", image_size=(8, 12), pool=request.param, **SMALL)  # 2 x 3 patches
    with torch.no_grad():
        for parameter in system.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return system


def test_equation_1_and_4(system):
    """Without blocks, what is left can be written by hand: patches row by row, each with its own position."""
    silenced(system)
    images = torch.rand(2, 3, 8, 12)
    weight, bias = system.patch_embedding.weight, system.patch_embedding.bias
    positions = list(system.position_embedding[0])
    if system.spec.pool == "token":
        z = (system.class_token[0] + positions[0]).expand(2, -1)
        norm = system.norm
    else:
        tokens = []
        for i in range(2):
            for j in range(3):
                patch = (images[:, :, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4] - 0.5) / 0.5
                tokens.append(patch.flatten(1) @ weight.flatten(1).T + bias + positions[3 * i + j])
        z = torch.stack(tokens).mean(0)
        norm = system.mean_norm
    y = (z - z.mean(1, keepdim=True)) / (z.var(1, keepdim=True, correction=0) + 1e-6).sqrt() * norm.weight + norm.bias
    expected = y @ system.classifier.weight.T + system.classifier.bias
    torch.testing.assert_close(system(images), expected)


def test_tokens_as_a_map_lie_where_their_patches_are(system):
    images = torch.rand(2, 3, 8, 12)
    with record(system, "patch_embedding", "dropout", system.explained_layer) as outputs:
        system(images)
    tokens, features = outputs["dropout"], outputs["patch_embedding"]
    assert tokens.shape == (2, 7 if system.spec.pool == "token" else 6, 24)
    placed = system.as_map(tokens) - system.as_map(system.position_embedding)
    torch.testing.assert_close(placed, features)
    assert system.as_map(features) is features
    without_class_token = system.as_map(tokens[:, -6:])
    assert torch.equal(without_class_token, system.as_map(tokens))
    assert system.as_map(outputs[system.explained_layer]).shape == (2, 24, 2, 3)


@pytest.mark.parametrize("shape", [(2, 24), (2, 5, 24), (2, 8, 24)])
def test_what_is_no_map_is_told(system, shape):
    with pytest.raises(InputError, match=rf"vit_nano cannot lay .* of shape {re.escape(str(shape))} out on the image"):
        system.as_map(torch.zeros(shape))


def test_the_class_token_reads_the_patches_at_the_explained_layer_and_not_after_it(system):
    names = system.explained_layer, "blocks.1"
    with record(system, *names) as outputs:
        score = system(torch.rand(1, 3, 8, 12))[0, 1]
    before, after = (
        system.as_map(gradient) for gradient in torch.autograd.grad(score, [outputs[name] for name in names])
    )
    assert (before != 0).all()
    assert (after == 0).all() == (system.spec.pool == "token")


def test_each_gelu_runs_once(system):
    gelus = [m for m in system.modules() if isinstance(m, nn.GELU)]
    runs = []
    for gelu in gelus:
        gelu.register_forward_hook(lambda module, inputs, output: runs.append(module))
    system(torch.rand(1, 3, 8, 12))
    assert list(map(id, runs)) == list(map(id, gelus))
    assert len(gelus) == 2


def test_drop_probability_grows_linearly_with_depth():
    system = create("vit_nano", depth=4, stochastic_depth=0.4)
    drops = [m.probability for m in system.modules() if isinstance(m, StochasticDepth)]
    assert drops == pytest.approx([0.1, 0.2, 0.3, 0.4])


def test_tokens_start_with_the_pictures_variance_and_faint_positions():
    torch.manual_seed(0)
    system = create("vit_t_16")
    with record(system, "patch_embedding") as outputs:
        system(torch.rand(2, 3, 224, 224))
    # Uniform pixels in [-1, 1] have the variance 1/3; the truncation at two units is far from these weights.
    assert outputs["patch_embedding"].std().item() == pytest.approx(3**-0.5, rel=0.03)
    assert system.position_embedding.std().item() == pytest.approx(0.02, rel=0.03)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"image_size": 18}, "18 x 18 pixels cannot be cut .* 4 x 4; set image_size to 16 x 16 or 20 x 20$"),
        ({"image_size": (16, 22)}, "16 x 22 pixels cannot be cut .* image_size to 16 x 20 or 16 x 24$"),
        ({"image_size": 3}, "3 x 3 pixels cannot be cut .* image_size to 4 x 4$"),
        ({"patch": 5}, "patches of 5 x 5; set image_size to 15 x 15 or 20 x 20$"),
        ({"heads": 3}, "not 64 for 3"),
        ({"heads": 0}, "at least 1"),
        ({"patch": 0}, "at least 1"),
        ({"depth": 0}, "at least 1"),
        ({"mlp_ratio": 0.0}, "at least 1"),
        ({"dropout": 1.0}, "dropout must be"),
        ({"stochastic_depth": 1.0}, "drop probability"),
        ({"pool": "max"}, "no pool 'max'"),
    ],
)
def test_settings_that_cannot_be_are_refused(fields, said):
    with pytest.raises(InputError, match=said):
        create("vit_nano", **fields)


def test_images_of_another_size_are_refused():
    with pytest.raises(InputError, match=r"vit_nano takes images of 16 x 16 pixels, not 20 x 16; .*image_size="):
        create("vit_nano")(torch.rand(1, 3, 20, 16))


def as_torchvision(state):
    """The names that torchvision gives to a network of this kind."""
    changed = {}
    for name, tensor in state.items():
        for ours, theirs in [
            (r"^norm\.", "encoder.ln."),
            (r"blocks\.", "encoder.layers.encoder_layer_"),
            (r"\.norm(\d)", r".ln_\1"),
            (r"attention\.qkv\.", "self_attention.in_proj_"),
            (r"attention\.out", "self_attention.out_proj"),
            (r"mlp\.fc1", "mlp.0"),
            (r"mlp\.fc2", "mlp.3"),
            ("patch_embedding", "conv_proj"),
            ("position_embedding", "encoder.pos_embedding"),
            ("classifier", "heads.head"),
        ]:
            name = re.sub(ours, theirs, name)
        changed[name] = tensor
    return changed


@pytest.mark.parametrize(
    ("pool", "side", "layout"),
    [("token", 24, dict), ("token", 8, dict), ("mean", 24, dict), ("token", 24, as_torchvision)],
)
def test_weights_for_images_of_another_size_are_refused_with_the_size_to_use(pool, side, layout, tmp_path):
    file = tmp_path / "weights.safetensors"
    state = create("vit_nano", image_size=side, pool=pool, **SMALL).state_dict()
    save_file(layout(state), file)
    patches = side // 4
    said = f"of {patches} x {patches} patches, the system's of 2 x 3; create it with image_size={side}$"
    with pytest.raises(InputError, match=f"does not fit vit_nano: its positions are those {said}"):
        create("vit_nano", image_size=(8, 12), pool=pool, weights=file, **SMALL)
    loaded = create("vit_nano", image_size=side, pool=pool, weights=file, **SMALL)
    assert torch.equal(loaded.position_embedding, state["position_embedding"])


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"patch": 8, "image_size": 16}, r"another shape: position_embedding .*patch_embedding.weight \(24, 3, 8, 8\)"),
        ({"width": 12, "image_size": 24}, r"another shape: class_token \(1, 1, 12\)"),
        ({"image_size": (8, 16)}, r"another shape: position_embedding \(1, 9, 24\) for \(1, 7, 24\)$"),
        ({"pool": "mean", "image_size": (8, 12)}, "missing: class_token, norm.weight, norm.bias; left over: mean_norm"),
        ({"depth": 3, "image_size": (8, 12)}, "left over: blocks.2.attention.out.bias.* and 9 more$"),
    ],
)
def test_weights_that_misfit_in_other_ways_are_told_as_everywhere(fields, said, tmp_path):
    file = tmp_path / "weights.safetensors"
    save_file(create("vit_nano", **SMALL | fields).state_dict(), file)
    with pytest.raises(InputError, match=said):
        create("vit_nano", image_size=(8, 12), weights=file, **SMALL)


def test_networks_that_average_normalised_tokens_are_refused(tmp_path):
    """timm's names for them differ from those of ours, which normalises the average, in one word."""
    state = create("vit_nano", pool="mean", **SMALL).state_dict()
    names = {"position_embedding": "pos_embed", "patch_embedding": "patch_embed.proj", "classifier": "head"}
    names |= {"attention.qkv": "attn.qkv", "attention.out": "attn.proj"}

    def file_with(norm):
        renamed = {}
        for name, tensor in state.items():
            for ours, theirs in (names | {"mean_norm": norm}).items():
                name = name.replace(ours, theirs)
            renamed[name] = tensor
        save_file(renamed, tmp_path / f"{norm}.safetensors")
        return tmp_path / f"{norm}.safetensors"

    create("vit_nano", pool="mean", weights=file_with("fc_norm"), **SMALL)
    with pytest.raises(
        InputError, match=r"missing: mean_norm.weight, mean_norm.bias; left over: norm.bias, norm.weight"
    ):
        create("vit_nano", pool="mean", weights=file_with("norm"), **SMALL)


@pytest.mark.parametrize("pool", ["token", "mean"])
def test_the_nano_variant_learns_the_digits(pool):
    from sklearn.datasets import load_digits

    pixels, digits = load_digits(return_X_y=True)
    images = torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 8, 8).expand(-1, 3, -1, -1) / 16
    images, labels = nn.functional.interpolate(images, size=(16, 16), mode="bilinear"), torch.tensor(digits)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    train, test = order[:1260], order[1260:]
    torch.manual_seed(0)
    system = create("vit_nano", pool=pool).train()
    optimizer = torch.optim.AdamW(system.parameters(), lr=0.002)
    for _ in range(3):
        for rows in train[torch.randperm(len(train))].split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(system(images[rows]), labels[rows]).backward()
            optimizer.step()
    with torch.no_grad():
        accuracy = (system.eval()(images[test]).argmax(1) == labels[test]).double().mean().item()
    assert accuracy > 0.85
