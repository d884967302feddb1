"""Writes foveal/sizes.txt, which `foveal list` shows: image size, parameters and packaged weights of each system.

Run it after a system is added or changed; tests/test_sizes.py compares the file with the systems.
"""

from pathlib import Path

import foveal
from foveal.build import measured_size
from foveal.catalog import ENTRIES

if __name__ == "__main__":
    lines = ["\t".join([name, *map(str, measured_size(name))]) + "\n" for name in ENTRIES]
    (Path(foveal.__file__).parent / "sizes.txt").write_text("".join(lines), encoding="utf-8")
