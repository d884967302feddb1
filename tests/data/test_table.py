"""CSV files as Kaggle, spreadsheets and other tools write them."""

from pathlib import Path

import pytest

from foveal.data.check import check_source
from foveal.data.sources import load_dataset
from tests.data.small import error, notes, rows, write

Capture = pytest.CaptureFixture[str]
LABELS = {f"{number}.png": "ab"[number % 2] for number in range(10)}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(tmp_path, *LABELS)
    return tmp_path


def table(root: Path, header: str, form: str, name: str = "data.csv", encoding: str = "utf-8") -> Path:
    """A row of each image; form: of its name, stem, label and number."""
    lines = [
        form.format(name=name, stem=Path(name).stem, label=label, number=number)
        for number, (name, label) in enumerate(LABELS.items())
    ]
    (root / name).write_text("\n".join([header, *lines]) + "\n", encoding)
    return root / name


def labels(path: Path, root: Path) -> dict[str, str]:
    return {name: label for name, (label, _) in rows(load_dataset(path), root).items()}


@pytest.mark.parametrize(("separator", "word"), [(";", ";"), ("\t", "tabs"), ("|", "|")])
def test_separators(root: Path, capsys: Capture, separator: str, word: str) -> None:
    path = table(root, f"path{separator}label", f'"{{name}}"{separator}{{label}}')
    assert labels(path, root) == LABELS
    assert f"read with {word} between the columns: data.csv" in notes(path, capsys)[1]


def test_tabs_keep_empty_values(root: Path) -> None:
    path = table(root, "path\tsplit\tlabel", "{name}\t\t{label}", "data.tsv")
    assert labels(path, root) == LABELS


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_encodings(root: Path, capsys: Capture, encoding: str) -> None:
    path = table(root, "path,label", "{name},größe {label}", encoding=encoding)
    assert labels(path, root) == {name: f"größe {label}" for name, label in LABELS.items()}
    assert ("UTF-16" in notes(path, capsys)[1]) == (encoding == "utf-16")


@pytest.mark.parametrize(
    ("header", "form", "path", "label", "left"),
    [
        ("image_id,label", "{stem},{label}", "image_id", "label", ""),
        ("id,breed", "{stem},{label}", "id", "breed", ""),
        ("filename,label", "{name},{label}", "filename", "label", ""),
        ("image,level", "{stem},{label}", "image", "level", ""),
        ("id_code,diagnosis", "{stem},{label}", "id_code", "diagnosis", ""),
        ("Image,Id", "{name},{label}", "Image", "Id", ""),
        ("Label,Image Path", "{label},{name}", "Image Path", "Label", ""),
        ("file_name,class,width", "{name},{label},5", "file_name", "class", "width"),
        (",file_name,class", "{number},{name},{label}", "file_name", "class", "one without a name"),
        ("id,filename,category", "{number},{name},{label}", "filename", "category", "id"),
    ],
)  # fmt: skip
def test_columns_of_others(
    root: Path, capsys: Capture, header: str, form: str, path: str, label: str, left: str
) -> None:
    file = table(root, header, form)
    assert labels(file, root) == LABELS
    shown = notes(file, capsys)[1]
    assert f"path from {path!r}" in shown
    assert (f"label from {label!r}" in shown) == (label != "label")
    assert (f"left out: {left}" in shown) == bool(left)


def test_a_column_without_a_name_is_left_out(root: Path, capsys: Capture) -> None:
    file = table(root, "Unnamed: 0,path,label", "{number},{name},{label}")
    assert labels(file, root) == LABELS
    assert "left out: one without a name" in notes(file, capsys)[1]


def test_a_column_of_splits_by_another_name(root: Path) -> None:
    lines = [f"{name},{label},{'train' if name < '7' else 'valid_set'}" for name, label in LABELS.items()]
    (root / "data.csv").write_text("\n".join(["filepaths,labels,data set", *lines]))
    assert load_dataset(root / "data.csv").split_counts() == {"train": 7, "val": 3}


def test_names_of_columns_that_stand_again(root: Path, capsys: Capture) -> None:
    path = table(root, "path,label\npath,label", "{name},{label}")
    assert labels(path, root) == LABELS
    assert "1 further line with the names of the columns in data.csv" in notes(path, capsys)[1]


@pytest.mark.parametrize(
    ("form", "count"),
    [
        (r".\{name}", 10),
        (r"C:\Users\me\photos\{name}", 10),
        ("/home/me/photos/{stem}.PNG", 10),
        ("https://host/data/upload/3/0a1b2c3d-{name}", 10),
        ("/data/local-files/?d=photos/{name}", 10),
        ("{stem}", 10),
        ("{name}", 0),
    ],
)
def test_images_that_are_elsewhere(root: Path, capsys: Capture, form: str, count: int) -> None:
    path = table(root, "path,label", form + ",{label}")
    assert labels(path, root) == LABELS
    shown = notes(path, capsys)[1]
    assert (f"{count} images of data.csv are elsewhere than it has them" in shown) == bool(count)
    assert check_source(path).layout == []


def test_of_several_images_with_one_name_the_folder_decides(tmp_path: Path) -> None:
    write(tmp_path, *[f"{label}/{number}.png" for label in ("cat", "dog") for number in range(4)])
    lines = [rf"D:\set\{label}\{number}.png,{label}" for label in ("cat", "dog") for number in range(4)]
    (tmp_path / "data.csv").write_text("\n".join(["path,label", *lines]))
    assert labels(tmp_path / "data.csv", tmp_path) == {
        f"{label}/{number}.png": label for label in ("cat", "dog") for number in range(4)
    }
    (tmp_path / "data.csv").write_text("path,label\n0.png,cat\n1.png,dog\n")
    error(tmp_path / "data.csv", "2 of 2 images do not exist", "0.png")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0.png,a\n1.png,b\n", ["no line with the names of the columns", "path,label"]),
        ("image,MEL,NV,BCC\n0,1.0,0.0,0.0\n", ["no column 'label'", "'MEL'", "path, label and, if wanted, split"]),
        ("filename,width,height,class,xmin,ymin,xmax,ymax\n0.png,1,4,a,0,0,1,1\n", ["boxes of objects", "COCO"]),
        ("image_id,width,height,bbox,label\n0,1,4,[0 0 1 1],a\n", ["boxes of objects"]),
        ('image,choice\n0.png,"{""choices"": [""a"", ""b""]}"\n', ["line 2", "list of classes"]),
        ("path,label,lable\n0.png,a,b\n", ["unknown column 'lable'"]),
        ("filename,label,label\n0.png,a,b\n", ["two columns 'label'"]),
        ("a;b;c\n1;2;3\n", ["unknown column 'a'", "no column 'path'", "no column 'label'"]),
    ],
)
def test_tables_that_leave_doubt_are_refused(root: Path, text: str, words: list[str]) -> None:
    (root / "data.csv").write_text(text)
    error(root / "data.csv", str(root / "data.csv"), *words)


@pytest.mark.parametrize("split", [True, False])
def test_metadata_of_hugging_face(tmp_path: Path, split: bool) -> None:
    folders = ("train/", "test/") if split else ("",)
    meant = {}
    for folder in folders:
        names = [f"{number}.png" for number in range(6)]
        write(tmp_path, *[folder + name for name in names])
        lines = [f"{name},{'ab'[number % 2]}" for number, name in enumerate(names)]
        (tmp_path / folder / "metadata.csv").write_text("\n".join(["file_name,label", *lines]))
        meant |= {folder + name: "ab"[number % 2] for number, name in enumerate(names)}
    dataset = load_dataset(tmp_path)
    found = rows(dataset, tmp_path)
    assert {name: label for name, (label, _) in found.items()} == meant
    if split:
        assert {part for name, (_, part) in found.items() if name.startswith("test/")} == {"test"}
        assert {part for name, (_, part) in found.items() if name.startswith("train/")} == {"train", "val"}


def test_metadata_above_the_folders_of_splits(tmp_path: Path) -> None:
    names = [f"{split}/{number}.png" for split in ("train", "validation") for number in range(4)]
    write(tmp_path, *names)
    lines = [f"{name},{'ab'[number % 2]}" for number, name in enumerate(names)]
    (tmp_path / "metadata.csv").write_text("\n".join(["file_name,label", *lines]))
    assert load_dataset(tmp_path).split_counts() == {"train": 4, "val": 4}
