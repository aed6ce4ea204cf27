# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The service ~/reload_model: slow, and nobody waits for it but its caller."""
from __future__ import annotations

import threading
from typing import Callable

from evit_seg.ros.report import sentence
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.node import Node
from rclpy.task import Future
from std_srvs.srv import Trigger


class ReloadService:
    """
    Calls `swap_model` in a thread of its own and answers when it has come back.

    `swap_model` returns a line about the new model; whatever it raises is the answer's reason,
    and the old model stays.
    """

    def __init__(self, node: Node, swap_model: Callable[[], str]) -> None:
        self._node = node
        self._swap_model = swap_model
        # A callback that awaits holds its group: with its own, everything else is answered.
        node.create_service(Trigger, '~/reload_model', self._on_request,
                            callback_group=MutuallyExclusiveCallbackGroup())

    async def _on_request(self, request: Trigger.Request,
                          response: Trigger.Response) -> Trigger.Response:
        done: Future[None] = Future(executor=self._node.executor)
        threading.Thread(target=self._reload, args=(response, done), name='seg_reload',
                         daemon=True).start()
        await done
        return response

    def _reload(self, response: Trigger.Response, done: Future[None]) -> None:
        try:
            response.message = f'model {self._swap_model()}'
            response.success = True
            self._node.get_logger().info(response.message)
        except Exception as error:  # noqa: BLE001  the answer says what it was
            response.message = f'the old model stays: {sentence(error)}'
            self._node.get_logger().error(response.message)
        done.set_result(None)
        executor = self._node.executor
        if executor is not None:
            executor.wake()
