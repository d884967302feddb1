"""Metrics to an outside viewer, besides metrics.jsonl."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from foveal.errors import InputError
from foveal.filesystem import own_folder


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
    with ExitStack() as stack:
        writers: list[SummaryWriter] = []  # made with the first record, when the run directory is in order

        def track(record: dict[str, Any]) -> None:
            if not writers:
                writers.append(stack.enter_context(SummaryWriter(str(own_folder(directory, "tensorboard")))))
            begin = "" if record["phase"] == "train" else f"{record['phase']}/"
            for split in ("train", "val"):
                for name, value in record[split].items():
                    writers[0].add_scalar(f"{begin}{name}/{split}", value, record["epoch"])
            writers[0].add_scalar(f"{begin}lr", record["lr"], record["epoch"])
            writers[0].add_scalar(f"{begin}images per second", record["images_per_second"], record["epoch"])
            writers[0].flush()

        yield track
