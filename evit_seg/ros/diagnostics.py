# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
What the node says about itself once a second: a level, one sentence, and the numbers.

"Nobody there", "no frames", "frames too old", "not running" and "degraded" are five different
sentences: a silent node must never look like an empty scene.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, Mapping, Optional, Tuple

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from evit_seg.core.health import StageSummary
from std_msgs.msg import Header

ACTIVE = 'active'
NOMINAL = 'nominal'


@dataclass(frozen=True)
class Condition:
    """
    What the level and the sentence depend on.

    fault: why the last transition or the engine failed, '' when it did not. quiet_s: since the
    last frame came, or since activation. busy_s: how long the frame in hand has been there, 0
    between frames. last_outcome: how the last frame that was looked at ended, '' before it. mode:
    'nominal', or 'degraded: ' and why. hang: that the engine did not come back, '' as soon as
    another one is there. timeless: the time is that of /clock, where nothing has come yet.
    """

    state: str
    fault: str = ''
    enabled: bool = True
    stale_after_s: float = 2.0
    quiet_s: float = 0.0
    silent_because: str = ''
    busy_s: float = 0.0
    last_outcome: str = ''
    last_complaint: str = ''
    mode: str = NOMINAL
    active_alerts: Tuple[str, ...] = ()
    hang: str = ''
    timeless: bool = False


def judge(now: Condition) -> Tuple[bytes, str]:
    """Return the level and the sentence of a condition; the worst news first."""
    error, warn, ok = DiagnosticStatus.ERROR, DiagnosticStatus.WARN, DiagnosticStatus.OK
    if now.state != ACTIVE and now.fault:
        return error, f'not running: {now.fault}'
    if now.state != ACTIVE:
        return warn, f'not running: the node is {now.state} and waits for its lifecycle manager'
    if now.hang:
        return error, f'not running: {now.hang}'
    if not now.enabled:
        return warn, 'not running: switched off through ~/enable'
    if now.fault:
        return error, f'not running: every frame fails: {now.fault}'
    if now.quiet_s > now.stale_after_s:
        return warn, f'no frames for {now.quiet_s:.1f} s: {now.silent_because}'
    if now.busy_s > now.stale_after_s:
        return warn, f'no answer: the engine has been at one frame for {now.busy_s:.1f} s'
    if now.last_outcome == 'too_old':
        return warn, f'frames too old: {now.last_complaint}'
    if now.last_outcome == 'malformed':
        return warn, f'frames unreadable: {now.last_complaint}'
    if now.last_outcome == 'failed':
        return warn, f'no answer to the last frame: {now.last_complaint}'
    if now.timeless:
        return warn, ('degraded: use_sim_time is set, but nothing comes on /clock: how old an '
                      'image is cannot be told')
    if now.mode != NOMINAL:
        return warn, now.mode
    if now.active_alerts:
        return ok, f'running: active alerts: {", ".join(now.active_alerts)}'
    if not now.last_outcome:
        return ok, 'running: waiting for the first frame'
    return ok, 'running: nobody there, no alert is active'


class Rates:
    """Frames per second, from counters read now and then."""

    def __init__(self) -> None:
        self._before: Optional[Tuple[float, Mapping[str, int]]] = None

    def update(self, now_s: float, counts: Mapping[str, int]) -> Dict[str, float]:
        """Return Hz since the last call, of all counters; zeros at the first one."""
        before_s, before = self._before or (now_s, counts)
        self._before = (now_s, dict(counts))
        elapsed_s = now_s - before_s
        return {name: (counts[name] - before[name]) / elapsed_s if elapsed_s > 0 else 0.0
                for name in counts}


def stage_values(stages: Mapping[str, StageSummary]) -> Dict[str, str]:
    """Return p50 and p95 of each stage in words."""
    return {f'{stage} p50/p95 ms': f'{summary.p50_ms:.1f} / {summary.p95_ms:.1f}'
            for stage, summary in stages.items()}


def diagnostic_array(stamp: Time, name: str, verdict: Tuple[bytes, str],
                     values: Mapping[str, str]) -> DiagnosticArray:
    """Return the message for /diagnostics."""
    level, sentence = verdict
    status = DiagnosticStatus(level=level, name=name, message=sentence, hardware_id='evit_seg',
                              values=[KeyValue(key=k, value=v) for k, v in values.items()])
    return DiagnosticArray(header=Header(stamp=stamp), status=[status])
