# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
`bag_eval`: replay a bag through a bundle without ROS and score what comes out.

The header's stamp is the clock, so two runs over a bag give the same numbers but for times.
"""
from __future__ import annotations

import argparse
from collections.abc import Sequence
import json
from pathlib import Path
import sys
from typing import Any

from evit_seg.core.alerts import AlertEvent, AlertRule
from evit_seg.core.errors import ConfigError, EvitSegError, InputError
from evit_seg.core.labels import LabelMap
from evit_seg.core.machine import machine_facts, percentiles_ms
from evit_seg.core.metrics import lpcv_score, paper_score, ScoreAccumulator
from evit_seg.core.segmenter import Segmenter
from evit_seg.replay.alert_params import load_alert_rules
from evit_seg.replay.annotations import Annotations, scored_frames
from evit_seg.replay.bag import Bag, bag_sha256, ImageTopic, is_16bit
from evit_seg.replay.observer import Observer
from evit_seg.replay.run import Outcome, read_stamps, run_bag, Stamps
from evit_seg.replay.table import report_lines

REPORT_SCHEMA = 1


def evaluate(bag: Bag, segmenter: Segmenter, rules: Sequence[AlertRule], *,
             image_topic: str | None = None, truth_topic: str | None = None,
             tolerance_ms: float = 0.0, annotations: Annotations | None = None,
             min_height_px: float = 12.0, observers: Sequence[Observer] = (),
             progress: bool = False) -> dict[str, Any]:
    """
    Return the report of one bag as JSON can hold it; each observer adds the part it makes.

    Everything outside the key `timing` depends on bag, model, rules and engine threads alone.
    """
    image = bag.choose_image_topic(image_topic)
    truth = bag.choose_truth_topic(truth_topic)
    if truth is not None and truth.name == image.name:
        raise InputError(f'{image.name} is the image topic, it cannot be the truth as well')
    stamps = read_stamps(bag, image, truth, progress)
    notes = _notes(image, stamps)
    names, naming = ({}, []) if annotations is None \
        else annotations.name_frames(stamps.image_ns, bag.custom_data)
    outcome = run_bag(bag, segmenter, rules, image, truth, stamps,
                      tolerance_ns=round(tolerance_ms * 1e6), observers=observers,
                      progress=progress)
    frames = scored_frames(names, stamps.image_ns, outcome.alerts)
    return {
        'schema': REPORT_SCHEMA, 'tool': 'bag_eval',
        'bag': bag_facts(bag, image, truth, stamps),
        'model': model_facts(segmenter),
        'rules': [vars(rule) for rule in rules],
        'counts': _counts(outcome, stamps),
        'notes': notes + naming + _outcome_notes(outcome, truth),
        'class_shares': _shares(outcome, segmenter),
        'scores': accuracies(outcome.scores, segmenter.label_map),
        'alerts': alert_timeline(outcome.events, stamps.image_ns[0]),
        'appearances': annotations.score(frames, rules, min_height_px) if annotations else None,
        **{observer.key: observer.section() for observer in observers},
        'timing': _timing(outcome, segmenter),
    }


def bag_facts(bag: Bag, image: ImageTopic, truth: ImageTopic | None,
              stamps: Stamps) -> dict[str, Any]:
    """Return which bag was read, and which topics of it."""
    span_ns = max(stamps.image_ns) - min(stamps.image_ns)
    return {'name': bag.path.name, 'sha256': bag_sha256(bag.path), 'image_topic': image.name,
            'encoding': image.encoding, 'truth_topic': truth.name if truth else None,
            'clock': stamps.clock, 'duration_s': span_ns / 1e9}


def model_facts(segmenter: Segmenter) -> dict[str, Any]:
    """Return which model answered, with what."""
    engine = segmenter.engine
    return {'name': segmenter.manifest.name, 'sha256': segmenter.bundle.sha256,
            'engine': engine.name, 'provider': engine.provider, 'precision': engine.precision,
            'input_hw': list(engine.input_hw), 'stride': engine.stride}


def _counts(outcome: Outcome, stamps: Stamps) -> dict[str, int]:
    scored = outcome.scores.images if outcome.scores else 0
    return {'images': len(stamps.image_ns), 'processed': outcome.frames,
            'malformed': len(outcome.malformed), 'labels': len(stamps.truth_ns),
            'malformed_labels': len(outcome.malformed_labels), 'scored': scored,
            'images_without_label': len(stamps.image_ns) - outcome.pairs
            if stamps.truth_ns else 0,
            'labels_without_image': len(stamps.truth_ns) - outcome.pairs,
            'pairs_too_far_apart': outcome.lost_pairs, 'labels_resized': outcome.truth_resized}


def _notes(image: ImageTopic, stamps: Stamps) -> list[str]:
    notes = []
    if is_16bit(image.encoding):
        notes.append(f"{image.encoding}: 16-bit images are scaled so that each frame's maximum "
                     'is white')
    if stamps.clock == 'bag':
        notes.append("all header stamps are zero: the bag's time is the clock")
    return notes


def _outcome_notes(outcome: Outcome, truth: ImageTopic | None) -> list[str]:
    notes = []
    for what, reasons in (('frames', outcome.malformed), ('labels', outcome.malformed_labels)):
        if reasons:
            notes.append(f'{len(reasons)} {what} cannot be decoded; the first: {reasons[0]}')
    if truth is None:
        notes.append('no ground truth in this bag: no scores')
    elif outcome.scores is None or not outcome.scores.images:
        notes.append(f'no label of {truth.name} has the stamp of a frame: no scores '
                     '(see --tolerance-ms)')
    if outcome.truth_resized:
        notes.append(f'{outcome.truth_resized} labels were resized (nearest) to their frame')
    return notes


def _shares(outcome: Outcome, segmenter: Segmenter) -> dict[str, float]:
    total = int(outcome.class_px.sum())
    return {entry.slug: int(outcome.class_px[entry.id]) / total for entry in segmenter.label_map}


def accuracies(scores: ScoreAccumulator | None, labels: LabelMap) -> dict[str, Any] | None:
    """Return the scores that are not divided by time; None without ground truth."""
    if scores is None or not scores.images:
        return None
    result = scores.result(labels)
    for name in ('seconds_per_image', 'paper_score'):
        del result[name]
    del result['lpcv']['score']
    return result


def alert_timeline(events: Sequence[AlertEvent], first_ns: int) -> list[dict[str, Any]]:
    """Return the events with their time since the first frame, in s, and what was seen."""
    return [{'t_s': (event.stamp_ns - first_ns) / 1e9, 'stamp_ns': event.stamp_ns,
             'kind': event.kind, 'alert_id': event.alert.alert_id, 'class': event.alert.slug,
             'state': event.state,
             'regions': [{'x': r.x, 'y': r.y, 'w': r.w, 'h': r.h, 'pixels': round(r.pixels, 1),
                          'confidence': round(r.confidence, 4)} for r in event.alert.regions]}
            for event in events]


def _timing(outcome: Outcome, segmenter: Segmenter) -> dict[str, Any]:
    stages = {stage: percentiles_ms(values) for stage, values in outcome.stage_ms.items()}
    seconds = sum(stages[stage]['mean'] for stage in ('pre', 'infer', 'post')) / 1e3
    timing: dict[str, Any] = {
        'wall_s': outcome.wall_s, 'frames_per_s': outcome.frames / outcome.wall_s,
        'seconds_per_image': seconds, 'stages_ms': stages, 'paper_score': None,
        'lpcv_score': None, 'machine': machine_facts()}
    if outcome.scores is not None and outcome.scores.images:
        result = outcome.scores.result(segmenter.label_map)
        if result['dataset']['miou'] is not None:
            timing['paper_score'] = paper_score(result['dataset']['miou'], seconds)
        if result['lpcv']['dice'] is not None:
            timing['lpcv_score'] = lpcv_score(result['lpcv']['dice'], seconds)
    return timing


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog='bag_eval', description=__doc__)
    parser.add_argument('bag', type=Path, metavar='BAG',
                        help='ROS 1 .bag, or ROS 2 folder, .db3 or .mcap')
    parser.add_argument('--model', default='demo', help='bundle folder, or a name under models/')
    parser.add_argument('--image-topic', metavar='TOPIC')
    parser.add_argument('--truth-topic', metavar='TOPIC', help='default: the only */label topic')
    parser.add_argument('--tolerance-ms', type=float, default=0.0, metavar='MS',
                        help='largest difference of the stamps of a label and its frame')
    parser.add_argument('--objects', type=Path, metavar='CSV',
                        help='objects.csv of the flight, its frames.csv beside it: the true boxes '
                             'of every class that raises alerts')
    parser.add_argument('--events', type=Path, metavar='CSV',
                        help='events.csv of the flight, with --objects: when who was visible')
    parser.add_argument('--min-height-px', type=float, default=12.0, metavar='PX',
                        help='smallest appearance that should raise an alert')
    parser.add_argument('--params', type=Path, metavar='YAML',
                        help="parameter file with the alert rules; default: config/seg.yaml's")
    parser.add_argument('--threads', type=int, default=0,
                        help='CPU threads of the engine; 0: all cores')
    parser.add_argument('--json', type=Path, metavar='OUT', help='write the report there')
    parser.add_argument('--quiet', action='store_true', help='no progress bar')
    return parser


def _run(args: argparse.Namespace) -> dict[str, Any]:
    if not args.tolerance_ms >= 0:
        raise ConfigError(f'tolerance: expected 0 ms or more, got {args.tolerance_ms!r}')
    if args.events and not args.objects:
        raise ConfigError('--events says when somebody was visible but not where: it needs '
                          '--objects')
    with Bag(args.bag) as bag:
        bag.choose_image_topic(args.image_topic)  # complain before the model is loaded
        annotations = Annotations.read(args.objects, args.events) if args.objects else None
        segmenter = Segmenter.open(args.model, threads=args.threads)
        try:
            rules = load_alert_rules(args.params, segmenter.label_map)
            report = evaluate(bag, segmenter, rules, image_topic=args.image_topic,
                              truth_topic=args.truth_topic, tolerance_ms=args.tolerance_ms,
                              annotations=annotations, min_height_px=args.min_height_px,
                              progress=not args.quiet)
        finally:
            segmenter.close()
    report['model']['threads'] = args.threads
    return report


def main(argv: list[str] | None = None) -> int:
    """Run the command; 0, or the error's exit code after one line on stderr."""
    args = _parser().parse_args(argv)
    try:
        report = _run(args)
        if args.json:
            write_json(args.json, report)
    except EvitSegError as error:
        print(f'bag_eval: {error}', file=sys.stderr)
        return error.exit_code
    print('\n'.join(report_lines(report)))
    return 0


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a report; InputError where the place cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=1, allow_nan=False) + '\n', encoding='utf-8')
    except OSError as error:
        raise InputError(f'{path} cannot be written: {error}') from error


if __name__ == '__main__':
    sys.exit(main())
