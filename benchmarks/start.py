"""How long one waits for help, for the import and for a first system, in units of `import torch`.

Each command runs in a fresh process, all of them in turn in every round, and is compared with the `import torch` of its
own round. One round before the first fills the caches: files in memory, modules compiled, as an installer leaves them.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from common import arguments, machine, paired, report, spread, verdict, within

UNIT = "import torch"
COMMANDS = {
    UNIT: ["-c", "import torch"],
    "foveal --help": [str(Path(sys.executable).with_name("foveal")), "--help"],
    "foveal list": [str(Path(sys.executable).with_name("foveal")), "list"],
    "import foveal": ["-c", "import foveal"],
    'foveal.create("resnet18")': ["-c", "import foveal; foveal.create('resnet18')"],
    "import torchvision": ["-c", "import torchvision"],
    "torchvision.models.resnet18()": ["-c", "import torchvision; torchvision.models.resnet18()"],
    "import timm": ["-c", "import timm"],
    'timm.create_model("resnet18")': ["-c", "import timm; timm.create_model('resnet18')"],
}
TARGETS = {"foveal --help": 0.2, "import foveal": 0.1, 'foveal.create("resnet18")': 1.3}


def installed() -> dict[str, list[str]]:
    """The commands whose package is there."""
    missing = [peer for peer in ("torchvision", "timm") if find_spec(peer) is None]
    return {name: words for name, words in COMMANDS.items() if not any(peer in name for peer in missing)}


def run(words: list[str], folder: str) -> tuple[float, float]:
    """(seconds of the clock, seconds of processor time) of `python WORDS` in a fresh process."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = str(Path(folder, "bytecode"))
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *words], cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    options = arguments(__doc__, rounds=7).parse_args()
    commands = installed()
    clock: dict[str, list[float]] = {name: [] for name in commands}
    processor: dict[str, list[float]] = {name: [] for name in commands}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.rounds + 1):
            for name, words in commands.items():
                seconds, worked = run(words, folder)
                if number > 0:
                    clock[name].append(seconds)
                    processor[name].append(worked)

    document: dict[str, dict] = {"machine": machine(), "commands": {}}
    table = [["command", "seconds", f"of `{UNIT}` (min-max)", "processor time", "target"]]
    for name in commands:
        ratio, share = paired(clock[name], clock[UNIT]), paired(processor[name], processor[UNIT])
        target = TARGETS.get(name)
        document["commands"][name] = {"seconds": spread(clock[name]), "ratio": ratio, "processor_ratio": share}
        if target is not None:
            document["commands"][name] |= {"target": target, "met": ratio["median"] < target}
        middle = f"{spread(clock[name])['median']:.3f}"
        table.append([name, middle, within(ratio), within(share), verdict(ratio["median"], target)])
    report(document, [table], as_json=options.json)


if __name__ == "__main__":
    main()
