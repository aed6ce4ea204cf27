# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Decode mutated messages in a process of its own, which may fall without taking the tests along.

The number of the case in hand stands in a file, so that a fall has a name. What memory a case may
ask for is limited: more ends in a MemoryError, which counts as a failure like any other.
"""
from __future__ import annotations

from collections import Counter
import faulthandler
import json
from pathlib import Path
import resource
import sys
import traceback
from typing import Any, Dict

from camera_cases import Case, Cases, EITHER
from evit_seg.core.errors import FrameError
from evit_seg.core.machine import process_memory_mb
from evit_seg.ros.convert import frame_from_message
import numpy as np
import psutil

MEMORY_MB = 256
"""What decoding may ask for beyond what the process holds before."""


def decode(case: Case) -> str:
    """Return how a case ended; anything but a frame or a FrameError escapes."""
    try:
        frame = frame_from_message(case.message, case.scale_16bit)
    except FrameError:
        return 'malformed'
    image_HWC = frame.image_HWC
    if image_HWC.dtype != np.uint8 or image_HWC.ndim != 3 or image_HWC.shape[2] != 3:
        raise TypeError(f'expected uint8 (H, W, 3), got {image_HWC.dtype} {image_HWC.shape}')
    if 'image' in case.kind and image_HWC.shape[:2] != (case.message.height, case.message.width):
        raise ValueError(f'the message is of another size than the frame: {image_HWC.shape}')
    int(image_HWC.sum())  # every byte of a view can be read
    return 'answered'


def save(case: Case, folder: Path, said: str) -> str:
    """Write a failing case and what it did; returns the file's name."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f'case_{case.number}.cdr'
    path.write_bytes(case.wire)
    path.with_suffix('.txt').write_text(
        f'{case.kind}, {", ".join(case.changes)}\nimage.scale_16bit {case.scale_16bit}\n'
        f'expected: {case.fate}\n{said}\n', encoding='utf-8')
    return str(path)


def run(seed: int, count: int, folder: Path, progress: Path) -> Dict[str, Any]:
    """Make cases until `count` messages were decoded; return the numbers."""
    cases = Cases(seed)
    process = psutil.Process()
    address_space = process.memory_info().vms + MEMORY_MB * 2 ** 20
    resource.setrlimit(resource.RLIMIT_AS, (address_space, resource.RLIM_INFINITY))
    before_mb = process.memory_info().rss / 1e6
    ends: Counter = Counter()
    changed: Counter = Counter()
    failures = []
    number = unreadable = 0
    with progress.open('wb', buffering=0) as hand:
        while sum(ends.values()) < count:
            case = cases.make(number)
            number += 1
            if case.message is None:
                unreadable += 1
                continue
            changed.update({f'{case.kind}: {name.split(" at ")[0]}' for name in case.changes
                            if not name.startswith('claim')})
            hand.seek(0)
            hand.write(b'%-20d' % case.number)
            try:
                end = decode(case)
                said = f'got {end}'
            except Exception:  # noqa: BLE001  what escapes is what is looked for
                end, said = 'raised', traceback.format_exc()
            ends[f'{case.kind}: {end}'] += 1
            if end == 'raised' or case.fate not in (end, EITHER):
                failures.append(save(case, folder, said))
    peak_mb = process_memory_mb()['peak_rss']  # getrusage's counts the parent's too
    return {'decoded': sum(ends.values()), 'not_a_message_for_ros': unreadable,
            'ends': dict(sorted(ends.items())), 'changes': dict(sorted(changed.items())),
            'failures': failures, 'memory_before_mb': round(before_mb, 1),
            'memory_peak_mb': peak_mb}


if __name__ == '__main__':
    faulthandler.enable()
    print(json.dumps(run(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]),
                         Path(sys.argv[4]))))
