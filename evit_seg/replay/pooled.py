# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
One bundle's numbers over all its bags.

Pooled from sums: the confusion matrices are added, not the means averaged, so that a bag of ten
frames weighs as much as ten frames of a long one. The parts have the keys of a run's report, less
what is of one bag alone.
"""
from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from evit_seg.core.labels import LabelMap
from evit_seg.core.metrics import lpcv_score, paper_score, ScoreAccumulator
from evit_seg.replay.evaluate import accuracies
from evit_seg.replay.event_scores import time_quantiles
from evit_seg.replay.recommended import pool_curves

Report = dict[str, Any]
OF_APPEARANCES = ('hits', 'active_spans', 'false_alerts', 'minutes', 'active_s', 'idle_active_s')
OF_EVENTS = ('appearances', 'left_out', 'hits', 'already_on', 'false_alerts', 'empty_s', 'idle_s')
OF_DROPOUTS = ('evidence_frames', 'dropouts_1', 'dropouts_2')


def pool_runs(runs: Sequence[Report], labels: LabelMap) -> Report | None:
    """Return what the runs of one bundle come to together; None without any."""
    if not runs:
        return None
    scores = _scores(runs, labels)
    return {
        'name': runs[0]['model']['name'], 'sha256': runs[0]['model']['sha256'],
        'bags': [run['bag']['name'] for run in runs],
        'counts': sums(runs[0]['counts'], (run['counts'] for run in runs)),
        'class_shares': _shares(runs),
        'scores': scores,
        'appearances': _appearances(runs),
        'events': _events([run['events'] for run in runs]),
        'curves': pool_curves([run['curves'] for run in runs]),
        'sizes': _sizes([run['sizes'] for run in runs if run['sizes']]),
        'flicker': _flicker([run['flicker'] for run in runs]),
        'timing': _timing(runs, scores),
    }


def sums(keys: Iterable[str], rows: Iterable[Report]) -> Report:
    """Return the sum of each key over the rows."""
    rows = list(rows)
    return {key: sum(row[key] for row in rows) for key in keys}


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _by_class(sections: Iterable[Report]) -> list[tuple[Report, list[Report]]]:
    """Return (slug and id, rows of all bags) of each class, in the order of the first bag."""
    found: dict[str, tuple[Report, list[Report]]] = {}
    for section in sections:
        for row in section['classes']:
            head = {'slug': row['slug'], 'class_id': row['class_id']}
            found.setdefault(row['slug'], (head, []))[1].append(row)
    return list(found.values())


def _scores(runs: Sequence[Report], labels: LabelMap) -> Report | None:
    pooled = ScoreAccumulator(len(labels))
    for run in runs:
        if run['scores']:
            pooled.add_totals(run['scores']['totals'])
    return accuracies(pooled, labels)


def _shares(runs: Sequence[Report]) -> dict[str, float]:
    pixels = sums(runs[0]['class_px'], (run['class_px'] for run in runs))
    total = sum(pixels.values())
    return {slug: count / total for slug, count in pixels.items()}


def _appearances(runs: Sequence[Report]) -> list[Report] | None:
    """Return the sums over the bags that say who was there; None if none does."""
    by_slug: dict[str, list[Report]] = {}
    for run in runs:
        for score in run['appearances'] or ():
            by_slug.setdefault(score['slug'], []).append(score)
    rows = []
    for slug, scores in by_slug.items():
        total = sums(OF_APPEARANCES, scores)
        appearances = sum(len(score['appearances']) for score in scores)
        rows.append({'slug': slug, 'bags': len(scores),
                     'min_height_px': scores[0]['min_height_px'],
                     'confirm_n': scores[0]['confirm_n'], 'appearances': appearances, **total,
                     'recall': _ratio(total['hits'], appearances),
                     'false_alerts_per_min': _ratio(total['false_alerts'], total['minutes'])})
    return rows or None


def _events(sections: Sequence[Report]) -> Report:
    """
    Return the events over all bags.

    What takes truth is over the bags that have it: their number is `annotated_bags`, their time
    `annotated_minutes`.
    """
    minutes = sum(section['minutes'] for section in sections)
    rows = []
    for head, of_class in _by_class({**section, 'classes': [
            {**row, 'minutes': section['minutes']} for row in section['classes']]}
            for section in sections):
        known = [row for row in of_class if row['annotated']]
        total, known_minutes = sums(OF_EVENTS, known), sum(row['minutes'] for row in known)
        times_s = [time_s for row in known for time_s in row['times_s']]
        always = sums(('alerts', 'on_s'), of_class)
        rows.append({
            **head, **always, 'alerts_per_min': _ratio(always['alerts'], minutes),
            'annotated': bool(known), 'annotated_bags': len(known),
            'annotated_minutes': known_minutes,
            **(total if known else dict.fromkeys(OF_EVENTS)),
            'recall': _ratio(total['hits'], total['appearances']),
            'false_alerts_per_min': _ratio(total['false_alerts'], known_minutes),
            'idle_share': _ratio(total['idle_s'], total['empty_s']),
            'time_to_alert_s': time_quantiles(times_s) if known else None})
    kinds = sorted({section['truth'] for section in sections if section['truth']})
    return {'truth': kinds, 'minutes': minutes, 'classes': rows}


def _sizes(sections: Sequence[Report]) -> Report | None:
    if not sections:
        return None
    rows = []
    for head, of_class in _by_class(sections):
        rows.append({
            **head,
            'components': _buckets([row['components'] for row in of_class if row['components']],
                                   ('objects', 'hits', 'pixels', 'hit_pixels'),
                                   {'recall': ('hits', 'objects'),
                                    'pixel_recall': ('hit_pixels', 'pixels')}),
            'appearances': _buckets(
                [row['appearances'] for row in of_class if row['appearances']],
                ('appearances', 'hits'), {'recall': ('hits', 'appearances')})})
    return {'hit_share': sections[0]['hit_share'],
            'images': sum(section['images'] for section in sections), 'classes': rows}


def _buckets(tables: Sequence[list[Report]], counts: tuple[str, ...],
             ratios: dict[str, tuple[str, str]]) -> list[Report] | None:
    """Return the sums of tables with the same buckets; None without any table."""
    rows = []
    for bucket in zip(*tables, strict=True):
        total = sums(counts, bucket)
        limits = {key: value for key, value in bucket[0].items() if '_from_' in key
                  or '_to_' in key}
        rows.append({**limits, **total, **{name: _ratio(total[part], total[whole])
                                           for name, (part, whole) in ratios.items()}})
    return rows or None


def _flicker(sections: Sequence[Report]) -> Report:
    total = sums(('frame_pairs', 'truth_pairs', 'minutes', 'consistent_cells', 'compared_cells'),
                 sections)
    classes, alert_classes = [], []
    for head, of_class in _by_class(sections):
        cells = sums(('cells', 'changed_cells', 'truth_cells', 'changed_beyond_truth_cells'),
                     of_class)
        classes.append({**head, **cells,
                        'flicker': _ratio(cells['changed_cells'], cells['cells']),
                        'beyond_truth': _ratio(cells['changed_beyond_truth_cells'],
                                               cells['truth_cells'])})
    for head, of_class in _by_class({'classes': section['alert_classes']}
                                    for section in sections):
        counts = sums(OF_DROPOUTS, of_class)
        dropouts = counts['dropouts_1'] + counts['dropouts_2']
        alert_classes.append({**head, **counts,
                              'dropouts_per_min': _ratio(dropouts, total['minutes'])})
    return {**total, 'consistency': _ratio(total['consistent_cells'], total['compared_cells']),
            'classes': classes, 'alert_classes': alert_classes}


def _timing(runs: Sequence[Report], scores: Report | None) -> Report:
    frames = [run['counts']['processed'] for run in runs]
    seconds = sum(run['timing']['seconds_per_image'] * count
                  for run, count in zip(runs, frames)) / sum(frames)
    miou = scores['dataset']['miou'] if scores else None
    dice = scores['lpcv']['dice'] if scores else None
    return {'seconds_per_image': seconds,
            'frames_per_s': sum(frames) / sum(run['timing']['wall_s'] for run in runs),
            'paper_score': None if miou is None else paper_score(miou, seconds),
            'lpcv_score': None if dice is None else lpcv_score(dice, seconds)}
