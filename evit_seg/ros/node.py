# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
seg_node: a lifecycle node that starts itself; wiring only.

parameters -> bundle -> alert classes against its label map -> engine -> self-test and warm-up ->
publishers -> subscription. The executor's thread only puts frames into the worker's slot.
"""
from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial
import sys
from typing import Any, Callable, List, Optional

from evit_seg.core.engine import load_engine
from evit_seg.core.errors import ConfigError, EvitSegError
from evit_seg.core.health import FrameCounters
from evit_seg.ros.build import build_only
from evit_seg.ros.convert import CameraMessage
from evit_seg.ros.declare import Parameters
from evit_seg.ros.diagnostics import ACTIVE, NOMINAL
from evit_seg.ros.inputs import Inputs
from evit_seg.ros.late_inputs import LateInputs
from evit_seg.ros.lifecycle import LifecycleNode, MANAGED, TransitionCallbackReturn
from evit_seg.ros.model import EngineLoader, load_model, Model
from evit_seg.ros.outputs import Outputs
from evit_seg.ros.params import NodeConfig
from evit_seg.ros.pipeline import Arrival, Clocks, Pipeline
from evit_seg.ros.position import PositionInputs
from evit_seg.ros.process import leave, one_interrupt, patiently, serve
from evit_seg.ros.qos import unused_overrides
from evit_seg.ros.reload import ReloadService
from evit_seg.ros.report import condition_of, Report, sentence
from evit_seg.ros.watchdog import LOOK_EVERY_S, Watchdog
from evit_seg.ros.worker import Worker
import rclpy
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.utilities import remove_ros_args
from sensor_msgs.msg import CameraInfo
from std_srvs.srv import SetBool

NODE_NAME = 'seg_node'
STOP_TIMEOUT_S = 10.0


class SegNode(LifecycleNode):
    """
    Camera topic in, masks and alerts out.

    `load` and `clocks` stand in for the engine and the time in tests; what else a test needs goes
    in as for any node (parameter_overrides, namespace, context). ConfigError for a parameter that
    is unknown or does not fit.
    """

    def __init__(self, *, load: EngineLoader = load_engine, clocks: Optional[Clocks] = None,
                 **node_options: Any) -> None:
        super().__init__(NODE_NAME, **node_options)
        self._load = load
        self._clocks = clocks or Clocks(lambda: self.get_clock().now().nanoseconds)
        self.counters = FrameCounters()
        self.phase = 'unconfigured'
        self.fault: Optional[Exception] = None
        self.pipeline: Optional[Pipeline] = None
        self._enabled = True
        self._outputs: Optional[Outputs] = None
        self._inputs: Optional[Inputs] = None
        self._position_inputs: Optional[PositionInputs] = None
        self._worker: Optional[Worker[Arrival]] = None
        self._late_inputs = LateInputs(load, self._between, self.get_logger())
        self._table = Parameters(self, self._on_change)
        for note in self._table.notes:
            self.get_logger().warning(note)
        if not MANAGED and not self.config.autostart:
            raise ConfigError('autostart: expected true, got False: this rclpy has no lifecycle '
                              '(ROS 2 before Humble), so nobody else could start the node')
        self._report = Report(self)
        self._watchdog = Watchdog(self._load_model, self.report, self.get_logger())
        self.create_service(SetBool, '~/enable', self._on_enable)
        self._reload_service = ReloadService(self, self._swap_model)
        # A steady clock: with use_sim_time and no /clock the node must still speak.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(1.0, self.report, clock=steady)
        self.create_timer(LOOK_EVERY_S, self._look, clock=steady)

    @property
    def config(self) -> NodeConfig:
        """Return the parameters as they stand."""
        return self._table.config

    def start(self) -> int:
        """Configure and activate; returns 0, or the process's exit code when that failed."""
        for trigger in (self.trigger_configure, self.trigger_activate):
            if trigger() != TransitionCallbackReturn.SUCCESS:
                if self.context.ok():
                    self.report()  # the last word: whoever watches /diagnostics learns why
                return self.fault.exit_code if isinstance(self.fault, EvitSegError) else 1
        return 0

    # Transitions. rclpy swallows what a transition callback raises: so it is caught here.

    def on_configure(self, state: Any) -> TransitionCallbackReturn:
        """Load and try the model, create the publishers."""
        return self._transition('inactive', self._configure)

    def on_activate(self, state: Any) -> TransitionCallbackReturn:
        """Start the worker and listen to the camera."""
        return self._transition(ACTIVE, self._activate)

    def on_deactivate(self, state: Any) -> TransitionCallbackReturn:
        """Stop listening, finish the frame in hand."""
        return self._transition('inactive', self._deactivate)

    def on_cleanup(self, state: Any) -> TransitionCallbackReturn:
        """Free the model and the publishers."""
        return self._transition('unconfigured', self._clean_up)

    def on_shutdown(self, state: Any) -> TransitionCallbackReturn:
        """Stop and free everything, from any state."""
        return self._transition('finalized', self.close)

    def _transition(self, phase: str, act: Callable[[], None]) -> TransitionCallbackReturn:
        try:
            act()
        except Exception as error:  # noqa: BLE001  or it would be lost
            self.fault = error
            self.get_logger().error(f'still {self.phase}, not {phase}: {sentence(error)}')
            return TransitionCallbackReturn.FAILURE
        self.fault, self.phase = None, phase
        self.get_logger().info(f'{phase}')
        return TransitionCallbackReturn.SUCCESS

    def _configure(self) -> None:
        model = patiently(partial(load_model, self.config, self._load), self.context.ok)
        self.get_logger().info(f'model {model.describe()}')
        self._outputs = Outputs(self)
        self.pipeline = Pipeline(model, self.config, self._outputs, self.counters, self._clocks,
                                 self.get_logger())
        self.pipeline.enabled = self._enabled
        self._outputs.publish_labels(model.segmenter.manifest)
        self._outputs.publish_mode(NOMINAL)

    def _activate(self) -> None:
        pipeline = self.pipeline
        if pipeline is None:
            raise ConfigError('the node cannot be activated before it is configured')
        renew = partial(self._watchdog.renew, pipeline) if pipeline.hang else None
        worker = Worker(pipeline.work, self._on_dropped, renew)
        self._worker = worker
        # Before the images: of messages that wait together, rclpy takes the older topics' first.
        group = MutuallyExclusiveCallbackGroup()
        self._position_inputs = PositionInputs(self, pipeline.positions, self._clocks.now_ns,
                                               group)
        self._inputs = Inputs(self, self.config, partial(self._on_image, pipeline, worker),
                              partial(_keep_camera_info, pipeline), self._clocks.steady_s, group)
        self.get_logger().info(f'listening to {self._inputs.topic}')
        for name in unused_overrides(self):
            self.get_logger().warning(f'{name}: this node has no such topic, nothing is changed')

    def _deactivate(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        inputs, self._inputs = self._inputs, None
        if inputs is not None:
            inputs.close()
        positions, self._position_inputs = self._position_inputs, None
        if positions is not None:
            positions.close()
        worker, self._worker = self._worker, None
        if worker is not None and self.pipeline is not None:
            self._watchdog.stop(self.pipeline, worker, timeout_s)

    def _clean_up(self) -> None:
        pipeline, self.pipeline = self.pipeline, None
        if pipeline is not None:
            pipeline.close()
        outputs, self._outputs = self._outputs, None
        if outputs is not None:
            outputs.close()

    def close(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """Stop the worker, then free the model and the publishers; twice is harmless."""
        self._deactivate(timeout_s)
        self._clean_up()

    # Callbacks, all in the executor's thread.

    def _on_image(self, pipeline: Pipeline, worker: Worker[Arrival],
                  message: CameraMessage) -> None:
        received_s = self._clocks.steady_s()
        self.counters.arrive()
        refused = pipeline.refuse(message)
        if refused:
            self.counters.finish(refused)
        else:
            worker.offer(Arrival(message, received_s))

    def _on_dropped(self, why: str) -> None:
        self.counters.finish('replaced' if why == 'replaced' else 'disabled')

    def _on_change(self, config: NodeConfig) -> None:
        if self.pipeline is not None:
            self.pipeline.config = config
            self._late_inputs.want(self.pipeline)

    def _on_enable(self, request: SetBool.Request,
                   response: SetBool.Response) -> SetBool.Response:
        self._enabled = request.data
        if self.pipeline is not None:
            self.pipeline.enabled = request.data
        response.success = True
        response.message = f'{"enabled" if request.data else "disabled"}; the node is {self.phase}'
        self.get_logger().info(response.message)
        return response

    def _swap_model(self) -> str:
        pipeline = self.pipeline
        if pipeline is None:
            raise ConfigError('there is none; configure the node, that loads it')
        model = load_model(self.config, self._load)
        if self.pipeline is not pipeline:
            model.close()
            raise ConfigError('the node was cleaned up meanwhile')
        worker, swap = self._worker, partial(pipeline.swap, model)
        old = swap() if worker is None else worker.between(swap)
        if old is not None:
            old.close()
        return model.describe()

    def _between(self, pipeline: Pipeline, act: Callable[[], bool]) -> bool:
        worker = self._worker
        if self.pipeline is not pipeline:
            return False
        return act() if worker is None else worker.between(act)

    def _load_model(self, folder: str) -> Model:
        return load_model(replace(self.config, model=folder), self._load)

    def _look(self) -> None:
        self._watchdog.look(self.pipeline, self._worker)

    def report(self) -> None:
        """Publish /diagnostics, and the active alerts once more."""
        now_s = self._clocks.steady_s()
        condition = condition_of(self.phase, self.fault, self._enabled, self.config,
                                 self.pipeline, self._inputs, now_s)
        self._report.publish(condition, self.counters.snapshot(), now_s, self.pipeline,
                             self._watchdog.given_up)
        if self.pipeline is None:
            return
        self.pipeline.safe_zones.expire(now_s, self.config.stale_after_s)
        if self.phase == ACTIVE:
            self.pipeline.repeat_alerts()


def _keep_camera_info(pipeline: Pipeline, info: CameraInfo) -> None:
    pipeline.camera_info = info


def main(arguments: Optional[List[str]] = None) -> int:
    """Run the node; the exit code is 0, or that of the error that ended it."""
    argv = sys.argv if arguments is None else arguments
    parser = argparse.ArgumentParser(
        prog=NODE_NAME, description='Segment a camera topic.',
        epilog='Parameters and remaps are ROS arguments: --ros-args -p model:=demo '
               '-r image_raw:=/camera/image_raw --params-file seg.yaml')
    parser.add_argument('--build-only', action='store_true', help='load and try the model, fill '
                        'the engine cache, say what was built and where, and exit')
    if parser.parse_args(remove_ros_args(argv)[1:]).build_only:
        return build_only(argv, NODE_NAME)
    with one_interrupt():
        rclpy.init(args=argv)
        code = serve(SegNode, NODE_NAME)
    return leave(code)


if __name__ == '__main__':
    raise SystemExit(main())
