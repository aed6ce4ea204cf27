# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Refuse an ONNX file that would make its reader open other files.

Weights may lie in 'external data', a path inside the model, and an EPContext node names a file
that was compiled for one device, which is code. Neither has a hash in the manifest. Readers differ
in what they allow (any path, or any below the folder), so the model is looked through before one
of them sees it, for which the wire format is enough:
protobuf.dev/programming-guides/encoding, github.com/onnx/onnx/blob/main/onnx/onnx.proto.
"""
from __future__ import annotations

from pathlib import Path
from typing import BinaryIO, Dict, Tuple

from evit_seg.core.errors import BundleError

MAX_FIELDS = 1_000_000
"""Fields looked at; a network of 10,000 nodes has about 200,000, so more is no network."""
MAX_DEPTH = 64
"""Messages in messages; protobuf itself stops at 100."""

_MODEL, _GRAPH, _NODE, _ATTRIBUTE, _FUNCTION = 'model', 'graph', 'node', 'attribute', 'function'
_TENSOR, _SPARSE, _TRAINING = 'tensor', 'sparse tensor', 'training'
_CHILDREN: Dict[str, Dict[int, str]] = {  # message -> number of the field -> message in it
    _MODEL: {7: _GRAPH, 20: _TRAINING, 25: _FUNCTION},
    _GRAPH: {1: _NODE, 5: _TENSOR, 15: _SPARSE},
    _NODE: {5: _ATTRIBUTE},
    _ATTRIBUTE: {5: _TENSOR, 6: _GRAPH, 10: _TENSOR, 11: _GRAPH, 22: _SPARSE, 23: _SPARSE},
    _SPARSE: {1: _TENSOR, 2: _TENSOR},
    _FUNCTION: {7: _NODE, 11: _ATTRIBUTE},
    _TRAINING: {1: _GRAPH, 2: _GRAPH},
    _TENSOR: {},
}
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14  # of a tensor
_OP_TYPE = 4  # of a node
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def check_self_contained(path: Path) -> None:
    """
    Raise BundleError unless the ONNX model at `path` holds all of its weights itself.

    Needs no package to read it with, and neither loads the model nor opens what it names.
    """
    path = Path(path)
    with path.open('rb') as stream:
        walk = _Walk(path, stream)
        walk.message(_MODEL, 0, path.stat().st_size, 0)
        walk.check_graph()


class _Walk:
    """
    One walk over the messages of a model; positions are bytes from the file's start.

    It reads a few bytes of each field: a file cut short meanwhile ends it, where a memory map
    would end the process, and weights are skipped.
    """

    def __init__(self, path: Path, stream: BinaryIO) -> None:
        self._path = path
        self._stream = stream
        self._fields = 0
        self._graphs = 0

    def check_graph(self) -> None:
        """Raise BundleError for a file in which no graph was seen."""
        if not self._graphs:
            raise self._unreadable('there is no graph in it')

    def message(self, kind: str, position: int, end: int, depth: int) -> None:
        """Look at the fields between two positions and at the messages in them."""
        if depth > MAX_DEPTH:
            raise self._unreadable(f'more than {MAX_DEPTH} messages inside one another')
        children = _CHILDREN[kind]
        self._graphs += kind == _GRAPH
        while position < end:
            self._fields += 1
            if self._fields > MAX_FIELDS:
                raise self._unreadable(f'more than {MAX_FIELDS} fields')
            number, wire, start, position = self._field(position, end)
            if kind == _TENSOR:
                self._check_tensor(number, wire, start)
            elif wire == _BYTES and number in children:
                self.message(children[number], start, position, depth + 1)
            elif wire == _BYTES and kind == _NODE and number == _OP_TYPE \
                    and self._read(start, min(position - start, 10)) == b'EPContext':
                raise BundleError(f'{self._path} holds a node EPContext, which names a compiled '
                                  'file outside the model; export the model without it')

    def _check_tensor(self, number: int, wire: int, start: int) -> None:
        located = number == _DATA_LOCATION and wire == _VARINT and self._read(start, 1) != b'\0'
        if located or (number == _EXTERNAL_DATA and wire == _BYTES):
            raise BundleError(
                f'{self._path} keeps weights in another file (ONNX external data), which a bundle '
                'may not: its manifest has no hash for it; save the model in one file '
                '(onnx.save_model with save_as_external_data=False)')

    def _field(self, position: int, end: int) -> Tuple[int, int, int, int]:
        """Return number and wire type of the field here, and where its value begins and ends."""
        tag, start = self._varint(position, end)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            stop = self._varint(start, end)[1]
        elif wire == _BYTES:
            length, start = self._varint(start, end)
            stop = start + length
        elif wire in (_FIXED32, _FIXED64):
            stop = start + (4 if wire == _FIXED32 else 8)
        else:
            raise self._unreadable(f'wire type {wire} at byte {position}')
        if number < 1 or tag > 0xFFFFFFFF or stop > end:
            raise self._unreadable(f'field {number} at byte {position} does not fit')
        return number, wire, start, stop

    def _varint(self, position: int, end: int) -> Tuple[int, int]:
        """Return the number that begins here and the position after it."""
        value = 0
        for index, byte in enumerate(self._read(position, min(10, end - position))):
            value |= (byte & 0x7F) << 7 * index
            if byte < 0x80:
                return value, position + index + 1
        raise self._unreadable(f'no number at byte {position}')

    def _read(self, position: int, count: int) -> bytes:
        self._stream.seek(position)
        return self._stream.read(count)

    def _unreadable(self, why: str) -> BundleError:
        return BundleError(f'cannot load {self._path}: it is not an ONNX model ({why}); '
                           'export the bundle again')
