# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What can go wrong, one class per way out; each carries the process's exit code."""
from __future__ import annotations


class EvitSegError(Exception):
    """Any error this package raises on purpose; the message says the way out."""

    exit_code = 1


class ConfigError(EvitSegError):
    """A parameter, a name or a value that does not fit."""


class FrameError(EvitSegError):
    """A frame that cannot be turned into an image; the stream goes on without it."""


class InputError(EvitSegError):
    """A file, folder or bag that cannot be read."""

    exit_code = 2


class BundleError(EvitSegError):
    """A bundle that cannot be used: bad manifest, newer schema, failed self-test."""


class BundleMissing(BundleError):
    """The bundle's folder, its manifest or one of its files does not exist."""

    exit_code = 2


class BundleTruncated(BundleError):
    """A file of the bundle is shorter than the manifest says."""

    exit_code = 3


class BundleHashMismatch(BundleError):
    """A file of the bundle is not the one the manifest was written for."""

    exit_code = 4


class LabelMapMismatch(BundleError):
    """The network's classes and the label map, or a wanted class and the label map, differ."""

    exit_code = 5


class EngineHang(EvitSegError):
    """The engine does not come back, not for the first time; only a new process helps."""

    exit_code = 6
