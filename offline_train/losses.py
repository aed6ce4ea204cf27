# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Losses of semantic segmentation."""
from __future__ import annotations

from typing import Sequence

from evit_seg.core.labels import IGNORE_INDEX
from offline_train.config import LossConfig
import torch
from torch import Tensor
import torch.nn.functional as functional


def hard_cross_entropy(logits_NCHW: Tensor, target_NHW: Tensor, weights_C: Tensor,
                       threshold: float, keep: float) -> Tensor:
    """
    Return the class-weighted cross entropy over the hard pixels, a scalar.

    Online hard example mining (Shrivastava et al. 2016, arXiv 1604.03540) by pixels, as in the
    trainers of BiSeNet and PIDNet: pixels whose true class has a probability below `threshold`
    count, and at least the hardest fraction `keep` of all labelled ones. Logits are upscaled
    bilinearly to the target; targets are uint8 ids, 255 is left out.
    """
    target = target_NHW.long()
    logits = functional.interpolate(logits_NCHW.float(), size=target.shape[1:], mode='bilinear',
                                    align_corners=False)
    loss = functional.cross_entropy(logits, target, ignore_index=IGNORE_INDEX, reduction='none')
    labelled = target != IGNORE_INDEX
    loss, target = loss[labelled], target[labelled]
    if len(loss) == 0:
        return logits.sum() * 0.0
    if keep < 1.0:
        hardest = max(int(keep * len(loss)), 1)
        bound = loss.detach().kthvalue(len(loss) - hardest + 1).values
        bound = bound.clamp(max=-torch.log(torch.tensor(threshold)))
        hard = loss.detach() >= bound
        loss, target = loss[hard], target[hard]
    weight = weights_C[target]
    return (loss * weight).sum() / weight.sum()


def training_loss(outputs: Tensor | Sequence[Tensor], target_NHW: Tensor, weights_C: Tensor,
                  config: LossConfig) -> Tensor:
    """
    Return the loss of a network's outputs: the main logits first, auxiliary ones after.

    The main logits are upscaled to the target, so that small objects count; an auxiliary map
    meets the target sampled at its own grid, which costs a sixteenth.
    """
    main, *auxiliary = [outputs] if isinstance(outputs, Tensor) else outputs
    total = hard_cross_entropy(main, target_NHW, weights_C, config.ohem_threshold,
                               config.ohem_keep)
    for logits in auxiliary:
        step_y = target_NHW.shape[1] // logits.shape[2]
        step_x = target_NHW.shape[2] // logits.shape[3]
        sampled_NHW = target_NHW[:, step_y // 2::step_y, step_x // 2::step_x]
        loss = hard_cross_entropy(logits, sampled_NHW, weights_C, config.ohem_threshold,
                                  config.ohem_keep)
        total = total + config.auxiliary_weight * loss
    return total
