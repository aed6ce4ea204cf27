# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What was measured in the field, against which bars, and the file that says so."""
from __future__ import annotations

import json
import operator
from pathlib import Path
from typing import Any, Dict, Mapping, Tuple

from evit_seg.core.bundle import open_bundle
from evit_seg.core.machine import machine_facts

RESULT = Path(__file__).resolve().parents[2] / 'docs' / 'results' / 'field.json'
LINES = ('fuzz: decode', 'fuzz: live node', 'flood: between processes', 'flood: callback',
         'soak: frames', 'soak: lifecycle', 'bag_eval: memory, sqlite3',
         'bag_eval: memory, mcap', 'bag_eval: memory, ros1')
RELATIONS = {'==': operator.eq, '<': operator.lt, '<=': operator.le, '>=': operator.ge}

Bars = Mapping[str, Tuple[str, float]]


class FieldRecord:
    """
    Numbers and verdicts of a run.

    `whole` tells the full run, which writes the file after each line, a missed bar included, from
    the twentieth of `make test`, which writes nothing.
    """

    def __init__(self, whole: bool, bundle: Path) -> None:
        self.whole = whole
        self._lines: Dict[str, Any] = {}
        opened = open_bundle(bundle)
        self._model = {'name': opened.manifest.name, 'sha256': opened.sha256}
        self._machine = machine_facts()

    def scaled(self, number: int) -> int:
        """Return how many of them to do in this run."""
        return number if self.whole else number // 20

    def hold(self, line: str, numbers: Mapping[str, Any], always: Bars, at_scale: Bars) -> None:
        """
        Note the numbers of a line and hold them against their bars.

        `at_scale` are those that depend on speed and memory: they are asserted in the full run
        only, on a machine that is left alone.
        """
        bars = {**always, **at_scale} if self.whole else always
        missed = [f'{name}: expected {relation} {bar}, got {numbers[name]}'
                  for name, (relation, bar) in bars.items()
                  if not RELATIONS[relation](numbers[name], bar)]
        self._lines[line] = {
            'verdict': 'missed' if missed else 'held', 'missed': missed,
            'bars': {name: f'{relation} {bar}' for name, (relation, bar) in bars.items()},
            'numbers': dict(numbers)}
        print(f'\n{line}: {json.dumps(self._lines[line], indent=1)}')
        self.close()
        assert not missed, f'{line}: {"; ".join(missed)}'

    def close(self) -> None:
        """Write the file of a full run; lines that were not run are named as such."""
        if not self.whole:
            return
        lines = {line: self._lines.get(line, {'verdict': 'not run'}) for line in LINES}
        content = {'held': all(line['verdict'] == 'held' for line in lines.values()),
                   'machine': self._machine, 'model': self._model, 'lines': lines}
        RESULT.write_text(json.dumps(content, indent=1) + '\n', encoding='utf-8')
