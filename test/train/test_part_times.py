# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""One part of several networks, timed in turns."""
from __future__ import annotations

import json

import pytest

pytest.importorskip('torch', reason='the networks are of torch')
pytest.importorskip('onnx', reason='the exporter needs it')

from evit_seg.core.errors import ConfigError  # noqa: E402, I100
from offline_train import part_times  # noqa: E402
from offline_train import train as train_stage  # noqa: E402
from offline_train.run_dir import RunDir  # noqa: E402
from offline_train.run_network import load_network  # noqa: E402
from tiny_runs import parse, TINY, write_scenes  # noqa: E402


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """Return a narrow and a wide run of four steps."""
    root = tmp_path_factory.mktemp('parts')
    scenes = write_scenes(root)
    for name, widths in (('narrow', '[4, 4, 8, 8, 8]'), ('wide', '[32, 32, 64, 64, 64]')):
        train_stage.main(parse(train_stage, '--out', root / name, *TINY, f'model.widths={widths}',
                               f'data.train=[{scenes}]', 'optim.steps=1'))
    return root


def test_parts_are_counted_and_timed(runs, tmp_path, capsys):
    out = tmp_path / 'times.json'
    assert part_times.main(parse(part_times, runs / 'narrow', runs / 'wide', '--part', 'stem',
                                 '--threads', 1, '--rounds', 9, '--json', out)) == 0
    narrow, wide = json.loads(out.read_text(encoding='utf-8'))['rows']
    for row, name in ((narrow, 'narrow'), (wide, 'wide')):
        stem = load_network(RunDir.open(runs / name), 14).get_submodule('stem')
        assert row['name'] == name and row['size'] == [64, 96]
        assert row['parameters'] == sum(p.numel() for p in stem.parameters()) > 0
    assert narrow['ratio_to_first'] == 1.0 and wide['ratio_to_first'] > 0
    assert 'wide' in capsys.readouterr().out


def test_a_part_that_is_not_there_is_named_with_those_that_are(runs):
    with pytest.raises(ConfigError, match="has no 'backbone', it has stem"):
        part_times.main(parse(part_times, runs / 'narrow'))


def test_wrong_options_are_refused(runs):
    with pytest.raises(ConfigError, match='expected --rounds'):
        part_times.main(parse(part_times, runs / 'narrow', '--rounds', 0))
