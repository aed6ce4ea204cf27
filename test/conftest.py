# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Put `test/` on the path so that test modules can import the tiny bundle's writer."""
from pathlib import Path
import sys

sys.path.insert(0, str(Path(__file__).resolve().parent))
