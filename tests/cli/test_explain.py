"""foveal explain: a picture, the raw map, the figures, and one line for whatever is wrong."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import foveal
from foveal.data.image import read_image
from tests.cli.conftest import Answer


def test_explain(works: Callable[..., Answer], shared_images: Path, shared_run: Path, tmp_path: Path) -> None:
    image, out = shared_images / "two/2.jpg", tmp_path / "new folder" / "why.png"
    document = works("explain", shared_run, image, "--out", out, "--steps", "4", "--json").document()
    found = foveal.explain(foveal.load(shared_run), read_image(image))
    assert {name: document[name] for name in ("system", "image", "method", "target", "map", "files")} == {
        "system": str(shared_run),
        "image": str(image),
        "method": "occlusion",
        "target": found.target,
        "map": list(found.map.shape),
        "files": [str(out), str(out.with_suffix(".npy"))],
    }
    assert (document["score"], document["probability"]) == pytest.approx((found.score, found.probability))
    assert document["faithfulness"] == pytest.approx(found.faithfulness(steps=4))
    torch.testing.assert_close(torch.from_numpy(np.load(out.with_suffix(".npy"))), found.map)
    picture = np.asarray(Image.open(out).convert("RGB"))
    assert min(picture.shape[:2]) > 300
    assert picture.std() > 20


def test_the_class_is_that_of_predict(
    works: Callable[..., Answer], shared_images: Path, shared_run: Path, tmp_path: Path
) -> None:
    images = [*(shared_images / "one").iterdir()][:3] + [*(shared_images / "zero").iterdir()][:3]
    predicted = works("predict", shared_run, *images, "--json").document()["predictions"]
    for image, row in zip(images, predicted, strict=True):
        words = ("--method", "saliency", "--steps", "1", "--out", tmp_path / "x.png", "--json")
        document = works("explain", shared_run, image, *words).document()
        assert (document["target"], document["probability"]) == (row["label"], row["score"])


def test_another_class_and_method_in_the_current_folder(
    works: Callable[..., Answer],
    shared_images: Path,
    shared_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("--method", "gradcam", "--target", "two", "--layer", "stage1", "--steps", "2")
    lines = works("explain", shared_run, shared_images / "zero/0.jpg", *words).out.splitlines()
    assert lines[1:3] == ["method\tgradcam", "class\ttwo"]
    assert any(line.startswith("better than random\t") for line in lines)
    assert lines[-1] == "written: explanation.png and explanation.npy"
    assert np.load("explanation.npy").shape == (14, 14)
    # As everywhere, what was written before is written over.
    works("explain", shared_run, shared_images / "zero/0.jpg", "--steps", "2", "--window", "9", "--stride", "9")
    assert np.load("explanation.npy").shape == (32, 32)


def test_names_that_look_like_formulas(shared_images: Path, tmp_path: Path) -> None:
    from foveal.report.draw import save_explanation

    system = foveal.create("linear_softmax", labels=("$x^2$ " * 20, "<b> 日本"))
    for target in system.labels:
        found = foveal.explain(system, read_image(shared_images / "two/2.jpg"), "saliency", target)
        assert save_explanation(tmp_path / "x.png", found, found.curves(1, 1))[0].stat().st_size > 0


@pytest.mark.parametrize("size", [(1, 1), (3, 400), (400, 3), (700, 900)])
def test_images_of_any_shape(
    works: Callable[..., Answer], shared_run: Path, tmp_path: Path, size: tuple[int, int]
) -> None:
    draw = np.random.default_rng(0)
    Image.fromarray(draw.integers(0, 256, (*size, 3), np.uint8)).save(tmp_path / "x.png")
    words = ("--method", "saliency", "--steps", "1", "--out", tmp_path / "why.png")
    works("explain", shared_run, tmp_path / "x.png", *words)
    width, height = Image.open(tmp_path / "why.png").size
    assert 300 < height < 1000
    assert 1000 < width < 1700


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--method", "gradcan"), "unknown method 'gradcan'; did you mean gradcam"),
        (("--method", "gradcam", "--layer", "stage9"), "no module 'stage9'; did you mean stage"),
        (("--method", "gradcam", "--layer", "classifier.f6"), "cannot lay an activation of shape"),
        (("--method", "saliency", "--layer", "stage1"), "saliency has no setting 'layer'"),
        (("--method", "gradcam", "--window", "3"), "gradcam has no setting 'window'"),
        (("--window", "33"), "window is from 1 pixel to the image's 32 x 32, not 33 x 33"),
        (("--target", "twoo"), "unknown class 'twoo'; did you mean two"),
        (("--steps", "0"), "steps must be at least 1"),
        (("--out", "x.gif"), "--out has to end in .png, not 'x.gif'"),
        (("--device", "gpu"), "cannot use the device 'gpu'"),
        (("--weights", "x.pt"), "leave out --weights"),
    ],
)
def test_words_that_do_not_fit(
    fails: Callable[..., str], shared_images: Path, shared_run: Path, words: tuple[str, ...], told: str
) -> None:
    assert told in fails("explain", shared_run, shared_images / "zero/0.jpg", *words)


def test_files_that_do_not_fit(
    fails: Callable[..., str], shared_images: Path, shared_run: Path, tmp_path: Path
) -> None:
    image = shared_images / "zero/0.jpg"
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "folder.png").mkdir()
    assert f"cannot read {tmp_path / 'text.png'}" in fails("explain", shared_run, tmp_path / "text.png")
    assert "cannot read" in fails("explain", shared_run, tmp_path / "nothing.png")
    assert f"{shared_images} is a folder" in fails("explain", shared_run, shared_images)
    assert "no trained weights" in fails("explain", "vgg_nano", image)
    assert "neither a run or checkpoint nor a system" in fails("explain", "lenett", image)
    words = ("--method", "saliency", "--steps", "1", "--out")
    assert f"cannot write {tmp_path / 'folder.png'}" in fails(
        "explain", shared_run, image, *words, tmp_path / "folder.png"
    )
    below = tmp_path / "text.png" / "x.png"
    assert f"cannot write in {below.parent}" in fails("explain", shared_run, image, *words, below)


def test_a_system_without_maps(
    works: Callable[..., Answer], fails: Callable[..., str], images: Path, tmp_path: Path
) -> None:
    system, weights = foveal.create("linear_softmax"), tmp_path / "w.safetensors"
    from foveal.train import checkpoint

    checkpoint.save(weights, checkpoint.describe(system), system.state_dict())
    words = ("linear_softmax", images / "zero/0.jpg", "--weights", weights, "--out", tmp_path / "x.png", "--steps", "1")
    assert "cannot be explained by the activations of a layer; occlusion and saliency" in fails(
        "explain", *words, "--method", "gradcam"
    )
    works("explain", *words)


@pytest.mark.parametrize("same", ["name", "link", "hard link", "map"])
def test_no_input_is_replaced(
    fails: Callable[..., str], shared_images: Path, shared_run: Path, tmp_path: Path, same: str
) -> None:
    image, out = tmp_path / "z.png", tmp_path / "why.png"
    Image.open(shared_images / "zero/0.jpg").save(image)
    before = image.read_bytes()
    match same:
        case "name":
            out = image
        case "link":
            out.symlink_to(image)
        case "hard link":
            os.link(image, out)
        case "map":
            image = image.rename(tmp_path / "why.npy")
    assert "not overwritten: write to" in fails("explain", shared_run, image, "--out", out)
    assert image.read_bytes() == before
    assert not out.exists() or out.samefile(image)
