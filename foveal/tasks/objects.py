"""The objects in each image, with their boxes."""

from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from foveal.data.check_detect import check
from foveal.data.dataset import Dataset
from foveal.data.image import write_image
from foveal.data.writers import write_json, write_predictions
from foveal.detect.labels import COCO, COCO_IDS
from foveal.errors import InputError, few
from foveal.explain.aim import Aim
from foveal.filesystem import make_folder
from foveal.metrics.chance import detect_chance
from foveal.metrics.detect import DetectEvaluator
from foveal.report.boxes import Style, draw_objects
from foveal.report.detect import sections
from foveal.report.draw import MOST_SHOWN
from foveal.report.letters import save_numbers
from foveal.structures import Batch, Objects
from foveal.system import System
from foveal.task import Task

NAMED = 3  # objects in a row of the table


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
        listed = prediction[torch.as_tensor(prediction.scores) >= self.threshold]
        if self.folder:
            self.predictions.append(prediction)
            self.names.append(name)
            if len(self.names) <= MOST_SHOWN:
                write_image(self._file(name), draw_objects(image, listed, self.labels, self.style))
        objects = [
            {"label": self.labels[label], "score": score, "box": box}
            for label, score, box in zip(
                listed.labels.tolist(), torch.as_tensor(listed.scores).tolist(), listed.boxes.tolist(), strict=True
            )
        ]
        return {"image": name, "objects": objects}

    def row(self, entry: dict[str, Any]) -> tuple[str, ...]:
        objects = entry["objects"]
        words = [f"{one['label']} {one['score']:.3f}" for one in objects[:NAMED]]
        words += [f"and {len(objects) - NAMED} more"] if len(objects) > NAMED else []
        return entry["image"], str(len(objects)), ", ".join(words)

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
    folder: Path, evaluator: DetectEvaluator, view: Dataset, items: Sequence[int], system: System
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
    return save_objects(folder, evaluator.predictions, names, ids, view.labels, view.ids_of_classes or system.class_ids)


def aim(system: System, prediction: Objects, batch: Batch, target: str | None, object: int | None) -> Aim:
    """At one of the detected objects, which are counted from 1, the most confident first."""
    name, found = system.name or type(system).__name__, prediction
    if target is not None:
        index, others = system.index(target), [system.labels[i] for i in found.labels.unique().tolist()]
        found = found[found.labels == index]
        if not len(found):
            but = f", but {few(others, 6)}" if others else ""
            raise InputError(f"{name} finds no {target!r} in this image{but}: there is no object to explain")
    if not len(found):
        raise InputError(f"{name} finds nothing in this image: there is no object to explain")
    number = 1 if object is None else object
    if not 1 <= number <= len(found):
        raise InputError(f"object is from 1 to {len(found)}, the objects found in this image, not {number}")
    one = found[number - 1]
    height, width = batch.images.shape[-2:]
    place = Objects(one.boxes, one.labels).warp(batch.affines[0], (height, width))
    score = float(torch.as_tensor(one.scores)[0])
    return Aim(place, system.labels[int(one.labels[0])], score, one.boxes[0].cpu())


OBJECTS = Task(
    "detect",
    Objects,
    noun="object",
    evaluator=lambda system: DetectEvaluator(len(system.labels)),
    chance=detect_chance,
    answers=Found,
    save_measured=save_measured,
    aim=aim,
    sections=sections,
    check=check,
    settings=frozenset({"scale_jitter", "object_crop", "mosaic"}),  # a crop that ignores objects may leave none
    fine_tuning={"optimizer": "adamw", "lr": 2e-4, "schedule": "cosine", "warmup": 0.5, "clip": 10.0, "epochs": 12},
    fewest_steps=600,
)
