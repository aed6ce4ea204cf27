# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The node's report on /diagnostics: its condition judged, its numbers gathered."""
from __future__ import annotations

from dataclasses import replace
from typing import Dict, Mapping, Optional

from diagnostic_msgs.msg import DiagnosticArray
from evit_seg.core.errors import EvitSegError
from evit_seg.ros.board import Board
from evit_seg.ros.diagnostics import (
    Condition,
    diagnostic_array,
    judge,
    NOMINAL,
    Rates,
    stage_values,
)
from evit_seg.ros.inputs import Inputs
from evit_seg.ros.params import NodeConfig
from evit_seg.ros.pipeline import Pipeline
from evit_seg.ros.qos import create_publisher
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy

DIAGNOSTICS = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)


class Report:
    """Publishes /diagnostics for a node, whatever state it is in."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._publisher = create_publisher(node, DiagnosticArray, '/diagnostics', DIAGNOSTICS)
        self._rates = Rates()
        self._board = Board()

    def publish(self, condition: Condition, counts: Mapping[str, int], now_s: float,
                pipeline: Optional[Pipeline], given_up: int = 0) -> None:
        """Publish the report; `given_up` frames were left to an engine that hangs."""
        now = self._node.get_clock().now()
        verdict = judge(replace(condition, timeless=now.nanoseconds == 0))
        rates_hz = self._rates.update(now_s, counts)
        values = {'state': condition.state, 'mode': condition.mode,
                  'input rate Hz': f'{rates_hz["received"]:.1f}',
                  'output rate Hz': f'{rates_hz["processed"]:.1f}'}
        values.update({f'frames {name}': str(count) for name, count in counts.items()})
        values['given up frames'] = str(given_up)
        if pipeline is not None:
            values.update(_model_values(pipeline))
            values.update(pipeline.ladder.values())
            values.update(stage_values(pipeline.stages.summary()))
        values.update(self._board.values(now_s))
        self._publisher.publish(diagnostic_array(
            now.to_msg(),
            self._node.get_fully_qualified_name().lstrip('/'), verdict, values))


def condition_of(phase: str, fault: Optional[Exception], enabled: bool, config: NodeConfig,
                 pipeline: Optional[Pipeline], inputs: Optional[Inputs],
                 now_s: float) -> Condition:
    """Gather what the sentence depends on, from whichever of its parts the node has now."""
    why = '' if fault is None else sentence(fault)
    mode = NOMINAL if pipeline is None else pipeline.ladder.mode
    if pipeline is None or inputs is None:
        return Condition(phase, why, enabled, mode=mode,
                         hang='' if pipeline is None else pipeline.hang)
    quiet_s, started_s = inputs.quiet_s(now_s), pipeline.started_s
    return Condition(
        state=phase, fault=why or pipeline.fault, hang=pipeline.hang, enabled=enabled,
        stale_after_s=config.stale_after_s, quiet_s=quiet_s,
        silent_because=inputs.silent_because() if quiet_s > config.stale_after_s else '',
        busy_s=0.0 if started_s is None else now_s - started_s,
        mode=mode, last_outcome=pipeline.last_outcome, last_complaint=pipeline.last_complaint,
        active_alerts=tuple(alert.alert_id for alert in pipeline.active_alerts))


def sentence(error: Exception) -> str:
    """Return the message; the type too when the error is not one of ours, which say it all."""
    return str(error) if isinstance(error, EvitSegError) else f'{type(error).__name__}: {error}'


def _model_values(pipeline: Pipeline) -> Dict[str, str]:
    segmenter = pipeline.ladder.segmenter
    return {'model': segmenter.bundle.manifest.name, 'model sha256': segmenter.bundle.sha256,
            'engine': segmenter.engine.name, 'provider': segmenter.engine.provider,
            'precision': segmenter.engine.precision,
            'network input': '{}x{}'.format(*segmenter.engine.input_hw),
            'engine cache': segmenter.engine.cache.text or 'this engine keeps none',
            'self-test agreement': f'{pipeline.model.agreement:.4f}',
            'errors since start': str(pipeline.failures),
            'active alerts': str(len(pipeline.active_alerts))}
