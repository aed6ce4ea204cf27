# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""`bundle inspect`: what it prints and writes of the colour classifier, known by hand."""
from __future__ import annotations

from dataclasses import replace
import json
import sys

from evit_seg import bundle_cli
from evit_seg.bundle_inspect import build_commands
from evit_seg.core.boards import BOARDS
from evit_seg.core.bundle import open_bundle
from evit_seg.core.tensorrt8 import check
import onnx
import pytest
from tiny_bundle import write_tiny_bundle

GFLOP = 2 * 14 * 8 * 8 * 3 * 8 * 8  # of the one convolution
WEIGHTS = 4 * (14 * 3 * 8 * 8 + 14)
IMAGE, MAP, LOGITS = 64 * 64 * 3, 4 * 64 * 64 * 3, 4 * 14 * 8 * 8


@pytest.fixture
def folder(tmp_path):
    return write_tiny_bundle(tmp_path / 'tiny')


def inspect(folder, *args):
    return bundle_cli.main(['inspect', str(folder), *args])


def test_numbers_are_those_of_the_graph(folder, tmp_path, capsys):
    assert inspect(folder, '--json', str(tmp_path / 'facts.json')) == 0
    facts = json.loads((tmp_path / 'facts.json').read_text())
    assert facts['inputs'] == ['image uint8 1x64x64x3']
    assert facts['outputs'] == ['logits float32 1x14x8x8']
    assert facts['operators'] == {'Cast': 1, 'Transpose': 1, 'Conv': 1}
    assert facts['flops'] == GFLOP and facts['element_ops'] == 0
    assert facts['weight_bytes'] == WEIGHTS
    assert facts['peak_activation_bytes'] == 2 * MAP  # what the Transpose reads and writes
    assert facts['memory_bytes'] == WEIGHTS + 2 * MAP
    transposed_and_convolved = 2 * MAP + MAP + WEIGHTS + LOGITS
    assert facts['fused_bytes'] == transposed_and_convolved
    assert facts['moved_bytes'] == transposed_and_convolved + IMAGE + MAP
    assert facts['boards'] == []
    printed = capsys.readouterr().out
    assert 'input   image uint8 1x64x64x3' in printed and '1 Conv' in printed


def test_a_nano_is_told_with_assumptions_findings_and_commands(folder, tmp_path, capsys):
    assert inspect(folder, '--board', 'jetson-nano-4gb', '--json', str(tmp_path / 'f.json')) == 0
    printed = capsys.readouterr().out
    board = json.loads((tmp_path / 'f.json').read_text())['boards'][0]
    single, half = board['rooflines']
    assert (single['precision'], half['precision']) == ('fp32', 'fp16')
    moved = [2 * MAP, MAP + WEIGHTS + LOGITS]  # memory is the limit of both nodes
    assert single['seconds'] == pytest.approx(sum(moved) / 25.6e9)
    assert half['seconds'] == pytest.approx(single['seconds'] / 2)
    assert board['fits'] and board['measured'] is False
    assert [f['operator'] for f in board['findings']] == ['input'] and board['stops'] == 1
    for part in ('modelled, not measured', 'assumed: bandwidth 25.6 GB/s', '1 refused',
                 'trtexec --onnx=tiny_float.onnx --fp16 --workspace=512',
                 'ORT_TENSORRT_ENGINE_CACHE_ENABLE=1'):
        assert part in printed


def test_boards_without_that_parser_have_no_findings(folder, capsys):
    assert inspect(folder, '--board', 'orin-nano', 'raspberry-pi-5') == 0
    printed = capsys.readouterr().out
    assert 'parser' not in printed and f'bench --model {folder}' in printed
    assert '--memPoolSize=workspace:' in printed and 'tiny/tiny.onnx --fp16' in printed


def test_a_precision_the_board_has_not_is_said(tmp_path, capsys):
    bundle = open_bundle(write_tiny_bundle(tmp_path / 'tiny'))
    variant = replace(bundle.manifest.variants[0], precision='int8')
    assert build_commands(BOARDS['jetson-nano-2gb'], bundle, variant) == []
    assert '--int8' in build_commands(BOARDS['orin-nano'], bundle, variant)[0]


def test_float_input_is_written_once(folder, tmp_path, capsys):
    out = tmp_path / 'float.onnx'
    assert inspect(folder, '--float-input', str(out)) == 0
    assert check(onnx.load(str(out))) == []
    assert inspect(folder, '--float-input', str(out)) == 1
    assert 'exists' in capsys.readouterr().err


@pytest.mark.parametrize('args, text', [
    (('--board', 'jetson-nano'), "did you mean 'jetson-nano-4gb'"),
    (('--precision', 'int8'), 'it holds onnxruntime/fp32'),
])
def test_wrong_names_are_answered_with_the_right_ones(folder, capsys, args, text):
    assert inspect(folder, *args) == 1
    assert text in capsys.readouterr().err


def test_without_onnx_it_says_how_to_get_it(folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, 'onnx', None)
    assert inspect(folder) == 1
    assert 'pip install onnx' in capsys.readouterr().err
