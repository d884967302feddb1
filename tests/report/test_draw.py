"""Grids of images."""

from pathlib import Path
from typing import Any

import pytest
import torch

from foveal.report import draw
from foveal.report.parts import marked


def test_predictions_have_the_names_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long ones keep both ends, which tell the images of a series apart."""
    shown: list[Any] = []
    monkeypatch.setattr(draw, "image_grid", lambda images, captions: shown.extend(captions))
    monkeypatch.setattr(draw, "save_figure", lambda figure, path: None)
    names = ["photos/a.jpg", "photos/a_rather_long_name_of_an_image_0001.jpg"]
    rows = [{"image": name, "label": "cat", "score": 0.98} for name in names]
    draw.save_predictions(tmp_path, {"predictions": rows}, [torch.zeros(3, 4, 4)] * 2, ["cat"])
    assert shown == ["a.jpg\ncat 98%", "a_rather_l…ge_0001.jpg\ncat 98%"]


def test_a_figure_over_few_objects_is_marked() -> None:
    assert marked("mAPs", 0.41, {"mAPs": "3 objects"}) == "0.4100 (3 objects)"
    assert marked("mAP", 0.41, {"mAPs": "3 objects"}) == "0.4100"
