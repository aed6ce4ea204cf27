# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
The folder of one run: its configuration, provenance, log and checkpoints.

    config.yaml          the whole configuration
    provenance.yaml      git commit, command, version of torch, the run it started from
    log.jsonl            one record a line: training, validation
    tensorboard/         the same numbers as TensorBoard events
    checkpoints/step_000400.safetensors

A run folder is never overwritten. Checkpoints are safetensors: nothing in them can run code.
"""
from __future__ import annotations

from dataclasses import dataclass
import json
from pathlib import Path
import shlex
import subprocess
import sys
from typing import Any, Dict, List, Mapping

from evit_seg.core.errors import ConfigError, InputError
from offline_train.config import config_to_dict, load_config, TrainConfig
from safetensors import safe_open, SafetensorError
from safetensors.torch import save_file
import torch
from torch.utils.tensorboard import SummaryWriter
import yaml


@dataclass(frozen=True)
class RunDir:
    """An existing run folder."""

    path: Path

    @classmethod
    def create(cls, path: Path, config: TrainConfig) -> RunDir:
        """Make a new run folder; ConfigError if something is there already."""
        if path.exists() and any(path.iterdir()):
            raise ConfigError(f'{path} holds a run already and is not overwritten; '
                              'name another folder with --out, or continue it with --resume')
        (path / 'checkpoints').mkdir(parents=True, exist_ok=True)
        parents = []
        for role, parent_path in (('initial', config.model.initial),
                                  ('teacher', config.teacher.path)):
            if parent_path and (Path(parent_path) / 'config.yaml').is_file():
                parent = cls.open(Path(parent_path))
                parents.append({'role': role, **parent.provenance(),
                                'step': parent.step_of()})
            elif role == 'initial' and parent_path:
                cls.open(Path(parent_path))
        _write_yaml(path / 'config.yaml', config_to_dict(config))
        _write_yaml(path / 'provenance.yaml', {**provenance(), 'parents': parents})
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> RunDir:  # noqa: A003
        """Open a run folder; InputError if it is none."""
        if not (path / 'config.yaml').is_file():
            raise InputError(f'{path}: expected a run folder with config.yaml, found none')
        return cls(path)

    def config(self) -> TrainConfig:
        """Return the configuration the run was started with."""
        return load_config(self.path / 'config.yaml')

    def provenance(self) -> Dict[str, Any]:
        """Return what the run was made by: git, command, and the same of the runs before it."""
        content: Dict[str, Any] = yaml.safe_load(
            (self.path / 'provenance.yaml').read_text(encoding='utf-8'))
        return content

    def records(self) -> List[Dict[str, Any]]:
        """Return the records of the log, oldest first."""
        path = self.path / 'log.jsonl'
        if not path.is_file():
            return []
        return [json.loads(line) for line in path.read_text(encoding='utf-8').splitlines()]

    def checkpoints(self) -> List[Path]:
        """Return the checkpoints, oldest first."""
        return sorted((self.path / 'checkpoints').glob('step_*.safetensors'))

    def save_checkpoint(self, step: int, tensors: Mapping[str, torch.Tensor], keep: int) -> Path:
        """Write the checkpoint of a step and delete all but the newest `keep`."""
        target = self.path / 'checkpoints' / f'step_{step:06d}.safetensors'
        partial = target.with_suffix('.partial')
        save_file({k: v.detach().contiguous() for k, v in tensors.items()}, partial,
                  metadata={'step': str(step)})
        partial.replace(target)
        for old in self.checkpoints()[:-max(keep, 1)]:
            old.unlink()
        return target

    def find_checkpoint(self, name: str = 'latest') -> Path:
        """Return the file of a checkpoint: the latest, or the one of a step such as '400'."""
        found = self.checkpoints()
        if name != 'latest':
            found = [path for path in found if str(_step(path)) == name]
        if not found:
            raise InputError(f'{self.path}: expected a checkpoint ({name}), found none')
        return found[-1]

    def step_of(self, name: str = 'latest') -> int:
        """Return how many steps a checkpoint has behind it."""
        return _step(self.find_checkpoint(name))

    def load_checkpoint(self, name: str = 'latest') -> Checkpoint:
        """Return a checkpoint: the latest, or the one of a step such as '400'."""
        path = self.find_checkpoint(name)
        try:
            with safe_open(path, framework='pt') as file:
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
                return Checkpoint(int(file.metadata()['step']), tensors)
        except (SafetensorError, OSError) as error:
            raise InputError(f'{path}: expected a whole safetensors file: {error}') from error


class RunLog:
    """
    The log of a run that is at `step`: JSON lines and TensorBoard events, each step once.

    What an interrupted run had written beyond its last checkpoint is taken out, because those
    steps are made again.
    """

    def __init__(self, run: RunDir, step: int) -> None:
        self._path = run.path / 'log.jsonl'
        kept = [json.dumps(record) for record in run.records() if record['step'] <= step]
        self._path.write_text(''.join(f'{line}\n' for line in kept), encoding='utf-8')
        self._events = SummaryWriter(str(run.path / 'tensorboard'), purge_step=step + 1)
        self.last: Dict[str, Any] = {}

    def add(self, record: Mapping[str, Any]) -> None:
        """Append one record: `step`, numbers, and mappings of numbers by name."""
        self.last = dict(record)
        with self._path.open('a', encoding='utf-8') as out:
            out.write(json.dumps(self.last) + '\n')
        step = self.last['step']
        for name, value in self.last.items():
            parts = value if isinstance(value, dict) else {'': value}
            for part, number in parts.items():
                if name != 'step' and number is not None:
                    self._events.add_scalar(f'{name}/{part}' if part else name, number, step)

    def close(self) -> None:
        """Write out what the events still hold back."""
        self._events.close()


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a training state after `step` steps, by dotted names."""

    step: int
    tensors: Dict[str, torch.Tensor]

    def part(self, prefix: str) -> Dict[str, torch.Tensor]:
        """Return the tensors under a prefix such as 'ema', the prefix taken off."""
        start = len(prefix) + 1
        return {key[start:]: value for key, value in self.tensors.items()
                if key.startswith(f'{prefix}.')}


def _step(checkpoint: Path) -> int:
    return int(checkpoint.stem.split('_')[1])


def provenance() -> Dict[str, Any]:
    """Return the git commit of the source tree, the command line and torch's version."""
    return {'git': _git_commit(), 'command': shlex.join(['offline_train', *sys.argv[1:]]),
            'torch': str(torch.__version__)}


def _git_commit() -> str:
    """Return the commit of the source tree, '-dirty' after it if files differ, or 'unknown'."""
    folder = Path(__file__).resolve().parent
    try:
        described = subprocess.run(
            ['git', 'describe', '--always', '--dirty', '--abbrev=12', '--exclude=*'], cwd=folder,
            capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return 'unknown'  # installed without its history: said in the manifest, not an error
    return described.stdout.strip()


def _write_yaml(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(yaml.safe_dump(dict(content), sort_keys=False), encoding='utf-8')
