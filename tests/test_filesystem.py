"""Files from other people can do no harm: what is read has to be a regular file, what is written follows no link."""

import os
import socket
import stat
from pathlib import Path

import pytest

from foveal.errors import InputError
from foveal.filesystem import (
    PARTIAL,
    append,
    check_output,
    make_folder,
    open_file,
    open_lock,
    own_folder,
    read_bytes,
    read_text,
    replacing,
    write_bytes,
    write_text,
)


def refused(function: object, *arguments: object) -> str:
    with pytest.raises(InputError) as caught:
        function(*arguments)  # type: ignore[operator]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def irregular(folder: Path) -> list[Path]:
    """A pipe, a socket, a folder, a device, and a link to the last."""
    os.mkfifo(folder / "pipe")
    (folder / "folder").mkdir()
    (folder / "link").symlink_to("/dev/zero")
    # The name of a socket may have 108 bytes.
    here = os.getcwd()
    os.chdir(folder)
    socket.socket(socket.AF_UNIX).bind("socket")
    os.chdir(here)
    return [folder / "pipe", folder / "socket", folder / "folder", Path("/dev/zero"), folder / "link"]


def test_regular_files_alone_are_read(tmp_path: Path) -> None:
    for path in irregular(tmp_path):
        for function in (open_file, read_bytes, read_text):
            refused(function, path)
    refused(read_bytes, tmp_path / "absent")
    refused(read_bytes, "a\0b")
    (tmp_path / "a").write_bytes(b"12345")
    (tmp_path / "to_a").symlink_to(tmp_path / "a")
    assert read_bytes(tmp_path / "to_a") == b"12345"
    assert read_bytes(tmp_path / "a", 5) == b"12345"
    assert "5 bytes" in refused(read_bytes, tmp_path / "a", 4)
    (tmp_path / "a").write_bytes(b"\xff")
    refused(read_text, tmp_path / "a")


def test_a_sparse_file_of_terabytes_is_refused_unread(tmp_path: Path) -> None:
    with open(tmp_path / "giant", "wb") as file:
        file.truncate(2**42)
    assert "4,398,046,511,104 bytes" in refused(read_bytes, tmp_path / "giant")


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    for target in ("victim", "absent"):
        (tmp_path / "out").unlink(missing_ok=True)
        (tmp_path / "out").symlink_to(tmp_path / target)
        write_text(tmp_path / "out", "new")
        assert not (tmp_path / "out").is_symlink()
        assert (tmp_path / "out").read_text() == "new"
    assert (tmp_path / "victim").read_text() == "precious"
    assert not (tmp_path / "absent").exists()


def test_a_file_with_a_second_name_keeps_its_content_under_that_one(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    os.link(tmp_path / "victim", tmp_path / "out")
    write_text(tmp_path / "out", "new")
    assert (tmp_path / "victim").read_text() == "precious"


def test_what_is_written_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a", b"old")

    def write_half() -> None:
        with replacing(tmp_path / "a") as file:
            file.write(b"half of it")
            file.flush()
            assert PARTIAL.fullmatch(Path(file.name).name)
            assert (tmp_path / "a").read_bytes() == b"old"
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_half()
    assert (tmp_path / "a").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_library_that_writes_to_the_path_or_puts_another_file_there(tmp_path: Path) -> None:
    with replacing(tmp_path / "a") as file:
        (tmp_path / "other").write_bytes(b"content")
        (tmp_path / "other").chmod(0o600)
        os.replace(tmp_path / "other", file.name)
    assert (tmp_path / "a").read_bytes() == b"content"
    plain = tmp_path / "plain"
    plain.write_text("")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_what_is_appended_to_or_locked_is_one_regular_file(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    for path in irregular(tmp_path):
        for function, more in ((append, ("x",)), (open_lock, ())):
            refused(function, path, *more)
    (tmp_path / "to_victim").symlink_to(victim)
    os.link(victim, tmp_path / "twin")
    for name in ("to_victim", "twin"):
        assert "remove" in refused(append, tmp_path / name, "x")
        assert "remove" in refused(open_lock, tmp_path / name)
    assert victim.read_text() == "precious"
    append(tmp_path / "log", "a\n")
    append(tmp_path / "log", "b\n")
    open_lock(tmp_path / "log").close()
    assert (tmp_path / "log").read_text() == "a\nb\n"


def test_a_file_of_a_lone_surrogate_is_text(tmp_path: Path) -> None:
    write_text(tmp_path / "a", os.fsdecode(b"caf\xe9"))
    assert read_text(tmp_path / "a") == "caf\\udce9"


def test_own_folders_are_no_links(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "pictures").symlink_to(tmp_path / "elsewhere")
    assert "link" in refused(own_folder, tmp_path, "pictures")
    assert own_folder(tmp_path, "samples").is_dir()
    (tmp_path / "file").write_text("")
    refused(make_folder, tmp_path / "file" / "below")
    make_folder(tmp_path / "pictures")  # named by the user


def test_outputs_do_not_replace_inputs(tmp_path: Path) -> None:
    photo = tmp_path / "photos" / "z.png"
    photo.parent.mkdir()
    photo.write_bytes(b"")
    (tmp_path / "same.png").symlink_to(photo)
    assert "z_out.png" in refused(check_output, photo, [photo])
    assert "same_out.png" in refused(check_output, tmp_path / "same.png", [photo])
    assert "photos_out" in refused(check_output, photo.parent, [photo])
    (tmp_path / "photos_out").mkdir()
    assert "photos_out_2" in refused(check_output, photo.parent, [photo])
    assert "photos_out" in refused(check_output, photo.parent, [photo.parent])
    check_output(photo.parent.parent, [photo.parent])  # beside the folder of inputs
    check_output(tmp_path / "answers", [photo])
    check_output(tmp_path / "photos_out", [photo])


def test_what_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    refused(write_text, tmp_path / "absent" / "a", "x")
    (tmp_path / "folder").mkdir()
    refused(write_text, tmp_path / "folder", "x")
    refused(write_text, "a\0b", "x")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
