# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
One bag through one bundle without ROS, and the report of what came out.

The header's stamp is the clock, so two runs over a bag give the same numbers but for times. The
command over many bags and bundles, `bag_eval`, is built on it.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
import json
from pathlib import Path
from typing import Any

from evit_seg.core.alerts import AlertEvent, AlertRule
from evit_seg.core.errors import ConfigError, InputError
from evit_seg.core.labels import LabelMap
from evit_seg.core.machine import machine_facts, percentiles_ms
from evit_seg.core.metrics import lpcv_score, paper_score, ScoreAccumulator
from evit_seg.core.position import GeoParameters
from evit_seg.core.segmenter import Segmenter
from evit_seg.replay.annotations import Annotations, scored_frames
from evit_seg.replay.bag import Bag, bag_sha256, ImageTopic, is_16bit
from evit_seg.replay.observer import Observer
from evit_seg.replay.places import watch_places
from evit_seg.replay.run import Outcome, read_stamps, run_bag, Stamps
from evit_seg.replay.time_line import latency_line
from evit_seg.replay.truth_folder import TruthFolder

REPORT_SCHEMA = 1


def evaluate(bag: Bag, segmenter: Segmenter, rules: Sequence[AlertRule], *,
             image_topic: str | None = None, truth_topic: str | None = None,
             tolerance_ms: float = 0.0, annotations: Annotations | None = None,
             min_height_px: float = 12.0, geo: GeoParameters | None = None,
             truth_folder: Path | None = None,
             observers: Sequence[Observer] = (), progress: bool = False) -> dict[str, Any]:
    """
    Return the report of one bag as JSON can hold it; each observer adds the part it makes.

    Masks come from a topic, or from `truth_folder`, and then no label topic is read.
    Everything outside the key `timing` depends on bag, model, rules and engine threads alone.
    """
    image = bag.choose_image_topic(image_topic)
    if truth_folder is not None and truth_topic is not None:
        raise ConfigError('expected ground truth from a topic or from a folder, got '
                          f'{truth_topic!r} and {str(truth_folder)!r}')
    truth = bag.choose_truth_topic(truth_topic) if truth_folder is None else None
    if truth is not None and truth.name == image.name:
        raise InputError(f'{image.name} is the image topic, it cannot be the truth as well')
    stamps = read_stamps(bag, image, truth, progress)
    masks = None
    if truth_folder is not None:
        masks = TruthFolder.open(truth_folder, stamps.image_ns, bag.custom_data)
        stamps = replace(stamps, truth_ns=list(masks.stamps_ns))
    places, place_notes = watch_places(bag, image, stamps, geo or GeoParameters())
    observers = [*observers, *places]
    notes = _notes(bag, image, stamps)
    names, naming = ({}, []) if annotations is None \
        else annotations.name_frames(stamps.image_ns, bag.custom_data)
    outcome = run_bag(bag, segmenter, rules, image, truth, stamps,
                      tolerance_ns=round(tolerance_ms * 1e6), observers=observers,
                      masks=masks, names=names, progress=progress)
    frames = scored_frames(names, stamps.image_ns, outcome.alerts)
    return {
        'schema': REPORT_SCHEMA, 'tool': 'bag_eval',
        'bag': bag_facts(bag, image, truth, stamps, truth_folder),
        'model': model_facts(segmenter),
        'rules': [vars(rule) for rule in rules],
        'counts': _counts(outcome, stamps),
        'notes': notes + naming + _outcome_notes(outcome, truth, masks) + place_notes,
        'class_shares': _shares(outcome, segmenter),
        'class_px': {entry.slug: int(outcome.class_px[entry.id])
                     for entry in segmenter.label_map},
        'scores': accuracies(outcome.scores, segmenter.label_map),
        'alerts': alert_timeline(outcome.events, stamps.image_ns[0]),
        'appearances': annotations.score(frames, rules, min_height_px) if annotations else None,
        'places': None,
        **{observer.key: observer.section() for observer in observers},
        'timing': _timing(outcome, stamps, segmenter),
    }


def bag_facts(bag: Bag, image: ImageTopic, truth: ImageTopic | None,
              stamps: Stamps, truth_folder: Path | None = None) -> dict[str, Any]:
    """Return which bag was read, and which topics of it."""
    span_ns = max(stamps.image_ns) - min(stamps.image_ns)
    return {'name': bag.path.name, 'sha256': bag_sha256(bag.path), 'image_topic': image.name,
            'encoding': image.encoding, 'truth_topic': truth.name if truth else None,
            'truth_folder': truth_folder.resolve().name if truth_folder else None,
            'clock': stamps.clock, 'duration_s': span_ns / 1e9, 'damage': bag.damage}


def model_facts(segmenter: Segmenter) -> dict[str, Any]:
    """Return which model answered, with what."""
    engine = segmenter.engine
    return {'name': segmenter.manifest.name, 'sha256': segmenter.bundle.sha256,
            'engine': engine.name, 'provider': engine.provider, 'precision': engine.precision,
            'input_hw': list(engine.input_hw), 'stride': engine.stride,
            'label_map': segmenter.label_map.to_list()}


def _counts(outcome: Outcome, stamps: Stamps) -> dict[str, int]:
    scored = outcome.scores.images if outcome.scores else 0
    return {'images': len(stamps.image_ns), 'processed': outcome.frames,
            'malformed': outcome.malformed.count, 'labels': len(stamps.truth_ns),
            'malformed_labels': outcome.malformed_labels.count, 'scored': scored,
            'images_without_label': len(stamps.image_ns) - outcome.pairs
            if stamps.truth_ns else 0,
            'labels_without_image': len(stamps.truth_ns) - outcome.pairs,
            'pairs_too_far_apart': outcome.lost_pairs, 'labels_resized': outcome.truth_resized}


def _notes(bag: Bag, image: ImageTopic, stamps: Stamps) -> list[str]:
    notes = []
    if bag.damage:
        notes.append(f'damaged, and read as far as it goes: {bag.damage}; '
                     f'{len(stamps.image_ns)} frames and {len(stamps.truth_ns)} labels of it')
    if is_16bit(image.encoding):
        notes.append(f"{image.encoding}: 16-bit images are scaled so that each frame's maximum "
                     'is white')
    if stamps.clock == 'bag':
        notes.append("all header stamps are zero: the bag's time is the clock")
    return notes


def _outcome_notes(outcome: Outcome, truth: ImageTopic | None,
                   masks: TruthFolder | None) -> list[str]:
    notes = list(masks.notes) if masks else []
    for what, refused in (('frames', outcome.malformed), ('labels', outcome.malformed_labels)):
        if refused.count:
            notes.append(f'{refused.count} {what} cannot be decoded; the first: {refused.first}')
    source = masks.folder.name if masks else truth.name if truth else None
    if source is None:
        notes.append('no ground truth in this bag: no scores')
    elif outcome.scores is None or not outcome.scores.images:
        notes.append(f'no label of {source} has the stamp of a frame: no scores '
                     '(see --tolerance-ms)')
    if outcome.truth_resized:
        notes.append(f'{outcome.truth_resized} labels were resized (nearest) to their frame')
    return notes


def _shares(outcome: Outcome, segmenter: Segmenter) -> dict[str, float]:
    total = int(outcome.class_px.sum())
    return {entry.slug: int(outcome.class_px[entry.id]) / total for entry in segmenter.label_map}


def accuracies(scores: ScoreAccumulator | None, labels: LabelMap) -> dict[str, Any] | None:
    """
    Return the scores that are not divided by time; None without ground truth.

    `totals` are the sums they come from, the confusion matrix among them: runs are pooled by it.
    """
    if scores is None or not scores.images:
        return None
    result = scores.result(labels)
    for name in ('seconds_per_image', 'paper_score'):
        del result[name]
    del result['lpcv']['score']
    return {**result, 'totals': scores.totals()}


def alert_timeline(events: Sequence[AlertEvent], first_ns: int) -> list[dict[str, Any]]:
    """Return the events with their time since the first frame, in s, and what was seen."""
    return [{'t_s': (event.stamp_ns - first_ns) / 1e9, 'stamp_ns': event.stamp_ns,
             'kind': event.kind, 'alert_id': event.alert.alert_id, 'class': event.alert.slug,
             'state': event.state,
             'regions': [{'x': r.x, 'y': r.y, 'w': r.w, 'h': r.h, 'pixels': round(r.pixels, 1),
                          'confidence': round(r.confidence, 4)} for r in event.alert.regions]}
            for event in events]


def _timing(outcome: Outcome, stamps: Stamps, segmenter: Segmenter) -> dict[str, Any]:
    times_s = [(stamps.image_ns[index] - stamps.image_ns[0]) / 1e9 for index in outcome.processed]
    stages = {stage: percentiles_ms(values) for stage, values in outcome.stage_ms.items()}
    seconds = sum(stages[stage]['mean'] for stage in ('pre', 'infer', 'post')) / 1e3
    timing: dict[str, Any] = {
        'wall_s': outcome.wall_s, 'frames_per_s': outcome.frames / outcome.wall_s,
        'seconds_per_image': seconds, 'stages_ms': stages, 'paper_score': None,
        'frames': latency_line(times_s, outcome.stage_ms['total']),
        'lpcv_score': None, 'machine': machine_facts()}
    if outcome.scores is not None and outcome.scores.images:
        result = outcome.scores.result(segmenter.label_map)
        if result['dataset']['miou'] is not None:
            timing['paper_score'] = paper_score(result['dataset']['miou'], seconds)
        if result['lpcv']['dice'] is not None:
            timing['lpcv_score'] = lpcv_score(result['lpcv']['dice'], seconds)
    return timing


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a report; InputError where the place cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=1, allow_nan=False) + '\n', encoding='utf-8')
    except OSError as error:
        raise InputError(f'{path} cannot be written: {error}') from error
