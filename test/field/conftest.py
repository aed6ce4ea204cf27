# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
The node under bad input, load and long service, at two scales.

`make test` runs everything at a twentieth and asserts only what no busy machine can change.
`make field` (EVIT_SEG_FIELD=1) runs it whole, holds every number against its bar and writes
docs/results/field.json.
"""
from __future__ import annotations

import os
from pathlib import Path
import sys
from unittest import mock

import pytest
from tiny_bundle import write_tiny_bundle

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / 'node')]


@pytest.fixture(scope='session')
def tiny(tmp_path_factory):
    """Return the folder of a tiny bundle: 14 classes, 64 x 64, stride 8."""
    return write_tiny_bundle(tmp_path_factory.mktemp('bundle') / 'tiny')


@pytest.fixture(scope='session')
def field(tiny):
    """Yield the record that numbers and verdicts go into."""
    from field_record import FieldRecord
    record = FieldRecord(whole=os.environ.get('EVIT_SEG_FIELD') == '1', bundle=tiny)
    yield record
    record.close()


@pytest.fixture
def rig(tiny):
    """Yield a client and the means to start a node beside it; closed after the test."""
    from node_child import TRANSPORT
    from ros_rig import Rig
    with mock.patch.dict(os.environ, TRANSPORT):
        rig = Rig(tiny)
    yield rig
    rig.close()


@pytest.fixture
def start_host(tiny, tmp_path, field):
    """
    Return a function that starts a node in a process of its own; ended after the test.

    Only the full run keeps the watchdog for a hanging engine, which must stay quiet there: on a
    busy machine an engine may well look as if it hung.
    """
    from node_child import NodeChild
    children = []

    def start(**options):
        if not field.whole:
            options['engine__hang_after_s'] = 0.0
        children.append(NodeChild(tiny, tmp_path / f'node_{len(children)}.log', **options))
        return children[-1]
    yield start
    for child in children:
        child.close()
