# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The papers' own numbers, from config/paper_tables.yaml."""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Optional, Tuple

from evit_seg.core.errors import InputError
from evit_seg.core.share import share_file
import yaml


@dataclass(frozen=True)
class PaperNetwork:
    """One row of a paper; what it does not give is None."""

    name: str
    model: str
    distilled: bool = False
    precision: str = 'fp32'
    fps_gpu: Optional[float] = None
    fps_board: Optional[float] = None
    accuracy: Optional[float] = None
    miou: Optional[float] = None
    parameters_m: Optional[float] = None
    score: Optional[float] = None
    latency_ms: Optional[float] = None
    energy_mj: Optional[float] = None
    note: str = ''


@dataclass(frozen=True)
class PaperVariant:
    """One row of the paper's compression table."""

    name: str
    variant: str
    parameters_m: Optional[float] = None
    miou: Optional[float] = None
    fps: Optional[float] = None


@dataclass(frozen=True)
class Paper:
    """What one paper gives, and on what."""

    source: str
    data: str
    networks: Tuple[PaperNetwork, ...]
    title: str = ''
    score: str = ''
    machine: str = ''
    compression: Tuple[PaperVariant, ...] = ()
    compression_notes: Tuple[str, ...] = ()

    def find(self, model: str, distilled: bool, precision: str) -> Optional[PaperNetwork]:
        """Return the row of the same network, taught or not, at the same precision."""
        return next((row for row in self.networks if (row.model, row.distilled, row.precision)
                     == (model, distilled, precision)), None)


def load_papers(path: Optional[Path] = None) -> Dict[str, Paper]:
    """Return the papers `lpcv` and `energy`; InputError names a file that does not fit."""
    path = share_file('config/paper_tables.yaml') if path is None else path
    try:
        content = yaml.safe_load(path.read_text(encoding='utf-8'))
        return {name: _paper(content[name]) for name in ('lpcv', 'energy')}
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError) as error:
        raise InputError(f'{path}: expected the papers lpcv and energy with their networks: '
                         f'{type(error).__name__}: {error}') from error


def _paper(section: Dict[str, Any]) -> Paper:
    rest = dict(section)
    return Paper(networks=tuple(PaperNetwork(**row) for row in rest.pop('networks')),
                 compression=tuple(PaperVariant(**row) for row in rest.pop('compression', ())),
                 compression_notes=tuple(rest.pop('compression_notes', ())), **rest)
