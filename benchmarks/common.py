"""What the benchmarks share: paired ratios, the machine, a table or one JSON document."""

import argparse
import json
import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from statistics import median
from typing import Any

PEERS = ("torchvision", "timm")


def arguments(description: str | None, rounds: int) -> argparse.ArgumentParser:
    """A parser with what every benchmark takes."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=rounds, help=f"how often each is measured (default {rounds})")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of tables")
    return parser


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, lowest and highest."""
    return {"median": median(values), "min": min(values), "max": max(values)}


def paired(values: Sequence[float], units: Sequence[float]) -> dict[str, float]:
    """The spread of the ratios within each round: what slows a whole round down is not in them."""
    return spread([value / unit for value, unit in zip(values, units, strict=True)])


def machine() -> dict[str, Any]:
    """What the figures depend on. load: processes that want a core, mean over the last minute; ours among them."""
    packages = {name: version(name) for name in ("torch", *PEERS) if find_spec(name)}
    return {"python": platform.python_version(), **packages, "cores": os.cpu_count(), "load": os.getloadavg()[0]}


def within(figures: dict[str, float], digits: int = 2) -> str:
    """A spread in words."""
    return f"{figures['median']:.{digits}f} ({figures['min']:.{digits}f}-{figures['max']:.{digits}f})"


def verdict(value: float, target: float | None) -> str:
    """Target and whether the value stays below it."""
    return "" if target is None else f"< {target:g} {'met' if value < target else 'MISSED'}"


def report(document: dict[str, Any], tables: Sequence[Sequence[Sequence[str]]], *, as_json: bool) -> None:
    """The document, or the tables below the machine; the first row of a table is its head."""
    if as_json:
        print(json.dumps(document, indent=1))
        return
    print("  ".join(f"{name} {value}" for name, value in document["machine"].items()))
    for table in tables:
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        print()
        for row in table:
            first, *others = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            print("  ".join([first, *others]).rstrip())
