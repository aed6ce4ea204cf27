# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Losses of semantic segmentation: cross entropy (hard pixels or focal) and soft Dice.

Logits are float (N, C, H, W) at the size of the target, targets uint8 (N, H, W) of ids, 255 is
left out; all lie on one device. Where nothing is labelled a loss is 0 and has a gradient of 0.
"""
from __future__ import annotations

import math
from typing import Sequence, Tuple

from evit_seg.core.errors import ConfigError
from evit_seg.core.labels import IGNORE_INDEX
from offline_train.config import LossConfig
import torch
from torch import Tensor
import torch.nn.functional as functional

SMALLEST = 1e-6
"""A pixel's focal factor is cut here: below a gamma of 1 its slope at 0 is infinite."""


def hard_cross_entropy(logits_NCHW: Tensor, target_NHW: Tensor, weights_C: Tensor,
                       threshold: float, keep: float) -> Tensor:
    """
    Return the class-weighted cross entropy over the hard pixels, a scalar.

    Online hard example mining (Shrivastava et al. 2016, arXiv 1604.03540) by pixels, as in the
    trainers of BiSeNet and PIDNet: pixels whose true class has a probability below `threshold`
    count, and at least the hardest fraction `keep` of all labelled ones. With a `keep` of 1 it is
    the plain class-weighted cross entropy.
    """
    loss, target = _labelled_cross_entropy(logits_NCHW, target_NHW)
    if len(loss) == 0:
        return logits_NCHW.sum() * 0.0
    if keep < 1.0:
        hardest = max(int(keep * len(loss)), 1)
        bound = loss.detach().kthvalue(len(loss) - hardest + 1).values
        hard = loss.detach() >= bound.clamp(max=-math.log(max(threshold, 1e-12)))
        loss, target = loss[hard], target[hard]
    return _weighted_mean(loss, weights_C[target])


def focal_cross_entropy(logits_NCHW: Tensor, target_NHW: Tensor, weights_C: Tensor,
                        gamma: float) -> Tensor:
    """
    Return the class-weighted mean of -(1 - p) ** gamma log p, p of the true class, a scalar.

    Lin et al. 2017, arXiv 1708.02002, eq. 5, by softmax; the class weights are its alpha. With a
    `gamma` of 0 it is the class-weighted cross entropy.
    """
    loss, target = _labelled_cross_entropy(logits_NCHW, target_NHW)
    if len(loss) == 0:
        return logits_NCHW.sum() * 0.0
    missing = (-torch.expm1(-loss)).clamp(min=SMALLEST)  # 1 - p
    return _weighted_mean(missing ** gamma * loss, weights_C[target])


def dice_loss(logits_NCHW: Tensor, target_NHW: Tensor) -> Tensor:
    """
    Return 1 - the soft Dice coefficient, mean over the classes of the batch's truth, a scalar.

    Dice of a class is 2 sum(p g) / (sum(p ** 2) + sum(g ** 2)) over the labelled pixels of the
    whole batch, g 0 or 1 (Milletari et al. 2016, arXiv 1606.04797, sec. 3). Every class weighs
    the same, however few its pixels: that is what it is for.
    """
    labelled_N1HW = (target_NHW != IGNORE_INDEX)[:, None]
    target_N1HW = target_NHW.long()[:, None].where(labelled_N1HW, 0)
    probability = logits_NCHW.softmax(dim=1) * labelled_N1HW
    own = probability.gather(1, target_N1HW)
    zeros_C, ids = probability.new_zeros(logits_NCHW.shape[1]), target_N1HW.flatten()
    overlap_C = zeros_C.index_add(0, ids, own.flatten())
    truth_C = zeros_C.index_add(0, ids, labelled_N1HW.flatten().to(own.dtype))
    present = truth_C > 0
    if not present.any():
        return logits_NCHW.sum() * 0.0
    squares_C = probability.square().sum(dim=(0, 2, 3))
    return 1 - (2 * overlap_C[present] / (squares_C + truth_C)[present]).mean()


def training_loss(outputs: Tensor | Sequence[Tensor], target_NHW: Tensor, weights_C: Tensor,
                  config: LossConfig) -> Tensor:
    """
    Return the loss of a network's outputs: the main logits first, auxiliary ones after.

    Each is `cross_entropy` times the hard or focal cross entropy plus `dice` times Dice; a term
    of weight 0 is not computed. The main logits are upscaled to the target, so that small objects
    count; an auxiliary map meets the target sampled at its own grid, which costs a sixteenth.
    """
    main, *auxiliary = [outputs] if isinstance(outputs, Tensor) else outputs
    total = _mixed_loss(main, target_NHW, weights_C, config)
    for logits in auxiliary:
        step_y = max(target_NHW.shape[1] // logits.shape[2], 1)
        step_x = max(target_NHW.shape[2] // logits.shape[3], 1)
        sampled_NHW = target_NHW[:, step_y // 2::step_y, step_x // 2::step_x]
        loss = _mixed_loss(logits, sampled_NHW, weights_C, config)
        total = total + config.auxiliary_weight * loss
    return total


def _mixed_loss(logits_NCHW: Tensor, target_NHW: Tensor, weights_C: Tensor,
                config: LossConfig) -> Tensor:
    logits = functional.interpolate(logits_NCHW.float(), size=target_NHW.shape[1:],
                                    mode='bilinear', align_corners=False)
    terms = []
    if config.cross_entropy > 0 and config.focal_gamma > 0:
        terms.append(config.cross_entropy * focal_cross_entropy(
            logits, target_NHW, weights_C, config.focal_gamma))
    elif config.cross_entropy > 0:
        terms.append(config.cross_entropy * hard_cross_entropy(
            logits, target_NHW, weights_C, config.ohem_threshold, config.ohem_keep))
    if config.dice > 0:
        terms.append(config.dice * dice_loss(logits, target_NHW))
    if not terms:
        raise ConfigError('loss.cross_entropy and loss.dice: expected one of them above 0, got '
                          f'{config.cross_entropy!r} and {config.dice!r}')
    return terms[0] if len(terms) == 1 else terms[0] + terms[1]


def _labelled_cross_entropy(logits_NCHW: Tensor, target_NHW: Tensor) -> Tuple[Tensor, Tensor]:
    """Return the cross entropy and the class of every labelled pixel, two vectors."""
    target = target_NHW.long()
    loss = functional.cross_entropy(logits_NCHW, target, ignore_index=IGNORE_INDEX,
                                    reduction='none')
    labelled = target != IGNORE_INDEX
    return loss[labelled], target[labelled]


def _weighted_mean(loss: Tensor, weight: Tensor) -> Tensor:
    return (loss * weight).sum() / weight.sum()
