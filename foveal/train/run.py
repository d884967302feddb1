"""A run directory: run.json, metrics.jsonl, best.safetensors, last.safetensors."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO, Annotated, Any, Literal, NotRequired, TypedDict

import torch

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

from foveal.data.dataset import Dataset
from foveal.data.loader import Loader
from foveal.data.tiles import write_tiles
from foveal.errors import InputError
from foveal.filesystem import append, make_folder, open_lock, own_folder, write_text
from foveal.schema import Between, check
from foveal.structures import Batch
from foveal.system import System, evaluating
from foveal.train import checkpoint
from foveal.train.config import TrainConfig
from foveal.train.directory import LOCK, check_places, clean, clear, has_other_things, prune
from foveal.train.distributed import ALONE, Ranks
from foveal.train.prepare import Phase
from foveal.train.record import (
    check_same,
    free_directory,
    is_before,
    is_epoch,
    new_record,
    read_metrics,
    read_own_record,
    read_record,
)
from foveal.train.state import Progress, State, check_progress
from foveal.train.step import NonFinite
from foveal.train.stopping import Interrupted
from foveal.train.teacher import Teacher

SAMPLES = 16  # images that show how a run goes on
MAX_SKIPPED = 100  # steps without a finite loss, after which a run stops whatever the policy
DAMAGED = "it was changed or damaged: start a new run"


class Best(TypedDict):
    """What the header of best.safetensors says besides what rebuilds the system."""

    epoch: Annotated[int, Between(1)]
    metrics: dict[str, float]
    phase: NotRequired[Literal["train", "refit"]]


class Run:
    """What a training run leaves behind, and the one place that writes it.

    Where several processes train, the first writes, and what it cannot write is an error in all of them.

    directory: where its files are.
    system:    the trained system; after `foveal.train` with its best weights.
    history:   one record an epoch, as in metrics.jsonl.
    record:    what run.json says.
    report:    its report.html, once that is written.
    """

    def __init__(self, directory: Path, system: System, record: dict[str, Any], ranks: Ranks = ALONE) -> None:
        self.directory, self.system, self.record, self.ranks = directory, system, record, ranks
        self.history: list[dict[str, Any]] = []
        self.report: Path | None = None
        self.begun = False
        self._lock: IO[bytes] | None = None

    def __repr__(self) -> str:
        """Run('runs/digits', finished, best epoch 7: accuracy 0.9845)"""
        said = [repr(str(self.directory)), str(self.record.get("status"))]
        if "best_epoch" in self.record:
            figures = [f"{name} {value:.4g}" for name, value in self.record["result"].items()][:1]
            said.append(": ".join([f"best epoch {self.record['best_epoch']}", *figures]))
        return f"Run({', '.join(said)})"

    @classmethod
    def open(
        cls,
        system: System,
        dataset: Dataset,
        config: TrainConfig,
        origins: Mapping[str, str],
        ranks: Ranks = ALONE,
        device: torch.device | None = None,
        teacher: Teacher | None = None,
    ) -> "Run":
        """A new run, or the one to resume, whose directory is kept from other processes; `begin` writes to it.

        Raises InputError where it would overwrite or mix up runs.
        """
        run = cls(Path(config.out or ""), system, {}, ranks)
        record = new_record(system, dataset, config, origins, ranks.size, device or system.device, teacher)
        run.directory, run.record = ranks.once(partial(run._claim, dataset, config, record))
        if not run.directory.is_dir():
            raise InputError(f"there is no {run.directory} on this machine: set out to where all machines can read it")
        return run

    def _claim(self, dataset: Dataset, config: TrainConfig, record: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
        """The directory, made and locked, and the record."""
        directory = Path(config.out) if config.out else free_directory(self.system, dataset)
        path = directory / "run.json"
        exists = path.is_file()
        if exists and config.resume:
            old = read_record(directory)
            check_same(directory, old, record)
            record = {**old, "status": "running", "environment": record["environment"]}
        elif exists:
            read_own_record(directory)
            if not config.overwrite:
                raise InputError(
                    f"{directory} holds a run: --resume goes on with it, --overwrite replaces it, or use --out"
                )
        elif config.resume:
            raise InputError(f"there is no run to resume in {directory}")
        elif os.path.lexists(directory) and has_other_things(directory):
            raise InputError(f"{directory} exists and is not a run; choose another --out")
        if exists:
            check_places(directory, overwrite=config.overwrite)
        make_folder(directory)
        self.lock(directory)
        return directory, record

    def lock(self, directory: Path) -> None:
        """Keep other runs from writing there; the lock ends with this process, however it ends."""
        if fcntl is None:
            return
        self._lock = open_lock(directory / LOCK)  # open as long as the run is
        try:
            # Of this process alone: flock's would be its workers' too, which outlive it a little when it is killed.
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise InputError(f"another process is writing the run in {directory}") from None
        except OSError:  # a file system without locks
            pass

    def begin(self, *, resume: bool) -> None:
        """Write the record, for a new run in the place of what an older one left here."""
        self.ranks.once(partial(self._make_room, resume))
        self.write_record()
        self.begun = True

    def _make_room(self, resume: bool) -> None:
        clean(self.directory)
        if not resume:
            old = read_own_record(self.directory) if (self.directory / "run.json").is_file() else {}
            clear(self.directory, old)

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Where the block fails after the run has begun, here or in another process, its record says so."""
        try:
            yield
        except Exception as error:
            failure = self.ranks.failure(error)
            if isinstance(failure, InputError) and self.begun:
                failure.run = self
                self.record.update(status="failed", error=str(failure))
                if self.ranks.first:
                    with suppress(InputError):  # the first error is the one to tell
                        self._write_record()
            if failure is error:
                raise
            raise failure from error
        finally:
            if self._lock:
                self._lock.close()
            if not self.begun and self.ranks.first:
                with suppress(OSError):  # something else is in it, so it stays
                    if [path.name for path in self.directory.iterdir()] == [LOCK]:
                        (self.directory / LOCK).unlink()
                        self.directory.rmdir()

    def write_record(self, **changes: Any) -> None:
        """run.json with some entries changed."""
        self.record.update(changes)
        self.ranks.once(self._write_record)

    def _write_record(self) -> None:
        path = self.directory / "run.json"
        with checkpoint.resumable(path):
            write_text(path, json.dumps(self.record, indent=1, ensure_ascii=False) + "\n")

    def log(self, record: dict[str, Any]) -> None:
        """One line more in metrics.jsonl, and in `history` if it closes an epoch."""
        if record["event"] == "epoch":
            self.history.append(record)
        self.ranks.once(partial(self._append, json.dumps(record) + "\n"))

    def _append(self, line: str) -> None:
        path = self.directory / "metrics.jsonl"
        with checkpoint.resumable(path):
            append(path, line)

    def note_pictures(self, names: Sequence[str]) -> None:
        """List in the record the files of pictures/ that foveal wrote; of several processes the first calls this."""
        self.record["pictures"] = sorted({*self.record.get("pictures", ()), *names})
        self._write_record()

    def save_start(self, state: State, phases: Sequence[Phase]) -> None:
        """The weights that the run begins with, where another phase is to begin with them again."""
        if len(phases) > 1:
            self._save("start", {}, state, {})

    def load_start(self, state: State) -> None:
        """Give the system the weights that the run began with."""
        start = checkpoint.read(self.directory / "start.safetensors")
        state.parallel.load(start.weights, start.path)

    def save_last(self, state: State) -> None:
        """All that a resumption needs."""
        record, tensors = state.capture()
        tensors = {checkpoint.TRAIN + name: tensor for name, tensor in tensors.items()}
        self._save("last", {"state": record}, state, tensors)

    def save_best(self, state: State, figures: Mapping[str, float]) -> None:
        """The weights to use from now on, with what they reach."""
        progress = state.progress
        header = {"phase": progress.phase, "epoch": progress.epoch, "metrics": dict(figures)}
        self._save("best", header, state, {})

    def save_epoch(self, state: State, figures: Mapping[str, float]) -> None:
        """The weights of an epoch that is among the best."""
        header = {"epoch": state.progress.epoch, "metrics": dict(figures)}
        self._save(f"epoch-{state.progress.epoch}", header, state, {})

    def save_samples(self, state: State) -> None:
        """What the system makes after epochs 1, 2, 4, 8 ... and after the last one, from the same random numbers."""
        epoch = state.progress.epoch
        if epoch & (epoch - 1) and not state.progress.over(None):
            return
        draw = torch.Generator().manual_seed(state.config.seed)
        with evaluating(state.system):
            images = state.parallel.call(partial(state.system.sample, generator=draw), SAMPLES)
        self.ranks.once(partial(self._write_samples, epoch, images))

    def _write_samples(self, epoch: int, images: torch.Tensor) -> None:
        folder = own_folder(self.directory, "samples")
        write_tiles(folder / f"epoch-{epoch:04}.png", images)

    def prune(self, state: State) -> None:
        """Remove the weights of epochs that are no longer among the best. What `last` knows is saved before, so that a
        run killed in between still has all that it will want."""
        self.ranks.once(partial(prune, self.directory, [epoch for _, epoch in state.progress.kept]))

    def _save(self, which: str, header: dict[str, Any], state: State, tensors: dict[str, torch.Tensor]) -> None:
        described = {**checkpoint.describe(self.system), "trained_on": self.system.trained_on}
        header = {**described, "config": self.record["config"], **header}
        whole = state.parallel.collect({**state.system.state_dict(), **tensors})
        self.ranks.once(partial(checkpoint.save, self.directory / f"{which}.safetensors", header, whole))

    def saved(self, phases: Sequence[Phase]) -> Progress | None:
        """Where the run stood when its state was saved last; None where it never was.

        Raises InputError where that cannot be a place in these phases.
        """
        return self.ranks.once(partial(self._read_progress, phases))

    def _read_progress(self, phases: Sequence[Phase]) -> Progress | None:
        path = self.directory / "last.safetensors"
        if not path.is_file():
            return None
        epochs = self.record["config"]["epochs"]
        steps = {phase.name: (len(phase.loader), phase.steps) for phase in phases}
        with _reading(path):
            return check_progress(checkpoint.read(path).header.get("state"), epochs, steps)

    def restore(self, state: State) -> None:
        """Bring the state back that was saved last, and forget what was logged after it."""
        self._roll_back(state)
        self.prune(state)
        self.history = self.ranks.once(partial(self._cut_metrics, state))

    def _roll_back(self, state: State) -> None:
        saved = checkpoint.read(self.directory / "last.safetensors", state=True)
        state.parallel.load(saved.weights, saved.path)
        with _reading(saved.path):
            state.restore(saved.header["state"], saved.state)

    def _cut_metrics(self, state: State) -> list[dict[str, Any]]:
        """The epochs that the state knows of, which alone stay in metrics.jsonl."""
        path = self.directory / "metrics.jsonl"
        kept = [record for record in read_metrics(path) if is_before(record, state.progress)]
        write_text(path, "".join(json.dumps(record) + "\n" for record in kept))
        return [record for record in kept if record["event"] == "epoch"]

    def interrupt(self) -> Interrupted:
        """Note that the run stops here, its state saved; the exception that says so."""
        self.write_record(status="interrupted")
        stop = Interrupted(f"stopped and saved; to go on, add --resume --out {self.directory} to the same command")
        stop.run = self
        return stop

    def note_unreadable(self, *loaders: Loader | None) -> None:
        """List in the record the images that could not be read, in any process, with those of before a resumption.

        Raises InputError where they are too many for one loader.
        """
        found: dict[str, str] = {}
        for loader in filter(None, loaders):
            for unreadable in self.ranks.gather(dict(loader.unreadable)):
                loader.note(unreadable)
            found |= loader.unreadable
        if found.keys() - self.record["unreadable"].keys():
            self.write_record(unreadable={**self.record["unreadable"], **found})

    def finish(self) -> None:
        """Give the system its best weights and close the record."""
        best = checkpoint.read(self.directory / "best.safetensors")
        with _reading(best.path):
            check(best.header, Best)
        checkpoint.restore(self.system.eval(), best.weights, best.path)
        closing = {"status": "finished", "best_epoch": best.header["epoch"], "result": best.header["metrics"]}
        if best.header.get("phase") == "refit":  # nothing is left to measure it on
            chosen = [epoch["val"] for epoch in self.history if is_epoch(epoch, "train", best.header["epoch"])]
            closing["refit"] = {"epochs": best.header["epoch"], "figures_before": chosen[0] if chosen else {}}
        self.ranks.once(self._remove_start)
        self.write_record(**closing)

    def _remove_start(self) -> None:
        """No phase is left that begins with it."""
        with suppress(OSError):  # its being there does no harm
            (self.directory / "start.safetensors").unlink(missing_ok=True)

    def dump(self, error: NonFinite, state: State, batches: Sequence[Batch], dataset: Dataset) -> None:
        """Keep the images of a step that went wrong, and make the system fit to go on, if that is the policy.

        Raises InputError, which says where it was and where the images are, if the policy is to stop, or after
        MAX_SKIPPED such steps.
        """
        progress, policy = state.progress, state.config.nonfinite
        path = self.directory / "nonfinite.safetensors"
        own = [dataset.name(index) for batch in batches for index in batch.indices.tolist()]
        shares = self.ranks.gather((own, torch.cat([batch.images for batch in batches])))
        where = {
            "epoch": progress.epoch + 1,
            "step": progress.step,
            "images": [n for names, _ in shares for n in names],
        }
        images = torch.cat([images for _, images in shares])
        self.ranks.once(partial(checkpoint.save, path, where, {"images": images}))
        if policy == "stop" or progress.skipped == MAX_SKIPPED:
            raise InputError(
                f"{error} in epoch {progress.epoch + 1}, step {progress.step}; its images are in {path}; a lower lr, a "
                f"warmup or clip may help, and {self.directory / 'last.safetensors'} holds the state saved before"
            ) from None
        # The step that failed changed no weight, but its forward pass may have spoilt running statistics.
        state.restore_statistics()
        if policy == "rollback":
            self._roll_back(state)
            state.progress = progress
        place = {"phase": progress.phase, "epoch": progress.epoch + 1, "step": progress.step}
        self.log({"event": "skipped", **place, "reason": str(error)})


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """An InputError within the block is about what a file of the run says."""
    try:
        yield
    except InputError as error:
        raise error if str(path) in str(error) else InputError(f"{path}: {error}; {DAMAGED}") from None
