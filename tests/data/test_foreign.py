"""Images and data sets of other libraries, and one line for what is neither."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import foveal
from foveal.data.foreign import as_dataset, as_image, as_images
from foveal.data.image import read_image, write_image
from foveal.errors import InputError

PIXELS = torch.arange(3 * 4 * 5, dtype=torch.uint8).view(3, 4, 5)


def array(dtype: Any = np.uint8) -> Any:
    return PIXELS.permute(1, 2, 0).contiguous().numpy().astype(dtype)


def test_all_kinds_of_one_image(tmp_path: Path) -> None:
    write_image(tmp_path / "x.png", PIXELS)
    readonly = array()
    readonly.setflags(write=False)
    kinds = [str(tmp_path / "x.png"), tmp_path / "x.png", Image.fromarray(array()), array(), readonly, PIXELS]
    assert all(torch.equal(found, PIXELS) for found in as_images(kinds))
    assert torch.equal(as_image(array()[::-1, :, ::-1]), PIXELS.flip(0, 1))
    assert torch.equal(as_image(PIXELS.double() / 255), PIXELS.double().div(255).float())
    assert torch.equal(as_image(array()[..., 1]), PIXELS[1].expand(3, -1, -1))
    for several in ([PIXELS, PIXELS], (PIXELS, array()), torch.stack([PIXELS, PIXELS]), np.stack([array(), array()])):
        assert [torch.equal(found, PIXELS) for found in as_images(several)] == [True, True]
    assert [len(as_images(one)) for one in (PIXELS, array(), tmp_path / "x.png", [])] == [1, 1, 1, 0]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16", "CMYK"])
def test_images_of_pillow_are_read_as_files_are(mode: str, tmp_path: Path) -> None:
    image = (
        Image.fromarray(array()).convert(mode) if mode != "I;16" else Image.fromarray(array(np.uint16)[..., 0] * 999)
    )
    image.save(tmp_path / ("x.tif" if mode == "CMYK" else "x.png"))
    assert torch.equal(as_image(image), read_image(next(tmp_path.iterdir())))


def test_pillow_turns_an_image_upright() -> None:
    image = Image.fromarray(array())
    image.getexif()[0x0112] = 6
    assert torch.equal(as_image(image), PIXELS.rot90(-1, (1, 2)))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (array(np.float32), r"array is an image if it is \(H, W, 3\) uint8, not \(4, 5, 3\) float32"),
        (PIXELS.numpy(), r"not \(3, 4, 5\) uint8"),
        (PIXELS[0], r"tensor is an image if it is \(3, H, W\), uint8 or float in \[0, 1\], not \(4, 5\) uint8"),
        (PIXELS[:1], r"not \(1, 4, 5\) uint8"),
        (PIXELS.long(), r"not \(3, 4, 5\) int64"),
        (PIXELS.float(), r"lies in \[0, 1\], and this one from 0 to 59: divide it by 255"),
        (PIXELS / 255 - 0.5, "leave its normalisation to the system"),
        (torch.full((3, 2, 2), torch.nan), "from nan to nan"),
        (PIXELS[:, :0], "at least one pixel, and this one is 0 x 5"),
        (None, "a path, a PIL image, an array .* not NoneType"),
        ({"image": PIXELS}, "not dict"),
        ("gone.png", "cannot read gone.png"),
    ],
)
def test_what_is_no_image_is_one_line(value: Any, said: str) -> None:
    system = foveal.create("lenet")
    for values in (value, [PIXELS, value]):
        if not (isinstance(values, list) and value is None):
            with pytest.raises(InputError, match=said):
                system.predict(values)


def test_predict_takes_them(tmp_path: Path) -> None:
    write_image(tmp_path / "x.png", PIXELS)
    system = foveal.create("lenet")
    expected = system.predict([PIXELS])[0].scores
    for one in (tmp_path / "x.png", array(), PIXELS, Image.fromarray(array())):
        (found,) = system.predict(one)
        assert torch.equal(found.scores, expected)
    assert system.predict([]) == []


class Pairs(torch.utils.data.Dataset[Any]):
    """Bright and dark images of two kinds."""

    classes = ("dark", "bright")

    def __init__(self, image: Any = lambda n: torch.full((3, 8, 8), n % 2 * 200 + n, dtype=torch.uint8)) -> None:
        self.image = image

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        if index >= 40:
            raise IndexError(index)
        return self.image(index), torch.tensor(index % 2)


def test_a_torch_dataset_is_trained_on(tmp_path: Path) -> None:
    system = foveal.create("lenet", labels=("bright", "dark"))
    config = foveal.TrainConfig(out=str(tmp_path / "run"), epochs=2, batch_size=8, workers=1, report=False, quiet=True)
    run = foveal.train(system, Pairs(), config)
    assert run.record["data"]["source"] == "Pairs"
    assert run.record["data"]["labels"] == ["dark", "bright"]
    assert sum(run.record["data"]["splits"].values()) == 40
    assert foveal.evaluate(system, Pairs(), workers=0)["accuracy"] >= 0
    data = as_dataset(Pairs(), system.labels)
    assert [int(data.target(index).label) for index in range(4)] == [0, 1, 0, 1]  # type: ignore[union-attr]
    assert torch.equal(data.image(3), torch.full((3, 8, 8), 203, dtype=torch.uint8))
    assert as_dataset([(PIXELS + n, n % 2) for n in range(9)], ("a", "b")).labels == ("a", "b")


def normalised(index: int) -> Tensor:
    return torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(index)) * 3


@pytest.mark.parametrize(
    ("dataset", "said"),
    [
        ("photos", "dataset is a data set of foveal.load_dataset, or a torch Dataset of pairs .* not str"),
        (7, "not int"),
        ([PIXELS], "not of other items"),
        ([(PIXELS, "cat")], "not of other items"),
        ([(PIXELS, 4)], "its classes are numbers from 0 to 1"),
        ([], "classes are numbers from 0"),
        (Pairs(normalised), "Pairs/0: a float image lies in"),
    ],
)
def test_what_is_no_data_is_one_line(dataset: Any, said: str, tmp_path: Path) -> None:
    system = foveal.create("lenet", labels=("a", "b"))
    with pytest.raises(InputError, match=said):
        foveal.train(system, dataset, foveal.TrainConfig(out=str(tmp_path / "run"), epochs=1))
    with pytest.raises(InputError, match=said):
        foveal.evaluate(system, dataset)


def test_what_is_no_system_or_no_configuration_is_one_line() -> None:
    data, system = foveal.load_dataset("digits"), foveal.create("lenet")
    for wrong, said in ((nn.Linear(1, 1), "not a Linear: derive yours from it"), ("lenet", "foveal.create makes one")):
        with pytest.raises(InputError, match=f"system is a foveal.system.System, .*{said}"):
            foveal.train(wrong, data)  # type: ignore[arg-type]
    for config in ({"epochs": 3}, {}, 3):
        with pytest.raises(InputError, match=r"config is a foveal\.TrainConfig, not a"):
            foveal.train(system, data, config)  # type: ignore[arg-type]
    for labels in ("abc", [1, 2], [None]):
        with pytest.raises(InputError, match="labels is a list of class names, not "):
            foveal.create("lenet", labels=labels)  # type: ignore[arg-type]
