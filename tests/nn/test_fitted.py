"""Buffers whose sizes come from data."""

import re

import pytest
import torch

from foveal.errors import InputError
from foveal.nn.fitted import Fitted, before_fit, check_fitted


def test_loading_gives_the_sizes_of_the_file() -> None:
    layouts = {"centres": "N D", "votes": "V integers"}
    found = Fitted(**layouts)
    assert found.empty
    found.keep(centres=torch.randn(5, 3), votes=torch.arange(7))
    assert not found.empty
    system = torch.nn.ModuleDict({"memory": Fitted(**layouts)})
    assert before_fit(system)
    system.load_state_dict({f"memory.{name}": value for name, value in found.state_dict().items()})
    assert not before_fit(system)
    for name, value in found.named_buffers():
        assert torch.equal(system["memory"].get_buffer(name), value)
        assert system["memory"].get_buffer(name).dtype == value.dtype


def test_types_are_those_of_the_layout() -> None:
    found = Fitted(centres="N D", votes="V integers")
    found.load_state_dict({"centres": torch.ones(2, 1).half(), "votes": torch.ones(3, dtype=torch.uint8)})
    assert (found.centres.dtype, found.votes.dtype) == (torch.float32, torch.int64)


def test_errors_name_missing_and_unknown_tensors() -> None:
    with pytest.raises(RuntimeError, match=r"Missing key.*votes"):
        Fitted(centres="N", votes="N").load_state_dict({"centres": torch.zeros(2)})
    with pytest.raises(RuntimeError, match=r"Unexpected key.*other"):
        Fitted(centres="N").load_state_dict({"centres": torch.zeros(2), "other": torch.zeros(1)})


@pytest.mark.parametrize(
    ("centres", "votes", "text"),
    [
        (torch.zeros(4, 3), torch.arange(4), None),
        (torch.zeros(4, 3), torch.arange(5), "memory.votes (N,) integers; not (4, 3) float32, (5,) int64"),
        (torch.zeros(4, 2), torch.arange(4), "memory.centres (N, 3)"),
        (torch.zeros(4, 3, 1), torch.arange(4), "memory.centres (N, 3)"),
        (torch.zeros(1, 3), torch.arange(1), "memory.centres has N = 1; N is 2 or more"),
        (torch.zeros(0, 3), torch.arange(0), "memory.centres has N = 0; N is 2 or more"),
        (torch.zeros(4, 3), torch.arange(4) + 7, "memory.votes has the value 10; values are 0 to 9"),
        (torch.zeros(4, 3), torch.arange(4) - 1, "memory.votes has the value -1; values are 0 to 9"),
        (torch.zeros(4, 3), torch.zeros(4), "memory.votes (N,) integers"),
    ],
)
def test_layouts_and_limits(centres: torch.Tensor, votes: torch.Tensor, text: str | None) -> None:
    system = torch.nn.ModuleDict({"memory": Fitted(centres="N D", votes="N integers")})
    system["memory"].keep(centres=centres, votes=votes)
    limits: dict[str, int | range] = {"D": 3, "N": range(2, 2**63 - 1), "votes": range(10)}
    if text is None:
        check_fitted(system, limits)
    else:
        with pytest.raises(InputError, match=re.escape(text)):
            check_fitted(system, limits)
