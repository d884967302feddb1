"""The record of a run, run.json: what it began with, and whether it is the same that is to go on."""

import json
import os
import platform
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import torch

import foveal
from foveal.data.dataset import Dataset
from foveal.errors import InputError
from foveal.system import System
from foveal.train import checkpoint
from foveal.train.config import DEFAULTS, EXECUTION, UNSET, TrainConfig
from foveal.train.state import PHASES, Progress
from foveal.train.teacher import Teacher


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl, without one that a kill cut off in its midst. Raises InputError."""
    try:
        lines = path.read_text("utf-8", "replace").splitlines() if path.is_file() else []
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    records = []
    for line in lines:
        with suppress(ValueError):
            records.append(json.loads(line))
    return [record for record in records if isinstance(record, dict) and "event" in record]


def is_epoch(record: Mapping[str, Any], phase: str, epoch: int | None = None) -> bool:
    """Whether a line of metrics.jsonl closes this epoch of a phase; without a number, any."""
    in_phase = record["event"] == "epoch" and record.get("phase", "train") == phase
    return in_phase and epoch in (None, record["epoch"])


def is_before(record: Mapping[str, Any], progress: Progress) -> bool:
    """Whether a line of metrics.jsonl was written before the run stood there."""
    phase, now = PHASES.index(record.get("phase", "train")), PHASES.index(progress.phase)
    # Epochs are counted when they end, steps from when they begin.
    done = record["epoch"] <= progress.epoch if record["event"] == "epoch" else record["step"] < progress.step
    return phase < now or (phase == now and done)


def replace_text(path: Path, text: str) -> None:
    """A small file with another content, all of it or the old one. Raises InputError."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        # File names that are no text in any encoding come as lone surrogates; JSON has its own way to write them.
        temporary.write_text(text, "utf-8", "backslashreplace")
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise InputError(f"cannot write {path}: {error.strerror}") from None


def new_record(
    system: System,
    dataset: Dataset,
    config: TrainConfig,
    origins: Mapping[str, str],
    processes: int,
    device: torch.device,
    teacher: Teacher | None = None,
) -> dict[str, Any]:
    """What a run is before its first step."""
    described = checkpoint.describe(system)
    record = {
        "foveal": foveal.__version__,
        "name": system.name,
        "task": system.task,
        "status": "running",
        "data": {"source": dataset.source, "labels": list(dataset.labels), "splits": dataset.split_counts()},
        "started_from": system.started_from,
        "variant": described["variant"],
        "preprocess": described["preprocess"],
        "teacher": teacher and teacher.record,
        "config": asdict(replace(config, teacher=teacher.said if teacher else None)),
        "origins": dict(origins),
        "inputs": {
            "data": {"value": dataset.source, "from": "user"},
            "weights": {"value": system.started_from, "from": "user" if system.started_from else "default"},
            **{name: {"value": value, "from": "user"} for name, value in system.variant.items()},
        },
        "processes": processes,
        "environment": environment(device),
        "unreadable": {},
    }
    return json.loads(json.dumps(record, default=repr))  # as it will be read again


def environment(device: torch.device) -> dict[str, Any]:
    """What a result may depend on besides the configuration."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "started": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def has_other_things(directory: Path) -> bool:
    """Whether a path is no folder, or one with more in it than what a run leaves that was killed as it began."""
    return not directory.is_dir() or any(path.name not in (".lock", "run.json.tmp") for path in directory.iterdir())


def free_directory(system: System, dataset: Dataset) -> Path:
    stem = f"{system.name or type(system).__name__}-{Path(dataset.source).stem or 'data'}"
    number, directory = 1, Path("runs") / stem
    while directory.exists():
        number += 1
        directory = Path("runs") / f"{stem}-{number}"
    return directory


def read_record(directory: Path) -> dict[str, Any]:
    path = directory / "run.json"
    try:
        record = json.loads(path.read_text("utf-8", "surrogateescape"))
        missing = {"name", "status", "data", "variant", "preprocess", "config", "unreadable"} - record.keys()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, AttributeError):
        missing = {"JSON"}
    if missing:
        raise InputError(f"{path} is damaged, it lacks {', '.join(sorted(missing))}; --overwrite begins anew")
    return record


def check_same(directory: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    """InputError where the run to resume is not the one that is asked for."""
    for what, before, now in (
        ("system", old["name"], new["name"]),
        ("classes", old["data"]["labels"], new["data"]["labels"]),
        ("images in each split", old["data"]["splits"], new["data"]["splits"]),
    ):
        if before != now:
            raise InputError(f"{directory} cannot go on: its {what} were {before}, now {now}")
    # Each has random numbers of its own, and batch normalisation sees one process's share of a batch.
    if (before := old.get("processes", 1)) != (now := new["processes"]):
        raise InputError(f"{directory} cannot go on with {now} processes: it runs with {before}, see torchrun")
    taught = [record.get("teacher") for record in (old, new)]
    if taught[0] != taught[1]:
        before, now = (teacher and f"{teacher['name']} with the weights {teacher['digest'][:12]}" for teacher in taught)
        raise InputError(f"{directory} cannot go on with the teacher {now}: it runs with {before}")
    # What the foveal that began the run did not know yet was as it is where nobody sets it.
    unset = {field.name: None if field.default is UNSET else field.default for field in fields(TrainConfig)}
    old = {**old, "config": unset | DEFAULTS | old["config"]}
    for part in ("variant", "preprocess", "config"):
        for name in {**new[part], **old[part]}:
            before, now = old[part].get(name), new[part].get(name)
            if before != now and name not in EXECUTION and name != "teacher":  # which may have moved
                shown = "image_size" if (part, name) == ("preprocess", "size") else name
                raise InputError(f"{directory} cannot go on with {shown} {_said(now)}: it runs with {_said(before)}")


def _said(value: Any) -> Any:
    """Systems by their names, and all else as it is."""
    systems = value if isinstance(value, list) else [value]
    named = systems and all(isinstance(system, dict) for system in systems)
    return ", ".join(str(system["name"]) for system in systems) if named else value
