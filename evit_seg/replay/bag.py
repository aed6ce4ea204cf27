# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Read images and ground truth from any ROS 1 or ROS 2 bag, one message at a time."""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
import hashlib
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
from evit_seg.core.decode import decode_compressed, decode_raw, Frame, Scale16
from evit_seg.core.errors import FrameError, InputError
from evit_seg.replay.ros1_index import Ros1Reader
from evit_seg.replay.salvage import MAGICS, salvaged_reader, unread_log
import numpy as np
from rosbags.highlevel import AnyReader, AnyReaderError
from rosbags.typesys import get_typestore, Stores

RAW_TYPE = 'sensor_msgs/msg/Image'
COMPRESSED_TYPE = 'sensor_msgs/msg/CompressedImage'
RECOVERY = {'.bag': '`rosbag reindex`', '.active': '`rosbag reindex`', '.mcap': '`mcap recover`',
            '.db3': '`sqlite3 FILE .recover`'}
TYPES = get_typestore(Stores.ROS2_HUMBLE)
"""Of bags that bring no definitions of their own, as those before Iron."""
SHOWN_TOPICS = 5
LABEL_ENCODINGS = ('mono8', '8UC1')


@dataclass(frozen=True)
class ImageTopic:
    """A topic of images; `encoding` is that of its first message."""

    name: str
    msgtype: str
    encoding: str
    messages: int

    @property
    def compressed(self) -> bool:
        """Whether the messages are CompressedImage."""
        return self.msgtype == COMPRESSED_TYPE

    @property
    def is_label(self) -> bool:
        """Whether the topic carries class ids: its name ends in `label` and it has one channel."""
        base = self.name[:-len('/compressed')] if self.name.endswith('/compressed') else self.name
        return base.endswith('/label') and (self.compressed or self.encoding in LABEL_ENCODINGS)

    @property
    def readable(self) -> bool:
        """Whether its images can be decoded at all; compressedDepth cannot."""
        return 'compressedDepth' not in self.encoding

    def __str__(self) -> str:
        plural = '' if self.messages == 1 else 's'
        return f'{self.name} ({self.encoding}, {self.messages} message{plural})'


@dataclass(frozen=True)
class BagMessage:
    """A message as rosbags decodes it, with its header's stamp and the bag's own time."""

    topic: str
    stamp_ns: int
    bag_ns: int
    content: Any


class Bag:
    """
    An open bag (a context manager): `.bag`, `.db3`, `.mcap` or a rosbag2 folder.

    Whatever cannot be read raises InputError with the reason in one sentence. With `partial` a
    damaged bag gives what can be read of it, and `damage` says where it breaks off, else None.
    """

    def __init__(self, path: Path, partial: bool = False) -> None:
        self.path = path
        self.partial = partial
        self.damage: str | None = None
        if not path.exists():
            raise InputError(f'{path} does not exist')
        self._stack = ExitStack()
        self._reader = self._open()
        self._found_damage = self.damage
        try:
            self.image_topics = [topic for topic in self._list_topics() if topic.messages]
        except InputError:
            self.close()
            raise

    def _open(self) -> AnyReader:
        path = self._readable_name()
        self._note_unread_log()
        try:
            reader = AnyReader([path], default_typestore=TYPES)
            if not reader.is2:
                reader.readers = [Ros1Reader(path)]
            return self._stack.enter_context(reader)
        except Exception as error:  # a damaged file fails in rosbags in any way
            if self.partial:
                return self._salvage(path, error)
            self.close()
            raise InputError(f'{self.path} is not a bag that can be read: '
                             f'{_one_line(error).rstrip(".")}{self._way_out()}') from error

    def _readable_name(self) -> Path:
        """Return the bag under a name by which AnyReader knows what it is."""
        if self.path.is_dir() and not (self.path / 'metadata.yaml').is_file():
            raise InputError(f'{self.path} holds no metadata.yaml: expected a rosbag2 folder or '
                             'a .bag, .db3 or .mcap file')
        ros1 = self.path.name.endswith('.bag.active')  # its recorder died
        if not ros1 and not (self.path.is_dir() and self.path.suffix == '.bag'):
            return self.path
        path = Path(self._stack.enter_context(TemporaryDirectory())) / self.path.stem
        path.symlink_to(self.path.resolve(), target_is_directory=self.path.is_dir())
        return path

    def _note_unread_log(self) -> None:
        log = unread_log(self.path)
        if log is None:
            return
        lost = f'{log.name} holds messages that are not in {log.name[:-len("-wal")]} yet'
        if not self.partial:
            self.close()
            raise InputError(f'{self.path}: {lost} (`sqlite3 {log.name[:-len("-wal")]} "PRAGMA '
                             'wal_checkpoint"` brings them in, --partial goes without them)')
        self.damage = lost

    def _salvage(self, path: Path, reason: Exception) -> AnyReader:
        broken: list[str] = []
        try:
            reader = self._stack.enter_context(salvaged_reader(path, TYPES, broken.append))
        except Exception as error:  # as in _open
            self.close()
            raise InputError(f'{self.path}: nothing of it can be read: '
                             f'{_one_line(error).rstrip(".")}{self._way_out()}') from error
        found = '; '.join(broken) or f'{self.path.name} is whole but for ' \
            f'its index ({_one_line(reason).rstrip(".")})'
        self.damage = f'{self.damage}; {found}' if self.damage else found
        return reader

    def _way_out(self) -> str:
        """Return what may help, in brackets; nothing does if the file is something else."""
        if self.path.is_dir():
            return ' (`ros2 bag reindex` may save a recording that broke off, --partial ' \
                'evaluates what can be read)'
        magic = MAGICS.get(self.path.suffix)
        if magic is None:
            return ''
        with self.path.open('rb') as stream:
            start = stream.read(len(magic))
        if start != magic:
            return f' (a {self.path.suffix} file begins with {magic!r}, this one with {start!r})'
        return f' ({RECOVERY[self.path.suffix]} may save a recording that broke off, --partial ' \
            'evaluates what can be read)'

    def __enter__(self) -> Bag:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files."""
        self._stack.close()

    def _list_topics(self) -> Iterator[ImageTopic]:
        for name, info in sorted(self._reader.topics.items()):
            if info.msgtype not in (RAW_TYPE, COMPRESSED_TYPE):
                continue
            first = next(self.messages([name]), None)
            encoding = '' if first is None else \
                getattr(first.content, 'encoding', '') or getattr(first.content, 'format', '')
            yield ImageTopic(name, info.msgtype, encoding.strip(), info.msgcount)

    @property
    def custom_data(self) -> dict[str, str]:
        """Return what the bag's writer put in metadata.yaml; empty for other bags."""
        reader = self._reader.readers[0]
        metadata = getattr(getattr(reader, 'storage', None), 'metadata', None)
        return dict(getattr(metadata, 'custom', None) or {})

    @property
    def topic_types(self) -> dict[str, str]:
        """Return the type of every topic that has messages, by the topic's name."""
        return {name: info.msgtype for name, info in self._reader.topics.items()
                if info.msgtype and info.msgcount}

    def messages(self, topics: Sequence[str]) -> Iterator[BagMessage]:
        """
        Yield the messages of the topics in the order of the bag's time.

        A message that cannot be deserialised has the error as its content, and stamp 0, as one
        without a header has; a file that breaks off raises InputError, and with `partial` ends
        there and `damage` says so.
        """
        wanted = [c for c in self._reader.connections if c.topic in topics]
        if not wanted:
            raise InputError(f'{self.path} has no topic {" or ".join(topics)}')
        stream = self._reader.messages(wanted)
        count = 0
        while True:
            try:
                connection, bag_ns, data = next(stream)
            except StopIteration:
                return
            except Exception as error:  # as in _open
                if self.partial:
                    self._break_off(f'after {count} messages ({_one_line(error).rstrip(".")})')
                    return
                raise InputError(f'{self.path}: damaged after {count} messages: '
                                 f'{_one_line(error)}') from error
            count += 1
            try:
                content: Any = self._reader.deserialize(data, connection.msgtype)
            except (AnyReaderError, ValueError, IndexError) as error:
                yield BagMessage(connection.topic, 0, bag_ns, error)
                continue
            header = getattr(content, 'header', None)
            stamp_ns = 0 if header is None else \
                int(header.stamp.sec) * 1_000_000_000 + int(header.stamp.nanosec)
            yield BagMessage(connection.topic, stamp_ns, bag_ns, content)

    def _break_off(self, where: str) -> None:
        before = f'{self._found_damage}; ' if self._found_damage else ''
        self.damage = f'{before}{self.path.name} breaks off {where}'

    def choose_image_topic(self, wanted: str | None = None) -> ImageTopic:
        """Return the wanted image topic, or the only one that is neither label nor unreadable."""
        if wanted is not None:
            return self._named(wanted)
        candidates = [t for t in self.image_topics if t.readable and not t.is_label]
        if len(candidates) == 1:
            return candidates[0]
        if candidates:
            raise InputError(f'{self.path} has {len(candidates)} image topics, choose one with '
                             f'--image-topic: {_listed(candidates)}')
        raise InputError(f'{self.path} has no image topic that can be read, {self._instead()}')

    def _instead(self) -> str:
        """Return what there is where images are looked for."""
        if self.image_topics:
            return f'only {_listed(self.image_topics)}'
        others = [f'{name} ({kind})' for name, kind in sorted(self.topic_types.items())]
        if not others:
            return 'it holds no messages'
        more = f' and {len(others) - SHOWN_TOPICS} more' if len(others) > SHOWN_TOPICS else ''
        return f'only {", ".join(others[:SHOWN_TOPICS])}{more}; images are {RAW_TYPE} or ' \
            f'{COMPRESSED_TYPE}'

    def choose_truth_topic(self, wanted: str | None = None) -> ImageTopic | None:
        """Return the wanted label topic, or the only one there is, or None."""
        if wanted is not None:
            return self._named(wanted)
        labels = [topic for topic in self.image_topics if topic.is_label]
        if len(labels) > 1:
            raise InputError(f'{self.path} has {len(labels)} label topics, choose one with '
                             f'--truth-topic: {_listed(labels)}')
        return labels[0] if labels else None

    def _named(self, name: str) -> ImageTopic:
        for topic in self.image_topics:
            if topic.name == name:
                if not topic.readable:
                    raise InputError(f'{self.path}: {topic} cannot be decoded')
                return topic
        raise InputError(f'{self.path} has no image topic {name!r}; it has '
                         f'{_listed(self.image_topics) or "none"}')


def is_16bit(encoding: str) -> bool:
    """Whether frames of this encoding are scaled to 8 bits, by their own maximum."""
    return '16' in encoding.partition(';')[0]


def _listed(topics: Sequence[ImageTopic]) -> str:
    return ', '.join(str(topic) for topic in topics)


def _one_line(error: Exception) -> str:
    return ' '.join(str(error).split()) or type(error).__name__


def decode_frame(message: BagMessage, scale_16bit: Scale16 = 'auto') -> Frame:
    """Return the image of a message; 16-bit images are scaled; FrameError where that fails."""
    content = message.content
    if isinstance(content, Exception):
        raise FrameError(f'the message cannot be deserialised: {_one_line(content)}')
    if hasattr(content, 'format'):
        return decode_compressed(content.data, format=content.format, scale_16bit=scale_16bit)
    return decode_raw(content.data, height=content.height, width=content.width,
                      encoding=content.encoding, step=content.step,
                      is_bigendian=bool(content.is_bigendian), scale_16bit=scale_16bit)


def decode_label(message: BagMessage) -> np.ndarray:
    """Return the class ids (H, W) uint8 of a label message; FrameError where it holds none."""
    content = message.content
    if isinstance(content, Exception):
        raise FrameError(f'the label cannot be deserialised: {_one_line(content)}')
    if hasattr(content, 'format'):
        if 'png' not in content.format:
            raise FrameError(f'labels travel raw or as png, got {content.format!r}')
        mask_HW = cv2.imdecode(np.asarray(content.data), cv2.IMREAD_UNCHANGED)
        if mask_HW is None or mask_HW.ndim != 2 or mask_HW.dtype != np.uint8:
            raise FrameError('expected a png label of one 8-bit channel')
        return mask_HW
    height, width, step = int(content.height), int(content.width), int(content.step)
    if content.encoding not in LABEL_ENCODINGS or step < width or not height or \
            content.data.size < step * height:
        raise FrameError(f'expected a label of {" or ".join(LABEL_ENCODINGS)} with {height} rows '
                         f'of at least {width} bytes, got {content.encoding!r}, step {step}, '
                         f'{content.data.size} bytes')
    return np.asarray(content.data[:step * height]).reshape(height, step)[:, :width]


def bag_sha256(path: Path) -> str:
    """Return the sha256 of a file; of a folder, what `sha256sum * | sha256sum` prints there."""
    if path.is_file():
        return _file_sha256(path)
    lines = ''.join(f'{_file_sha256(entry)}  {entry.name}\n'
                    for entry in sorted(path.iterdir()) if entry.is_file())
    return hashlib.sha256(lines.encode()).hexdigest()


def _file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open('rb') as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
