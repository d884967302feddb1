"""Every file that foveal opens or writes passes here, so that files from other people can do no harm.

Reading: `open_file` opens regular files alone, up to a stated size; a pipe, a device or a socket neither blocks nor
fills the memory. Writing: `replacing` fills a new file under a random name and moves it into place, so a reader finds
the old content or the new one, and a link that somebody has put at the path is replaced, never followed. What has to
be changed in place (`append`, `open_lock`) is refused where it is a link or has a second name elsewhere.

The path that a user gives may pass through links. Below it, folders that foveal names itself (`own_folder`) may not.
"""

import contextlib
import errno
import os
import re
import secrets
import stat
from collections.abc import Iterable, Iterator
from io import BufferedReader
from os import PathLike
from pathlib import Path
from typing import IO, BinaryIO

from foveal.errors import InputError

MAX_TEXT = 2**30  # bytes of a text or annotation file
_BLOCK = 2**20  # bytes
PARTIAL = re.compile(r"\..+\.[0-9a-f]{16}\.partial")  # the name of a file that is being written

# Absent on Windows, where neither pipes nor links lie in wait as files of an archive.
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
_NO_WAIT = getattr(os, "O_NONBLOCK", 0)
_BINARY = getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)


def open_file(path: str | PathLike[str], limit: int | None = None) -> BufferedReader:
    """A regular file, open for reading. limit: the most bytes that it may have.

    Raises InputError where it cannot be opened, is no regular file, or is larger.
    """
    return os.fdopen(_opened(path, limit)[0], "rb")


def _opened(path: str | PathLike[str], limit: int | None) -> tuple[int, int]:
    """The descriptor of a regular file, and its size in bytes. Raises InputError as `open_file` does."""
    descriptor = -1
    try:
        descriptor = os.open(path, os.O_RDONLY | _NO_WAIT | _BINARY)
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            raise InputError(f"{os.fspath(path)} is a folder, not a file")
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{os.fspath(path)} is not a regular file, so it is not read")
        if limit is not None and status.st_size > limit:
            raise InputError(
                f"{os.fspath(path)} has {status.st_size:,} bytes; a file of this kind may have {limit:,} at most"
            )
        return descriptor, status.st_size
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path; InputError is one too
        if descriptor >= 0:
            os.close(descriptor)
        if isinstance(error, InputError):
            raise
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(f"cannot read {os.fspath(path)}: {reason}") from None


def read_bytes(path: str | PathLike[str], limit: int | None = MAX_TEXT) -> bytes:
    """The content of a regular file. Raises InputError as `open_file` does."""
    descriptor, size = _opened(path, limit)
    try:
        # By the descriptor, since this is done for every image: a file object would take as long as all checks.
        data = os.read(descriptor, size + 1)
        if len(data) != size:  # a file that grows, of more than 2 GiB, or of unknown size as those of /proc
            parts, done = [data], len(data)
            while (limit is None or done < limit) and (part := os.read(descriptor, max(_BLOCK, size - done))):
                parts.append(part)
                done += len(part)
            data = b"".join(parts)[:limit]
        return data
    except OSError as error:
        raise InputError(f"cannot read {os.fspath(path)}: {error.strerror}") from None
    finally:
        os.close(descriptor)


def first_bytes(path: str | PathLike[str], count: int) -> bytes:
    """The beginning of a regular file of any size; empty where it cannot be read."""
    try:
        with open_file(path) as file:
            return file.read(count)
    except (InputError, OSError):
        return b""


def read_text(
    path: str | PathLike[str], limit: int | None = MAX_TEXT, encoding: str = "utf-8", errors: str = "strict"
) -> str:
    """The text of a regular file. Raises InputError as `open_file` does, and where the bytes are no such text."""
    try:
        return read_bytes(path, limit).decode(encoding, errors)
    except UnicodeDecodeError as error:
        raise InputError(f"cannot read {os.fspath(path)}: {error}") from None


@contextlib.contextmanager
def replacing(path: str | PathLike[str]) -> Iterator[BinaryIO]:
    """A new file to be filled within the block, which then takes the place of `path`, whole or not at all.

    Its `name` is where it lies meanwhile, for libraries that write to paths. Raises InputError where it cannot be
    written; other errors of the block pass, and `path` stays as it was.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name[:200]}.{secrets.token_hex(8)}.partial")
    try:
        descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | _NO_FOLLOW | _BINARY, 0o666)
    except (OSError, ValueError) as error:
        raise _cannot_write(path, error) from None
    mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
    try:
        try:
            os.close(descriptor)
            with open(partial, "rb+") as file:
                yield file
                file.flush()
            with open(partial, "rb+") as file:  # again, since a library may have put another file there
                os.fsync(file.fileno())
            os.chmod(partial, mode)
            os.replace(partial, path)
        except OSError as error:
            raise _cannot_write(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(partial)


def write_bytes(path: str | PathLike[str], data: bytes) -> None:
    """A file with this content, whole or not at all. Raises InputError where it cannot be written."""
    with replacing(path) as file:
        file.write(data)


def write_text(path: str | PathLike[str], text: str) -> None:
    """A file with this text in UTF-8. File names that are in no encoding come as lone surrogates, and are escaped.

    Raises InputError where it cannot be written.
    """
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def append(path: str | PathLike[str], text: str) -> None:
    """More text at the end of a file, made where there is none. Raises InputError for a link or anything irregular."""
    with _open_in_place(path, os.O_WRONLY | os.O_APPEND, "ab") as file:
        try:
            file.write(text.encode("utf-8", "backslashreplace"))
            file.flush()
        except OSError as error:
            raise _cannot_write(Path(path), error) from None


def open_lock(path: str | PathLike[str]) -> IO[bytes]:
    """A file to be locked, made where there is none, its content left alone. Raises InputError as `append` does."""
    return _open_in_place(path, os.O_RDWR, "rb+")


def _open_in_place(path: str | PathLike[str], flags: int, mode: str) -> IO[bytes]:
    descriptor = -1
    try:
        descriptor = os.open(path, flags | os.O_CREAT | _NO_FOLLOW | _NO_WAIT | _BINARY, 0o666)
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"cannot write {os.fspath(path)}: it is not a regular file; remove it")
        if status.st_nlink > 1:
            raise InputError(f"cannot write {os.fspath(path)}: the same file has a second name; remove this one")
        return os.fdopen(descriptor, mode)
    except (OSError, ValueError) as error:
        if descriptor >= 0:
            os.close(descriptor)
        if isinstance(error, InputError):
            raise
        if isinstance(error, OSError) and error.errno == errno.ELOOP:
            raise InputError(f"cannot write {os.fspath(path)}: it is a link; remove it") from None
        if isinstance(error, OSError) and error.errno == errno.ENXIO:  # a pipe that nobody reads
            raise InputError(f"cannot write {os.fspath(path)}: it is not a regular file; remove it") from None
        raise _cannot_write(Path(path), error) from None


def make_folder(path: str | PathLike[str]) -> Path:
    """A folder that the user has named, made with those above it where it is not there. Raises InputError."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot make the folder {path}: {_reason(error)}") from None
    return path


def own_folder(parent: Path, name: str) -> Path:
    """The folder that foveal calls so in one that the user has named. Raises InputError where it is a link."""
    folder = parent / name
    if folder.is_symlink():
        raise InputError(
            f"{folder} is a link, and foveal writes through none below the folder that you name; remove it"
        )
    return make_folder(folder)


def check_output(path: str | PathLike[str], inputs: Iterable[Path]) -> None:
    """InputError where writing a file, or into a folder, would put something in the place of an input.

    inputs: files, and folders of files.
    """
    path = Path(path)
    for source in inputs:
        place = source.parent if path.is_dir() and not source.is_dir() else source
        with contextlib.suppress(OSError):
            if os.path.samefile(path, place):
                what = "holds the inputs, which are" if path.is_dir() else "is an input, which is"
                raise InputError(f"{path} {what} not overwritten: write to {_free(path)}")


def _free(path: Path) -> Path:
    """A path like this one at which there is nothing."""
    path = Path(os.path.abspath(path)) if path.name in ("", "..") else path
    number, stem = 1, f"{path.stem}_out"
    free = path.with_name(f"{stem}{path.suffix}")
    while os.path.lexists(free):
        number += 1
        free = path.with_name(f"{stem}_{number}{path.suffix}")
    return free


def _cannot_write(path: Path, error: Exception) -> InputError:
    return InputError(f"cannot write {path}: {_reason(error)}")


def _reason(error: Exception) -> str:
    """One line on what went wrong."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text.strip().partition("\n")[0] or type(error).__name__
