# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Train a network on image folders: one run folder in, checkpoints and a log out.

The stage reads from top to bottom: data, network, optimiser, the loop. What is scored and later
exported is the moving average of the weights (Polyak and Juditsky 1992).
"""
from __future__ import annotations

import argparse
import math
from pathlib import Path
import time
from typing import Dict, Iterator, List, Tuple

import cv2
from evit_seg.core.errors import ConfigError, EvitSegError
from evit_seg.core.labels import LabelMap, load_label_map
from evit_seg.core.metrics import confusion_matrix, dataset_scores
import numpy as np
from offline_train.config import InputConfig, load_config, OptimConfig, TrainConfig
from offline_train.data.crops import class_weights, CropDataset
from offline_train.data.folder import Frames, open_frames
from offline_train.losses import training_loss
from offline_train.models import build_model
from offline_train.run_dir import RunDir
import torch
from torch import nn, Tensor
from torch.utils.data import DataLoader


class TrainingDiverged(EvitSegError):
    """The loss is no number any more."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `offline_train train`."""
    parser.add_argument('--config', type=Path, help='YAML such as config/train/demo.yaml')
    parser.add_argument('--out', type=Path, help='new run folder')
    parser.add_argument('--resume', type=Path, metavar='RUN',
                        help='go on with this run from its latest checkpoint, its own config')
    parser.add_argument('overrides', nargs='*', metavar='section.key=value',
                        help='such as data.train=[scenes/train] optim.steps=2000')


def main(args: argparse.Namespace) -> int:
    """Run `offline_train train`."""
    if args.resume is not None:
        if args.config is not None or args.out is not None or args.overrides:
            raise ConfigError("--resume takes the run's own configuration: leave out --config, "
                              '--out and overrides')
        run = RunDir.open(args.resume)
    else:
        if args.out is None:
            raise ConfigError('--out: expected the name of a new run folder')
        config = load_config(args.config, args.overrides)
        if not config.data.train:
            raise ConfigError('data.train: expected at least one folder with IMG/ and GT/, such as'
                              ' data.train=[scenes/train]')
        run = RunDir.create(args.out, config)
    train(run)
    return 0


def train(run: RunDir) -> None:
    """Train a run to its last step, from its latest checkpoint if it has one."""
    config = run.config()
    if config.run.threads:
        torch.set_num_threads(config.run.threads)
    label_map = load_label_map(Path(config.data.label_map) if config.data.label_map else None)
    frames = open_frames(config.data.train, label_map, config.data.cache)
    validation = open_frames(config.data.validation, label_map, config.data.cache) \
        if config.data.validation else None
    weights_C = torch.from_numpy(class_weights(
        frames.counts.sum(axis=0), config.loss.class_weight_power, config.loss.class_weight_max))

    torch.manual_seed(config.run.seed)
    state = TrainingState(build_model(config.model, len(label_map)), config.optim)
    if run.checkpoints():
        state.load(run)
    elif config.model.initial:
        state.start_from(RunDir.open(Path(config.model.initial)))
    first, steps = state.step, config.optim.steps
    if first >= steps:
        print(f'{run.path} has all its {steps} steps')
        return
    parameters = sum(p.numel() for p in state.model.parameters())
    print(f'{len(frames)} frames, {parameters} parameters, steps {first} to {steps} of '
          f'{config.optim.batch} crops')

    started_s, losses = time.perf_counter(), []
    for image_NHWC, target_NHW in _batches(frames, label_map, config, first):
        rate = learning_rate(state.step, config.optim)
        loss = state.update(image_NHWC, target_NHW, weights_C, rate, config)
        losses.append(loss)
        if not math.isfinite(loss):
            raise TrainingDiverged(f'the loss of step {state.step} is {loss}: lower '
                                   f'optim.learning_rate ({config.optim.learning_rate})')
        if state.step % config.run.log_every == 0 or state.step == steps:
            per_step_s = (time.perf_counter() - started_s) / (state.step - first)
            _report(run, state.step, steps, losses, rate, per_step_s, config.optim.batch)
            losses = []
        if state.step % config.run.validate_every == 0 or state.step == steps:
            if validation is not None:
                _validate(run, state, validation, label_map, config.input)
            run.save_checkpoint(state.step, state.tensors(), config.run.keep)


class TrainingState:
    """Network, averaged network, optimiser and step: what a checkpoint holds."""

    def __init__(self, model: nn.Module, config: OptimConfig) -> None:
        self.step = 0
        self.model = model.to(memory_format=torch.channels_last)
        self._average = {k: v.detach().clone() for k, v in model.state_dict().items()}
        self._names = {id(p): name for name, p in model.named_parameters()}
        decayed = [p for p in model.parameters() if p.ndim > 1]
        plain = [p for p in model.parameters() if p.ndim <= 1]
        self.optimiser = torch.optim.AdamW(
            [{'params': decayed, 'weight_decay': config.weight_decay},
             {'params': plain, 'weight_decay': 0.0}], lr=config.learning_rate)

    def update(self, image_NHWC: Tensor, target_NHW: Tensor, weights_C: Tensor, rate: float,
               config: TrainConfig) -> float:
        """Make one step on a batch and return its loss."""
        self.model.train()
        for group in self.optimiser.param_groups:
            group['lr'] = rate
        use_bf16 = config.optim.precision == 'bf16'
        with torch.autocast('cpu', torch.bfloat16, enabled=use_bf16):
            outputs = self.model(normalise(image_NHWC, config.input))
        loss = training_loss(outputs, target_NHW, weights_C, config.loss)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), config.optim.clip_norm)
        self.optimiser.step()
        self.step += 1
        self._update_average(config.optim.ema_decay)
        return float(loss.detach())

    @torch.no_grad()
    def _update_average(self, decay: float) -> None:
        """Move the average towards the weights; it starts fast so that it forgets the start."""
        decay = min(decay, (1 + self.step) / (10 + self.step))
        for name, value in self.model.state_dict().items():
            if value.is_floating_point():
                self._average[name].lerp_(value, 1 - decay)
            else:
                self._average[name].copy_(value)

    def average(self) -> Dict[str, Tensor]:
        """Return the averaged weights and running statistics."""
        return self._average

    def tensors(self) -> Dict[str, Tensor]:
        """Return everything a resumed run needs, by dotted names."""
        tensors = {f'model.{k}': v for k, v in self.model.state_dict().items()}
        tensors.update({f'ema.{k}': v for k, v in self._average.items()})
        for parameter, moments in self.optimiser.state.items():
            name = self._names[id(parameter)]
            tensors.update({f'optim.{name}.{k}': v for k, v in moments.items()})
        return tensors

    def start_from(self, run: RunDir) -> None:
        """Take the averaged weights of another run; step, schedule and moments start anew."""
        weights = run.load_checkpoint().part('ema')
        try:
            self.model.load_state_dict(weights)
        except RuntimeError as error:
            raise ConfigError(f'model.initial: {run.path} holds another network than model.name '
                              f'and model.widths say: {error}') from error
        self._average = {k: v.clone() for k, v in weights.items()}

    def load(self, run: RunDir) -> None:
        """Continue from the latest checkpoint of a run."""
        checkpoint = run.load_checkpoint()
        self.step = checkpoint.step
        self.model.load_state_dict(checkpoint.part('model'))
        self._average = checkpoint.part('ema')
        moments = checkpoint.part('optim')
        for name, parameter in self.model.named_parameters():
            self.optimiser.state[parameter] = {
                key: moments[f'{name}.{key}'].clone(memory_format=torch.preserve_format)
                for key in ('step', 'exp_avg', 'exp_avg_sq')}


def normalise(image_NHWC: Tensor, config: InputConfig) -> Tensor:
    """Map uint8 (N, H, W, 3) to float (N, 3, H, W), zero mean and unit variance, channels last."""
    mean, std = torch.tensor(config.mean), torch.tensor(config.std)
    return ((image_NHWC.float() - mean) / std).permute(0, 3, 1, 2)


def learning_rate(step: int, config: OptimConfig) -> float:
    """Return the rate of a step: linear warm-up, then half a cosine (Loshchilov, Hutter 2017)."""
    if step < config.warm_up:
        return config.learning_rate * (step + 1) / config.warm_up
    done = (step - config.warm_up) / max(config.steps - config.warm_up, 1)
    return config.learning_rate * max(0.5 * (1 + math.cos(math.pi * done)), 0.002)


def _batches(frames: Frames, label_map: LabelMap, config: TrainConfig,
             first_step: int) -> Iterator[Tuple[Tensor, Tensor]]:
    dataset = CropDataset(frames, label_map, config)
    order = range(first_step * config.optim.batch, len(dataset))
    workers = config.data.workers
    loader = DataLoader(dataset, config.optim.batch, sampler=order, num_workers=workers,
                        worker_init_fn=_one_thread, prefetch_factor=4 if workers else None)
    return iter(loader)


def _one_thread(_worker: int) -> None:
    cv2.setNumThreads(0)  # the cores belong to the training process


def _report(run: RunDir, step: int, steps: int, losses: List[float], rate: float,
            per_step_s: float, batch: int) -> None:
    loss = sum(losses) / len(losses)
    left_s = (steps - step) * per_step_s
    run.log({'step': step, 'loss': round(loss, 5), 'learning_rate': rate,
             'images_per_s': round(batch / per_step_s, 2)})
    print(f'step {step}/{steps} loss {loss:.4f} lr {rate:.5f} {batch / per_step_s:.1f} images/s '
          f'{left_s / 60:.0f} min left', flush=True)


def _validate(run: RunDir, state: TrainingState, frames: Frames, label_map: LabelMap,
              config: InputConfig) -> None:
    model = build_model(run.config().model, len(label_map))
    model.load_state_dict(state.average())
    scores = dataset_scores(score_model(model, frames, len(label_map), config))
    iou = {slug: value if value is None else round(value, 4)
           for slug, value in zip(label_map.slugs, scores['iou'], strict=True)}
    run.log({'step': state.step, 'validation_miou': scores['miou'], 'validation_iou': iou})
    shown = ' '.join(f'{slug[:9]} {value:.2f}' for slug, value in iou.items() if value is not None)
    print(f'step {state.step} validation mIoU {scores["miou"]:.4f} {shown}', flush=True)


@torch.no_grad()
def score_model(model: nn.Module, frames: Frames, classes: int,
                config: InputConfig) -> np.ndarray:
    """
    Return the confusion matrix of a network on frames, both at the network's input size.

    A quick look while training; the numbers that count come from `offline_train evaluate`.
    """
    model.to(memory_format=torch.channels_last).eval()
    size = (config.height, config.width)
    matrix = np.zeros((classes, classes), np.int64)
    for index in range(len(frames)):
        image, mask = frames.read(index)
        image = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
        mask = cv2.resize(mask, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
        logits = model(normalise(torch.from_numpy(image)[None], config))
        logits = nn.functional.interpolate(logits, size=size, mode='bilinear')
        matrix += confusion_matrix(mask, logits[0].argmax(0).byte().numpy(), classes)
    return matrix
