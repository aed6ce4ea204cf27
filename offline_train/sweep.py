# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Run a chain of stages over a grid of values, in parallel processes, and join the results.

    OUT/cells/NAME/       the files of one cell, log.txt, and done.json once all is done
    OUT/unfinished/       cells that were interrupted or failed and have been started anew
    OUT/results.json  OUT/results.md  OUT/figures/

A cell that is done is never run again; one that is not starts anew in a fresh folder.
"""
from __future__ import annotations

import argparse
from concurrent.futures import as_completed, ThreadPoolExecutor
from contextlib import contextmanager
import fcntl
import json
import os
from pathlib import Path
import re
import shlex
import subprocess
import sys
import time
from typing import Any, Dict, Iterator, List, Mapping, Sequence, Tuple

from evit_seg.core.errors import ConfigError, EvitSegError
from offline_train.cli import STAGES
from offline_train.compression.grid import CELL, Cell, Grid, load_grid, read_value
from offline_train.reporting.page import Column, Paragraph, Row, Table, to_markdown
from tqdm import tqdm

DONE, LOG = 'done.json', 'log.txt'
COMMAND = (sys.executable, '-m', 'offline_train')
EPILOG = """\
  offline_train sweep --grid config/sweeps/table3.yaml --out sweeps/table3 run=runs/a data=scenes
  offline_train sweep --plot sweeps/table3 x=heads y=miou
  offline_train sweep --plot sweeps/figure3 x=ratio y=miou line=kind panel=model
on a cluster a job array runs the cells, one each; the last line joins what they wrote:
  offline_train sweep --grid g.yaml --out sweeps/g --list
  sbatch --array=0-19 --cpus-per-task=4 --wrap \\
    'offline_train sweep --grid g.yaml --out sweeps/g --task $SLURM_ARRAY_TASK_ID'
  (PBS: qsub -J 0-19, $PBS_ARRAY_INDEX)
  offline_train sweep --grid g.yaml --out sweeps/g --jobs 0
What a grid is stands in offline_train/compression/grid.py. With --jobs above 1 each process gets
its share of the cores (OMP_NUM_THREADS, unless it is set), and latencies that steps measure
disturb each other: take them with --jobs 1."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `offline_train sweep`."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument('--grid', type=Path, metavar='YAML', help='axes, steps and results')
    what.add_argument('--plot', type=Path, metavar='OUT',
                      help='draw the joined results of a sweep: x=AXIS y=KEY [line=AXIS] '
                           '[panel=AXIS] [AXIS=VALUE ...]')
    parser.add_argument('--out', type=Path, help='folder of the sweep, new or to go on with')
    parser.add_argument('--jobs', type=int, default=1, metavar='N',
                        help='cells run at a time; 0: none, only join what is done '
                             '(default: %(default)s)')
    parser.add_argument('--task', type=int, metavar='INDEX',
                        help='run this one cell, of those that --list shows, and join nothing')
    parser.add_argument('--list', action='store_true', help='print the cells and run none')
    parser.add_argument('words', nargs='*', metavar='name=value',
                        help='names of the grid set anew; with --plot, what is drawn')
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG


def main(args: argparse.Namespace) -> int:
    """Run `offline_train sweep`."""
    if args.plot is not None:
        from offline_train.reporting.sweeps import plot  # a cluster's node may lack matplotlib
        print(f'wrote {plot(args.plot, args.words)}.png and .svg')
        return 0
    if args.out is None or args.jobs < 0:
        raise ConfigError(f'expected --out FOLDER and --jobs of 0 or more, got {args.out!r} and '
                          f'{args.jobs!r}')
    grid = load_grid(args.grid, args.words, tuple(STAGES))
    cells = grid.cells()
    if args.list:
        for index, cell in enumerate(cells):
            print(f'{index:>4} {"done" if is_done(args.out, cell) else "open"} {cell.name}')
        return 0
    if args.task is not None:
        if not 0 <= args.task < len(cells):
            raise ConfigError(f'--task: expected 0 to {len(cells) - 1}, got {args.task!r}')
        return _report(run_cells(args.out, grid, [cells[args.task]], 1))
    failed = run_cells(args.out, grid, cells, args.jobs) if args.jobs else {}
    results = join(args.out, grid, cells)
    print(f'{len(results["rows"])} of {len(cells)} cells in {write(args.out, results)}')
    return _report(failed)


def is_done(out: Path, cell: Cell) -> bool:
    """Return whether a cell is done; ConfigError if it was done by other commands."""
    marker = out / 'cells' / cell.name / DONE
    if not marker.is_file():
        return False
    commands = json.loads(marker.read_text(encoding='utf-8'))['commands']
    if commands != [shlex.join(command) for command in cell.commands]:
        raise ConfigError(f'{marker.parent} was made by other commands than the grid has now: '
                          f'{commands}; name another --out, or delete that folder')
    return True


def run_cells(out: Path, grid: Grid, cells: Sequence[Cell], jobs: int) -> Dict[str, str]:
    """
    Run the cells that are not done, `jobs` at a time; return the failed with their last line.

    One that fails does not stop the others.
    """
    todo = [cell for cell in cells if not is_done(out, cell)]
    if len(todo) < len(cells):
        print(f'{len(cells) - len(todo)} of {len(cells)} cells are done already')
    cores = len(os.sched_getaffinity(0))
    environment = {'OMP_NUM_THREADS': str(max(1, cores // jobs)), **os.environ}
    failed: Dict[str, str] = {}
    with ThreadPoolExecutor(jobs) as pool, \
            tqdm(total=len(todo), unit='cell', dynamic_ncols=True, disable=None) as bar:
        futures = {pool.submit(_run_cell, out, grid, cell, environment): cell for cell in todo}
        try:
            for future in as_completed(futures):
                error, name = future.result(), futures[future].name
                bar.update()
                bar.write(f'{name}: {error or "done"}')
                if error:
                    failed[name] = error
        except BaseException:  # an interrupt: what has not begun does not begin
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return failed


def join(out: Path, grid: Grid, cells: Sequence[Cell]) -> Dict[str, Any]:
    """Return the values and results of the cells that are done, and the names of the others."""
    rows: List[Dict[str, Any]] = []
    missing: List[str] = []
    for cell in cells:
        if is_done(out, cell):
            folder = out / 'cells' / cell.name
            rows.append({**cell.values, **_results(grid, folder)})
        else:
            missing.append(cell.name)
    axes = {axis: [value[axis] for value in values] for axis, values in grid.axes.items()}
    return {'title': grid.title, 'axes': axes, 'keys': list(grid.results), 'rows': rows,
            'missing': missing}


def write(out: Path, results: Dict[str, Any]) -> Path:
    """Write results.json and results.md; return the path of the first."""
    out.mkdir(parents=True, exist_ok=True)
    (out / 'results.md').write_text(results_markdown(results), encoding='utf-8')
    path = out / 'results.json'
    path.write_text(json.dumps(results, indent=2) + '\n', encoding='utf-8')
    return path


def results_markdown(results: Mapping[str, Any]) -> str:
    """Return the results as a table in Markdown, the cells without any named below it."""
    columns = tuple(Column(name, name) for name in (*results['axes'], *results['keys']))
    rows: Tuple[Row, ...] = tuple({name: _short(value) for name, value in row.items()}
                                  for row in results['rows'])
    missing = [Paragraph(f'Not done: {", ".join(results["missing"])}.')] \
        if results['missing'] else []
    return to_markdown(results['title'], [Table('Cells', columns, rows), *missing])


def _short(value: Any) -> Any:
    return f'{value:.4g}' if isinstance(value, float) else value


def _report(failed: Dict[str, str]) -> int:
    for name, line in failed.items():
        print(f'FAILED {name}: {line}', file=sys.stderr)
    return 1 if failed else 0


def _results(grid: Grid, folder: Path) -> Dict[str, Any]:
    return {key: read_value(folder, *where) for key, where in grid.results.items()}


def _run_cell(out: Path, grid: Grid, cell: Cell, environment: Dict[str, str]) -> str:
    """Run a cell's commands in a fresh folder; return '' or what went wrong, one line."""
    with _claim(out / 'locks', cell.name) as free:
        if not free:
            return 'another process is at work on it'
        if is_done(out, cell):
            return ''
        folder = out / 'cells' / cell.name
        if folder.exists():
            tqdm.write(f'{cell.name}: was not finished, starts anew; what there was lies in '
                       f'{_put_aside(out, folder)}')
        folder.mkdir(parents=True)
        started_s = time.perf_counter()
        with (folder / LOG).open('w', encoding='utf-8') as log:
            for command in cell.commands:
                words = [word.replace(f'{{{CELL}}}', str(folder)) for word in command]
                log.write(f'$ offline_train {shlex.join(words)}\n')
                log.flush()
                code = subprocess.run([*COMMAND, *words], stdin=subprocess.DEVNULL, stdout=log,
                                      stderr=log, env=environment, check=False).returncode
                if code:
                    return f'{command[0]} ended with {code}: {_last_line(folder / LOG)}'
        try:
            _results(grid, folder)
        except EvitSegError as error:
            return str(error)
        done = {'commands': [shlex.join(command) for command in cell.commands],
                'seconds': round(time.perf_counter() - started_s, 1)}
        (folder / DONE).write_text(json.dumps(done, indent=2) + '\n', encoding='utf-8')
        return ''


@contextmanager
def _claim(folder: Path, name: str) -> Iterator[bool]:
    """Tell whether a cell is this process's; a lock that its end, however it comes, gives up."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open('w', encoding='utf-8') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def _put_aside(out: Path, folder: Path) -> Path:
    number = 1
    while (target := out / 'unfinished' / f'{folder.name}_{number}').exists():
        number += 1
    target.parent.mkdir(parents=True, exist_ok=True)
    return folder.rename(target)


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in re.split(r'[\r\n]', log.read_text(errors='replace'))]
    return next((line for line in reversed(lines) if line), 'no output')
