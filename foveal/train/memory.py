"""How much memory a training step takes."""

import weakref
from collections.abc import Iterable, Sequence
from contextlib import suppress

import torch
from torch import Tensor

from foveal.data.loader import Loader
from foveal.errors import InputError
from foveal.memory import check_room
from foveal.nn.trace import twin
from foveal.structures import Batch
from foveal.system import System
from foveal.train.state import State
from foveal.train.step import gradient

# Growth of the resident memory in two steps on a CPU, less gradients and optimizer, by the saved activations: 1.7 with
# resnet18 (16 images of 224 x 224), 1.5 with vit_nano (256 of 16 x 16), 1.5 with retinanet_nano (16 of 96 x 96). Where
# maps have few channels the estimate is low, since convolutions copy them: 3.0 with lenet (1024 of 32 x 32).
WORKING = 0.5
# How many tensors an optimizer keeps for each parameter; L-BFGS a history of 100 pairs.
OPTIMIZER_TENSORS = {"sgd": 1, "adagrad": 1, "rmsprop": 2, "adam": 2, "adamw": 2, "lbfgs": 200}


def training_bytes(system: System, batch: Batch, *, moments: int = 2, ema: bool = False) -> dict[str, int]:
    """Estimated peak memory, in bytes, of training on batches like this one: {"parameters": ..., ..., "total": ...}.

    moments: tensors that the optimizer keeps for each parameter: SGD 0, with momentum 1, Adam 2.
    ema:     an averaged copy of the system is kept.

    "activations" is measured: what one forward pass of the loss, in training mode, saves for its gradient, of the
    player that saves most; parameters and buffers are not among it. Within torch.autocast it is that of mixed
    precision. "working" is what single operations and the gradients of their outputs take besides: WORKING of the
    activations, as measured. The system, its statistics and the random numbers
    are left as they are. Raises InputError for a system without a loss.
    """
    batch = batch.to(system.device).float()
    with (
        torch.random.fork_rng([system.device] if system.device.type == "cuda" else []),
        torch.inference_mode(False),
        torch.enable_grad(),
    ):
        # A loss may change statistics, so the copy has its own; nothing changes parameters without an optimizer.
        copy = twin(system, lambda parameter: parameter, torch.clone).train()
        fixed = {tensor.untyped_storage().data_ptr() for tensor in [*copy.parameters(), *copy.buffers()]}
        activations = max(_saved_bytes(copy, batch, player, fixed) for player in copy.players)
    parameters, buffers = _size_of(system.parameters()), _size_of(system.buffers())
    gradients = _size_of(parameter for parameter in system.parameters() if parameter.requires_grad)
    parts = {
        "parameters": parameters,
        "buffers": buffers,
        "gradients": gradients,
        "optimizer": moments * gradients,
        "ema": (parameters + buffers) if ema else 0,
        "activations": activations,
        "working": round(WORKING * activations),
    }
    return parts | {"total": sum(parts.values())}


def check_memory(state: State, loader: Loader) -> list[str]:
    """Lines of warning about the memory that a run will take, before its first step; the state stays as it was.

    The activations of a few images, of one step of each player, are measured, and more images take more in
    proportion. There is no estimate of a system that is fitted by a rule of its own.
    Raises InputError where the memory available is less, which says what batch size fits.
    """
    system, config, ranks = state.system, state.config, state.ranks
    if config.memory == "ignore" or config.shard or not state.optimizers:  # what lies in shards cannot be copied
        return []
    count = -(-loader.batch_size // ranks.size)
    found: dict[int, tuple[dict[str, int], Batch]] = {}
    for images in sorted({min(2, count), min(4, count)}):
        batch = loader.few(images)
        if batch is None:  # the run will meet what is wrong, and say so
            return []
        with suppress(Exception), state.plan.evaluating(), state.plan.autocast(system.device):
            kept = OPTIMIZER_TENSORS[config.optimizer]
            found[len(batch)] = training_bytes(system, batch.to(system.device).float(), moments=kept), batch
    if not found:
        return []
    (parts, batch), most = found[max(found)], max(found)
    activations = [one["activations"] + one["working"] for one, _ in found.values()]
    each = (activations[-1] - activations[0]) // (most - min(found)) if len(found) > 1 else activations[0] // most
    each, pixels = max(0, each), batch.images.nbytes // most
    fixed = max(0, activations[-1] - most * each) + parts["gradients"] + parts["optimizer"]
    fixed += parts["parameters"] + parts["buffers"]  # the preview keeps a copy
    floats = 2 * 4 * batch.images[0].numel()  # before and after augmentation
    needed = {torch.device("cpu"): (0, loader.held * pixels)}
    before = needed.get(system.device, (0, 0))
    needed[system.device] = before[0] + fixed, before[1] + each + floats

    def advice(fitting: int) -> str:
        size = fitting * ranks.size
        batches = -(-loader.batch_size * config.accumulate // size)
        return f"set --batch-size {size} --accumulate {batches} for the same step"

    what = f"a step of {count:,} {'image' if count == 1 else 'images'}"
    return check_room(needed, count, what, advice, ranks.neighbours)


class _Saved:
    """A tensor that waits for the backward pass."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor.detach()  # the tensor itself would hold the graph that holds it


def _saved_bytes(system: System, batch: Batch, player: str, fixed: set[int]) -> int:
    waiting: weakref.WeakSet[_Saved] = weakref.WeakSet()

    def pack(tensor: Tensor) -> _Saved:
        saved = _Saved(tensor)
        waiting.add(saved)
        return saved

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved.tensor):
        terms = system.loss(batch, player)
    storages = {s.data_ptr(): s.nbytes() for s in (saved.tensor.untyped_storage() for saved in waiting)}
    del terms  # held the graph, and so the tensors, until here
    return sum(size for place, size in storages.items() if place not in fixed)


def _size_of(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def explain_failure(error: Exception, state: State, batches: Sequence[Batch]) -> Exception:
    """The error itself; or, where a smaller or larger batch would do, one that says which, found by trying."""
    if "more than 1 value per channel" in str(error):
        return InputError(
            f"batch normalisation cannot learn from one value a channel: set batch_size above {len(batches[0])}, or "
            "take a larger image_size"
        )
    if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
        return error
    size = len(batches[0])
    if state.ranks.size > 1:  # trying out would take all processes, and only one may have come here
        fewer = size // 2 * state.ranks.size
        if not fewer:
            return InputError(
                "out of memory with a single image a process: take a smaller image_size or system, or shard"
            )
        return InputError(
            f"out of memory with {size} images a process; set --batch-size {fewer} "
            f"--accumulate {-(-size * state.ranks.size * len(batches) // fewer)}, take more processes, or --shard"
        )
    fitting = size // 2
    while fitting and not _fits(state, batches[0], fitting):
        fitting //= 2
    if not fitting:
        return InputError(f"out of memory with a single image: take a smaller image_size or system, not {size} images")
    return InputError(
        f"out of memory with batch_size {size}: {fitting} fits; set --batch-size {fitting} "
        f"--accumulate {-(-size * len(batches) // fitting)} for the same step"
    )


def _fits(state: State, batch: Batch, count: int) -> bool:
    """Whether the gradient of so many of the images can be computed."""
    state.system.zero_grad()
    few = state.plan.batch(batch.first(count), state.system.device)
    try:
        for player in state.system.players:
            gradient(state, player, [few], {})
    except (torch.OutOfMemoryError, RuntimeError):
        return False
    return True
