# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Asks a rosbag2 recorder for a snapshot of what it keeps, and never waits for it."""
from __future__ import annotations

import importlib
from typing import Any, Optional, Tuple

from evit_seg.core.companion_link import SnapshotGate
from rclpy.node import Node

ANSWER_WITHIN_S = 30.0
"""A recorder that died in a call never answers it; a long buffer takes its time to write."""


def import_snapshot() -> Optional[Any]:
    """Return rosbag2_interfaces.srv.Snapshot, or None where it is not installed."""
    try:
        return importlib.import_module('rosbag2_interfaces.srv').Snapshot
    except ModuleNotFoundError:
        return None


class Snapshots:
    """
    The client of one recorder's snapshot service; all calls from the executor's thread.

    `problem` is empty, or why there is no snapshot when one is wanted.
    """

    def __init__(self, node: Node, service: str, min_interval_s: float,
                 kind: Optional[Any]) -> None:
        self._node = node
        self._service = node.resolve_service_name(service) if service else ''
        self._gate = SnapshotGate(min_interval_s)
        self._client: Any = None
        self._asked: Optional[Tuple[float, Any]] = None
        self.taken = 0
        self.missed = 0
        self.problem = ''
        if not service:
            return
        if kind is None:
            self._complain('rosbag2_interfaces is not installed')
        else:
            self._client = node.create_client(kind, self._service)

    def want(self, now_s: float) -> None:
        """Ask for a snapshot, now or as soon as the interval allows."""
        if self._client is not None:
            self._gate.want()
            self.tick(now_s)

    def tick(self, now_s: float) -> None:
        """Do what is due."""
        if self._client is None:
            return
        if self._asked is not None:
            asked_s, future = self._asked
            if now_s - asked_s <= ANSWER_WITHIN_S:
                return
            self._client.remove_pending_request(future)
            self._asked = None
            self._miss(f'{self._service} has not answered for {ANSWER_WITHIN_S:.0f} s')
        if not self._gate.take(now_s):
            return
        if not self._client.service_is_ready():
            self._miss(f'nobody offers {self._service}; is `ros2 bag record --snapshot-mode` '
                       'running?')
            return
        future = self._client.call_async(self._client.srv_type.Request())
        self._asked = now_s, future
        future.add_done_callback(self._on_answer)

    def _on_answer(self, future: Any) -> None:
        if self._asked is None or self._asked[1] is not future:
            return  # given up before
        self._asked = None
        if future.exception() is not None:
            self._miss(f'{self._service} failed: {future.exception()}')
        elif not future.result().success:
            self._miss(f'{self._service} says that it took no snapshot')
        else:
            self.taken += 1
            self.problem = ''
            self._node.get_logger().info(f'snapshot {self.taken} taken by {self._service}')

    def _miss(self, why: str) -> None:
        self.missed += 1
        self._complain(why)

    def _complain(self, why: str) -> None:
        self.problem = f'no snapshot: {why}'
        self._node.get_logger().warning(self.problem)
