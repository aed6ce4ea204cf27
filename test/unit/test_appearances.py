# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

from evit_seg.core.alerts import Alert, Region
from evit_seg.core.appearances import (
    ObjectBox,
    read_events,
    read_objects,
    score_appearances,
    ScoredFrame,
    VisibleSpan,
)
from evit_seg.core.errors import ConfigError, InputError
import pytest

PERIOD_NS = 200_000_000
ON_BOX = Region(96, 96, 8, 8, 60.0, 0.9)  # touches the box below by its corner
OFF_BOX = Region(500, 300, 8, 8, 60.0, 0.9)


def flight(count, alerts=None):
    """Build frames f0, f1, ... at 5 Hz; `alerts`: index -> (id, region, frames since found)."""
    frames = []
    for index in range(count):
        active = ()
        if alerts and index in alerts:
            alert_id, region, age = alerts[index]
            stamp_ns = (index - age) * PERIOD_NS
            active = (Alert(alert_id, 10, 'person', (region,), stamp_ns, stamp_ns),)
        frames.append(ScoredFrame(f'f{index}', index * 0.2, index * PERIOD_NS, active))
    return frames


def boxes(indices, height=14.0, instance='p1', slug='person'):
    return [ObjectBox(f'f{i}', slug, instance, 100.0, 100.0, 6.0, height) for i in indices]


def score(frames, objects, **changes):
    options = {'min_height_px': 12.0, 'confirm_n': 5, **changes}
    return score_appearances(frames, objects, 'person', **options)


def found(indices, region=ON_BOX, alert_id='person-1'):
    return dict.fromkeys(indices, (alert_id, region, 0))


def test_hit():
    result = score(flight(20, found(range(7, 12))), boxes(range(5, 12)))
    assert (result.hits, result.recall, result.active_spans, result.false_alerts) == (1, 1.0, 1, 0)
    (appearance,) = result.appearances
    assert (appearance.first_frame, appearance.last_frame, appearance.hit) == ('f5', 'f11', True)


def test_miss_and_false_alert_at_once():
    result = score(flight(20, found(range(7, 12), OFF_BOX)), boxes(range(5, 12)))
    assert (result.hits, result.recall, result.false_alerts) == (0, 0.0, 1)
    assert result.minutes == pytest.approx(20 * 0.2 / 60)
    assert result.false_alerts_per_min == pytest.approx(15.0)


@pytest.mark.parametrize(('region', 'hit'), [
    (Region(92, 92, 8, 8, 1.0, 1.0), False),  # shares only the corner point
    (Region(92, 92, 9, 9, 1.0, 1.0), True),
    (Region(105, 113, 8, 8, 1.0, 1.0), True),
    (Region(106, 113, 8, 8, 1.0, 1.0), False),
    (Region(0, 0, 1280, 720, 1.0, 1.0), True)])
def test_any_shared_area_is_overlap(region, hit):
    assert score(flight(20, found([8], region)), boxes(range(5, 12))).hits == hit


@pytest.mark.parametrize(('heights', 'counts'), [
    ([14] * 5, 1), ([14] * 4, 0), ([14] * 4 + [11] + [14] * 4, 0), ([11] * 9 + [12] * 5, 1),
    ([12.0] * 5, 1), ([11.9] * 30, 0)])
def test_an_appearance_is_high_enough_in_confirm_n_consecutive_frames(heights, counts):
    objects = [box for i, h in enumerate(heights) for box in boxes([i], h)]
    result = score(flight(40), objects)
    assert len(result.appearances) == counts
    assert result.recall == (0.0 if counts else None)


def test_a_hit_while_the_person_was_still_small_counts():
    objects = boxes(range(5, 10), 8.0) + boxes(range(10, 16))
    assert score(flight(30, found([6])), objects).hits == 1


@pytest.mark.parametrize(('late', 'hit'), [(1, True), (5, True), (6, False)])
def test_an_alert_may_come_confirm_n_frames_late(late, hit):
    result = score(flight(30, found([11 + late])), boxes(range(5, 12)))
    assert result.hits == hit
    assert result.false_alerts == (not hit)


def test_a_region_that_is_only_carried_along_hits_nothing():
    carried = {i: ('person-1', ON_BOX, i - 2) for i in range(2, 12)}
    result = score(flight(20, carried), boxes(range(8, 14)))
    assert (result.hits, result.false_alerts) == (0, 1)


def test_false_alerts_are_counted_by_span_and_small_people_are_no_false_alert():
    alerts = {**found([2, 3]), **found([20, 21], OFF_BOX), **found([24, 25], OFF_BOX),
              **found([30, 31], OFF_BOX, 'person-2')}
    result = score(flight(40, alerts), boxes(range(1, 5), 5.0))
    assert (result.active_spans, result.false_alerts) == (4, 3)
    assert result.appearances == ()


def test_one_span_with_one_true_region_is_not_false():
    alerts = {**found(range(2, 6), OFF_BOX), **found([6])}
    assert score(flight(20, alerts), boxes(range(5, 12))).false_alerts == 0


def test_other_classes_do_not_count():
    objects = boxes(range(5, 12), slug='vehicle')
    result = score(flight(20, found([8])), objects)
    assert (result.recall, result.false_alerts) == (None, 1)


def test_each_run_is_an_appearance_unless_events_join_them():
    objects = boxes(range(5, 12)) + boxes(range(20, 27)) + boxes(range(5, 12), instance='p2')
    frames = flight(40, found([8]))
    assert [(a.instance, a.first_frame, a.hit) for a in score(frames, objects).appearances] == [
        ('p1', 'f5', True), ('p1', 'f20', False), ('p2', 'f5', True)]
    events = [VisibleSpan('person', 'p1', 1.0, 5.2, 14.0), VisibleSpan('fire', 'p2', 1, 2, 3),
              VisibleSpan('person', 'p9', 0.0, 9.0, 99.0)]
    (joined,) = score(frames, objects, events=events).appearances
    assert (joined.instance, joined.first_frame, joined.last_frame) == ('p1', 'f5', 'f26')


def test_frames_that_were_not_processed_do_not_break_a_run():
    frames = [frame for i, frame in enumerate(flight(40)) if i % 2 == 0]
    assert len(score(frames, boxes(range(10))).appearances) == 1


def test_files_that_do_not_belong_together_are_an_error():
    with pytest.raises(InputError, match=r"such as 'other'.*such as 'f0'.*belong together"):
        score(flight(5), [ObjectBox('other', 'person', 'p1', 0, 0, 5, 15)])
    with pytest.raises(ConfigError, match='confirm_n'):
        score(flight(5), [], confirm_n=0)


def test_no_frames_no_scores():
    result = score([], [])
    assert (result.recall, result.false_alerts_per_min, result.minutes) == (None, None, 0.0)


def test_the_result_is_json():
    result = score(flight(20, found(range(7, 12))), boxes(range(5, 12)))
    assert json.loads(json.dumps(result.to_dict()))['appearances'][0]['hit'] is True


def test_csv_files(tmp_path):
    objects, events = tmp_path / 'objects.csv', tmp_path / 'events.csv'
    objects.write_text('frame,class,instance,x,y,w,h\nf0,person,3,1,2,3.5,4\n')
    events.write_text('class,instance,t_from,t_to,max_height_px\nfire_flare,7,0.4,2.0,31\n')
    assert read_objects(objects) == [ObjectBox('f0', 'person', '3', 1.0, 2.0, 3.5, 4.0)]
    assert read_events(events) == [VisibleSpan('fire_flare', '7', 0.4, 2.0, 31.0)]


@pytest.mark.parametrize(('content', 'message'), [
    ('frame,class\nf0,person\n', 'instance, x, y, w, h missing'),
    ('frame,class,instance,x,y,w,h\nf0,person,3,1,2,wide,4\n', "line 2: .*'wide'"),
    ('frame,class,instance,x,y,w,h\nf0,person,3,1\n', 'line 2'),
    ('', 'expected the columns')])
def test_broken_csv_files_say_where(tmp_path, content, message):
    path = tmp_path / 'objects.csv'
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        read_objects(path)


def test_a_missing_csv_file_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match='cannot be read'):
        read_events(tmp_path / 'events.csv')


@pytest.mark.parametrize(('alerts', 'time_s', 'already_on'), [
    (found(range(7, 12)), 0.4, False),  # in view from f5, raised in f7
    (found(range(5, 12)), 0.0, False),
    (found(range(3, 12)), 0.0, True),
    # raised in f6 for somebody else: that one is on when the box is met, in f9
    ({**found(range(6, 9), OFF_BOX), **found(range(9, 12))}, 0.2, False),
    # the alert of before goes out, another one finds it
    ({**found(range(2, 7), OFF_BOX), **found(range(8, 12), alert_id='person-2')}, 0.6, False),
    ({}, None, False)])
def test_time_to_alert(alerts, time_s, already_on):
    (appearance,) = score(flight(20, alerts), boxes(range(5, 12))).appearances
    assert appearance.already_on == already_on
    assert appearance.time_to_alert_s == (None if time_s is None else pytest.approx(time_s))


def test_what_is_too_small_or_too_short_is_left_out():
    objects = boxes(range(5)) + boxes(range(4), instance='short') + \
        boxes(range(9), height=11.0, instance='small')
    result = score(flight(20), objects)
    assert ([a.instance for a in result.appearances], result.left_out) == (['p1'], 2)
