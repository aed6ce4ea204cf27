# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Bundles: a folder with a manifest, model files and a golden frame; opened, verified, written."""
from __future__ import annotations

from dataclasses import dataclass, replace
import hashlib
from pathlib import Path
from typing import Dict, Mapping, Optional, Tuple, TYPE_CHECKING

import cv2
from evit_seg.core.containers import png_header, PNG_MAGIC
from evit_seg.core.errors import (
    BundleError,
    BundleHashMismatch,
    BundleMissing,
    BundleTruncated,
    FrameError,
    InputError,
)
from evit_seg.core.manifest import (
    dump_manifest,
    Golden,
    load_manifest,
    Manifest,
    MANIFEST_NAME,
    MAX_INPUT_PIXELS,
    Variant,
)
from evit_seg.core.onnx_guard import check_self_contained
from evit_seg.core.share import share_file
import numpy as np

if TYPE_CHECKING:
    from evit_seg.core.segmenter import Segmenter

MAX_GOLDEN_BYTES = 64 << 20
"""Largest file of a golden frame: 4 bytes for each pixel it may have."""


@dataclass(frozen=True)
class Bundle:
    """A verified bundle; `sha256` is the manifest's and so, through it, every file's."""

    folder: Path
    manifest: Manifest
    sha256: str


def find_bundle(name_or_path: str) -> Path:
    """
    Return the folder of a bundle given as a name under the package's `models/` or as a path.

    A bare name is the package's bundle of that name, whatever lies in the working directory; only
    where the package has none it is a folder here. BundleMissing names both places.
    """
    if not name_or_path:
        raise BundleMissing('no bundle named: expected a folder or a name under models/')
    path = Path(name_or_path).expanduser()
    if path.name == name_or_path:
        try:
            return share_file(f'models/{name_or_path}')
        except InputError as error:
            if not path.is_dir():
                raise BundleMissing(f'no bundle {name_or_path!r}: not a folder here, and '
                                    f'{error}') from error
    elif not path.is_dir():
        raise BundleMissing(f'no bundle at {path}: the folder does not exist')
    return path


def open_bundle(folder: Path) -> Bundle:
    """
    Open a bundle and verify that every file is present, whole and the one described.

    Raises BundleMissing, BundleTruncated, BundleHashMismatch or BundleError.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise BundleMissing(f'no bundle at {folder}: the folder does not exist')
    path = folder / MANIFEST_NAME
    manifest = load_manifest(path)
    for variant in manifest.variants:
        _verify(folder / variant.file, variant.sha256, variant.bytes)
        if variant.engine == 'onnxruntime':
            check_self_contained(folder / variant.file)
    if manifest.golden is not None:
        _verify(folder / manifest.golden.image, manifest.golden.image_sha256)
        _verify(folder / manifest.golden.mask, manifest.golden.mask_sha256)
    return Bundle(folder, manifest, file_sha256(path))


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with Path(path).open('rb') as stream:
        for block in iter(lambda: stream.read(1 << 20), b''):
            digest.update(block)
    return digest.hexdigest()


def _verify(path: Path, sha256: str, size: Optional[int] = None) -> None:
    if not path.is_file():
        raise BundleMissing(f'{path} is missing: the manifest names it; copy the bundle again')
    # colcon's --symlink-install links every file of a bundle, the manifest too, into one folder.
    if path.resolve().parent != path.with_name(MANIFEST_NAME).resolve().parent:
        raise BundleError(f'{path} links to {path.resolve()}, out of the folder of the manifest; '
                          'put the file itself there')
    found = path.stat().st_size
    if size is not None and found < size:
        raise BundleTruncated(f'{path} is truncated: {found} of {size} bytes; '
                              'copy the bundle again')
    most = MAX_GOLDEN_BYTES if size is None else size
    if found > most:  # whatever it is, it is not read for its hash
        raise BundleHashMismatch(f'{path} is not the file of this bundle: it has {found} bytes, '
                                 f'at most {most} were expected; copy the bundle again')
    digest = file_sha256(path)
    if digest != sha256:
        raise BundleHashMismatch(f'{path} is not the file of this bundle: its sha256 begins '
                                 f'{digest[:12]}, the manifest says {sha256[:12]}; '
                                 'copy the bundle again')


def write_bundle(folder: Path, manifest: Manifest, files: Mapping[str, bytes]) -> Bundle:
    """
    Write a bundle and open it again; sizes and hashes are filled in from `files`.

    `files` maps the names that `manifest` uses (variants, golden frame) to their content.
    BundleError when the folder holds something already or a named file is not given.
    """
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise BundleError(f'{folder} exists and is not empty: choose another name')
    digest: Dict[str, str] = {n: hashlib.sha256(c).hexdigest() for n, c in files.items()}
    try:
        variants = tuple(replace(v, sha256=digest[v.file], bytes=len(files[v.file]))
                         for v in manifest.variants)
        golden = manifest.golden
        if golden is not None:
            golden = replace(golden, image_sha256=digest[golden.image],
                             mask_sha256=digest[golden.mask])
    except KeyError as error:
        raise BundleError(f'the manifest names {error.args[0]!r}, which is not among the files '
                          f'given: {sorted(files)!r}') from error
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    text = dump_manifest(replace(manifest, variants=variants, golden=golden))
    (folder / MANIFEST_NAME).write_text(text, encoding='utf-8')
    return open_bundle(folder)


def select_variant(bundle: Bundle, engine: str = 'onnxruntime', *,
                   precision: Optional[str] = None, height: Optional[int] = None) -> Variant:
    """
    Return the first variant, in the manifest's order, that fits all that was asked for.

    openvino reads the files of onnxruntime. BundleError lists what the bundle holds: no other
    variant is taken in its place.
    """
    written_for = 'onnxruntime' if engine == 'openvino' else engine
    for variant in bundle.manifest.variants:
        if (variant.engine == written_for and precision in (None, variant.precision)
                and height in (None, variant.height)):
            return variant
    held = ', '.join(f'{v.engine}/{v.precision}/{v.height}x{v.width}'
                     for v in bundle.manifest.variants)
    asked = '/'.join(str(v) for v in (engine, precision, height) if v is not None)
    raise BundleError(f'bundle {bundle.manifest.name!r} has no variant {asked}; it holds {held}')


def encode_golden(image_HWC: np.ndarray, mask_HW: np.ndarray,
                  min_agreement: Mapping[str, float]) -> Tuple[Golden, Dict[str, bytes]]:
    """
    Return the golden entry and its two PNG files for `write_bundle`.

    `image_HWC` is RGB uint8, `mask_HW` the class ids the network gave at the image's size.
    """
    image, mask = 'golden_image.png', 'golden_mask.png'
    files = {image: _png(image_HWC[..., ::-1]), mask: _png(mask_HW)}
    return Golden(image, '', mask, '', dict(min_agreement)), files


def _png(array: np.ndarray) -> bytes:
    done, data = cv2.imencode('.png', np.ascontiguousarray(array))
    if not done:
        raise BundleError(f'cannot encode an array of shape {array.shape} as PNG')
    return bytes(data)


def read_golden(bundle: Bundle) -> Tuple[np.ndarray, np.ndarray]:
    """Return the golden frame as BGR uint8 (H, W, 3) and its mask as uint8 (H, W)."""
    golden = bundle.manifest.golden
    if golden is None:
        raise BundleError(f'bundle {bundle.manifest.name!r} has no golden frame; export it again')
    image_HWC = _read_png(bundle.folder / golden.image, cv2.IMREAD_COLOR)
    mask_HW = _read_png(bundle.folder / golden.mask, cv2.IMREAD_GRAYSCALE)
    if image_HWC.shape[:2] != mask_HW.shape:
        raise BundleError(f'golden image {image_HWC.shape} and mask {mask_HW.shape} differ in '
                          'size')
    return image_HWC, mask_HW


def _read_png(path: Path, mode: int) -> np.ndarray:
    """Decode a PNG whose header claims no more pixels than a network's input may have."""
    try:
        content = path.read_bytes()
        if not content.startswith(PNG_MAGIC):
            raise BundleError(f'{path} is not a PNG image; export the bundle again')
        header = png_header(content)
    except (OSError, FrameError) as error:
        raise BundleError(f'{path} is not an image: {error}; export the bundle again') from error
    if header.height * header.width > MAX_INPUT_PIXELS:
        raise BundleError(f'{path} claims {header.width}x{header.height} pixels, a golden frame '
                          f'has at most {MAX_INPUT_PIXELS}; export the bundle again')
    array = cv2.imdecode(np.frombuffer(content, np.uint8), mode)
    if array is None:
        raise BundleError(f'{path} is not an image; export the bundle again')
    return np.asarray(array)


def agreement_key(precision: str, height: int) -> str:
    """
    Return where `golden.min_agreement` holds the share of a smaller input, such as 'fp32@256'.

    The golden mask is the first input's: another one names other classes at the borders, as
    many as it did when it was exported.
    """
    return f'{precision}@{height}'


def self_test(segmenter: Segmenter) -> float:
    """
    Run the golden frame and return the share of pixels that agree with its mask, 0 to 1.

    BundleError below the share the manifest asks of this precision: the engine at hand does
    not compute what was exported.
    """
    manifest = segmenter.bundle.manifest
    image_HWC, mask_HW = read_golden(segmenter.bundle)
    agreement = float(np.mean(segmenter(image_HWC, 'bgr').mask_HW == mask_HW))
    precision, height = segmenter.engine.precision, segmenter.engine.input_hw[0]
    golden = manifest.golden
    shares: Mapping[str, float] = {} if golden is None else golden.min_agreement
    wanted = shares.get(agreement_key(precision, height), shares.get(precision))
    if wanted is None:
        raise BundleError(f'bundle {manifest.name!r}: golden.min_agreement has no {precision!r}')
    if agreement < wanted:
        raise BundleError(f'self-test of {manifest.name!r} failed: {agreement:.4f} of the golden '
                          f'mask agrees, {wanted} is needed; engine {segmenter.engine.name} '
                          f'({segmenter.engine.provider}) computes something else here')
    return agreement
