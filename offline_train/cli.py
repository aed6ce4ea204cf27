# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
The command `offline_train`: one sub-command per stage, each imported only when it is asked for.

So `offline_train synth` runs where torch is not installed.
"""
from __future__ import annotations

import argparse
import importlib
import sys
from typing import List, Optional

from evit_seg.core.errors import EvitSegError

STAGES = {
    'synth': 'render a synthetic disaster flight or still scenes, with exact masks (no torch)',
    'datasets': 'list the known data sets, check a folder of one (no torch)',
    'train': 'train a network on image folders',
    'distil': 'train a student with a teacher',
    'prune': 'cut filters, attention heads and hidden units out of a run',
    'low_rank': 'put two thin layers, or attention of linear cost, in the place of a wide one',
    'compress': 'prune, recover, export and quantize by a recipe with budgets and guards',
    'sweep': 'run stages over a grid of settings, in parallel or as a job array',
    'export': 'write a bundle (ONNX and manifest) from a training run',
    'quantize': 'add an int8 variant to a bundle, sensitive layers left in float',
    'evaluate': 'score a bundle on image folders',
    'bench': 'latency, memory and energy of bundles on this machine (no torch)',
    'eager': 'time a run in eager PyTorch in turns with bundles',
    'part_times': 'time one part of several runs, such as the backbone, in turns',
    'report': 'tables and figures of runs, beside the paper',
    'block_costs': 'measure what each attention and FFN block of a run costs, for gates',
    'heat_maps': 'draw where the attention of a run looks, before and after compression',
    'step_times': 'time the steps of several configurations, for controls of equal compute',
    'tune_alerts': 'find alert thresholds of a class on validation flights',
}
"""Sub-commands: each is the module offline_train.<name> with add_arguments and main."""
EPILOG = """\
the way of a student:
  offline_train datasets check lpcv2023 --root LPCV
  offline_train train  --config config/train/lpcv.yaml --out runs/teacher \\
                       model.name=upernet_swinv2_t data.root=LPCV
  offline_train distil --config config/train/lpcv_distil.yaml --out runs/student \\
                       data.root=LPCV teacher.path=runs/teacher
  offline_train export --run runs/student --precision fp32 fp16
  offline_train evaluate --bundle runs/student/bundle/student --dataset lpcv2023 --root LPCV \\
                       --split val --json runs/student/evaluate.json
  offline_train bench  runs/student/bundle/student --json runs/student/bench.json
  offline_train compress --recipe config/recipes/x86.yaml --run runs/student --out small \\
                       data.root=scenes
  offline_train report runs/* --out report
without images: offline_train synth renders some; without a GPU: config/train/small_*.yaml.
`offline_train STAGE --help` tells more."""
_PLAIN_MODULES = ('torch', 'accelerate', 'onnx', 'onnxruntime', 'cv2', 'tqdm', 'yaml',
                  'safetensors', 'tensorboard', 'matplotlib')


def main(argv: Optional[List[str]] = None) -> int:
    """Run one sub-command; return its exit code, an error's own code after one line about it."""
    argv = sys.argv[1:] if argv is None else argv
    wanted = argv[0] if argv and argv[0] in STAGES else None
    parser = argparse.ArgumentParser(
        prog='offline_train', description='The part that stays home: from images to a bundle.',
        epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest='stage', required=True, metavar='STAGE')
    try:
        for name, summary in STAGES.items():
            sub = commands.add_parser(name, help=summary, description=summary)
            if name == wanted:
                stage = importlib.import_module(f'offline_train.{name}')
                stage.add_arguments(sub)
        args = parser.parse_args(argv)
        return int(stage.main(args))
    except EvitSegError as error:
        print(f'offline_train: {error}', file=sys.stderr)
        return error.exit_code
    except ModuleNotFoundError as error:
        if error.name not in _PLAIN_MODULES:
            raise
        print(f'offline_train {wanted}: needs the Python package {error.name!r}, which is not '
              'installed here; README says how', file=sys.stderr)
        return 1


if __name__ == '__main__':
    sys.exit(main())
