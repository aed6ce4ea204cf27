# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Machine facts come from /proc and /sys as the boards write them, and absence stays absence."""
from __future__ import annotations

from evit_seg.core.machine import (
    machine_facts,
    process_memory_mb,
    system_memory_mb,
    thermal_state,
)
import pytest


@pytest.fixture
def tree(tmp_path):
    """Return a writer of files under an empty root."""
    def write(path, text):
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return tmp_path
    return write


def test_an_empty_machine_has_no_facts_of_its_own(tmp_path):
    facts = machine_facts(tmp_path)
    assert [facts[key] for key in ('board', 'governor', 'power_mode', 'memory_mb')] == [None] * 4
    assert facts['cores'] >= 1
    assert thermal_state(tmp_path) == {'temperature_c': {}, 'cpu_mhz': [], 'cpu_max_mhz': [],
                                       'throttled': None}
    assert process_memory_mb(tmp_path) == {'rss': None, 'peak_rss': None, 'swap': None}


def test_a_jetson_says_board_governors_and_power_mode(tree):
    tree('proc/device-tree/model', 'NVIDIA Jetson Nano Developer Kit\0')
    tree('sys/devices/system/cpu/cpu0/cpufreq/scaling_governor', 'schedutil\n')
    tree('sys/devices/system/cpu/cpu1/cpufreq/scaling_governor', 'schedutil\n')
    tree('etc/nvpmodel.conf', '< POWER_MODEL ID=0 NAME=MAXN >\nX\n< POWER_MODEL ID=1 NAME=5W >\n')
    facts = machine_facts(tree('var/lib/nvpmodel/status', 'pmode:0001 fmode:quiet\n'))
    assert facts['board'] == 'NVIDIA Jetson Nano Developer Kit'
    assert facts['governor'] == 'schedutil'
    assert facts['power_mode'] == '1 5W'


def test_a_power_mode_without_a_name_is_its_number(tree):
    assert machine_facts(tree('var/lib/nvpmodel/status', 'pmode:0002\n'))['power_mode'] == '2'


def test_memory_is_in_megabytes_of_a_million_bytes(tree):
    tree('proc/self/status', 'Name:\tpython\nVmHWM:\t  2000000 kB\nVmRSS:\t  1000000 kB\n'
                             'VmSwap:\t     500 kB\n')
    root = tree('proc/meminfo', 'MemTotal:  4000000 kB\nMemFree: 100 kB\nMemAvailable: 1000000 kB'
                                '\nSwapTotal: 2000 kB\nSwapFree: 500 kB\n')
    assert process_memory_mb(root) == {'rss': 1024.0, 'peak_rss': 2048.0, 'swap': 0.5}
    assert system_memory_mb(root) == {'total': 4096.0, 'used': 3072.0, 'swap_used': 1.5}
    assert machine_facts(root)['memory_mb'] == 4096.0


def test_this_process_has_memory():
    memory = process_memory_mb()
    assert memory['peak_rss'] >= memory['rss'] > 1
    assert system_memory_mb()['total'] > system_memory_mb()['used'] > 0


def test_heat_and_clocks(tree):
    tree('sys/class/thermal/thermal_zone0/type', 'cpu-thermal\n')
    tree('sys/class/thermal/thermal_zone0/temp', '61250\n')
    tree('sys/class/thermal/thermal_zone1/type', 'cpu-thermal\n')
    tree('sys/class/thermal/thermal_zone1/temp', '-4000\n')
    tree('sys/class/thermal/thermal_zone2/type', 'silent\n')
    tree('sys/devices/platform/soc/soc:firmware/get_throttled', '50005\n')
    for policy, clock in ((0, 1500000), (4, 1800000)):
        tree(f'sys/devices/system/cpu/cpufreq/policy{policy}/scaling_cur_freq', f'{clock}\n')
        root = tree(f'sys/devices/system/cpu/cpufreq/policy{policy}/cpuinfo_max_freq', '2400000\n')
    assert thermal_state(root) == {
        'temperature_c': {'cpu-thermal': 61.25, 'cpu-thermal 1': -4.0},
        'cpu_mhz': [1500.0, 1800.0], 'cpu_max_mhz': [2400.0, 2400.0], 'throttled': '50005'}
