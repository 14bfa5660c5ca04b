"""Exponents are those of exact laws, memory is that of known allocations, and the command writes where it is told.

No time is judged: where seconds matter, the work itself moves the clock.
"""

import itertools
import json
import os

import numpy as np
import pytest
import torch

from shared import scaling
from shared.peak_memory import rise_bytes, rise_bytes_apart
from shared.scaling import (
    Growth,
    command,
    fitted,
    judged_fit,
    measure,
    picture,
    timed_rounds,
    write_picture,
)
from shared.testing.benchmarks import hold_growths

SIZES = (10, 20, 50, 100, 200)
MIB = 1 << 20


class Clock:
    """Stands for the module `time`: every call of `process_time` costs nothing, `spend` costs what it says."""

    def __init__(self):
        self.now_s = 0.0

    def process_time(self) -> float:
        return self.now_s

    def spend(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(scaling, "time", clock)
    return clock


# --- fits -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("power", [-1.0, 0.0, 0.5, 1.0, 2.0])
def test_a_power_law_gives_its_power_exactly(power):
    fit = fitted(SIZES, [3e-3 * size**power for size in SIZES])
    assert fit.exponent == pytest.approx(power, abs=1e-12) and fit.error == pytest.approx(0, abs=1e-12)


def test_exponent_and_error_are_numpys():
    values = np.array(SIZES) ** 1.3 * np.exp(np.random.default_rng(0).normal(0, 0.2, len(SIZES)))
    coefficients, covariance = np.polyfit(np.log(SIZES), np.log(values), 1, cov=True)
    fit = fitted(SIZES, values.tolist())
    assert fit.exponent == pytest.approx(coefficients[0]) and fit.error == pytest.approx(covariance[0, 0] ** 0.5)


@pytest.mark.parametrize("values", [[1.0, 2.0], [1.0, 0.0, 2.0], [1.0, -1.0, 2.0]])
def test_what_has_no_exponent_is_refused(values):
    with pytest.raises(ValueError, match="above 0"):
        fitted((1, 2, 3)[: len(values)], values)
    with pytest.raises(ValueError, match="three sizes"):
        fitted((1, 2, 3, 4), values)


@pytest.mark.parametrize(("expected", "above"), [(1.0, True), (1.9, False), (2.0, False), (2.5, False)])
def test_growth_above_the_expected_is_seen(expected, above):
    assert judged_fit(SIZES, [size**2 for size in SIZES], expected)["above"] is above


def test_growth_that_a_constant_cost_hides_is_seen_at_the_large_end():
    fit = judged_fit(SIZES, [3000 + size**2 for size in SIZES], 1.0)
    assert fit["exponent"] < 1 < fit["largest_exponent"] and fit["above"]
    assert not judged_fit(SIZES, [3000 + 10 * size for size in SIZES], 1.0)["above"]


def test_noise_is_not_growth():
    fit = judged_fit(SIZES, [5, 40, 30, 150, 260], 1.0)
    assert fit["exponent"] > 1.15 and not fit["above"]


def test_what_is_too_small_is_left_out():
    fit = judged_fit(SIZES, [0, 0, 50, 100, 200], 1.0)
    assert (fit["exponent"], fit["error"]) == (1.0, 0.0)
    assert judged_fit(SIZES, [0, 0, 0, 100, 200], 1.0) is None


# --- measuring --------------------------------------------------------------------------------------------------------


def test_seconds_are_of_one_call_and_rounds_go_through_all_sizes(clock):
    called = []

    def action(size):
        return lambda: (called.append(size), clock.spend(0.008 * size))

    assert timed_rounds([action(1), action(5)], 2) == [[pytest.approx(0.008), pytest.approx(0.04)]] * 2
    assert called == [1, 5, *[1] * 3, 5, *[1] * 3, 5]  # once each to see how long; then 0.02 s at least


def test_a_row_holds_the_median_and_both_fits(clock):
    spent = itertools.cycle([1.0, 1.0, 1.0, 9.0])  # one round in between is disturbed

    def prepare(size):
        held = []

        def work():
            held[:] = [bytearray(size * MIB)]
            clock.spend(size**2 * next(spent))

        return work

    row = measure(Growth("w", "things", (16, 32, 64), prepare, time_power=1.0), rounds=5)
    assert row["sizes"] == [16, 32, 64] and row["time"]["above"] is True
    assert row["time"]["exponent"] == pytest.approx(2.0, abs=0.6)
    assert row["memory"]["exponent"] == pytest.approx(1.0, abs=0.2) and not row["memory"]["above"]
    assert json.loads(json.dumps(row)) == row


def test_operations_tell_a_slower_machine_from_more_work(clock):
    """Time grows with the square, operations with the size: ten times as long for each at ten times the size."""
    growth = Growth("w", "things", SIZES, lambda size: lambda: clock.spend(1e-9 * size**2), why="of caches",
                    operations=lambda size: 2 * size)  # fmt: skip
    row = measure(growth, rounds=1)
    assert row["operations"]["counts"] == [20, 40, 100, 200, 400] and row["operations"]["exponent"] == 1.0
    assert row["why"] == "of caches (exponent 1.00; 5 ns each at the smallest size, 1e+02 at the largest)"
    assert row["why"] in scaling.described(row)


def test_memory_too_small_to_be_seen_has_no_exponent(clock):
    row = measure(Growth("w", "things", SIZES, lambda size: lambda: clock.spend(size)), rounds=1)
    assert row["memory"] is None and row["time"]["exponent"] == pytest.approx(1.0)


@pytest.mark.parametrize("mib", [16, 64])
@pytest.mark.parametrize("make", [lambda mib: bytearray(mib * MIB), lambda mib: torch.ones(mib * MIB // 4)])
def test_the_rise_is_what_was_held_at_most(make, mib):
    make(1)  # its code is in memory now
    assert rise_bytes(lambda: make(mib)) == pytest.approx(mib * MIB, abs=4 * MIB)
    assert rise_bytes_apart(lambda: (make(1), lambda: make(mib))[1]) == pytest.approx(mib * MIB, abs=4 * MIB)


def test_what_was_held_before_does_not_count():
    def prepare():
        kept = torch.ones(64 * MIB // 4)
        return lambda: (kept, bytearray(16 * MIB))

    assert rise_bytes_apart(prepare) == pytest.approx(16 * MIB, abs=4 * MIB)


def test_a_fork_may_use_torch_after_its_caller_used_its_threads(threads_at_work):
    assert rise_bytes_apart(lambda: lambda: torch.ones(4 * MIB).mul(2)) > 0


def test_a_fork_that_dies_is_told():
    with pytest.raises(RuntimeError, match="ended with 3"):
        rise_bytes_apart(lambda: os._exit(3))


@pytest.mark.parametrize("sizes", [(1, 2, 3, 10), (1, 2, 3, 4, 9), (1, 2, 2, 5, 10), (1, 5, 2, 7, 10)])
def test_sizes_that_show_no_growth_are_refused(sizes):
    hold_growths([Growth("w", "things", (1, 2, 5, 7, 10), lambda size: lambda: None)])
    with pytest.raises(ValueError, match="rise over a decade"):
        hold_growths([Growth("w", "things", sizes, lambda size: lambda: None)])


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def script(tmp_path, clock):
    """(run, folder): the command of a package with two growths."""

    def growths():
        return [Growth(name, "things", SIZES, lambda size: lambda: clock.spend(size)) for name in ("first", "second")]

    path = tmp_path / "toy" / "benchmarks" / "scaling.py"
    return (lambda *argv: command(growths, path, "text", argv, ("numpy",))), tmp_path


def written(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*.*")}


def test_a_quick_run_is_short_and_writes_only_where_it_is_told(script, capsys):
    run, folder = script
    assert run("--quick") == 0 and not written(folder)
    assert run("--quick", "--out", str(folder / "own.json"), "--pictures", str(folder / "own")) == 0
    assert written(folder) == {"own.json", "own/toy_scaling.png"}
    results = json.loads((folder / "own.json").read_text())["results"]
    assert [row["sizes"] for row in results["growths"]] == [list(SIZES[:3])] * 2 and results["rounds"] == 1
    assert "first, 10 to 50 things; time exponent 1.00 ± 0.00" in capsys.readouterr().out


def test_a_whole_run_writes_its_record_and_its_picture(script):
    run, folder = script
    assert run("--rounds", "1", "--out", str(folder / "own.json")) == 0 and written(folder) == {"own.json"}
    (folder / "own.json").unlink()
    assert run("--rounds", "2") == 0
    assert written(folder) == {"toy/benchmarks/results/scaling.json", "docs/toy_scaling.png"}
    record = json.loads((folder / "toy/benchmarks/results/scaling.json").read_text())
    assert record["benchmark"] == "scaling" and record["results"]["growths"][0]["sizes"] == list(SIZES)
    assert record["hardware"]["threads"] == 1


def test_the_picture_of_four_growths_is_small(tmp_path):
    rng = np.random.default_rng(0)
    rows = []
    for number in range(4):
        values = (np.array(SIZES) ** 1.1 * rng.lognormal(0, 0.1, len(SIZES))).tolist()
        rows.append({"what": f"work number {number}, by something of it", "unit": "things", "sizes": SIZES,
                     "seconds": values, "peak_bytes": [0, *values[1:]], "time": judged_fit(SIZES, values, 1),
                     "memory": judged_fit(SIZES, [0, *values[1:]], 1) if number else None})  # fmt: skip
    write_picture(tmp_path / "docs" / "x.png", picture(rows, "a_package"))
    assert 5_000 < (tmp_path / "docs" / "x.png").stat().st_size < 60_000
