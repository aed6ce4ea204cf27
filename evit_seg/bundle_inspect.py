# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""`bundle inspect`: what a variant's graph costs, and what it would take on a board."""
from __future__ import annotations

from collections import Counter
from dataclasses import asdict
import json
from pathlib import Path
from typing import Any, Dict, List, Sequence

from evit_seg.core.boards import Board, find_board, Roofline, roofline
from evit_seg.core.bundle import Bundle
from evit_seg.core.errors import BundleError, ConfigError
from evit_seg.core.manifest import Variant
from evit_seg.core.onnx_fold import require_onnx
from evit_seg.core.onnx_graph import Graph, graph_facts, read_model
from evit_seg.core.tensorrt8 import check, Finding, float_input

MIB = 2**20


def inspect(bundle: Bundle, variant: Variant, boards: Sequence[str] = ()) -> Dict[str, Any]:
    """
    Return what `bundle inspect` tells of a variant, as JSON has it.

    ConfigError for an unknown board, BundleError for a variant that is no ONNX file.
    """
    if variant.engine != 'onnxruntime':
        raise BundleError(f'{variant.file}: expected an ONNX variant, got one for '
                          f'{variant.engine}; name another with --precision')
    model = read_model(bundle.folder / variant.file)
    graph = graph_facts(model)
    return {
        'bundle': bundle.manifest.name, 'file': variant.file, 'precision': variant.precision,
        'opset': graph.opset, 'ir_version': graph.ir_version,
        'inputs': [str(t) for t in graph.inputs], 'outputs': [str(t) for t in graph.outputs],
        'operators': graph.operators, 'nodes': len(graph.nodes),
        'flops': graph.flops, 'element_ops': graph.element_ops,
        'weight_bytes': graph.weight_bytes, 'moved_bytes': graph.moved_bytes,
        'fused_bytes': sum(node.fused_bytes for node in graph.nodes),
        'peak_activation_bytes': graph.peak_activation_bytes,
        'memory_bytes': graph.weight_bytes + graph.peak_activation_bytes,
        'boards': [_on_board(find_board(name), graph, model, bundle, variant) for name in boards]}


def board_rooflines(board: Board, graph: Graph, precision: str) -> List[Roofline]:
    """
    Return the rooflines of a graph on a board, element-wise work joined to its neighbours.

    A float32 graph on a board whose engine is TensorRT is also taken at half precision and half
    the bytes: that is what --fp16 builds of it. Empty where the board has no such arithmetic.
    """
    if precision not in board.peak_ops_per_s:
        return []
    flops = [node.flops + node.element_ops for node in graph.nodes]
    moved = [node.fused_bytes for node in graph.nodes]
    found = [roofline(board, flops, moved, precision)]
    if precision == 'fp32' and board.engine.startswith('TensorRT'):
        found.append(roofline(board, flops, [size / 2 for size in moved], 'fp16'))
    return found


def write_float_input(bundle: Bundle, variant: Variant, out: Path) -> None:
    """Write the variant with a float32 input, for trtexec; ConfigError when `out` exists."""
    if out.exists():
        raise ConfigError(f'--float-input: {out} exists; choose another name')
    require_onnx().save(float_input(read_model(bundle.folder / variant.file)), str(out))


def _on_board(board: Board, graph: Graph, model: Any, bundle: Bundle, variant: Variant
              ) -> Dict[str, Any]:
    findings = check(model) if board.engine == 'TensorRT 8.2' else []
    lines = board_rooflines(board, graph, variant.precision)
    memory = graph.weight_bytes + graph.peak_activation_bytes
    return {
        'board': board.name, 'engine': board.engine, 'measured': False,
        'fits': memory <= board.free_bytes, 'free_bytes': board.free_bytes,
        'rooflines': [{'precision': r.precision, 'seconds': r.seconds, 'dense_s': r.dense_s,
                       'hybrid_s': list(r.hybrid_s), 'text': str(r),
                       'assumptions': list(r.assumptions)} for r in lines],
        'findings': [asdict(f) for f in findings],
        'stops': sum(f.stops for f in findings),
        'found': _grouped(findings),
        'commands': build_commands(board, bundle, variant)}


def _grouped(findings: Sequence[Finding]) -> List[str]:
    """Return one line for each kind of finding, with how many and the first node's name."""
    groups = Counter((f.operator, f.why, f.way_out, f.stops) for f in findings)
    first = {(f.operator, f.why, f.way_out, f.stops): f.node for f in reversed(findings)}
    return [f'{"refused" if stops else "with care"}: {count} x {operator} '
            f'({first[operator, why, way_out, stops]}): {why}; {way_out}'
            for (operator, why, way_out, stops), count in groups.items()]


def build_commands(board: Board, bundle: Bundle, variant: Variant) -> List[str]:
    """
    Return the shell commands that build and time the engine on the board.

    None where the board has no arithmetic of the variant's precision.
    """
    if variant.precision not in board.peak_ops_per_s:
        return []
    if not board.engine.startswith('TensorRT'):
        return [f'bench --model {bundle.folder}']
    half = variant.precision != 'int8'
    flag = '--fp16' if half else '--int8 --fp16'
    # A quarter of what the idle system leaves, as a power of two: weights, activations, the node
    # and the tactics that are timed share the rest.
    workspace = 2**((board.free_bytes // 4 // MIB).bit_length() - 1)
    size = f'--workspace={workspace}' if board.engine == 'TensorRT 8.2' \
        else f'--memPoolSize=workspace:{workspace}'
    name = bundle.manifest.name
    onnx_file = f'{bundle.folder}/{variant.file}'
    before = []
    if board.engine == 'TensorRT 8.2':
        before = [f'bundle inspect {bundle.folder} --precision {variant.precision} '
                  f'--float-input {name}_float.onnx']
        onnx_file = f'{name}_float.onnx'
    provider = (f'ORT_TENSORRT_{"FP16" if half else "INT8"}_ENABLE=1 '
                f'ORT_TENSORRT_MAX_WORKSPACE_SIZE={workspace * MIB} '
                'ORT_TENSORRT_ENGINE_CACHE_ENABLE=1 ORT_TENSORRT_CACHE_PATH=engine_cache '
                f'bench --model {bundle.folder} --provider tensorrt')
    return [*before, f'/usr/src/tensorrt/bin/trtexec --onnx={onnx_file} {flag} {size} '
            f'--saveEngine={name}.engine', provider]


def as_text(facts: Dict[str, Any]) -> str:
    """Return `inspect`'s answer as lines for a person."""
    operators = ', '.join(f'{count} {name}' for name, count in facts['operators'].items())
    lines = [
        f'{facts["bundle"]}: {facts["file"]} ({facts["precision"]}, opset {facts["opset"]}, '
        f'IR {facts["ir_version"]})',
        f'  input   {"; ".join(facts["inputs"])}', f'  output  {"; ".join(facts["outputs"])}',
        f'  {facts["nodes"]} nodes: {operators}',
        f'  {facts["flops"] / 1e9:.3f} GFLOP of convolutions and matrix products (2 per '
        f'multiply-add), {facts["element_ops"] / 1e9:.3f} G other operations',
        f'  weights {facts["weight_bytes"] / 1e6:.2f} MB; memory traffic '
        f'{facts["moved_bytes"] / 1e6:.1f} MB node by node, {facts["fused_bytes"] / 1e6:.1f} MB '
        'with element-wise work joined to its neighbours',
        f'  memory estimate {facts["memory_bytes"] / 1e6:.1f} MB: weights and at most '
        f'{facts["peak_activation_bytes"] / 1e6:.1f} MB of activations alive at once; engine, '
        'libraries and workspace come on top']
    for board in facts['boards']:
        lines += _board_text(board)
    return '\n'.join(lines)


def _board_text(board: Dict[str, Any]) -> List[str]:
    lines = [f'{board["board"]} ({board["engine"]}): memory estimate '
             f'{"fits into" if board["fits"] else "DOES NOT FIT into"} the '
             f'{board["free_bytes"] / 1e6:.0f} MB left by an idle system']
    if not board['rooflines']:
        lines.append('  no such arithmetic on this board: name another variant with --precision')
        return lines
    lines += [f'  {r["text"]}' for r in board['rooflines']]
    assumed = {text: None for r in board['rooflines'] for text in r['assumptions']}
    lines += [f'    assumed: {text}' for text in assumed]
    if board['engine'] == 'TensorRT 8.2':
        lines.append('  TensorRT 8.2 parser: ' + (
            f'{board["stops"]} refused' if board['found'] else 'nothing found against it'))
        lines += [f'    {text}' for text in board['found']]
    if board['commands']:
        lines += ['  on the board:', *(f'    {text}' for text in board['commands'])]
    return lines


def as_json(facts: Dict[str, Any]) -> str:
    """Return `inspect`'s answer as JSON."""
    return json.dumps(facts, indent=2) + '\n'
