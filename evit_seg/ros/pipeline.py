# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""One frame from the message to the outputs: decode, segment, track alerts, publish."""
from __future__ import annotations

import threading
import time
from typing import Any, Callable, NamedTuple, Optional, Sequence, Tuple

from builtin_interfaces.msg import Time
from evit_seg.core.alerts import Alert, AlertEvent, AlertTracker
from evit_seg.core.errors import EngineHang, FrameError
from evit_seg.core.health import FrameCounters, StageTimes
from evit_seg.core.regions import find_regions
from evit_seg.core.segmenter import SegResult
from evit_seg.ros.convert import CameraMessage, frame_from_message
from evit_seg.ros.engine_watch import EngineWatch, GivenUp
from evit_seg.ros.ladder import Ladder
from evit_seg.ros.model import Model, Smaller
from evit_seg.ros.outputs import Outputs
from evit_seg.ros.params import NodeConfig
from evit_seg.ros.position import Geotagger, Positions
from evit_seg.ros.safe_zone import SafeZones
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header

LOG_EVERY_S = 5.0
HANG_FACTOR = 4
"""So many times its slowest warm-up run may the engine take before it is said to hang."""


class Clocks(NamedTuple):
    """Where time comes from: the node's clock for stamps and ages, a steady one for durations."""

    now_ns: Callable[[], int]
    steady_s: Callable[[], float] = time.monotonic


class Arrival(NamedTuple):
    """A message and when the node received it, on the steady clock."""

    message: CameraMessage
    received_s: float


def stamp_to_ns(stamp: Time) -> int:
    """Return a stamp in ns; not through rclpy's Time, which refuses the ones before 1970."""
    return int(stamp.sec) * 10 ** 9 + int(stamp.nanosec)


class Pipeline:
    """
    Works on frames in the worker's thread; other threads read its attributes and set config.

    fault is the engine's last complaint, '' as soon as it answers again. last_outcome and
    last_complaint tell how the last frame looked at ended. started_s is when the frame in hand
    was taken (steady clock), None between frames. hang tells that the engine did not come
    back and was given up; '' as soon as another one is there.
    """

    def __init__(self, model: Model, config: NodeConfig, outputs: Outputs,
                 counters: FrameCounters, clocks: Clocks, log: Any) -> None:
        self.model = model
        self.config = config
        self.enabled = True
        self.camera_info: Optional[CameraInfo] = None
        self.positions = Positions()
        self.stages = StageTimes()
        self.fault = ''
        self.failures = 0
        self.last_outcome = ''
        self.last_complaint = ''
        self.started_s: Optional[float] = None
        self.watch = EngineWatch(clocks.steady_s)
        self.hang = ''
        self._outputs = outputs
        self._counters = counters
        self._clocks = clocks
        self._log = log
        self.ladder = Ladder(model, config, outputs.publish_mode, log)
        self._rules = model.rules
        self._rules_of = config
        self._tracker = AlertTracker(self._rules)
        self._geotagger = Geotagger(self.positions)
        self.safe_zones = SafeZones(outputs.publish_safe_zone, self.positions, log)
        # The list goes out from two threads; whoever publishes last must hold the newest one.
        self._alerts_lock = threading.Lock()
        self._alerts: Tuple[Header, Tuple[Alert, ...]] = (Header(), ())

    @property
    def active_alerts(self) -> Tuple[Alert, ...]:
        """Return the alerts that are active after the last frame."""
        return self._alerts[1]

    @property
    def _network_hw(self) -> Tuple[int, int]:
        """Return the full input's size: the mask keeps it on every rung of the ladder."""
        return self.model.segmenter.engine.input_hw

    def refuse(self, message: CameraMessage) -> str:
        """Return 'disabled' or 'too_old' for a frame that is not to be worked on, else ''."""
        if not self.enabled:
            return 'disabled'
        if self.config.image_max_age_s == 0:
            return ''
        age_s = (self._clocks.now_ns() - stamp_to_ns(message.header.stamp)) / 1e9
        if age_s > self.config.image_max_age_s:
            self._complain('too_old', f'{age_s:.2f} s old, image.max_age_s is '
                                      f"{self.config.image_max_age_s:g} s; is the camera's clock "
                                      "the node's (use_sim_time for bags)?")
            return 'too_old'
        return ''

    def work(self, arrival: Arrival) -> None:
        """Take one frame to its end and count it; raises nothing."""
        self.started_s = self._clocks.steady_s()
        try:
            outcome = self.refuse(arrival.message) or self._skip() or self._answer(arrival)
        except GivenUp:  # counted then; another thread works with this object now
            return
        except FrameError as error:
            outcome = 'malformed'
            self._complain(outcome, str(error))
        except Exception as error:  # noqa: BLE001  an engine may raise anything; the node stays
            outcome = 'failed' if self._outputs.alive() else 'disabled'  # ROS was shut down
            if outcome == 'failed':
                self.failures += 1
                self.fault = f'{type(error).__name__}: {error}'
                self._complain(outcome, self.fault)
        self._finish(outcome)

    def _finish(self, outcome: str) -> None:
        self.started_s = None
        self._counters.finish(outcome)

    def give_up(self, why: str) -> None:
        """Go on without the frame in hand and without the engine that does not come back."""
        self.hang = why
        self.failures += 1
        self._complain('failed', why)
        self._finish('failed')

    def _skip(self) -> str:
        """Return 'skipped' for a frame that the latency budget leaves out, else ''."""
        self.ladder.use(self.model, self.config)
        return 'skipped' if self.ladder.skips() else ''

    def _answer(self, arrival: Arrival) -> str:
        message, config, segmenter = arrival.message, self.config, self.ladder.segmenter
        header = message.header
        taken_s = self._clocks.steady_s()
        frame = frame_from_message(message, config.image_scale_16bit)
        decoded_s = self._clocks.steady_s()
        listened = self._outputs.wants_mask()
        confidence = self._outputs.wants_confidence(config)
        if self.hang:
            raise EngineHang(self.hang)
        try:
            with self.watch.inside(HANG_FACTOR * self.model.warm_up_s):
                result = segmenter(frame.image_HWC, frame.colour, confidence=confidence,
                                   mask_hw=self._mask_hw(config, listened))
        except GivenUp:
            segmenter.close()
            raise
        self.fault = ''
        answered_s = self._clocks.steady_s()
        events = self._track(header, result)
        self._geotagger.see(stamp_to_ns(header.stamp), result.geometry.source_hw,
                            self.camera_info, config, self._tracker.active())
        tracked_s = self._clocks.steady_s()
        if listened:
            self._outputs.publish_frame(header, result, self.camera_info)
        self._tell(header, events)
        age_ms = (self._clocks.now_ns() - stamp_to_ns(header.stamp)) / 1e6
        published_s = self._clocks.steady_s()
        latency_ms = (published_s - arrival.received_s) * 1e3
        manifest = self.model.segmenter.manifest
        self.safe_zones.see(header, stamp_to_ns(header.stamp), result, manifest.temperature,
                            manifest.label_map, self.camera_info, config, published_s)
        if listened:
            self._outputs.publish_overlay(header, frame, result, self.active_alerts,
                                          self.model.segmenter.manifest, config, answered_s)
        self.stages.add({
            'decode': (decoded_s - taken_s) * 1e3, **result.stage_ms,
            'alerts': (tracked_s - answered_s) * 1e3,
            'publish': (self._clocks.steady_s() - tracked_s) * 1e3, 'stamp to publish': age_ms,
            'arrival to publish': latency_ms})
        if self.ladder.answered(published_s, latency_ms):
            self.stages.clear()
        self.last_outcome = 'processed'
        return self.last_outcome

    def _mask_hw(self, config: NodeConfig, listened: bool) -> Optional[Tuple[int, int]]:
        """Return the mask's (height, width), None for the frame's own."""
        if not listened:  # alerts come from the logits: nobody needs a mask larger than theirs
            engine = self.ladder.segmenter.engine
            return engine.input_hw[0] // engine.stride, engine.input_hw[1] // engine.stride
        return self._network_hw if config.mask_size == 'network' else None

    def _track(self, header: Header, result: SegResult) -> Sequence[AlertEvent]:
        if self._rules_of is not self.config:  # thresholds were changed between two frames
            self._use_rules()
        regions = find_regions(result.logits_CHW, result.geometry, self._rules,
                               self.model.segmenter.manifest.temperature)
        return self._tracker.update(stamp_to_ns(header.stamp), regions)

    def _use_rules(self) -> None:
        self._rules_of = self.config
        self._rules = self._rules_of.alert_rules(self.model.segmenter.label_map)
        self._tracker.set_rules(self._rules)

    def _tell(self, header: Header, events: Sequence[AlertEvent]) -> None:
        with self._alerts_lock:
            self._alerts = (header, tuple(self._tracker.active()))
            if events:
                self._outputs.publish_alerts(*self._alerts)
        if events:
            self._outputs.publish_events(header, events, self._geotagger.words)
            self._geotagger.forget(self._alerts[1])
            for event in events:
                self._log.info(f'alert {event.kind}: {event.alert.alert_id}')

    def repeat_alerts(self) -> None:
        """Publish the list of active alerts again, under the last frame's header."""
        with self._alerts_lock:
            if self._alerts[1]:
                self._outputs.publish_alerts(*self._alerts)

    def swap(self, model: Model) -> Optional[Model]:
        """
        Go on with another model, between two frames; the old one is returned, not closed.

        None for one that hangs, which nobody else may touch. With other classes, the alerts of
        the old ones are void: they are reset.
        """
        hung = self.hang
        if hung:
            self.close()
        old, self.model, self.hang = self.model, model, ''
        header = self._alerts[0]
        events = []
        if old.segmenter.label_map != model.segmenter.label_map:
            events = self._tracker.set_rules(())
        self._use_rules()
        self.ladder.use(model, self.config)
        self._tell(header, events)
        self.stages.clear()
        self._outputs.publish_labels(model.segmenter.manifest)
        return None if hung else old

    def close(self) -> None:
        """Free the engines; one that hangs is freed by the thread that hangs in it."""
        for segmenter in self.model.inputs:
            if not self.hang or segmenter is not self.ladder.segmenter:
                segmenter.close()

    def add_smaller(self, model: Model, smaller: Smaller) -> bool:
        """Take smaller inputs of a model, between two frames; False when it is not the one."""
        if self.model is not model:
            return False
        self.model = model._replace(smaller=smaller)
        self.ladder.use(self.model, self.config)
        return True

    def _complain(self, outcome: str, complaint: str) -> None:
        self.last_outcome, self.last_complaint = outcome, complaint
        self._log.warning(f'frame dropped ({outcome}): {complaint}',
                          throttle_duration_sec=LOG_EVERY_S)
