# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
`seg_node --build-only`: prepare what the node would open, say what and where, and end.

The first start of TensorRT on a device compiles for minutes; done beforehand, the node finds it in
the engine cache. Takes the node's own parameters and does all that precedes its state 'inactive'.
"""
from __future__ import annotations

from typing import Any, List, Sequence

from evit_seg.core.engine import Engine, load_engine
from evit_seg.core.errors import EvitSegError
from evit_seg.ros.declare import Parameters
from evit_seg.ros.model import EngineLoader, load_model
import rclpy
from rclpy.signals import SignalHandlerOptions

INTERRUPTED = 130
"""What a shell reports for SIGINT."""


class Builds:
    """Loads engines and keeps what became of each; put in the place of `load_engine`."""

    def __init__(self, load: EngineLoader = load_engine) -> None:
        self._load = load
        self.lines: List[str] = []
        self.failed = False

    def __call__(self, *args: Any, **options: Any) -> Engine:
        """Load an engine as `load_engine` does."""
        engine = self._load(*args, **options)
        height, width = engine.input_hw
        self.lines.append(f'{options["variant"].file}: {engine.name} on {engine.provider}, '
                          f'{engine.precision}, {height}x{width}; engine cache: '
                          f'{engine.cache.text or "this engine keeps none"}')
        self.failed = self.failed or engine.cache.failed
        return engine


def build_only(argv: Sequence[str], node_name: str, load: EngineLoader = load_engine) -> int:
    """
    Load, self-test and warm up all that a node with these ROS arguments would open.

    Returns 0, the exit code of the error that prevented it, or 1 when an engine works but its
    cache could not be kept. Signals end it at once: what is half built is never used.
    """
    rclpy.init(args=list(argv), signal_handler_options=SignalHandlerOptions.NO)
    log = rclpy.logging.get_logger(node_name)
    builds = Builds(load)
    try:
        # The node's name, for the parameter files that are written for it; it offers nothing.
        node = rclpy.create_node(node_name, start_parameter_services=False, enable_rosout=False)
        table = Parameters(node, lambda config: None)
        for note in table.notes:
            log.warning(note)
        model = load_model(table.config, builds)
    except EvitSegError as error:
        log.fatal(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        log.fatal('interrupted; nothing half built will be used')
        return INTERRUPTED
    finally:
        rclpy.try_shutdown()
    for line in builds.lines:
        (log.error if builds.failed else log.info)(line)
    log.info(f'model {model.describe()}')
    return 1 if builds.failed else 0
