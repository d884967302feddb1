"""The flags that go with --weights, in every verb that takes it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

from foveal.errors import InputError

Matching = Literal["names", "order"]
Rules = Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="OLD=NEW")]
Numbers = Annotated[tuple[float, ...] | None, tyro.conf.arg(metavar="NUMBER...")]


@dataclass(kw_only=True)
class Published:
    """Weights for a system that is given by its name."""

    weights: str | None = None
    """Published weights for a system given by its name."""
    match: Matching = "names"
    """order: pair the tensors of --weights by order and shape, whatever their names."""
    rename: Rules = ()
    """A rule for names in --weights, such as net.conv1=conv1; may be given several times."""
    mean: Numbers = None
    """Mean of images in [0, 1] that --weights were trained with: one value, or one for each channel."""
    std: Numbers = None
    """Standard deviation of the same."""

    def loading(self) -> dict[str, Any]:
        """What `create` takes for these, but for the weights themselves."""
        loading = loading_of(self.weights, self.match, self.rename)
        loading.pop("weights")
        for name in ("mean", "std"):
            if (value := getattr(self, name)) is not None:
                if self.weights is None:
                    raise InputError(f"--{name} has no effect without --weights: a run has its own normalisation")
                loading[name] = value
        return loading


def loading_of(weights: str | None, match: Matching, rules: Sequence[str]) -> dict[str, Any]:
    """What `create` takes for --weights, --match and --rename."""
    given = {"--match": match != "names", "--rename": bool(rules)}
    if weights is None and any(given.values()):
        raise InputError(f"{next(flag for flag in given if given[flag])} has no effect without --weights")
    rename = dict[str, str]()
    for rule in rules:
        old, sign, new = rule.partition("=")
        if not sign:
            raise InputError(f"--rename takes OLD=NEW, such as net.conv1=conv1, not {rule!r}")
        if old in rename:
            raise InputError(f"--rename {old}= is given twice")
        rename[old] = new
    return {"weights": weights, "match": match, "rename": rename or None}
