"""The record of a run, run.json: what it began with, and whether it is the same that is to go on."""

import json
import os
import platform
import re
import time
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import torch

import foveal
from foveal.data.dataset import Dataset
from foveal.errors import InputError
from foveal.filesystem import read_text
from foveal.schema import Between, Count, check, parse
from foveal.system import Preprocess, System
from foveal.train import checkpoint
from foveal.train.config import DEFAULTS, EXECUTION, UNSET, TrainConfig, check_resolved
from foveal.train.defaults import Start
from foveal.train.state import PHASES, Progress
from foveal.train.teacher import Teacher
from foveal.weights.saved import LIMIT

VERSION = re.compile(r"[0-9]+\.[0-9]+.*")
REPAIR = "put it right, or start a new run"

Phase = Literal["train", "refit"]


class Data(TypedDict):
    """What a run was trained on."""

    source: str
    labels: list[str]
    splits: dict[str, Count]
    split_by: NotRequired[str]


class Taught(TypedDict):
    """The teacher of a run."""

    name: str | None
    digest: str


# A value on the command line, and who gave it.
Given = TypedDict("Given", {"value": Any, "from": str})


class Refit(TypedDict):
    """The second phase of a run, and what its first one reached."""

    epochs: Count
    figures_before: dict[str, float]


class Record(TypedDict):
    """run.json, as far as foveal reads it. config has the fields of TrainConfig."""

    foveal: str
    name: str | None
    task: str
    status: Literal["running", "interrupted", "failed", "finished"]
    data: Data
    variant: dict[str, Any]
    preprocess: Preprocess
    config: dict[str, Any]
    origins: dict[str, str]
    environment: dict[str, Any]
    unreadable: dict[str, str]
    started_from: NotRequired[str | None]
    start: NotRequired[Start | None]
    frozen_accuracy: NotRequired[float | None]
    warnings: NotRequired[list[str]]
    teacher: NotRequired[Taught | None]
    inputs: NotRequired[dict[str, Given]]
    processes: NotRequired[Count]
    pictures: NotRequired[list[str]]
    best_epoch: NotRequired[Count]
    result: NotRequired[dict[str, float]]
    refit: NotRequired[Refit]
    error: NotRequired[str]


class Epoch(TypedDict):
    """A line of metrics.jsonl that closes an epoch."""

    event: Literal["epoch"]
    phase: NotRequired[Phase]
    epoch: Annotated[int, Between(1)]
    step: NotRequired[Count]
    train: dict[str, float]
    val: dict[str, float]
    few: NotRequired[dict[str, str]]
    best: bool
    lr: float | None
    seconds: Annotated[float, Between(0)]
    images_per_second: NotRequired[Annotated[float, Between(0)]]
    waiting: NotRequired[float]


class Skipped(TypedDict):
    """A line of metrics.jsonl about a step that changed no weight."""

    event: Literal["skipped"]
    phase: NotRequired[Phase]
    epoch: Annotated[int, Between(1)]
    step: Count
    reason: NotRequired[str]


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl, without a last one that a kill cut off. Raises InputError for damaged ones."""
    if not os.path.lexists(path):
        return []
    lines = read_text(path, LIMIT, errors="replace").split("\n")
    records: list[dict[str, Any]] = []
    last = (0, 0)  # phase and epoch
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = parse(line)
        except InputError as error:
            if number == len(lines):  # it lacks its end, too
                break
            raise InputError(f"{path}, line {number} is damaged: {error}; {REPAIR}") from None
        try:
            skipped = isinstance(record, dict) and record.get("event") == "skipped"
            check(record, Skipped if skipped else Epoch)
            now = (PHASES.index(record.get("phase", "train")), record["epoch"])
            if record["event"] == "epoch":
                if now <= last:
                    raise InputError(f"epoch {now[1]} comes after epoch {last[1]}")
                last = now
        except InputError as error:
            raise InputError(f"{path}, line {number}: {error}; {REPAIR}") from None
        records.append(record)
    return records


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
        "data": {
            "source": dataset.source,
            "labels": list(dataset.labels),
            "splits": dataset.split_counts(),
            "split_by": dataset.drawn.rule if dataset.drawn else "data",
        },
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


def free_directory(system: System, dataset: Dataset) -> Path:
    stem = f"{system.name or type(system).__name__}-{Path(dataset.source).stem or 'data'}"
    number, directory = 1, Path("runs") / stem
    while directory.exists():
        number += 1
        directory = Path("runs") / f"{stem}-{number}"
    return directory


def is_record(value: Any) -> bool:
    """Whether a JSON value has the keys and the version that foveal writes, so that it is the record of a run."""
    version = value.get("foveal") if isinstance(value, dict) else None
    return (
        isinstance(version, str) and VERSION.fullmatch(version) is not None and Record.__required_keys__ <= value.keys()
    )


def read_own_record(directory: Path) -> dict[str, Any]:
    """run.json, whatever its values are. Raises InputError where it is not a record of foveal."""
    path = directory / "run.json"
    try:
        record = parse(read_text(path, LIMIT, errors="surrogateescape"))
    except InputError as error:
        if str(path) in str(error):
            raise InputError(f"{error}; a run directory has one that foveal wrote") from None
        raise InputError(f"{path} is damaged: {error}; choose another directory") from None
    if not is_record(record):
        keys = record.keys() if isinstance(record, dict) else set()
        lacking = ", ".join(sorted(Record.__required_keys__ - keys)) or "the version of foveal"
        raise InputError(f"{path} is damaged, it lacks {lacking}: it is no record of foveal; choose another directory")
    return record


def read_record(directory: Path) -> dict[str, Any]:
    """run.json, every value of the type that foveal reads. Raises InputError, which names the key."""
    record = read_own_record(directory)
    try:
        check(record, Record)
        check_resolved(record["config"], "config")
        if missing := sorted(record["config"].keys() - record["origins"].keys()):
            raise InputError(f"origins.{missing[0]} is missing")
        if "size" not in record["preprocess"]:
            raise InputError("preprocess.size is missing")
        if min(record["preprocess"]["size"]) < 1:
            raise InputError("preprocess.size has to be above 0")
    except InputError as error:
        raise InputError(f"{directory / 'run.json'}: {error}; {REPAIR}") from None
    return record


def resumed(dataset: Dataset, config: TrainConfig) -> Dataset:
    """The data as the run to resume has split it, where there is one."""
    if not config.resume or not config.out or not (Path(config.out) / "run.json").is_file():
        return dataset
    data = read_own_record(Path(config.out))["data"]
    return dataset.drawn_by(data.get("split_by") if isinstance(data, dict) else None)


def completed(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a record, with those that the foveal that wrote it did not have yet: as they are where unset."""
    unset = {field.name: None if field.default is UNSET else field.default for field in fields(TrainConfig)}
    return unset | DEFAULTS | dict(config)


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
    old = {**old, "config": completed(old["config"])}
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
    return ", ".join(str(system.get("name")) for system in systems) if named else value
