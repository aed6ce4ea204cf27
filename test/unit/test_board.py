# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What the diagnostics say of a board, on imitations of the kernel's trees."""
from __future__ import annotations

from evit_seg.core.machine import throttling
from evit_seg.ros.board import Board
import pytest

CPUFREQ = 'sys/devices/system/cpu/cpufreq/'
THERMAL = 'sys/class/thermal/'
PI = 'sys/devices/platform/soc/soc:firmware/get_throttled'
INA3221 = 'sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3/'
RAPL = 'sys/class/powercap/intel-rapl:0/'


@pytest.fixture
def tree(tmp_path):
    """Return a writer of {path: text} under an empty root, which it returns."""
    def put(files, prefix=''):
        for path, text in files.items():
            file = tmp_path / (prefix + path)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f'{text}\n')
        return tmp_path
    return put


def test_a_board_that_tells_nothing_says_why_there_is_no_power(tmp_path):
    values = Board(tmp_path).values(1.0)
    assert list(values) == ['power W']
    assert values['power W'].startswith('not readable: absent: ')
    assert 'ina3221' in values['power W'] and 'intel-rapl' in values['power W']


def test_this_machine_has_memory():
    assert float(Board().values(1.0)['resident memory MB']) > 1


def test_a_jetson_tells_heat_clock_and_the_power_of_the_module(tree):
    tree({'thermal_zone0/type': 'CPU-therm', 'thermal_zone0/temp': 71500,
          'thermal_zone1/type': 'GPU-therm', 'thermal_zone1/temp': -1500,
          'thermal_zone2/type': 'asleep', 'thermal_zone2/temp': '',
          'cooling_device0/type': 'thermal-cpufreq-0', 'cooling_device0/cur_state': 3,
          'cooling_device0/max_state': 9,
          'cooling_device1/type': 'pwm-fan', 'cooling_device1/cur_state': 2,
          'cooling_device1/max_state': 4}, THERMAL)
    tree({'policy0/scaling_cur_freq': 1190400, 'policy0/cpuinfo_max_freq': 1984000,
          'policy4/scaling_cur_freq': 1984000, 'policy4/cpuinfo_max_freq': 1984000}, CPUFREQ)
    board = Board(tree({'in1_label': 'VDD_IN', 'in1_input': 5000, 'curr1_input': 1000}, INA3221))
    values = board.values(10.0)
    assert values.pop('power W').startswith('not known before the next report')
    assert values == {
        'temperature CPU-therm C': '71.5', 'temperature GPU-therm C': '-1.5',
        'CPU clock MHz': '1190 of 1984, 1984 of 1984', 'throttling': 'thermal-cpufreq-0 at 3 of 9'}


def test_power_is_the_mean_since_the_last_report(tree):
    files = {'name': 'package-0', 'energy_uj': 7_000_000, 'max_energy_range_uj': 262143328850}
    board = Board(tree(files, RAPL))
    board.values(10.0)
    tree({'energy_uj': 31_000_000}, RAPL)
    assert board.values(12.0)['power W'].startswith('12.00 (RAPL counters of package-0')
    (tree({}) / RAPL / 'energy_uj').unlink()
    assert board.values(13.0)['power W'].startswith('not readable: ')


@pytest.mark.parametrize(('flags', 'said'), [
    ('0', []), ('50000', ['too low a voltage since boot', 'throttled since boot']),
    ('50005', ['too low a voltage now', 'throttled now']),
    ('0x20002', ['clock capped now']), ('80000', ['soft temperature limit since boot']),
    ('e0008', ['soft temperature limit now', 'clock capped since boot',
               'throttled since boot'])])
def test_the_flags_of_a_raspberry_pi_in_words(tree, flags, said):
    root = tree({PI: flags})
    assert throttling(root) == said
    assert Board(root).values(1.0)['throttling'] == (', '.join(said) or 'none')


def test_a_machine_that_tells_nothing_of_throttling(tmp_path):
    assert throttling(tmp_path) is None
