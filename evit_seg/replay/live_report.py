# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What a live run was worth: counts, latency, scores, and the pictures of it."""
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
from evit_seg.replay.comparable import comparison_line
from evit_seg.replay.evaluate import accuracies, alert_timeline, bag_facts, REPORT_SCHEMA
from evit_seg.replay.frame_line import view_spans
from evit_seg.replay.live_pictures import Pictures
from evit_seg.replay.places import FlightTrack, places_section
from evit_seg.replay.recording import Recording
from evit_seg.replay.run import Stamps
from evit_seg.replay.table import appearance_line
from evit_seg.replay.time_line import latency_line
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
    others: Mapping[str, str]
    """Topics of position and calibration in the bag, and the node's names for them."""

    @property
    def labels(self) -> LabelMap:
        """Return the classes of the model."""
        return self.bundle.manifest.label_map

    @classmethod
    def open(cls, bag: Bag, image: ImageTopic, stamps: Stamps,  # noqa: A003
             model: str, params: Path | None,
             annotations: Annotations | None, min_height_px: float,
             others: Mapping[str, str]) -> LiveInput:
        """Verify the bundle and read the rules the node will read."""
        bundle = open_bundle(find_bundle(model))
        rules = load_alert_rules(params, bundle.manifest.label_map)
        return cls(bag, image, bag.choose_truth_topic(None), stamps, bundle, rules, annotations,
                   min_height_px, others)


def report_live(given: LiveInput, recording: Recording, rate: float,
                node_rss_mb: float | None, out: Path, *, progress: bool) -> dict[str, Any]:
    """Score what was recorded, draw it, and return the report, `comparison` yet to come."""
    if not recording.answered_s:
        raise InputError(f'seg_node answered none of {len(recording.sent_s)} frames; it says: '
                         f'{recording.report.sentence}')
    stamps_ns = given.stamps.image_ns
    alerts = recording.alerts_by_frame(len(stamps_ns))
    pictures = Pictures(given.labels, given.rules, alerts, recording.masks, given.stamps, out)
    track = FlightTrack()
    fixes = [topic for topic, name in given.others.items() if name == 'fix']
    topics = [given.image.name, *fixes] + ([given.truth.name] if given.truth else [])
    for message in tqdm(given.bag.messages(topics), unit='message', desc='pictures',
                        disable=None if progress else True):
        if message.topic == given.image.name:
            pictures.take_image(message)
        elif message.topic in fixes:
            track.add(message)
        else:
            pictures.take_truth(message)
    files = pictures.finish(given.bag, given.image)
    names, notes = ({}, []) if given.annotations is None \
        else given.annotations.name_frames(stamps_ns, given.bag.custom_data)
    frames = scored_frames(names, stamps_ns, alerts)
    return {
        'schema': REPORT_SCHEMA, 'tool': 'live',
        'bag': bag_facts(given.bag, given.image, given.truth, given.stamps),
        'model': _model(given, recording.report.values),
        'rules': [vars(rule) for rule in given.rules],
        'rate': rate,
        'counts': _counts(recording, len(stamps_ns)),
        'notes': notes + _notes(recording),
        'scores': accuracies(pictures.scores, given.labels),
        'alerts': alert_timeline([event for _, event in recording.events], stamps_ns[0]),
        'places': places_section(given.others, track, recording.placed, stamps_ns[0])
        if fixes else None,
        'mode_timeline': recording.modes.rows(recording.first_ns),
        'comparison': None,
        'appearances': given.annotations.score(frames, given.rules, given.min_height_px)
        if given.annotations else None,
        'frames': {'classes': {rule.slug: {'in_view': view_spans(zip(
            (frame.stamp_ns for frame in frames), given.annotations.in_view(frames, rule.slug)),
            stamps_ns[0])} for rule in given.rules}} if given.annotations else None,
        'timing': _timing(recording, stamps_ns, node_rss_mb),
        'files': files,
    }


def _model(given: LiveInput, said: Mapping[str, str]) -> dict[str, Any]:
    """Return which model answered, as the node said at the end."""
    height, width = said['network input'].split('x')
    return {'name': said['model'], 'sha256': said['model sha256'], 'engine': said['engine'],
            'provider': said['provider'], 'precision': said['precision'],
            'input_hw': [int(height), int(width)], 'label_map': given.labels.to_list()}


def _counts(recording: Recording, images: int) -> dict[str, Any]:
    """
    Return where each frame of the bag went.

    images = not_sent + lost_on_the_way + the node's reasons + masks_lost_on_the_way + answered
    + unexplained, and the last is 0, or a note says so.
    """
    node = {key[len('frames '):]: int(value) for key, value in recording.report.values.items()
            if key.startswith('frames ')}
    sent, answered = len(recording.sent_s), len(recording.answered_s)
    ended = sum(count for name, count in node.items() if name != 'received')
    return {'images': images, 'not_sent': images - sent, 'sent': sent, 'answered': answered,
            'unanswered': sent - answered, 'node': node,
            'lost_on_the_way': sent - node['received'],
            'masks_lost_on_the_way': node['processed'] - answered,
            'unexplained': node['received'] - ended,
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
    node = int(recording.report.values['frames received'])
    if node > len(recording.sent_s):
        notes.append(f'the node received {node} frames, {len(recording.sent_s)} were sent: '
                     'somebody else publishes there (see --domain-id)')
    return notes


def _timing(recording: Recording, stamps_ns: Sequence[int],
            node_rss_mb: float | None) -> dict[str, Any]:
    latency_ms = [(at_s - recording.sent_s[index]) * 1e3
                  for index, at_s in sorted(recording.answered_s.items())]
    span_s = max(recording.answered_s.values()) - min(recording.sent_s.values())
    return {'play_s': span_s, 'frames_per_s': len(latency_ms) / span_s,
            'latency_ms': percentiles_ms(latency_ms),
            'frames': latency_line([(stamps_ns[index] - stamps_ns[0]) / 1e9
                                    for index in sorted(recording.answered_s)], latency_ms),
            'age_ms': _ages_ms(recording),
            'alert_latency_ms': percentiles_ms(recording.raised_ms) if recording.raised_ms
            else None, 'node_rss_mb': node_rss_mb,
            'machine': machine_facts(),
            'node_stages': {key: value for key, value in recording.report.values.items()
                            if key.endswith('p50/p95 ms') and not key.startswith('stamp')}}


def _ages_ms(recording: Recording) -> dict[str, float] | None:
    """Return how long ago the frame of the newest mask was published when the next mask came."""
    answers = sorted((at_s, index) for index, at_s in recording.answered_s.items())
    ages_ms = [(later_s - recording.sent_s[index]) * 1e3
               for (_, index), (later_s, _) in zip(answers, answers[1:])]
    return percentiles_ms(ages_ms) if ages_ms else None


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
    if timing['age_ms']:
        yield f'age      the newest mask was up to {timing["age_ms"]["p95"]:.0f} ms old (p95), ' \
              f'{timing["age_ms"]["max"]:.0f} ms at most'
    for row in report['mode_timeline']:
        if row['mode'] != 'nominal' and (row['source'], row['mode']) != ('diagnostics',
                                                                         'degraded'):
            yield f'mode     {row["t_s"]:.1f} s: {row["mode"]}: {row["reason"]}'
    if timing['node_rss_mb']:
        yield f'memory   {timing["node_rss_mb"]:.0f} MB resident at most'
    miou = scores and scores['dataset']['miou']
    yield f'mIoU     {miou:.3f}' if miou else 'mIoU     no ground truth'
    raised = sum(event['kind'] == 'raised' for event in report['alerts'])
    rows = [] if report['places'] is None else report['places']['alerts']
    placed = sum(row['kind'] == 'raised' and not row['geo_note'] for row in rows)
    yield f'alerts   {raised} raised, {placed} of them geotagged' + (
        f'; {timing["alert_latency_ms"]["max"]:.0f} ms from frame to alert at most'
        if timing['alert_latency_ms'] else '')
    why = sorted({row['geo_note'] for row in rows if row['geo_note']})
    yield from (f'         {note}' for note in why[:1])
    if report['comparison']:
        yield f'compare  {comparison_line(report["comparison"])}'
    for score in report['appearances'] or ():
        yield f'         {appearance_line(score)}'
    yield f'files    {", ".join(report["files"])}'
    yield from (f'note: {note}' for note in report['notes'])
