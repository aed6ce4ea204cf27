# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Run folders and result files, found and read; no torch is needed to look at a run."""
from __future__ import annotations

from dataclasses import dataclass, field
import json
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

from evit_seg.core.errors import ConfigError, InputError
from offline_train.config import load_config, TrainConfig
from offline_train.reporting.records import (
    Bench,
    Evaluation,
    KINDS,
    parse_bench,
    parse_evaluation,
    read_json,
)
import yaml

Series = Dict[int, float]
"""Values by optimiser step, in the order of the steps."""


@dataclass(frozen=True)
class Log:
    """What a run wrote down while it trained."""

    loss: Series = field(default_factory=dict)
    terms: Dict[str, Series] = field(default_factory=dict)
    validation_miou: Series = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """A run folder; `name` is its folder's, with as many parents as tell it from the others."""

    path: Path
    name: str
    config: TrainConfig
    git: str
    log: Log

    @property
    def distilled(self) -> bool:
        """Whether a teacher taught it."""
        return bool(self.config.teacher.path)


@dataclass(frozen=True)
class Collection:
    """All that was found, results with the run folder they lie in (None: outside of any)."""

    runs: Tuple[Run, ...]
    evaluations: Tuple[Tuple[Evaluation, Optional[Run]], ...]
    benches: Tuple[Tuple[Bench, Optional[Run]], ...]


def read_collection(paths: Sequence[Path]) -> Collection:
    """
    Read run folders, folders of run folders and single result files.

    A result belongs to the nearest run folder above it. InputError for a path that holds neither,
    a file that is not readable JSON, or a log or configuration that does not fit.
    """
    folders: List[Path] = []
    files: List[Path] = []
    for path in paths:
        if path.is_dir():
            mine = sorted(found.parent.resolve() for found in path.rglob('config.yaml'))
            results = [found.resolve() for found in sorted(path.rglob('*.json'))
                       if _kind(read_json(found)) in KINDS]
            if not mine and not results:
                raise InputError(f'{path}: expected a run folder (config.yaml), a folder of such, '
                                 'or JSON files of evaluate or bench below it; found none')
            folders += mine
            files += results
        elif path.is_file():
            files.append(_result_file(path))
            folders += [above for above in path.resolve().parents
                        if (above / 'config.yaml').is_file()][:1]
        else:
            raise InputError(f'{path}: expected a run folder or a result file, there is none')
    folders, files = list(dict.fromkeys(folders)), list(dict.fromkeys(files))
    names = unique_names(folders)
    runs = {folder: _read_run(folder, names[folder]) for folder in folders}
    evaluations, benches = [], []
    for file in files:
        content = read_json(file)
        owner = next((runs[above] for above in file.parents if above in runs), None)
        if content['kind'] == 'evaluate':
            evaluations.append((parse_evaluation(content, file), owner))
        else:
            benches.append((parse_bench(content, file), owner))
    return Collection(tuple(runs.values()), tuple(evaluations), tuple(benches))


def unique_names(folders: Sequence[Path]) -> Dict[Path, str]:
    """Return the shortest ends of paths that tell them apart."""
    names = {}
    for folder in folders:
        parts = 1
        while any(other != folder and other.parts[-parts:] == folder.parts[-parts:]
                  for other in folders):
            parts += 1
        names[folder] = '/'.join(folder.parts[-parts:])
    return names


def _kind(content: Any) -> Any:
    return content.get('kind') if isinstance(content, dict) else None


def _result_file(path: Path) -> Path:
    kind = _kind(read_json(path))
    if kind not in KINDS:
        raise InputError(f'{path}: expected a result file with kind evaluate or bench, '
                         f'got kind {kind!r}; evaluate --json and bench --json write them')
    return path.resolve()


def _read_run(folder: Path, name: str) -> Run:
    try:
        config = load_config(folder / 'config.yaml')
    except ConfigError as error:
        raise InputError(f'{folder / "config.yaml"}: {error}') from error
    provenance: Any = {}
    path = folder / 'provenance.yaml'
    if path.is_file():
        try:
            provenance = yaml.safe_load(path.read_text(encoding='utf-8'))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise InputError(f'{path}: expected a readable YAML file: {error}') from error
    git = provenance.get('git') if isinstance(provenance, dict) else None
    return Run(folder, name, config, str(git or ''), _read_log(folder / 'log.jsonl'))


def _read_log(path: Path) -> Log:
    """Return the log; of a step that stands there twice, as after a resume, the last counts."""
    log = Log()
    if not path.is_file():
        return log
    for number, line in enumerate(path.read_text(encoding='utf-8').splitlines(), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            step = int(record['step'])
            if 'loss' in record:
                log.loss[step] = float(record['loss'])
            for term, value in (record.get('terms') or {}).items():
                log.terms.setdefault(str(term), {})[step] = float(value)
            if record.get('validation_miou') is not None:
                log.validation_miou[step] = float(record['validation_miou'])
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise InputError(f'{path}, line {number}: expected a JSON record with a step, got '
                             f'{line[:60]!r}: {error}; a run that was cut off leaves a partial '
                             'last line, which can be deleted') from error
    return Log(_by_step(log.loss), {t: _by_step(s) for t, s in sorted(log.terms.items())},
               _by_step(log.validation_miou))


def _by_step(series: Series) -> Series:
    return dict(sorted(series.items()))
