# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The processes of a measurement: started in a ROS domain of their own, watched, ended."""
from __future__ import annotations

import json
import os
from pathlib import Path
import signal
import subprocess
import sys
import threading
from typing import Any, Dict, List, Mapping, Optional

from evit_seg.core.errors import EvitSegError
from evit_seg.core.machine import process_memory_mb

TRANSPORTS: Dict[str, Optional[str]] = {'large_data': 'LARGE_DATA', 'default': None}
"""Values of FASTDDS_BUILTIN_TRANSPORTS, in every process; None leaves it unset."""
STOP_TIMEOUT_S = 15.0
ANSWER_TIMEOUT_S = 120.0


def environment(transport: str, domain: int) -> Dict[str, str]:
    """Return this process's environment with a transport and a ROS domain."""
    chosen = {'AMENT_PREFIX_PATH': sys.prefix, **os.environ, 'ROS_DOMAIN_ID': str(domain),
              # LOCALHOST would take the place of the transports.
              'ROS_AUTOMATIC_DISCOVERY_RANGE': 'SUBNET', 'PYTHONUNBUFFERED': '1'}
    chosen.pop('FASTDDS_BUILTIN_TRANSPORTS', None)
    value = TRANSPORTS[transport]
    return chosen if value is None else {**chosen, 'FASTDDS_BUILTIN_TRANSPORTS': value}


class Process:
    """A child that runs a module of this package; what it says on stderr goes to `log`."""

    def __init__(self, module: str, arguments: List[str], environment: Mapping[str, str],
                 log: Path) -> None:
        self._module = module
        self._log = log
        with log.open('wb') as stream:
            self._process = subprocess.Popen(
                [sys.executable, '-m', module, *arguments], env=dict(environment), text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stream,
                start_new_session=True)  # Ctrl-C is ours to pass on

    def check(self) -> None:
        """Raise EvitSegError with its last words if it has ended."""
        code = self._process.poll()
        if code is not None:
            raise EvitSegError(f'{self._module} ended with exit code {code}: '
                               f'{self._last_words()}')

    def ask(self, command: Mapping[str, Any], timeout_s: float = ANSWER_TIMEOUT_S
            ) -> Dict[str, Any]:
        """Send a command as a line of JSON and return the answer."""
        if self._process.stdin is None:
            raise EvitSegError(f'{self._module} takes no commands')
        self.check()
        print(json.dumps(command), file=self._process.stdin, flush=True)
        return self.answer(timeout_s)

    def answer(self, timeout_s: float = ANSWER_TIMEOUT_S) -> Dict[str, Any]:
        """Return the next line of JSON it says; it is killed after the deadline."""
        if self._process.stdout is None:
            raise EvitSegError(f'{self._module} says nothing')
        deadline = threading.Timer(timeout_s, self._process.kill)
        deadline.daemon = True  # Ctrl-C may come before it can be cancelled
        try:
            deadline.start()
            line = self._process.stdout.readline()
        finally:
            deadline.cancel()
        if not line:
            self._process.wait()
            self.check()
        content: Dict[str, Any] = json.loads(line)
        if 'error' in content:
            raise EvitSegError(content['error'])
        return content

    def cpu_s(self) -> Optional[float]:
        """Return the processor time of all its threads so far; None where /proc has none."""
        try:
            text = Path(f'/proc/{self._process.pid}/stat').read_text(encoding='ascii')
        except OSError:
            return None
        fields = text.rpartition(')')[2].split()  # from the state on, the third field of proc(5)
        return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')

    def memory_mb(self) -> Dict[str, Optional[float]]:
        """Return its resident memory now and at its highest, in MB (10^6 bytes)."""
        memory = process_memory_mb(pid=str(self._process.pid))
        return {'now': memory['rss'], 'peak': memory['peak_rss']}

    def stop(self) -> None:
        """Ask it to end (SIGINT), kill it after the deadline."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        try:
            self._process.communicate(timeout=STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()

    def _last_words(self) -> str:
        text = self._log.read_text(encoding='utf-8', errors='replace')
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return lines[-1] if lines else 'it said nothing'
