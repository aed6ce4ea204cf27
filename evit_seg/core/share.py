# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Where the package's data files lie: colcon, `pip install` or the source tree."""
from __future__ import annotations

import os
from pathlib import Path
import sys
from typing import Iterator

from evit_seg.core.errors import InputError


def _share_folders() -> Iterator[Path]:
    """Yield the folders that may hold `config/` and `models/`, nearest owner first."""
    source_tree = Path(__file__).resolve().parents[2]
    if (source_tree / 'package.xml').is_file():
        yield source_tree
    for prefix in os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep):
        if prefix:
            yield Path(prefix) / 'share' / 'evit_seg'
    yield Path(sys.prefix) / 'share' / 'evit_seg'


def share_file(relative: str) -> Path:
    """
    Return the path of a data file or folder of the package, such as `config/seg.yaml`.

    InputError names every folder that was searched.
    """
    folders = list(_share_folders())
    for folder in folders:
        if (folder / relative).exists():
            return folder / relative
    searched = ', '.join(str(folder) for folder in folders)
    raise InputError(f'{relative!r} of evit_seg was not found in {searched}; '
                     'is the package installed (pip install . or colcon build)?')
