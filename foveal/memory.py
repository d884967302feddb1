"""How much memory there is for a run or a prediction, and whether it is enough: a process that takes more than the
machine or its container has is killed by the system without a word."""

import contextlib
import math
from collections.abc import Callable
from pathlib import Path

import torch

from foveal.cost import Cost, cost
from foveal.errors import InputError
from foveal.filesystem import read_text
from foveal.system import System

TIGHT = 0.8  # of the memory available, from which on a line warns
MOST = 2**16  # bytes of a file in /proc and /sys
OVERRIDE = "--memory ignore starts all the same"


def available(device: torch.device, root: Path = Path("/")) -> int | None:
    """Bytes that this process can still take on a device; None where the system does not say.

    On the CPU the least of: memory and swap that are free or can be freed, what the control groups of this process
    (versions 1 and 2) leave, and what its limit of address space leaves. root: where /proc and /sys are.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type != "cpu":
        return None
    found = [_of_machine(root), *_of_groups(root), _of_limit(root)]
    return min((max(0, one) for one in found if one is not None), default=None)


def check_room(
    needed: dict[torch.device, tuple[int, int]],
    count: int,
    what: str,
    advice: Callable[[int], str],
    sharing: int = 1,
) -> list[str]:
    """A line of warning for each device whose memory is tight.

    needed:  device -> bytes that do not depend on the number of images, bytes for each image.
    count:   images in memory together, of which `what` speaks.
    advice:  what to do, by the number of images that fits.
    sharing: how many processes share the memory of the CPU.

    Raises InputError where the estimate is above what is available; the text says how many images fit.
    """
    lines = []
    for device, (fixed, each) in needed.items():
        have = available(device)
        if have is None:
            continue
        if device.type == "cpu":
            have //= sharing
        total, where = fixed + count * each, "memory" if device.type == "cpu" else f"memory of {device}"
        said = f"{what} is estimated to take {size_of(total)} more {where}, and {size_of(have)} is available"
        if total > have:
            fitting = min(count - 1, (have - fixed) // max(1, each))
            how = advice(fitting) if fitting > 0 else "not one image fits: take a smaller image size or system"
            raise InputError(f"{said}: {how}; {OVERRIDE}")
        if total > TIGHT * have:
            lines.append(f"memory is tight: {said}")
    return lines


def check_answering(system: System, count: int) -> list[str]:
    """Lines of warning about the memory of a forward pass over so many images of the system's size. Raises InputError
    where the estimate is above what is available."""
    try:
        each = answering_bytes(cost(system))
    except InputError:  # it takes no image of its own size, which the forward pass will say
        return []
    pixels = 4 * 3 * math.prod(system.preprocess.size)
    what = f"{system.name or type(system).__name__} on {count:,} {'image' if count == 1 else 'images'}"
    return check_room({system.device: (0, each + 2 * pixels)}, count, what, "set --batch-size {}".format)


def answering_bytes(found: Cost) -> int:
    """Estimated peak of the memory of a forward pass without gradient, in bytes for one image, besides the weights.

    Twice the largest output of a layer with that of the layer before it, since branches hold others, and with the
    attention matrices of that layer.
    """
    sizes = [0, *(layer.activation_bytes + 4 * layer.attention_elements for layer in found.layers)]
    return 2 * max(one + other for one, other in zip(sizes, [*sizes[1:], 0], strict=True))


def size_of(count: int) -> str:
    """1.2 GiB, 34 MiB or 5 KiB."""
    if count >= 2**30:
        return f"{count / 2**30:.1f} GiB"
    return f"{count / 2**20:.0f} MiB" if count >= 2**20 else f"{count / 2**10:.0f} KiB"


def _of_machine(root: Path) -> int | None:
    lines = dict(line.split(":", 1) for line in _read(root / "proc/meminfo").splitlines() if ":" in line)
    kilobytes = [int(lines[name].split()[0]) for name in ("MemAvailable", "SwapFree") if name in lines]
    return 1024 * sum(kilobytes) if "MemAvailable" in lines else None


def _of_groups(root: Path) -> list[int]:
    """What each control group of this process leaves, and each group above it."""
    found = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            mount, limit, usage, reclaimable = "", "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            mount, limit, usage = "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            reclaimable = "total_inactive_file"
        else:
            continue
        # In a container the path may be the host's, and only the top of it be mounted.
        place = root / "sys/fs/cgroup" / mount
        for part in ("", *Path(path.lstrip("/")).parts):
            place = place / part
            most, used = _number(_read(place / limit)), _number(_read(place / usage))
            if most is None or used is None:
                continue
            stat = dict(line.split() for line in _read(place / "memory.stat").splitlines() if len(line.split()) == 2)
            found.append(most - used + int(stat.get(reclaimable, 0)))
    return found


def _of_limit(root: Path) -> int | None:
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    pages = _read(root / "proc/self/statm").split()
    if limit == resource.RLIM_INFINITY or not pages:
        return None
    return limit - int(pages[0]) * resource.getpagesize()


def _number(text: str) -> int | None:
    return int(text) if text.strip().isdigit() else None  # "max" is no limit


def _read(path: Path) -> str:
    with contextlib.suppress(InputError):
        return read_text(path, MOST)  # the buffer of a read is as large as its limit
    return ""
