"""Which faults each package was put to and how many it survived: a pytest plugin, which the root conftest.py names.

    @pytest.mark.fault(7)                            a case of fault 7 of the list below
    pytest -m "slow or fault" --reliability DIR      prints the table, writes DIR/reliability.{json,md}

A cell (fault, package) says survived / tried; a package is the folder at the root that the test lies in, and a skipped
case was not tried. A run of some of the cases replaces the cells of which it left nothing out and keeps the others.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

FAULTS = {
    1: "killed again and again, every step saved",
    2: "kill -9 at a random moment",
    3: "kill -9 at each kind of place",
    4: "resumed with other workers or processes",
    5: "SIGTERM, SIGINT, a second signal",
    6: "full disk",
    7: "folder read-only, gone, a file, in use",
    8: "damaged checkpoint",
    9: "hostile pickle",
    10: "weights of another model",
    11: "NaN or Inf in loss or gradient",
    12: "nothing to learn from",
    13: "seed and golden curve",
    14: "teacher changed or saved",
    15: "broken data set",
    16: "hostile archive, broken download",
    17: "loading worker dies, raises or hangs",
    18: "damaged bitstream",
    19: "broken or hostile configuration",
    20: "forbidden calls in the code",
    21: "names that leave the folder, text that is code",
    22: "two processes count as one",
    23: "error in one of two processes",
    24: "torchrun with one process",
}
Cell = tuple[str, str]  # (number of the fault, package), as in the JSON file
Record = dict[str, dict[str, dict[str, int]]]  # number -> package -> {"survived", "tried"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--reliability", type=Path, metavar="DIR", help="write the table of faults there (with -m)")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "fault(number, ...): a case of these faults of shared.testing.fault_table")
    folder = config.getoption("--reliability")
    if folder is None:
        return
    if "slow" not in config.getoption("-m"):
        raise pytest.UsageError("--reliability counts the slow cases too: add -m 'slow or fault'")
    config.pluginmanager.register(Tally(folder, config.rootpath))


def pytest_itemcollected(item: pytest.Item) -> None:
    """What a suite does not name in `always` is slow (see faults.FaultSuite)."""
    always = getattr(getattr(item, "cls", None), "always", None)
    if always is not None and item.name not in always:
        item.add_marker("slow")


class Tally:
    """The cases of one run."""

    def __init__(self, folder: Path, root: Path):
        self.folder, self.root = folder, root
        self.cells: dict[str, list[Cell]] = {}  # of every case
        self.partly: set[Cell] = set()
        self.outcomes: dict[str, str] = {}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.cells = {item.nodeid: list(self._cells(item)) for item in session.items}

    def pytest_deselected(self, items: Iterable[pytest.Item]) -> None:
        self.partly.update(cell for item in items for cell in self._cells(item))

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """A process of pytest-xdist, which has collected the cases, hands them to the one that counts."""
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput["cases of faults"] = (self.cells, list(self.partly))

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        cells, partly = getattr(node, "workeroutput", {}).get("cases of faults", ({}, ()))
        self.cells.update(cells)
        self.partly.update(partly)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed or self.outcomes.get(report.nodeid) not in ("failed", "skipped"):
            self.outcomes[report.nodeid] = report.outcome

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        file = self.folder / "reliability.json"
        record = merged(json.loads(file.read_text()) if file.exists() else {}, self.record())
        self.folder.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(record, indent=1) + "\n")
        table = markdown(record)
        file.with_suffix(".md").write_text(table)
        terminalreporter.section("faults: survived / tried")
        terminalreporter.write(table)

    def record(self) -> Record:
        """The cells that this run tried in full."""
        tried, survived, partly = Counter(), Counter(), set(self.partly)
        for nodeid, cells in self.cells.items():
            outcome = self.outcomes.get(nodeid)
            if outcome is None:  # the run ended before it
                partly.update(cells)
            tried.update(cells if outcome in ("passed", "failed") else ())
            survived.update(cells if outcome == "passed" else ())
        record: Record = {}
        for number, package in tried.keys() - partly:
            counts = {"survived": survived[number, package], "tried": tried[number, package]}
            record.setdefault(number, {})[package] = counts
        return record

    def _cells(self, item: pytest.Item) -> Iterator[Cell]:
        for mark in item.iter_markers("fault"):
            for number in mark.args:
                if number not in FAULTS:
                    raise pytest.UsageError(f"{item.nodeid}: there is no fault {number} in shared.testing.fault_table")
                yield str(number), item.path.relative_to(self.root).parts[0]


def merged(old: Mapping, new: Mapping) -> Record:
    """`old` with the cells of `new`, faults in their order and packages by name."""
    both = {number: {**old.get(number, {}), **new.get(number, {})} for number in {*old, *new}}
    return {number: dict(sorted(both[number].items())) for number in sorted(both, key=int)}


def markdown(record: Mapping) -> str:
    """A table of faults by packages; a cell without cases is empty."""
    packages = sorted({package for cells in record.values() for package in cells})
    rows = [["fault", *packages], ["---"] * (1 + len(packages))]
    for number, cells in record.items():
        counts = [cells.get(package) for package in packages]
        found = [f"{count['survived']} / {count['tried']}" if count else "" for count in counts]
        rows.append([f"{number}. {FAULTS[int(number)]}", *found])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)
