# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Keep an engine's threads on chosen CPUs, so that others are left to the autopilot.

A new thread inherits the CPUs of the one that starts it (Linux, sched_setaffinity(2)). So the
caller is confined while an engine is loaded and while it computes, and let go again: the engine's
own threads stay where they were born, and the caller's other work runs where it did.
"""
from __future__ import annotations

from contextlib import contextmanager
import os
import re
from typing import FrozenSet, Iterator, Set

from evit_seg.core.errors import ConfigError

MAX_CPU = 4095
"""Highest CPU number taken; Linux is built for at most 8192, and a range must not fill memory."""


def parse_cpus(text: str) -> FrozenSet[int]:
    """
    Return the CPU numbers of a list such as '0-2,5'; none for '', which means any.

    ConfigError for anything else.
    """
    cpus: Set[int] = set()
    for part in text.split(',') if text.strip() else ():
        found = re.fullmatch(r'\s*(\d{1,4})(?:-(\d{1,4}))?\s*', part)
        first, last = (int(found.group(1)), int(found.group(2) or found.group(1))) \
            if found else (1, 0)
        if first > last or last > MAX_CPU:
            raise ConfigError(f"engine.cpus: expected CPU numbers such as '0-2,5' up to "
                              f'{MAX_CPU}, or nothing, got {text!r}')
        cpus.update(range(first, last + 1))
    return frozenset(cpus)


def format_cpus(cpus: FrozenSet[int]) -> str:
    """Return CPU numbers as the kernel writes them: '0-2,5'."""
    parts = []
    for cpu in sorted(cpus):
        if cpu - 1 not in cpus:
            last = cpu
            while last + 1 in cpus:
                last += 1
            parts.append(f'{cpu}-{last}' if last > cpu else f'{cpu}')
    return ','.join(parts)


@contextmanager
def on_cpus(cpus: FrozenSet[int]) -> Iterator[None]:
    """
    Confine the calling thread, and what it starts, to these CPUs; to none in particular if empty.

    ConfigError where the system cannot, or does not let this process onto one of them.
    """
    if not cpus:
        yield
        return
    if not hasattr(os, 'sched_setaffinity'):
        raise ConfigError("engine.cpus: this system cannot pin threads; set engine.cpus: ''")
    before = frozenset(os.sched_getaffinity(0))
    _confine(cpus, before)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _confine(cpus: FrozenSet[int], before: FrozenSet[int]) -> None:
    try:
        os.sched_setaffinity(0, cpus)
        granted = os.sched_getaffinity(0)
    except OSError as error:  # none of them is there
        raise _not_granted(cpus, before) from error
    if granted != cpus:  # the kernel leaves out what is not there without a word
        os.sched_setaffinity(0, before)
        raise _not_granted(cpus, before)


def _not_granted(cpus: FrozenSet[int], before: FrozenSet[int]) -> ConfigError:
    return ConfigError(f'engine.cpus: expected CPUs of {format_cpus(before)}, which '
                       f'this process may use, got {format_cpus(cpus)!r}')
