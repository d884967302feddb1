"""The cost of the checks on image files (docs/security.md), as a share of reading one: a photograph and a small PNG.

Per image these are: the file is opened without waiting and its kind and size are looked at (foveal/filesystem.py), its
pixels are counted, and those of a JPEG's scans. The arms take turns in one process, in processor time.

checks   bytes of a file by filesystem.read_bytes, and the scans counted
plain    bytes of a file by open(path, "rb").read()
read     the whole of read_image, checks included
"""

import io
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import arguments, machine, report, spread, verdict, within
from PIL import Image
from sklearn.datasets import load_sample_images

from foveal.data.image import MAX_FILE, MAX_PIXELS, MAX_SCANNED, SCANS, _scans, read_image
from foveal.filesystem import read_bytes

TARGET = 1.0  # percent
EACH = 200  # times that an arm does its work before the next one's turn


def checks(path: str, width: int, height: int) -> bool:
    data = read_bytes(path, MAX_FILE)
    many = path.endswith(".jpg") and (scans := _scans(data)) > SCANS and scans * width * height > MAX_SCANNED
    return width * height > MAX_PIXELS or many


def plain(path: str, width: int, height: int) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def read(path: str, width: int, height: int) -> Any:
    return read_image(path)


def seconds(work: Callable[[str, int, int], Any], path: str, size: tuple[int, int]) -> float:
    """Processor time of one call."""
    started = time.process_time()
    for _ in range(EACH):
        work(path, *size)
    return (time.process_time() - started) / EACH


def shares(path: str, rounds: int) -> dict[str, Any]:
    """Microseconds of each arm, and the percentage of `read` by which `checks` exceeds `plain` in the same round."""
    with Image.open(io.BytesIO(plain(path, 0, 0))) as image:
        size = image.size
    times = [tuple(seconds(work, path, size) for work in (checks, plain, read)) for _ in range(rounds + 1)][1:]
    columns = dict(zip(("checks", "plain", "read"), zip(*times, strict=True), strict=True))
    percent = spread([100 * (one - other) / whole for one, other, whole in times])
    return {"percent": percent, **{name: spread([1e6 * value for value in column]) for name, column in columns.items()}}


def main() -> None:
    options = arguments(__doc__, 15).parse_args()
    document: dict[str, Any] = {"machine": machine()}
    photograph = Image.fromarray(load_sample_images().images[0][:375, :500])
    with tempfile.TemporaryDirectory() as folder:
        for name, image in (("500x375.jpg", photograph), ("32x32.png", photograph.resize((32, 32)))):
            path = Path(folder) / name
            image.save(path, quality=90)
            document[name] = shares(str(path), options.rounds)
    table = [("file", "checks us", "plain us", "read us", "checks - plain, % of read", "target")]
    for name in ("500x375.jpg", "32x32.png"):
        arms = [within(document[name][arm], 1) for arm in ("checks", "plain", "read")]
        percent = document[name]["percent"]
        target = verdict(percent["median"], TARGET if name.endswith(".jpg") else None)
        table.append((name, *arms, within(percent), target))
    report(document, [table], as_json=options.json)


if __name__ == "__main__":
    main()
