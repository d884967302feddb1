"""What README.md shows in Python works as it stands there."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"


def test_a_model_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    [block] = [code for code in re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.S) if "class " in code]
    monkeypatch.chdir(tmp_path)
    exec(compile(block, str(README), "exec"), {"__name__": "readme"})
    assert capsys.readouterr().out.startswith("[('0', 0.")
    assert (tmp_path / "runs/Small-digits/best.safetensors").is_file()
