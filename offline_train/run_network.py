# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The network of a run folder out of it, and a changed network back into a new run folder."""
from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Sequence

from offline_train.config import DistilConfig, GateConfig, QuantConfig, TeacherConfig, TrainConfig
from offline_train.models import build_model
from offline_train.run_dir import RunDir
from offline_train.surgery.cuts import Cut
from torch import nn


def load_network(run: RunDir, classes: int, checkpoint: str = 'latest') -> nn.Module:
    """Return the averaged network of a run, cut as its configuration says, in eval mode."""
    config = run.config()
    network = build_model(config.model, classes, config.input)
    network.load_state_dict(run.load_checkpoint(checkpoint).part('ema'))
    return network.eval()


def write_cut_run(out: Path, source: RunDir, network: nn.Module, cuts: Sequence[Cut]) -> RunDir:
    """
    Write a new run folder whose network is `source`'s after some more cuts, without training.

    It exports, is evaluated and starts others (model.initial) like any run. ConfigError if
    something is in the folder already.
    """
    config = source.config()
    model = replace(config.model, cuts=(*config.model.cuts, *map(str, cuts)),
                    initial=str(source.path), pretrained=False, weights='')
    run = RunDir.create(out, replace(
        config, model=model, teacher=TeacherConfig(), distil=DistilConfig(),
        gates=GateConfig(), quant=QuantConfig(),
        data=replace(config.data, unlabeled=()), optim=replace(config.optim, steps=0)))
    state = network.state_dict()
    run.save_checkpoint(0, {f'{part}.{name}': value.clone() for part in ('model', 'ema')
                            for name, value in state.items()}, keep=1)
    return run


def follow_initial(config: TrainConfig) -> TrainConfig:
    """Return the configuration with the cuts of the run it starts from, where it says none."""
    if not config.model.initial or config.model.cuts:
        return config
    cuts = RunDir.open(Path(config.model.initial)).config().model.cuts
    return replace(config, model=replace(config.model, cuts=cuts))
