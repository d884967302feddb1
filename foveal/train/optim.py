"""Optimizers and the course of the learning rate. The update rules are torch's own."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from foveal.errors import InputError
from foveal.system import Player
from foveal.train.config import TrainConfig
from foveal.train.depth import layers


def build_optimizer(player: Player, config: TrainConfig) -> torch.optim.Optimizer:
    """The optimizer of one player. Biases and norm parameters, all of one dimension, are not decayed.

    With `layer_decay` d the l-th of L layers learns at the rate lr d^(L - l), times the player's factor. Raises
    InputError where no parameter takes a gradient, and for betas that the player's factors bring to 1 or more.
    """
    parameters = [parameter for parameter in player.parameters() if parameter.requires_grad]
    if not parameters:
        raise InputError("there is nothing to train: no parameter takes a gradient")
    lr, weight_decay, rates = config.lr * player.lr, config.weight_decay or 0.0, player.rates()
    deep = layers(player.module) if config.layer_decay else [list(player.parameters())]
    groups: list[dict[str, Any]] = []
    for number, layer in enumerate(deep, 1):
        learning = [parameter for parameter in layer if parameter.requires_grad]
        for factor in dict.fromkeys(rates[parameter] for parameter in learning):
            rate = config.lr * factor * (config.layer_decay or 1.0) ** (len(deep) - number)
            alike = [parameter for parameter in learning if rates[parameter] == factor]
            groups.append({"params": [p for p in alike if p.ndim > 1], "lr": rate, "weight_decay": weight_decay})
            groups.append({"params": [p for p in alike if p.ndim <= 1], "lr": rate, "weight_decay": 0.0})
    groups = [group for group in groups if group["params"]]
    betas = config.betas
    if betas and player.betas:
        betas = betas[0] * player.betas[0], betas[1] * player.betas[1]
        if max(betas) >= 1:
            raise InputError(f"betas {config.betas} become {betas} by the factors of a player: set lower ones")
    match config.optimizer:
        case "sgd":
            return torch.optim.SGD(groups, lr, momentum=config.momentum, nesterov=config.nesterov)
        case "adagrad":
            return torch.optim.Adagrad(groups, lr)
        case "rmsprop":
            return torch.optim.RMSprop(groups, lr, alpha=config.decay, momentum=config.momentum)
        case "adam":
            return torch.optim.Adam(groups, lr, betas=betas)
        case "adamw":
            return torch.optim.AdamW(groups, lr, betas=betas)
        case _:
            return torch.optim.LBFGS(parameters, lr, line_search_fn="strong_wolfe")


def schedule(config: TrainConfig, steps_per_epoch: int, epochs: int | None = None) -> Callable[[int], float]:
    """Step number -> factor on the learning rate; what torch's LambdaLR takes.

    epochs: over which the course is to go where these are not those of `config`; warm-up and milestones keep their
            share of it.

    With T steps in all, of which W warm up, and t counted from the end of the warm-up:
    cosine (1 + cos(pi t / (T - W))) / 2; linear 1 - t / (T - W); inverse_sqrt 1 / sqrt(1 + t / steps in an epoch), the
    rule alpha / sqrt(t) counted in epochs; step gamma^(milestones passed).
    """
    epochs = epochs or config.epochs
    total = epochs * steps_per_epoch
    part = epochs / config.epochs
    warm = min(round(config.warmup * part * steps_per_epoch), total - 1)
    if config.milestones is None:
        milestones = [total // 2, total * 3 // 4]
    else:
        milestones = [round(epoch * part * steps_per_epoch) for epoch in config.milestones]

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        t, span = min(step, total - 1) - warm, total - warm  # after the last step, where only trials go, as in it
        match config.schedule:
            case "cosine":
                return (1 + math.cos(math.pi * min(1.0, t / span))) / 2
            case "linear":
                return max(0.0, 1 - t / span)
            case "inverse_sqrt":
                return (1 + t / steps_per_epoch) ** -0.5
            case "step":
                return config.gamma ** sum(step >= milestone for milestone in milestones)
            case _:
                return 1.0

    return factor


def penalty(parameters: Iterable[Tensor], config: TrainConfig) -> dict[str, Tensor]:
    """The L1 and L2 terms of the loss, over weights of two or more dimensions; only those that are asked for."""
    weights = [p for p in parameters if p.requires_grad and p.ndim > 1]
    terms = {}
    if config.l1:
        terms["l1"] = config.l1 * torch.stack([w.abs().sum() for w in weights]).sum()
    if config.l2:
        terms["l2"] = config.l2 / 2 * torch.stack([w.square().sum() for w in weights]).sum()
    return terms
