"""How predictions are told: as JSON, as a row of a table, in pictures and files; in `TASKS`, once for each task."""

from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from foveal.data.coco import annotation_file
from foveal.data.dataset import Dataset
from foveal.data.image import write_image
from foveal.data.writers import coco_ids, write_predictions
from foveal.detect.labels import COCO, COCO_IDS
from foveal.errors import InputError
from foveal.report.boxes import draw_objects
from foveal.report.draw import MOST_SHOWN, save_predictions
from foveal.structures import Label, Objects
from foveal.system import System

NAMED = 3  # objects in a row of the table


class Answers(Protocol):
    """What is told of the predictions of one task, one after another.

    option:   the option of `foveal predict` that this task has, and others have not.
    headings: of the table.
    """

    option: ClassVar[str]
    headings: ClassVar[tuple[str, ...]]

    def __init__(self, labels: Sequence[str], folder: Path | None, setting: Any) -> None:
        """labels: class names. folder: where to save, if anywhere. setting: what `option` was set to, None where it was
        not. Raises InputError for a setting that cannot be."""

    def take(self, name: str, image: Tensor, prediction: Any) -> dict[str, Any]:
        """The next image's entry in a document; `name` is the path of its file."""

    def row(self, entry: dict[str, Any]) -> tuple[str, ...]:
        """An entry as a row of the table."""

    def save(self, document: dict[str, Any]) -> None:
        """Write what belongs into the folder. Raises InputError where that cannot be."""


class Labels:
    """The most probable classes of each image, `top` of them; predictions.json, and one picture of the first images."""

    option: ClassVar[str] = "top"
    headings: ClassVar[tuple[str, ...]] = ("image", "class", "probability", "next")

    def __init__(self, labels: Sequence[str], folder: Path | None, setting: int | None) -> None:
        self.labels, self.folder, self.most = labels, folder, 3 if setting is None else setting
        self.shown: list[Tensor] = []
        if self.most < 1:
            raise InputError(f"top must be at least 1, not {self.most}")

    def take(self, name: str, image: Tensor, prediction: Label) -> dict[str, Any]:
        if self.folder and len(self.shown) < MOST_SHOWN:
            self.shown.append(image)
        top = [{"label": label, "score": score} for label, score in prediction.top(self.labels, self.most)]
        return {"image": name, **top[0], "top": top}

    def row(self, entry: dict[str, Any]) -> tuple[str, ...]:
        others = ", ".join(f"{other['label']} {other['score']:.3f}" for other in entry["top"][1:])
        return entry["image"], entry["label"], f"{entry['score']:.3f}", others

    def save(self, document: dict[str, Any]) -> None:
        if self.folder:
            save_predictions(self.folder, document, self.shown)


class Found:
    """The objects in each image with a probability of `threshold` or more, most probable first; predictions.json with
    all objects, the less probable ones too, in COCO's form of results; and a picture of each of the first images."""

    option: ClassVar[str] = "threshold"
    headings: ClassVar[tuple[str, ...]] = ("image", "objects", "most probable")

    def __init__(self, labels: Sequence[str], folder: Path | None, setting: float | None) -> None:
        self.labels, self.folder, self.threshold = labels, folder, 0.5 if setting is None else setting
        self.predictions: list[Objects] = []
        self.names: list[str] = []
        self.files: set[str] = set()
        if not 0 <= self.threshold <= 1:
            raise InputError(f"threshold lies between 0 and 1, not {self.threshold:g}")

    def take(self, name: str, image: Tensor, prediction: Objects) -> dict[str, Any]:
        prediction = prediction.to("cpu")
        seen = prediction[torch.as_tensor(prediction.scores) >= self.threshold]
        if self.folder:
            self.predictions.append(prediction)
            self.names.append(name)
            if len(self.names) <= MOST_SHOWN:
                write_image(self._file(name), draw_objects(image, seen, self.labels))
        objects = [
            {"label": self.labels[label], "score": score, "box": box}
            for label, score, box in zip(
                seen.labels.tolist(), torch.as_tensor(seen.scores).tolist(), seen.boxes.tolist(), strict=True
            )
        ]
        return {"image": name, "objects": objects}

    def row(self, entry: dict[str, Any]) -> tuple[str, ...]:
        objects = entry["objects"]
        said = [f"{one['label']} {one['score']:.3f}" for one in objects[:NAMED]]
        said += [f"and {len(objects) - NAMED} more"] if len(objects) > NAMED else []
        return entry["image"], str(len(objects)), ", ".join(said)

    def save(self, document: dict[str, Any]) -> None:
        if self.folder:
            write_predictions(
                self.folder / "predictions.json", self.predictions, image_ids(self.names), class_ids(self.labels)
            )

    def _file(self, name: str) -> Path:
        """Where the picture of an image goes; never the name of an image, which might be there already."""
        assert self.folder
        stem = base = Path(name).stem
        while stem in self.files:
            stem = f"{base}_{len(self.files)}"
        self.files.add(stem)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot write in {self.folder}: {error.strerror}") from None
        return self.folder / f"{stem}_objects.png"


TASKS: dict[str, type[Answers]] = {"classify": Labels, "detect": Found}


def answers(system: System, folder: Path | None, settings: dict[str, Any]) -> Answers:
    """What tells the answers of a system. settings: the options that only some tasks have, None where one was not set.

    Raises InputError for a task whose answers cannot be told, and for an option that has no effect on this one's."""
    name = system.name or type(system).__name__
    if system.task not in TASKS:
        raise InputError(
            f"{name} is a system to {system.task}; predict tells the answers of systems to classify and detect"
        )
    kind = TASKS[system.task]
    for option, value in settings.items():
        if value is not None and option != kind.option:
            raise InputError(f"{option} has no effect: {name} is a system to {system.task}, which takes {kind.option}")
    return kind(system.labels, folder, settings[kind.option])


def image_ids(names: Sequence[str]) -> list[int | str]:
    """The ids of image files in COCO's results: their names without suffix, as numbers where they are, which is how
    COCO names its own; whole paths where two of these are one."""
    stems = [Path(name).stem for name in names]
    ids: list[int | str] = [int(stem) if stem.isascii() and stem.isdigit() else stem for stem in stems]
    return ids if len(set(ids)) == len(ids) else list(names)


def class_ids(labels: Sequence[str]) -> list[int]:
    """COCO's own ids where the classes are COCO's; else 1, 2, 3 ..., as `write_coco` has them."""
    return (
        [COCO_IDS[COCO.index(label)] for label in labels] if set(labels) <= set(COCO) else [*range(1, len(labels) + 1)]
    )


def check_saved(system: System) -> None:
    """InputError where what was measured of a system cannot be saved as predictions."""
    if system.task != "detect":
        name = system.name or type(system).__name__
        raise InputError(f"out has no effect: {name} is a system to {system.task}; predict saves its answers")


def save_measured(folder: Path, predictions: Sequence[Objects], view: Dataset, items: Sequence[int]) -> Path:
    """predictions.json in COCO's form of results, with the ids of the COCO file that the view comes from, if there is
    one, else those that `write_coco` would give it; the file.

    predictions: of the items of the view. Raises InputError where it cannot be written.
    """
    path, file = folder / "predictions.json", annotation_file(view.source, view.split)
    if file is None:
        write_predictions(path, predictions, [item + 1 for item in items])
        return path
    images, classes = coco_ids(file)
    by_name = {Path(name).name: (name, number) for name, number in images.items()}
    ids = []
    for item in items:
        whole = Path(view.name(item)).as_posix()
        name, number = by_name[Path(whole).name]
        if not whole.endswith(name):  # several folders have files of one name
            number = next(number for name, number in images.items() if whole.endswith(name))
        ids.append(number)
    free = count(max(classes.values(), default=0) + 1)  # for classes that the file does not have
    write_predictions(
        path, predictions, ids, [classes[label] if label in classes else next(free) for label in view.labels]
    )
    return path
