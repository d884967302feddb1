"""Exports in the format of folders of classes, and tables of images."""

import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from tests.data.exports import Export, Truth

SPLITS = {"train": 6, "val": 3, "test": 3}


def images(root: Path, *names: str) -> None:
    """An image of noise for each name, unlike any other."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        draw = np.random.default_rng(zlib.crc32(name.encode()))
        form = "JPEG" if path.suffix.lower() in (".jpg", ".jpeg", ".jfif") else None
        Image.fromarray(draw.integers(0, 256, (16, 16, 3), np.uint8)).save(path, form)


def tree(root: Path, labels: tuple[str, ...], folders: dict[str, str], name: str = "{number}.jpg") -> Truth:
    """Folders of classes below those of splits. folders: split -> folder."""
    classes = {
        f"{folder}/{label}/{name.format(label=label, number=f'{split}_{number}')}": label
        for split, folder in folders.items()
        for label in labels
        for number in range(SPLITS[split])
    }
    images(root, *classes)
    return Truth(labels, classes=classes, splits={split: SPLITS[split] * len(labels) for split in folders})


def flat(root: Path, labels: tuple[str, ...], name: str, folder: str = "") -> Truth:
    """Folders of classes alone."""
    classes = {
        f"{folder}{label}/{name.format(label=label, number=number)}": label for label in labels for number in range(8)
    }
    images(root, *classes)
    return Truth(labels, classes=classes)


def keras(root: Path) -> tuple[Path, Truth]:
    return root, tree(root, ("cats", "dogs"), {"train": "train", "val": "validation", "test": "test"})


def torchvision(root: Path) -> tuple[Path, Truth]:
    truth = flat(root, ("n01440764", "n01443537"), "{label}_{number}.JPEG")
    deep = {"n01440764/deep/xxz.ppm": "n01440764", "n01443537/asd932_.webp": "n01443537"}
    images(root, *deep)
    return root, Truth(truth.labels, classes=truth.classes | deep)


def lightning(root: Path) -> tuple[Path, Truth]:
    folders = {split: f"hymenoptera_data/{split}" for split in SPLITS}
    truth = tree(root, ("ants", "bees"), folders)
    return root, Truth(truth.labels, {}, truth.classes, truth.splits, ("the only folder in it",))


def ultralytics(root: Path) -> tuple[Path, Truth]:
    return root, tree(root, ("cat", "dog"), {split: split for split in SPLITS}, "im{number}.png")


def create_ml(root: Path) -> tuple[Path, Truth]:
    folders = {"train": "Training Data", "val": "Validation Data", "test": "Testing Data"}
    truth = tree(root, ("Cheetah", "Elephant"), folders)
    (root / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    return root, truth


def kaggle_doubled(root: Path) -> tuple[Path, Truth]:
    truth = tree(root, ("cats", "dogs"), {"train": "training_set/training_set", "test": "test_set/test_set"})
    for folder in ("training_set/training_set/cats", "test_set/test_set/dogs"):
        (root / folder / "_DS_Store").write_bytes(b"\0\0\0\1Bud1")
    return root, Truth(truth.labels, {}, truth.classes, {}, ("read as the folder of the split train",))


def kaggle_intel(root: Path) -> tuple[Path, Truth]:
    truth = tree(root, ("forest", "sea"), {"train": "seg_train/seg_train", "test": "seg_test/seg_test"})
    images(root, "seg_pred/seg_pred/10004.jpg", "seg_pred/seg_pred/10005.jpg")
    return root, Truth(truth.labels, {}, truth.classes, {}, ("its images have no class",))


def kaggle_table(root: Path) -> tuple[Path, Truth]:
    labels = ("beagle", "boston_bull", "dingo")
    classes = {f"train/{zlib.crc32(bytes([number])):032x}.jpg": labels[number % 3] for number in range(12)}
    images(root, *classes, "test/000621fb3cbb32d8935728e48679680e.jpg")
    lines = [f"{Path(name).stem},{label}" for name, label in classes.items()]
    (root / "labels.csv").write_text("\n".join(["id,breed", *lines]) + "\n")
    notes = ("path from 'id', label from 'breed'", "12 images of labels.csv are elsewhere")
    return root / "labels.csv", Truth(labels, classes=classes, notes=notes)


def hugging_face(root: Path) -> tuple[Path, Truth]:
    return root, tree(root, ("cat", "dog"), {"train": "train", "val": "validation", "test": "test"}, "{number}.png")


def hugging_face_metadata(root: Path) -> tuple[Path, Truth]:
    classes = {}
    for split, count in (("train", 6), ("validation", 4)):
        names = {f"{number:04}.png": ("cat", "dog")[number % 2] for number in range(count)}
        images(root, *[f"{split}/{name}" for name in names])
        lines = [f"{name},{label}" for name, label in names.items()]
        (root / split / "metadata.csv").write_text("\n".join(["file_name,label", *lines]) + "\n")
        classes |= {f"{split}/{name}": label for name, label in names.items()}
    return root, Truth(("cat", "dog"), classes=classes, splits={"train": 6, "val": 4})


def fiftyone(root: Path) -> tuple[Path, Truth]:
    truth = flat(root, ("airplane", "bird"), "{number:06}.jpg")
    images(root, "_unlabeled/000100.jpg")
    return root, Truth(truth.labels, classes=truth.classes, notes=("its images have no class",))


def datumaro(root: Path) -> tuple[Path, Truth]:
    truth = flat(root, ("label_0", "label_1"), "img{number}.jpg")
    images(root, "no_label/img9.jpg")
    return root, Truth(truth.labels, classes=truth.classes, notes=("its images have no class",))


def datumaro_subsets(root: Path) -> tuple[Path, Truth]:
    return root, tree(root, ("label_0", "label_1"), {split: split for split in SPLITS}, "img{number}.jpg")


def cvat(root: Path) -> tuple[Path, Truth]:
    return root, flat(root, ("cat", "dog"), "{label}_frame_{number:06}.jpg")


def label_studio(root: Path) -> tuple[Path, Truth]:
    classes = {f"{zlib.crc32(bytes([number])):08x}-IMG_{number}.jpg": ("Cat", "Dog")[number % 2] for number in range(8)}
    images(root, *classes)
    lines = [
        f"/data/upload/1/{name},{number + 1},{label},1,{number + 1},2024-05-0{number + 1}T10:00:00.000000Z,"
        f"2024-05-0{number + 1}T10:00:01.000000Z,3.141"
        for number, (name, label) in enumerate(classes.items())
    ]
    header = "image,id,choice,annotator,annotation_id,created_at,updated_at,lead_time"
    (root / "project-1.csv").write_text("\n".join([header, *lines]) + "\n")
    notes = ("path from 'image', label from 'choice'", "left out: id, annotator", "8 images of project-1.csv")
    return root / "project-1.csv", Truth(("Cat", "Dog"), classes=classes, notes=notes)


def roboflow(root: Path) -> tuple[Path, Truth]:
    name = "{number}_jpg.rf.0123456789abcdef0123456789abcdef.jpg"
    truth = tree(root, ("ripe", "unripe"), {"train": "train", "val": "valid", "test": "test"}, name)
    for file in ("README.dataset.txt", "README.roboflow.txt"):
        (root / file).write_text("fruit - v1\n==========\n")
    return root, truth


def spreadsheet(root: Path) -> tuple[Path, Truth]:
    classes = {f"photos/{label}/{number}.jpg": label for label in ("ja", "nein") for number in range(6)}
    images(root, *classes)
    lines = [f"{name.replace('/', chr(92))};{label}" for name, label in classes.items()]
    (root / "table.csv").write_text("\r\n".join(["Filename;Class", *lines]) + "\r\n", "utf-8-sig", newline="")
    notes = ("read with ; between the columns", "path from 'Filename', label from 'Class'", "12 images of table.csv")
    return root / "table.csv", Truth(("ja", "nein"), classes=classes, notes=notes)


def pandas(root: Path) -> tuple[Path, Truth]:
    classes = {f"images/{number}.png": ("a", "b")[number % 2] for number in range(10)}
    images(root, *classes)
    lines = [f"{number},{name},{label}" for number, (name, label) in enumerate(classes.items())]
    (root / "train.csv").write_text("\n".join([",path,label", *lines]) + "\n")
    return root / "train.csv", Truth(("a", "b"), classes=classes, notes=("left out: one without a name",))


EXPORTS: list[Export] = [
    Export("Keras", "image_dataset_from_directory", keras),
    Export("torchvision", "ImageFolder", torchvision),
    Export("Lightning", "train, val, test in a folder", lightning),
    Export("Ultralytics", "classification", ultralytics),
    Export("Create ML", "labeled directories", create_ml),
    Export("Kaggle", "doubled folders", kaggle_doubled),
    Export("Kaggle", "seg_train, seg_test, seg_pred", kaggle_intel),
    Export("Kaggle", "CSV of ids beside a folder", kaggle_table),
    Export("Hugging Face", "imagefolder", hugging_face),
    Export("Hugging Face", "imagefolder with metadata.csv", hugging_face_metadata),
    Export("FiftyOne", "ImageClassificationDirectoryTree", fiftyone),
    Export("Datumaro", "imagenet", datumaro),
    Export("Datumaro", "imagenet_with_subset_dirs", datumaro_subsets),
    Export("CVAT", "ImageNet", cvat),
    Export("Label Studio", "CSV", label_studio),
    Export("Roboflow", "folder structure", roboflow),
    Export("Excel", "CSV with semicolons", spreadsheet),
    Export("pandas", "to_csv", pandas),
]
