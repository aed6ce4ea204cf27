# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Play a bag at its own pace to the real seg_node and record what it answers.

python -m evit_seg.replay.live BAG --model demo --out live/

The node runs in a process of its own and is spoken to over ROS 2 alone. Frames are published only
once both sides have found each other. Then bag_eval's way through the same bag says whether the
alerts are the same, or why that cannot be told. Left behind: report.html, report.md, report.json,
overlay.mp4, poster.png, node.log, and where the bag has positions alerts.geojson and alerts.kml.
"""
from __future__ import annotations

import argparse
import array
import os
from pathlib import Path
import shlex
import sys
import threading
import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from evit_seg.core.errors import ConfigError, EvitSegError, InputError
from evit_seg.core.labels import LabelMap
from evit_seg.core.share import share_file
from evit_seg.replay.annotations import Annotations
from evit_seg.replay.bag import Bag, BagMessage, ImageTopic, is_16bit
from evit_seg.replay.comparable import compare, evaluate_like, read_runs, run_like
from evit_seg.replay.evaluate import write_json
from evit_seg.replay.geo_files import write_maps
from evit_seg.replay.live_alerts import events_of
from evit_seg.replay.live_play import drain, play, wait_until_ready
from evit_seg.replay.live_position import position_topics, PositionPlayer
from evit_seg.replay.live_report import live_lines, LiveInput, report_live
from evit_seg.replay.node_process import NodeFailed, NodeProcess, write_parameters
from evit_seg.replay.page.write import write_page
from evit_seg.replay.places import NO_POSITION, placed_in_words
from evit_seg.replay.recording import Header, Recording
from evit_seg.replay.run import read_stamps, Stamps
import numpy as np
import rclpy
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, NavSatFix
from std_msgs.msg import Float64, String

DEFAULT_ENVIRONMENT = {
    # Best-effort frames of 2 MB do not arrive at all over Fast DDS's own default transports.
    'FASTDDS_BUILTIN_TRANSPORTS': 'LARGE_DATA',
    # Where ROS 2 comes from PyPI this is its prefix; a sourced ROS 2 has set its own.
    'AMENT_PREFIX_PATH': sys.prefix,
}
FIXED_ENVIRONMENT = {
    # LOCALHOST would take the place of the transports above, and nothing would arrive.
    'ROS_AUTOMATIC_DISCOVERY_RANGE': 'SUBNET',
}


OTHER_TYPES = {'fix': NavSatFix, 'heading': Float64, 'height': Float64,
               'camera_info': CameraInfo}
CLOSE_TIMEOUT_S = 10.0
"""For callbacks in hand at the end, and for the thread that runs them."""


class Player:
    """The ROS side: publishes frames, hands what comes back to a Recording. Close it."""

    def __init__(self, namespace: str, image: ImageTopic, labels: LabelMap, domain: int,
                 others: dict[str, str]) -> None:
        self.recording = Recording()
        self.topic = f'{namespace}/image_raw'
        self._labels = labels
        self._node_name = f'{namespace}/seg_node'
        self._context = Context()
        rclpy.init(context=self._context, domain_id=domain)
        self._node = rclpy.create_node('live_player', namespace=namespace, context=self._context)
        kind, suffix = (CompressedImage, '/compressed') if image.compressed else (Image, '')
        reliable = ReliabilityPolicy.RELIABLE
        self._publisher = self._node.create_publisher(
            kind, self.topic + suffix, QoSProfile(depth=5, reliability=reliable))
        # By relative names: they are the node's own, it is in the same namespace.
        self.others = PositionPlayer(
            {topic: self._node.create_publisher(OTHER_TYPES[name], name,
                                                QoSProfile(depth=10, reliability=reliable))
             for topic, name in others.items()},
            self._node.create_publisher(Clock, '/clock', QoSProfile(depth=10,
                                                                    reliability=reliable)))
        self._subscriptions = [
            self._node.create_subscription(*row, QoSProfile(depth=50, reliability=reliable))
            for row in ((Image, f'{self._node_name}/mask', self._on_mask),
                        (DiagnosticArray, f'{self._node_name}/alert_events', self._on_events),
                        (DiagnosticArray, '/diagnostics', self._on_report))]
        self._subscriptions.append(self._node.create_subscription(
            String, f'{self._node_name}/mode', self._on_mode, QoSProfile(
                depth=10, reliability=reliable, durability=DurabilityPolicy.TRANSIENT_LOCAL)))
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._spin, name='live_player', daemon=True)
        self._thread.start()

    def _spin(self) -> None:
        try:
            self._executor.spin()
        except ExternalShutdownException:
            return
        except (EvitSegError, ValueError) as error:  # of a callback; the player must hear of it
            self.recording.note_fault(error)

    def close(self) -> None:
        """Leave the graph."""
        self._executor.shutdown(CLOSE_TIMEOUT_S)
        self._thread.join(CLOSE_TIMEOUT_S)
        self._node.destroy_node()
        rclpy.try_shutdown(context=self._context)

    def missing(self) -> list[str]:
        """Return whom we still wait for: listeners of ours, publishers of what we listen to."""
        missing = [f'a subscriber of {one.topic_name}'
                   for one in (self._publisher, *self.others.all())
                   if one.get_subscription_count() == 0]
        missing += [f'a publisher of {one.topic_name}' for one in self._subscriptions
                    if one.get_publisher_count() == 0]
        return missing if self.recording.modes.known \
            else [*missing, f'a word on {self._node_name}/mode']

    def publish(self, index: int, message: BagMessage) -> None:
        """Publish one message of the bag as it is, under its own header."""
        content = message.content
        compressed = hasattr(content, 'format')
        out: Any = CompressedImage(format=content.format) if compressed else Image(
            height=content.height, width=content.width, encoding=content.encoding,
            is_bigendian=content.is_bigendian, step=content.step)
        stamp = content.header.stamp
        out.header.stamp.sec, out.header.stamp.nanosec = int(stamp.sec), int(stamp.nanosec)
        out.header.frame_id = content.header.frame_id
        out.data = array.array('B', content.data.tobytes())  # a list would be 30 times slower
        self.recording.note_sent(index, _header(out.header), time.perf_counter())
        self._publisher.publish(out)

    def _on_mask(self, message: Image) -> None:
        now_s = time.perf_counter()
        rows = np.frombuffer(message.data, np.uint8).reshape(message.height, message.step)
        self.recording.note_mask(_header(message.header), rows[:, :message.width], now_s)

    def _on_events(self, message: DiagnosticArray) -> None:
        now_s = time.perf_counter()
        stamp_ns = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
        rows = [(status.name, {v.key: v.value for v in status.values})
                for status in message.status]
        events = events_of(stamp_ns, rows, self._labels)
        self.recording.note_events(
            _header(message.header),
            [placed_in_words(event, words) for event, (_, words) in zip(events, rows)], now_s)

    def _on_mode(self, message: String) -> None:
        self.recording.note_mode(message.data, self.others.told_ns)

    def _on_report(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name == self._node_name.lstrip('/'):
                self.recording.note_report(status.message,
                                           {v.key: v.value for v in status.values},
                                           ok=status.level == DiagnosticStatus.OK,
                                           bag_ns=self.others.told_ns)


def _header(header: Any) -> Header:
    return header.stamp.sec, header.stamp.nanosec, header.frame_id


def run_live(args: argparse.Namespace, command: str) -> dict[str, Any]:
    """
    Play the bag, end the node, and return the report; files are in `args.out`.

    `command` is what the page says to repeat it.
    """
    for name, value in DEFAULT_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    os.environ.update(FIXED_ENVIRONMENT)
    domain = args.domain_id if args.domain_id is not None else 1 + os.getpid() % 100
    namespace = f'/live_{os.getpid()}'
    runs = read_runs(args.compare) if args.compare else []
    with Bag(args.bag) as bag:
        image = bag.choose_image_topic(args.image_topic)
        stamps = read_stamps(bag, image, bag.choose_truth_topic(None))
        check_stamps(stamps)
        others, notes = position_topics(bag, image)
        if 'fix' not in others.values():
            notes.append(NO_POSITION)
        given = LiveInput.open(bag, image, stamps, args.model, args.params,
                               Annotations.read(args.objects, args.events)
                               if args.objects else None, args.min_height_px, others)
        player = Player(namespace, image, given.labels, domain, others)
        player.recording.notes += notes
        node = None
        try:
            parameters = write_parameters(args.out / 'parameters.yaml',
                                          node_parameters(args, given, image))
            node = NodeProcess([args.params or share_file('config/seg.yaml'), parameters],
                               namespace=namespace, image_topic=player.topic,
                               environment={'ROS_DOMAIN_ID': str(domain)},
                               log=args.out / 'node.log')
            first = next(bag.messages([image.name, *others]))
            wait_until_ready(player, node, first.bag_ns)
            play(player, node, bag, image, args.rate, others=list(others), lockstep=args.lockstep,
                 progress=not args.quiet)
            drain(player, node)
            code = node.stop()
            if code != 0:
                raise NodeFailed(f'seg_node ended with exit code {code} after SIGINT: '
                                 f'{node.last_words()}', 1)
            report = report_live(given, player.recording, args.rate, node.largest_rss_mb,
                                 args.out, progress=not args.quiet)
            try:
                if not args.no_compare:
                    replay = run_like(runs, report) if runs else evaluate_like(
                        bag, image, given.bundle, given.rules, args.params, args.threads,
                        progress=not args.quiet)
                    report['comparison'] = compare(report, replay, stamps.image_ns)
            finally:  # whatever becomes of the comparison, what was played is kept
                write_report(report, args.out, command)
            return report
        finally:
            if node is not None:
                node.kill()
            player.close()
            player.recording.masks.close()


def write_report(report: dict[str, Any], out: Path, command: str) -> None:
    """Write the report as JSON, as a page and as Markdown, and the maps where there are places."""
    if report['places'] is not None:
        write_maps([report], out / 'alerts.geojson', out / 'alerts.kml')
        report['files'] += ['alerts.geojson', 'alerts.kml']
    report['files'] += ['report.html', 'report.md']
    write_json(out / 'report.json', report)
    write_page(report, html=out / 'report.html', markdown=out / 'report.md', command=command)


def node_parameters(args: argparse.Namespace, given: LiveInput,
                    image: ImageTopic) -> dict[str, Any]:
    """Return what this run sets on the node, above its parameter file."""
    parameters: dict[str, Any] = {
        'model': str(given.bundle.folder),
        'use_sim_time': True,  # the player tells the time of the bag on /clock
        'image.transport': 'compressed' if image.compressed else 'raw',
        'image.reliability': 'reliable' if args.reliable else 'best_effort'}
    if args.threads is not None:
        parameters['engine.threads'] = args.threads
    if is_16bit(image.encoding):
        parameters['image.scale_16bit'] = -1.0  # as bag_eval: each frame's maximum is white
    return parameters


def check_stamps(stamps: Stamps) -> None:
    """Raise InputError where the stamps cannot tell the frames apart."""
    if stamps.clock != 'header' or len(set(stamps.image_ns)) < len(stamps.image_ns):
        raise InputError('live tells the answers apart by the stamps in the headers: expected '
                         'one of its own for each frame, got repeated ones')


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog='live', description=__doc__)
    parser.add_argument('bag', type=Path, metavar='BAG')
    parser.add_argument('--out', type=Path, required=True, metavar='DIR', help='new folder')
    parser.add_argument('--model', default='demo', help='bundle folder, or a name under models/')
    parser.add_argument('--rate', type=float, default=1.0, help='1 is the pace of the recording')
    parser.add_argument('--image-topic', metavar='TOPIC')
    parser.add_argument('--objects', type=Path, metavar='CSV', help='as in bag_eval')
    parser.add_argument('--events', type=Path, metavar='CSV', help='as in bag_eval')
    parser.add_argument('--min-height-px', type=float, default=12.0, metavar='PX')
    parser.add_argument('--params', type=Path, metavar='YAML', help="the node's parameter file")
    parser.add_argument('--threads', type=int, help='CPU threads of the engine')
    parser.add_argument('--reliable', action='store_true',
                        help='the node asks for every frame again that is lost on the way')
    parser.add_argument('--lockstep', action='store_true',
                        help='publish no frame before the one before it is answered')
    comparison = parser.add_mutually_exclusive_group()
    comparison.add_argument('--compare', type=Path, metavar='JSON',
                            help="bag_eval's report to hold the alerts against; default: one is "
                                 'made of this bag')
    comparison.add_argument('--no-compare', action='store_true',
                            help='hold the alerts against nothing, which takes no time')
    parser.add_argument('--domain-id', type=int, metavar='N', help='default: one of its own')
    parser.add_argument('--quiet', action='store_true', help='no progress bars')
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command; 0, or the error's exit code after one line on stderr."""
    args = _parser().parse_args(argv)
    try:
        if not 0.01 <= args.rate <= 100:
            raise ConfigError(f'rate: expected 0.01 to 100, got {args.rate!r}')
        if args.out.exists():
            raise InputError(f'{args.out} exists already; name another folder or remove it')
        args.out.mkdir(parents=True)
        report = run_live(args, shlex.join(['python', '-m', 'evit_seg.replay.live',
                                            *(sys.argv[1:] if argv is None else argv)]))
    except EvitSegError as error:
        print(f'live: {error}', file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print('live: interrupted; the node was ended', file=sys.stderr)
        return 130
    print('\n'.join(live_lines(report)))
    return 0 if report['counts']['wrong_headers'] == 0 else 1


if __name__ == '__main__':
    sys.exit(main())
