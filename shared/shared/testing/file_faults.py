"""Files and configurations from outside, put in front of a package's own commands: suites to join with a few lines.

    class TestFiles(FileFaults):
        readers = [Reader("--checkpoint", main, argv=lambda work: [...], file=lambda work: work / "best.pth", ...)]

    class TestConfig(ConfigFaults):
        commands = [Configured("stage1", main, argv=lambda work, file: [...], number="stage1.lr", ...)]

    @pytest.fixture(scope="module")
    def prepared(tmp_path_factory): ...                  # a work folder with a good file for every reader

Each case breaks the reader's file in place, forks this process (`injections`) to run the command on it, and puts the
folder back. The command must end with exit code 2, an error that names the file and a remedy, no traceback, the file as
it was and nothing new but its bookkeeping. Whatever is taken all the same ends the child at `taken`, the first function
that the command calls once the file is in use, with an exit code of its own: so a silent acceptance shows.
"""

import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from . import damage
from .injections import Child, Ended, at_call, kill

fault = pytest.mark.fault  # its number in fault_table.FAULTS
TAKEN = 77  # exit code of a child whose command took the file
REMEDY = re.compile(
    r"\b(restore|fetch|get|give|use|put|train|pass|name a file|check the path|remove it|update this code)\b", re.I
)
UNVERIFIED = "integrity not verified"
# What a command may write before it refuses: none of it is a result.
BOOKKEEPING = ("run.json", "run.lock", "log.txt", "metrics.jsonl", "latest", ".log", ".yaml", ".py")
WRAPPED = tuple(damage.WRAPPED)
Place = tuple[object, str]  # (owner, function), as injections.at_call takes them


@dataclass(frozen=True)
class Reader:
    """An option, or a place of its own choice, from which a command takes weights."""

    name: str
    main: Callable[[list[str]], int]  # as the entry script calls it
    argv: Callable[[Path], list[str]]  # work folder -> arguments
    file: Callable[[Path], Path]  # work folder -> the good file
    taken: Place  # called first once the file is in use
    table: str | None = "model"  # where the weights stand in the file; "": they are the file; None: nowhere by name
    needed: str = ""  # what the names begin with of those that it needs
    bare: bool = False  # the file has no manifest, which this reader allows
    pointer: str | None = None  # of a state to go on from: the file beside it that names it
    accepts: Collection[str] = WRAPPED  # damages and drifts that are taken, and told
    leaves: Collection[str] = ()  # names of files, beside BOOKKEEPING, that it may write before it refuses
    few: bool = False  # slow to start, and reads as another reader does: few cases


def _damages(reader: Reader) -> Collection[str]:
    every = damage.BARE_DAMAGE if reader.bare else damage.FILE_DAMAGE
    return [case for case in every if not reader.few or case in DAMAGED]


def _drifts(reader: Reader) -> Collection[str]:
    return [case for case in damage.DRIFT if reader.table is not None and (not reader.few or case in DRIFTED)]


DAMAGED = ("bit flip 11", "manifest missing", "bit flip in a tensor 3")
DRIFTED = ("missing", "another layout")
# test -> its cases of a reader, and those that `make test` runs
CASES: dict[str, tuple[Callable[[Reader], Collection[str]], Collection[str]]] = {
    "test_a_damaged_file_is_refused": (_damages, DAMAGED),
    "test_a_pointer_leads_nowhere_else": (
        lambda reader: damage.POINTER_DAMAGE if reader.pointer else (),
        ("above the folder",),
    ),
    "test_a_hostile_pickle_is_refused_and_never_run": (lambda reader: damage.HOSTILE, ("in optimizer state",)),
    "test_weights_of_another_model_are_told": (_drifts, DRIFTED[:1]),
}


class FileFaults:
    """Subclass with the `readers` and a fixture `prepared`."""

    readers: ClassVar[Sequence[Reader]]
    always: ClassVar[Collection[str]]  # the cases that run in `make test`; all others are marked slow (by fault_table)

    def __init_subclass__(cls) -> None:
        cls.always = {f"{test}[{reader.name}-{case}]" for test, (_, chosen) in CASES.items()
                      for reader in cls.readers for case in chosen if not reader.few or case in DAMAGED}  # fmt: skip

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        cases, _ = CASES[metafunc.function.__name__]
        found = [(reader, case) for reader in self.readers for case in cases(reader)]
        metafunc.parametrize(("reader", "case"), found, ids=[f"{reader.name}-{case}" for reader, case in found])

    @pytest.fixture
    def work(self, prepared, reader, tmp_path) -> Iterator[Path]:
        """The prepared folder itself, as a run may know where it lies; it is put back afterwards."""
        kept = shutil.copytree(prepared, tmp_path / "kept", symlinks=True)
        self.make_ready(prepared, reader)
        yield prepared
        shutil.rmtree(prepared)
        shutil.move(kept, prepared)

    def make_ready(self, work: Path, reader: Reader) -> None:
        """A state to go on from is the only one; what has no manifest has none."""
        file = reader.file(work)
        assert file.is_file(), f"the prepared folder has no good file for {reader.name}"
        if reader.pointer:
            for other in (other for other in file.parent.glob(f"*{file.suffix}") if other != file):
                other.unlink()
        if reader.bare:
            damage.manifest_of(file).unlink(missing_ok=True)

    @fault(8)
    def test_a_damaged_file_is_refused(self, work, reader, case):
        file = reader.file(work)
        before = damage.bytes_of(file)
        {**damage.FILE_DAMAGE, **damage.BARE_DAMAGE}[case](file)
        assert before != damage.bytes_of(file), "the case damages nothing"
        if case in reader.accepts:
            self.taken(work, reader, UNVERIFIED)
        else:
            self.refused(work, reader)

    @fault(8)
    def test_a_pointer_leads_nowhere_else(self, work, reader, case):
        """It is told, and the newest state of the folder is used, or none at all."""
        pointer = reader.file(work).with_name(reader.pointer)
        pointer.write_bytes(damage.POINTER_DAMAGE[case])
        ended = self.ended(work, reader)
        assert ended.code in (TAKEN, 2), ended.output[-3000:]
        assert str(pointer) in ended.output
        assert "Traceback" not in ended.output

    @fault(9)
    def test_a_hostile_pickle_is_refused_and_never_run(self, work, reader, case, tmp_path):
        file, canary = reader.file(work), tmp_path / "canary"
        write, name = damage.HOSTILE[case]
        write(file, canary, damage.content_of(file))
        damage.vouch(file)
        told = self.refused(work, reader)
        assert f"{name}`" in told, "the offending global is not named"
        assert "weights_only" not in told, "advice to load it unsafely"
        time.sleep(0.02)  # a subprocess would need it
        assert not canary.exists()

    @fault(10)
    def test_weights_of_another_model_are_told(self, work, reader, case):
        named = damage.drift(reader.file(work), reader.table, case, reader.needed)
        if case in reader.accepts:
            self.taken(work, reader, named)
        else:
            assert named in self.refused(work, reader)

    def ended(self, work: Path, reader: Reader) -> Ended:
        return _ended(work.with_name("log.txt"), reader.main, reader.argv(work), reader.taken)

    def taken(self, work: Path, reader: Reader, words: str) -> None:
        ended = self.ended(work, reader)
        assert ended.code == TAKEN, ended.output[-3000:]
        assert words in ended.output

    def refused(self, work: Path, reader: Reader) -> str:
        """What the command said."""
        before = dict(_stamps(work))
        told = _told(self.ended(work, reader))
        assert str(reader.file(work)) in told
        assert REMEDY.search(told), told
        written = [path for path, stamp in _stamps(work) if before.get(path) != stamp]
        assert not [path for path in written if not path.name.endswith((*BOOKKEEPING, *reader.leaves))]
        return told


def cut_short(main: Callable, argv: Sequence[str], folder: Path, place: Place, number: int) -> None:
    """Run a command in a child and kill it at the `number`-th call of a function: what is left can be resumed."""
    ended = Child(argv, main, folder / "log.txt", lambda: at_call(*place, number, kill), {}).wait()
    assert ended.code == -signal.SIGKILL, ended.output[-3000:]


def _ended(log: Path, main: Callable, argv: Sequence[str], taken: Place) -> Ended:
    return Child(argv, main, log, lambda: at_call(*taken, 1, lambda: os._exit(TAKEN)), {}).wait()


def _told(ended: Ended) -> str:
    """The error that a refusal ended with."""
    assert ended.code != TAKEN, f"taken, as if nothing were wrong:\n{ended.output[-3000:]}"
    assert ended.code == 2, ended.output[-3000:]
    assert "Traceback" not in ended.output
    return ended.output[ended.output.rindex("error: ") :]


def _stamps(folder: Path) -> Iterator[tuple[Path, tuple[int, int]]]:
    """Every file below, with what tells whether it was written."""
    for path in folder.rglob("*"):
        if path.is_file():
            yield path, (path.stat().st_mtime_ns, path.stat().st_size)


# --- configurations ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Configured:
    """A command that reads a YAML file. Its settings are named as a.b."""

    name: str
    main: Callable[[list[str]], int]
    argv: Callable[[Path, Path], list[str]]  # work folder, YAML file -> arguments
    taken: Place  # called first once the settings are accepted
    number: str  # a setting that 1e-4 is a value of
    flag: str  # one that is true or false
    text: str  # one that may hold any word
    head: Callable[[Path], str] = lambda work: ""  # work folder -> lines that the file needs besides


def setting(key: str, value: str) -> str:
    """a.b and its value as YAML."""
    *sections, last = key.split(".")
    lines = [f"{'  ' * depth}{name}:" for depth, name in enumerate(sections)]
    return "\n".join([*lines, f"{'  ' * len(sections)}{last}: {value}", ""])


def _bomb() -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    return "\n".join(lines + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)])


# name -> (the file's text, what is said of it; None: it is taken); $canary is a path that must not appear
YAML: dict[str, tuple[Callable[[Configured], str], Callable[[Configured], str] | None]] = {
    "python tag": (
        lambda c: setting(c.text, "!!python/object/apply:os.system ['touch $canary']"),
        lambda c: "!!python/object/apply:os.system",
    ),
    "unknown key": (lambda c: setting(f"{c.number}x", "1"), lambda c: f"did you mean {c.number}?"),
    "wrong type": (lambda c: setting(c.number, "'3'"), lambda c: f"{c.number} = '3'"),
    "duplicate key": (lambda c: setting(c.number, "1") + setting(c.number, "2"), lambda c: "stands twice"),
    "a number as 1e-4": (lambda c: setting(c.number, "1e-4"), None),
    "no for a string": (lambda c: setting(c.text, "no"), None),
    "no for a flag": (lambda c: setting(c.flag, "no"), lambda c: "write true or false"),
    "tabs": (lambda c: setting(c.number, "1").replace("  ", "\t"), lambda c: "use spaces"),
    "alias bomb": (lambda c: _bomb(), lambda c: "aliases"),
}


class ConfigFaults:
    """Subclass with the `commands` and a fixture `prepared`."""

    commands: ClassVar[Sequence[Configured]]

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        metafunc.parametrize("command", self.commands, ids=lambda command: command.name)

    @fault(19)
    @pytest.mark.parametrize("case", YAML)
    def test_a_broken_or_hostile_configuration_is_refused(self, prepared, command, case, tmp_path):
        file, canary = tmp_path / "mine.yaml", tmp_path / "canary"
        text, told = YAML[case]
        file.write_text(command.head(prepared) + text(command).replace("$canary", str(canary)))
        before = dict(_stamps(prepared))
        ended = _ended(tmp_path / "log.txt", command.main, command.argv(prepared, file), command.taken)
        if told is None:
            assert ended.code == TAKEN, ended.output[-3000:]
            return
        said = _told(ended)
        assert str(file) in said
        assert told(command) in said
        assert not canary.exists()
        assert dict(_stamps(prepared)) == before
