"""Buffers whose sizes the data tells."""

import pytest
import torch

from foveal.nn.fitted import Fitted


def test_loading_gives_the_sizes_and_types_of_what_is_loaded() -> None:
    found = Fitted("centres", "votes")
    assert found.empty
    found.keep(centres=torch.randn(5, 3), votes=torch.arange(7))
    assert not found.empty
    system = torch.nn.ModuleDict({"memory": Fitted("centres", "votes")})
    system.load_state_dict({f"memory.{name}": value for name, value in found.state_dict().items()})
    for name, value in found.named_buffers():
        assert torch.equal(system["memory"].get_buffer(name), value)
        assert system["memory"].get_buffer(name).dtype == value.dtype


def test_what_is_missing_or_unknown_is_told() -> None:
    with pytest.raises(RuntimeError, match=r"Missing key.*votes"):
        Fitted("centres", "votes").load_state_dict({"centres": torch.zeros(2)})
    with pytest.raises(RuntimeError, match=r"Unexpected key.*other"):
        Fitted("centres").load_state_dict({"centres": torch.zeros(2), "other": torch.zeros(1)})
