# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The runs themselves, and mean and spread over runs that differ in their seed only."""
from __future__ import annotations

from statistics import mean, stdev
from typing import Any, Dict, List, Optional, Sequence, Tuple

from offline_train.reporting.join import Arm, arms, data_keys, Entry, grouped, run_arms
from offline_train.reporting.page import Column, Row, Table
from offline_train.reporting.records import DataKey
from offline_train.reporting.runs import Run
from offline_train.reporting.tables import data_cells, DATA_KEYS, score_cells

SEED_METRICS = (('miou', 'mIoU'), ('accuracy', 'Acc'), ('lpcv_dice', 'Dice (LPCV)'),
                ('person_iou', 'Person IoU'), ('person_recall', 'Person recall'))
SEED_KEYS = (*DATA_KEYS, 'model', 'n', 'seeds',
             *(f'{key}_{kind}' for key, _ in SEED_METRICS for kind in ('mean', 'sd')))


def run_table(runs: Sequence[Run]) -> Optional[Table]:
    """Return what each run was and where its training ended, None without runs."""
    rows = []
    for run in runs:
        validation = list(run.log.validation_miou.items())
        best = max(validation, key=lambda item: item[1], default=(None, None))
        config = run.config
        rows.append({
            'run': run.name, 'network': config.model.name, 'seed': config.run.seed,
            'teacher': config.teacher.path or None, 'initial': config.model.initial or None,
            'data': validation_name(run),
            'steps': f'{max(run.log.loss, default=0)} of {config.optim.steps}',
            'last': validation[-1][1] if validation else None, 'best': best[1],
            'best_step': best[0], 'git': run.git or None})
    columns = (Column('run', 'run'), Column('network', 'network'), Column('data', 'validated on'),
               Column('initial', 'starts from', optional=True),
               Column('teacher', 'teacher', optional=True), Column('seed', 'seed'),
               Column('steps', 'steps'), Column('last', 'last mIoU', 3, 'validation'),
               Column('best', 'best mIoU', 3, 'validation'),
               Column('best_step', 'at step', None, 'validation'), Column('git', 'git'))
    if not rows:
        return None
    return Table('Runs', columns, tuple(rows), (
        "validation: mIoU on the run's own validation data while it trained; the best of many "
        'looks at one set flatters, tables of scores come from evaluate.',))


def seed_tables(entries: Sequence[Entry], runs: Sequence[Run]) -> Tuple[List[Table], List[Row]]:
    """Return mean and spread over the seeds of each configuration that has several."""
    tables: List[Table] = []
    rows: List[Row] = []
    for data in data_keys(entries):
        mine = [_seed_row(arm, [score_cells(e.on(data)) for e in arm.entries], data)
                for arm in arms([e for e in entries if e.on(data)]) if len(arm.entries) > 1]
        if mine:
            rows += mine
            tables.append(_seed_table(f'Seeds: {data}', mine))
    by_data = grouped(run_arms(runs), lambda arm: validation_name(arm.entries[0].run))
    for name, found in by_data.items():
        mine = [_seed_row(arm, [{'miou': _last_miou(e)} for e in arm.entries], None)
                for arm in found if len(arm.entries) > 1]
        mine = [{**row, 'data': name, 'split': 'last validation in training'} for row in mine
                if 'miou_mean' in row]
        if mine:
            rows += mine
            tables.append(_seed_table(f'Seeds, last validation in training: {name}', mine))
    return tables, rows


def validation_name(run: Optional[Run]) -> str:
    """Return what a run scored itself on while it trained: only those of one name compare."""
    if run is None:
        return ''
    data = run.config.data
    if data.dataset:
        return f'{data.dataset}, split {data.validation_split or "none"}'
    return f'{data.name} ({", ".join(data.validation) or "no validation"})'


def _last_miou(entry: Entry) -> Optional[float]:
    values = list(entry.run.log.validation_miou.values()) if entry.run else []
    return values[-1] if values else None


def _seed_row(arm: Arm, scores: Sequence[Row], data: Optional[DataKey]) -> Dict[str, Any]:
    row: Dict[str, Any] = {**data_cells(data), 'model': arm.label, 'n': len(arm.entries),
                           'seeds': ', '.join(map(str, arm.seeds))}
    for key, _ in SEED_METRICS:
        values = [score[key] for score in scores if score.get(key) is not None]
        if len(values) == len(scores):
            row[f'{key}_mean'], row[f'{key}_sd'] = mean(values), stdev(values)
            row[key] = f'{mean(values):.3f} ± {stdev(values):.3f}'
    return row


def _seed_table(title: str, rows: Sequence[Row]) -> Table:
    return Table(title, (Column('model', 'model'), Column('n', 'n'), Column('seeds', 'seeds'),
                         *(Column(key, name, optional=key != 'miou')
                           for key, name in SEED_METRICS)), tuple(rows), (
        'mean ± standard deviation over n runs that differ in run.seed only (divisor n - 1).',))
