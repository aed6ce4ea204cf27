# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Energy sensors read fake trees of /sys and /proc as the boards write them, to the microjoule."""
from __future__ import annotations

import builtins
from pathlib import Path
import sys
import threading
import types

from evit_seg.core.errors import InputError
from offline_train.measuring import energy, nvidia, power
import pytest

RAPL = 'sys/class/powercap/'
NEW = 'sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3/'
OLD = 'sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0/'
PMIC = """   VDD_CORE_A current(7)=2.50000000A
      EXT5V_V volt(24)=5.10000000V
   3V3_SYS_A current(1)=0.25000000A
   3V3_SYS_V volt(9)=3.30000000V
     VDD_CORE_V volt(15)=0.80000000V
       BATT_V volt(25)=0.00100000V
"""


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


def put_zone(tree, zone, name, energy, span=262143328850):
    return tree({'name': name, 'energy_uj': energy, 'max_energy_range_uj': span},
                f'{RAPL}{zone}/')


def test_rapl_counts_packages_and_memory_once(tree):
    put_zone(tree, 'intel-rapl:0', 'package-0', 5_000_000)
    put_zone(tree, 'intel-rapl:0:0', 'core', 1)
    put_zone(tree, 'intel-rapl:0:1', 'dram', 100)
    put_zone(tree, 'intel-rapl:1', 'psys', 1)
    root = put_zone(tree, 'intel-rapl-mmio:0', 'package-0', 1)
    sensor = power.open_rapl(root)
    assert sensor.name == 'rapl' and 'package-0, dram' in sensor.source
    assert sensor.joules() == 0
    for zone in ('intel-rapl:0:0', 'intel-rapl:1', 'intel-rapl-mmio:0'):
        tree({'energy_uj': 9_000_000}, f'{RAPL}{zone}/')
    tree({'energy_uj': 5_000_007}, f'{RAPL}intel-rapl:0/')
    tree({'energy_uj': 2_000_100}, f'{RAPL}intel-rapl:0:1/')
    assert sensor.joules() == pytest.approx(2.000007, abs=1e-12)


def test_rapl_wraps_around_to_the_microjoule(tree):
    root = put_zone(tree, 'intel-rapl:0', 'package-0', 999_990, span=1_000_000)
    sensor = power.open_rapl(root)
    tree({'energy_uj': 15}, f'{RAPL}intel-rapl:0/')
    assert sensor.joules() == pytest.approx(25e-6, abs=1e-12)
    tree({'energy_uj': 20}, f'{RAPL}intel-rapl:0/')
    tree({'energy_uj': 19}, f'{RAPL}intel-rapl:0/')
    assert sensor.joules() == pytest.approx(29e-6, abs=1e-12)
    tree({'energy_uj': 18}, f'{RAPL}intel-rapl:0/')
    assert sensor.joules() == pytest.approx(1.000028, abs=1e-12)


def test_a_counter_without_a_span_must_not_fall():
    values = iter((7, 3))
    sensor = power.CounterSensor('nvml', '', joules_per_unit=1e-3, period_s=1,
                                 counters=[(lambda: next(values), None)])
    with pytest.raises(InputError, match='fell from 7 to 3'):
        sensor.joules()


def test_no_permission_is_said_with_the_way_out(tree, monkeypatch):
    root = put_zone(tree, 'intel-rapl:0', 'package-0', 1)
    read_text = Path.read_text

    def refuse(self, *args, **kwargs):
        if self.name == 'energy_uj':
            raise PermissionError(13, 'Permission denied')
        return read_text(self, *args, **kwargs)
    monkeypatch.setattr(Path, 'read_text', refuse)
    found = power.find_sensor(root)
    assert found.sensor is None
    assert 'no permission to read' in found.reasons['rapl']
    assert 'sudo chmod a+r' in found.reasons['rapl']


def test_a_bare_machine_has_a_reason_for_every_sensor(tmp_path):
    found = power.find_sensor(tmp_path)
    assert found.sensor is None and set(found.reasons) == set(power.OPENERS)
    assert all(found.reasons[name].startswith('absent') for name in ('rapl', 'ina3221', 'pmic'))
    assert 'cpu' in found.reasons['nvml']
    found = power.find_sensor(tmp_path, 'cuda')
    assert found.reasons['nvml'].startswith('absent') and 'cuda' in found.reasons['rapl']


def jetson(tree, label='VDD_IN'):
    return tree({'in1_label': label, 'in1_input': 5000, 'curr1_input': 800,
                 'in2_label': 'VDD_CPU_GPU_CV', 'in2_input': 5000, 'curr2_input': 300,
                 'in3_label': 'NC', 'in3_input': 5000, 'curr3_input': 900,
                 'in7_label': 'sum of shunt voltages', 'in7_input': 5, 'curr4_input': 5}, NEW)


def test_ina3221_of_new_kernels_takes_the_board_rail(tree):
    sensor = power.open_ina3221(jetson(tree))
    assert 'VDD_IN' in sensor.source and 'VDD_CPU' not in sensor.source
    assert sensor.watts() == pytest.approx(4.0)


def test_ina3221_without_a_board_rail_sums_what_answers(tree):
    root = jetson(tree, 'VDD_GPU_SOC')
    other = NEW.replace('1-0040/hwmon/hwmon3', '1-0041/hwmon/hwmon4')
    tree({'in4_label': 'a shunt, in microvolts', 'in4_input': 9000}, NEW)
    tree({'in1_label': 'SWITCHED_OFF', 'curr1_input': 4, 'in2_label': 'VIN_SYS_5V0',
          'in2_input': 4968, 'curr2_input': 1000}, other)
    sensor = power.open_ina3221(root)
    assert 'sum of VDD_CPU_GPU_CV, VDD_GPU_SOC, VIN_SYS_5V0 ' in sensor.source
    assert sensor.watts() == pytest.approx(4.0 + 1.5 + 4.968)


def test_ina3221_of_jetpack_4_is_in_milliwatts(tree):
    root = tree({'rail_name_0': 'POM_5V_IN', 'in_power0_input': 2345,
                 'rail_name_1': 'POM_5V_GPU', 'in_power1_input': 100}, OLD)
    sensor = power.find_sensor(root).sensor
    assert sensor.name == 'ina3221' and 'POM_5V_IN' in sensor.source
    assert sensor.watts() == pytest.approx(2.345)


def test_a_rail_that_gives_no_number_is_said(tree):
    root = tree({'rail_name_0': 'POM_5V_IN', 'in_power0_input': 'x'}, OLD)
    with pytest.raises(power.SensorMissing, match="expected a number, got 'x'"):
        power.open_ina3221(root)


def put_program(root, name, script):
    tool = root / 'usr/bin' / name
    tool.parent.mkdir(parents=True, exist_ok=True)
    tool.write_text(f'#!/bin/sh\n{script}\n')
    tool.chmod(0o755)
    return root


def test_raspberry_pi_5_multiplies_matching_rails(tmp_path):
    put_program(tmp_path, 'vcgencmd', f'cat <<EOF\n{PMIC}EOF')
    sensor = power.find_sensor(tmp_path).sensor
    assert sensor.name == 'pmic'
    assert sensor.watts() == pytest.approx(2.5 * 0.8 + 0.25 * 3.3)  # EXT5V and BATT: no current


def test_an_older_raspberry_pi_says_what_it_answered(tmp_path):
    put_program(tmp_path, 'vcgencmd', 'echo \'error=1 error_msg="Command not registered"\'')
    assert 'Command not registered' in power.find_sensor(tmp_path).reasons['pmic']


def test_power_is_integrated_by_trapezoids():
    readings, times = iter((2.0, 4.0, 10.0)), iter((0.0, 1.5, 2.0))
    sensor = power.PowerSensor('x', '', lambda: next(readings), period_s=1,
                               clock=lambda: next(times))
    assert sensor.joules() == pytest.approx(3.0 * 1.5)
    assert sensor.joules() == pytest.approx(4.5 + 7.0 * 0.5)


class Steps:
    """A sensor of one joule more at each reading; fails from the given reading on."""

    name, source, period_s = 'steps', 'a test', 1e-3

    def __init__(self, fail_from=None, wake_at=None):
        self.readings, self.fail_from, self.wake_at = 0, fail_from, wake_at
        self.awake = threading.Event()

    def joules(self):
        self.readings += 1
        if self.readings == self.wake_at:
            self.awake.set()
        if self.fail_from is not None and self.readings >= self.fail_from:
            raise OSError(5, 'Input/output error')
        return float(self.readings)


def test_the_meter_keeps_reading_during_its_block():
    sensor = Steps(wake_at=5)
    with power.EnergyMeter(sensor, iter((10.0, 12.5)).__next__) as meter:
        assert sensor.awake.wait(timeout=30)
    assert meter.joules == sensor.readings - 1 >= 4 and meter.seconds == 2.5
    assert not meter.failure


@pytest.mark.parametrize('fail_from', [1, 2])
def test_a_sensor_that_stops_gives_no_energy(fail_from):
    with power.EnergyMeter(Steps(fail_from)) as meter:
        pass
    assert meter.joules is None and 'steps stopped answering' in meter.failure


def test_a_gap_in_the_readings_gives_no_energy_either():
    sensor = Steps(fail_from=2, wake_at=4)  # at the fourth the second is known to have failed
    with power.EnergyMeter(sensor) as meter:
        assert sensor.awake.wait(timeout=30)
        sensor.fail_from = None
    assert meter.joules is None


class Exact:
    """Three watts at rest and ten while a call is on, on a clock that the calls move."""

    name, source, period_s = 'exact', 'a test', 3600.0

    def __init__(self):
        self.now_s = self.energy_j = 0.0

    def joules(self):
        return self.energy_j

    def clock(self):
        return self.now_s

    def spend(self, seconds, watts):
        self.now_s += seconds
        self.energy_j += seconds * watts


def test_energy_per_frame_and_above_idle_by_hand():
    sensor = Exact()
    calls = [lambda: sensor.spend(0.5, 10.0), lambda: sensor.spend(1.0, 10.0)]
    first, second = energy.measure_energy(
        calls, power.Found(sensor, {}), seconds=4, idle_seconds=2, clock=sensor.clock,
        sleep=lambda seconds: sensor.spend(seconds, 3.0))
    assert first == {'energy_mj_per_frame': 5000.0, 'energy_above_idle_mj_per_frame': 3500.0,
                     'energy_source': 'exact: a test',
                     'energy': {'watts': 10.0, 'seconds': 4.0, 'frames': 8, 'idle_watts': 3.0}}
    assert second['energy_mj_per_frame'] == 10000.0 and second['energy']['frames'] == 4


def test_energy_without_idle_or_without_sensor_is_not_made_up():
    sensor = Exact()
    only, = energy.measure_energy([lambda: sensor.spend(0.5, 10.0)],
                                  power.Found(sensor, {}), seconds=1, idle_seconds=0,
                                  clock=sensor.clock)
    assert only['energy_mj_per_frame'] == 5000.0
    assert only['energy_above_idle_mj_per_frame'] is None
    none, = energy.measure_energy([pytest.fail], power.Found(None, {'rapl': 'absent: x'}),
                                  seconds=1, idle_seconds=1)
    assert none == {'energy_mj_per_frame': None, 'energy_above_idle_mj_per_frame': None,
                    'energy_source': 'none (rapl: absent: x)', 'energy': None}


@pytest.mark.parametrize('fail_from', [2, 4])
def test_a_sensor_lost_on_the_way_takes_the_energy_with_it(fail_from):
    sensor = Steps(fail_from)
    sensor.period_s = 3600.0
    lost, = energy.measure_energy([lambda: None], power.Found(sensor, {}), seconds=0,
                                  idle_seconds=1, sleep=lambda seconds: None)
    assert lost['energy_mj_per_frame'] is None and 'stopped answering' in lost['energy_source']


def fake_nvml(energy):
    """Return a module like pynvml: GPU 1 with 2 GB in use, process 42 on it, 50 W."""
    module = types.ModuleType('pynvml')
    module.NVMLError = type('NVMLError', (Exception,), {})

    def total_energy(handle):
        if energy is None:
            raise module.NVMLError('Not Supported')
        return next(energy)
    module.nvmlInit = lambda: None
    module.nvmlDeviceGetHandleByIndex = lambda index: f'handle {index}'
    module.nvmlDeviceGetName = lambda handle: handle.encode()
    module.nvmlDeviceGetMemoryInfo = lambda handle: types.SimpleNamespace(used=2_000_000_000)
    module.nvmlDeviceGetComputeRunningProcesses = lambda handle: [
        types.SimpleNamespace(pid=7, usedGpuMemory=None),
        types.SimpleNamespace(pid=42, usedGpuMemory=500_000_000)]
    module.nvmlDeviceGetPowerUsage = lambda handle: 50_000
    module.nvmlDeviceGetTotalEnergyConsumption = total_energy
    return module


def test_nvml_counts_millijoules_of_the_visible_gpu(tree, monkeypatch):
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '1,0')
    monkeypatch.setitem(sys.modules, 'pynvml', fake_nvml(iter((0, 1000, 3500))))
    root = tree({'dev/nvidiactl': ''})
    sensor = power.find_sensor(root, 'cuda').sensor
    assert 'energy counter of handle 1 ' in sensor.source
    assert sensor.joules() == pytest.approx(2.5)
    monkeypatch.setitem(sys.modules, 'pynvml', fake_nvml(None))
    gpu = nvidia.open_gpu(root)
    assert (gpu.used_mb(), gpu.process_mb(42), gpu.process_mb(7), gpu.process_mb(1)) == (
        2000.0, 500.0, None, None)
    sensor = power.open_nvml(root)
    assert 'power reading' in sensor.source and sensor.watts() == 50.0


SMI = """case "$*" in
*--id=0*query-gpu=name*) echo 'NVIDIA T4' ;;
*query-gpu=power.draw*) echo '{power}' ;;
*query-gpu=memory.used*) echo 1000 ;;
*query-compute-apps=pid,used_memory*) echo '42, 250' ;;
esac"""


def without_pynvml(monkeypatch):
    """Make `import pynvml` fail, whether it is installed or not."""
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name == 'pynvml':
            raise ImportError(name)
        return real(name, *args, **kwargs)
    monkeypatch.setattr(builtins, '__import__', refuse)
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)


def test_nvidia_smi_stands_in_for_pynvml(tree, monkeypatch):
    without_pynvml(monkeypatch)
    root = put_program(tree({'dev/nvidiactl': ''}), 'nvidia-smi', SMI.format(power='70.25'))
    gpu = nvidia.open_gpu(root)
    assert gpu.name == 'NVIDIA T4' and gpu.millijoules is None
    assert gpu.used_mb() == pytest.approx(1048.576)
    assert gpu.process_mb(42) == pytest.approx(262.144) and gpu.process_mb(7) is None
    assert power.open_nvml(root).watts() == 70.25


def test_a_gpu_that_tells_no_power_is_no_sensor(tree, monkeypatch):
    without_pynvml(monkeypatch)
    root = put_program(tree({'dev/nvidiactl': ''}), 'nvidia-smi', SMI.format(power='[N/A]'))
    assert 'neither energy nor power' in power.find_sensor(root, 'cuda').reasons['nvml']
    put_program(root, 'nvidia-smi', 'echo broken driver; exit 9')
    assert 'ended with 9: broken driver' in power.find_sensor(root, 'cuda').reasons['nvml']
    (root / 'usr/bin/nvidia-smi').unlink()
    assert 'pip install nvidia-ml-py' in power.find_sensor(root, 'cuda').reasons['nvml']
