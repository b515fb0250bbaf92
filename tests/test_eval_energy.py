"""Counters of a made-up machine, and the power model by hand."""

from pathlib import Path

import pytest

from eval.energy import Meter, Reading, estimated_joules


def zone(powercap: Path, folder: str, name: str, energy: int | str, limit: int = 1_000_000_000) -> Path:
    made = powercap / folder
    made.mkdir(parents=True)
    (made / "name").write_text(f"{name}\n")
    (made / "energy_uj").write_text(f"{energy}\n")
    (made / "max_energy_range_uj").write_text(f"{limit}\n")
    return made


def test_packages_and_memory_are_added_and_their_parts_are_not(tmp_path: Path) -> None:
    package = zone(tmp_path, "intel-rapl:0", "package-0", 5_000_000)
    memory = zone(tmp_path, "intel-rapl:0:1", "dram", 1_000_000)
    core = zone(tmp_path, "intel-rapl:0:0", "core", 3_000_000)
    platform = zone(tmp_path, "intel-rapl:1", "psys", 9_000_000)
    meter = Meter(tmp_path)
    before = meter.read()
    for counter, value in ((package, 7_500_000), (memory, 1_250_000), (core, 5_000_000), (platform, 99_000_000)):
        (counter / "energy_uj").write_text(str(value))
    spent = meter.since(before)
    assert spent.joules == pytest.approx(2.75)
    assert spent.cores >= 1 and spent.cpu_seconds >= 0


def test_a_counter_that_starts_again_has_gone_on(tmp_path: Path) -> None:
    package = zone(tmp_path, "intel-rapl:0", "package-0", 9_000_000, limit=10_000_000)
    meter = Meter(tmp_path)
    before = meter.read()
    (package / "energy_uj").write_text("500000")
    assert meter.since(before).joules == pytest.approx(1.5)


def test_counters_that_cannot_be_read_measure_nothing(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0", "permission denied")
    for powercap in (tmp_path, tmp_path / "missing"):
        meter = Meter(powercap)
        assert meter.since(meter.read()).joules is None


def test_a_counter_that_vanishes_meanwhile_measures_nothing(tmp_path: Path) -> None:
    package = zone(tmp_path, "intel-rapl:0", "package-0", 1)
    meter = Meter(tmp_path)
    before = meter.read()
    (package / "energy_uj").unlink()
    assert meter.since(before).joules is None


def test_cpu_seconds_are_those_of_the_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("eval.energy.time.process_time", lambda: 12.5)
    assert Meter(tmp_path).since(Reading(10.0, ())).cpu_seconds == 2.5


def test_the_power_model_by_hand() -> None:
    # 2 cores for 10 s at 1 W, and 3 W more for 5 core-seconds of computing.
    assert estimated_joules(seconds=10, cpu_seconds=5, cores=2, idle=1.0, active=4.0) == 35.0
    # Nobody measured: both cores computed all the time.
    assert estimated_joules(seconds=10, cpu_seconds=None, cores=2, idle=1.0, active=4.0) == 80.0
    # No more than all cores all the time, however the clocks disagree.
    assert estimated_joules(seconds=10, cpu_seconds=21, cores=2, idle=1.0, active=4.0) == 80.0
    assert estimated_joules(seconds=1, cpu_seconds=1, cores=1) == 3.5
