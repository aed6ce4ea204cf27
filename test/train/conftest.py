# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What the tests of training share."""
import pytest


@pytest.fixture
def one_thread():
    """Keep to one core: threads that wait for each other are slow beside other work."""
    torch = pytest.importorskip('torch')
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
