"""How much faster an image is made pixel by pixel when what earlier pixels computed is kept.

Grey images of 28 x 28 pixels by the networks of the nano variants with random weights, on all cores. The arms take
turns, with the same random numbers, and have to give the same images to the last bit:

naive   the whole network for each pixel, of whose answers one pixel's are looked at
cached  what the new pixel adds to each layer; and the whole network where a drawn number lies so near to the border
        between two levels that rounding could decide, as happens most often where all levels are as probable, as here
"""

import time
from typing import Any

import torch
from common import arguments, machine, paired, report, spread, within

import foveal
from foveal.generate import autoregressive

NAMES = ("pixelcnn_nano", "gated_pixelcnn_nano", "pixelrnn_row_nano", "pixelrnn_diagonal_nano")
SIDE = 28
TARGET = 10.0  # times faster than the naive loop


def timed(system: Any, count: int, seed: int, *, cached: bool) -> tuple[float, torch.Tensor]:
    """(seconds, images)."""
    draw = torch.Generator().manual_seed(seed)
    started = time.perf_counter()
    images = system.sample(count, generator=draw, cached=cached)
    return time.perf_counter() - started, images


def main() -> None:
    parser = arguments(__doc__, rounds=2)
    parser.add_argument("--count", type=int, default=4, help="images that are made together (default 4)")
    parser.add_argument("--names", nargs="+", default=NAMES, help="systems (default: all)")
    options = parser.parse_args()
    document: dict[str, Any] = {"machine": machine(), "count": options.count, "systems": {}}
    table = [["system", "naive: seconds", "cached: seconds", "times (min-max)", "asked twice", "target"]]
    whole = autoregressive._whole
    for name in options.names:
        torch.manual_seed(0)
        system = foveal.create(name, image_size=SIDE)
        clock: dict[str, list[float]] = {"naive": [], "cached": []}
        asked = 0

        def counted(*given: Any) -> torch.Tensor:
            nonlocal asked
            asked += 1
            return whole(*given)

        system.sample(1, generator=torch.Generator().manual_seed(0))  # warms up
        for seed in range(options.rounds):
            autoregressive._whole = counted
            seconds, fast = timed(system, options.count, seed, cached=True)
            autoregressive._whole = whole
            clock["cached"].append(seconds)
            seconds, slow = timed(system, options.count, seed, cached=False)
            clock["naive"].append(seconds)
            if not torch.equal(fast, slow):
                raise SystemExit(f"{name}: the images differ")
        ratio = paired(clock["naive"], clock["cached"])
        share = asked / (options.rounds * SIDE**2)
        document["systems"][name] = {
            "seconds": {arm: spread(values) for arm, values in clock.items()},
            "ratio": ratio,
            "asked_twice": share,
            "target": TARGET,
            "met": ratio["median"] > TARGET,
        }
        row = [name, *(f"{spread(clock[arm])['median']:.2f}" for arm in ("naive", "cached")), within(ratio, 1)]
        table.append([*row, f"{share:.1%}", f"> {TARGET:g} {'met' if ratio['median'] > TARGET else 'MISSED'}"])
    report(document, [table], as_json=options.json)


if __name__ == "__main__":
    main()
