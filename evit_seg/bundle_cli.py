# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""`bundle`: look at a bundle, verify its files, run its golden frame, count what it costs."""
from __future__ import annotations

import argparse
from pathlib import Path
import sys
from typing import Any, List, Optional, Sequence

from evit_seg.bundle_inspect import as_json, as_text, inspect, write_float_input
from evit_seg.core.boards import BOARDS
from evit_seg.core.bundle import Bundle, find_bundle, open_bundle, select_variant, self_test
from evit_seg.core.errors import EvitSegError
from evit_seg.core.manifest import Manifest
from evit_seg.core.segmenter import Segmenter


def describe(manifest: Manifest) -> str:
    """Return what a person wants to know of a bundle, as a few lines of text."""
    lines = [f'{manifest.name}: {manifest.description}'.rstrip(': ')]
    spec = manifest.input
    for v in manifest.variants:
        lines.append(f'  {v.file}: {v.engine} {v.precision}, input {v.height}x{v.width} '
                     f'{spec.colour} {spec.dtype} ({spec.resize}), {v.output} at stride '
                     f'{v.stride}, opset {v.opset}, {v.bytes / 1e6:.2f} MB')
    rare = [c.slug for c in manifest.label_map if c.rare]
    lines.append(f'  {len(manifest.label_map)} classes, rare: {", ".join(rare) or "none"}; '
                 f'temperature {manifest.temperature:g}')
    for entry in manifest.data:
        licence = entry.get('licence', 'licence unknown')
        lines.append(f'  trained on {entry.get("name")} ({licence})')
    lines += _flatten('  scores', manifest.scores)
    lines += _flatten('  provenance', manifest.provenance)
    return '\n'.join(lines)


def _flatten(prefix: str, value: Any) -> List[str]:
    if isinstance(value, dict):
        return [line for key in value for line in _flatten(f'{prefix}.{key}', value[key])]
    return [f'{prefix}: {value}']


def _inspect(bundle: Bundle, args: argparse.Namespace) -> None:
    variant = select_variant(bundle, precision=args.precision)
    if args.float_input is not None:
        write_float_input(bundle, variant, args.float_input)
        print(f'wrote {args.float_input}')
        return
    facts = inspect(bundle, variant, args.board)
    print(as_text(facts))
    if args.json is not None:
        args.json.write_text(as_json(facts), encoding='utf-8')


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the command; returns its exit code (2 missing, 3 truncated, 4 wrong hash, 5 labels)."""
    parser = argparse.ArgumentParser(prog='bundle', description=__doc__)
    parser.add_argument('action', choices=('show', 'verify', 'inspect'), help='show: print what '
                        'the manifest says; verify: check every hash, load the engine, run the '
                        "golden frame; inspect: count a variant's operations, bytes and memory, "
                        'and what a board could do with it (needs the package onnx)')
    parser.add_argument('model', help='folder of a bundle, or a name under models/')
    parser.add_argument('--precision',
                        help='the variant to verify or inspect (default: the first)')
    parser.add_argument('--board', nargs='+', default=[], metavar='NAME',
                        help=f'inspect: boards to model: {", ".join(BOARDS)}')
    parser.add_argument('--json', type=Path, metavar='OUT', help='inspect: write all to this file')
    parser.add_argument('--float-input', type=Path, metavar='OUT',
                        help='inspect: write the variant as ONNX with a float32 input, which '
                             'trtexec of TensorRT 8.2 takes, and stop')
    args = parser.parse_args(argv)
    try:
        bundle = open_bundle(find_bundle(args.model))
        if args.action == 'inspect':
            _inspect(bundle, args)
            return 0
        print(describe(bundle.manifest))
        if args.action == 'verify':
            segmenter = Segmenter.open(args.model, precision=args.precision)
            agreement = self_test(segmenter)
            print(f'verified: files whole, hashes right, golden frame agrees on {agreement:.2%} '
                  f'({segmenter.engine.name}, {segmenter.engine.provider}, '
                  f'{segmenter.engine.precision})')
    except EvitSegError as error:
        print(f'bundle: {error}', file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == '__main__':
    sys.exit(main())
