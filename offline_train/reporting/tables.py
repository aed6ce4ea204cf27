# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The paper's Table 2 for our own runs, the paper's numbers beside them."""
from __future__ import annotations

from typing import Any, Dict, List, Optional, Sequence, Tuple

from evit_seg.core.metrics import paper_score
from offline_train.reporting.join import data_keys, Entry
from offline_train.reporting.page import Column, Row, Table
from offline_train.reporting.paper import Paper
from offline_train.reporting.records import Bench, DataKey, Evaluation, size_text

PERSON = 'person'
PAPER_BAND = 'paper'
DATA_KEYS = ('data', 'split', 'frames', 'compared_at', 'masks_sha256')
TABLE2_KEYS = (
    *DATA_KEYS, 'run', 'network', 'distilled', 'precision', 'bundle_sha256', 'machine', 'frame',
    'input',
    'fps', 'p50_ms', 'p95_ms', 'accuracy', 'miou', 'lpcv_dice', 'parameters', 'gmacs',
    'peak_rss_mb', 'gpu_mb', 'energy_mj_per_frame', 'energy_source', 'load_1min', 'paper_score',
    'paper_name', 'paper_data', 'paper_fps_rtx4090', 'paper_fps_nano', 'paper_accuracy',
    'paper_miou', 'paper_parameters', 'paper_score_nano')
UNMEASURED = 'not evaluated'
SAME_SIZE = 0.05
"""Networks whose parameters differ by more than this part are not the same: one was pruned."""


def data_cells(data: Optional[DataKey]) -> Dict[str, Any]:
    """Return the cells that say what scores were taken on."""
    if data is None:
        return {}
    return {'data': data.name, 'split': data.split, 'frames': data.frames,
            'compared_at': size_text(data.size_hw) or 'native',
            'masks_sha256': data.masks_sha256 or None}


def model_rows(entries: Sequence[Entry], data: Optional[DataKey], paper: Paper) -> List[Row]:
    """
    Return a row per entry and measurement of speed, scores of `data` only.

    `data` None: the entries that were not evaluated on anything.
    """
    rows: List[Row] = []
    for entry in entries:
        scores = None if data is None else entry.on(data)
        if (data is None) == bool(entry.evaluations) or (data is not None and scores is None):
            continue
        for bench in entry.benches or (None,):
            rows.append({**data_cells(data), **_entry_cells(entry), **score_cells(scores),
                         **_bench_cells(bench, scores), **_paper_cells(entry, paper)})
    return rows


def _entry_cells(entry: Entry) -> Dict[str, Any]:
    bundle = entry.bundle
    parameters = bundle.parameters if bundle else None
    network = entry.network or None
    taught = ' + KD' if entry.run and entry.run.distilled else ''
    return {'run': entry.name, 'network': network, 'title': network and f'{network}{taught}',
            'distilled': ('yes' if entry.run.distilled else 'no') if entry.run else None,
            'precision': entry.precision or None, 'parameters': parameters,
            'parameters_m': None if parameters is None else parameters / 1e6,
            'gmacs': bundle.gmacs if bundle else None,
            'bundle_sha256': bundle.sha256 if bundle else None}


def score_cells(scores: Optional[Evaluation]) -> Dict[str, Any]:
    """Return the cells of a model's scores, none where it was not evaluated."""
    if scores is None:
        return {}
    person = scores.of_class(PERSON)
    return {'accuracy': scores.accuracy, 'miou': scores.miou, 'lpcv_dice': scores.dice,
            'person_iou': person.iou if person else None,
            'person_recall': person.recall if person else None}


def _bench_cells(bench: Optional[Bench], scores: Optional[Evaluation]) -> Dict[str, Any]:
    if bench is None:
        return {}
    score = None
    if scores is not None and scores.miou is not None and bench.fps:
        score = paper_score(scores.miou, 1.0 / bench.fps)
    cells = {'machine': bench.setup, 'frame': size_text(bench.frame_hw) or None,
             'input': size_text(bench.input_hw) or None, 'bench_notes': bench.notes,
             'fps': bench.fps, 'p50_ms': bench.p50_ms, 'p95_ms': bench.p95_ms,
             'peak_rss_mb': bench.peak_rss_mb, 'gpu_mb': bench.gpu_mb,
             'energy_mj_per_frame': bench.energy_mj, 'load_1min': bench.load,
             'energy_source': bench.energy_source or None, 'paper_score': score}
    return cells if bench.gmacs is None else {**cells, 'gmacs': bench.gmacs}


def _paper_cells(entry: Entry, paper: Paper) -> Dict[str, Any]:
    distilled = bool(entry.run and entry.run.distilled)
    row = paper.find(entry.network, distilled, entry.precision or 'fp32')
    own = entry.bundle.parameters if entry.bundle else None
    if row is None or (own and row.parameters_m and
                       abs(own / 1e6 / row.parameters_m - 1.0) > SAME_SIZE):
        return {}
    parameters = None if row.parameters_m is None else round(row.parameters_m * 1e6)
    return {'paper_name': row.name, 'paper_data': paper.data, 'paper_fps_rtx4090': row.fps_gpu,
            'paper_fps_nano': row.fps_board, 'paper_accuracy': row.accuracy,
            'paper_miou': row.miou, 'paper_parameters': parameters,
            'paper_parameters_m': row.parameters_m, 'paper_score_nano': row.score}


def table2(entries: Sequence[Entry], paper: Paper) -> Tuple[List[Table], List[Row]]:
    """Return Table 2, one table per data that scores were taken on, and all its rows."""
    tables, rows = [], []
    for data in [*data_keys(entries), None]:
        mine = model_rows(entries, data, paper)
        if mine:
            rows += mine
            tables.append(_table2(str(data) if data else UNMEASURED, mine, paper))
    return tables, rows


def _table2(title: str, rows: Sequence[Row], paper: Paper) -> Table:
    letters = machine_letters(rows)
    sizes, inputs = _values(rows, 'frame'), _values(rows, 'input')
    shown = tuple({**row, 'letter': letters.get(row.get('machine') or '')} for row in rows)
    columns = (
        Column('run', 'model'), Column('title', 'network'), Column('precision', 'precision'),
        *((Column('frame', 'frame, px'),) if len(sizes) > 1 else ()),
        *((Column('input', 'input, px'),) if len(inputs) > 1 else ()),
        *((Column('letter', 'on'),) if len(letters) > 1 else ()), Column('fps', 'FPS', 2),
        Column('accuracy', 'Acc', 3), Column('miou', 'mIoU', 3),
        Column('lpcv_dice', 'Dice (LPCV)', 3), Column('parameters_m', 'params, M', 2),
        Column('gmacs', 'GMACs', 2), Column('peak_rss_mb', 'peak RSS, MB', 0),
        Column('gpu_mb', 'GPU, MB', 0, optional=True),
        Column('energy_mj_per_frame', 'energy, mJ/frame', 1), Column('paper_score', 'score', 3),
        *(Column(key, name, digits, PAPER_BAND, optional=True) for key, name, digits in (
            ('paper_fps_rtx4090', 'FPS RTX 4090', 2), ('paper_fps_nano', 'FPS Nano', 2),
            ('paper_accuracy', 'Acc', 2), ('paper_miou', 'mIoU', 4),
            ('paper_parameters_m', 'params, M', 1), ('paper_score_nano', 'score', 3))))
    return Table(f'Table 2: {title}', columns, shown, tuple(_table2_notes(rows, paper)),
                 {PAPER_BAND: f'paper: {paper.source}, {paper.data}'})


def _values(rows: Sequence[Row], key: str) -> List[str]:
    return [value for value in dict.fromkeys(row.get(key) for row in rows) if value]


def machine_letters(rows: Sequence[Row]) -> Dict[str, str]:
    """Return A, B, ... for each machine and engine that the rows were measured on."""
    return {setup: chr(ord('A') + i) for i, setup in enumerate(_values(rows, 'machine'))}


def machine_notes(rows: Sequence[Row]) -> List[str]:
    """Return the sentences that name the machines of a table."""
    letters = machine_letters(rows)
    return [f'Speed and memory{f", on {letter}" if len(letters) > 1 else ""}: {setup}.'
            for setup, letter in letters.items()]


def _table2_notes(rows: Sequence[Row], paper: Paper) -> List[str]:
    notes = machine_notes(rows)
    for key, what in (('frame', 'Frames timed'), ('input', "The networks' inputs")):
        if len(_values(rows, key)) == 1:
            notes.append(f'{what}: {_values(rows, key)[0]} px.')
    measured = [row for row in rows if row.get('machine')]
    loads = sorted(row['load_1min'] for row in measured if row['load_1min'] is not None)
    if loads:
        span = f'{loads[0]:.1f}' if loads[0] == loads[-1] else f'{loads[0]:.1f} to {loads[-1]:.1f}'
        notes.append(f'One-minute load of the machine before the measurements: {span}.')
    energy = dict.fromkeys((row['energy_mj_per_frame'] is not None, row['energy_source'])
                           for row in measured if row['energy_source'])
    notes += [f'Energy{"" if known else " not measured"}: {source}.' for known, source in energy]
    notes += _bench_notes(measured)
    if any(row.get('paper_score') is not None for row in rows):
        notes.append('score = mIoU / seconds per image = mIoU x FPS, both of the same row.')
    if any(row.get('paper_name') for row in rows):
        notes.append(f'The paper measured on {paper.data}, its score is {paper.score}: other data '
                     'and other machines than ours. Its numbers stand beside ours for the same '
                     'network, teacher or not, and precision; the two are not compared.')
    return notes


def _bench_notes(measured: Sequence[Row]) -> List[str]:
    """Return what bench says of the figures, once, with the models it does not hold for all of."""
    notes: Dict[str, Dict[str, None]] = {}
    for row in measured:
        for note in row['bench_notes']:
            if not note.startswith('energy:'):  # the source says it already
                notes.setdefault(note, {})[row['run']] = None
    everyone = {row['run'] for row in measured}
    return [note if set(runs) == everyone else f'{", ".join(runs)}: {note}'
            for note, runs in notes.items()]


def absent_networks(entries: Sequence[Entry], paper: Paper) -> List[str]:
    """Return the paper's rows that no entry here is a counterpart of."""
    there = {cells['paper_name'] for cells in (_paper_cells(e, paper) for e in entries) if cells}
    return [row.name for row in paper.networks if row.name not in there]


def energy_table(entries: Sequence[Entry], paper: Paper) -> Optional[Table]:
    """Return the energy paper's numbers for the networks that are here, None if none is."""
    rows = []
    for row in paper.networks:
        if any(e.run and (e.network, e.run.distilled) == (row.model, row.distilled)
               for e in entries):
            rows.append({'name': row.name, 'model': row.model, 'parameters_m': row.parameters_m,
                         'miou': row.miou, 'latency_ms': row.latency_ms,
                         'energy_mj': row.energy_mj, 'note': row.note or None})
    if not rows:
        return None
    columns = (Column('name', 'network'), Column('model', 'here'),
               Column('parameters_m', 'params, M', 1), Column('miou', 'mIoU', 3),
               Column('latency_ms', 'latency, ms', 0), Column('energy_mj', 'energy, mJ/frame', 0),
               Column('note', 'note', optional=True))
    return Table(f'The energy paper, on {paper.data}', columns, tuple(rows), (
        f'{paper.source}; measured on {paper.machine}. Not comparable with the tables above.',))
