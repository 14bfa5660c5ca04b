"""docs/benchmarks.md is what its generator makes of the committed records, and names every benchmark; what is said of a
toy package; and that `make bench` goes on after a failure and `make demo-all` runs the READMEs' demos."""

import json
import os
import re
import signal
import subprocess
import time

import pytest
from workspace import MEMBERS, ROOT

from shared.benchmark import compared
from shared.benchmark_page import NO_MEASUREMENT, main, page, records_of
from shared.errors import DataError

PAGE = ROOT / "docs" / "benchmarks.md"
AGAIN = "run `python -m shared.benchmark_page` and commit the page with the records"
SCRIPTS = sorted(path for path in ROOT.glob("*/benchmarks/*.py") if path.name != NO_MEASUREMENT)


def test_the_page_is_that_of_the_committed_records():
    assert page(records_of(ROOT), PAGE.parent) == PAGE.read_text(), AGAIN


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_benchmark_is_on_the_page(script):
    _, section = PAGE.read_text().split(f"## {script.parents[1].name}\n")
    assert f"`python benchmarks/{script.name}" in section.split("\n## ")[0], AGAIN


# --- a toy package ----------------------------------------------------------------------------------------------------


@pytest.fixture
def toy(tmp_path):
    """(write, text): write(name, ..) puts a record of toy/benchmarks, text() is the page of all in tmp_path/docs."""
    folder = tmp_path / "toy" / "benchmarks"
    (folder / "results").mkdir(parents=True)
    (tmp_path / "docs").mkdir()
    for name in ("speed.py", "memory.py", NO_MEASUREMENT):
        (folder / name).touch()

    def write(name, results, command=("speed.py",), **changed):
        hardware = {"cpu": "A CPU", "cores": 2, "threads": 1, "gpus": []}
        found = {"date_utc": "2026-11-22T03:32:31+00:00", "commit": "0123456789abcdef-dirty", "command": list(command),
                 "hardware": hardware, "results": results, **changed}  # fmt: skip
        (folder / "results" / f"{name}.json").write_text(json.dumps(found))

    return write, lambda: page(records_of(tmp_path), tmp_path / "docs")


def cells(text, what):
    """The cells of the only row that says `what` in its third column."""
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    (row,) = [row for row in rows if len(row) > 4 and row[2] == what]
    return row


GOOD = compared("fast", 1153.4, 80.25, "ms", 14.37, at_least=10)
BAD = compared("slow | wide", 100.0, 30.0, "MiB", 0.3, at_most=0.25)


def test_a_row_says_all_that_is_measured(toy):
    write, text = toy
    write("speed", {"ratios": [GOOD]}, ("speed.py", "--out", "somewhere/x.json", "--rounds", "3"))
    what, where = ["14.4", "≥ 10 reached", "fast", "1,153 ms", "80.2 ms"], ["A CPU, 2 cores, 1 thread", "0123456-dirty"]
    assert cells(text(), "fast") == [*what, *where, "2026-11-22", "`python benchmarks/speed.py --rounds 3`"]
    assert "**1 targets reached, 0 missed; 1 to be run again.**" in text()
    assert "- `python benchmarks/memory.py`: no record" in text() and NO_MEASUREMENT not in text()


def test_a_missed_target_stands_first_and_above_all_packages(toy):
    write, text = toy
    write("speed", {"ratios": [GOOD, BAD, compared("only told", None, 3.0, "days", None)]})
    found = text()
    assert "| toy | slow \\| wide | **0.3** | ≤ 0.25 |" in found.split("## toy")[0]
    section = found.split("## toy")[1]
    assert section.index("**MISSED**") < section.index("fast") and section.count("MISSED") == 1
    assert cells(found, "only told")[:5] == ["–", "–", "only told", "–", "3 days"]
    assert "**1 targets reached, 1 missed;" in found


@pytest.mark.parametrize(("results", "command"), [({"ratio": 3.0}, ("speed.py",)),
                                                  ({"ratios": [GOOD]}, ("speed.py", "--quick"))])  # fmt: skip
def test_an_old_or_a_quick_record_claims_nothing(toy, results, command):
    write, text = toy
    write("speed", results, command)
    assert "fast" not in text() and "**0 targets reached, 0 missed; 2 to be run again.**" in text()
    assert f"- `python benchmarks/{' '.join(command)}`: its record is of 2026-11-22, 0123456-dirty" in text()


def test_evidence_is_linked_and_not_a_benchmark(toy):
    write, text = toy
    write("speed", {"ratios": [GOOD]})
    write("demo", {"anything": 1}, ("train.py", "--demo"))
    (line,) = [line for line in text().splitlines() if "demo.json" in line]
    assert line == "- [demo.json](../toy/benchmarks/results/demo.json)"


def test_growth_has_its_own_table_and_picture(toy, tmp_path):
    write, text = toy
    fit = {
        "exponent": 1.5,
        "error": 0.04,
        "largest_exponent": 1.9,
        "largest_error": 0.1,
        "expected": 1.0,
        "above": True,
    }
    row = {"what": "work", "unit": "things", "why": "", "sizes": [10, 20, 2000], "seconds": [1, 2, 3],
           "peak_bytes": [1, 2, 3], "time": fit, "memory": None}  # fmt: skip
    write("speed", {"ratios": [], "growths": [row]})
    line = "| work | 10 to 2,000 things | 1.50 ± 0.04 (largest sizes 1.90; **above 1**) | too small to be seen | – |"
    assert line in text() and "toy_scaling.png" not in text()
    assert "Measured by `python benchmarks/speed.py` on A CPU, 2 cores, 1 thread, commit 0123456-dirty" in text()
    (tmp_path / "docs" / "toy_scaling.png").touch()
    assert "](toy_scaling.png)" in text()


@pytest.mark.parametrize(("results", "changed"), [(None, {}), ({"ratios": [{"what": "x"}]}, {}),
                                                  ({"ratios": [GOOD]}, {"hardware": {}})])  # fmt: skip
def test_a_damaged_record_is_named(toy, results, changed):
    write, text = toy
    write("speed", results, **changed)
    with pytest.raises(DataError, match=r"speed\.json is damaged.*run its script again"):
        text()


def test_the_command_writes_the_page_of_the_files_it_is_given(toy, tmp_path, capsys):
    write, text = toy
    write("speed", {"ratios": [GOOD]})
    out = tmp_path / "docs" / "benchmarks.md"
    assert main(["--out", str(out), *map(str, records_of(tmp_path))]) == 0
    assert out.read_text() == text() and f"wrote {out}" in capsys.readouterr().out


# --- the Makefile -----------------------------------------------------------------------------------------------------

# Ends with 130 when it is interrupted, as `run_command` does.
PYTHON = """#!/bin/sh
echo "$@" >> ran
case "$1" in *bad.py) exit 3;; *slow.py) trap 'exit 130' INT; touch slow; sleep 20 & wait;; esac
"""


def heed_interrupts():
    """In the child: a shell that was started in the background would leave SIGINT ignored for good."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def bench(tmp_path):
    """(start, ran): `make bench` on a toy workspace with an interpreter that notes what it is told."""
    (tmp_path / "Makefile").write_text((ROOT / "Makefile").read_text())
    (tmp_path / "toy" / "benchmarks").mkdir(parents=True)
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(PYTHON)
    python.chmod(0o755)

    def start(*names):
        for name in names:
            (tmp_path / "toy" / "benchmarks" / name).touch()
        return subprocess.Popen(["make", "bench", "UV=true"], cwd=tmp_path, stdout=subprocess.PIPE, text=True,
                                start_new_session=True, preexec_fn=heed_interrupts)  # fmt: skip

    return start, lambda: [line.rpartition("/")[2] for line in (tmp_path / "ran").read_text().splitlines()]


def test_bench_goes_on_after_a_failure_and_tells_it(bench):
    start, ran = bench
    done = start("a.py", "bad.py", "c.py", NO_MEASUREMENT)
    printed = done.communicate(timeout=30)[0]
    assert done.returncode != 0 and "failed: toy/benchmarks/bad.py\n" in printed
    assert ran() == ["a.py", "bad.py", "c.py", "-m shared.benchmark_page"]


def test_bench_ends_with_0_when_all_did(bench):
    start, ran = bench
    done = start("a.py", "c.py")
    assert done.wait(timeout=30) == 0 and ran() == ["a.py", "c.py", "-m shared.benchmark_page"]


def test_bench_stops_when_it_is_told(bench, tmp_path):
    start, ran = bench
    done = start("a.py", "slow.py", "z.py")
    deadline = time.monotonic() + 20
    while not (tmp_path / "slow").exists():
        assert time.monotonic() < deadline, "the script never started"
        time.sleep(0.02)
    os.killpg(done.pid, signal.SIGINT)
    assert done.wait(timeout=30) != 0 and ran() == ["a.py", "slow.py"]


def demo_lines():
    recipe = (ROOT / "Makefile").read_text().split("\ndemo-all:")[1].split("\n\n")[0]
    return re.findall(r"^\tdemo (\w+) (.*); \\$", recipe, re.MULTILINE)


def test_demo_all_has_every_package():
    assert {folder for folder, _ in demo_lines()} == set(MEMBERS) - {"shared"}


@pytest.mark.parametrize(("folder", "arguments"), demo_lines())
def test_a_demo_is_a_line_of_its_packages_quick_start(folder, arguments):
    quick_start = (ROOT / folder / "README.md").read_text().split("## Quick start\n")[1].split("\n## ")[0]
    assert f"python {arguments}\n" in quick_start


def test_demo_all_stops_at_a_failure_and_tells_every_time(bench, tmp_path):
    start, _ = bench
    start().wait(timeout=30)
    for folder in MEMBERS:
        (tmp_path / folder).mkdir()
    command = ["make", "demo-all", "UV=true"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0 and done.stdout.count("\n-- 0 s") == len(demo_lines())
    assert re.search(r"^all demos: \d+ min \d+ s$", done.stdout, re.MULTILINE)
    (tmp_path / ".venv/bin/python").write_text('#!/bin/sh\necho "$@"\n[ "$1" != train_eval_rq.py ]\n')
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=30)
    assert done.returncode != 0 and "all demos" not in done.stdout and "llvip_macl" not in done.stdout
