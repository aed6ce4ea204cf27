# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Alerts and the label map as messages: core ones always, vision_msgs where it is installed."""
from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any, Callable, List, NamedTuple, Optional, Sequence

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from evit_seg.core.alerts import Alert, AlertEvent
from evit_seg.core.labels import LabelMap
from std_msgs.msg import Header


class GeoWords(NamedTuple):
    """
    Places as an event says them: degrees (WGS-84) and metres, one per region, in bbox's order.

    `note` is empty, or 'not geotagged: why'; a region without a place has 'nan' in its place.
    """

    lat: str
    lon: str
    radius_m: str
    note: str


def import_vision_msgs() -> Optional[ModuleType]:
    """Return vision_msgs.msg (4.x), or None where it is not installed."""
    try:
        return importlib.import_module('vision_msgs.msg')
    except ModuleNotFoundError:
        return None


def event_array(header: Header, events: Sequence[AlertEvent],
                places: Callable[[Alert], GeoWords]) -> DiagnosticArray:
    """
    Return the events of one frame, one status each, under the frame's header.

    The status's name is the kind of event; raised and updated have level WARN, cleared and
    reset OK. `places` tells where an alert's regions lie on the ground.
    """
    return DiagnosticArray(header=header, status=[
        _event_status(event, places(event.alert)) for event in events])


def _event_status(event: AlertEvent, words: GeoWords) -> DiagnosticStatus:
    alert = event.alert
    ongoing = event.kind in ('raised', 'updated')
    values = {
        'alert_id': alert.alert_id,
        'class': alert.slug,
        'state': event.state,
        'pixels': f'{sum(region.pixels for region in alert.regions):.1f}',
        'regions': str(len(alert.regions)),
        'confidence': f'{max((r.confidence for r in alert.regions), default=0.0):.3f}',
        'first_seen': _seconds(alert.first_seen_ns),
        'last_seen': _seconds(alert.last_seen_ns),
        # x,y,w,h in source pixels, one group per region, the largest first
        'bbox': ' '.join(f'{r.x},{r.y},{r.w},{r.h}' for r in alert.regions),
        'lat': words.lat, 'lon': words.lon, 'radius_m': words.radius_m, 'geo_note': words.note,
    }
    return DiagnosticStatus(
        level=DiagnosticStatus.WARN if ongoing else DiagnosticStatus.OK,
        name=event.kind, message=f'{alert.slug} {event.kind}: {alert.alert_id}',
        hardware_id='', values=[KeyValue(key=key, value=text) for key, text in values.items()])


def _seconds(stamp_ns: int) -> str:
    """Write a stamp as seconds with all nine decimals, exactly."""
    seconds, rest_ns = divmod(abs(stamp_ns), 10 ** 9)
    return f'{"-" if stamp_ns < 0 else ""}{seconds}.{rest_ns:09d}'


def detection_array(vision: ModuleType, header: Header, alerts: Sequence[Alert]) -> Any:
    """Return a vision_msgs/Detection2DArray: a detection per region of each active alert."""
    detections: List[Any] = []
    for alert in alerts:
        for index, region in enumerate(alert.regions):
            box = vision.BoundingBox2D(size_x=float(region.w), size_y=float(region.h))
            box.center.position.x = region.x + region.w / 2
            box.center.position.y = region.y + region.h / 2
            hypothesis = vision.ObjectHypothesisWithPose()
            hypothesis.hypothesis.class_id = str(alert.class_id)
            hypothesis.hypothesis.score = float(region.confidence)
            detections.append(vision.Detection2D(header=header, results=[hypothesis], bbox=box,
                                                 id=f'{alert.alert_id}/{index}'))
    return vision.Detection2DArray(header=header, detections=detections)


def label_info(vision: ModuleType, header: Header, label_map: LabelMap, ignore_index: int) -> Any:
    """Return a vision_msgs/LabelInfo: the classes by name, and the index that means none."""
    classes = [vision.VisionClass(class_id=entry.id, class_name=entry.name)
               for entry in label_map]
    classes.append(vision.VisionClass(class_id=ignore_index, class_name='unlabelled'))
    # Every pixel gets the class that wins, whatever its probability: no threshold.
    return vision.LabelInfo(header=header, class_map=classes, threshold=0.0)
