# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Train a network, alone or with a teacher: one run folder in, checkpoints and a log out.

The stage reads from top to bottom: data, teacher, network, the loop. It runs as it is on a CPU or
a GPU, and on several under `torchrun` or `accelerate launch`, each process on its share of a step.
"""
from __future__ import annotations

import argparse
import gc
from pathlib import Path
import time
from typing import Any, Callable, Dict, Iterator, List, Optional

from accelerate import Accelerator, DistributedDataParallelKwargs
import cv2
from evit_seg.core.errors import ConfigError
from evit_seg.core.labels import LabelMap
from evit_seg.core.metrics import confusion_matrix, dataset_scores
import numpy as np
from offline_train.config import InputConfig, load_config, TrainConfig
from offline_train.data.crops import class_weights, CropDataset
from offline_train.data.folder import Frames
from offline_train.data.sources import open_sources, Sources
from offline_train.distillation.cache import CachedLogits
from offline_train.distillation.teacher import normalise, open_teacher, teacher_sha256
from offline_train.models import build_model
from offline_train.objective import Batch, Lesson, Objective
from offline_train.run_dir import RunDir, RunLog
from offline_train.run_network import follow_initial
from offline_train.surgery.cuts import apply_cuts
from offline_train.training_state import learning_rate, TrainingState
import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `offline_train train`."""
    parser.add_argument('--config', type=Path, help='YAML such as config/train/demo.yaml')
    parser.add_argument('--out', type=Path, help='new run folder')
    parser.add_argument('--resume', type=Path, metavar='RUN',
                        help='go on with this run from its latest checkpoint, its own config')
    parser.add_argument('overrides', nargs='*', metavar='section.key=value',
                        help='such as data.train=[scenes/train] optim.steps=2000')
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = """\
one process:      offline_train train --config config/train/demo.yaml --out runs/a
several GPUs:     torchrun --nproc-per-node 4 -m offline_train train --config ... --out runs/a
a described set:  ... data.dataset=lpcv2023 data.root=LPCV model.name=upernet_mobilevit_s
                  input.height=512 input.width=512 augment.crop_height=512 augment.crop_width=512
every key with its meaning stands in offline_train/sections.py"""


def main(args: argparse.Namespace) -> int:
    """Run `offline_train train`."""
    run_stage(args, _check_alone)
    return 0


def _check_alone(config: TrainConfig) -> None:
    if config.teacher.path:
        raise ConfigError('teacher.path: expected none for train; with a teacher the stage is '
                          '`offline_train distil`')


def run_stage(args: argparse.Namespace, check: Callable[[TrainConfig], None]) -> None:
    """
    Go on with a run, or make a new one and train it to its end.

    `check` raises where the configuration is not the stage's. A new run's folder is made when the
    data have been read once and found whole; of several processes the first makes it.
    """
    if args.resume is not None:
        if args.config is not None or args.out is not None or args.overrides:
            raise ConfigError("--resume takes the run's own configuration: leave out --config, "
                              '--out and overrides')
        run = RunDir.open(args.resume)
        check(run.config())
        train(run, open_sources(run.config().data))
        _leave_processes()
        return
    if args.out is None:
        raise ConfigError('--out: expected the name of a new run folder')
    config = follow_initial(load_config(args.config, args.overrides))
    check(config)
    sources = open_sources(config.data)
    accelerator = accelerator_for(config)
    if accelerator.is_main_process:
        RunDir.create(args.out, config)
    accelerator.wait_for_everyone()
    train(RunDir.open(args.out), sources)
    _leave_processes()


def _leave_processes() -> None:
    """
    Join the threads that talk to the other processes, once training holds nothing of theirs.

    A process that ends with them alive is now and then aborted by them, its work done (PyTorch
    issue 190489). Only after success: with a process failing elsewhere this would wait for it.
    """
    if torch.distributed.is_initialized():
        gc.collect()
        torch.distributed.destroy_process_group()


def accelerator_for(config: TrainConfig) -> Accelerator:
    """Return this process's place among all: device, rank, how gradients are shared."""
    return Accelerator(cpu=config.run.device == 'cpu', kwargs_handlers=[
        DistributedDataParallelKwargs(find_unused_parameters=True)])


def train(run: RunDir, sources: Sources) -> None:
    """Train a run to its last step, from its latest checkpoint if it has one."""
    config = run.config()
    if config.run.threads:
        torch.set_num_threads(config.run.threads)
    accelerator = accelerator_for(config)
    share = config.optim.batch // (accelerator.num_processes * config.optim.accumulate)
    if share * accelerator.num_processes * config.optim.accumulate != config.optim.batch:
        raise ConfigError(f'optim.batch: expected a multiple of {accelerator.num_processes} '
                          f'processes x optim.accumulate {config.optim.accumulate}, '
                          f'got {config.optim.batch}')
    state = open_state(config, sources, accelerator, fresh=not run.checkpoints())
    if run.checkpoints():
        state.load(run)
    elif config.model.initial:
        state.start_from(RunDir.open(Path(config.model.initial)))
    if state.step >= config.optim.steps:
        print(f'{run.path} has all its {config.optim.steps} steps')
        return
    _loop(run, config, accelerator, sources, state)


def open_state(config: TrainConfig, sources: Sources, accelerator: Accelerator, *,
               fresh: bool = True) -> TrainingState:
    """Return the state before the first step; `fresh`: from the weights the config names."""
    classes = len(sources.label_map)
    weights_C = torch.from_numpy(class_weights(
        sources.train.counts.sum(axis=0) if sources.train else np.ones(classes),
        config.loss.class_weight_power, config.loss.class_weight_max))
    lesson = _open_lesson(config, sources, accelerator)
    torch.manual_seed(config.run.seed)
    network = build_model(config.model, classes, config.input, fresh=fresh)
    if accelerator.num_processes > 1 and accelerator.device.type == 'cuda':
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    return TrainingState(Objective(network, config, weights_C, lesson), config, accelerator)


def _loop(run: RunDir, config: TrainConfig, accelerator: Accelerator, sources: Sources,
          state: TrainingState) -> None:
    first, steps = state.step, config.optim.steps
    log = RunLog(run, first) if accelerator.is_main_process else None
    bar = tqdm(total=steps, initial=first, unit='step', dynamic_ncols=True,
               disable=None if log else True)  # None: shown on a terminal only
    if log:
        parameters = sum(p.numel() for p in state.network.parameters())
        frames = sum(len(f) for f in (sources.train, sources.unlabeled) if f)
        bar.write(f'{frames} frames, {parameters} parameters, steps {first} to {steps} of '
                  f'{config.optim.batch} crops on {accelerator.num_processes} x '
                  f'{accelerator.device.type}, {config.optim.precision}')
    started_s, seen = time.perf_counter(), []
    for batch in batches(sources, config, first, accelerator):
        rate = learning_rate(state.step, config.optim)
        seen.append(state.update(batch))
        bar.update()
        if log and (state.step % config.run.log_every == 0 or state.step == steps):
            per_step_s = (time.perf_counter() - started_s) / (state.step - first)
            log.add(_record(state.step, seen, rate, config.optim.batch / per_step_s))
            bar.set_postfix(loss=f'{log.last["loss"]:.4f}')
            if bar.disable:
                print(_line(log.last, steps, per_step_s), flush=True)
            seen = []
        if state.step % config.run.validate_every == 0 or state.step == steps:
            if log and sources.validation is not None:
                _validate(log, state, sources.validation, sources.label_map, config,
                          accelerator.device)
            if log:
                run.save_checkpoint(state.step, state.tensors(), config.run.keep)
            accelerator.wait_for_everyone()
    bar.close()
    if log:
        log.close()


def _open_lesson(config: TrainConfig, sources: Sources,
                 accelerator: Accelerator) -> Optional[Lesson]:
    """Return the teacher, its answers to whole frames computed first if they are to be kept."""
    if not config.teacher.path:
        return None
    teacher = open_teacher(config.teacher, sources.label_map, accelerator.device,
                           config.optim.precision)
    if not config.teacher.cache:
        return Lesson(teacher)
    frames = [f for f in (sources.train, sources.unlabeled) if f]
    identity = repr((teacher_sha256(config.teacher), config.teacher, config.data,
                     [(len(f), f.counts.sum(axis=0).tolist()) for f in frames], config.input))
    with accelerator.main_process_first():
        cache = CachedLogits(Path(config.teacher.cache), identity, teacher, frames, config.input)
    return Lesson(teacher, cache)


def batches(sources: Sources, config: TrainConfig, first_step: int,
            accelerator: Accelerator) -> Iterator[Batch]:
    """Yield this process's crops of each step; which crop is which depends on its index alone."""
    dataset = CropDataset(sources.train, sources.label_map, config, sources.unlabeled)
    whole = config.optim.batch
    share = whole // accelerator.num_processes
    offset = accelerator.process_index * share
    order = [step * whole + offset + i for step in range(first_step, config.optim.steps)
             for i in range(share)]
    workers = config.data.workers
    loader: DataLoader[Dict[str, torch.Tensor]] = DataLoader(
        dataset, share, sampler=order, num_workers=workers, worker_init_fn=_one_thread,
        prefetch_factor=4 if workers else None)
    for batch in loader:
        yield {key: value.to(accelerator.device, non_blocking=True)
               for key, value in batch.items()}


def _one_thread(_worker: int) -> None:
    cv2.setNumThreads(0)  # the cores belong to the training process


def _record(step: int, seen: List[Dict[str, float]], rate: float,
            images_per_s: float) -> Dict[str, Any]:
    means = {name: round(sum(terms[name] for terms in seen) / len(seen), 7) for name in seen[0]}
    loss = means.pop('loss')
    return {'step': step, 'loss': loss, 'terms': means, 'learning_rate': rate,
            'images_per_s': round(images_per_s, 2)}


def _line(record: Dict[str, Any], steps: int, per_step_s: float) -> str:
    terms = ' '.join(f'{name} {value:.4f}' for name, value in record['terms'].items())
    left_s = (steps - record['step']) * per_step_s
    return (f'step {record["step"]}/{steps} loss {record["loss"]:.4f} ({terms}) lr '
            f'{record["learning_rate"]:.5f} {record["images_per_s"]:.1f} images/s '
            f'{left_s / 60:.0f} min left')


def _validate(log: RunLog, state: TrainingState, frames: Frames, label_map: LabelMap,
              config: TrainConfig, device: torch.device) -> None:
    model = build_model(config.model, len(label_map), config.input)
    model.load_state_dict(state.average())
    apply_cuts(model, state.closed_cuts(model))  # what would fly: without the closed gates
    matrix = score_model(model.to(device), frames, len(label_map), config.input)
    scores = dataset_scores(matrix)
    iou = {slug: value if value is None else round(value, 4)
           for slug, value in zip(label_map.slugs, scores['iou'], strict=True)}
    log.add({'step': state.step, 'validation_miou': scores['miou'], 'validation_iou': iou})
    shown = ' '.join(f'{slug[:9]} {value:.2f}' for slug, value in iou.items() if value is not None)
    tqdm.write(f'step {state.step} validation mIoU {scores["miou"]:.4f} {shown}')


@torch.no_grad()
def score_model(model: nn.Module, frames: Frames, classes: int,
                config: InputConfig) -> np.ndarray:
    """
    Return the confusion matrix of a network on frames, both at the network's input size.

    A quick look while training; the numbers that count come from `offline_train evaluate`.
    """
    model.to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    device = next(model.parameters()).device
    size = (config.height, config.width)
    matrix = np.zeros((classes, classes), np.int64)
    for index in range(len(frames)):
        image, mask = frames.read(index)
        image = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
        mask = cv2.resize(mask, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
        logits = model(normalise(torch.from_numpy(image)[None].to(device), config))
        logits = nn.functional.interpolate(logits, size=size, mode='bilinear')
        matrix += confusion_matrix(mask, logits[0].argmax(0).byte().cpu().numpy(), classes)
    return matrix
