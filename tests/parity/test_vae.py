"""The fully connected variational autoencoder against plain layers in the layout of pytorch/examples."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy, relu

from foveal.build import create
from foveal.errors import InputError
from foveal.structures import Batch
from foveal.weights import load_weights, translate

from .compare import (
    TOLERANCE,
    compare_gradients,
    gradients_of,
    parameters_of,
    randomise,
    relative_error,
    row,
)


class Plain(nn.Module):
    """The equations of the paper's appendices B and C, with relus, for 784 shares of ink."""

    def __init__(self, hidden: int, latent: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(784, hidden)
        self.fc21, self.fc22 = nn.Linear(hidden, latent), nn.Linear(hidden, latent)
        self.fc3, self.fc4 = nn.Linear(latent, hidden), nn.Linear(hidden, 784)

    def negative_bound(self, ink: Tensor, noise: Tensor) -> Tensor:
        """The mean over images of the bound, with the sign turned, in nats."""
        h = relu(self.fc1(ink))
        mean, log_variance = self.fc21(h), self.fc22(h)
        found = self.fc4(relu(self.fc3(mean + noise * (log_variance / 2).exp()))).sigmoid()
        kl = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum()
        return (binary_cross_entropy(found, ink, reduction="sum") + kl) / len(ink)


def test_equal_to_the_plain_layout(tmp_path: Path, record_property: Callable[..., None]) -> None:
    reference, file = randomise(Plain(12, 5)), tmp_path / "vae.safetensors"
    save_file(reference.state_dict(), file)
    system = create("vae_fc", weights=file, hidden=12, latent=5)
    assert system.started_from == "vae.safetensors (pytorch_examples's layout)"
    system, reference = system.double(), reference.double()
    ink = torch.randint(0, 256, (4, 784)).double() / 255
    images = ink.view(4, 1, 28, 28).expand(-1, 3, -1, -1)
    none = torch.zeros(4)
    torch.manual_seed(3)
    found = 784 * sum(system.loss(Batch(images, (), none, none, none)).values())
    torch.manual_seed(3)
    wanted = reference.negative_bound(ink, torch.randn(4, 5, dtype=torch.float64))
    found.backward()  # type: ignore[union-attr]
    wanted.backward()
    error = relative_error(found, wanted)  # type: ignore[arg-type]
    assert error < TOLERANCE
    worst = compare_gradients(gradients_of(system), translate(system, gradients_of(reference))[1])
    figures = {"parameters": parameters_of(system), "logits": error, "gradients": worst}
    record_property("parity", row("vae_fc (narrow)", "torch", "nn.Linear", "pytorch_examples", figures))


def test_files_of_other_sizes_are_told(tmp_path: Path) -> None:
    file = tmp_path / "vae.safetensors"
    save_file(randomise(Plain(12, 5)).state_dict(), file)
    with pytest.raises(InputError, match=r"of another shape: encoder\.mean\.weight"):
        load_weights(create("vae_fc", hidden=12, latent=6), file)
