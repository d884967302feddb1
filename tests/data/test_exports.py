"""What other tools export is read as they meant it, and `check` finds nothing wrong with it."""

from pathlib import Path

import pytest

from foveal.data.check import check_source
from foveal.data.sources import load_dataset
from tests.data.exports import Export, exports

PAGE = Path(__file__).parents[2] / "docs" / "data.md"


@pytest.mark.parametrize("export", exports(), ids=lambda export: f"{export.tool}-{export.layout}")
def test_an_export_is_read_as_it_was_meant(export: Export, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, truth = export.write(tmp_path)
    dataset = load_dataset(source)
    shown = capsys.readouterr().err
    assert dataset.labels == truth.labels
    assert dataset.task == ("detect" if truth.objects else "classify")
    if truth.splits:
        assert dataset.split_counts() == truth.splits
    root = tmp_path.resolve()
    names = [Path(dataset.name(index)).resolve().relative_to(root).as_posix() for index in range(len(dataset))]
    for index, name in enumerate(names):
        target = dataset.target(index)
        if truth.classes:
            assert dataset.labels[int(target.label)] == truth.classes[name]
        else:
            read = sorted(
                zip((dataset.labels[label] for label in target.labels.tolist()), target.boxes.tolist(), strict=True)
            )
            meant = sorted((label, box) for label, *box in truth.objects[name])
            assert [label for label, _ in read] == [label for label, _ in meant], name
            for (_, one), (_, two) in zip(read, meant, strict=True):
                assert one == pytest.approx(two, abs=0.01), name
    assert sorted(names) == sorted(truth.classes or truth.objects)
    found = check_source(source)
    assert found.faults == 0, list(found.groups())
    for note in truth.notes:
        assert note in shown
        assert note in " ".join(found.notes)


def test_each_export_has_a_row_in_the_documentation() -> None:
    page = PAGE.read_text("utf-8")
    missing = [export for export in exports() if f"| {export.tool} | {export.layout} |" not in page]
    assert not missing
