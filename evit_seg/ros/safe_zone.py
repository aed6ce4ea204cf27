# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
~/safe_zone: the landing zone of each frame as a message, and its withdrawal in time.

A DiagnosticArray as ~/alert_events is: it says "none" and why, which no pose or fix message can,
holds pixels, metres and degrees at once, and is there wherever ROS 2 is.
"""
from __future__ import annotations

import threading
from typing import Any, Callable, Dict, Optional

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from evit_seg.core.errors import ConfigError, LabelMapMismatch
from evit_seg.core.geo import NotGeotagged
from evit_seg.core.labels import LabelMap
from evit_seg.core.position import not_geotagged, Positions
from evit_seg.core.safe_zone import (
    SafeZone,
    zone_ids,
    zone_on_ground,
    zone_squares,
    ZoneAnswer,
    ZoneRule,
    ZoneTracker,
)
from evit_seg.core.segmenter import SegResult
from evit_seg.ros.params import NodeConfig
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header

NO_PLACE = {'radius_m': '', 'lat': '', 'lon': '', 'error_m': '', 'geo_note': ''}


def zone_rule(config: NodeConfig, labels: LabelMap) -> ZoneRule:
    """Return the rule of the parameters; LabelMapMismatch for a class the network lacks."""
    free, hazards = zone_ids(labels, config.safe_zone_classes, config.alert_classes)
    return ZoneRule(free, hazards, config.safe_zone_min_radius_px, config.safe_zone_margin_px,
                    config.safe_zone_min_confidence, config.safe_zone_confirm_n)


class SafeZones:
    """
    Follows the zone in the worker's thread; `expire` may be called from any.

    A zone that is lost is told at once, whatever the rate, and once more than `stale_after_s` have
    gone by without a frame.
    """

    def __init__(self, publish: Callable[[DiagnosticArray], None], positions: Positions,
                 log: Any) -> None:
        self._publish = publish
        self._positions = positions
        self._log = log
        self._tracker: Optional[ZoneTracker] = None
        self._rule_of: Any = None
        self._problem = ''
        self._lock = threading.Lock()  # whoever publishes last must know best
        self._told: Optional[Header] = None
        self._told_s = 0.0
        self._due_s = float('-inf')

    def _use(self, config: NodeConfig, labels: LabelMap) -> None:
        """Go by these parameters and classes; raises what `zone_rule` does, if they are wanted."""
        if not config.safe_zone_publish:
            self._tracker, self._rule_of = None, None
        elif self._rule_of is None or self._rule_of[0] is not config \
                or self._rule_of[1] is not labels:
            self._rule_of, self._problem = (config, labels), ''
            rule = zone_rule(config, labels)
            if self._tracker is None or self._tracker.rule != rule:
                self._tracker = ZoneTracker(rule)

    def see(self, header: Header, stamp_ns: int, result: SegResult, temperature: float,
            labels: LabelMap, info: Optional[CameraInfo], config: NodeConfig,
            now_s: float) -> None:
        """Take a processed frame, and publish what is due."""
        if not config.safe_zone_publish:
            self._use(config, labels)
            self._withdraw('safe_zone.publish is off')
            return
        answer = self._answer(stamp_ns, result, temperature, labels, config)
        with self._lock:
            lost = self._told is not None and answer.zone is None
            if not lost and now_s < self._due_s:
                if answer.zone is not None and self._told is not None:
                    self._told_s = now_s
                return
            self._due_s = now_s + 1 / config.safe_zone_max_rate_hz
            place = NO_PLACE if answer.zone is None else \
                self._place(answer.zone, stamp_ns, result, info, config)
            self._tell(header, answer, place, now_s)

    def _answer(self, stamp_ns: int, result: SegResult, temperature: float, labels: LabelMap,
                config: NodeConfig) -> ZoneAnswer:
        try:
            self._use(config, labels)
        except (ConfigError, LabelMapMismatch) as error:
            self._tracker, self._problem = None, f'no zone: {error}'
            self._log.error(self._problem)
        if self._tracker is None:
            return ZoneAnswer(None, self._problem)
        squares_HW = zone_squares(result.logits_CHW, result.geometry, self._tracker.rule,
                                  temperature)
        return self._tracker.update(stamp_ns, squares_HW, result.geometry.source_hw,
                                    config.stale_after_s)

    def _place(self, zone: SafeZone, stamp_ns: int, result: SegResult,
               info: Optional[CameraInfo], config: NodeConfig) -> Dict[str, str]:
        try:
            view = self._positions.view(stamp_ns, result.geometry.source_hw, info, config.geo)
            ground = zone_on_ground(zone, *view)
        except NotGeotagged as error:
            return {**NO_PLACE, 'geo_note': not_geotagged(str(error))}
        return {'radius_m': f'{ground.radius_m:.2f}', 'lat': f'{ground.latitude_deg:.7f}',
                'lon': f'{ground.longitude_deg:.7f}', 'error_m': f'{ground.error_m:.1f}',
                'geo_note': ''}

    def expire(self, now_s: float, after_s: float) -> None:
        """Withdraw a zone that no frame has confirmed for longer than `after_s`."""
        self._withdraw(f'no frame for more than {after_s:g} s (stale_after_s)', now_s - after_s)

    def _withdraw(self, why: str, before_s: float = float('inf')) -> None:
        with self._lock:
            if self._told is not None and self._told_s < before_s:
                self._tell(self._told, ZoneAnswer(None, f'no zone: {why}'), NO_PLACE, 0.0)

    def _tell(self, header: Header, answer: ZoneAnswer, place: Dict[str, str],
              now_s: float) -> None:
        self._told, self._told_s = (None if answer.zone is None else header), now_s
        self._publish(zone_array(header, answer, place))


def zone_array(header: Header, answer: ZoneAnswer, place: Dict[str, str]) -> DiagnosticArray:
    """Return the message: one status, level OK for a zone and WARN for none."""
    zone = answer.zone
    values = {'state': 'none', 'x': '', 'y': '', 'radius_px': ''} if zone is None else {
        'state': 'free', 'x': f'{zone.x:.1f}', 'y': f'{zone.y:.1f}',
        'radius_px': f'{zone.radius_px:.1f}'}
    values.update(place)
    return DiagnosticArray(header=header, status=[DiagnosticStatus(
        level=DiagnosticStatus.WARN if zone is None else DiagnosticStatus.OK, name='safe_zone',
        message=f'free circle of {zone.radius_px:.1f} px' if zone else answer.note,
        hardware_id='', values=[KeyValue(key=key, value=text) for key, text in values.items()])])
