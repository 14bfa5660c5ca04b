"""The version of the code that stands in every record."""

import subprocess

import pytest

from shared import machine


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A committed workspace of three files: (its folder, its commit, the function)."""

    def git(*arguments):
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        return subprocess.run(
            ["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout

    for name in ("package/model.py", "package/benchmarks/results/speed.json", "docs/benchmarks.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("old")
    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "all")
    monkeypatch.setattr(machine, "WORKSPACE", tmp_path)
    return tmp_path, git("rev-parse", "HEAD").strip(), machine.code_version.__wrapped__


def test_a_change_of_the_code_makes_it_dirty(checkout):
    folder, commit, version = checkout
    assert version() == commit and len(commit) == 40
    (folder / "package/model.py").write_text("new")
    assert version() == f"{commit}-dirty"


def test_what_benchmarks_write_does_not(checkout):
    folder, commit, version = checkout
    (folder / "package/benchmarks/results/speed.json").write_text("new")
    (folder / "package/benchmarks/results/scaling.json").write_text("new")
    (folder / "docs/benchmarks.md").write_text("new")
    assert version() == commit
    (folder / "package/benchmarks/speed.py").write_text("not known to git")
    assert version() == commit


def test_without_a_checkout_it_is_the_packages(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "WORKSPACE", tmp_path)
    assert machine.code_version.__wrapped__().startswith("papers-shared ")
