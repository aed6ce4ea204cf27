# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Events and recommended thresholds as lines for people."""
from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def event_lines(report: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of `events` and `curves`; none for a report without them."""
    events, curves = report.get('events'), report.get('curves')
    if events is None or curves is None:
        return
    if events['truth'] == 'spans':  # of boxes the appearances have said it
        for row in events['classes']:
            if row['annotated']:
                yield _recall(row)
    for row in events['classes']:
        if row['time_to_alert_s'] and row['time_to_alert_s']['count']:
            yield _time(row)
    for row in curves['classes'] if curves['truth'] else ():
        setting = row['recommended']
        if setting is None:
            yield f'{row["slug"]}: no thresholds recommended: {row["reason"]}'
        elif setting != row['shipped']:
            yield f'{row["slug"]}: recommended min_confidence {setting["min_confidence"]:g}, ' \
                  f'min_pixels {setting["min_pixels"]:g}: {row["reason"]}'
    if events['note']:
        yield f'events: {events["note"]}'


def _recall(row: dict[str, Any]) -> str:
    rate = row['false_alerts_per_min']
    per_minute = '-' if rate is None else f'{rate:.2f}'
    return f'{row["slug"]}: {row["hits"]} of {row["appearances"]} marked appearances hit, ' \
           f'{row["false_alerts"]} of {row["alerts"]} alerts false ({per_minute} per minute); ' \
           f'on for {row["on_s"]:.1f} s, {row["idle_s"]:.1f} s of it with none in view'


def _time(row: dict[str, Any]) -> str:
    times = row['time_to_alert_s']
    return f'{row["slug"]}: alert after {times["median"]:.2f} s (median), ' \
           f'{times["p90"]:.2f} s (p90), {times["max"]:.2f} s (max); {row["already_on"]} of ' \
           f'{times["count"]} were hit by an alert that was on before, as after 0 s'
