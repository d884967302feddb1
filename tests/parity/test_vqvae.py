"""The codes of a VQ-VAE, its losses and what goes straight through, against diffusers' VectorQuantizer."""

from collections.abc import Callable

import torch

from foveal.build import create
from foveal.structures import Batch

from .compare import TOLERANCE, by, compare_gradients, gradients_of, oracle, relative_error


def test_codes_losses_and_gradients(record_property: Callable[..., None]) -> None:
    torch.manual_seed(0)
    system = create("vqvae_nano", codes=7, dimension=3, width=6, residual=4, code_decay=None, revive=0.0).double()
    theirs = oracle("diffusers.models.autoencoders.vq_model").VectorQuantizer(
        7, 3, system.spec.commitment, legacy=False, sane_index_shape=True
    )
    theirs.embedding.weight = torch.nn.Parameter(system.codebook.weight.detach().clone())
    images = torch.rand(4, 3, 8, 8, dtype=torch.float64)
    none = torch.zeros(4)
    losses = system.loss(Batch(images, (), none, none, none))
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    found = gradients_of(system)
    system.zero_grad()

    x = system.normalize(images)
    z = system.encoder(x)
    quantized, loss, (_, _, codes) = theirs(z)
    assert torch.equal(system.quantize(images), codes)
    assert len(codes.unique()) > 2
    expected = (system.decoder(quantized) - x).square().mean() + loss
    expected.backward()
    wanted = gradients_of(system) | {"codebook.weight": theirs.embedding.weight.grad}
    error = relative_error(total, expected)
    assert error < TOLERANCE
    worst = compare_gradients(found, wanted)
    record_property("step", ("codes, loss and its gradients", by("diffusers", "VectorQuantizer"), max(error, worst)))
