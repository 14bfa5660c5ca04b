"""A README's command lines, executed by the tests that carry them: a pytest plugin, which the root conftest.py names.

    @pytest.mark.readme("python main.py --stage 1")      the line as it stands in the package's README
    def test_distillation(readme, folder):
        (line,) = readme
        line.run(folder, "--config", TINY)               the words of the test come after the line's own

The words come from the mark, so the test cannot drift from it, and a marked line that its test does not take fails the
test. That every mark stands in a README, and every line of a README in a mark or in a list of reasons, is held by
tests/test_readme_commands.py. `lines_of` gives the lines of a test to a fixture that lives longer than it.
"""

import os
import re
import runpy
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

WITHIN_S = 600


def normal(line: str) -> str:
    """A command line without its comment, continuations and double spaces."""
    return " ".join(re.split(r"(?:^|\s)#", line.replace("\\\n", " "), maxsplit=1)[0].split())


@dataclass
class Line:
    """A command line of the README of `package`. taken: a test has asked for its words."""

    text: str
    package: Path
    taken: bool = False

    @property
    def words(self) -> list[str]:
        self.taken = True
        return shlex.split(self.text)

    @property
    def arguments(self) -> list[str]:
        """The words after the script's or module's name, for a test that calls its `main`."""
        words = self.words
        return words[3:] if words[1] == "-m" else words[2:]

    def run(self, cwd: Path, *more: Any, code: int = 0) -> str:
        """Run it in a fork of this process, started in `cwd` with more words after its own: what it printed.

        The script is the package's, wherever `cwd` is. Fails the test when it does not end with `code`.
        """
        from .injections import Child  # torch: only here

        words = [*self.words, *map(str, more)]
        with tempfile.TemporaryDirectory() as logs:
            child = Child(words, self._execute, Path(logs, "log"), lambda: os.chdir(cwd), {})
            ended = child.wait(WITHIN_S)
        if ended.code != code:
            pytest.fail(f"{self.text}\nends with {ended.code}, not {code}:\n{ended.output[-4000:]}")
        return ended.output

    def _execute(self, words: list[str]) -> int:
        """In the child."""
        program, script, *arguments = words
        if program == "bash":
            environment = {**os.environ, "PYTHON": sys.executable}
            return subprocess.run(["bash", str(self.package / script), *arguments], env=environment).returncode
        assert program == "python", f"{self.text}: no test knows how to start {program}"
        sys.argv = [script, *arguments]
        if script == "-m":
            sys.argv = arguments
            runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(str(self.package / script), run_name="__main__")
        return 0


def lines_of(test: Callable) -> list[Line]:
    """The lines that a test function is marked with, of the README of the package whose tests/ it lies in."""
    package = Path(sys.modules[test.__module__].__file__).parents[1]
    marks = [mark for mark in getattr(test, "pytestmark", []) if mark.name == "readme"]
    return [Line(normal(text), package) for mark in marks for text in mark.args]


@pytest.fixture
def readme(request: pytest.FixtureRequest) -> list[Line]:
    """The lines of the test's marks, in their order."""
    marks = reversed(list(request.node.iter_markers("readme")))
    return [Line(normal(text), request.path.parents[1]) for mark in marks for text in mark.args]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    result = yield
    left = [line.text for line in getattr(item, "funcargs", {}).get("readme", []) if not line.taken]
    if left:
        pytest.fail(f"marked with lines of the README that it does not run: {'; '.join(left)}")
    return result


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "readme(line, ...): executes these command lines of the package's README")


def pytest_itemcollected(item: pytest.Item) -> None:
    if item.get_closest_marker("readme") and "readme" not in getattr(item, "fixturenames", ()):
        raise pytest.UsageError(f"{item.nodeid} is marked with lines of a README: take their words from `readme`")
