# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The paper's Table 3: what compression of one network costs and gains."""
from __future__ import annotations

from typing import Any, Dict, List, Sequence, Tuple

from offline_train.reporting.join import data_keys, Entry, families, find_run
from offline_train.reporting.page import Column, Row, Table
from offline_train.reporting.paper import Paper
from offline_train.reporting.runs import Run
from offline_train.reporting.tables import (
    DATA_KEYS,
    machine_letters,
    machine_notes,
    model_rows,
    UNMEASURED,
)

TABLE3_KEYS = (*DATA_KEYS, 'family', 'run', 'from', 'network', 'precision', 'machine',
               'parameters', 'miou', 'miou_change', 'fps', 'person_recall',
               'person_recall_change', 'source')


def table3(entries: Sequence[Entry], runs: Sequence[Run], paper: Paper
           ) -> Tuple[List[Table], List[Row]]:
    """
    Return the compression table: variants of one network, a table per data.

    Changes are against the first run of the family at fp32, on the same data. The paper's own
    compression rows follow in a table of their own.
    """
    tables: List[Table] = []
    rows: List[Row] = []
    found = [(name, [e for e in members if e.bundle])
             for name, members in families(entries, runs)]
    for data in [*data_keys(entries), None]:
        mine: List[Row] = []
        for family, members in found:
            variants = model_rows(members, data, paper)
            if len({(row['run'], row['precision']) for row in variants}) > 1:
                mine += [_variant_row(row, family, variants, members, runs) for row in variants]
        if mine:
            rows += mine
            tables.append(_table3(str(data or UNMEASURED), mine))
    if tables:
        own = [{'run': row.name, 'from': row.variant, 'parameters_m': row.parameters_m,
                'parameters': None if row.parameters_m is None else round(row.parameters_m * 1e6),
                'miou': row.miou, 'fps': row.fps, 'source': paper.source, 'data': paper.data}
               for row in paper.compression]
        rows += own
        tables.append(Table(f"Table 3: the paper's own, {paper.data}", (
            Column('run', 'network'), Column('from', 'variant'),
            Column('parameters_m', 'params, M', 1), Column('miou', 'mIoU', 3),
            Column('fps', 'FPS', 0)), tuple(own),
            (f'{paper.source}; other data and machine than ours.', *paper.compression_notes)))
    return tables, rows


def _variant_row(row: Row, family: str, found: Sequence[Row], members: Sequence[Entry],
                 runs: Sequence[Run]) -> Row:
    entry = next(e for e in members if (e.name, e.precision or None)
                 == (row['run'], row['precision']))
    initial = entry.run.config.model.initial if entry.run else ''
    parent = find_run(initial, runs) if initial else None
    root = next((r for r in found if r['run'] == found[0]['run'] and r['precision'] == 'fp32'),
                None)
    cells: Dict[str, Any] = {**row, 'family': family, 'source': 'measured here',
                             'from': parent.name if parent else initial or None}
    for key in ('miou', 'person_recall'):
        if root is not None and (row['run'], row['precision']) != (root['run'], 'fp32') \
                and row.get(key) is not None and root.get(key) is not None:
            cells[f'{key}_change'] = 100.0 * (row[key] - root[key])
    return cells


def _table3(title: str, rows: Sequence[Row]) -> Table:
    letters = machine_letters(rows)
    shown = tuple({**row, 'letter': letters.get(row.get('machine') or '')} for row in rows)
    return Table(f'Table 3: {title}', (
        Column('family', 'family'), Column('run', 'variant'),
        Column('from', 'starts from', optional=True), Column('precision', 'precision'),
        Column('parameters_m', 'params, M', 2), Column('miou', 'mIoU', 3),
        Column('miou_change', 'mIoU change, points', 1),
        *((Column('letter', 'on'),) if len(letters) > 1 else ()), Column('fps', 'FPS', 2),
        Column('person_recall', 'Person recall', 3),
        Column('person_recall_change', 'recall change, points', 1)), shown, (
        *machine_notes(rows), 'A family is a run at each precision and the runs that start from '
        'it. Changes: against its first row at fp32, in points of 0.01.'))
