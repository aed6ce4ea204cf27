# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The results of `bench` for a terminal, and what a reader must know before he quotes them."""
from __future__ import annotations

from typing import Any, Dict, List, Mapping, Optional, Sequence

_CLOCK_FELL = 0.9
"""A CPU that ends below this share of its clock at the start is said to have slowed down."""


def bench_notes(result: Mapping[str, Any]) -> List[str]:
    """Return what makes the figures of one result less certain or not comparable."""
    machine, end = result['machine'], result['thermal']['end']
    notes = []
    if machine['load_1min'] > machine['cores'] / 2:
        notes.append(f'load {machine["load_1min"]} on {machine["cores"]} cores before the start: '
                     'other processes may be noise in these times')
    if result['runs'] < 100:
        notes.append(f'p99 of {result["runs"]} frames is hardly more than their maximum')
    if result['in_turns'] > 1:
        notes.append(f'{result["in_turns"]} measurements in turns: each finds colder caches than '
                     'it would alone; compare within this run')
    if machine['governor'] not in (None, 'performance'):
        notes.append(f"CPU frequency governor {machine['governor']!r}: the clock follows the load")
    first, last = _clock_share(result['thermal']['start']), _clock_share(end)
    if first is not None and last is not None and last < _CLOCK_FELL * first:
        notes.append(f'the fastest CPU fell from {first:.0%} to {last:.0%} of its highest clock '
                     'while frames were timed: throttling, or the governor')
    if end['throttled'] is not None and int(end['throttled'], 16):
        notes.append(f'the Raspberry Pi reports throttling or low voltage since it was switched '
                     f'on: flags {end["throttled"]}')
    if result['energy'] is None:
        notes.append(f'energy: {result["energy_source"]}')
    above = result['energy_above_idle_mj_per_frame']
    if above is not None and above <= 0:
        notes.append('the energy above idle is not above zero: the sensor saw other work at rest')
    return notes


def _clock_share(state: Mapping[str, Any]) -> Optional[float]:
    """Return the highest clock over its limit among the CPU's policies, None if not readable."""
    shares = [now / limit for now, limit in zip(state['cpu_mhz'], state['cpu_max_mhz']) if limit]
    return max(shares) if shares else None


def bench_text(results: Sequence[Mapping[str, Any]]) -> str:
    """Return all results as text: the machine, then one paragraph per measurement."""
    machine = results[0]['machine']
    place = [machine['board'] or machine['processor'], f'{machine["cores"]} cores',
             f'load {machine["load_1min"]}', f'memory {_shown(machine["memory_mb"], "MB", 0)}',
             machine['system'], f'onnxruntime {machine["onnxruntime"]}']
    place += [f'power mode {machine["power_mode"]}'] if machine['power_mode'] else []
    lines = [', '.join(place)]
    for number, result in enumerate(results):
        lines += ['', *_paragraph(result, number)]
    notes: Dict[str, None] = dict.fromkeys(note for r in results for note in r['notes'])
    return '\n'.join([*lines, '', *(f'note: {note}' for note in notes)]).rstrip()


def _paragraph(result: Mapping[str, Any], number: int) -> List[str]:
    bundle, size, net = result['bundle'], result['size'], result['input_size']
    lines = [
        f'{number + 1}. {bundle["name"]} {bundle["precision"]} ({bundle["sha256"][:12]}), '
        f'{result["engine"]} {result["provider"]}, threads {result["threads"] or "auto"}, frames '
        f'{size[1]}x{size[0]}, network {net[1]}x{net[0]}, {result["runs"]} runs',
        '   ms             mean      p50      p95      p99      max']
    rows = {'whole call': result['latency_ms'],
            **{{'infer': 'engine'}.get(stage, stage): values
               for stage, values in result['stage_ms'].items()}}
    for name, values in rows.items():
        lines.append(f'   {name:<10}' + ''.join(f'{values[key]:9.2f}' for key in values))
    fps = f'   {result["fps"]:.2f} FPS (1000 / mean of the whole call)'
    if result['ratio_to_first'] is not None and number:
        spread = result['ratio_to_first']
        fps += (f'; time over that of 1., round by round: {spread["p50"]:.3f} '
                f'(middle half {spread["p25"]:.3f} to {spread["p75"]:.3f})')
    score = '-' if result['paper_score'] is None else \
        f'{result["paper_score"]:.3f} (mIoU {result["miou"]} / seconds per image; ' \
        f'mIoU: {result["miou_source"]})'
    return [*lines, fps,
            f'   parameters {_shown(bundle["parameters"], "", 0)}, GMACs '
            f'{_shown(result["gmacs"], "", 3)}, file {result["file_mb"]:.2f} MB',
            *_memory_lines(result), *_energy_lines(result), *_heat_lines(result),
            f"   the paper's score {score}"]


def _memory_lines(result: Mapping[str, Any]) -> List[str]:
    def mb(key: str) -> str:
        return _shown(result[key], 'MB', 0)

    gpu = mb('gpu_mb') if result['gpu_mb'] is not None else '-'
    return [f'   memory: RSS {mb("rss_mb")}, peak {mb("peak_rss_mb")}, swap {mb("swap_mb")} '
            f'({mb("rss_before_mb")} before engine and model)',
            f'   machine: {mb("system_mb")} in use + {mb("system_swap_mb")} swap, before '
            f'{mb("system_before_mb")} + {mb("system_swap_before_mb")}; GPU {gpu} '
            f'({result["gpu_source"]})']


def _energy_lines(result: Mapping[str, Any]) -> List[str]:
    energy = result['energy']
    if energy is None:
        return ['   energy: - (see the note)']
    return [f'   energy: {result["energy_mj_per_frame"]:.1f} mJ per frame, above idle '
            f'{_shown(result["energy_above_idle_mj_per_frame"], "mJ", 1)}; '
            f'{energy["watts"]:.2f} W at work, {_shown(energy["idle_watts"], "W", 2)} at rest, '
            f'{energy["frames"]} frames in {energy["seconds"]:.1f} s',
            f'     by {result["energy_source"]}']


def _heat_lines(result: Mapping[str, Any]) -> List[str]:
    start, end = result['thermal']['start'], result['thermal']['end']
    told = [f'{zone} {value:.0f} -> {end["temperature_c"][zone]:.0f} C'
            for zone, value in start['temperature_c'].items() if zone in end['temperature_c']]
    shares = _clock_share(start), _clock_share(end)
    if None not in shares:
        told.append(f'fastest CPU at {shares[0]:.0%} -> {shares[1]:.0%} of its highest clock')
    return [f'   heat: {", ".join(told) or "no thermal zone and no CPU clock can be read here"}']


def _shown(value: Optional[float], unit: str, digits: int) -> str:
    return '-' if value is None else f'{value:,.{digits}f} {unit}'.rstrip()
