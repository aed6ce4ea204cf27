# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Reading what is left of a bag: one that was cut off, or whose recorder never wrote its index.

rosbags reads the messages; their index is made here from the file's own records, up to the first
that is not whole. Nothing is written.
"""
from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator
import os
from pathlib import Path
import sqlite3
import struct
from typing import Any, cast

from evit_seg.replay.salvage_ros1 import broken_off, known_types, ROS1_MAGIC, SalvagedRos1
from rosbags.highlevel import AnyReader
from rosbags.interfaces import (
    Connection,
    ConnectionExtRosbag2,
    MessageDefinition,
    MessageDefinitionFormat,
)
from rosbags.rosbag2 import ReaderError
from rosbags.rosbag2.metadata import parse_qos, ReaderMetadata
from rosbags.rosbag2.reader import DirectoryReader
from rosbags.rosbag2.storage_mcap import ChunkInfo, decompress, McapReader
from rosbags.typesys.store import Typestore

LATEST_NS = 2**63 - 1
MCAP_MAGIC, SQLITE_MAGIC = b'\x89MCAP0\r\n', b'SQLite format 3\0'
MAGICS = {'.bag': ROS1_MAGIC, '.active': ROS1_MAGIC, '.mcap': MCAP_MAGIC, '.db3': SQLITE_MAGIC}
"""How files with these endings begin; `.bag.active` is one that is being recorded."""
HEADER, FOOTER, CHUNK, DATA_END = 0x01, 0x02, 0x06, 0x0F
"""Types of records, mcap.dev/spec."""
NO_DEFINITION = MessageDefinition(MessageDefinitionFormat.NONE, '')
DEFINITION_FORMATS = {'ros2msg': MessageDefinitionFormat.MSG,
                      'ros2idl': MessageDefinitionFormat.IDL}


def salvaged_reader(path: Path, types: Typestore, say: Callable[[str], None]) -> AnyReader:
    """Return a reader, not open yet, of what is whole; `say` gets what is not."""
    kinds: dict[str, Callable[[Path], Any]] = {'mcap': lambda file: SalvagedMcap(file, say),
                                               'sqlite3': lambda file: SalvagedSqlite(file, say)}
    reader: Any = AnyReader([path], default_typestore=types)
    if path.is_dir():
        directory: Any = DirectoryReader(path)
        directory.STORAGE_PLUGINS = kinds
        reader.readers[0].storage = directory
    elif path.suffix == '.bag':
        reader.readers = [SalvagedRos1(path, say)]
    else:
        reader.readers[0].storage = kinds['mcap' if path.suffix == '.mcap' else 'sqlite3'](path)
    return cast(AnyReader, reader)


def unread_log(path: Path) -> Path | None:
    """
    Return the write-ahead log of an SQLite file of a bag, None where there is none.

    It holds what the recorder had written last when it died. rosbags does not read it.
    """
    files = sorted(path.glob('*.db3')) if path.is_dir() else [path]
    logs = [file.with_name(f'{file.name}-wal') for file in files]
    return next((log for log in logs if log.is_file() and log.stat().st_size), None)


class SalvagedMcap(McapReader):
    """An MCAP file without its summary; chunks are whole or lost. `say` gets where it ends."""

    def __init__(self, path: Path, say: Callable[[str], None]) -> None:
        super().__init__(path)
        self._name = path.name
        self._say = say

    def _open(self) -> None:
        assert self.bio is not None
        if self.bio.read(len(MCAP_MAGIC)) != MCAP_MAGIC:
            raise ReaderError('File magic is invalid.')
        self.data_start = pos = self.bio.tell()
        size = os.fstat(self.bio.fileno()).st_size
        try:
            while self._take_record(pos, size):
                pos = self.bio.tell()
        except Exception as error:  # noqa: BLE001  a damaged file fails in any way
            self._say(broken_off(self._name, pos, size, error))
        self.data_end = pos
        self.meta_scan()
        for chunk in self.chunks:  # any may hold any: nothing says, and it is looked at anyway
            chunk.channel_count.update(dict.fromkeys(self.channels, 1))
        assert self.statistics is not None
        counts = self.statistics.channel_message_counts
        self.connections = [connection._replace(msgcount=counts.get(connection.id, 0))
                            for connection in known_types(self.connections, self._say)]
        self.metadata = self.metadata._replace(
            message_count=self.statistics.message_count,
            start_time=self.statistics.start_time, end_time=self.statistics.end_time + 1)

    def _take_record(self, pos: int, size: int) -> bool:
        """Pass a record of the file, False at its end; note it if it is a chunk."""
        assert self.bio is not None
        start = self.bio.read(9)
        if not start:
            raise ReaderError('no end of the data')
        kind, length = struct.unpack('<BQ', start)
        if kind in (FOOTER, DATA_END):
            return False
        if pos + 9 + length > size:
            raise ReaderError('a record is not whole')
        if kind == HEADER:
            _check_profile(self.bio.read(length))
        elif kind == CHUNK:
            self._take_chunk(pos, self.bio.read(length))
        self.bio.seek(pos + 9 + length)
        return True

    def _take_chunk(self, pos: int, record: bytes) -> None:
        start_ns, end_ns, raw_size, crc, name_size = struct.unpack_from('<QQQII', record)
        compression = record[32:32 + name_size].decode()
        data_at = 40 + name_size
        decompress(record[data_at:], compression, raw_size, crc)  # complains if it is damaged
        self.chunks.append(ChunkInfo(start_ns, end_ns, pos, len(record) + 9, {}, 0, compression,
                                     len(record) - data_at, raw_size, {}))


def _check_profile(header: bytes) -> None:
    length = struct.unpack_from('<I', header)[0]
    profile = header[4:4 + length].decode()
    if profile != 'ros2':
        raise ReaderError(f'its profile is {profile!r}, not ros2')


class SalvagedSqlite:
    """
    An SQLite file of rosbag2 that was cut off, up to the first row that is not whole.

    Rows are found by their ids: the index by time lies anywhere in the file.
    """

    def __init__(self, path: Path, say: Callable[[str], None]) -> None:
        self.path = path
        self.connections: list[Connection] = []
        self.metadata = ReaderMetadata(0, LATEST_NS, 0, 0, None, None, None, None)
        self._say = say
        self._rows: list[tuple[int, int, int]] = []
        self._database: sqlite3.Connection | None = None

    def open(self) -> None:  # noqa: A003
        """Find out which rows are whole."""
        self._database = database = sqlite3.connect(
            f'{self.path.resolve().as_uri()}?immutable=1', uri=True)
        database.row_factory = sqlite3.Row
        # Else SQLite refuses a file that is shorter than its own header says.
        database.execute('PRAGMA writable_schema=ON')
        topics = database.execute('SELECT * FROM topics').fetchall()
        definitions = _definitions(database)
        self._rows = sorted(self._whole_rows(database))
        counts = Counter(topic_id for _, _, topic_id in self._rows)
        self.connections = known_types((
            Connection(row['id'], row['name'], row['type'],
                       definitions.get(row['type'], NO_DEFINITION), '', counts[row['id']],
                       ConnectionExtRosbag2(row['serialization_format'], _qos(row)), self)
            for row in topics), self._say)
        if self._rows:
            first_ns, last_ns = self._rows[0][0], self._rows[-1][0]
            self.metadata = self.metadata._replace(
                duration=last_ns - first_ns + 1, start_time=first_ns, end_time=last_ns + 1,
                message_count=len(self._rows))

    def _whole_rows(self, database: sqlite3.Connection) -> Iterator[tuple[int, int, int]]:
        """Yield (time in ns, id, topic's id)."""
        count = 0
        try:
            for row_id, time_ns, topic_id, _ in database.execute(
                    'SELECT id, timestamp, topic_id, data FROM messages NOT INDEXED ORDER BY id'):
                count += 1
                yield time_ns, row_id, topic_id
        except sqlite3.Error as error:
            self._say(f'{self.path.name} breaks off after {count} messages ({error}; '
                      f'`sqlite3 {self.path.name} .recover` may find more)')

    def close(self) -> None:
        """Close the file."""
        if self._database is not None:
            self._database.close()

    def messages(self, connections: Collection[Connection], start: int | None = None,
                 stop: int | None = None) -> Iterator[tuple[Connection, int, bytes]]:
        """Yield (connection, time in ns, data) by time, from `start` up to but not `stop`."""
        assert self._database is not None
        wanted = {connection.id: connection for connection in connections}
        for time_ns, row_id, topic_id in self._rows:
            if topic_id in wanted and (start is None or time_ns >= start) and \
                    (stop is None or time_ns < stop):
                row = self._database.execute('SELECT data FROM messages WHERE id = ?',
                                             (row_id,)).fetchone()
                yield wanted[topic_id], time_ns, row['data']


def _definitions(database: sqlite3.Connection) -> dict[str, MessageDefinition]:
    try:
        rows = database.execute('SELECT * FROM message_definitions').fetchall()
    except sqlite3.Error:  # before Iron there was no such table
        return {}
    return {row['topic_type']: MessageDefinition(DEFINITION_FORMATS[row['encoding']],
                                                 row['encoded_message_definition'])
            for row in rows}


def _qos(topic: sqlite3.Row) -> list[Any]:
    return parse_qos(topic['offered_qos_profiles']) \
        if 'offered_qos_profiles' in topic.keys() else []  # noqa: SIM118
