"""The record of survived faults, by runs of pytest on a toy suite of two packages."""

import json
import subprocess
import sys

import pytest

TOY = """
import pytest

class TestSuite:
    always = ("test_quick",)

    @pytest.mark.fault(3)
    def test_quick(self): pass

    @pytest.mark.fault(3)
    def test_other(self): assert {good}

    @pytest.mark.fault(3, 6)
    def test_skipped(self): pytest.skip("not of this package")

@pytest.mark.fault(24)
def test_alone(): pass
"""


@pytest.fixture
def toy(tmp_path):
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers\nmarkers = slow: minutes\n")
    for name, good in (("sound", True), ("broken", False)):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"test_{name}.py").write_text(TOY.format(good=good))
    return tmp_path


def run(toy, *arguments):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "shared.testing.fault_table", *arguments]
    return subprocess.run(command, cwd=toy, capture_output=True, text=True)


def record(toy):
    return json.loads((toy / "docs/reliability.json").read_text())


EVERYTHING = ("-m", "slow or fault", "--reliability", "docs")
CELLS = {
    "3": {"broken": {"survived": 1, "tried": 2}, "sound": {"survived": 2, "tried": 2}},
    "24": {"broken": {"survived": 1, "tried": 1}, "sound": {"survived": 1, "tried": 1}},
}


@pytest.mark.parametrize("processes", [(), ("-n", "2")])
def test_cases_are_counted_by_fault_and_package(toy, processes):
    done = run(toy, *EVERYTHING, *processes)
    assert done.returncode == 1
    assert record(toy) == CELLS
    table = (toy / "docs/reliability.md").read_text()
    assert table.splitlines()[0] == "| fault | broken | sound |"
    assert table.splitlines()[2].endswith(" | 1 / 2 | 2 / 2 |")
    assert table in done.stdout


@pytest.mark.parametrize("processes", [(), ("-n", "2")])
def test_a_part_replaces_what_it_tried_in_full(toy, processes):
    run(toy, *EVERYTHING)
    file = toy / "broken/test_broken.py"
    file.write_text(file.read_text().replace("assert False", "pass"))
    run(toy, *EVERYTHING, "-k", "quick", *processes)  # of fault 3 a part, of fault 24 nothing
    assert record(toy) == CELLS
    run(toy, *EVERYTHING, "broken", *processes)
    assert record(toy) == {**CELLS, "3": {name: {"survived": 2, "tried": 2} for name in ("broken", "sound")}}


def test_a_run_that_ends_early_records_no_half_cell(toy):
    run(toy, *EVERYTHING, "-x", "broken")
    assert not (toy / "docs/reliability.json").exists() or record(toy) == {}


def test_what_a_suite_does_not_name_is_slow(toy):
    assert "2 passed" in run(toy, "-m", "not slow", "sound").stdout
    assert "1 passed, 1 skipped, 2 deselected" in run(toy, "-m", "slow", "sound").stdout


@pytest.mark.parametrize(("was", "said"), [("fault(24)", "no fault 99"), ("nothing", "add -m 'slow or fault'")])
def test_mistakes_are_told(toy, was, said):
    file = toy / "sound/test_sound.py"
    file.write_text(file.read_text().replace(was, "fault(99)"))
    done = run(toy, *(EVERYTHING if was == "fault(24)" else EVERYTHING[2:]), "sound")
    assert done.returncode == 4
    assert said in done.stdout + done.stderr
