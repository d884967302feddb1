"""The command as a whole: help, exit codes, pipes."""

import io
import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypedDict, get_type_hints

import pytest

import foveal
from foveal.catalog import ENTRIES
from foveal.cli import VERBS, common, main
from foveal.cli.common import DATA, parse
from foveal.cli.train import _own_settings
from foveal.data.builtin import BUILT_IN
from tests.cli.conftest import Answer


def process(*words: str, **options: object) -> "subprocess.Popen[str]":
    """The command in a process of its own, without a terminal."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TERM": "xterm-256color"}
    for name in ("COLUMNS", "PYTHONUNBUFFERED"):
        environment.pop(name, None)
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-m", "foveal", *words], env=environment, **{**pipes, **options})  # type: ignore[call-overload]


@pytest.mark.parametrize("words", [(), ("--help",), ("-h",)])
def test_help(works: Callable[..., Answer], words: tuple[str, ...]) -> None:
    text = works(*words).out
    assert all(verb in text for verb in VERBS)
    assert "foveal train resnet_nano --data digits" in text


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb(works: Callable[..., Answer], verb: str) -> None:
    answer = works(verb, "--help")
    assert "{None}" not in answer.out
    assert f"Example: foveal {verb} " in answer.out
    assert "--json" in answer.out
    assert answer.err == ""


def test_the_examples_of_the_help_are_right(works: Callable[..., Answer]) -> None:
    # Each option and system that an example names is there.
    for verb in VERBS:
        text = works(verb, "--help").out
        example = next(line for line in text.splitlines() if "Example: " in line).split()[3:]
        options = {word for word in example if word.startswith("--")}
        shown = works(verb, example[0], "--help").out if verb == "train" else text
        assert all(option in shown for option in options), verb
        if verb in ("train", "cost"):
            assert example[0] in foveal.names()


def test_help_of_a_system_shows_its_settings(works: Callable[..., Answer]) -> None:
    text = " ".join(works("train", "lenet", "--help").out.split())
    assert "--subsampling {average,max,trainable}" in text
    assert "--criterion" in text
    assert "What is minimised" in text
    assert "--lr FLOAT Learning rate, the highest of the schedule. (default: 0.002)" in text.replace("│ ", "")
    assert "--subsampling" not in works("train", "resnet_nano", "--help").out


def test_version(works: Callable[..., Answer]) -> None:
    assert works("--version").out == f"{foveal.__version__}\n"


def test_unknown_verb(fails: Callable[..., str]) -> None:
    assert "unknown verb 'trian'; did you mean train" in fails("trian", "lenet")


def test_verbs_follow_each_other(works: Callable[..., Answer]) -> None:
    first = works("list").out
    works("cost", "lenet")
    assert works("list").out == first


def test_a_module_and_a_process_without_terminal() -> None:
    command = process("list", "--json")
    out, err = command.communicate(timeout=60)
    assert (command.returncode, err) == (0, "")
    assert [system["name"] for system in json.loads(out)["systems"]] == foveal.names()


def test_a_reader_that_has_gone() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = process("list", stdout=writing)
    os.close(writing)
    _, err = command.communicate(timeout=60)
    assert (command.returncode, err) == (0, "")


def shell(words: str, tail: str, **settings: Any) -> subprocess.CompletedProcess[str]:
    """A command line of foveal with what a shell puts behind it; its own exit code is the last line on stdout."""
    text = f"({sys.executable} -m foveal {words}; echo $? >&3) {tail}"
    return subprocess.run(["bash", "-c", f"exec 3>&1; {text}"], capture_output=True, text=True, timeout=120, **settings)


TRAIN = "train linear_softmax --data digits --epochs 1 --no-report --workers 0"


@pytest.mark.parametrize(
    ("words", "tail", "code"),
    [
        ("list --json", "| true", "0"),
        ("cost lenet --json", ">&-", "0"),
        ("cost lenet", "2>&-", "0"),
        ("check gone", "2>&-", "2"),
        ("check gone", "2>&1 | true", "2"),
        (TRAIN, ">&-", "0"),
        (TRAIN, "2>&1 | true", "0"),
        (TRAIN, "<&- >&- 2>&-", "0"),
        (TRAIN, "2>/dev/full", "0"),
    ],
)
def test_output_that_nobody_reads_changes_nothing(words: str, tail: str, code: str, tmp_path: Path) -> None:
    done = shell(words, tail, cwd=tmp_path, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    assert done.stdout.splitlines()[-1:] == [code]
    assert "Traceback" not in done.stderr
    assert "rror" not in done.stderr
    if words == TRAIN:
        (run,) = (tmp_path / "runs").iterdir()
        assert json.loads((run / "run.json").read_text())["status"] == "finished"


def test_predict_saves_before_its_reader_leaves(tmp_path: Path, shared_run: Path, images: Path) -> None:
    (images / "one" / "bad.png").write_bytes(b"no image")
    done = shell(f"predict {shared_run} {images} --json --out {tmp_path / 'out'} 2>/dev/null", "| true")
    assert (done.stdout, done.stderr) == ("2\n", "")  # for the bad image
    assert len(json.loads((tmp_path / "out/predictions.json").read_text())["predictions"]) > 3


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a full device")
def test_an_answer_that_cannot_be_written() -> None:
    with open("/dev/full", "w") as full:
        command = process("list", stdout=full)
        _, err = command.communicate(timeout=60)
    assert (command.returncode, err) == (2, "foveal: [Errno 28] No space left on device\n")


def test_no_standard_output(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["list"]) == 0


def test_what_the_system_refuses_is_one_line(fails: Callable[..., str]) -> None:
    name = "a" * 300
    assert f"{name}: File name too long" in fails("cost", name)


def test_more_than_the_memory_has_is_one_line(fails: Callable[..., str]) -> None:
    text = fails("train", "vit_b_32", "--data", "digits", "--mlp-ratio", 2**20)
    assert "out of memory for 2473901162496 bytes: take a smaller image size or system" in text


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["cost"], ["RUN|NAME", "required"]),
        (["cost", "lenet", "--sizes", "3"], ["--sizes", "did you mean --size?"]),
        (["cost", "lenet", "--size", "x"], ["--size", "'x'"]),
        (["cost", "lenet", "--size"], ["--size", "issing"]),
        (["list", "extra"], ["extra"]),
        (["evaluate", "lenet"], ["--data"]),
        (["train"], ["NAME", "--data"]),
        (["train", "lenet"], ["--data", "foveal train lenet --help"]),
        (["train", "lenet", "--data", "digits", "--epohcs", "3"], ["--epohcs", "did you mean --epochs?"]),
        (["train", "lenet", "--data", "digits", "--epochs", "1.5"], ["--epochs", "'1.5'"]),
        (["train", "lenet", "--data", "digits", "--optimizer", "addam"], ["--optimizer", "'addam'", "adamw"]),
        (["train", "lenet", "--data", "digits", "--subsampling", "mean"], ["--subsampling", "'mean'", "trainable"]),
        (["train", "linear_svm", "--data", "digits", "--subsampling", "average"], ["--subsampling"]),
        (["train", "lenet", "linear_svm", "--data", "digits"], ["linear_svm"]),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_words_that_do_not_fit(
    fails: Callable[..., str], monkeypatch: pytest.MonkeyPatch, words: list[str], told: list[str], encoding: str
) -> None:
    # The encoding of the output decides how tyro draws the box that the line is taken from.
    monkeypatch.setattr(type(sys.stdout), "encoding", encoding, raising=False)
    line = fails(*words)
    for word in told:
        assert word in line
    assert not set("│─╭╰") & set(line)
    assert "---" not in line


def test_a_table_shows_names_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [("[bold]a[/x]", ":smile:"), ("two\nlines\t", "caf\udce9 猫")]
    shown = ["[bold]a[/x]", ":smile:", "two\\nlines\\t", "caf\\udce9 猫"]
    assert common.table(("one", "two"), rows).split("\n") == ["one\ttwo", "\t".join(shown[:2]), "\t".join(shown[2:])]
    monkeypatch.setattr(sys, "stdout", Terminal())
    lines = common.table(("one", "two"), rows).split("\n")
    assert len(lines) == 3
    assert all(text in "\n".join(lines) for text in shown)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


HOSTILE = (
    *("\x1b[31m", "\x1b]0;title\x07", "\x9b2J", "\r", "\b\b", "\x00", "\x7f", "a\nb", "\u2028", "\u202eexe.gnp"),
    *("\u2066", "\u200b", "\ufeff", "\u3164", "\udc9b", "\U000e0041", "\u00ad"),
)


def test_no_control_character_reaches_the_screen(
    call: Callable[..., Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    draw, words = random.Random(0), []
    options = ("--data", "--out", "--size", "--epochs", "--weights", "--json", "--labels", "--device", "--resume", "--")
    plain = ("lenet", "resnet_nano", "digits", "runs/none", "3", "0.5", "")
    for number in range(2000):
        verb = draw.choice([*VERBS, "x" if number % 9 else ""])
        words = [draw.choice(options if draw.random() < 0.4 else plain) for _ in range(draw.randint(0, 4))]
        for _ in range(draw.randint(1, 2)):
            place, sign = draw.randint(0, len(words)), draw.choice(HOSTILE)
            near = draw.choice(["", "--", str(tmp_path / "a"), "--size=", "lenet", *options])
            words.insert(place, f"{near}{sign}{draw.choice(['', 'b', '.png'])}")
        if verb == "x":
            verb += draw.choice(HOSTILE)
        answer = call(verb, *words)
        assert answer.code in (0, 2), words
        for sign in set(answer.out + answer.err) - {"\n", "\t"}:
            assert sign.isprintable() or sign == "\u200d", (verb, words, sign)
            assert sign not in "\u3164\u115f", (verb, words)


def test_an_answer_has_the_bold_headings_of_its_table_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    common.answer({}, False, "a\tb\nwritten: \x1b[31m\u202e.png")
    assert capsys.readouterr().out == "a\tb\nwritten: \\x1b[31m\\u202e.png\n"
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    common.answer({}, False, "\x1b[1mone\x1b[0m\n\x1b[31m")
    assert terminal.getvalue() == "\x1b[1mone\x1b[0m\n\\x1b[31m\n"


@pytest.mark.parametrize("words", [("check",), ("evaluate",), ("train",), ("train", "lenet")])
def test_help_names_all_formats_of_data(works: Callable[..., Answer], words: tuple[str, ...]) -> None:
    text = " ".join(works(*words, "--help").out.replace("│", " ").split())
    assert DATA in text
    assert all(name in DATA for name in (*BUILT_IN, "CSV", "COCO JSON", "Pascal VOC XML", "YOLO", "one folder a class"))


def test_no_option_has_a_bare_number_for_a_name(capsys: pytest.CaptureFixture[str]) -> None:
    """As a nested list would be offered. Each kind of setting once, whatever systems have it."""
    kinds: dict[str, Any] = {}
    for name in ENTRIES:
        for kind in get_type_hints(_own_settings(name), include_extras=True).values():
            kinds.setdefault(repr(kind.__origin__), kind)
    settings = TypedDict("Settings", {f"setting_{n}": kind for n, kind in enumerate(kinds.values())}, total=False)
    with pytest.raises(SystemExit):
        parse(settings, "train", ["--help"])
    options = re.findall(r"--[\w.-]+", capsys.readouterr().out)
    assert any(option.startswith("--setting") for option in options)
    assert not [option for option in options if re.search(r"^--\d|\.\d", option)]
