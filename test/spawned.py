# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What tests have other processes do; those import it by this name."""
from __future__ import annotations

import os
import signal

from evit_seg.core.errors import InputError


def shout(word: str) -> str:
    """Return the word in capitals; 'fail' raises, 'die' ends the process."""
    if word == 'fail':
        raise InputError('no such word')
    if word == 'die':
        os.kill(os.getpid(), signal.SIGKILL)
    return word.upper()
