"""What a measured plan gains over the plain way to run a training step: eager, float32, contiguous.

For each system the plan is chosen as `foveal train --precision auto` chooses it for a long run, from memory layouts,
precisions and compiling. Then the plain way and the chosen one take turns in short blocks of steps.
"""

import functools
from typing import Any

import torch
from common import arguments, machine, paired, report, spread, within

import foveal
from foveal.structures import Batch, Label
from foveal.train.config import TrainConfig, resolve
from foveal.train.plan import Plan, choose
from foveal.train.preview import measure_step
from foveal.train.state import State

TARGETS = {"resnet18": 2.0}  # times the images a second; the others are only not to be slower
SLOWER = 0.97  # what counts as slower, beyond the error of the measurement
# name -> side of the image, images in a batch
SYSTEMS = {
    "resnet18": (64, 32),
    "resnet50": (224, 4),
    "resnet20_cifar": (32, 128),
    "resnet_nano": (16, 32),
    "vit_t_16": (224, 8),
    "vit_nano": (16, 32),
    "lenet": (32, 32),
    "linear_softmax": (16, 32),
}


def seconds(state: State, batch: Batch, plan: Plan) -> float:
    """Of one step with a plan."""
    state.follow(plan)
    return measure_step(state, [plan.batch(batch, state.system.device)])


def main() -> None:
    parser = arguments(__doc__, rounds=7)
    parser.add_argument("names", nargs="*", default=list(SYSTEMS), help=f"default: {' '.join(SYSTEMS)}")
    options = parser.parse_args()
    document: dict[str, Any] = {"machine": machine(), "systems": {}}
    table = [["system", "size", "batch", "plain: images/s", "chosen", "chosen: images/s", "times", "target"]]
    for name in options.names:
        side, count = SYSTEMS[name]
        torch.manual_seed(0)
        system = foveal.create(name, image_size=side)
        labels = torch.randint(0, len(system.labels), (count,))
        images = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8)
        targets = tuple(Label(label) for label in labels)
        batch = Batch(images, targets, *[torch.zeros(count)] * 3)
        settings = TrainConfig(precision="auto", optimizer="sgd", lr=1e-4)
        state = State(system, resolve(settings, {}, name)[0], lambda step: 1.0)
        measure = functools.partial(seconds, state, batch)
        chosen, tried = choose(state.config, measure, steps=10**9)
        times: dict[Plan, list[float]] = {Plan(): [], chosen: []}
        for _ in range(options.rounds):
            for plan, found in times.items():
                found.append(measure(plan))
        ratio = paired(times[Plan()], times[chosen])
        rates = [count / spread(times[plan])["median"] for plan in (Plan(), chosen)]
        target = TARGETS.get(name, SLOWER)
        met = ratio["median"] > target
        document["systems"][name] = {
            "size": side,
            "batch": count,
            "chosen": str(chosen),
            "tried": tried,
            "images_per_second": dict(zip(("plain", "chosen"), rates, strict=True)),
            "ratio": ratio,
            "target": target,
            "met": met,
        }
        said = f"> {target:g} {'met' if met else 'MISSED'}"
        table.append(
            [name, str(side), str(count), f"{rates[0]:.0f}", str(chosen), f"{rates[1]:.0f}", within(ratio), said]
        )
    report(document, [table], as_json=options.json)


if __name__ == "__main__":
    main()
