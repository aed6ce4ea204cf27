# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
The whole way in one command: a synthetic flight, its bag, the real node, and the scores.

python -m evit_seg.replay.demo --out demo/
"""
from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
import json
from pathlib import Path
import shutil
import subprocess
import sys
from typing import Any

from evit_seg.core.errors import EvitSegError, InputError
from evit_seg.core.segmenter import Segmenter
from evit_seg.replay.alert_params import load_alert_rules
from evit_seg.replay.annotations import Annotations
from evit_seg.replay.bag import Bag
from evit_seg.replay.comparable import compare, comparison_line
from evit_seg.replay.evaluate import evaluate, write_json
from evit_seg.replay.image_source import open_source
from evit_seg.replay.make_bag import write_bag
from evit_seg.replay.run import read_stamps

SEED = 3000
"""No model is trained or chosen on this flight."""
PARTS = ('scenes', 'flight.bag', 'live', 'demo.json')
"""What a run leaves in its folder, and what the next one replaces."""
ALERT_CLASS = 'person'


class StepFailed(EvitSegError):
    """A step of the demo ended with an error, which it has printed itself."""

    def __init__(self, step: str, exit_code: int) -> None:
        super().__init__(f'{step} ended with exit code {exit_code}')
        self.exit_code = exit_code


def clear(out: Path, parts: Sequence[str] = PARTS) -> None:
    """Make the folder, without the parts of an earlier run; InputError if it is another's."""
    if out.exists():
        foreign = [entry.name for entry in out.iterdir() if entry.name not in parts] \
            if out.is_dir() else [out.name]
        if foreign:
            raise InputError(f'{out} holds things that are not of an earlier demo '
                             f'({foreign[0]!r}); name another folder')
        shutil.rmtree(out)
    out.mkdir(parents=True)


def run_step(module: str, arguments: list[str]) -> None:
    """Run a module of the package in a process of its own; StepFailed when that fails."""
    result = subprocess.run([sys.executable, '-m', module, *arguments], check=False,
                            stdout=subprocess.DEVNULL)
    if result.returncode != 0:
        raise StepFailed(module, result.returncode)


def run_demo(args: argparse.Namespace) -> dict[str, Any]:
    """Render, pack, play, evaluate; return both reports."""
    out = args.out
    clear(out)
    say(f'1/4 rendering {args.seconds:g} s of flight at {args.rate:g} Hz, {args.size}')
    run_step('offline_train.cli', [
        'synth', '--out', str(out / 'scenes'), '--seed', str(args.seed), '--seconds',
        str(args.seconds), '--rate', str(args.rate), '--size', args.size])
    flight = out / 'scenes' / 'flight'
    say('2/4 writing the bag')
    write_bag(open_source(flight), out / 'flight.bag', progress=True)
    say('3/4 playing it to seg_node')
    tables = {'objects': flight / 'objects.csv', 'events': flight / 'events.csv'}
    run_step('evit_seg.replay.live', [
        str(out / 'flight.bag'), '--model', args.model, '--out', str(out / 'live'),
        '--objects', str(tables['objects']), '--events', str(tables['events']), '--no-compare'])
    say('4/4 evaluating the bag without ROS')
    live = read_json(out / 'live' / 'report.json')
    replay = evaluate_bag(out / 'flight.bag', args.model, Annotations.read(**tables))
    report = {'live': live, 'bag_eval': replay,
              'comparison': compare(live, replay, image_stamps(out / 'flight.bag'))}
    write_json(out / 'demo.json', report)
    return report


def evaluate_bag(path: Path, model: str, annotations: Annotations) -> dict[str, Any]:
    """Return bag_eval's report with the shipped alert rules."""
    segmenter = Segmenter.open(model)
    try:
        with Bag(path) as bag:
            return evaluate(bag, segmenter, load_alert_rules(None, segmenter.label_map),
                            annotations=annotations, progress=True)
    finally:
        segmenter.close()


def image_stamps(path: Path) -> Sequence[int]:
    """Return the stamps of the frames, ns."""
    with Bag(path) as bag:
        return read_stamps(bag, bag.choose_image_topic(), None).image_ns


def table(report: dict[str, Any], out: Path) -> Iterator[str]:
    """Yield the lines of the short table."""
    live, replay = report['live'], report['bag_eval']
    counts, timing = live['counts'], live['timing']
    stages = replay['timing']['stages_ms']['total']
    rows = [('', 'seg_node, live', 'bag_eval'),
            ('dataset mIoU', *(_miou(r) for r in (live, replay))),
            ('Person appearances hit', *(_hits(r) for r in (live, replay))),
            ('false Person alerts', *(_false(r) for r in (live, replay))),
            ('  on / on with none there', *(_active(r) for r in (live, replay))),
            ('frames', f'{counts["answered"]} of {counts["sent"]} answered',
             f'{replay["counts"]["processed"]} of {replay["counts"]["images"]}'),
            ('frames/s', f'{timing["frames_per_s"]:.1f} (pace of the bag)',
             f'{replay["timing"]["frames_per_s"]:.1f} (as fast as it goes)'),
            ('latency p50 / p95', _latency(timing['latency_ms']), _latency(stages)),
            ('memory of the node', f'{timing["node_rss_mb"] or 0:.0f} MB', '')]
    yield f'model {live["model"]["name"]} on a synthetic flight of ' \
          f'{live["bag"]["duration_s"]:.0f} s that it was not trained on'
    yield from (f'{name:26} {first:26} {second}'.rstrip() for name, first, second in rows)
    yield f'alerts: {comparison_line(report["comparison"])}'
    yield f'video  {out / "live" / "overlay.mp4"}'
    yield f'image  {out / "live" / "poster.png"}'
    yield f'JSON   {out / "demo.json"}'


def _miou(report: dict[str, Any]) -> str:
    return f'{report["scores"]["dataset"]["miou"]:.3f}'


def _alerts(report: dict[str, Any]) -> dict[str, Any]:
    return next(score for score in report['appearances'] if score['slug'] == ALERT_CLASS)


def _hits(report: dict[str, Any]) -> str:
    score = _alerts(report)
    return f'{score["hits"]} of {len(score["appearances"])}'


def _false(report: dict[str, Any]) -> str:
    score = _alerts(report)
    return f'{score["false_alerts"]} ({score["false_alerts_per_min"]:.2f} per minute)'


def _active(report: dict[str, Any]) -> str:
    score = _alerts(report)
    return f'{score["active_s"]:.0f} s / {score["idle_active_s"]:.0f} s'


def _latency(row: dict[str, float]) -> str:
    return f'{row["p50"]:.0f} / {row["p95"]:.0f} ms'


def read_json(path: Path) -> dict[str, Any]:
    """Return what a step has written; InputError where it has not."""
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise InputError(f'{path} cannot be read: {error}') from error
    return dict(content)


def say(line: str) -> None:
    """Tell what is going on, at once."""
    print(line, flush=True)


def main(argv: list[str] | None = None) -> int:
    """Run the command; 0, or the error's exit code after one line on stderr."""
    parser = argparse.ArgumentParser(prog='demo', description=__doc__)
    parser.add_argument('--out', type=Path, required=True, metavar='DIR')
    parser.add_argument('--model', default='demo', help='bundle folder, or a name under models/')
    parser.add_argument('--seed', type=int, default=SEED)
    parser.add_argument('--seconds', type=float, default=60.0, help='length of the flight')
    parser.add_argument('--rate', type=float, default=5.0, help='frames per second')
    parser.add_argument('--size', default='1280x720')
    args = parser.parse_args(argv)
    try:
        report = run_demo(args)
    except EvitSegError as error:
        print(f'demo: {error}', file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print('demo: interrupted', file=sys.stderr)
        return 130
    print('\n'.join(['', *table(report, args.out)]))
    return 0


if __name__ == '__main__':
    sys.exit(main())
