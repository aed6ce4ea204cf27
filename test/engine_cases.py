# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What every engine must do alike: one test for all of them, against ONNX Runtime."""
from __future__ import annotations

import json
import os
from pathlib import Path
import subprocess
import sys

from evit_seg.core.bundle import open_bundle, select_variant, self_test
from evit_seg.core.engine import load_engine
from evit_seg.core.errors import BundleError
from evit_seg.core.segmenter import Segmenter
import numpy as np
import pytest
from tiny_bundle import painted_frame

ROOT = Path(__file__).resolve().parents[1]

THREADS = """
import glob, json, os, re, sys
from evit_seg.core.bundle import open_bundle
from evit_seg.core.engine import load_engine
import numpy as np

def allowed():
    found = {}
    for path in glob.glob('/proc/self/task/*/status'):
        text = open(path).read()
        found[path.split('/')[4]] = re.search(r'Cpus_allowed_list:\\s*(\\S+)', text).group(1)
    return found

folder, name, cpus = sys.argv[1:]
if name == 'torchscript':
    import torch
bundle = open_bundle(folder)
before = allowed()
engine = load_engine(bundle, name, threads=2, cpus=cpus)
for _ in range(5):
    engine.infer(np.zeros((*engine.input_hw, 3), np.uint8))
after = allowed()
print(json.dumps({'new': [cpus for task, cpus in after.items() if task not in before],
                  'caller_before': before[str(os.getpid())],
                  'caller_after': after[str(os.getpid())]}))
"""


def answers_like_onnxruntime(folder, engine, atol=1e-4, **options):
    """Hold an engine's masks and logits on the tiny bundle against ONNX Runtime's."""
    wanted = Segmenter.open(str(folder), threads=1)
    bundle = open_bundle(folder)
    got = Segmenter(bundle, load_engine(bundle, engine, threads=1, **options))
    assert got.engine.name == engine
    assert self_test(got) >= 0.75
    rng = np.random.default_rng(5)
    for image_HWC in (painted_frame()[0], painted_frame(hw=(96, 128))[0][:, ::-1],
                      rng.integers(0, 256, (50, 70, 3), np.uint8)):
        ours, theirs = got(image_HWC), wanted(image_HWC)
        assert ours.logits_CHW.dtype == np.float32
        np.testing.assert_allclose(ours.logits_CHW, theirs.logits_CHW, atol=atol)
        np.testing.assert_array_equal(ours.mask_HW, theirs.mask_HW)
    first = got.engine.infer(painted_frame()[0])
    kept = first.copy()
    got.engine.infer(255 - painted_frame()[0])
    np.testing.assert_array_equal(first, kept)  # an answer is the caller's, not overwritten later
    got.close()
    with pytest.raises(BundleError, match='closed'):
        got.warm_up(1)


def outlives_its_file(folder, engine):
    """Cut short and remove the model file under a loaded engine; it must go on answering."""
    bundle = open_bundle(folder)
    loaded = load_engine(bundle, engine)
    image_HWC = painted_frame()[0]
    before = loaded.infer(image_HWC)
    path = folder / select_variant(bundle, engine).file
    os.truncate(path, 10)
    np.testing.assert_array_equal(loaded.infer(image_HWC), before)
    path.unlink()
    np.testing.assert_array_equal(loaded.infer(image_HWC), before)


def threads_stay_on_their_cpu(folder, engine):
    """Load and run an engine in a fresh process, pinned; read from /proc where threads may run."""
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        pytest.skip('needs 2 CPUs: on one, a thread that is not pinned cannot be told')
    free, pinned = (_threads(folder, engine, text) for text in ('', str(cpus[-1])))
    assert free['new'], 'the engine started no thread of its own; the test would prove nothing'
    assert set(free['new']) != {str(cpus[-1])}
    assert pinned['new'] and set(pinned['new']) == {str(cpus[-1])}
    assert pinned['caller_after'] == pinned['caller_before'] != str(cpus[-1])


def _threads(folder, engine, cpus):
    run = subprocess.run([sys.executable, '-c', THREADS, str(folder), engine, cpus], cwd=ROOT,
                         capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])
