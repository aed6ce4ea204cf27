# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""How the node was over the time of a live run: what ~/mode and /diagnostics said, and when."""
from __future__ import annotations

import re
from typing import Any

NOMINAL = 'nominal'
DURATION = re.compile(r' for [\d.]+ s$')


class ModeTimeline:
    """
    The changes, in the time of the bag.

    Each of the two sources tells for itself: ~/mode at once, /diagnostics once a second. What is
    noted before the first frame holds from there on.
    """

    def __init__(self) -> None:
        self._rows: list[tuple[int, str, str, str]] = []
        self._ended = False

    def note_mode(self, bag_ns: int, text: str) -> None:
        """Note a message of ~/mode: 'nominal', or 'degraded: ' and why."""
        mode, _, reason = text.partition(': ')
        if (mode, reason) != self._last('mode'):
            self._rows.append((bag_ns, 'mode', mode, reason))

    @property
    def known(self) -> bool:
        """Tell whether ~/mode has said anything yet; its last word waits for every listener."""
        return self._last('mode') != ('', '')

    def note_report(self, bag_ns: int, ok: bool, sentence: str) -> None:
        """Note the sentence of a report, and whether its level is OK."""
        head, _, reason = sentence.partition(': ')
        mode = NOMINAL if ok else DURATION.sub('', head)
        if mode != self._last('diagnostics')[0] and not self._ended:
            self._rows.append((bag_ns, 'diagnostics', mode, sentence if ok else reason))

    def _last(self, source: str) -> tuple[str, str]:
        return next(((mode, reason) for _, its_source, mode, reason in reversed(self._rows)
                     if its_source == source), ('', ''))

    def end(self) -> None:
        """Take no more reports: that no frames come is no news when the bag is over."""
        self._ended = True

    def rows(self, first_ns: int) -> list[dict[str, Any]]:
        """Return the changes since the first frame, beginning with what held then."""
        before: dict[str, tuple[int, str, str, str]] = {}
        after = []
        for row in self._rows:
            if row[0] <= first_ns:
                before[row[1]] = row
            else:
                after.append(row)
        return [{'t_s': max(0, bag_ns - first_ns) / 1e9, 'source': source, 'mode': mode,
                 'reason': reason} for bag_ns, source, mode, reason in (*before.values(), *after)]
