# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The files of a harvest: images as the camera sent them, the model's masks, index and YAML."""
from __future__ import annotations

from collections.abc import Sequence
import csv
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import cv2
from evit_seg.core.errors import InputError
from evit_seg.core.labels import IGNORE_INDEX, LabelMap
from evit_seg.core.segmenter import Segmenter
from evit_seg.replay.bag import BagMessage, decode_frame
from evit_seg.replay.cvat import CORRECTED, CvatWriter, PRELABELLED
import numpy as np
import yaml

INDEX_FILE = 'harvest.csv'
READ_COLOUR = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION


@dataclass(frozen=True)
class Picked:
    """
    A frame that was chosen, and why; a row of the index.

    `score` is the number of classes in `close` (alert classes that a shift of their logits by one
    would raise or silence) and in `seen_by_one` (evidence with one bundle and none with another),
    plus `doubt` (1 - the mean margin of the best class over the second) and `differs` (the
    weighted share of pixels on which bundles differ, at most 1).
    """

    file: str
    bag: str
    index: int
    stamp_ns: int
    t_s: float
    score: float
    doubt: float
    differs: float
    close: str
    seen_by_one: str
    model: str = ''
    model_sha256: str = ''


def write_frame(message: BagMessage, row: Picked, segmenter: Segmenter, out: Path,
                ignore_below: float, cvat: CvatWriter) -> Picked:
    """
    Write image and mask of one frame; returns its row with the image's name and the model.

    Pixels with a probability below `ignore_below` get no label.
    """
    frame = decode_frame(message)
    result = segmenter(frame.image_HWC, frame.colour, confidence=ignore_below > 0)
    mask_HW = result.mask_HW
    if result.confidence_HW is not None:
        mask_HW = np.where(result.confidence_HW < ignore_below * 255,
                           np.uint8(IGNORE_INDEX), mask_HW)
    image_name, image = _image_file(message, frame.image_HWC, frame.colour, row.file)
    _put(out / PRELABELLED / 'IMG' / image_name, image)
    _put(out / PRELABELLED / 'GT' / f'{row.file}.png',
         cv2.imencode('.png', mask_HW)[1].tobytes())
    cvat.add(image_name, image, mask_HW)
    return replace(row, file=image_name, model=segmenter.manifest.name,
                   model_sha256=segmenter.bundle.sha256)


def _image_file(message: BagMessage, image_HWC: np.ndarray, colour: str,
                name: str) -> tuple[str, bytes]:
    """
    Return name and content: a JPEG as the camera sent it, anything else as PNG.

    Anything else is also a JPEG whose pixels are not what it shows: swapped colours, a mosaic.
    """
    bgr = image_HWC if colour == 'bgr' else cv2.cvtColor(image_HWC, cv2.COLOR_RGB2BGR)
    sent = np.asarray(message.content.data, np.uint8)
    if hasattr(message.content, 'format') and sent[:3].tobytes() == b'\xff\xd8\xff' and \
            np.array_equal(np.asarray(cv2.imdecode(sent, READ_COLOUR)), bgr):
        return f'{name}.jpg', sent.tobytes()
    return f'{name}.png', cv2.imencode('.png', bgr)[1].tobytes()


def _put(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise InputError(f'{path} cannot be written: {error}') from error


def write_index(out: Path, rows: Sequence[Picked]) -> None:
    """Write the table of the frames, the highest score first."""
    with (out / INDEX_FILE).open('w', newline='', encoding='utf-8') as stream:
        writer = csv.DictWriter(stream, list(Picked.__dataclass_fields__), lineterminator='\n')
        writer.writeheader()
        writer.writerows(asdict(row) for row in sorted(rows, key=lambda r: (-r.score, r.file)))


def dataset_yaml(labels: LabelMap, out: Path) -> str:
    """Return the description of the folder for `offline_train`."""
    content = {
        'name': out.resolve().name, 'licence': 'not stated; say it before anything is passed on',
        'root': str(out.resolve()),
        'images': ['{split}/IMG/{id}.jpg', '{split}/IMG/{id}.png'],
        'masks': ['{split}/GT/{id}.png'],
        'splits': {CORRECTED: CORRECTED, PRELABELLED: PRELABELLED},
        'mask': {'encoding': 'ids', 'ignore': [IGNORE_INDEX]},
        'classes': labels.to_list()}
    head = (f'# Frames that bag_eval chose. In {PRELABELLED} the masks are of the model;\n# '
            f'corrected ones come to {CORRECTED} with `python -m evit_seg.replay.cvat ZIP '
            'HERE`.\n')
    return head + yaml.safe_dump(content, sort_keys=False, allow_unicode=True,
                                 default_flow_style=None)
