# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""How much GPU memory training takes, computed on a CPU: what autograd keeps, weights, moments."""
from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Callable, Dict, Iterable

from evit_seg.core.labels import IGNORE_INDEX
from offline_train.config import TrainConfig
from offline_train.models import build_model
from offline_train.objective import Batch, Objective
import torch
from torch import Tensor

COPIES = 6
"""Of all parameters in float32: weights, gradients, two moments, average, AdamW's temporaries."""
ALLOWANCE_GB = 2.0
"""For the CUDA context, workspaces of cuDNN and cuBLAS, gradients on their way; not computed."""


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes that one process of a training run takes on its GPU."""

    activations: int
    """What autograd keeps of the forward pass for the backward pass, whole batch."""
    copies: int
    """COPIES of the parameters."""

    @property
    def total_gb(self) -> float:
        """Return the sum with the allowance, in 10^9 bytes."""
        return (self.activations + self.copies) / 1e9 + ALLOWANCE_GB

    def __str__(self) -> str:
        return (f'computed, not measured on a GPU: {self.activations / 1e9:.2f} GB activations + '
                f'{self.copies / 1e9:.2f} GB weights, gradients, moments, average + '
                f'{ALLOWANCE_GB:.1f} GB allowed for CUDA and workspaces = {self.total_gb:.1f} GB')


def training_memory(config: TrainConfig, classes: int = 14) -> TrainingMemory:
    """
    Return what a run without a teacher takes, one process, `optim.accumulate` parts a step.

    The forward pass runs on the CPU with two and three crops; what it keeps grows linearly.
    """
    with torch.random.fork_rng(devices=[]):  # how many pixels count as hard depends on weights
        torch.manual_seed(config.run.seed)
        network = build_model(config.model, classes, config.input)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    objective = Objective(network, config, torch.ones(classes)).train()
    owned = [*objective.parameters(), *objective.buffers()]
    two, three = (saved_bytes(partial(objective, _crops(config, n)), owned) for n in (2, 3))
    crops = config.optim.batch // config.optim.accumulate
    parameters = sum(p.numel() for p in objective.parameters())
    return TrainingMemory(two + (crops - 2) * (three - two), COPIES * 4 * parameters)


def saved_bytes(forward: Callable[[], object], owned: Iterable[Tensor] = ()) -> int:
    """Return the bytes of the storages that autograd keeps of `forward`, those owned left out."""
    excluded = {tensor.untyped_storage().data_ptr() for tensor in owned}
    sizes: Dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in excluded:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        forward()
    return sum(sizes.values())


def _crops(config: TrainConfig, count: int) -> Batch:
    height, width = config.augment.crop_height, config.augment.crop_width
    stride = config.loss.stride
    target = torch.arange(height // stride * (width // stride)) % 3
    target[::7] = IGNORE_INDEX
    return {'image': torch.full((count, height, width, 3), 127, dtype=torch.uint8),
            'target': target.reshape(1, height // stride, -1).repeat(count, 1, 1).byte()}
