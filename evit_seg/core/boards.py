# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Boards by name, and the least time a network can take on one (its roofline).

Nothing here is measured: peaks and bandwidths are published or worked out from published clocks,
and what a network reaches of them is given as a range. A machine at hand is measured instead
(`bench`, `offline_train bench`), so no x86 processor is listed.
"""
from __future__ import annotations

from dataclasses import dataclass
import difflib
from typing import Dict, Sequence, Tuple, Union

from evit_seg.core.errors import ConfigError

MIB = 2**20
GIB = 2**30

# Shares of the peak that networks were seen to reach where arithmetic is the limit: dense
# convolutions (LPCV 2023's PIDNet-S on a Nano), and convolutions mixed with attention.
DENSE_SHARE = 0.40
HYBRID_SHARES = (0.05, 0.20)
# arXiv 2309.02617: 4.49 FPS in fp16 of a network whose 18.6 GFLOP allow 25.4 FPS on a Nano.
PAPER_SHARE = 0.176


@dataclass(frozen=True)
class Board:
    """What a board can do at most; the sources say where each number is from."""

    name: str
    title: str
    peak_ops_per_s: Dict[str, float]  # by precision; a multiply-add counts as two operations
    bandwidth_bytes_per_s: float
    memory_bytes: int  # of CPU and GPU together, as soldered
    idle_bytes: int  # taken by the system before anything of ours runs
    engine: str  # what runs or builds the network there
    max_opset: int  # the newest opset that engine reads
    sources: Tuple[str, ...]

    @property
    def free_bytes(self) -> int:
        """Memory left beside the idle system."""
        return self.memory_bytes - self.idle_bytes


@dataclass(frozen=True)
class Roofline:
    """Bounds on one inference in seconds, and what they rest on; never a measurement."""

    board: str
    precision: str
    seconds: float  # every node at the full peak or the full bandwidth: cannot be beaten
    dense_s: float  # arithmetic at DENSE_SHARE of the peak
    hybrid_s: Tuple[float, float]  # at HYBRID_SHARES, the faster first
    assumptions: Tuple[str, ...]

    def __str__(self) -> str:
        fast, slow = self.hybrid_s
        return (f'{self.board} {self.precision}, modelled, not measured: at least '
                f'{self.seconds * 1e3:.2f} ms; about {self.dense_s * 1e3:.1f} ms if dense '
                f'convolutions, {fast * 1e3:.1f} to {slow * 1e3:.1f} ms if a hybrid of '
                'convolutions and attention')


_IDLE_NANO = 1424 * MIB
_NANO_SOURCES = (
    'fp16 472 GFLOPS: NVIDIA, Jetson Nano data sheet (128 Maxwell cores x 921.6 MHz x 2 '
    'operations x 2 halves); fp32 half of it',
    'no int8: compute capability 5.3 has no dot product of bytes, TensorRT builds no int8 engine',
    'bandwidth 25.6 GB/s: NVIDIA, Jetson Nano data sheet (64-bit LPDDR4 at 1600 MHz)',
)
_NANO_IDLE = 'idle system 1424 MB of RAM: arXiv 2309.02617, on a 4 GB Nano'
_ASSUMED_IDLE = ('idle system 1424 MB: assumed as on the 4 GB Nano (arXiv 2309.02617), nothing is '
                 'published for this board; `free -m` tells')

_BOARDS = (
    Board('jetson-nano-4gb', 'NVIDIA Jetson Nano 4 GB, JetPack 4.6',
          {'fp32': 236e9, 'fp16': 472e9}, 25.6e9, 4 * GIB, _IDLE_NANO, 'TensorRT 8.2', 13,
          (*_NANO_SOURCES, _NANO_IDLE)),
    Board('jetson-nano-2gb', 'NVIDIA Jetson Nano 2 GB, JetPack 4.6',
          {'fp32': 236e9, 'fp16': 472e9}, 25.6e9, 2 * GIB, _IDLE_NANO, 'TensorRT 8.2', 13,
          (*_NANO_SOURCES, _ASSUMED_IDLE)),
    Board('orin-nano', 'NVIDIA Jetson Orin Nano 8 GB (15 W), JetPack 6',
          # 1024 cores x 2 at 625 MHz; 32 tensor cores x 512 (fp16) or 1024 (int8) operations.
          {'fp32': 1.28e12, 'fp16': 10.24e12, 'int8': 20.48e12}, 68e9, 8 * GIB, _IDLE_NANO,
          'TensorRT 10', 17,
          ('int8 20 TOPS dense (40 with structured sparsity, which our networks do not have): '
           'NVIDIA, Jetson Orin Nano data sheet DS-11105',
           'fp16 on the tensor cores half of int8, fp32 on the 1024 CUDA cores at 625 MHz: worked '
           'out from that sheet',
           'bandwidth 68 GB/s: the same sheet (128-bit LPDDR5); the Super mode (25 W: 1020 MHz, '
           '102 GB/s) is faster by half',
           _ASSUMED_IDLE)),
    Board('raspberry-pi-5', 'Raspberry Pi 5, 4 x Cortex-A76 at 2.4 GHz, 4 GB',
          # 4 cores x 2.4 GHz x 2 pipes of 128 bits x multiply-adds per pipe x 2 operations:
          # 4 of fp32 (FMLA), 8 of fp16 (FMLA), 16 of int8 (SDOT).
          {'fp32': 153.6e9, 'fp16': 307.2e9, 'int8': 614.4e9}, 17.07e9, 4 * GIB, _IDLE_NANO,
          'ONNX Runtime', 17,
          ('fp32, fp16, int8: worked out from clock and pipes; FMLA and SDOT issue twice a cycle '
           '(Arm, Cortex-A76 Software Optimization Guide, ASIMD tables)',
           'fp16 only where the engine has half-precision kernels for Arm; ONNX Runtime casts '
           'most operators to fp32 there',
           'bandwidth 17.07 GB/s: 32-bit LPDDR4X at 4267 MT/s (Raspberry Pi 5 product brief)',
           _ASSUMED_IDLE)),
)
BOARDS: Dict[str, Board] = {board.name: board for board in _BOARDS}


def find_board(name: str) -> Board:
    """Return the board of that name; ConfigError names the nearest one and all others."""
    if name in BOARDS:
        return BOARDS[name]
    close = difflib.get_close_matches(name, BOARDS, 1)
    hint = f'; did you mean {close[0]!r}?' if close else ''
    raise ConfigError(f'board: expected one of {", ".join(BOARDS)}, got {name!r}{hint} Any other '
                      'machine is measured on itself: run `bench` there')


def peak(board: Board, precision: str) -> float:
    """Return operations per second at that precision; ConfigError where the board has none."""
    if precision not in board.peak_ops_per_s:
        raise ConfigError(f'board {board.name}: expected a precision of '
                          f'{", ".join(board.peak_ops_per_s)}, got {precision!r}: its processor '
                          'has no such arithmetic; take another variant of the bundle')
    return board.peak_ops_per_s[precision]


def roofline(board: Board, flops: Union[float, Sequence[float]],
             bytes_moved: Union[float, Sequence[float]], precision: str) -> Roofline:
    """
    Return the least seconds of one inference: max(flops / peak, bytes / bandwidth), summed.

    `flops` counts a multiply-add as two. Two sequences of one length are taken node by node,
    which is nearer to the truth than two totals: a node waits for arithmetic or for memory, and
    two totals assume that all nodes' arithmetic hides all nodes' transfers.
    Source: Williams et al. 2009, "Roofline", CACM 52(4).
    """
    work = [flops] if isinstance(flops, (int, float)) else list(flops)
    moved = [bytes_moved] if isinstance(bytes_moved, (int, float)) else list(bytes_moved)
    if len(work) != len(moved):
        raise ConfigError(f'roofline: expected as many flops as bytes, got {len(work)} and '
                          f'{len(moved)}')
    top = peak(board, precision)

    def at(share: float) -> float:
        return sum(max(ops / (share * top), size / board.bandwidth_bytes_per_s)
                   for ops, size in zip(work, moved))

    slow, fast = HYBRID_SHARES
    return Roofline(board.name, precision, at(1.0), at(DENSE_SHARE), (at(fast), at(slow)),
                    _assumptions(board, precision, top, len(work)))


def _assumptions(board: Board, precision: str, top: float, nodes: int) -> Tuple[str, ...]:
    summed = f'summed over {nodes} nodes' if nodes > 1 else 'of the totals'
    slow, fast = HYBRID_SHARES
    return (
        f'{board.title}: {precision} {top / 1e9:g} GFLOPS, {board.bandwidth_bytes_per_s / 1e9:g} '
        'GB/s',
        f'max(operations / peak, bytes / bandwidth) {summed}; each tensor is read and written '
        'once, no cache, no throttling, and nothing else runs',
        f'where arithmetic is the limit a dense network reaches about {DENSE_SHARE:.0%} of the '
        f'peak, one with attention {slow:.0%} to {fast:.0%}; the student of arXiv 2309.02617 ran '
        f'at {PAPER_SHARE:.1%} on a Jetson Nano',
        *board.sources)
