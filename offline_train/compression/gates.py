# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Gates that learn which attention heads and FFN blocks are worth their cost.

A gate is a hard-concrete variable (Louizos et al. 2018, arXiv 1712.01312, sec. 2.2): noise while
training lets it be exactly 0 or 1 now and then, so the network learns to do without what will be
cut, and the probability of being open, which is what the loss prices, is smooth. A plain sigmoid
has no such zero: it shrinks, the weights behind it grow, and cutting it off later hurts.

The gates stand beside the network and act through hooks: its weights and their names stay those
of the plain one. What is exported knows no gates: fold_gates() moves the open ones into the
weights and returns the cuts that take the closed ones out.
"""
from __future__ import annotations

import math
from typing import Any, Dict, List, Mapping, Optional, Tuple

from evit_seg.core.errors import ConfigError
from offline_train.compression.block_costs import Block, block_costs, BlockCost, blocks_of
from offline_train.config import GateConfig, TrainConfig
from offline_train.run_dir import RunDir
from offline_train.surgery.blocks import AttentionBlock, MlpBlock
from offline_train.surgery.cuts import Cut
import torch
from torch import nn, Tensor

# arXiv 1712.01312, sec. 4: temperature, and the interval the sigmoid is stretched to.
TEMPERATURE, LOW, HIGH = 2 / 3, -0.1, 1.1


def open_gates(network: nn.Module, config: TrainConfig) -> Optional[Gates]:
    """Return the gates a configuration asks for, hooked into the network; None for weight 0."""
    if config.gates.weight == 0:
        return None
    if not blocks_of(network):
        raise ConfigError(f'gates.weight: {config.model.name} has no attention heads and no FFN '
                          'blocks to gate; expected 0')
    costs = block_costs(network, config.gates.cost, (config.input.height, config.input.width))
    return Gates(network, config.gates, costs)


class Gates(nn.Module):
    """
    One learnable gate for each attention head and each MLP of a network, and what they cost.

    Before a pass of the network draw() decides the gates' values: with noise in training mode,
    without it in eval mode. A head's gate scales its part of the projection's input; an MLP's
    scales what the residual adds, and so does 0 where all heads of an attention are closed.
    """

    def __init__(self, network: nn.Module, config: GateConfig,
                 costs: Mapping[str, BlockCost]) -> None:
        """Attach to a network; costs: of each of its blocks, in any unit."""
        super().__init__()
        self._threshold = config.threshold
        self._drawn: Dict[str, Tensor] = {}
        start = math.log(config.start / (1 - config.start))
        blocks = blocks_of(network)
        for block in blocks:
            self.register_parameter(_key(block.name),
                                    nn.Parameter(torch.full((_gates(block),), start)))
            self._attach(network, block)
        whole = sum(costs[b.name].gate * _gates(b) + costs[b.name].rest for b in blocks)
        # A buffer: measured costs are those of the start, and a resumed run needs the same.
        self.costs: Tensor
        self.register_buffer('costs', torch.tensor(
            [[costs[b.name].gate / whole, costs[b.name].rest / whole] for b in blocks]))

    def draw(self) -> None:
        """Decide the values of the next pass."""
        if not self.training:
            self._drawn = self.values()
            return
        self._drawn = {}
        for name, log_alpha in self._log_alphas().items():
            noise = torch.rand_like(log_alpha).clamp(1e-6, 1 - 1e-6)
            concrete = torch.sigmoid((noise.logit() + log_alpha) / TEMPERATURE)
            self._drawn[name] = _stretched(concrete)

    def values(self) -> Dict[str, Tensor]:
        """Return the values without noise by block, 0 to 1; the closed are exactly 0."""
        return {name: _settled(log_alpha, self._threshold)
                for name, log_alpha in self._log_alphas().items()}

    def open_cost(self) -> Tensor:
        """
        Return the part of all blocks' cost, 0 to 1, that is expected to be open.

        The rest of an attention, which no single head saves, is paid while any head is open.
        """
        total = self.costs.new_zeros(())
        for log_alpha, (gate, rest) in zip(self._log_alphas().values(), self.costs, strict=True):
            # 1712.01312, eq. 12: the probability that the stretched sigmoid is above 0.
            probability = torch.sigmoid(log_alpha - TEMPERATURE * math.log(-LOW / HIGH))
            total = total + gate * probability.sum() + rest * (1 - (1 - probability).prod())
        return total

    def _log_alphas(self) -> Dict[str, nn.Parameter]:
        return {key.replace('/', '.'): parameter for key, parameter in self.named_parameters()}

    def _attach(self, network: nn.Module, block: Block) -> None:
        name = block.name
        if isinstance(block, MlpBlock):
            def scale(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
                return output * self._drawn[name].to(output.dtype)
        else:
            value_dim = block.value_dim

            def scale_heads(_module: nn.Module, inputs: Tuple[Tensor, ...]) -> Tuple[Tensor, ...]:
                factors = _per_channel(self._drawn[name], value_dim, inputs[0].ndim == 4)
                return (inputs[0] * factors.to(inputs[0].dtype), *inputs[1:])

            def scale(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
                # Without heads the projection's bias would stay: a cut takes it away too.
                return output * (self._drawn[name].detach().max() > 0).to(output.dtype)

            network.get_submodule(block.project).register_forward_pre_hook(scale_heads)
        network.get_submodule(block.branch).register_forward_hook(scale)


def closed_cuts(run: RunDir, network: nn.Module) -> List[Cut]:
    """
    Fold the open gates of a run into its averaged network, in place, and return the cuts to make.

    The gates are the latest checkpoint's. ConfigError where the run has none or the network has
    other blocks.
    """
    state = run.load_checkpoint().part('gates')
    if not state:
        raise ConfigError(f'{run.path}: expected a run trained with gates (gates.weight above 0), '
                          'its checkpoint has none')
    threshold = run.config().gates.threshold
    return fold_gates(network, {key.replace('/', '.'): _settled(log_alpha, threshold)
                                for key, log_alpha in state.items() if key != 'costs'})


@torch.no_grad()
def fold_gates(network: nn.Module, values: Mapping[str, Tensor]) -> List[Cut]:
    """
    Scale a network's weights by its gates, in place; return the cuts that take the closed out.

    values: of Gates.values(). The network then answers as the gated one does, once the cuts are
    made. ConfigError where the gates are another network's.
    """
    cuts: List[Cut] = []
    blocks = blocks_of(network)
    found = {block.name: _gates(block) for block in blocks}
    given = {name: len(value) for name, value in values.items()}
    if found != given:
        wrong = sorted(dict(set(found.items()) ^ set(given.items())))
        raise ConfigError(f'gates: expected those of this network, they differ at '
                          f'{", ".join(wrong[:3])}; fold them before anything else is cut')
    for block in blocks:
        value = values[block.name]
        opened = tuple(value.nonzero().flatten().tolist())
        if not opened:
            cuts.append(Cut('drop', block.name))
        elif isinstance(block, AttentionBlock):
            weight: Tensor = network.get_submodule(block.project).weight  # type: ignore
            columns = _per_channel(value.to(weight), block.value_dim, weight.ndim == 4)
            weight.mul_(columns)
            if len(opened) < block.heads:
                cuts.append(Cut('heads', block.name, opened))
        else:
            _scale_output(network.get_submodule(block.branch), value)
    return cuts


def _scale_output(branch: nn.Module, value: Tensor) -> None:
    """Scale what a branch returns: its last layer (or norm) is affine."""
    last = [m for m in branch.modules() if getattr(m, 'weight', None) is not None][-1]
    for _, parameter in last.named_parameters(recurse=False):
        parameter.mul_(value.to(parameter))


def _per_channel(heads: Tensor, value_dim: int, planes: bool) -> Tensor:
    """Return a factor for each channel: (C,), or (C, 1, 1) in front of planes."""
    channels = heads.repeat_interleave(value_dim)
    return channels[:, None, None] if planes else channels


def _stretched(concrete: Tensor) -> Tensor:
    return (concrete * (HIGH - LOW) + LOW).clamp(0, 1)


def _settled(log_alpha: Tensor, threshold: float) -> Tensor:
    value = _stretched(torch.sigmoid(log_alpha.detach()))
    return torch.where(value < threshold, 0.0, value)


def _gates(block: Block) -> int:
    return block.heads if isinstance(block, AttentionBlock) else 1


def _key(name: str) -> str:
    return name.replace('.', '/')  # a parameter's name has no dots
