# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Keep what an engine compiled for one device on disk, and never use half of it.

A cache is a folder named after everything the compiled network depends on. It is filled under
another name and renamed when it is whole, with a list of its files and their hashes. What is not
whole, not for these facts or not our own is built again. A disk that is full costs the next start
its minutes, not this one its life: the network is then built without a cache, and says so.
"""
from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
import re
import shutil
import tempfile
import time
from typing import Callable, Dict, Mapping, Optional, Tuple, TypeVar

from evit_seg.core.bundle import file_sha256
from evit_seg.core.engine import CacheState
from evit_seg.core.errors import BundleError

LIST_NAME = 'complete.json'
MAX_LIST_BYTES = 1 << 20
LEFT_OVER_S = 24 * 3600.0
"""A half-built cache is removed after a day; no build takes that long."""
_PARTIAL_NAME = re.compile(r'\.[0-9a-f]{32}\..+')

Opened = TypeVar('Opened')


def default_folder() -> Path:
    """Return the folder of caches of this user (XDG Base Directory Specification)."""
    base = os.environ.get('XDG_CACHE_HOME', '')
    return (Path(base) if os.path.isabs(base) else Path.home() / '.cache') / 'evit_seg'


def cache_key(facts: Mapping[str, str]) -> str:
    """Return the name of the cache for these facts: 32 hexadecimal digits."""
    text = json.dumps(dict(facts), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def open_cached(cache_dir: str, facts: Mapping[str, str], size_bytes: int,
                build: Callable[[Optional[Path]], Opened]) -> Tuple[Opened, CacheState]:
    """
    Return what `build` opens, and what became of its cache.

    `build` gets the folder to read from or write to, None to do without, and raises BundleError
    when it cannot; its other errors pass. `size_bytes` must be free on the disk beforehand, since
    not every library notices a write that failed. No trouble of the cache's own is raised.
    """
    try:
        root = Path(cache_dir).expanduser() if cache_dir else default_folder()
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        _sweep(root)
        folder = root / cache_key(facts)
        opened = _open_found(folder, facts, build)
        if opened is not None:
            return opened, CacheState(f'found in {folder}')
        partial = _reserve(folder, size_bytes)
    except (OSError, RuntimeError) as error:  # RuntimeError: a user without a home
        return build(None), _none(error)
    try:
        return _build_into(partial, folder, facts, build)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _build_into(partial: Path, folder: Path, facts: Mapping[str, str],
                build: Callable[[Optional[Path]], Opened]) -> Tuple[Opened, CacheState]:
    try:
        opened = build(partial)
    except BundleError as error:  # the cache's fault or the model's: without one, it shows
        return build(None), _none(error)
    try:
        _complete(partial, folder, facts)
    except OSError as error:
        return opened, _none(error)
    return opened, CacheState(f'built in {folder}')


def _none(error: Exception) -> CacheState:
    return CacheState(f'none, it will be built again at the next start: {error}; see '
                      'engine.cache_dir', failed=True)


def _open_found(folder: Path, facts: Mapping[str, str],
                build: Callable[[Optional[Path]], Opened]) -> Optional[Opened]:
    """
    Return what opens from a whole cache, None when there is no such thing.

    One that the library will not have stays until another is built: what failed may be the
    device, for want of memory, and a build takes minutes.
    """
    if not _is_whole(folder, facts):
        return None
    try:
        return build(folder)
    except BundleError:
        return None


def _is_whole(folder: Path, facts: Mapping[str, str]) -> bool:
    """Tell whether a cache was completed, for these facts, by this user or root, and is intact."""
    try:
        status = folder.lstat()
        if folder.is_symlink() or status.st_uid not in (os.geteuid(), 0) \
                or status.st_mode & 0o022:
            return False
        path = folder / LIST_NAME
        if path.stat().st_size > MAX_LIST_BYTES:
            return False
        listed = json.loads(path.read_text(encoding='utf-8'))
        return bool(listed['facts'] == dict(facts) and listed['files'] == _files(folder))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _files(folder: Path) -> Dict[str, str]:
    """Return the SHA-256 of each file of a cache by name, its own list left out."""
    return {path.name: file_sha256(path) for path in sorted(folder.iterdir())
            if path.name != LIST_NAME}


def _reserve(folder: Path, size_bytes: int) -> Path:
    """Make the folder to build in and see that the disk has room; OSError if it has not."""
    partial = Path(tempfile.mkdtemp(prefix=f'.{folder.name}.', dir=folder.parent))
    try:
        place = partial / 'reserve'
        with place.open('wb') as stream:
            os.posix_fallocate(stream.fileno(), 0, max(size_bytes, 1))
        place.unlink()
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return partial


def _complete(partial: Path, folder: Path, facts: Mapping[str, str]) -> None:
    """Write the list, force all to the disk and give the cache its name; OSError if it fails."""
    files = _files(partial)
    if not files:
        raise OSError(f'the engine wrote nothing into {partial}')
    text = json.dumps({'facts': dict(facts), 'files': files}, indent=2)
    (partial / LIST_NAME).write_text(text, encoding='utf-8')
    for path in (*sorted(partial.iterdir()), partial):
        _sync(path)
    if folder.is_symlink() or folder.is_file():
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder)
    partial.rename(folder)
    _sync(folder.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sweep(root: Path) -> None:
    """Remove what builds that were killed left behind."""
    for path in root.iterdir():
        if _PARTIAL_NAME.fullmatch(path.name) \
                and time.time() - path.lstat().st_mtime > LEFT_OVER_S:
            shutil.rmtree(path, ignore_errors=True)
