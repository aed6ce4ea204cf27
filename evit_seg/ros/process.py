# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The life of the node's process: started, spun, ended in time, with the right exit code."""
from __future__ import annotations

from concurrent.futures import Future, wait
from contextlib import contextmanager
import logging
import os
import signal
import sys
import threading
from typing import Any, Callable, Iterator, TYPE_CHECKING, TypeVar

from evit_seg.core.errors import EvitSegError
from evit_seg.ros.worker import settle
import rclpy
from rclpy.executors import ExternalShutdownException

if TYPE_CHECKING:
    from evit_seg.ros.node import SegNode

T = TypeVar('T')
ALIVE_EVERY_S = 0.2
END_TIMEOUT_S = 3.0
"""For the frame in hand at the end; launch sends SIGTERM 5 s after SIGINT."""
OUR_THREADS = 'seg_'
"""What the names of the node's own threads begin with."""


@contextmanager
def one_interrupt() -> Iterator[None]:
    """
    Let the first SIGINT end what runs under `with`, and ignore all others, to the end.

    Ctrl-C in a terminal reaches the process twice, from there and from launch: the second may
    come at any moment, while the first is still dealt with. To be entered before ROS is
    initialised, which hands its signals on to the handlers it finds.
    """
    heard = []

    def hear(number: int, _frame: Any) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        heard.append(number)
        raise KeyboardInterrupt
    before = signal.signal(signal.SIGINT, hear)
    try:
        yield
    finally:
        if not heard:
            signal.signal(signal.SIGINT, before)


def serve(make_node: Callable[[], SegNode], name: str) -> int:
    """Make a node and run it to its end, ROS being initialised; returns the exit code."""
    node = None
    try:
        node = make_node()
        code = node.start() if node.config.autostart else 0
        if not rclpy.ok():  # a signal came while it was started
            return 0
        if code == 0:
            rclpy.spin(node)
        return code
    except EvitSegError as error:
        rclpy.logging.get_logger(name).fatal(str(error))
        return error.exit_code
    except (KeyboardInterrupt, ExternalShutdownException):
        return 0
    except RuntimeError:  # rclpy's own errors are: a signal may end the context under any call
        if rclpy.ok():
            raise
        return 0
    finally:
        if node is not None:
            _end(node)
        rclpy.try_shutdown()


def _end(node: SegNode) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # a SIGTERM may have come first
    node.get_logger().info('ends')
    try:
        node.close(END_TIMEOUT_S)
    except EvitSegError as error:
        node.get_logger().warning(f'ends all the same: {error}')
    node.destroy_node()
    signal.signal(signal.SIGINT, before)


def patiently(action: Callable[[], T], alive: Callable[[], bool]) -> T:
    """
    Run a long action in a thread and wait for its result, as long as ROS is `alive`.

    So a signal is heard while an engine is loaded. ExternalShutdownException when ROS has ended.
    """
    future: Future = Future()
    threading.Thread(target=settle, args=(action, future), name=f'{OUR_THREADS}load',
                     daemon=True).start()
    while not wait([future], ALIVE_EVERY_S).done:
        if not alive():
            raise ExternalShutdownException
    result: T = future.result()
    return result


def leave(code: int) -> int:
    """
    Return the process's exit code; a thread of the node that still hangs makes it the last act.

    What libraries do at an orderly end may wait for that thread, or take from under it what it
    uses: then neither the end nor the exit code would be certain.
    """
    if any(thread.name.startswith(OUR_THREADS) for thread in threading.enumerate()):
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code
