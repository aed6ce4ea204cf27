# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
How much each attention head and each hidden unit of an MLP matters; higher is kept.

Criteria of both:

- l1, l2: norm of the weights that make and use it: a head's rows of the layers of queries, keys
  and values and its columns of the projection, a unit's row of the first layer and its column of
  the last (Li et al. 2017, arXiv 1608.08710, for filters). Biases and norms are not in it.
- taylor: mean over the images of |sum of activation x gradient| of what the head or unit gives
  to the projection: the first-order change of the loss when it is zeroed (Michel et al. 2019,
  arXiv 1905.10650, eq. 2; Molchanov et al. 2019, arXiv 1906.10771, sec. 3.1). An image's loss is
  the mean cross entropy of its labelled pixels, logits upscaled to the target, in eval mode.

Of heads alone:

- attention: the head's contribution to the block's spatial attention map. The map of a block is
  the norm over channels of its output at each token (Zagoruyko and Komodakis 2017, arXiv
  1612.03928, sec. 3.1); the output is the sum over heads of W_h a_h, a_h what head h gives, W_h
  its columns of the projection. The score is the mean over images and tokens of |W_h a_h|
  divided by that of |sum_h W_h a_h|, without the projection's bias. The paper that prunes heads
  by this contribution gives no formula; this is the plainest one.

Scores compare the parts of one block; between blocks taylor alone has the same unit.
"""
from __future__ import annotations

from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, List, Sequence, Tuple, Union

from evit_seg.core.errors import ConfigError
from evit_seg.core.labels import IGNORE_INDEX
from offline_train.models.pooling import resize_like
from offline_train.surgery.blocks import AttentionBlock, head_inputs, MlpBlock
import torch
from torch import nn, Tensor

HEAD_CRITERIA = ('l1', 'l2', 'taylor', 'attention')
HIDDEN_CRITERIA = ('l1', 'l2', 'taylor')
Batch = Tuple[Tensor, Tensor]
"""Normalised float images (N, 3, H, W) and targets uint8 (N, H, W) with 255 ignored."""
Block = Union[AttentionBlock, MlpBlock]


def head_scores(network: nn.Module, blocks: Sequence[AttentionBlock], criterion: str,
                batches: Sequence[Batch]) -> Dict[str, Tensor]:
    """
    Return the score (heads,) of each head by the block's name.

    l1 and l2 do not look at the batches. ConfigError for an unknown criterion, or one that needs
    batches and gets none.
    """
    _check(criterion, HEAD_CRITERIA, batches)
    if criterion == 'taylor':
        return _taylor(network, blocks, batches)
    if criterion == 'attention':
        return _contributions(network, blocks, batches)
    return {block.name: _norms(_head_weights(network, block), criterion) for block in blocks}


def hidden_scores(network: nn.Module, blocks: Sequence[MlpBlock], criterion: str,
                  batches: Sequence[Batch]) -> Dict[str, Tensor]:
    """Return the score (hidden,) of each hidden unit by the block's name, as `head_scores`."""
    _check(criterion, HIDDEN_CRITERIA, batches)
    if criterion == 'taylor':
        return _taylor(network, blocks, batches)
    return {block.name: _norms(
        [_weight(network, block.expand).flatten(1),
         _weight(network, block.project).transpose(0, 1).flatten(1)], criterion)
        for block in blocks}


def best(scores: Tensor, keep: int) -> List[int]:
    """Return the rising indices of the `keep` highest scores; of equal ones the first."""
    if not 1 <= keep <= len(scores):
        raise ConfigError(f'expected to keep 1 to {len(scores)} of them, got {keep!r}')
    order: List[int] = scores.argsort(descending=True, stable=True)[:keep].tolist()
    return sorted(order)


def _check(criterion: str, known: Sequence[str], batches: Sequence[Batch]) -> None:
    if criterion not in known:
        raise ConfigError(f'criterion: expected one of {", ".join(known)}, got {criterion!r}')
    if not batches and criterion in ('taylor', 'attention'):
        raise ConfigError(f'criterion {criterion!r} looks at labelled images, got none; '
                          'l1 and l2 need none')


def _head_weights(network: nn.Module, block: AttentionBlock) -> List[Tensor]:
    """Return the weights of a block's heads, each (heads, some)."""
    made = [_weight(network, name).reshape(parts, block.heads, -1).transpose(0, 1).flatten(1)
            for name, parts, _ in head_inputs(network, block)]
    used = _weight(network, block.project).transpose(0, 1)  # (heads * value_dim, outputs, ...)
    return [*made, used.reshape(block.heads, -1)]


def _weight(network: nn.Module, name: str) -> Tensor:
    layer: Any = network.get_submodule(name)
    weight: Tensor = layer.weight.detach()
    return weight


def _norms(weights: Sequence[Tensor], criterion: str) -> Tensor:
    joint = torch.cat(list(weights), dim=1)
    return torch.linalg.vector_norm(joint, ord=1 if criterion == 'l1' else 2, dim=1)


def _groups(block: Block) -> int:
    return block.heads if isinstance(block, AttentionBlock) else block.hidden


def _taylor(network: nn.Module, blocks: Sequence[Block], batches: Sequence[Batch]
            ) -> Dict[str, Tensor]:
    """Return |activation x gradient|, summed within an image, mean over the images."""
    totals = {block.name: torch.zeros(_groups(block)) for block in blocks}
    given: Dict[str, Tensor] = {}

    def remember(block: Block, layer: nn.Module, inputs: Tuple[Tensor, ...]) -> None:
        given[block.name] = inputs[0]

    with _watched(network, blocks, remember), torch.enable_grad():
        for image_NCHW, target_NHW in batches:
            # With a gradient from the image on, frozen weights do not cut the graph.
            loss = _summed_loss(network(image_NCHW.detach().requires_grad_()), target_NHW)
            slopes = torch.autograd.grad(loss, [given[block.name] for block in blocks])
            for block, slope in zip(blocks, slopes, strict=True):
                layer = network.get_submodule(block.project)
                product = _channels_last(layer, given[block.name].detach() * slope)
                # Windows and patches of an image follow each other: (images, rest, groups).
                product = product.reshape(len(image_NCHW), -1, _groups(block), _width(block))
                totals[block.name] += product.sum(dim=(1, 3)).abs().sum(dim=0).cpu()
    images = sum(len(image_NCHW) for image_NCHW, _ in batches)
    return {name: total / images for name, total in totals.items()}


def _summed_loss(logits_NCHW: Tensor, target_NHW: Tensor) -> Tensor:
    """Return the images' mean cross entropies, summed: no image sees its batch."""
    upscaled = resize_like(logits_NCHW, target_NHW[:, None])
    target = target_NHW.long()
    loss_NHW = nn.functional.cross_entropy(upscaled, target, ignore_index=IGNORE_INDEX,
                                           reduction='none')
    labelled = (target != IGNORE_INDEX).sum(dim=(1, 2)).clamp(min=1)
    return (loss_NHW.sum(dim=(1, 2)) / labelled).sum()


def _contributions(network: nn.Module, blocks: Sequence[AttentionBlock],
                   batches: Sequence[Batch]) -> Dict[str, Tensor]:
    """Return the sum over tokens of |W_h a_h|, divided by that of |sum_h W_h a_h|."""
    parts = {block.name: torch.zeros(block.heads) for block in blocks}
    wholes = {block.name: torch.zeros(()) for block in blocks}

    def measure(block: Block, layer: nn.Module, inputs: Tuple[Tensor, ...]) -> None:
        weight = _weight(network, block.project).flatten(1)
        given = _channels_last(layer, inputs[0])
        wholes[block.name] += (given @ weight.T).norm(dim=-1).sum().cpu()
        width = _width(block)
        for head in range(_groups(block)):
            channels = slice(head * width, (head + 1) * width)
            output = given[..., channels] @ weight[:, channels].T
            parts[block.name][head] += output.norm(dim=-1).sum().cpu()

    with _watched(network, blocks, measure), torch.no_grad():
        for image_NCHW, _ in batches:
            network(image_NCHW)
    smallest = torch.finfo(torch.float32).tiny  # a block that gives nothing scores 0
    return {name: parts[name] / wholes[name].clamp(min=smallest) for name in parts}


@contextmanager
def _watched(network: nn.Module, blocks: Sequence[Block],
             see: Callable[[Block, nn.Module, Tuple[Tensor, ...]], None]) -> Iterator[None]:
    """Call `see` with what the projections take, in eval mode, inside the `with`."""
    handles = [network.get_submodule(block.project).register_forward_pre_hook(
        lambda layer, inputs, block=block: see(block, layer, inputs)) for block in blocks]
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes.items():
            module.training = training


def _width(block: Block) -> int:
    """Return the channels of one head or unit at the projection's input."""
    return block.value_dim if isinstance(block, AttentionBlock) else 1


def _channels_last(layer: nn.Module, x: Tensor) -> Tensor:
    return x.movedim(1, -1) if isinstance(layer, nn.Conv2d) else x
