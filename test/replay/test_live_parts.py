# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The parts of a live run that need no ROS: waiting, recording, events in words, pictures."""
from __future__ import annotations

import cv2
from evit_seg.core.alerts import Alert, AlertEvent
from evit_seg.core.decode import Frame
from evit_seg.core.errors import EvitSegError, InputError
from evit_seg.core.labels import load_label_map
from evit_seg.core.regions import Region
from evit_seg.replay import demo, live_play, make_bag, node_process
from evit_seg.replay.bag import Bag
from evit_seg.replay.live_alerts import alerts_on_mask, events_of
from evit_seg.replay.live_pictures import video_rate_hz
from evit_seg.replay.overlay_video import overlay, OverlayVideo, poster
from evit_seg.replay.places import PlacedEvent
from evit_seg.replay.recording import Recording
import numpy as np
import pytest

LABELS = load_label_map()
PERSON = LABELS.by_slug('person').id


class FakeNode:
    """A node that ends by itself when told so."""

    def __init__(self) -> None:
        self.gone = False
        self.samples = 0

    def check(self) -> None:
        if self.gone:
            raise EvitSegError('gone')

    def sample_memory(self) -> None:
        self.samples += 1

    def last_words(self) -> str:
        return 'last words'


class FakeOthers:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.times_ns: list[int] = []
        self.published: list[tuple[str, float]] = []

    def tell_time(self, bag_ns: int) -> None:
        self.times_ns.append(bag_ns)

    def publish(self, message) -> None:
        self.published.append((message.topic, message.content.data))


class FakeLink:
    """A link whose other side reports whenever it is asked whether it has matched."""

    def __init__(self, state: str = 'active', matches_at: int = 1) -> None:
        self.recording = Recording()
        self.state = state
        self.matches_at = matches_at
        self.asked = 0
        self.published: list[int] = []
        self.others = FakeOthers()

    def missing(self) -> list[str]:
        self.asked += 1
        return [] if self.asked >= self.matches_at else ['a publisher of /diagnostics']

    def publish(self, index, message) -> None:
        header = (message.stamp_ns // 10**9, message.stamp_ns % 10**9, 'camera')
        self.recording.note_sent(index, header, 0.0)
        self.recording.note_mask(header, np.zeros((2, 2), np.uint8), 0.0)
        self.published.append(index)


class Reporting(Recording):
    """A recording in which each wait for a report brings the next of some."""

    def __init__(self, reports: list[dict[str, str]]) -> None:
        super().__init__()
        self.reports = reports
        self.sentences: list[str] = []

    def wait_for_report(self, number: int, seconds: float) -> bool:
        if self.reports:
            self.note_report(self.sentences.pop(0) if self.sentences else 'said',
                             self.reports.pop(0))
            return True
        return False


def test_ready_takes_a_report_after_the_match():
    link = FakeLink(matches_at=2)
    link.recording = Reporting([{'state': 'active'}] * 5)
    live_play.wait_until_ready(link, FakeNode(), 7)
    assert link.recording.report.number == 2  # one came before the match, one after it
    assert set(link.others.times_ns) == {7}


def test_ready_is_a_node_that_knows_the_time_of_the_bag():
    link = FakeLink()
    link.recording = Reporting([{'state': 'active'}] * 3)
    link.recording.sentences = ['degraded: use_sim_time is set, but nothing comes on /clock: how '
                                'old an image is cannot be told'] * 2
    live_play.wait_until_ready(link, FakeNode(), 7)
    assert link.recording.report.number == 3


def test_a_node_that_never_gets_ready_is_given_up(monkeypatch):
    monkeypatch.setattr(live_play, 'READY_TIMEOUT_S', 0.05)
    link = FakeLink()
    link.recording = Reporting([{'state': 'inactive'}] * 3)
    with pytest.raises(InputError, match=r'within 0\.05 s; waited for its report that it is '
                                         'active; it says: said; last words'):
        live_play.wait_until_ready(link, FakeNode(), 7)


def test_whoever_is_not_found_is_named(monkeypatch):
    monkeypatch.setattr(live_play, 'READY_TIMEOUT_S', 0.05)
    with pytest.raises(InputError, match='for a publisher of /diagnostics; it says: nothing'):
        live_play.wait_until_ready(FakeLink(matches_at=10**9), FakeNode(), 7)


def test_a_node_that_ends_while_waiting_is_noticed():
    node = FakeNode()
    node.gone = True
    with pytest.raises(EvitSegError, match='gone'):
        live_play.wait_until_ready(FakeLink(), node, 7)


def counts(processed: int, in_work: int = 0) -> dict[str, str]:
    return {'frames received': '3', 'frames processed': str(processed),
            'frames in_work': str(in_work)}


def test_draining_waits_for_the_last_mask_and_its_count():
    link = FakeLink()
    link.recording = Reporting([counts(1, 1), counts(1), counts(2)])
    for index in range(3):
        link.recording.note_sent(index, (0, index, 'camera'), 0.0)
    for index in (0, 2):
        link.recording.note_mask((0, index, 'camera'), np.zeros((2, 2), np.uint8), 1.0)
    live_play.drain(link, FakeNode())
    assert link.recording.report.values == counts(2)


def test_draining_ends_when_the_last_frame_was_lost():
    link = FakeLink()
    link.recording = Reporting([counts(0, 1), counts(1), counts(1)])
    link.recording.note_sent(0, (0, 0, 'camera'), 0.0)
    link.recording.note_sent(1, (0, 1, 'camera'), 0.0)
    live_play.drain(link, FakeNode())
    assert not link.recording.reports


def test_draining_has_a_deadline(monkeypatch):
    monkeypatch.setattr(live_play, 'DRAIN_TIMEOUT_S', 0.05)
    link = FakeLink()
    link.recording = Reporting([counts(0, 1)])
    link.recording.note_sent(0, (0, 0, 'camera'), 0.0)
    with pytest.raises(InputError, match=r'not come to rest within 0\.05 s; waited for reports in '
                                         'which no frame is in work .* of 1 frames sent'):
        live_play.drain(link, FakeNode())


@pytest.mark.parametrize('lockstep', [False, True])
def test_play_sends_every_frame_in_order(tmp_path, lockstep):
    (tmp_path / 'images').mkdir()
    for i in range(5):
        cv2.imwrite(str(tmp_path / 'images' / f'{i}.png'), np.full((4, 4, 3), i, np.uint8))
    make_bag.main([str(tmp_path / 'images'), '--out', str(tmp_path / 'bag')])
    link, node = FakeLink(), FakeNode()
    with Bag(tmp_path / 'bag') as bag:
        live_play.play(link, node, bag, bag.choose_image_topic(), 100.0,
                       lockstep=lockstep)
    assert link.published == list(range(5))
    assert node.samples == 5


def test_headings_and_the_time_are_played_with_the_frames(tmp_path):
    (tmp_path / 'images').mkdir()
    rows = ['file,time_s,yaw_deg,relative_altitude_m']
    for i in range(4):
        cv2.imwrite(str(tmp_path / 'images' / f'{i}.png'), np.full((4, 4, 3), i, np.uint8))
        rows.append(f'{i}.png,{i / 2},{i},{40 + i}')
    (tmp_path / 'images' / 'frames.csv').write_text('\n'.join(rows))
    make_bag.main([str(tmp_path / 'images'), '--out', str(tmp_path / 'bag')])
    link = FakeLink()
    with Bag(tmp_path / 'bag') as bag:
        image = bag.choose_image_topic()
        live_play.play(link, FakeNode(), bag, image, 10.0, others=['/heading', '/height'])
        stamps_ns = [message.stamp_ns for message in bag.messages([image.name])]
    assert link.published == list(range(4))
    assert link.others.published == [pair for i in range(4) for pair in (
        ('/heading', float(i)), ('/height', 40.0 + i))]
    assert link.others.times_ns == sorted(link.others.times_ns)
    assert set(stamps_ns) <= set(link.others.times_ns)


def test_the_time_goes_on_while_nothing_is_to_be_published(monkeypatch):
    now_s = [100.0]
    monkeypatch.setattr(live_play.time, 'monotonic', lambda: now_s[0])
    monkeypatch.setattr(live_play.time, 'sleep', lambda s: now_s.append(now_s.pop() + s))
    others = FakeOthers()
    checks = []
    late_s = live_play._wait_until_due(others, 100.05, 10 ** 9, 2.0, lambda: checks.append(1))
    assert len(checks) == 4
    assert late_s == pytest.approx(0.0, abs=1e-9)
    assert others.times_ns == pytest.approx(
        [900_000_000, 940_000_000, 980_000_000, 1_000_000_000])
    assert live_play._wait_until_due(others, 99.0, 2 * 10 ** 9, 2.0, list) == pytest.approx(1.05)
    assert others.times_ns[-1] == 2 * 10 ** 9


def test_an_answer_nobody_asked_for_is_a_wrong_header():
    recording = Recording()
    mask = np.arange(6, dtype=np.uint8).reshape(2, 3)
    recording.note_sent(0, (1, 2, 'camera'), 0.0)
    recording.note_mask((1, 2, 'other'), mask, 0.1)
    recording.note_mask((1, 2, 'camera'), mask, 0.2)
    recording.note_mask((1, 2, 'camera'), mask, 0.3)
    assert recording.wrong_headers == ["mask: (1, 2, 'other')"]
    assert recording.answered_s == {0: 0.2}
    assert recording.repeated_answers == 1
    np.testing.assert_array_equal(recording.masks.get(0), mask)
    assert recording.masks.get(1) is None


def test_an_answer_that_cannot_be_read_ends_the_run():
    link = FakeLink()
    link.recording.note_fault(ValueError('no mask'))
    with pytest.raises(InputError, match='an answer of seg_node cannot be read: no mask'):
        live_play.wait_until_ready(link, FakeNode(), 7)


def values(**changes: str) -> dict[str, str]:
    return {'alert_id': 'person-1', 'class': 'person', 'state': 'ACTIVE', 'pixels': '30.0',
            'regions': '2', 'confidence': '0.750', 'first_seen': '1.000000001',
            'last_seen': '1700000000.200000000', 'bbox': '1,2,3,4 50,6,7,8', **changes}


def test_events_come_back_from_their_words():
    [event] = events_of(42, [('raised', values())], LABELS)
    assert event == AlertEvent('raised', Alert(
        'person-1', PERSON, 'person', (Region(1, 2, 3, 4, 15.0, 0.75),
                                       Region(50, 6, 7, 8, 15.0, 0.75)),
        1_000_000_001, 1_700_000_000_200_000_000), 'ACTIVE', 42)


@pytest.mark.parametrize('changes', [{'bbox': '1,2,3'}, {'pixels': 'many'}, {'last_seen': ''}])
def test_events_that_are_not_as_documented_are_refused(changes):
    with pytest.raises(InputError, match='alert event'):
        events_of(42, [('raised', values(**changes))], LABELS)


def test_an_alert_is_carried_until_it_clears():
    recording = Recording()
    for index in range(6):
        recording.note_sent(index, (0, index, 'c'), 0.0)
        if index != 3:
            recording.note_mask((0, index, 'c'), np.zeros((2, 2), np.uint8), 1.0)
    for second, kind in ((1, 'raised'), (5, 'cleared')):
        [event] = events_of(second, [(kind, values())], LABELS)
        recording.note_events((0, second, 'c'), [PlacedEvent(event)], 2.0)
    assert recording.raised_ms == [2000.0]
    alerts = recording.alerts_by_frame(6)
    assert {index: len(active) for index, active in alerts.items()} == \
        {0: 0, 1: 1, 2: 1, 4: 1, 5: 0}


def test_boxes_in_pictures_are_those_of_the_frames_own_mask():
    mask = np.zeros((40, 40), np.uint8)
    mask[10:20, 5:9] = PERSON
    mask[30, 30] = PERSON
    [event] = events_of(42, [('raised', values())], LABELS)
    [alert] = alerts_on_mask([event.alert], mask, {PERSON: 20.0})
    assert alert.regions == (Region(5, 10, 4, 10, 40.0, 0.75),)
    assert alerts_on_mask([event.alert], np.zeros((40, 40), np.uint8), {}) == ()


def test_a_video_reads_back_frame_by_frame(tmp_path):
    video = OverlayVideo(tmp_path / 'v.mp4', 5.0)
    frame = Frame(np.full((47, 63, 3), 90, np.uint8), 'bgr')
    for mask in (np.zeros((47, 63), np.uint8), None, np.full((47, 63), PERSON, np.uint8)):
        video.add(overlay(frame, mask, LABELS, (), 960))
    video.close()
    capture = cv2.VideoCapture(str(tmp_path / 'v.mp4'))
    assert capture.get(cv2.CAP_PROP_FPS) == 5.0
    assert [capture.read()[0] for _ in range(4)] == [True, True, True, False]


def test_a_poster_shows_image_mask_and_overlay():
    frame = Frame(np.full((36, 64, 3), 90, np.uint8), 'bgr')
    picture = poster(frame, np.full((36, 64), PERSON, np.uint8), LABELS, ())
    assert picture.shape == (36, 3 * 64 + 2 * 6, 3)
    np.testing.assert_array_equal(picture[0, 0], [90, 90, 90])
    np.testing.assert_array_equal(picture[0, 64 + 6][::-1], LABELS.palette_rgb()[PERSON])


@pytest.mark.parametrize(('stamps_ns', 'rate_hz'), [
    ([0, 200_000_000, 400_000_000, 900_000_000], 5.0), ([7], 1.0), ([5, 5, 5], 1.0),
    ([0, 1], 60.0)])
def test_the_pace_of_the_video(stamps_ns, rate_hz):
    assert video_rate_hz(stamps_ns) == rate_hz


def test_a_node_that_ends_early_gives_its_exit_code_and_last_words(tmp_path, monkeypatch):
    monkeypatch.setattr(node_process.sys, 'executable', '/bin/false')
    node = node_process.NodeProcess([], namespace='/x', image_topic='/y', environment={},
                                    log=tmp_path / 'node.log')
    with pytest.raises(node_process.NodeFailed, match='exit code 1: it said nothing'):
        while True:
            node.check()
    assert node.stop() == 1


def test_a_node_that_ignores_sigint_is_killed(tmp_path, monkeypatch):
    script = tmp_path / 'stubborn'
    script.write_text('#!/bin/sh\ntrap "" INT\necho ready\nexec sleep 60\n')
    script.chmod(0o755)
    monkeypatch.setattr(node_process.sys, 'executable', str(script))
    monkeypatch.setattr(node_process, 'STOP_TIMEOUT_S', 0.2)
    node = node_process.NodeProcess([], namespace='/x', image_topic='/y', environment={},
                                    log=tmp_path / 'node.log')
    with pytest.raises(node_process.NodeFailed):
        while True:  # SIGINT is ignored from the moment the script says so
            if 'ready' in node.last_words():
                node.stop()
    with pytest.raises(node_process.NodeFailed, match='exit code -9'):
        node.check()


def test_the_demo_replaces_its_own_parts_only(tmp_path):
    demo.clear(tmp_path / 'demo')
    (tmp_path / 'demo' / 'live').mkdir()
    demo.clear(tmp_path / 'demo')
    assert list((tmp_path / 'demo').iterdir()) == []
    (tmp_path / 'demo' / 'thesis.txt').write_text('x')
    with pytest.raises(InputError, match='thesis'):
        demo.clear(tmp_path / 'demo')
