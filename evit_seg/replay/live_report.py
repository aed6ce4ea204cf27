# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What a live run was worth: counts, latency, scores, and the pictures of it."""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evit_seg.core.alerts import AlertRule
from evit_seg.core.bundle import Bundle, find_bundle, open_bundle
from evit_seg.core.errors import InputError
from evit_seg.core.labels import LabelMap
from evit_seg.core.machine import machine_facts, percentiles_ms
from evit_seg.replay.alert_params import load_alert_rules
from evit_seg.replay.annotations import Annotations, scored_frames
from evit_seg.replay.bag import Bag, ImageTopic
from evit_seg.replay.evaluate import (
    accuracies,
    alert_timeline,
    bag_facts,
    REPORT_SCHEMA,
    write_json,
)
from evit_seg.replay.live_pictures import Pictures
from evit_seg.replay.recording import Recording
from evit_seg.replay.run import Stamps
from evit_seg.replay.table import appearance_line
from tqdm import tqdm


@dataclass(frozen=True)
class LiveInput:
    """What is played, to which model, and what is known of the truth."""

    bag: Bag
    image: ImageTopic
    truth: ImageTopic | None
    stamps: Stamps
    bundle: Bundle
    rules: list[AlertRule]
    annotations: Annotations | None
    min_height_px: float

    @property
    def labels(self) -> LabelMap:
        """Return the classes of the model."""
        return self.bundle.manifest.label_map

    @classmethod
    def open(cls, bag: Bag, image: ImageTopic, stamps: Stamps,  # noqa: A003
             model: str, params: Path | None,
             annotations: Annotations | None, min_height_px: float) -> LiveInput:
        """Verify the bundle and read the rules the node will read."""
        bundle = open_bundle(find_bundle(model))
        rules = load_alert_rules(params, bundle.manifest.label_map)
        return cls(bag, image, bag.choose_truth_topic(None), stamps, bundle, rules, annotations,
                   min_height_px)


def report_live(given: LiveInput, recording: Recording, rate: float,
                node_rss_mb: float | None, out: Path, *, progress: bool) -> dict[str, Any]:
    """Score what was recorded, draw it, write `out`/report.json and return its content."""
    if not recording.answered_s:
        raise InputError(f'seg_node answered none of {len(recording.sent_s)} frames; it says: '
                         f'{recording.report.sentence}')
    stamps_ns = given.stamps.image_ns
    alerts = recording.alerts_by_frame(len(stamps_ns))
    pictures = Pictures(given.labels, given.rules, alerts, recording.masks, given.stamps, out)
    topics = [given.image.name] + ([given.truth.name] if given.truth else [])
    for message in tqdm(given.bag.messages(topics), unit='message', desc='pictures',
                        total=len(stamps_ns) + len(given.stamps.truth_ns),
                        disable=None if progress else True):
        if message.topic == given.image.name:
            pictures.take_image(message)
        else:
            pictures.take_truth(message)
    files = pictures.finish(given.bag, given.image)
    names, notes = ({}, []) if given.annotations is None \
        else given.annotations.name_frames(stamps_ns, given.bag.custom_data)
    frames = scored_frames(names, stamps_ns, alerts)
    report = {
        'schema': REPORT_SCHEMA, 'tool': 'live',
        'bag': bag_facts(given.bag, given.image, given.truth, given.stamps),
        'model': {'name': given.bundle.manifest.name, 'sha256': given.bundle.sha256,
                  **{key: recording.report.values.get(key)
                     for key in ('engine', 'provider', 'precision', 'network input')}},
        'rules': [vars(rule) for rule in given.rules],
        'rate': rate,
        'counts': _counts(recording),
        'notes': notes + _notes(recording),
        'scores': accuracies(pictures.scores, given.labels),
        'alerts': alert_timeline([event for _, event in recording.events], stamps_ns[0]),
        'places': recording.places,
        'appearances': given.annotations.score(frames, given.rules, given.min_height_px)
        if given.annotations else None,
        'timing': _timing(recording, node_rss_mb),
        'files': files,
    }
    write_json(out / 'report.json', report)
    return report


def _counts(recording: Recording) -> dict[str, Any]:
    node = {key[len('frames '):]: int(value) for key, value in recording.report.values.items()
            if key.startswith('frames ')}
    sent, answered = len(recording.sent_s), len(recording.answered_s)
    return {'sent': sent, 'answered': answered, 'unanswered': sent - answered, 'node': node,
            'lost_on_the_way': sent - node['received'],
            'masks_lost_on_the_way': node['processed'] - answered,
            'wrong_headers': len(recording.wrong_headers),
            'repeated_answers': recording.repeated_answers, 'late_frames': recording.late_frames}


def _notes(recording: Recording) -> list[str]:
    notes = list(recording.notes)
    if recording.wrong_headers:
        notes.append(f'{len(recording.wrong_headers)} answers have a header that was never sent; '
                     f'the first: {recording.wrong_headers[0]}')
    if recording.late_frames:
        notes.append(f'{recording.late_frames} frames were published late: this machine cannot '
                     'keep the pace')
    if len(recording.answered_s) < len(recording.sent_s):
        notes.append('frames were dropped: alerts and scores are those of the answered ones')
    return notes


def _timing(recording: Recording, node_rss_mb: float | None) -> dict[str, Any]:
    latency_ms = [(at_s - recording.sent_s[index]) * 1e3
                  for index, at_s in recording.answered_s.items()]
    span_s = max(recording.answered_s.values()) - min(recording.sent_s.values())
    return {'play_s': span_s, 'frames_per_s': len(latency_ms) / span_s,
            'latency_ms': percentiles_ms(latency_ms), 'node_rss_mb': node_rss_mb,
            'machine': machine_facts(),
            'node_stages': {key: value for key, value in recording.report.values.items()
                            if key.endswith('p50/p95 ms') and not key.startswith('stamp')}}


def live_lines(report: dict[str, Any]) -> list[str]:
    """Return the lines to print of a live report."""
    return list(_lines(report))


def _lines(report: dict[str, Any]) -> Iterator[str]:
    counts, timing, scores = report['counts'], report['timing'], report['scores']
    node, latency = counts['node'], timing['latency_ms']
    yield f'{report["bag"]["name"]} -> seg_node with {report["model"]["name"]}, ' \
          f'{report["rate"]:g} x the pace of the recording'
    dropped = ', '.join(f'{name} {count}' for name, count in node.items()
                        if name not in ('received', 'processed', 'in_work') and count)
    yield f'frames   {counts["sent"]} sent, {counts["answered"]} answered, ' \
          f'{counts["lost_on_the_way"]} lost on the way, dropped by the node: {dropped or "none"}'
    yield f'headers  {"all as sent" if not counts["wrong_headers"] else "WRONG, see notes"}'
    yield f'speed    {timing["frames_per_s"]:.1f} frames/s answered; publish to mask ' \
          f'p50 {latency["p50"]:.1f} ms, p95 {latency["p95"]:.1f} ms'
    if timing['node_rss_mb']:
        yield f'memory   {timing["node_rss_mb"]:.0f} MB resident at most'
    miou = scores and scores['dataset']['miou']
    yield f'mIoU     {miou:.3f}' if miou else 'mIoU     no ground truth'
    raised = sum(event['kind'] == 'raised' for event in report['alerts'])
    placed = sum(place['kind'] == 'raised' and not place['geo_note']
                 for place in report['places'])
    yield f'alerts   {raised} raised, {placed} of them geotagged'
    why = sorted({place['geo_note'] for place in report['places'] if place['geo_note']})
    yield from (f'         {note}' for note in why[:1])
    for score in report['appearances'] or ():
        yield f'         {appearance_line(score)}'
    yield f'files    {", ".join(report["files"])}'
    yield from (f'note: {note}' for note in report['notes'])
