# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
What is minimised: the loss on the labels, distillation terms, the cost of what gates leave open.

Student, adapters, gates and terms are one module, so that several processes can share a step.
"""
from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Dict, Optional

from offline_train.compression.fake_quant import FakeQuantizer
from offline_train.compression.gates import Gates, open_gates
from offline_train.config import TrainConfig
from offline_train.distillation.cache import CachedLogits
from offline_train.distillation.feature_terms import Generation, Mimic
from offline_train.distillation.logit_terms import (
    channel_wise,
    dist,
    kl_divergence,
    logit_mse,
)
from offline_train.distillation.taps import FeatureTap
from offline_train.distillation.teacher import feature_network, normalise, Teacher
from offline_train.losses import training_loss
import torch
from torch import nn, Tensor

Batch = Dict[str, Tensor]
"""image (N, h, w, 3), target (N, h / s, w / s), frame (N,), window (N, 6): see CropDataset."""


@dataclass(frozen=True)
class Lesson:
    """The teacher, its cached answers if there are some, and its feature maps."""

    teacher: Teacher
    cache: Optional[CachedLogits] = None

    def logits(self, batch: Batch) -> Tensor:
        """Return the teacher's logits for the crops of a batch."""
        if self.cache is None:
            return self.teacher.logits(batch['image'])
        height, width = batch['image'].shape[1:3]
        found = self.cache.crops(batch['frame'], batch['window'], (height, width))
        return found.to(batch['image'].device)


class Objective(nn.Module):
    """
    The student with its loss: a batch in, every term and their weighted sum `loss` out.

    Terms with weight 0 are not computed. `lesson` is None without a teacher. ConfigError where a
    network has no feature map of the wanted stride.
    """

    def __init__(self, network: nn.Module, config: TrainConfig, weights_C: Tensor,
                 lesson: Optional[Lesson] = None) -> None:
        super().__init__()
        self.network = network
        self.adapters = nn.ModuleDict()
        self.weights_C: Tensor
        self.register_buffer('weights_C', weights_C, persistent=False)
        self._config = config
        self._lesson = lesson
        self._taps: Dict[str, FeatureTap] = {}
        self._teacher_taps: Dict[str, FeatureTap] = {}
        distil = config.distil
        if lesson is not None:
            for name, weight, stride in (('mimic', distil.mimic, distil.mimic_stride),
                                         ('generation', distil.generation,
                                          distil.generation_stride)):
                if weight > 0:
                    self._add_feature_term(name, stride, lesson.teacher)
        # Last: a copy of the network, as the taps make one, would take the gates' hooks along.
        self.gates: Optional[Gates] = open_gates(network, config)
        self.quantizer: Optional[FakeQuantizer] = FakeQuantizer(
            network, config.quant, config.optim.steps) if config.quant.enabled else None

    def _add_feature_term(self, name: str, stride: int, teacher: Teacher) -> None:
        tap = FeatureTap(self.network, stride)
        teacher_tap = FeatureTap(feature_network(teacher), stride)
        self._taps[name], self._teacher_taps[name] = tap, teacher_tap
        if name == 'mimic':
            self.adapters[name] = Mimic(tap.channels, teacher_tap.channels)
        else:
            self.adapters[name] = Generation(tap.channels, teacher_tap.channels,
                                             self._config.distil.generation_mask)

    def train(self, mode: bool = True) -> Objective:
        """Switch to training; frozen BatchNorm layers stay in eval mode."""
        super().train(mode)
        if mode and self._config.optim.freeze_batch_norm:
            for module in self.network.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def forward(self, batch: Batch) -> Dict[str, Tensor]:
        """Return the scalar terms of a batch, 'loss' among them."""
        bf16 = self._config.optim.precision == 'bf16'
        image = batch['image']
        if self.gates is not None:
            self.gates.draw()
        rounding = nullcontext() if self.quantizer is None else self.quantizer.active()
        with torch.autocast(image.device.type, torch.bfloat16, enabled=bf16), rounding:
            outputs = self.network(normalise(image, self._config.input))
        logits = outputs if isinstance(outputs, Tensor) else outputs[0]
        terms: Dict[str, Tensor] = {}
        weights: Dict[str, float] = {}
        if self._config.distil.labels > 0 or self._lesson is None:
            terms['labels'] = training_loss(outputs, batch['target'], self.weights_C,
                                            self._config.loss)
            weights['labels'] = self._config.distil.labels if self._lesson else 1.0
        if self._lesson is not None:
            self._add_lesson(logits, self._lesson.logits(batch), terms, weights)
        if self.gates is not None:
            terms['gates'], weights['gates'] = self.gates.open_cost(), self._config.gates.weight
        total = sum((weights[name] * terms[name] for name in terms), logits.new_zeros(()))
        return {'loss': total, **terms}

    def _add_lesson(self, logits: Tensor, wanted: Tensor, terms: Dict[str, Tensor],
                    weights: Dict[str, float]) -> None:
        """Add the terms of the teacher, whose logits are `wanted` and who has just seen them."""
        distil = self._config.distil
        if distil.mse > 0:
            terms['mse'], weights['mse'] = logit_mse(logits, wanted), distil.mse
        if distil.kl > 0:
            terms['kl'] = kl_divergence(logits, wanted, distil.kl_temperature)
            weights['kl'] = distil.kl
        if distil.cwd > 0:
            terms['cwd'] = channel_wise(logits, wanted, distil.cwd_temperature)
            weights['cwd'] = distil.cwd
        if distil.dist > 0:
            terms['dist'], weights['dist'] = dist(logits, wanted), distil.dist
        for name, adapter in self.adapters.items():
            seen = self._teacher_taps[name].pop()
            terms[name] = adapter(self._taps[name].pop().float(), seen.float())
            weights[name] = getattr(distil, name)
