from pathlib import Path

import pytest
import torch
from PIL import Image

import foveal
from foveal.data.tiles import tiles, write_film
from foveal.generate.generator import Generator, GeneratorSpec
from foveal.metrics import GenerateEvaluator
from foveal.report.html import write_report
from foveal.structures import Batch, Label
from foveal.train.config import TrainConfig
from tests.data.test_pretext import pictures
from tests.generate.toys import Means
from tests.toys import small_digits, squares, unlabelled

DIGITS = tuple("0123456789")


def test_images_of_any_data_serve() -> None:
    for data in (small_digits(), unlabelled(small_digits()), squares()):
        run = foveal.train(Means(), data, TrainConfig(out=None, epochs=1, quiet=True, report=False, overwrite=True))
        assert set(run.record["result"]) == {"error", "loss"}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_conditional_system_needs_classes() -> None:
    with pytest.raises(foveal.InputError, match="Means learns of which class an image is, and squares has no class"):
        foveal.train(Means(DIGITS), squares(), TrainConfig(quiet=True))
    with pytest.raises(foveal.InputError, match="needs class names"):
        Generator(GeneratorSpec((), conditional=True))


def test_what_is_asked_for() -> None:
    system = Means(DIGITS)
    assert system.asked(12, None).tolist() == [*range(10), 0, 1]  # type: ignore[union-attr]
    assert system.asked(2, "3").tolist() == [3, 3]  # type: ignore[union-attr]
    assert system.asked(2, ["4", "1"]).tolist() == [4, 1]  # type: ignore[union-attr]
    for labels, text in (("11", "unknown class '11'"), (["1"], "1 labels for 2 images")):
        with pytest.raises(foveal.InputError, match=text):
            system.asked(2, labels)
    with pytest.raises(foveal.InputError, match="Means cannot be asked for a class"):
        Means().asked(2, "3")
    assert Means().asked(2, None) is None


def test_levels_are_those_of_the_file() -> None:
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(-1, 3, -1, -1)
    system = Means()
    assert torch.equal(system.levels(levels / 255), levels[:, :1].long())
    assert torch.allclose(system.as_images(system.normalize(levels / 255)), levels / 255, atol=1e-6)


def test_verbs_that_a_system_has() -> None:
    assert Means().can("sample")
    assert Means().can("reconstruct")
    assert not Means().can("decode")
    assert not Means().can("score")
    assert not Means().can("nothing of this name")
    with pytest.raises(foveal.InputError, match="Generator cannot make images from points"):
        Generator(GeneratorSpec()).render(torch.zeros(1, 2))


def test_figures_of_made_images() -> None:
    """Images that are the means of classes: a judge names them, and the asked class is the one."""
    data, judge = foveal.load_dataset("digits"), foveal.create("lenet", weights="package")
    system = Means(DIGITS, noise=0.05)
    labels = torch.tensor(data.targets.values)  # type: ignore[union-attr]
    for n in range(10):
        shown = data.images.images[labels == n][:, :1].float() / 255  # type: ignore[attr-defined]
        system.means.data[n] = (shown.mean(0) - 0.5) / 0.5
    figures = foveal.evaluate(system, data.select("test"))
    assert figures["agreement"] > 0.9
    assert figures["diversity"] > 0.95
    assert figures["bits_per_dim"] == pytest.approx(8)
    assert figures["recall"] < 0.5 < figures["precision"]  # typical, and all alike
    worse = foveal.evaluate(Means(DIGITS), data.select("test"), judge=judge)
    assert worse["frechet"] > figures["frechet"]
    assert worse["agreement"] < 0.2
    assert set(foveal.evaluate(Means(), unlabelled(data).select("test"))) == {"error", "loss", "bits_per_dim"}
    with pytest.raises(foveal.InputError, match="judge has no effect: lenet is a system to classify"):
        foveal.evaluate(judge, data, judge="lenet")
    with pytest.raises(foveal.InputError, match="judge Means is a system to generate"):
        foveal.evaluate(system, data, judge=system)


def test_images_that_are_the_real_ones() -> None:
    data = small_digits().select("train")
    real = torch.stack([data.image(i) for i in range(len(data))]).float() / 255
    judge = foveal.create("lenet", weights="package")
    given = iter(real.split(64))
    evaluator = GenerateEvaluator(Means(), judge, lambda n, generator, labels: next(given))
    none = torch.zeros(len(real))
    with torch.no_grad():
        evaluator.update(Means(), Batch(real, (), none, none, none), [])
        figures = evaluator.compute()
    assert abs(figures["frechet"]) < 1e-3
    assert (figures["precision"], figures["recall"]) == (1, 1)


def test_agreement_of_each_class() -> None:
    data = small_digits().select("train")
    image = {label: data.image(next(i for i in range(len(data)) if data.target(i).label == n)).float() / 255
             for n, label in enumerate(DIGITS)}  # fmt: skip
    image["9"] = image["0"]  # a system that makes zeros for nines
    judge = foveal.create("lenet", weights="package")
    made = lambda n, generator, labels: torch.stack([image[label] for label in labels])  # noqa: E731
    evaluator = GenerateEvaluator(Means(DIGITS), judge, made)
    assert evaluator.per_class() == []
    real, none = torch.stack(list(image.values())).repeat(2, 1, 1, 1)[:15], torch.zeros(15)
    with torch.no_grad():
        targets = tuple(Label(torch.tensor(n % 10)) for n in range(15))
        evaluator.update(Means(DIGITS), Batch(real, targets, none, none, none), [])
        figures, rows = evaluator.compute(), evaluator.per_class()
    assert [row["images"] for row in rows] == [2] * 5 + [1] * 5
    assert rows[9]["agreement"] < 0.1 < 0.5 < rows[0]["agreement"]
    mean = sum(row["images"] * row["agreement"] for row in rows) / 15
    assert figures["agreement"] == pytest.approx(mean, rel=1e-5)


def test_samples_on_the_way(tmp_path: Path) -> None:
    config = TrainConfig(out=str(tmp_path / "run"), epochs=5, quiet=True)
    run = foveal.train(Means(DIGITS), small_digits(), config)
    files = sorted(path.name for path in (run.directory / "samples").iterdir())
    assert files == [f"epoch-000{n}.png" for n in (1, 2, 4, 5)]
    page = write_report(run.directory, small_digits(), run.system).read_text()
    for text in ("Samples over time", "epoch 4", "agreement", "bits per dim", "classes take turns"):
        assert text in page
    again = foveal.train(Means(DIGITS), small_digits(), TrainConfig(out=str(tmp_path / "other"), epochs=5, quiet=True))
    for name in files:  # the same random numbers make the same images
        assert (again.directory / "samples" / name).read_bytes() == (run.directory / "samples" / name).read_bytes()


def test_tiles() -> None:
    images = torch.rand(5, 3, 8, 4)
    whole = tiles(images, 3)
    assert whole.shape == (3, 2 * 68 + 4, 3 * 36 + 4)
    assert torch.equal(whole[:, 72 : 72 + 64 : 8, 40 : 40 + 32 : 8], (images[4] * 255).round().byte())
    assert (whole[:, 72:, 76:] == 255).all()
    assert tiles(torch.zeros(1, 3, 100, 100, dtype=torch.uint8)).shape == (3, 108, 108)


def test_a_film(tmp_path: Path) -> None:
    frames = [torch.full((3, 6, 9), value, dtype=torch.uint8) for value in (0, 128, 255)]
    write_film(tmp_path / "film.gif", frames)
    with Image.open(tmp_path / "film.gif") as film:
        assert (film.n_frames, film.size) == (3, (9, 6))  # type: ignore[attr-defined]
    with pytest.raises(foveal.InputError, match="cannot write"):
        write_film(tmp_path / "no" / "film.gif", frames)
    assert [path.name for path in tmp_path.iterdir()] == ["film.gif"]


def test_a_folder_of_images_of_one_class_or_none(tmp_path: Path) -> None:
    pictures(tmp_path / "photos")
    (tmp_path / "one").mkdir()
    (tmp_path / "photos").rename(tmp_path / "one" / "cat")
    assert foveal.load_dataset(tmp_path / "one", "generate").labels == ("cat",)
    assert foveal.load_dataset(tmp_path / "one" / "cat", "generate").labels == ()
