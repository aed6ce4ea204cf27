# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What a step changes and a checkpoint holds: student, its average, optimiser, step, guard."""
from __future__ import annotations

from contextlib import nullcontext
import math
from typing import Any, Dict, List

from accelerate import Accelerator
from evit_seg.core.errors import ConfigError
from offline_train.compression.gates import fold_gates
from offline_train.config import OptimConfig, TrainConfig
from offline_train.distillation.guard import DivergenceGuard, TrainingDiverged
from offline_train.objective import Batch, Objective
from offline_train.run_dir import RunDir
from offline_train.surgery.cuts import Cut
import torch
from torch import nn, Tensor

DISTRIBUTED_SEED_STEP = 1_000_003


class TrainingState:
    """
    Objective, averaged student, optimiser and step, on one process or one of several.

    What is scored and later exported is the moving average of the student's weights (Polyak and
    Juditsky 1992).
    """

    def __init__(self, objective: Objective, config: TrainConfig,
                 accelerator: Accelerator) -> None:
        self.step = 0
        self._config = config
        self._accelerator = accelerator
        self._objective = objective.to(accelerator.device)
        objective.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._average = {k: v.detach().clone() for k, v in self.network.state_dict().items()}
        self._names = {id(p): name for name, p in objective.named_parameters()}
        self._optimiser = torch.optim.AdamW(_groups(objective, config),
                                            lr=config.optim.learning_rate)
        self._guard = DivergenceGuard(config.distil.kl_limit) \
            if config.distil.kl > 0 else None
        self._wrapped = accelerator.prepare_model(self._objective)

    @property
    def network(self) -> nn.Module:
        """Return the student."""
        return self._objective.network

    def update(self, batch: Batch) -> Dict[str, float]:
        """
        Make one step on this process's part of the batch; return the terms, mean over all.

        TrainingDiverged when the loss is no number, or the KL term left its way.
        """
        config = self._config.optim
        self._wrapped.train()
        rate = learning_rate(self.step, config)
        for group in self._optimiser.param_groups:
            group['lr'] = rate * group['factor']
        # Dropout and masks depend on the step alone, so a resumed run draws what it would have.
        torch.manual_seed((self._config.run.seed * DISTRIBUTED_SEED_STEP + self.step)
                          * self._accelerator.num_processes + self._accelerator.process_index)
        if self._objective.quantizer is not None:
            self._objective.quantizer.at_step(self.step)
        self._optimiser.zero_grad(set_to_none=True)
        sums: Dict[str, Tensor] = {}
        parts = _split(batch, config.accumulate)
        for number, part in enumerate(parts):
            alone = self._accelerator.no_sync(self._wrapped) if number < len(parts) - 1 \
                else nullcontext()
            with alone:
                terms = self._wrapped(part)
                self._accelerator.backward(terms['loss'] / len(parts))
            for name, value in terms.items():
                sums[name] = sums.get(name, value.new_zeros(())) + value.detach() / len(parts)
        nn.utils.clip_grad_norm_(self._objective.parameters(), config.clip_norm)
        self._optimiser.step()
        self.step += 1
        self._update_average(config.ema_decay)
        means = self._accelerator.reduce(torch.stack(list(sums.values())), reduction='mean')
        return self._checked(dict(zip(sums, means.tolist(), strict=True)))

    def _checked(self, terms: Dict[str, float]) -> Dict[str, float]:
        if self._guard is not None and 'kl' in terms:
            self._guard.feed(terms['kl'], self.step)
        if not math.isfinite(terms['loss']):
            raise TrainingDiverged(
                f'the loss of step {self.step} is {terms["loss"]} ({terms}): lower '
                f'optim.learning_rate ({self._config.optim.learning_rate})')
        return terms

    @torch.no_grad()
    def _update_average(self, decay: float) -> None:
        """Move the average towards the weights; it starts fast so that it forgets the start."""
        decay = min(decay, (1 + self.step) / (10 + self.step))
        for name, value in self.network.state_dict().items():
            if value.is_floating_point():
                self._average[name].lerp_(value, 1 - decay)
            else:
                self._average[name].copy_(value)

    def average(self) -> Dict[str, Tensor]:
        """Return the averaged weights and running statistics."""
        return self._average

    def closed_cuts(self, network: nn.Module) -> List[Cut]:
        """Fold the open gates into a network and return the cuts of the closed; [] without any."""
        gates = self._objective.gates
        return [] if gates is None else fold_gates(network, gates.values())

    def tensors(self) -> Dict[str, Tensor]:
        """Return everything a resumed run needs, by dotted names."""
        tensors = {f'model.{k}': v for k, v in self.network.state_dict().items()}
        tensors.update({f'ema.{k}': v for k, v in self._average.items()})
        tensors.update({f'adapters.{k}': v
                        for k, v in self._objective.adapters.state_dict().items()})
        if self._objective.gates is not None:
            tensors.update({f'gates.{k}': v
                            for k, v in self._objective.gates.state_dict().items()})
        if self._objective.quantizer is not None:
            tensors.update({f'quant.{k}': v
                            for k, v in self._objective.quantizer.state_dict().items()})
        for parameter, moments in self._optimiser.state.items():
            name = self._names[id(parameter)]
            tensors.update({f'optim.{name}.{k}': v for k, v in moments.items()})
        if self._guard is not None:
            tensors['guard.kl'] = self._guard.state()
        return tensors

    def start_from(self, run: RunDir) -> None:
        """Take the averaged weights of another run; step, schedule and moments start anew."""
        weights = run.load_checkpoint().part('ema')
        try:
            self.network.load_state_dict(weights)
        except RuntimeError as error:
            raise ConfigError(f'model.initial: {run.path} holds another network than model.name '
                              f'and model.widths say: {error}') from error
        self._average = {k: v.detach().clone() for k, v in self.network.state_dict().items()}

    def load(self, run: RunDir) -> None:
        """Continue from the latest checkpoint of a run."""
        checkpoint = run.load_checkpoint()
        device = self._accelerator.device
        self.step = checkpoint.step
        self.network.load_state_dict(checkpoint.part('model'))
        self._average = {k: v.to(device) for k, v in checkpoint.part('ema').items()}
        self._objective.adapters.load_state_dict(checkpoint.part('adapters'))
        if self._objective.gates is not None:
            self._objective.gates.load_state_dict(checkpoint.part('gates'))
        if self._objective.quantizer is not None:
            self._objective.quantizer.load_state_dict(checkpoint.part('quant'))
        moments = checkpoint.part('optim')
        for name, parameter in self._objective.named_parameters():
            if f'{name}.step' in moments:  # a parameter that was never used has no moments
                self._optimiser.state[parameter] = {
                    'step': moments[f'{name}.step'].clone(),
                    **{key: moments[f'{name}.{key}'].to(device, copy=True)
                       for key in ('exp_avg', 'exp_avg_sq')}}
        if self._guard is not None:
            self._guard.load(checkpoint.tensors['guard.kl'])


def _groups(objective: Objective, config: TrainConfig) -> List[Dict[str, Any]]:
    """Return the optimiser's groups; `factor` is a group's multiple of the learning rate."""
    gates = [] if objective.gates is None else list(objective.gates.parameters())
    own = {id(p) for p in gates}
    others = [p for p in objective.parameters() if id(p) not in own]
    groups: List[Dict[str, Any]] = [
        {'params': [p for p in others if p.ndim > 1], 'weight_decay': config.optim.weight_decay,
         'factor': 1.0},
        {'params': [p for p in others if p.ndim <= 1], 'weight_decay': 0.0, 'factor': 1.0}]
    if gates:
        groups.append({'params': gates, 'weight_decay': 0.0,
                       'factor': config.gates.learning_rate})
    return groups


def learning_rate(step: int, config: OptimConfig) -> float:
    """Return the rate of a step: linear warm-up, then half a cosine (Loshchilov, Hutter 2017)."""
    if step < config.warm_up:
        return config.learning_rate * (step + 1) / config.warm_up
    done = (step - config.warm_up) / max(config.steps - config.warm_up, 1)
    return config.learning_rate * max(0.5 * (1 + math.cos(math.pi * done)), 0.002)


def _split(batch: Batch, parts: int) -> List[Batch]:
    """Return the batch in equal parts, one after the other."""
    size = len(batch['image']) // parts
    return [{key: value[i * size:(i + 1) * size] for key, value in batch.items()}
            for i in range(parts)]
