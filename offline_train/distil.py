# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Train a student with a teacher: any mixture of terms, labelled images, unlabelled ones or both.

The loop is `train`'s; what differs is what is minimised (offline_train/objective.py).
"""
from __future__ import annotations

import argparse

from evit_seg.core.errors import ConfigError
from offline_train import train as train_stage
from offline_train.config import TrainConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `offline_train distil`."""
    train_stage.add_arguments(parser)
    parser.epilog = """\
a run folder teaches:     offline_train distil --config config/train/distil.yaml --out runs/b \\
                            teacher.path=runs/teacher distil.cwd=3.0 distil.mse=0.5
any ONNX file teaches:    ... teacher.path=topformer_tiny_288.onnx distil.kl=1.0
images without labels:    ... data.unlabeled=[flights] data.unlabeled_fraction=0.5
only those, no labels:    ... data.unlabeled=[flights] data.unlabeled_fraction=1 distil.labels=0
keep the teacher's logits of whole frames on disk:  ... teacher.cache=cache
terms: mse, kl, cwd, dist on logits; mimic, generation on feature maps (run folders only)"""


def main(args: argparse.Namespace) -> int:
    """Run `offline_train distil`."""
    train_stage.run_stage(args, _check_teacher)
    return 0


def _check_teacher(config: TrainConfig) -> None:
    if not config.teacher.path:
        raise ConfigError('teacher.path: expected a run folder, a bundle or an ONNX file, got '
                          'none; without a teacher the stage is `offline_train train`')
