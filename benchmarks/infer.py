"""What a network's answer costs: foveal's fastest way beside torchvision or timm, ONNX Runtime and OpenVINO.

The same architecture at 224 pixels, in turns. Norm statistics are measured on noise first: with those of a start the
signal fades to denormal numbers, which are slow. ONNX Runtime has no bfloat16 on a CPU; it takes part where onnx,
onnxscript and onnxruntime are installed.
"""

import functools
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torchvision
from common import arguments, machine, paired, report, spread, within

import foveal
from foveal.accelerate import openvino_model

PEERS = {
    "resnet50": ("torchvision", functools.partial(torchvision.models.resnet50, weights=None)),
    "mobilenet_v2": ("torchvision", functools.partial(torchvision.models.mobilenet_v2, weights=None)),
    "vit_s_16": ("timm", functools.partial(timm.create_model, "vit_small_patch16_224")),
}
BATCHES = (1, 16)
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
FASTER = {"float32": 1.5, "bfloat16": 3.0}  # than the peer, eager in float32, at batch 1
WAYS = ("eager", "folded", "channels_last", "openvino")  # compiling takes minutes here, and was slower than eager
OPENVINO = 1.15  # times its time at equal precision
BLOCK = 0.5  # seconds that each runs in a round

Answer = Callable[[], Any]


def settle(network: torch.nn.Module, side: int = 224) -> None:
    """Give the norms the statistics of noise, so that signals keep their size."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the mean of all batches
    with torch.no_grad():
        for _ in range(2):
            network.train()(torch.rand(8, 3, side, side))
    network.eval()


def contenders(name: str, batch: int, precision: str, folder: Path) -> tuple[dict[str, Answer], str]:
    """Who takes part, each as a function without arguments; and the way that foveal chose."""
    package, build = PEERS[name]
    images = torch.rand(batch, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    theirs, ours = build(), foveal.create(name)
    settle(theirs)
    settle(ours)
    chosen = foveal.accelerate(ours, batch, precision, WAYS)
    compiled = openvino_model(theirs, images, precision)
    numbers = images.numpy()
    answers: dict[str, Answer] = {
        f"{package} eager float32": functools.partial(theirs, images),
        "foveal eager float32": functools.partial(ours, images),
        "foveal": functools.partial(chosen.system, images),
        "openvino": functools.partial(compiled, numbers),
    }
    without = foveal.accelerate(ours, batch, precision, WAYS[:-1])
    answers["foveal, torch alone"] = functools.partial(without.system, images)
    if precision == "float32" and find_spec("onnxscript") and find_spec("onnxruntime"):
        import onnxruntime

        file = folder / f"{name}-{batch}.onnx"
        torch.onnx.export(theirs, (images,), file, dynamo=True, verbose=False)
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        answers["onnxruntime"] = functools.partial(session.run, None, {session.get_inputs()[0].name: numbers})
    if precision != "float32":
        typed = build().eval().to(PRECISIONS[precision])
        typed.load_state_dict(theirs.state_dict())
        answers[f"{package} eager {precision}"] = functools.partial(typed, images.to(PRECISIONS[precision]))
    return answers, f"{chosen.way}; torch alone: {without.way}"


def seconds(answer: Answer) -> float:
    """The shortest answer in a block."""
    times: list[float] = []
    while sum(times) < BLOCK or len(times) < 3:
        started = time.perf_counter()
        answer()
        times.append(time.perf_counter() - started)
    return float(np.min(times))


def main() -> None:
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("names", nargs="*", default=list(PEERS), help=f"default: {' '.join(PEERS)}")
    parser.add_argument("--batches", type=int, nargs="*", default=BATCHES, help="images at once (default 1 16)")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    document: dict[str, Any] = {"machine": machine(), "figures": []}
    table = [["system", "batch", "precision", "who", "ms", "times the peer's speed", "targets"]]
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        for name in options.names:
            for batch in options.batches:
                for precision in PRECISIONS:
                    answers, way = contenders(name, batch, precision, Path(folder))
                    times: dict[str, list[float]] = {who: [] for who in answers}
                    for _ in range(options.rounds):
                        for who, answer in answers.items():
                            times[who].append(seconds(answer))
                    peer = times[f"{PEERS[name][0]} eager float32"]
                    for who, found in times.items():
                        ratio = paired(peer, found)
                        said = ""
                        if who == "foveal":
                            beside = paired(found, times["openvino"])["median"]
                            said = f"{way}; {beside:.2f} of OpenVINO's time, < {OPENVINO} "
                            said += "met" if beside < OPENVINO else "MISSED"
                            if batch == 1:
                                target = FASTER[precision]
                                said += f"; > {target} {'met' if ratio['median'] > target else 'MISSED'}"
                        row = {"system": name, "batch": batch, "precision": precision, "who": who, "ratio": ratio}
                        document["figures"].append({**row, "seconds": spread(found), "said": said})
                        milliseconds = f"{1000 * spread(found)['median']:.1f}"
                        table.append([name, str(batch), precision, who, milliseconds, within(ratio), said])
    report(document, [table], as_json=options.json)


if __name__ == "__main__":
    main()
