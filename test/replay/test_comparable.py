# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""When a live run may be held against bag_eval, and what is said of their alerts."""
from __future__ import annotations

from copy import deepcopy
import json

from evit_seg.core.errors import InputError
from evit_seg.replay.comparable import (
    compare,
    comparison_line,
    pair_onsets,
    read_runs,
    run_like,
)
import pytest

CONFIRM_N = 5
IMAGE_NS = [1_000_000_000 + i * 200_000_000 for i in range(40)]


def report(*onsets: tuple[str, int], **counts) -> dict:
    """Return what both reports have in common; an onset is (class, frame)."""
    return {
        'bag': {'name': 'flight', 'sha256': 'b' * 64, 'image_topic': '/image'},
        'model': {'name': 'demo', 'sha256': 'a' * 64, 'engine': 'onnxruntime',
                  'provider': 'CPUExecutionProvider', 'precision': 'fp32', 'input_hw': [64, 64]},
        'rules': [{'slug': slug, 'class_id': i, 'confirm_n': CONFIRM_N, 'min_pixels': 20.0}
                  for i, slug in enumerate(('person', 'vehicle'))],
        'counts': {'images': 40, 'malformed': 0, **counts},
        'alerts': [{'class': slug, 'stamp_ns': IMAGE_NS[frame], 'kind': kind}
                   for slug, frame in onsets for kind in ('raised', 'cleared')]}


def live_report(*onsets: tuple[str, int], node: dict | None = None, modes=(), **counts) -> dict:
    drops = dict.fromkeys(('replaced', 'too_old', 'disabled', 'failed', 'skipped', 'in_work',
                           'malformed'), 0)
    content = report(*onsets, **{'not_sent': 0, 'lost_on_the_way': 0, 'wrong_headers': 0,
                                 'masks_lost_on_the_way': 0, **counts})
    content['counts']['node'] = {**drops, **(node or {})}
    content['mode_timeline'] = [{'t_s': 0.0, 'source': 'mode', 'mode': 'nominal', 'reason': ''},
                                *modes]
    return content


def test_equal_alerts():
    both = [('person', 4), ('vehicle', 9), ('person', 30)]
    found = compare(live_report(*both), report(*both), IMAGE_NS)
    assert found == {'comparable': True, 'why': [], 'same_alerts': True, 'differences': [],
                     'confirm_n': {'person': 5, 'vehicle': 5}}
    assert comparison_line(found) == 'the same alerts as bag_eval, on the same frames'


@pytest.mark.parametrize(('shift', 'same'), [(1, True), (CONFIRM_N, True), (-CONFIRM_N, True),
                                             (CONFIRM_N + 1, False), (-CONFIRM_N - 1, False)])
def test_an_onset_may_be_confirm_n_frames_off(shift, same):
    found = compare(live_report(('vehicle', 2), ('person', 10 + shift)),
                    report(('person', 10), ('vehicle', 2)), IMAGE_NS)
    assert (found['comparable'], found['same_alerts']) == (True, same)
    assert found['differences'] == [{
        'class': 'person', 'live_s': pytest.approx((10 + shift) / 5), 'bag_eval_s': 2.0,
        'frames_apart': abs(shift)}]
    line = comparison_line(found)
    assert line == (f'the same alerts as bag_eval, onsets up to {abs(shift)} frames apart' if same
                    else f'NOT the alerts of bag_eval: person at {(10 + shift) / 5:.1f} s live, '
                         'at 2.0 s in bag_eval')


def test_an_alert_that_only_one_of_them_raised():
    found = compare(live_report(('person', 3)), report(('person', 3), ('person', 20)), IMAGE_NS)
    assert found['same_alerts'] is False
    assert found['differences'] == [{'class': 'person', 'live_s': None, 'bag_eval_s': 4.0,
                                     'frames_apart': None}]
    assert comparison_line(found) == \
        'NOT the alerts of bag_eval: person not at all live, at 4.0 s in bag_eval'
    found = compare(live_report(('vehicle', 5)), report(), IMAGE_NS)
    assert found['differences'][0] == {'class': 'vehicle', 'live_s': 1.0, 'bag_eval_s': None,
                                       'frames_apart': None}


@pytest.mark.parametrize(('live', 'why'), [
    ({'node': {'replaced': 3}}, '3 of 40 frames were replaced by a newer one before'),
    ({'node': {'too_old': 1}}, '1 of 40 frames were too old for the node (image.max_age_s)'),
    ({'node': {'skipped': 2}}, '2 of 40 frames were skipped for the latency budget'),
    ({'node': {'failed': 1}}, '1 of 40 frames made the engine fail'),
    ({'node': {'malformed': 1}}, '1 of 40 frames could not be read live, 0 in bag_eval'),
    ({'lost_on_the_way': 4}, '4 of 40 frames were lost on the way to the node'),
    ({'masks_lost_on_the_way': 1}, '1 answers were lost on the way back'),
    ({'wrong_headers': 1}, '1 answers have a header that was never sent'),
    ({'modes': [{'t_s': 3.0, 'source': 'mode', 'mode': 'degraded', 'reason': 'input 32x32'}]},
     'the node was degraded from 3.0 s on: input 32x32')])
def test_frames_that_did_not_get_their_answer(live, why):
    found = compare(live_report(('person', 4), **live), report(('person', 9)), IMAGE_NS)
    assert found['comparable'] is False
    assert found['same_alerts'] is None
    assert len(found['why']) == 1
    assert found['why'][0].startswith(why)
    assert found['differences'][0]['frames_apart'] == 5  # all the same it is told
    assert comparison_line(found) == f'not comparable with bag_eval: {found["why"][0]}'


def test_what_neither_could_read_is_no_difference():
    found = compare(live_report(not_sent=1, node={'malformed': 2}), report(malformed=3), IMAGE_NS)
    assert found['comparable'] is True
    assert compare(live_report(), report(malformed=1), IMAGE_NS)['why'] == [
        '0 of 40 frames could not be read live, 1 in bag_eval']


def test_frames_that_were_only_late_are_no_reason():
    assert compare(live_report(late_frames=7), report(), IMAGE_NS)['comparable'] is True


def test_other_inputs():
    def why(**changes):
        other = report()
        for path, value in changes.items():
            part, _, key = path.partition('__')
            if key:
                other[part][key] = value
            else:
                other[part] = value
        return compare(live_report(), other, IMAGE_NS)['why']
    assert why(model__sha256='c' * 64) == [
        f'another bundle: live had demo ({"a" * 12}), bag_eval had demo ({"c" * 12})']
    assert why(model__input_hw=[32, 32]) == ['another input_hw: live had [64, 64], bag_eval '
                                             '[32, 32]']
    assert why(bag__sha256='d' * 64)[0].startswith('another bag: live had bbb')
    rules = deepcopy(report()['rules'])
    rules[1]['min_pixels'] = 12.0
    assert why(rules=rules) == ['other rules: alert.vehicle.min_pixels was 20.0 live, 12.0 in '
                                'bag_eval']
    assert why(rules=rules[:1]) == ['other rules: live had those of person, vehicle, bag_eval '
                                    'those of person']


def test_another_bag_has_no_onsets_to_hold_against():
    other = report(('person', 3))
    other['bag']['sha256'] = 'd' * 64
    other['alerts'][0]['stamp_ns'] = 17
    found = compare(live_report(('person', 3)), other, IMAGE_NS)
    assert (found['comparable'], found['differences']) == (False, [])


def test_onsets_find_their_other():
    assert pair_onsets([1, 10, 20], [2, 21], 3) == [(1, 2), (20, 21), (10, None)]
    assert pair_onsets([], [4], 3) == [(None, 4)]
    assert pair_onsets([1, 30], [10, 40], 3) == [(1, 10), (30, 40)]


def test_the_run_of_this_bag_and_bundle_is_taken(tmp_path):
    other_model, right, other_bag = report(), report(), report()
    other_model['model']['sha256'] = 'c' * 64
    other_bag['bag']['sha256'] = 'd' * 64
    (tmp_path / 'scores.json').write_text(json.dumps(
        {'schema': 2, 'tool': 'bag_eval', 'runs': [other_bag, other_model, right]}))
    runs = read_runs(tmp_path / 'scores.json')
    assert run_like(runs, live_report()) == right
    assert run_like(runs[:2], live_report()) == other_model
    for text in ('{"runs": []}', '[]', '{', '{"tool": "live", "runs": [{}]}'):
        (tmp_path / 'bad.json').write_text(text)
        with pytest.raises(InputError, match=r'bad\.json'):
            read_runs(tmp_path / 'bad.json')
