# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Distillation terms on logits: pure functions of a student's and a teacher's map.

Both maps are (N, C, h, w) of the same N and C. Where the grids differ, the teacher's is resized
bilinearly to the student's. All is computed in float32, also under autocast, and only the student
gets a gradient. Every term is a mean, so that its weight does not depend on batch or image size.
"""
from __future__ import annotations

from typing import Tuple

from evit_seg.core.errors import ConfigError
import torch
from torch import Tensor
import torch.nn.functional as functional


def logit_mse(student_NCHW: Tensor, teacher_NCHW: Tensor) -> Tensor:
    """
    Return the mean squared difference of the logits, a scalar in logits squared.

    The term that arXiv 2309.02617 found stable and best.
    """
    student, teacher = _aligned(student_NCHW, teacher_NCHW)
    return functional.mse_loss(student, teacher)


def kl_divergence(student_NCHW: Tensor, teacher_NCHW: Tensor, temperature: float) -> Tensor:
    """
    Return KL(teacher || student) of the class distributions, mean over the pixels, a scalar.

    In nats times temperature ** 2, which keeps the gradient's size when the temperature changes.
    Source: Hinton et al. 2015, arXiv 1503.02531, sec. 2, taken per pixel.
    """
    student, teacher = _aligned(student_NCHW, teacher_NCHW)
    per_pixel_NHW = _divergence(student, teacher, temperature, dim=1)
    return per_pixel_NHW.mean() * temperature ** 2


def channel_wise(student_NCHW: Tensor, teacher_NCHW: Tensor, temperature: float) -> Tensor:
    """
    Return the KL of each class's distribution over the pixels, mean over classes and images.

    A scalar in nats times temperature ** 2. Each class's logits become a distribution over the
    image's pixels, so that a rare class counts as much as any other. Source: CWD, Shu et al. 2021,
    arXiv 2011.13256, eqs. 2 and 3.
    """
    student, teacher = _aligned(student_NCHW, teacher_NCHW)
    per_class_NC = _divergence(student.flatten(2), teacher.flatten(2), temperature, dim=2)
    return per_class_NC.mean() * temperature ** 2


def dist(student_NCHW: Tensor, teacher_NCHW: Tensor, inter: float = 1.0,
         intra: float = 1.0) -> Tensor:
    """
    Return 1 - Pearson's correlation, between classes and within classes, weighted, a scalar.

    Between: at each pixel over the classes. Within: for each class over all pixels of the batch,
    which are the instances here. Each part lies in 0 (perfectly correlated) to 2; logits are
    turned into probabilities first, without a temperature. Until the backward pass it holds about
    five float32 maps of the logits' shape. Source: DIST, Huang et al. 2022, arXiv 2205.10536,
    eqs. 8 to 10 and the authors' code for segmentation.
    """
    student, teacher = _aligned(student_NCHW, teacher_NCHW)
    student, teacher = student.softmax(dim=1), teacher.softmax(dim=1)
    between_NHW = _correlation(student, teacher, (1,))
    within_C = _correlation(student, teacher, (0, 2, 3))
    return inter * (1 - between_NHW.mean()) + intra * (1 - within_C.mean())


def _aligned(student_NCHW: Tensor, teacher_NCHW: Tensor) -> Tuple[Tensor, Tensor]:
    """Return both as float32 on the student's grid, the teacher without a gradient."""
    if student_NCHW.shape[:2] != teacher_NCHW.shape[:2]:
        raise ConfigError(
            'distil: expected a teacher with the images and classes of its student '
            f'{tuple(student_NCHW.shape[:2])!r}, got {tuple(teacher_NCHW.shape[:2])!r}; train '
            'both with one label map')
    student, teacher = student_NCHW.float(), teacher_NCHW.detach().float()
    if student.shape != teacher.shape:
        teacher = functional.interpolate(teacher, size=student.shape[2:], mode='bilinear',
                                         align_corners=False)
    return student, teacher


def _divergence(student: Tensor, teacher: Tensor, temperature: float, dim: int) -> Tensor:
    """Return KL(teacher || student) of the softened distributions along a dimension, in nats."""
    if not temperature > 0:
        raise ConfigError(f'distil: expected a temperature above 0, got {temperature!r}')
    student_log = functional.log_softmax(student / temperature, dim=dim)
    teacher_log = functional.log_softmax(teacher / temperature, dim=dim)
    return (teacher_log.exp() * (teacher_log - student_log)).sum(dim=dim)


def _correlation(x: Tensor, y: Tensor, dims: Tuple[int, ...]) -> Tensor:
    """Return Pearson's correlation over some dimensions; 0 where one side is constant."""
    x = x - x.mean(dim=dims, keepdim=True)
    y = y - y.mean(dim=dims, keepdim=True)
    # Small enough for a class that is seen nowhere, large enough that a student without any
    # preference, where the correlation has no gradient, does not get an infinite one.
    norm_x = torch.linalg.vector_norm(x, dim=dims).clamp(min=1e-8)
    norm_y = torch.linalg.vector_norm(y, dim=dims).clamp(min=1e-8)
    return (x * y).sum(dim=dims) / norm_x / norm_y
