# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Run the command as `python -m offline_train`."""
from __future__ import annotations

import sys

from offline_train.cli import main

sys.exit(main())
