"""How predictions are told: as JSON, as a row of a table, in pictures and files; in `TASKS`, once for each task."""

import os
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from foveal.build import trained
from foveal.data.dataset import Dataset
from foveal.data.foreign import as_image
from foveal.data.image import write_image
from foveal.data.writers import write_json, write_predictions
from foveal.detect.labels import COCO, COCO_IDS
from foveal.errors import InputError
from foveal.filesystem import make_folder
from foveal.report.boxes import Style, draw_objects
from foveal.report.draw import MOST_SHOWN, save_predictions
from foveal.report.letters import save_numbers
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

    def __init__(self, system: System, folder: Path | None, setting: Any) -> None:
        """system: whose answers. folder: where to save, if anywhere. setting: what `option` was set to, None where it
        was not. Raises InputError for a setting that cannot be."""

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

    def __init__(self, system: System, folder: Path | None, setting: int | None) -> None:
        self.labels, self.folder, self.most = system.labels, folder, 3 if setting is None else setting
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
            save_predictions(self.folder, document, self.shown, self.labels)


class Found:
    """The objects in each image with a probability of `threshold` or more, most probable first; predictions.json with
    all objects, the less probable ones too, in COCO's form of results; image_info.json, which lists images and classes
    by their ids; and a picture of each of the first images."""

    option: ClassVar[str] = "threshold"
    headings: ClassVar[tuple[str, ...]] = ("image", "objects", "most probable")

    def __init__(self, system: System, folder: Path | None, setting: float | None) -> None:
        self.labels, self.known, self.folder = system.labels, system.class_ids, folder
        self.threshold = 0.5 if setting is None else setting
        self.style = Style()
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
                write_image(self._file(name), draw_objects(image, seen, self.labels, self.style))
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
            ids = image_ids(self.names)
            save_objects(self.folder, self.predictions, self.names, ids, self.labels, self.known)
            save_numbers(self.folder, self.labels)

    def _file(self, name: str) -> Path:
        """Where the picture of an image goes; never the name of an image, which might be there already."""
        assert self.folder
        stem = base = Path(name).stem
        while stem in self.files:
            stem = f"{base}_{len(self.files)}"
        self.files.add(stem)
        return make_folder(self.folder) / f"{stem}_objects.png"


TASKS: dict[str, type[Answers]] = {"classify": Labels, "detect": Found}


def predict(
    run_or_system: Any, images: Any, *, top: int | None = None, threshold: float | None = None
) -> list[dict[str, Any]]:
    """What images show, in class names: one entry an image, the same as in the JSON of `foveal predict`. To classify
    {"image", "label", "score", "top": [{"label", "score"}, ...]}, to detect {"image", "objects": [{"label", "score",
    "box": [x1, y1, x2, y2] in pixels}, ...]}.

    run_or_system: a system; or a run, a checkpoint, or a name with packaged weights.
    images:        one or a list: paths, PIL images, arrays (H, W, 3), tensors (3, H, W). "image" is the path, else the
                   place in the list.
    top:           how many classes an entry has, default 3. threshold: the least score of an object, default 0.5.

    Raises InputError for a system or task without answers, an image that cannot be read, and an option without effect.
    """
    system = (
        run_or_system
        if isinstance(run_or_system, System)
        else trained(getattr(run_or_system, "directory", run_or_system))
    )
    told = answers(system, None, {"top": top, "threshold": threshold})
    several = isinstance(images, list | tuple) or (hasattr(images, "ndim") and images.ndim == 4)
    entries = []
    for place, given in enumerate(images if several else [images]):
        name = os.fspath(given) if isinstance(given, str | os.PathLike) else str(place)
        image = as_image(given)
        entries.append(told.take(name, image, system.predict(image)[0]))
    return entries


def answers(system: System, folder: Path | None, settings: dict[str, Any], style: Style | None = None) -> Answers:
    """What tells the answers of a system. settings: the options that only some tasks have, None where one was not set.
    style: how objects are drawn.

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
    told = kind(system, folder, settings[kind.option])
    if style is not None:
        if not isinstance(told, Found) or folder is None:
            raise InputError("line_width and labels have no effect: they are of pictures of objects, in --out")
        told.style = style
    return told


def image_ids(names: Sequence[str]) -> list[int | str]:
    """Ids of images by their paths, no two of which are one: the name without suffix, as a number where it is one, as
    COCO names its own; whole paths where two of these are equal."""
    stems = [Path(name).stem for name in names]
    ids: list[int | str] = [int(stem) if stem.isascii() and stem.isdigit() else stem for stem in stems]
    return ids if len(set(ids)) == len(ids) else list(names)


def class_ids(labels: Sequence[str], known: Mapping[str, int]) -> list[int]:
    """The id of each class: the known one, of an annotation file; where there are none, COCO's own if all classes are
    COCO's, else 1, 2, 3 ..., as `write_coco` has them. A class that the file lacks has an id above the file's."""
    if not known:
        own = dict(zip(COCO, COCO_IDS, strict=True))
        known = own if set(labels) <= own.keys() else {}
    free = count(max(known.values(), default=0) + 1)
    return [known[label] if label in known else next(free) for label in labels]


def save_objects(
    folder: Path,
    predictions: Sequence[Objects],
    names: Sequence[str],
    ids: Sequence[int | str],
    labels: Sequence[str],
    known: Mapping[str, int],
) -> Path:
    """predictions.json in COCO's form of results; and image_info.json, in COCO's form of data, with the path of each
    image and the name of each class by its id. The first of the two files.

    names, ids: of each image. known: ids of classes. Raises InputError where a file cannot be written.
    """
    path, numbers = folder / "predictions.json", class_ids(labels, known)
    write_predictions(path, predictions, ids, numbers)
    images = [{"id": number, "file_name": name} for number, name in zip(ids, names, strict=True)]
    classes = [{"id": number, "name": label} for number, label in zip(numbers, labels, strict=True)]
    write_json(folder / "image_info.json", {"images": images, "annotations": [], "categories": classes})
    return path


def save_measured(
    folder: Path, predictions: Sequence[Objects], view: Dataset, items: Sequence[int], system: System
) -> Path:
    """`save_objects` of what was measured on items of a view, with the ids of its annotation file. Without such a file
    images go by their names, those in memory by the numbers that `write_coco` gives them.

    Raises InputError where it cannot be written.
    """
    names = [view.name(item) for item in items]
    ids: list[Any] = [item + 1 for item in items] if view.in_memory else image_ids(names)
    own = [view.id(item) for item in items]
    if None not in own and len(set(own)) == len(own):
        ids = own
    return save_objects(folder, predictions, names, ids, view.labels, view.ids_of_classes or system.class_ids)
