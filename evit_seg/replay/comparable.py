# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Whether a live run raised the alerts that bag_eval raises over the same bag, and if not, why.

Where every frame was answered by the same network under the same rules, they are the same: an
alert depends on the stamps in the headers, not on when a frame came. So frames that were only
published late are no reason.
"""
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
import json
from pathlib import Path
from typing import Any

from evit_seg.core.alerts import AlertRule
from evit_seg.core.bundle import Bundle
from evit_seg.core.errors import InputError
from evit_seg.core.segmenter import Segmenter
from evit_seg.core.share import share_file
from evit_seg.replay.alert_params import read_parameters
from evit_seg.replay.bag import Bag, ImageTopic
from evit_seg.replay.evaluate import evaluate

DROPPED = {'replaced': 'were replaced by a newer one before the node got to them',
           'too_old': 'were too old for the node (image.max_age_s)',
           'disabled': 'came while the node was switched off',
           'failed': 'made the engine fail',
           'skipped': 'were skipped for the latency budget',
           'in_work': 'were still in work at the end'}
"""The node's reasons not to answer a frame; unreadable ones count against bag_eval's own."""
SETTINGS = ('engine', 'provider', 'precision', 'input_hw')


def compare(live: Mapping[str, Any], replay: Mapping[str, Any],
            image_ns: Sequence[int]) -> dict[str, Any]:
    """
    Return the section `comparison` of two reports; `image_ns` are the stamps of the bag's frames.

    `same_alerts`: each class has as many onsets in both, each within confirm_n frames of its
    other; None where the two are not comparable, `why` says then what stands in the way.
    `differences` are the onsets that are not on the same frame; none are given for another bag.
    """
    why = list(_reasons(live, replay))
    confirm_n = {rule['slug']: rule['confirm_n'] for rule in live['rules']}
    differences, same = [], True
    if all(live['bag'][key] == replay['bag'][key] for key in ('sha256', 'image_topic')):
        frame_of = {stamp_ns: index for index, stamp_ns in enumerate(image_ns)}
        onsets = [_onsets(report, frame_of) for report in (live, replay)]
        for slug in sorted(set(onsets[0]) | set(onsets[1])):
            reach = confirm_n.get(slug, 0)
            for one, other in pair_onsets(onsets[0].get(slug, []), onsets[1].get(slug, []), reach):
                apart = None if one is None or other is None else abs(one - other)
                same = same and apart is not None and apart <= reach
                if apart != 0:
                    differences.append({
                        'class': slug, 'live_s': _time_s(one, image_ns),
                        'bag_eval_s': _time_s(other, image_ns), 'frames_apart': apart})
    return {'comparable': not why, 'why': why, 'same_alerts': None if why else same,
            'confirm_n': confirm_n, 'differences': differences}


def _reasons(live: Mapping[str, Any], replay: Mapping[str, Any]) -> Iterator[str]:
    for what, key in (('bag', 'sha256'), ('image topic', 'image_topic')):
        if live['bag'][key] != replay['bag'][key]:
            yield f'another {what}: live had {live["bag"][key]}, bag_eval {replay["bag"][key]}'
    if live['model']['sha256'] != replay['model']['sha256']:
        yield 'another bundle: ' + ', '.join(
            f'{who} had {report["model"]["name"]} ({report["model"]["sha256"][:12]})'
            for who, report in (('live', live), ('bag_eval', replay)))
    for key in SETTINGS:
        if live['model'][key] != replay['model'][key]:
            yield f'another {key}: live had {live["model"][key]}, bag_eval {replay["model"][key]}'
    yield from _other_rules(live['rules'], replay['rules'])
    yield from _not_answered(live, replay)
    for row in live['mode_timeline']:
        if row['source'] == 'mode' and row['mode'] != 'nominal':
            yield f'the node was {row["mode"]} from {row["t_s"]:.1f} s on: {row["reason"]}'
            return


def _other_rules(live: Sequence[Mapping[str, Any]],
                 replay: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    ours, theirs = ({rule['slug']: rule for rule in rules} for rules in (live, replay))
    if list(ours) != list(theirs):
        yield f'other rules: live had those of {", ".join(ours) or "no class"}, bag_eval ' \
              f'those of {", ".join(theirs) or "no class"}'
        return
    for slug, rule in ours.items():
        for name, value in rule.items():
            if value != theirs[slug].get(name):
                yield f'other rules: alert.{slug}.{name} was {value!r} live, ' \
                      f'{theirs[slug].get(name)!r} in bag_eval'


def _not_answered(live: Mapping[str, Any], replay: Mapping[str, Any]) -> Iterator[str]:
    counts = live['counts']
    total = counts['images']
    for reason, words in DROPPED.items():
        if counts['node'][reason]:
            yield f'{counts["node"][reason]} of {total} frames {words}'
    if counts['lost_on_the_way']:
        yield f'{counts["lost_on_the_way"]} of {total} frames were lost on the way to the node'
    if counts['masks_lost_on_the_way']:
        yield f'{counts["masks_lost_on_the_way"]} answers were lost on the way back'
    if counts['wrong_headers']:
        yield f'{counts["wrong_headers"]} answers have a header that was never sent'
    unreadable = counts['node']['malformed'] + counts['not_sent']
    if unreadable != replay['counts']['malformed']:
        yield f'{unreadable} of {total} frames could not be read live, ' \
              f'{replay["counts"]["malformed"]} in bag_eval'
    if total != replay['counts']['images']:
        yield f'live had {total} frames, bag_eval {replay["counts"]["images"]}'


def _onsets(report: Mapping[str, Any], frame_of: Mapping[int, int]) -> dict[str, list[int]]:
    """Return class -> the frames that raised an alert of it, in order."""
    onsets: dict[str, list[int]] = {}
    for event in report['alerts']:
        if event['kind'] == 'raised':
            onsets.setdefault(event['class'], []).append(frame_of[event['stamp_ns']])
    return {slug: sorted(frames) for slug, frames in onsets.items()}


def pair_onsets(live: Sequence[int], replay: Sequence[int],
                reach: int) -> list[tuple[int | None, int | None]]:
    """
    Return the onsets of one class in pairs, those within `reach` frames of each other first.

    What is left over is paired in its order, and with None where one side has more.
    """
    pairs: list[tuple[int | None, int | None]] = []
    left: tuple[list[int], list[int]] = [], []
    i = j = 0
    while i < len(live) and j < len(replay):
        if abs(live[i] - replay[j]) <= reach:
            pairs.append((live[i], replay[j]))
            i, j = i + 1, j + 1
        elif live[i] < replay[j]:
            left[0].append(live[i])
            i += 1
        else:
            left[1].append(replay[j])
            j += 1
    return pairs + list(zip_longest([*left[0], *live[i:]], [*left[1], *replay[j:]]))


def _time_s(frame: int | None, image_ns: Sequence[int]) -> float | None:
    return None if frame is None else (image_ns[frame] - image_ns[0]) / 1e9


def comparison_line(comparison: Mapping[str, Any]) -> str:
    """Return what to print of a comparison, in one line."""
    if not comparison['comparable']:
        return f'not comparable with bag_eval: {"; ".join(comparison["why"])}'
    rows = comparison['differences']
    apart = max((row['frames_apart'] for row in rows if row['frames_apart'] is not None),
                default=0)
    if comparison['same_alerts']:
        return 'the same alerts as bag_eval' + (
            f', onsets up to {apart} frames apart' if rows else ', on the same frames')
    words = [f'{row["class"]} {_shown(row["live_s"])} live, {_shown(row["bag_eval_s"])} in '
             'bag_eval' for row in rows]
    return f'NOT the alerts of bag_eval: {"; ".join(words)}'


def _shown(time_s: float | None) -> str:
    return 'not at all' if time_s is None else f'at {time_s:.1f} s'


def run_like(runs: Sequence[dict[str, Any]], live: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return the run to compare with: of the same bag and bundle, else of the bag, else the first.

    The comparison says what differs.
    """
    return max(runs, key=lambda run: (run['bag']['sha256'] == live['bag']['sha256'],
                                      run['model']['sha256'] == live['model']['sha256']))


def read_runs(path: Path) -> list[dict[str, Any]]:
    """Return the runs in a report of bag_eval; InputError where it is none."""
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise InputError(f'{path} cannot be read: {error}') from error
    runs = content.get('runs') if isinstance(content, dict) else None
    if not isinstance(runs, list) or not runs or content.get('tool') != 'bag_eval':
        raise InputError(f'{path}: expected the report of `bag_eval --json`, with at least one '
                         'run')
    return runs


def evaluate_like(bag: Bag, image: ImageTopic, bundle: Bundle, rules: Sequence[AlertRule],
                  params: Path | None, threads: int | None, *,
                  progress: bool = False) -> dict[str, Any]:
    """
    Return bag_eval's report of the bag with the engine and the rules that a node had.

    `params` is the node's parameter file, `threads` what stands above it.
    """
    given = read_parameters(params or share_file('config/seg.yaml'))
    segmenter = Segmenter.open(
        str(bundle.folder), engine=given.get('engine.name', 'onnxruntime'),
        threads=given.get('engine.threads', 0) if threads is None else threads,
        provider=given.get('engine.provider', 'cpu'),
        precision=given.get('engine.precision') or None,
        height=given.get('engine.height') or None)
    try:
        return evaluate(bag, segmenter, rules, image_topic=image.name, progress=progress)
    finally:
        segmenter.close()
