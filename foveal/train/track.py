"""Metrics to an outside viewer, besides metrics.jsonl."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from foveal.errors import InputError


@contextmanager
def tracker(kind: str, directory: Path) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A function that takes the record of each epoch. kind: "none" or "tensorboard"."""
    if kind == "none":
        yield lambda record: None
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise InputError("tensorboard is not installed; it comes with: pip install 'foveal[track]'") from None
    with SummaryWriter(str(directory / "tensorboard")) as writer:

        def track(record: dict[str, Any]) -> None:
            for split in ("train", "val"):
                for name, value in record[split].items():
                    writer.add_scalar(f"{name}/{split}", value, record["epoch"])
            writer.add_scalar("lr", record["lr"], record["epoch"])
            writer.add_scalar("images per second", record["images_per_second"], record["epoch"])
            writer.flush()

        yield track
