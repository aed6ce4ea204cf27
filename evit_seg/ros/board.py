# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What Linux tells about the board: memory of this process, temperatures; empty elsewhere."""
from __future__ import annotations

import os
from pathlib import Path
from typing import Dict, Optional

THERMAL = Path('/sys/class/thermal')
STATM = Path('/proc/self/statm')


def resident_mb(statm: Path = STATM) -> Optional[float]:
    """Return the resident memory of this process in MB (10^6 bytes), None where unreadable."""
    text = _read(statm)
    return int(text.split()[1]) * os.sysconf('SC_PAGE_SIZE') / 1e6 if text else None


def temperatures_c(thermal: Path = THERMAL) -> Dict[str, float]:
    """Return degrees Celsius by the name of the sensor, such as 'cpu-thermal'."""
    found = {}
    for zone in sorted(thermal.glob('thermal_zone*')):
        name, text = _read(zone / 'type'), _read(zone / 'temp')
        if name and text and text.lstrip('-').isdigit():
            found[name] = int(text) / 1000
    return found


def _read(path: Path) -> str:
    """Return a file's text, '' if it cannot be read: a sensor that sleeps answers EAGAIN."""
    try:
        return path.read_text(encoding='ascii', errors='replace').strip()
    except OSError:
        return ''
