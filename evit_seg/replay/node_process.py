# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""seg_node in a process of its own: started, watched and ended, always within a deadline."""
from __future__ import annotations

from collections.abc import Mapping
import os
from pathlib import Path
import signal
import subprocess
import sys
from typing import Any

from evit_seg.core.errors import EvitSegError, InputError
import yaml

STOP_TIMEOUT_S = 15.0
"""How long the node may take to end after SIGINT; its own deadline for the engine is 10 s."""


class NodeFailed(EvitSegError):
    """The node's process ended by itself, or would not end."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class NodeProcess:
    """The child process; its output goes to `log`."""

    def __init__(self, parameter_files: list[Path], *, namespace: str, image_topic: str,
                 environment: Mapping[str, str], log: Path) -> None:
        files = [part for path in parameter_files for part in ('--params-file', str(path))]
        command = [sys.executable, '-m', 'evit_seg.ros.node', '--ros-args',
                   '-r', f'__ns:={namespace}', '-r', f'image_raw:={image_topic}', *files]
        self.log = log
        self.largest_rss_mb: float | None = None
        with log.open('wb') as stream:
            self._process = subprocess.Popen(
                command, stdout=stream, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                env={**os.environ, **environment, 'PYTHONUNBUFFERED': '1'},
                start_new_session=True)  # Ctrl-C is ours to pass on, after the last words

    def check(self) -> None:
        """Raise NodeFailed, with the node's own exit code, if it is not running any more."""
        code = self._process.poll()
        if code is not None:
            raise NodeFailed(f'seg_node ended with exit code {code}: {self.last_words()}',
                             code if code > 0 else 1)

    def last_words(self) -> str:
        """Return the last line of the log that says something."""
        text = self.log.read_text(encoding='utf-8', errors='replace')
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return f'{lines[-1] if lines else "it said nothing"} ({self.log})'

    def sample_memory(self) -> None:
        """Note the resident memory, in MB (10^6 bytes), where /proc tells it."""
        status = Path(f'/proc/{self._process.pid}/statm')
        try:
            pages = int(status.read_text(encoding='ascii').split()[1])
        except (OSError, IndexError):  # not Linux, or it is just ending
            return
        resident_mb = pages * os.sysconf('SC_PAGE_SIZE') / 1e6
        self.largest_rss_mb = max(resident_mb, self.largest_rss_mb or 0.0)

    def stop(self) -> int:
        """
        Ask it to end (SIGINT), kill it after the deadline; return its exit code.

        NodeFailed if it had to be killed.
        """
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        try:
            return self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise NodeFailed(f'seg_node did not end within {STOP_TIMEOUT_S:g} s of SIGINT and was '
                             f'killed: {self.last_words()}', 1) from None

    def kill(self) -> None:
        """End it now; harmless when it has ended. NodeFailed if the kernel does not let it go."""
        if self._process.poll() is not None:
            return
        self._process.kill()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise NodeFailed(f'seg_node (process {self._process.pid}) did not end within '
                             f'{STOP_TIMEOUT_S:g} s of SIGKILL: it hangs in the kernel, in a '
                             'driver most likely', 1) from None


def write_parameters(path: Path, parameters: Mapping[str, Any]) -> Path:
    """Write a ROS parameter file for any node and return its path."""
    content = {'/**': {'ros__parameters': dict(parameters)}}
    try:
        path.write_text(yaml.safe_dump(content, sort_keys=False), encoding='utf-8')
    except OSError as error:
        raise InputError(f'{path} cannot be written: {error}') from error
    return path
