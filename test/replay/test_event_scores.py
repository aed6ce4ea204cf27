# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Events and curves of a flight whose every alert is worked out by hand.

10 s at 10 Hz, people of one cell; 3 of 5 frames confirm, 1.0 s without evidence clears.

    who    in view   answered as person   the alert
    A      10 - 29   10 - 29              raised by the third frame, 12
    B      35 - 44   38 - 44              A's is still on: see below
    C      60 - 64   never                none
    -      never     70 - 72, weakly      raised in 72
    E      86 - 88   never                none, and 3 frames are too few for an appearance
    D      90 - 99   91 - 99              raised in 93

Evidence ends in frame 29; the first look without any, 30, starts the clock, and 40 would be 1.0 s
later: but 38 brings B. After B, 45 starts the clock and 55 clears: on in 12 to 54. After 72, 73
starts it and 83 clears: on in 72 to 82. D's stays on: 93 to 99.
"""
from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from evit_seg.core.errors import ConfigError, LabelMapMismatch
from evit_seg.core.segmenter import Segmenter
from evit_seg.replay import bag_eval, make_bag
from evit_seg.replay.alert_params import load_alert_rules
from evit_seg.replay.annotations import Annotations
from evit_seg.replay.event_truth import EventTimes
from evit_seg.replay.recommended import pool_curves, recommend
import numpy as np
import pytest
from tiny_bundle import anchor_colours, write_tiny_bundle
from tiny_flight import (
    BACKGROUND,
    cells,
    pack,
    PERSON,
    report_of,
    RULE,
    write_boxes,
    write_flight,
)
import yaml

SHARED = Path(__file__).resolve().parents[3] / 'shared' / 'data'
PEOPLE = {'A': (range(10, 30), 1, 1), 'B': (range(35, 45), 5, 5), 'C': (range(60, 65), 2, 6),
          'E': (range(86, 89), 6, 2), 'D': (range(90, 100), 4, 4)}
ANSWERED = {'A': range(10, 30), 'B': range(38, 45), 'C': (), 'E': (), 'D': range(91, 100)}
WEAK_FRAMES = range(70, 73)


def weak_frame():
    """
    Return a frame with one cell between person, 0.4 of the way to class 11, and background else.

    The tiny network's logits of the two differ by 20 (0.6^2 - 0.4^2) d^2 = 1.008, where
    d = 128/255 is how far their colours lie apart; those of classes 1 and 13 by 4.96 and that of
    class 2 by 5.98. So p = 1 / (1 + exp(-1.008) + 2 exp(-4.96) + exp(-5.98)) = 0.72.
    """
    person, other = anchor_colours()[[PERSON, 11]].astype(float)
    image = np.broadcast_to(anchor_colours()[BACKGROUND], (64, 64, 3)).copy()
    image[24:32, 24:32] = np.round(0.6 * person + 0.4 * other)
    return image


@pytest.fixture(scope='module')
def tiny(tmp_path_factory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp('bundle') / 'tiny')


@pytest.fixture(scope='module')
def flight(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('events') / 'flight'
    seen = [cells(*((row, column) for name, (_, row, column) in PEOPLE.items()
                    if i in ANSWERED[name])) for i in range(100)]
    write_flight(folder, seen, colours=dict.fromkeys(WEAK_FRAMES, weak_frame()))
    write_boxes(folder, PEOPLE)
    return folder


@pytest.fixture(scope='module')
def bag(flight) -> Path:
    return pack(flight)


@pytest.fixture(scope='module')
def report(flight, bag, tiny) -> dict:
    return report_of(bag, tiny, annotations=annotations_of(flight), min_height_px=8.0)


MARKED = 'class,from,to\nperson,1.0,2.9\nperson,3.5,4.4\nperson,6.0,6.4\nperson,8.6,8.8\n' \
         'person,9.0,9.9\n'


def marked_report(tmp_path, bag, tiny, text=MARKED, **options) -> dict:
    table = tmp_path / 'times.csv'
    table.write_text(text)
    return report_of(bag, tiny, event_times=EventTimes.read(table), **options)


def person_of(section: dict) -> dict:
    [row] = section['classes']
    assert (row['slug'], row['class_id']) == ('person', PERSON)
    return row


def test_the_alerts_are_those_worked_out(report):
    assert [(event['kind'], round(event['t_s'] * 10)) for event in report['alerts']
            if event['kind'] != 'updated'] == [
        ('raised', 12), ('cleared', 55), ('raised', 72), ('cleared', 83), ('raised', 93)]


def check_by_hand(person: dict) -> None:
    """Check all that boxes and marked times must agree on."""
    # A, B, C and D are appearances; E is too short. C is never found.
    assert (person['annotated'], person['appearances'], person['left_out'], person['hits']) \
        == (True, 4, 1, 3)
    assert person['recall'] == 3 / 4
    # A: frame 10 to 12. B: the alert is on since 12, before 35: 0 s. D: frame 90 to 93.
    assert [(span['from_s'], span['to_s'], span['hit'], span['time_to_alert_s'],
             span['already_on']) for span in person['spans']] == [
        (1.0, 2.9, True, pytest.approx(0.2), False), (3.5, 4.4, True, 0.0, True),
        (6.0, 6.4, False, None, False), (9.0, 9.9, True, pytest.approx(0.3), False)]
    assert person['already_on'] == 1
    assert person['times_s'] == pytest.approx([0.2, 0.0, 0.3])
    # of 0, 0.2 and 0.3 s the 90 % quantile lies at place 0.9 * 2 = 1.8: 0.2 + 0.8 * 0.1
    assert person['time_to_alert_s'] == {'count': 3, 'median': pytest.approx(0.2),
                                         'p90': pytest.approx(0.28), 'max': pytest.approx(0.3)}
    # three spans of being on, one of them with nobody there; 100 frames of 0.1 s are 1/6 minute
    assert (person['alerts'], person['false_alerts']) == (3, 1)
    assert person['alerts_per_min'] == pytest.approx(18)
    assert person['false_alerts_per_min'] == pytest.approx(6)
    # A frame stands for the 0.1 s up to the next, the last one for none: on in 12-54 (43 frames),
    # 72-82 (11) and 93-98 (6), in all 6.0 of 9.9 s.
    assert (person['on_s'], person['on_share']) == pytest.approx((6.0, 6.0 / 9.9))
    # Somebody is in view in 10-29, 35-44, 60-64, 86-88 and 90-98: 20 + 10 + 5 + 3 + 9 = 47
    # frames, so for 9.9 - 4.7 = 5.2 s nobody is. Of these on: 30-34, 45-54 and 72-82, 26 frames.
    assert (person['empty_s'], person['idle_s']) == pytest.approx((5.2, 2.6))
    assert (person['idle_share'], person['idle_of_on_share']) \
        == pytest.approx((2.6 / 5.2, 2.6 / 6.0))


def test_events_by_hand_from_boxes(report):
    events = report['events']
    assert (events['truth'], events['note']) == ('boxes', None)
    assert 'overlaps its box' in events['definition'] and '8 px' in events['definition']
    assert events['minutes'] == pytest.approx(1 / 6)
    person = person_of(events)
    check_by_hand(person)
    assert [(s['instance'], s['height_px']) for s in person['spans']] == [
        ('A', 8), ('B', 8), ('C', 8), ('D', 8)]


def test_events_by_hand_from_marked_times(tmp_path, bag, tiny):
    events = marked_report(tmp_path, bag, tiny)['events']
    assert (events['truth'], events['note']) == ('spans', None)
    assert 'wherever in the image' in events['definition']
    check_by_hand(person_of(events))


def test_an_alert_elsewhere_is_a_hit_for_marked_times_only(flight, bag, tiny, tmp_path):
    # Somebody at the other end of the image while A's alert is on, 2.0 to 2.4 s.
    boxes = tmp_path / 'flight'
    boxes.mkdir()
    (boxes / 'frames.csv').write_text((flight / 'frames.csv').read_text())
    write_boxes(boxes, {'X': (range(20, 25), 7, 7)})
    by_box = person_of(report_of(bag, tiny, annotations=Annotations.read(
        boxes / 'objects.csv', boxes / 'events.csv'), min_height_px=8.0)['events'])
    by_time = person_of(marked_report(tmp_path, bag, tiny,
                                      'class,from,to\nperson,2.0,2.4\n')['events'])
    assert (by_box['hits'], by_box['recall'], by_box['false_alerts']) == (0, 0.0, 3)
    assert (by_time['hits'], by_time['already_on'], by_time['false_alerts']) == (1, 1, 2)
    assert by_box['time_to_alert_s'] == {'count': 0, 'median': None, 'p90': None, 'max': None}


def test_the_times_may_be_stamps_or_dates(tmp_path, bag, tiny):
    # make_bag starts at 1 700 000 000 s, which is 2023-11-14T22:13:20Z
    text = 'class,from,to\nperson,1700000001000000000,1700000002900000000\n' \
           'person,2023-11-14T22:13:23.5Z,2023-11-14T23:13:24.4+01:00\n' \
           'person,6.0,2023-11-14T22:13:26.400\nperson,8.6,8.8\nperson,9.0,9.9\n'
    check_by_hand(person_of(marked_report(tmp_path, bag, tiny, text)['events']))


def test_a_class_that_nobody_looked_for_is_not_scored(tmp_path, bag, tiny):
    report = marked_report(tmp_path, bag, tiny, 'class,from,to\nvehicle,1,2\nvehicle,50,60\n')
    events, person = report['events'], person_of(report['events'])
    assert not person['annotated']
    assert [person[key] for key in ('appearances', 'recall', 'false_alerts', 'empty_s',
                                    'time_to_alert_s', 'spans')] == [None] * 6
    assert (person['alerts'], person['on_s']) == (3, pytest.approx(6.0))
    assert events['note'] == 'no times are given for person: not scored; vehicle has times but ' \
                             'raises no alerts: not scored; 1 of the marked spans of times.csv ' \
                             'hold no frame of this bag'
    assert person_of(report['curves'])['recommended'] is None


def test_a_class_that_was_looked_for_and_never_there(tmp_path, bag, tiny):
    person = person_of(marked_report(tmp_path, bag, tiny, 'class,from,to\nperson,,\n')['events'])
    assert (person['appearances'], person['recall'], person['false_alerts']) == (0, None, 3)
    assert person['empty_s'] == pytest.approx(9.9)


@pytest.mark.parametrize('row,what', [
    ('person,2,1', 'from before to'), ('person,,1', "got ''"), ('person,soon,2', "got 'soon'"),
    ('person,1e9,2e9', 'stamp in ns'), ('person,-1,2', 'got'), ('person,nan,2', 'got')])
def test_times_that_cannot_be_read_are_said_with_their_line(tmp_path, row, what):
    table = tmp_path / 'times.csv'
    table.write_text(f'class,from,to\nperson,1,2\n{row}\n')
    with pytest.raises(Exception, match=f'line 3.*{what}'):
        EventTimes.read(table)


def test_times_of_an_unknown_class_and_two_kinds_of_truth_are_refused(
        tmp_path, flight, bag, tiny):
    with pytest.raises(LabelMapMismatch, match=r"'persn'.*'person'"):
        marked_report(tmp_path, bag, tiny, 'class,from,to\npersn,1,2\n')
    with pytest.raises(ConfigError, match=r'--objects.*--event-times'):
        marked_report(tmp_path, bag, tiny,
                      annotations=Annotations.read(flight / 'objects.csv', None))


def test_without_ground_truth_only_the_alerts_are_told(bag, tiny):
    report = report_of(bag, tiny)
    events, curves = report['events'], report['curves']
    assert (events['truth'], events['definition']) == (None, None)
    assert 'no ground truth' in events['note'] and 'no ground truth' in curves['note']
    person = person_of(events)
    assert (person['alerts'], person['on_s'], person['recall'], person['false_alerts']) \
        == (3, pytest.approx(6.0), None, None)
    assert report['sizes'] is None
    assert (curves['yaml'], person_of(curves)['recommended']) == (None, None)
    assert 'no ground truth' in person_of(curves)['reason']
    assert {point['recall'] for point in person_of(curves)['points']} == {None}


@pytest.mark.skipif(not (SHARED / 'brighton_beach').is_dir(), reason=f'no data in {SHARED}')
def test_a_recorded_flight_without_ground_truth(tmp_path, tiny):
    bag = tmp_path / 'bag'
    assert make_bag.main([str(SHARED / 'brighton_beach'), '--out', str(bag), '--rate', '5']) == 0
    report = report_of(bag, tiny)
    events, flicker = report['events'], report['flicker']
    assert 'no ground truth' in events['note'] and events['minutes'] == pytest.approx(18 / 300)
    assert (report['sizes'], flicker['consistency'], flicker['frame_pairs']) == (None, None, 17)
    assert sum(row['cells'] for row in flicker['classes']) == 17 * 2 * 64
    assert person_of(events)['annotated'] is False


def test_the_curve_at_the_settings_that_ran_is_the_run(report):
    [shipped] = [p for p in person_of(report['curves'])['points'] if p['shipped']]
    person = person_of(report['events'])
    assert {key: person[key] for key in shipped if key in person} \
        == {key: shipped[key] for key in shipped if key in person}
    assert (shipped['min_confidence'], shipped['min_pixels']) == (0.5, 20.0)


def test_the_curve_by_hand(report):
    points = {(p['min_pixels'], p['min_confidence']): p
              for p in person_of(report['curves'])['points']}
    assert sorted(points) == list(points) and len(points) == 4 * 16
    # People answered by their own colour have p above 0.95, the weak cell has 0.72.
    for (pixels, confidence), point in points.items():
        if pixels == 80:  # a cell has 64
            assert (point['hits'], point['alerts'], point['on_s']) == (0, 0, 0.0)
        else:
            strict = confidence >= 0.75
            assert (point['hits'], point['false_alerts']) == (3, 0 if strict else 1)
            # without the weak cells the alert is not on in 72-82: 1.1 s less
            assert (point['on_s'], point['idle_s']) \
                == pytest.approx((4.9, 1.5) if strict else (6.0, 2.6))


def annotations_of(flight: Path) -> Annotations:
    return Annotations.read(flight / 'objects.csv', flight / 'events.csv')


def test_the_recommended_yaml_is_taken_and_does_what_it_says(tmp_path, report, flight, bag, tiny):
    (tmp_path / 'p.yaml').write_text(report['curves']['yaml'])
    [rule, *_] = load_alert_rules(tmp_path / 'p.yaml', Segmenter.open(str(tiny)).label_map)
    assert (rule.slug, rule.min_confidence, rule.min_pixels) == ('person', 0.75, 20.0)
    rule = replace(RULE, min_confidence=rule.min_confidence, min_pixels=rule.min_pixels)
    person = person_of(report_of(bag, tiny, rules=[rule], annotations=annotations_of(flight),
                                 min_height_px=8.0)['events'])
    assert (person['hits'], person['false_alerts'], person['idle_s']) == (3, 0, 1.5)


def test_no_setting_is_recommended_where_none_will_do(bag, tiny, tmp_path):
    # With A alone marked, D's alert and the weak cell's are false: 2 in a sixth of a minute. A
    # higher confidence leaves 1, and 80 px none, but no hit either.
    only_a = marked_report(tmp_path, bag, tiny, 'class,from,to\nperson,1.0,2.9\n')
    person = person_of(only_a['curves'])
    assert (person['recommended'], only_a['curves']['yaml']) == (None, None)
    assert person['reason'] == 'every setting that finds anything has more than 0.5 false ' \
                               'alerts per minute, the least is 6.00'
    assert recommend(person['points'], 6.0)[0] == {'min_confidence': 0.75, 'min_pixels': 20.0}
    only_c = marked_report(tmp_path, bag, tiny, 'class,from,to\nperson,6.0,6.4\n')
    assert person_of(only_c['curves'])['reason'] == 'no setting finds any of the 1 appearances'


def test_bags_are_pooled_before_a_setting_is_chosen(report, tmp_path, bag, tiny):
    """The hand-made flight, and the same once more where only A was marked."""
    marked = marked_report(tmp_path, bag, tiny, 'class,from,to\nperson,1.0,2.9\n')
    silent = report_of(bag, tiny)
    pooled = pool_curves([run['curves'] for run in (report, marked, silent)])
    [point] = [p for p in person_of(pooled)['points'] if p['shipped']]
    # 4 appearances, 3 hit, and 1 hit; of the alerts 1 of 3 false, 2 of 3, and nothing known
    assert (point['appearances'], point['hits'], point['recall']) == (5, 4, 0.8)
    assert (point['alerts'], point['false_alerts']) == (9, 3)
    assert point['alerts_per_min'] == pytest.approx(9 / (3 / 6))
    assert point['false_alerts_per_min'] == pytest.approx(3 / (2 / 6))
    assert point['on_share'] == pytest.approx(6.0 / 9.9)
    # with A alone in view, 2.0 s, nobody is there for 7.9 s, 4.2 s of it with the alert on
    assert (point['empty_s'], point['idle_s']) == pytest.approx((5.2 + 7.9, 2.6 + 4.2))
    assert (pooled['truth'], pooled['minutes']) == (['boxes', 'spans'], pytest.approx(0.5))
    # at best D's alert in the second flight is left: one in the 2/6 minute that are known
    assert person_of(pooled)['reason'].endswith('the least is 3.00')
    assert recommend(person_of(pooled)['points'], 3.0)[0] == {'min_confidence': 0.75,
                                                              'min_pixels': 20.0}
    alone = pool_curves([silent['curves']])
    assert (alone['truth'], alone['yaml']) == ([], None) and 'no ground truth' in alone['note']


def test_the_recommended_setting_by_hand(report):
    # As run there are 6 false alerts a minute, too many. Every confidence above the weak cell's
    # finds as many people without them; the nearest to what ran wins, at the size that ran.
    curves = report['curves']
    person = person_of(curves)
    best = {'min_confidence': 0.75, 'min_pixels': 20.0}
    assert person['recommended'] == best
    # idle: 1.5 of 5.2 s, and as run 2.6 of 5.2 s
    assert person['reason'] == '3 of 4 appearances hit, 0.00 false alerts per minute, idle share' \
        ' 29%; as run: 3 of 4 appearances hit, 6.00 false alerts per minute, idle share 50%. ' \
        'Too few appearances (4) to trust it'
    assert yaml.safe_load(curves['yaml']) == {
        '/**': {'ros__parameters': {'alert': {'person': best}}}}


def test_the_command_takes_marked_times(tmp_path, bag, tiny, capsys):
    table = tmp_path / 'times.csv'
    table.write_text(MARKED)
    out = tmp_path / 'report.json'
    options = [str(bag), '--model', str(tiny), '--quiet', '--threads', '1']
    assert bag_eval.main([*options, '--event-times', str(table), '--json', str(out)]) == 0
    [run] = yaml.safe_load(out.read_text())['runs']
    assert (run['bag']['event_times'], run['events']['truth']) == ('times.csv', 'spans')
    assert run['events']['classes'][0]['appearances'] == 4
    for wrong in (['--event-times', str(table), '--objects', str(table)],
                  ['--max-false-per-min', '-1'],
                  ['--truth-folder', str(tmp_path), '--truth-topic', '/label']):
        assert bag_eval.main([*options, *wrong]) == 1
    assert capsys.readouterr().err.count('bag_eval: ') == 3
