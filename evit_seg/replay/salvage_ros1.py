# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
A ROS 1 bag without its index, or cut off.

The format: wiki.ros.org/Bags/Format/2.0. A recorder that died leaves `index_pos` 0, and its last
chunk with a length of 0.
"""
from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from io import BytesIO
import os
from pathlib import Path
from typing import Any, BinaryIO, cast

from evit_seg.replay.ros1_index import MessageIndex, Ros1Reader
from rosbags.interfaces import Connection, MessageDefinitionFormat
from rosbags.rosbag1.reader import (
    Chunk,
    ChunkInfo,
    decompressors,
    Header,
    IndexData,
    read_uint32,
    ReaderError,
    RecordType,
)
from rosbags.typesys import get_types_from_idl, get_types_from_msg, get_typestore, Stores

ROS1_MAGIC = b'#ROSBAG V2.0\n'
UNCOMPRESSED = 'none'
PARSERS: dict[MessageDefinitionFormat, Callable[[str, str], Any]] = {
    MessageDefinitionFormat.MSG: get_types_from_msg,
    MessageDefinitionFormat.IDL: lambda text, _: get_types_from_idl(text)}


class SalvagedRos1(Ros1Reader):
    """rosbags' reader with an index made from the chunks; `say` gets where it ends."""

    def __init__(self, path: Path, say: Callable[[str], None]) -> None:
        super().__init__(path)
        self._name = path.name
        self._say = say
        self._size = 0
        self._found: dict[int, Connection] = {}
        self._places: dict[int, MessageIndex] = defaultdict(MessageIndex)

    def open(self) -> None:  # noqa: A003
        """Read through all chunks, up to the first that is not whole."""
        bio = self.bio = cast(BinaryIO, self.path.open('rb'))
        self._size = os.fstat(bio.fileno()).st_size
        if bio.readline() != ROS1_MAGIC:
            raise ReaderError('File magic is invalid.')
        pos = bio.tell()
        try:
            while pos < self._size:
                header = Header.read(bio)
                if header.get_uint8('op') == RecordType.CHUNK:
                    self._take_chunk(header, pos)
                else:
                    _skip(bio, self._size)
                pos = bio.tell()
        except Exception as error:  # noqa: BLE001  a damaged file fails in any way
            self._say(broken_off(self._name, pos, self._size, error))
        self.connections = known_types(self._found.values(), self._say)
        self.use_index(self._places)

    def _take_chunk(self, header: Header, pos: int) -> None:
        assert self.bio is not None
        compression = header.get_string('compression')
        length = read_uint32(self.bio)
        start = self.bio.tell()
        whole = 0 < length <= self._size - start
        if not whole and compression != UNCOMPRESSED:
            raise ReaderError(f'a {compression} chunk is not whole')
        length = length if whole else self._size - start
        chunk = Chunk(length, start, decompressors[compression])
        if compression == UNCOMPRESSED:
            inside, end = self.bio, start + length
        else:
            data = chunk.decompressor(self.bio.read(length))
            inside, end = cast(BinaryIO, BytesIO(data)), len(data)
        base = inside.tell()
        counts: Counter[int] = Counter()
        times_ns: list[int] = []
        try:
            while inside.tell() < end:
                self._take_record(inside, base, end, pos, counts, times_ns)
        finally:  # the messages before the cut are there
            self.chunks[pos] = chunk
            if times_ns:
                self.chunk_infos.append(
                    ChunkInfo(pos, min(times_ns), max(times_ns) + 1, dict(counts)))
        self.bio.seek(start + length)

    def _take_record(self, inside: BinaryIO, base: int, end: int, chunk_pos: int,
                     counts: Counter[int], times_ns: list[int]) -> None:
        pos = inside.tell()
        header = Header.read(inside)
        kind = header.get_uint8('op')
        if kind == RecordType.CONNECTION:
            inside.seek(pos)
            whole, self.bio = self.bio, inside
            try:
                connection = self.read_connection()
            finally:
                self.bio = whole
            self._found.setdefault(connection.id, connection)
        elif kind == RecordType.MSGDATA:
            key, time_ns = header.get_uint32('conn'), header.get_time('time')
            _skip(inside, end)
            self._places[key].append(IndexData(time_ns, chunk_pos, pos - base))
            counts[key] += 1
            times_ns.append(time_ns)
        else:
            raise ReaderError(f'a record of type {kind} in a chunk')


def _skip(stream: BinaryIO, end: int) -> None:
    length = read_uint32(stream)
    if stream.tell() + length > end:
        raise ReaderError('a record is not whole')
    stream.seek(length, os.SEEK_CUR)


def broken_off(name: str, pos: int, size: int, error: Exception) -> str:
    """Return in words at which byte a file breaks off, and why."""
    return f'{name} breaks off at byte {pos} of {size} ({_why(error)})'


def known_types(connections: Iterable[Connection], say: Callable[[str], None]
                ) -> list[Connection]:
    """
    Return those whose type's definition can be read, `say` gets the others.

    rosbags refuses a whole bag for one that cannot, or that does not fit its checksum.
    """
    known = []
    for connection in connections:
        definition = connection.msgdef
        parse = PARSERS.get(definition.format)
        try:
            if parse is not None:
                get_typestore(Stores.EMPTY).register(parse(definition.data, connection.msgtype))
        except Exception as error:  # noqa: BLE001  whatever stands there instead of a definition
            say(f'{connection.topic} is left out: the definition of {connection.msgtype} cannot '
                f'be read ({_why(error)})')
            continue
        known.append(connection._replace(digest=''))
    return known


def _why(error: Exception) -> str:
    return ' '.join(str(error).split()).rstrip('.') or type(error).__name__
