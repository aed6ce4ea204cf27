# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Boards and rooflines against numbers worked out by hand."""
from __future__ import annotations

from evit_seg.core.boards import BOARDS, find_board, peak, roofline
from evit_seg.core.errors import ConfigError
import pytest

NANO = BOARDS['jetson-nano-4gb']


def test_the_papers_student_on_a_nano():
    # arXiv 2309.02617: 18.6 GFLOP at 472 GFLOPS are 39.4 ms, 25.4 FPS; 4.49 FPS were measured.
    bound = roofline(NANO, 18.6e9, 0, 'fp16')
    assert bound.seconds == pytest.approx(0.0394, rel=1e-2)
    assert 1 / bound.seconds == pytest.approx(25.4, rel=1e-2)
    assert 4.49 * bound.seconds == pytest.approx(0.176, rel=1e-2)
    fast, slow = bound.hybrid_s
    assert fast < slow and bound.seconds < bound.dense_s < fast
    assert fast == pytest.approx(5 * bound.seconds) and slow == pytest.approx(20 * bound.seconds)
    assert bound.dense_s == pytest.approx(2.5 * bound.seconds)


def test_memory_bounds_where_there_is_little_arithmetic():
    bound = roofline(NANO, 1e6, 256e6, 'fp16')
    assert bound.seconds == pytest.approx(0.01)  # 256 MB at 25.6 GB/s
    assert bound.dense_s == pytest.approx(0.01)  # a share of the peak changes nothing


def test_nodes_are_bound_one_by_one():
    flops, moved = [472e6, 0], [0, 25.6e6]  # 1 ms of arithmetic, then 1 ms of memory
    assert roofline(NANO, flops, moved, 'fp16').seconds == pytest.approx(2e-3)
    assert roofline(NANO, sum(flops), sum(moved), 'fp16').seconds == pytest.approx(1e-3)


def test_text_names_precision_assumptions_and_that_nothing_was_measured():
    bound = roofline(NANO, 18.6e9, 0, 'fp32')
    assert 'not measured' in str(bound) and 'fp32' in str(bound)
    text = ' '.join(bound.assumptions)
    assert '236 GFLOPS' in text and '25.6 GB/s' in text and '40%' in text
    assert all(line in bound.assumptions for line in NANO.sources)


def test_numbers_of_the_boards():
    cores, clock, pipes = 4, 2.4e9, 2
    pi = BOARDS['raspberry-pi-5'].peak_ops_per_s
    assert pi['fp32'] == cores * clock * pipes * 4 * 2  # FMLA: 4 lanes, multiply and add
    assert pi['int8'] == cores * clock * pipes * 16 * 2  # SDOT: 4 lanes of 4
    orin = BOARDS['orin-nano'].peak_ops_per_s
    assert orin['fp32'] == 1024 * 625e6 * 2 and orin['int8'] == 2 * orin['fp16']
    assert BOARDS['jetson-nano-2gb'].free_bytes == (2048 - 1424) * 2**20
    for board in BOARDS.values():
        assert board.sources and 0 < board.idle_bytes < board.memory_bytes
        assert {'fp32', 'fp16'} <= set(board.peak_ops_per_s)


def test_no_int8_on_a_nano():
    with pytest.raises(ConfigError, match=r"'int8'.*another variant"):
        peak(NANO, 'int8')
    with pytest.raises(ConfigError, match='fp32, fp16'):
        roofline(NANO, 1.0, 1.0, 'int8')


def test_unknown_board_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'jetson-nano-4gb'"):
        find_board('jetson-nano-4g')
    with pytest.raises(ConfigError, match='bench'):
        find_board('x86')
    assert find_board('orin-nano') is BOARDS['orin-nano']


def test_lengths_must_agree():
    with pytest.raises(ConfigError, match='2 and 1'):
        roofline(NANO, [1.0, 2.0], [1.0], 'fp32')
