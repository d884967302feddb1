"""Which labels `foveal check` calls implausible, and which it does not judge."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from foveal.cli import main
from foveal.cli.check import run
from foveal.data import suspects
from foveal.data.builtin import digits
from foveal.data.check import check
from foveal.data.check_classify import ClassifyFindings
from foveal.data.dataset import Dataset, ImageArray, LabelColumn
from foveal.data.suspects import crop
from foveal.errors import InputError
from foveal.system import resize
from foveal.weights.packages import available
from tests.data.annotated import coco, write_json


def some_digits(each: int, classes: int = 4, few: int | None = None) -> Dataset:
    """So many images of each of the first digits; `few` of the last one."""
    whole = digits()
    values = whole.targets.values  # type: ignore[union-attr]
    counts = [each] * (classes - 1) + [each if few is None else few]
    items = np.concatenate([np.flatnonzero(values == label)[:count] for label, count in enumerate(counts)])
    return replace(whole, items=items)


def relabelled(dataset: Dataset, changes: dict[int, int]) -> Dataset:
    """Other labels for some rows of a view."""
    values = dataset.targets.values.copy()  # type: ignore[union-attr]
    assert dataset.items is not None
    for row, label in changes.items():
        values[dataset.items[row]] = label
    return replace(dataset, targets=LabelColumn(values))


def findings(dataset: Dataset, limit: int = 20_000) -> ClassifyFindings:
    found = check(dataset, labels=limit)
    assert isinstance(found, ClassifyFindings)
    return found


def test_suspects_are_ranked_with_the_judges_class() -> None:
    changes = {3: 1, 50: 2, 90: 0}
    dataset = relabelled(some_digits(40), changes)
    found = findings(dataset)
    expected = {dataset.name(row): (str(label), str(row // 40)) for row, label in changes.items()}
    assert {one.name: (one.label, one.other) for one in found.suspects} == expected
    assert [one.name for one in found.suspects] == list(found.implausible)
    assert [one.wrong for one in found.suspects] == sorted((one.wrong for one in found.suspects), reverse=True)
    for one in found.suspects:
        assert one.of_label < 0.1 < 0.5 < one.probability
        assert found.implausible[one.name].startswith(f"labelled {one.label}, but looks like {one.other} (probability ")
        assert (one.object, one.box) == (None, None)
    assert found.faults == 3


def test_clean_digits_have_hardly_a_suspect() -> None:
    found = findings(some_digits(60, 6))
    assert len(found.suspects) <= 2
    assert any(
        note.startswith("labels of images were judged: a cross-validated classifier on pixels") for note in found.notes
    )


def test_a_class_of_few_images_is_not_judged() -> None:
    found = findings(some_digits(40, few=4))
    assert found.suspects == []
    assert "the labels of class 3 were not judged: fewer than 20 images have it" in found.notes
    assert any("of 120 labels" in note for note in found.notes)


def test_fewer_than_two_classes_that_can_be_judged() -> None:
    found = findings(some_digits(9, 3))
    assert "labels of images were not judged: fewer than two classes have 20 images or more" in found.notes


def noise(count: int, classes: int) -> Dataset:
    """Images that say nothing of their labels."""
    draw = np.random.default_rng(0)
    whole = some_digits(count // classes, classes)
    values = draw.permutation(whole.targets.values[whole.items])  # type: ignore[union-attr, index]
    return relabelled(whole, dict(enumerate(values.tolist())))


def test_a_weak_judge_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suspects, "available", lambda name: False)
    found = findings(noise(160, 4))
    assert found.suspects == []
    (note,) = [note for note in found.notes if "not judged" in note]
    assert note.startswith("labels of images were not judged: a cross-validated classifier on pixels predicts ")
    assert note.endswith(
        "of 160 labels, which is too few; features of a network may judge them: pip install 'foveal[photos]'"
    )


def test_a_class_that_the_judge_does_not_recognise() -> None:
    """The last two of five classes are mixed at random; which of them the judge guesses less often is chance."""
    dataset = some_digits(40, 5)
    draw = np.random.default_rng(0)
    mixed = dict(zip(range(120, 200), draw.permutation([3, 4] * 40).tolist(), strict=True))
    found = findings(relabelled(dataset, {**mixed, 5: 1}))
    assert [(one.label, one.other) for one in found.suspects] == [("1", "0")]
    (note,) = [note for note in found.notes if "not judged" in note]
    which = r"(class [34]|2 classes \(3, 4\))"
    assert re.match(rf"the labels of {which} were not judged: the classifier predicts only \d+% of them", note)


@pytest.mark.skipif(not available("efficientnet_lite0"), reason="the extra photos is not installed")
def test_features_of_a_network_judge_what_pixels_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """The classes are textures at random places and colours."""
    draw = np.random.default_rng(0)
    images = []
    for n in range(60):
        period, shift = (4, 9)[n % 2], draw.integers(0, 30, 2)
        y, x = np.mgrid[:48, :48] + shift[:, None, None]
        pattern = ((x // period + y // period) % 2)[None] * draw.integers(60, 200, (3, 1, 1))
        images.append(torch.from_numpy((pattern + draw.integers(0, 55, (3, 1, 1))).astype(np.uint8)))
    whole = digits()
    labels = np.tile([0, 1], 30)
    labels[7] = 0
    dataset = replace(
        whole, labels=("fine", "coarse"), images=ImageArray(images, "textures"), targets=LabelColumn(labels),
        splits=np.zeros(60, np.int8), items=None, drawn=None,
    )  # fmt: skip
    monkeypatch.setattr(suspects, "SIDE", 48)
    found = findings(dataset)
    assert any("on features of efficientnet_lite0 predicts" in note for note in found.notes)
    assert [(one.name, one.label, one.other) for one in found.suspects] == [("textures/7", "fine", "coarse")]


def test_the_number_of_labels_is_bounded() -> None:
    found = findings(some_digits(40), limit=100)
    assert "labels of 100 of 160 images, drawn at random, were judged; --labels 160 judges all" in found.notes
    assert "labels of images were not judged, as --labels 0 says" in findings(some_digits(40), limit=0).notes


def test_copies_do_not_confirm_each_others_label() -> None:
    """Twelve copies of one wrongly labelled image, among 40 of each class."""
    dataset = some_digits(40)
    assert dataset.items is not None
    items = np.concatenate([dataset.items, np.repeat(dataset.items[2], 11)])
    found = findings(relabelled(replace(dataset, items=items), {2: 1}))
    assert {(one.label, one.other) for one in found.suspects} == {("1", "0")}
    assert len(found.suspects) == 12


def pasted_digits(root: Path, wrong: int) -> None:
    """Images of four digits, as objects in boxes; one object has another class than its picture."""
    data = digits()
    values = data.targets.values  # type: ignore[union-attr]
    of = {label: np.flatnonzero(values == label)[:30] for label in (0, 1)}
    rows = {}
    (root / "train").mkdir(parents=True)
    for n in range(15):
        whole, named = np.zeros((80, 80, 3), np.uint8), []
        for place in range(4):
            label = place % 2
            x, y = 4 + 40 * (place % 2), 4 + 40 * (place // 2)
            image = resize(data.image(int(of[label][2 * n + place // 2])), (32, 32))
            whole[y : y + 32, x : x + 32] = image.permute(1, 2, 0).numpy()
            named.append((label + 1 if (n, place) != (wrong, 2) else 2, x, y, 32, 32))
        Image.fromarray(whole).save(root / "train" / f"{n:02}.png")
        rows[f"{n:02}.png"] = named
    write_json(root / "train" / "_annotations.coco.json", coco({1: "zero", 2: "one"}, rows))


def test_objects_are_judged_by_what_is_in_their_boxes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pasted_digits(tmp_path / "data", wrong=6)
    out = tmp_path / "out"
    assert main(["check", str(tmp_path / "data"), "--json", "--out", str(out)]) == 2
    document = json.loads(capsys.readouterr().out)
    (one,) = document["suspects"]
    assert (one["object"], one["label"], one["other"]) == (3, "one", "zero")
    assert one["box"] == [4, 44, 36, 76]
    assert one["name"].endswith("06.png")
    assert document["labels"] == [
        f"{one['name']}: object 3 is labelled one, but looks like zero (probability {one['probability']:.2f})"
    ]
    assert "the places of boxes were not judged, nor whether an object lacks a box" in document["notes"]
    assert document["report"] == str(out / "suspects.html")
    assert "object 3" in (out / "suspects.html").read_text()


def test_crops_have_a_pixel_at_least() -> None:
    image = torch.arange(3 * 8 * 10).reshape(3, 8, 10)
    assert torch.equal(crop(image, [1.5, 2, 4.2, 6]), image[:, 2:6, 1:5])
    assert crop(image, [9.99, 7.99, 10, 8]).shape == (3, 1, 1)
    assert crop(image, [10, 8, 10, 8]).shape == (3, 1, 1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twenty-four images each of 0, 1 and 2 in folders with hostile names; four are in the wrong folder."""
    dataset = some_digits(24, 3)
    for row in range(72):
        label = (row // 24 + (row % 24 == 5)) % 3
        name = f"<img src=x onerror=alert(1)>{row}.png" if row % 24 == 5 else f"{row}.png"
        path = tmp_path / "data" / f"<b>{label}&" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(dataset.image(row).permute(1, 2, 0).numpy()).save(path)
    return tmp_path / "data"


def test_the_page_escapes_names(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder.parent / "out"
    assert main(["check", str(folder), "--out", str(out)]) == 2
    text = capsys.readouterr().out
    assert "implausible label (3):" in text
    assert f"written: {out}/suspects.html" in text
    page = (out / "suspects.html").read_text()
    assert "<img src=x" not in page
    assert "<b>" not in page
    assert page.count("&lt;img src=x onerror=alert(1)&gt;") >= 3
    assert page.count("data:image/png;base64,") == 3
    assert page.count("looks like") >= 3


def test_the_text_shows_the_first_ten(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    monkeypatch.setattr("foveal.cli.check.NAMED", 2)
    assert main(["check", str(folder)]) == 2
    lines = capsys.readouterr().out.splitlines()
    place = lines.index("implausible label (3):")
    assert lines[place + 3] == "  and 1 more: --out FOLDER writes a page with pictures of them"
    assert lines[-1] == "3 to look at"


def test_an_output_folder_among_the_inputs_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="holds the inputs"):
        run([str(folder), "--out", str(folder)])


def test_a_negative_number_of_labels_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(folder), "--labels", "-1"]) == 2
    assert "labels must be at least 0, not -1" in capsys.readouterr().err
