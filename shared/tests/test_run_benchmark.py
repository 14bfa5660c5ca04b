"""A benchmark's command: where its record goes, and what a quick run leaves alone."""

import argparse
import json

import pytest

from shared.benchmark import compared, judged, parse_options, run_benchmark
from shared.errors import DataError


@pytest.fixture
def command(tmp_path):
    """A benchmark whose record lies in tmp_path/results/speed.json."""

    def benchmark(args):
        if args.rounds < 1:
            raise DataError("no rounds")
        return {"rounds": args.rounds}

    def main(*argv):
        parser = argparse.ArgumentParser()
        parser.add_argument("--rounds", type=int, default=5)
        args = parse_options(parser, argv, quick="little")
        return run_benchmark(benchmark, args, tmp_path / "results" / "speed.json", ("numpy",))

    return main


@pytest.mark.parametrize(
    ("argv", "written"),
    [
        ((), "results/speed.json"),
        (("--quick",), None),
        (("--out", "own.json"), "own.json"),
        (("--quick", "--out", "own.json"), "own.json"),
    ],
)
def test_a_quick_run_writes_only_where_it_is_told(command, tmp_path, monkeypatch, argv, written):
    monkeypatch.chdir(tmp_path)
    assert command("--rounds", "3", *argv) == 0
    files = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.json")]
    assert files == ([written] if written else [])
    for name in files:
        record = json.loads((tmp_path / name).read_text())
        assert (record["benchmark"], record["results"]) == ("speed", {"rounds": 3})
        assert set(record["versions"]) >= {"numpy"} and "torchvision" not in record["versions"]


def test_what_cannot_be_measured_is_told_and_writes_nothing(command, tmp_path, capsys):
    assert command("--rounds", "0") == 2
    assert "no rounds" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_a_quick_run_judges_nothing():
    assert [judged(True), judged(False)] == ["reached", "MISSED"]
    assert judged(True, quick=True) == judged(False, quick=True) == "not judged, a quick run"


def test_a_target_is_a_lower_or_an_upper_bound():
    row = compared("ours against theirs", 6.0, 2.0, "ms", 3.0, at_least=3.0)
    assert row == {"what": "ours against theirs", "baseline": 6.0, "ours": 2.0, "unit": "ms", "ratio": 3.0,
                   "target": "≥ 3", "reached": True}  # fmt: skip
    assert compared("", 6.0, 2.0, "ms", 2.9, at_least=3.0)["reached"] is False
    share = compared("", 10.0, 2.0, "MiB", 0.2, at_most=0.25)
    assert (share["target"], share["reached"]) == ("≤ 0.25", True)
    assert compared("", 10.0, 3.0, "MiB", 0.3, at_most=0.25)["reached"] is False
    untold = compared("", None, 3.0, "days", None)
    assert untold["target"] is untold["reached"] is untold["ratio"] is None


def test_a_row_that_cannot_be_judged_is_refused():
    with pytest.raises(ValueError, match="one target"):
        compared("x", 1.0, 1.0, "s", 1.0, at_least=1.0, at_most=1.0)
    with pytest.raises(ValueError, match="without a ratio"):
        compared("x", None, 1.0, "s", None, at_least=1.0)
