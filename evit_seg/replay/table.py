# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The report of bag_eval as lines for people."""
from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from evit_seg.replay.disagreement import disagreement_lines
from evit_seg.replay.event_lines import event_lines
from evit_seg.replay.harvest import harvest_lines
from evit_seg.replay.safe_zones import zone_lines
from evit_seg.replay.table_of_models import gate_lines, side_by_side

SMALLEST_SHARE = 0.0005
"""Classes with less of the pixels, and no truth, are left out of the table."""


def report_lines(report: dict[str, Any]) -> list[str]:
    """Return the lines to print of a report made by `evaluate`."""
    return [*_head(report), '', *_classes(report), '', *_alerts(report),
            *zone_lines(report.get('safe_zone')), '', *_timing(report),
            *(f'note: {note}' for note in report['notes'])]


def lines_of_all(content: dict[str, Any]) -> list[str]:
    """Return the lines to print of what bag_eval writes: every run, the bundles, the gates."""
    lines: list[str] = []
    for run in content['runs']:
        lines += [*report_lines(run), '']
    if len(content['models']) > 1 or len(content['runs']) > len(content['models']) > 0:
        lines += [*side_by_side(content['models']), '']
    for entry in content['disagreement']:
        lines += [*disagreement_lines(entry), '']
    return [*lines, *harvest_lines(content['harvest']), *gate_lines(content['gates'])]


def _head(report: dict[str, Any]) -> Iterator[str]:
    bag, model, counts = report['bag'], report['model'], report['counts']
    yield f'bag    {bag["name"]}  {bag["image_topic"]} ({bag["encoding"]})  ' \
          f'sha256 {bag["sha256"][:12]}'
    height, width = model['input_hw']
    yield f'model  {model["name"]}  {model["engine"]} {model["precision"]} {width}x{height}  ' \
          f'sha256 {model["sha256"][:12]}'
    yield f'frames {counts["processed"]} of {counts["images"]} in {bag["duration_s"]:.1f} s, ' \
          f'{counts["malformed"]} malformed, {counts["scored"]} with ground truth'
    scores, timing = report['scores'], report['timing']
    if scores:
        yield f'1. dataset mIoU   {_number(scores["dataset"]["miou"])}   ' \
              f'(pixel accuracy {_number(scores["dataset"]["accuracy"])})'
        yield f'2. mIoU / s       {_number(timing["paper_score"], 2)}   ' \
              "(the paper's score: mIoU / seconds per image)"
        yield f'3. LPCV Dice      {_number(scores["lpcv"]["dice"])}   ' \
              f'(/ seconds per image: {_number(timing["lpcv_score"], 2)})'


def _classes(report: dict[str, Any]) -> Iterator[str]:
    scores = report['scores']
    if not scores:
        yield f'{"class":34} {"share":>7}   (no ground truth)'
        for slug, share in report['class_shares'].items():
            if share >= SMALLEST_SHARE:
                yield f'{slug:34} {share:7.1%}'
        return
    total = max(1, scores['compared_px'])
    yield f'{"class":34} {"truth":>7} {"mask":>7} ' \
          f'{"IoU":>6} {"Dice":>6} {"prec.":>6} {"recall":>6}'
    for row in scores['classes']:
        share = report['class_shares'][row['slug']]
        if row['truth_px'] or share >= SMALLEST_SHARE:
            numbers = ' '.join(f'{_number(row[key]):>6}'
                               for key in ('iou', 'dice', 'precision', 'recall'))
            yield f'{row["slug"]:34} {row["truth_px"] / total:7.1%} {share:7.1%} {numbers}'


def _alerts(report: dict[str, Any]) -> Iterator[str]:
    if not report['alerts']:
        yield 'alerts: none'
    else:
        yield 'alerts:'
    for event in report['alerts']:
        if event['kind'] == 'updated':
            continue
        yield f'  {event["t_s"]:8.2f} s  {event["kind"]:8} {event["alert_id"]}'
    for score in report['appearances'] or ():
        yield appearance_line(score)
    yield from event_lines(report)


def appearance_line(score: dict[str, Any]) -> str:
    """Return recall and false alerts of one class; the two are never told apart."""
    found = f'{score["hits"]} of {len(score["appearances"])} appearances'
    rate = score['false_alerts_per_min']
    return f'{score["slug"]}: {found} of {score["min_height_px"]:g} px or more hit, ' \
           f'{score["false_alerts"]} of {score["active_spans"]} alerts false ' \
           f'({_number(rate, 2)} per minute); on for {score["active_s"]:.1f} s, ' \
           f'{score["idle_active_s"]:.1f} s of it with none in view'


def _timing(report: dict[str, Any]) -> Iterator[str]:
    timing = report['timing']
    yield f'speed: {timing["frames_per_s"]:.1f} frames/s'
    yield f'{"stage, ms":10} {"p50":>8} {"p95":>8} {"p99":>8} {"mean":>8}'
    for stage, row in timing['stages_ms'].items():
        numbers = ' '.join(f'{row[key]:8.2f}' for key in ('p50', 'p95', 'p99', 'mean'))
        yield f'{stage:10} {numbers}'


def _number(value: float | None, digits: int = 3) -> str:
    return '-' if value is None else f'{value:.{digits}f}'
