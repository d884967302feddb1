import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from foveal.cli import main
from foveal.data.builtin import digits
from foveal.data.check import Findings, check, check_source
from foveal.data.sources import load_dataset
from foveal.errors import InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Forty twos and forty sevens in train and test, 32 pixels a side."""
    data, made = digits(), {2: 0, 7: 0}
    for index in range(len(data)):
        label = int(data.target(index).label)
        if label in made and made[label] < 40:
            split = "test" if made[label] % 4 == 3 else "train"
            save(data.image(index), tmp_path / split / str(label) / f"{index}.png")
            made[label] += 1
    return tmp_path


def save(image: torch.Tensor, path: Path, size: tuple[int, int] = (32, 32)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image.permute(1, 2, 0).numpy()).resize(size).save(path)


def files(folder: Path, split: str, label: int) -> list[Path]:
    return sorted((folder / split / str(label)).iterdir())


def findings(folder: Path) -> Findings:
    return check(load_dataset(folder))


def test_good_data_has_no_faults(folder: Path) -> None:
    found = findings(folder)
    assert found.faults == 0
    assert found.counts["test"] == {"2": 10, "7": 10}
    assert sum(found.counts["train"].values()) + sum(found.counts["val"].values()) == 60


def test_one_class_alone(folder: Path) -> None:
    for split in ("train", "test"):
        shutil.rmtree(folder / split / "7")
    assert findings(folder).layout == [f"{folder} has one class only, '2'; to classify takes two or more"]


def test_unreadable_images_are_named(folder: Path) -> None:
    broken = files(folder, "train", 2)[3]
    broken.write_bytes(broken.read_bytes()[:60])
    found = findings(folder)
    assert list(found.unreadable) == [str(broken)]
    assert found.faults == 1


def test_copies_across_splits_and_classes(folder: Path) -> None:
    original = files(folder, "train", 2)[0]
    (folder / "test" / "2" / "copy.png").write_bytes(original.read_bytes())
    (folder / "train" / "7" / "other.png").write_bytes(original.read_bytes())
    found = findings(folder)
    assert len(found.leaks) == len(found.two_labels) == 1
    assert any("copy.png (test)" in name for name in found.leaks[0])
    assert any("other.png (7)" in name for name in found.two_labels[0])


def test_near_copies_across_splits(folder: Path) -> None:
    original = Image.open(files(folder, "train", 7)[5]).convert("RGB")
    original.resize((48, 48)).save(folder / "test" / "7" / "again.jpg", quality=95)
    near = findings(folder).near_copies
    assert len(near) == 1
    assert "again.jpg (test)" in " ".join(near[0])


def test_odd_sizes(folder: Path) -> None:
    Image.new("RGB", (900, 20), "red").save(folder / "train" / "2" / "long.png")
    Image.new("RGB", (600, 600), "blue").save(folder / "train" / "2" / "large.png")
    assert {Path(name).name for name in findings(folder).odd_sizes} == {"long.png", "large.png"}


def test_odd_modes(folder: Path) -> None:
    path = files(folder, "train", 2)[0]
    image = Image.open(path).convert("RGB")
    odd = {
        "cmyk.jpg": ("CMYK", image.convert("CMYK"), {}),
        "deep.png": ("16 bits", Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000), {}),
        "clear.png": ("grey, transparent", image.convert("LA"), {}),
        "film.webp": ("colour, of several frames", image, {"save_all": True, "append_images": [image.rotate(90)]}),
    }
    for name, (_, picture, how) in odd.items():
        picture.save(path.with_name(name), **how)
    found = findings(folder)
    modes = {Path(name).name: mode for name, mode in found.odd_modes.items()}
    assert modes == {name: mode for name, (mode, *_) in odd.items()}
    count = sum(len(files(folder, split, label)) for split in ("train", "test") for label in (2, 7))
    assert any(f"1 of {count} images (CMYK), as {path.with_name('cmyk.jpg')}" in note for note in found.notes)


def test_implausible_labels(folder: Path) -> None:
    wrong = files(folder, "train", 2)[4]
    wrong.rename(folder / "train" / "7" / "wrong.png")
    found = findings(folder)
    assert [Path(name).name for name in found.implausible] == ["wrong.png"]
    assert "labelled 7" in next(iter(found.implausible.values()))


def test_labels_are_not_judged_where_looks_do_not_tell(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    for n in range(40):
        noise = torch.from_numpy(draw.integers(0, 256, (3, 16, 16), dtype=np.uint8))
        save(noise, tmp_path / "train" / "ab"[n % 2] / f"{n}.png")
    found = findings(tmp_path)
    assert found.implausible == {}
    assert any("not judged" in note for note in found.notes)


def test_imbalance_and_absent_classes_are_noted(folder: Path) -> None:
    for path in files(folder, "train", 2)[2:]:
        path.unlink()
    save(digits().image(0), folder / "test" / "0" / "zero.png")
    notes = " ".join(findings(folder).notes)
    assert "class 0 has no training image" in notes
    assert "unbalanced" in notes


def test_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(folder)]) == 0
    assert "nothing wrong was found" in capsys.readouterr().out
    files(folder, "train", 2)[0].write_bytes(b"")
    assert main(["check", str(folder)]) == 2
    assert "cannot be read (1):" in capsys.readouterr().out


def test_copies_within_a_class_and_split_are_noted(folder: Path) -> None:
    one = files(folder, "test", 2)[0]
    one.with_name("copy.png").write_bytes(one.read_bytes())
    found = findings(folder)
    assert found.faults == 0
    assert any(note.startswith("1 image is a copy of others, as ") and "copy.png" in note for note in found.notes)


def test_all_that_is_wrong_with_folders_is_listed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("train/8", "train/9"):
        (folder / name).mkdir()
    (folder / "val").mkdir()
    (folder / "train" / "2" / "gone.png").symlink_to(folder / "nowhere.png")
    (folder / "train" / "2" / "phone.heic").write_bytes(b"")
    broken = files(folder, "train", 7)[0]
    broken.write_bytes(b"no image")
    found = check_source(folder)
    assert sorted(found.layout) == sorted(
        [
            f"cannot read {folder}/train/2/gone.png: No such file or directory",
            f"{folder}: no images in the folder of class 8; add some or remove it",
            f"{folder}: no images in the folder of class 9; add some or remove it",
            f"{folder}/val has no images in folders of classes; add some or remove it",
        ]
    )
    assert list(found.unreadable) == [str(broken)]
    assert found.faults == 5
    assert sum(map(sum, (counts.values() for counts in found.counts.values()))) == 80
    assert "files whose names are not of images were passed over: 1 .heic" in found.notes
    assert main(["check", str(folder)]) == 2
    assert "folders, files and rows (4):" in capsys.readouterr().out
    with pytest.raises(InputError, match="val has no images"):
        load_dataset(folder)


def test_all_rows_of_a_csv_that_are_wrong_are_listed(folder: Path) -> None:
    names = [f"{path.relative_to(folder)},{label}" for label in (2, 7) for path in files(folder, "train", label)]
    wrong = ["only a path", "gone.png,7", names[0].replace(",2", ",7"), "train,2"]
    table = folder / "data.csv"
    table.write_text("\n".join(["path,label", *names, *wrong, names[1]]))
    found, line = check_source(table), len(names) + 2
    first = folder / names[0].partition(",")[0]
    assert found.layout == [
        f"{table}, line {line}: a row has one value for each of path, label",
        f"{table}, line {line + 1}: cannot read {folder}/gone.png: No such file or directory",
        f"{table}, line {line + 2}: {first} has two labels, '2' in line 2 and here '7'",
        f"{table}, line {line + 3}: {folder}/train is a folder, not a file",
    ]
    assert sum(map(sum, (counts.values() for counts in found.counts.values()))) == len(names) + 1


def test_what_leaves_nothing_to_use_is_listed_last(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = folder / "data.csv"
    table.write_text("path,label,split\nno.png,a,train\nalso_not.png,b,exam\n")
    found = check_source(table)
    assert found.counts == {}
    assert [text.removeprefix(f"{table}") for text in found.layout] == [
        f", line 2: cannot read {folder}/no.png: No such file or directory",
        ", line 3: unknown split 'exam'; known: test, train, val",
        " has no rows",
    ]
    assert main(["check", str(table)]) == 2
    assert capsys.readouterr().out.startswith("folders, files and rows (3):")
