"""A run directory: run.json, metrics.jsonl, best.safetensors, last.safetensors."""

import json
import os
import platform
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import torch

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

import foveal
from foveal.data.dataset import Dataset
from foveal.data.loader import Loader
from foveal.errors import InputError
from foveal.structures import Batch
from foveal.system import System
from foveal.train import checkpoint
from foveal.train.config import EXECUTION, TrainConfig
from foveal.train.state import State
from foveal.train.step import NonFinite
from foveal.train.stopping import Interrupted

MAX_SKIPPED = 100  # steps without a finite loss, after which a run stops whatever the policy
# In the order in which a new run removes those of an old one: as long as the last is there, it is known to be a run.
FILES = (
    *("metrics.jsonl", "report.html", "nonfinite.safetensors", "pictures", "tensorboard"),
    *("best.safetensors", "last.safetensors", "run.json"),
)


class Run:
    """What a training run leaves behind, and the one place that writes it.

    directory: where its files are.
    system:    the trained system; after `foveal.train` with its best weights.
    history:   one record an epoch, as in metrics.jsonl.
    record:    what run.json says.
    """

    def __init__(self, directory: Path, system: System, record: dict[str, Any]) -> None:
        self.directory, self.system, self.record = directory, system, record
        self.history: list[dict[str, Any]] = []
        self.begun = False
        self._lock: IO[str] | None = None

    @classmethod
    def open(cls, system: System, dataset: Dataset, config: TrainConfig, origins: Mapping[str, str]) -> "Run":
        """A new run, or the one to resume, whose directory is kept from other processes; `begin` writes to it.

        Raises InputError where it would overwrite or mix up runs.
        """
        directory = Path(config.out) if config.out else _free_directory(system, dataset)
        described = checkpoint.describe(system)
        record = {
            "foveal": foveal.__version__,
            "name": system.name,
            "task": system.task,
            "status": "running",
            "data": {"source": dataset.source, "labels": list(dataset.labels), "splits": dataset.split_counts()},
            "variant": described["variant"],
            "preprocess": described["preprocess"],
            "config": asdict(config),
            "origins": dict(origins),
            "environment": environment(system),
            "unreadable": {},
        }
        record = json.loads(json.dumps(record, default=repr))  # as it will be read again
        exists = (directory / "run.json").is_file()
        if exists and config.resume:
            old = _read_record(directory)
            _check_same(directory, old, record)
            record = {**old, "status": "running", "environment": record["environment"]}
        elif exists and not config.overwrite:
            raise InputError(
                f"{directory} holds a run: --resume goes on with it, --overwrite replaces it, or use --out"
            )
        elif config.resume and not exists:
            raise InputError(f"there is no run to resume in {directory}")
        elif directory.exists() and not exists and _has_other_things(directory):
            raise InputError(f"{directory} exists and is not a run; choose another --out")
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot make the run directory {directory}: {error.strerror}") from None
        run = cls(directory, system, record)
        run.lock()
        return run

    def lock(self) -> None:
        """Keep other processes from writing here; the lock ends with this process, however it ends."""
        if fcntl is None:
            return
        try:
            self._lock = open(self.directory / ".lock", "w")  # noqa: SIM115  open as long as the run is
        except OSError as error:
            raise InputError(f"cannot write in the run directory {self.directory}: {error.strerror}") from None
        try:
            # Of this process alone: flock's would be its workers' too, which outlive it a little when it is killed.
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise InputError(f"another process is writing the run in {self.directory}") from None
        except OSError:  # a file system without locks
            pass

    def begin(self, *, resume: bool) -> None:
        """Write the record, for a new run in the place of what an older one left here."""
        for name in () if resume else FILES:
            path = self.directory / name
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        self.write_record()
        self.begun = True

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Where the block fails after the run has begun, its record says so."""
        try:
            yield
        except InputError as error:
            if self.begun:
                with suppress(InputError):  # the first error is the one to tell
                    self.write_record(status="failed", error=str(error))
            raise
        finally:
            if self._lock:
                self._lock.close()

    def write_record(self, **changes: Any) -> None:
        """run.json with some entries changed."""
        self.record.update(changes)
        path = self.directory / "run.json"
        temporary = path.with_suffix(".json.tmp")
        text = json.dumps(self.record, indent=1, ensure_ascii=False) + "\n"
        try:
            # File names that are no text in any encoding come as lone surrogates; JSON has its own way to write them.
            temporary.write_text(text, "utf-8", "backslashreplace")
            os.replace(temporary, path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise InputError(f"cannot write {path}: {error.strerror}; free some space and try again") from None

    def log(self, record: dict[str, Any]) -> None:
        """One line more in metrics.jsonl, and in `history` if it closes an epoch."""
        if record["event"] == "epoch":
            self.history.append(record)
        try:
            with open(self.directory / "metrics.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            raise InputError(f"cannot write {self.directory / 'metrics.jsonl'}: {error.strerror}") from None

    def save_last(self, state: State) -> None:
        """All that a resumption needs."""
        record, tensors = state.capture()
        tensors = {checkpoint.TRAIN + name: tensor for name, tensor in tensors.items()}
        self._save("last", {"state": record}, {**state.system.state_dict(), **tensors})

    def save_best(self, state: State, figures: Mapping[str, float]) -> None:
        """The weights to use from now on, with what they reach."""
        self._save("best", {"epoch": state.progress.epoch, "metrics": dict(figures)}, state.system.state_dict())

    def _save(self, which: str, header: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        header = {**checkpoint.describe(self.system), "config": self.record["config"], **header}
        checkpoint.save(self.directory / f"{which}.safetensors", header, tensors)

    def restore(self, state: State) -> bool:
        """Bring the state back that was saved last, and forget what was logged after it; whether there was any."""
        if not (self.directory / "last.safetensors").is_file():
            return False
        saved = checkpoint.read(self.directory / "last.safetensors", state=True)
        checkpoint.load_weights(state.system, saved.weights, saved.path)
        state.restore(saved.header["state"], saved.state)
        path = self.directory / "metrics.jsonl"
        lines = path.read_text("utf-8").splitlines() if path.is_file() else []
        records = [json.loads(line) for line in lines if line.endswith("}")]
        kept = [record for record in records if _is_before(record, state)]
        self.history = [record for record in kept if record["event"] == "epoch"]
        path.write_text("".join(json.dumps(record) + "\n" for record in kept), "utf-8")
        return True

    def interrupt(self) -> Interrupted:
        """Note that the run stops here, its state saved; the exception that says so."""
        self.write_record(status="interrupted")
        return Interrupted(f"stopped and saved; to go on, add --resume --out {self.directory} to the same command")

    def note_unreadable(self, *loaders: Loader | None) -> None:
        """List in the record the images that could not be read, with those of before a resumption."""
        found = {name: reason for loader in loaders if loader for name, reason in loader.unreadable.items()}
        if found.keys() - self.record["unreadable"].keys():
            self.write_record(unreadable={**self.record["unreadable"], **found})

    def finish(self) -> None:
        """Give the system its best weights and close the record."""
        best = checkpoint.read(self.directory)
        checkpoint.load_weights(self.system.eval(), best.weights, best.path)
        self.write_record(status="finished", best_epoch=best.header["epoch"], result=best.header["metrics"])

    def dump(self, error: NonFinite, state: State, batches: Sequence[Batch], dataset: Dataset) -> None:
        """Keep the images of a step that went wrong, and make the system fit to go on, if that is the policy.

        Raises InputError, which says where it was and where the images are, if the policy is to stop, or after
        MAX_SKIPPED such steps.
        """
        progress, policy = state.progress, state.config.nonfinite
        path = self.directory / "nonfinite.safetensors"
        names = [dataset.name(index) for batch in batches for index in batch.indices.tolist()]
        where = {"epoch": progress.epoch + 1, "step": progress.step, "images": names}
        checkpoint.save(path, where, {"images": torch.cat([batch.images for batch in batches])})
        if policy == "stop" or progress.skipped == MAX_SKIPPED:
            raise InputError(
                f"{error} in epoch {progress.epoch + 1}, step {progress.step}; its images are in {path}; a lower lr, a "
                f"warmup or clip may help, and {self.directory / 'last.safetensors'} holds the state saved before"
            ) from None
        # The step changed no weight, but its forward pass may have spoilt running statistics.
        state.restore_statistics()
        if policy == "rollback":
            saved = checkpoint.read(self.directory / "last.safetensors", state=True)
            checkpoint.load_weights(state.system, saved.weights, saved.path)
            state.restore(saved.header["state"], saved.state)
            state.progress = progress
        self.log({"event": "skipped", "epoch": progress.epoch + 1, "step": progress.step, "reason": str(error)})


def _is_before(record: dict[str, Any], state: State) -> bool:
    if record["event"] == "epoch":
        return record["epoch"] <= state.progress.epoch
    return record["step"] <= state.progress.step


def environment(system: System) -> dict[str, Any]:
    """What a result may depend on besides the configuration."""
    device = system.device
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "started": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def _has_other_things(directory: Path) -> bool:
    """Whether a path is no folder, or one with more in it than what a run leaves that was killed as it began."""
    return not directory.is_dir() or any(path.name not in (".lock", "run.json.tmp") for path in directory.iterdir())


def _free_directory(system: System, dataset: Dataset) -> Path:
    stem = f"{system.name or type(system).__name__}-{Path(dataset.source).stem or 'data'}"
    number, directory = 1, Path("runs") / stem
    while directory.exists():
        number += 1
        directory = Path("runs") / f"{stem}-{number}"
    return directory


def _read_record(directory: Path) -> dict[str, Any]:
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


def _check_same(directory: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    """InputError where the run to resume is not the one that is asked for."""
    for what, before, now in (
        ("system", old["name"], new["name"]),
        ("classes", old["data"]["labels"], new["data"]["labels"]),
        ("images in each split", old["data"]["splits"], new["data"]["splits"]),
    ):
        if before != now:
            raise InputError(f"{directory} cannot go on: its {what} were {before}, now {now}")
    for part in ("variant", "preprocess", "config"):
        for name in {**new[part], **old[part]}:
            before, now = old[part].get(name), new[part].get(name)
            if before != now and name not in EXECUTION:
                shown = "image_size" if (part, name) == ("preprocess", "size") else name
                raise InputError(f"{directory} cannot go on with {shown} {now}: it runs with {before}")
