"""foveal evaluate, foveal predict: what was trained is what is used."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import foveal
from foveal.accelerate import WAYS
from foveal.data.image import read_image
from tests.cli.conftest import CLASSES, Answer, splits

# --- What was trained is what is used --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet_nano", "linear_softmax"])
def test_the_size_is_that_of_the_run(
    works: Callable[..., Answer], shared_images: Path, tmp_path: Path, name: str
) -> None:
    data, run = splits(shared_images, tmp_path / "data"), tmp_path / "run"
    words = ("--epochs", "3", "--batch-size", "8", "--image-size", "12", "--plan", "eager", "--quiet", "--json")
    trained = works("train", name, "--data", data, "--out", run, *words).document()
    measured = works("evaluate", run, "--data", data, "--split", "val", "--json").document()
    assert (measured["split"], measured["images"], measured["unreadable"]) == ("val", 15, {})
    assert measured["metrics"] == pytest.approx(trained["metrics"], rel=1e-6)

    predicted = works("predict", run, data / "val", "--json").document()["predictions"]
    assert len(predicted) == 15
    right = [row["label"] == Path(row["image"]).parent.name for row in predicted]
    assert sum(right) / 15 == pytest.approx(trained["metrics"]["accuracy"])
    # Another size is another system: the two cases above are told apart by more than luck.
    system = foveal.load(run)
    assert system.preprocess.size == (12, 12)
    if name == "resnet_nano":
        other = foveal.create(name, labels=system.labels)
        other.load_state_dict(system.state_dict())
        loss = foveal.evaluate(other, foveal.load_dataset(data, split="val"))["loss"]
        assert loss != pytest.approx(trained["metrics"]["loss"], rel=1e-3)


def test_predictions_are_those_of_the_library(
    works: Callable[..., Answer], shared_images: Path, shared_run: Path
) -> None:
    document = works("predict", shared_run, shared_images / "one", shared_images / "two/2.jpg", "--json").document()
    assert document["system"] == str(shared_run)
    assert document["unreadable"] == {}
    paths = [*sorted((shared_images / "one").iterdir()), shared_images / "two/2.jpg"]
    assert [row["image"] for row in document["predictions"]] == [str(path) for path in paths]
    system = foveal.load(shared_run)
    for row, path in zip(document["predictions"], paths, strict=True):
        scores = system.predict([read_image(path)])[0].scores
        assert [top["label"] for top in row["top"]] == [system.labels[i] for i in scores.argsort(descending=True)]
        torch.testing.assert_close(
            torch.tensor([top["score"] for top in row["top"]]), scores.sort(descending=True).values
        )
        assert (row["label"], row["score"]) == (row["top"][0]["label"], row["top"][0]["score"])


# --- evaluate --------------------------------------------------------------------------------------------------------


def test_evaluate(works: Callable[..., Answer], shared_images: Path, shared_run: Path) -> None:
    words = ("evaluate", shared_run, "--data", shared_images)
    document = works(*words, "--json", "--workers", "1").document()
    dataset = foveal.load_dataset(shared_images)
    assert document["data"] == str(shared_images)
    assert (document["split"], document["images"]) == ("test", dataset.split_counts()["test"])
    assert document["metrics"] == foveal.evaluate(foveal.load(shared_run), dataset)
    lines = works(*words).out.splitlines()
    assert lines[0] == f"{shared_run} on {shared_images}, test: {document['images']} images"
    assert f"accuracy\t{document['metrics']['accuracy']:.4f}" in lines


def test_evaluate_other_data_whole_with_each_class_and_a_report(
    works: Callable[..., Answer], images: Path, shared_run: Path, tmp_path: Path
) -> None:
    (images / "zero/0.jpg").unlink()  # no longer the images of the run, nor its folder
    words = ("evaluate", shared_run, "--data", images)
    document = works(*words, "--json", "--out", tmp_path / "out").document()
    reason = f"all images: {images} is not the data that the system was trained on"
    assert (document["split"], document["images"], document["images_in_data"]) == ("all", 59, 59)
    assert document["measured"] == reason
    predicted = works("predict", shared_run, *sorted(images.iterdir()), "--json").document()["predictions"]
    for label, figures in document["classes"].items():
        own = [row["label"] for row in predicted if Path(row["image"]).parent.name == label]
        assert figures["images"] == len(own)
        assert figures["recall"] == pytest.approx(own.count(label) / len(own))
        assert figures["predicted"] == sum(row["label"] == label for row in predicted)
    page = Path(document["report"]).read_text("utf-8")
    assert document["report"] == str(tmp_path / "out/evaluation.html")
    assert all(part in page for part in ("Confusion matrix", "95 % interval", f"59 of 59 images: {reason}"))
    answer = works(*words)
    assert f"foveal: 59 of 59 images: {reason}\n" in answer.err
    figures = document["classes"]["two"]
    cells = [figures["images"], figures["predicted"], figures["correct"]]
    shown = "\t".join(["two", *map(str, cells), f"{figures['recall']:.4f}", f"{figures['precision']:.4f}"])
    assert shown in answer.out.splitlines()


def test_the_library_predicts_what_the_command_does(
    works: Callable[..., Answer], shared_images: Path, shared_run: Path
) -> None:
    paths = sorted((shared_images / "one").iterdir())[:3]
    told = works("predict", shared_run, *paths, "--top", 2, "--json").document()["predictions"]
    assert foveal.predict(shared_run, paths, top=2) == told
    system = foveal.load(shared_run)
    assert foveal.predict(system, str(paths[0]), top=2) == told[:1]
    assert foveal.predict(system, [read_image(paths[0])], top=2) == [{**told[0], "image": "0"}]
    with pytest.raises(foveal.InputError, match="threshold has no effect"):
        foveal.predict(system, paths, threshold=0.1)


@pytest.mark.parametrize("which", ["best.safetensors", "last.safetensors"])
def test_evaluate_a_checkpoint(works: Callable[..., Answer], shared_images: Path, shared_run: Path, which: str) -> None:
    document = works("evaluate", shared_run / which, "--data", shared_images, "--split", "val", "--json").document()
    assert 0 <= document["metrics"]["accuracy"] <= 1


def test_evaluate_on_some_of_the_classes(works: Callable[..., Answer], images: Path, shared_run: Path) -> None:
    # Two classes of three, which stand elsewhere in the order of the system.
    whole = foveal.load_dataset(images)
    for path in (images / "one").iterdir():
        path.unlink()
    (images / "one").rmdir()
    document = works("evaluate", shared_run, "--data", images, "--split", "train", "--json").document()
    system, right = foveal.load(shared_run), []
    for i in range(len(whole)):
        if Path(whole.name(i)).exists() and whole.splits[i] == 0:
            target = whole.target(i)
            right.append(system.labels[system.predict([whole.image(i)])[0].label] == whole.labels[target.label])
    assert document["images"] == len(right)
    assert document["metrics"]["accuracy"] == pytest.approx(sum(right) / len(right))


def test_evaluate_leaves_a_damaged_image_out(
    works: Callable[..., Answer], shared_images: Path, shared_run: Path, tmp_path: Path
) -> None:
    data = splits(shared_images, tmp_path / "data")
    broken = data / "val/one/broken.png"
    broken.write_bytes(b"no image")
    words = ("evaluate", shared_run, "--data", data, "--split", "val")
    document = works(*words, "--json").document()
    assert document["images"] == 15
    assert list(document["unreadable"]) == [str(broken)]
    assert f"left out, as it cannot be read: cannot read {broken}" in works(*words).out
    broken.unlink()
    assert works(*words, "--json").document()["metrics"] == document["metrics"]


def test_evaluate_on_one_class(
    works: Callable[..., Answer], shared_images: Path, shared_run: Path, tmp_path: Path
) -> None:
    shutil.copytree(shared_images / "zero", tmp_path / "test" / "zero")
    measured = works("evaluate", shared_run, "--data", tmp_path, "--json").document()
    predicted = works("predict", shared_run, tmp_path / "test" / "zero", "--json").document()["predictions"]
    right = [row["label"] == "zero" for row in predicted]
    assert measured["images"] == len(right)
    assert measured["metrics"]["accuracy"] == pytest.approx(sum(right) / len(right))


def test_classes_that_the_run_does_not_know(fails: Callable[..., str], images: Path, shared_run: Path) -> None:
    (images / "zero").rename(images / "cero")
    line = fails("evaluate", shared_run, "--data", images)
    assert f"{images} has a class that the system does not know: cero; it knows one, two, zero" in line


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--data", "gone"), "there is no data at gone"),
        (("--data", ""), "there is no data at ''"),
        (("--data", "digits"), "digits has classes that the system does not know: 0, 1, 2, 3, 4, 5 and 4 more"),
        (("--split", "valid"), "unknown split 'valid'; did you mean val"),
        (("--batch-size", "0"), "batch_size is at least 1"),
        (("--workers", "-1"), "workers at least 0"),
        (("--device", "bogus"), "cannot use the device 'bogus': cpu, cuda and mps are known"),
        (("--weights", "weights.pth"), "leave out --weights"),
    ],
)
def test_bad_evaluate(
    fails: Callable[..., str], shared_images: Path, shared_run: Path, words: tuple[str, ...], told: str
) -> None:
    data = () if "--data" in words else ("--data", shared_images)
    assert told in fails("evaluate", shared_run, *data, *words)


def test_evaluate_without_weights(fails: Callable[..., str]) -> None:
    assert "vgg_nano has no trained weights here: add --weights FILE" in fails(
        "evaluate", "vgg_nano", "--data", "digits"
    )
    assert "lennet is neither a run or checkpoint nor a system; did you mean lenet" in fails(
        "evaluate", "lennet", "--data", "digits"
    )


# --- predict ---------------------------------------------------------------------------------------------------------


def test_predict(works: Callable[..., Answer], shared_images: Path, shared_run: Path) -> None:
    answer = works("predict", shared_run, shared_images / "one/1.png", shared_images / "two/2.jpg")
    head, *rows = [line.split("\t") for line in answer.out.splitlines()]
    assert head == ["image", "class", "probability", "next"]
    assert [row[0] for row in rows] == [str(shared_images / "one/1.png"), str(shared_images / "two/2.jpg")]
    assert all(row[1] in CLASSES and 1 / 3 <= float(row[2]) <= 1 and row[3].count(",") == 1 for row in rows)
    assert answer.err == ""


@pytest.mark.parametrize(("top", "count"), [(1, 1), (2, 2), (3, 3), (99, 3)])
def test_predict_so_many_classes(
    works: Callable[..., Answer], shared_images: Path, shared_run: Path, top: int, count: int
) -> None:
    document = works("predict", shared_run, shared_images / "one/1.png", "--top", top, "--json").document()
    assert len(document["predictions"][0]["top"]) == count


def test_predict_a_folder(works: Callable[..., Answer], images: Path, shared_run: Path) -> None:
    Image.new("RGB", (8, 8)).save(images / ".hidden.png")
    (images / "one/._1.png").write_bytes(b"what macOS leaves")
    (images / "notes.txt").write_text("no image")
    document = works("predict", shared_run, images, "--json").document()
    assert len(document["predictions"]) == 60


def test_predict_reports_a_damaged_image(call: Callable[..., Answer], images: Path, shared_run: Path) -> None:
    broken = images / "one/1.png"
    broken.write_bytes(b"no image")
    answer = call("predict", shared_run, images / "one")
    assert answer.code == 2
    assert len(answer.out.splitlines()) == 20  # a heading, and the others
    assert answer.err == f"foveal: cannot read {broken}: it is not a JPEG, PNG or another image that foveal reads\n"
    answer = call("predict", shared_run, images / "one", "--json", "--out", images / "out")
    assert answer.code == 2
    assert list(answer.document()["unreadable"]) == [str(broken)]
    assert len(answer.document()["predictions"]) == 19
    assert json.loads((images / "out/predictions.json").read_text()) == answer.document()


def test_predict_only_a_damaged_image(call: Callable[..., Answer], tmp_path: Path, shared_run: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"")
    answer = call("predict", shared_run, tmp_path / "broken.png", "--json", "--out", tmp_path / "out")
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert "the file is empty" in answer.err
    assert answer.document()["predictions"] == []
    assert json.loads((tmp_path / "out/predictions.json").read_text()) == answer.document()


def test_predict_leaves_files(works: Callable[..., Answer], images: Path, shared_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep/out"
    document = works("predict", shared_run, images / "one", "--out", out, "--json").document()
    assert json.loads((out / "predictions.json").read_text()) == document
    with Image.open(out / "predictions.png") as picture:
        assert min(picture.size) > 300


def test_predict_draws_the_first_of_many(
    works: Callable[..., Answer], images: Path, shared_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("foveal.tasks.label.MOST_SHOWN", 4)
    works("predict", shared_run, images, "--out", tmp_path / "many")
    works("predict", shared_run, *sorted((images / "one").iterdir())[:4], "--out", tmp_path / "few")
    assert (tmp_path / "many/predictions.png").read_bytes() == (tmp_path / "few/predictions.png").read_bytes()
    assert len(json.loads((tmp_path / "many/predictions.json").read_text())["predictions"]) == 60


def test_predict_files_whose_name_is_no_text(
    works: Callable[..., Answer], images: Path, shared_run: Path, tmp_path: Path
) -> None:
    name = images / os.fsdecode(b"caf\xe9.png")
    (images / "one/1.png").rename(name)
    document = works("predict", shared_run, name, "--json", "--out", tmp_path / "out").document()
    assert document["predictions"][0]["image"] == str(name)
    assert json.loads((tmp_path / "out/predictions.json").read_text()) == document
    assert works("predict", shared_run, name).out.splitlines()[1].startswith(f"{images}/caf\\udce9.png\t")


def test_the_answer_is_not_lost_with_the_files(
    call: Callable[..., Answer], shared_images: Path, shared_run: Path, tmp_path: Path
) -> None:
    (tmp_path / "out" / "predictions.json").mkdir(parents=True)
    answer = call("predict", shared_run, shared_images / "one/1.png", "--out", tmp_path / "out")
    assert answer.code == 2
    assert answer.err.startswith(f"foveal: cannot write {tmp_path / 'out' / 'predictions.json'}: ")
    assert str(shared_images / "one/1.png") in answer.out


def test_bad_predict(fails: Callable[..., str], shared_images: Path, shared_run: Path, tmp_path: Path) -> None:
    image = shared_images / "one/1.png"
    assert "no image given" in fails("predict", shared_run)
    assert "empty" in fails("predict", shared_run, "")
    assert f"there is no image {tmp_path / 'gone.png'}" in fails("predict", shared_run, tmp_path / "gone.png")
    assert f"{tmp_path} has no images in it" in fails("predict", shared_run, tmp_path)
    assert "top must be at least 1, not 0" in fails("predict", shared_run, image, "--top", "0")
    assert "cannot use the device 'bogus'" in fails("predict", shared_run, image, "--device", "bogus")
    assert "add --weights FILE" in fails("predict", "vgg_nano", image)
    assert "neither a run or checkpoint nor a system" in fails("predict", tmp_path / "gone", image)


def test_a_measured_plan_predicts_the_same(
    works: Callable[..., Answer], call: Callable[..., Answer], shared_images: Path, shared_run: Path, monkeypatch: Any
) -> None:
    for way in ("compile", "openvino"):  # half a minute; threads of its own
        monkeypatch.delitem(WAYS, way)
    plain = works("predict", shared_run, shared_images / "one", "--json").document()["predictions"]
    answer = call("predict", shared_run, shared_images / "one", "--plan", "auto", "--json")
    assert re.search(r"^foveal: \w+ float32, the fastest of eager float32 \S+ ms, folded", answer.err)
    for one, other in zip(plain, answer.document()["predictions"], strict=True):
        assert (one["image"], one["label"]) == (other["image"], other["label"])
        assert one["score"] == pytest.approx(other["score"], abs=1e-4)


def test_a_precision_without_a_plan_is_told(fails: Callable[..., str], shared_images: Path, shared_run: Path) -> None:
    line = fails("predict", shared_run, shared_images / "one", "--precision", "bfloat16")
    assert "precision bfloat16 has no effect without --plan auto" in line


def test_predict_answers_for_the_others_where_one_is_missing(
    call: Callable[..., Answer], shared_images: Path, shared_run: Path
) -> None:
    answer = call("predict", shared_run, shared_images / "one/1.png", "gone.png", "--json")
    assert answer.code == 2
    document = json.loads(answer.out)
    assert [p["image"] for p in document["predictions"]] == [str(shared_images / "one/1.png")]
    assert [*document["unreadable"]] == ["gone.png"]


def test_predict_looks_where_it_will_write_before_it_works(
    fails: Callable[..., str], shared_images: Path, shared_run: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    image = shared_images / "one/1.png"
    assert "is not a folder" in fails("predict", shared_run, image, "--out", tmp_path / "file" / "out")
    out = tmp_path / "file" / "a.png"
    assert "is not a folder" in fails("explain", shared_run, image, "--out", out)


def test_evaluate_is_for_one_process(
    fails: Callable[..., str], shared_images: Path, shared_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "start it without torchrun" in fails("evaluate", shared_run, "--data", shared_images)
