"""Every command line of the documents is executed by a test, or listed here with the reason why not.

A test says which lines it executes with `@pytest.mark.readme("the line")`, and takes its words from that mark
(shared/shared/testing/readme_commands.py). Here the marks of a package's tests are held to the lines of its documents,
both ways. Commands in running text and tables are shortened and have placeholders: a line must start their programs.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest
from test_documents import DOCUMENTS
from workspace import MEMBERS, ROOT, relative

from shared.testing.readme_commands import normal

# Beginning of a line: why no test executes it.
NOT_EXECUTED = {
    "make ": "builds environments from the network and runs the tests themselves, or benchmarks for an hour",
    "uv venv ": "builds an environment from the lock, gigabytes from the network; `make test-<package>` does the same",
    "pip ": "the recipes are run in fresh environments by tests/test_pip_install.py, which reads them from the READMEs",
    "CFLAGS=": "a line of these recipes",
    "conda ": "needs conda, for Python alone: what the pip line after it installs, test_pip_install.py installs",
    "srun ": "needs Slurm; the script behind it is the one of the two lines above it",
    "torchrun ": "four GPUs; that two processes count as one, and torchrun with one, are faults 22 to 24",
    "ls ": "looks at a file whose presence is asserted behind the line above it",
    "python benchmarks/pictures.py ": "draws docs/ from a trained run in results/, which a checkout does not have",
}
# The same for commands in running text whose program no line starts.
NOT_EXECUTED_IN_TEXT = {
    "python benchmarks/": "measures for minutes; */tests/test_*benchmark*.py run the --quick forms",
    "python -m shared.benchmark_page": "rewrites a file of the checkout; test_benchmark_page.py holds that file to it",
    "python -m pillars_rq.world.realism": "needs real frames: test_lidar_world.py runs it on the real samples",
    "python -m pcdet.": "OpenPCDet's command, named beside ours",
    "python3.11 -m venv": "the beginning of the pip recipe",
    "bash scripts/slurm_train.sh ": "needs Slurm; test_vox_contract.py holds what it hands to the training",
}
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
NO_SHELL = {"text", "python", "yaml", "json"}
SPAN = re.compile(r"`((?:python[0-9.]*|bash|torchrun|srun) [^`]+)`")
PACKAGES = {ROOT: ROOT / "tests", **{ROOT / member: ROOT / member / "tests" for member in MEMBERS}}


def shell_lines(text: str) -> list[str]:
    """The commands of a Markdown text's shell fences."""
    fences = "\n".join(body for language, body in FENCE.findall(text) if language not in NO_SHELL)
    return [line for raw in fences.replace("\\\n", " ").splitlines() if (line := normal(raw))]


def marked_lines(source: str) -> list[str]:
    """The commands that the tests of a Python source are marked with. ValueError: one that is not written out."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    texts = [text for call in calls if ast.unparse(call.func) == "pytest.mark.readme" for text in call.args]
    for text in texts:
        if not (isinstance(text, ast.Constant) and isinstance(text.value, str)):
            raise ValueError(f"line {text.lineno}: write the README's line out in the mark, it is {ast.unparse(text)}")
    return [normal(text.value) for text in texts]


def listed(line: str, reasons: Iterable[str]) -> bool:
    return line.startswith(tuple(reasons))


def faults(documented: Mapping[str, str], marked: Mapping[str, str], reasons: Iterable[str]) -> list[str]:
    """What does not fit, of a package. documented, marked: command -> the file it stands in."""
    unknown = [
        f"{document}: no test executes `{line}`. Mark one of the package with @pytest.mark.readme and this line, and "
        "run it there; or list it in NOT_EXECUTED of tests/test_readme_commands.py with the reason"
        for line, document in documented.items()
        if line not in marked and not listed(line, reasons)
    ]
    stale = [
        f"{test}: `{line}` stands in no document of the package: write the mark as the line stands there"
        for line, test in marked.items()
        if line not in documented
    ]
    both = [f"{test}: `{line}` is executed and listed as not" for line, test in marked.items() if listed(line, reasons)]
    return unknown + stale + both


def program(command: str) -> str:
    """The module, or the name of the script, that a command line starts."""
    words = command.split()
    script = next((word for word in words if word.endswith((".py", ".sh"))), "")
    return words[words.index("-m") + 1] if "-m" in words[:2] else Path(script).name


def text_faults(text: str, marked: Iterable[str]) -> list[str]:
    """Commands of running text and tables whose program no marked line starts."""
    started, reasons = {program(line) for line in marked}, (*NOT_EXECUTED, *NOT_EXECUTED_IN_TEXT)
    spans = [span for span in SPAN.findall(FENCE.sub("", text)) if not listed(span, reasons)]
    return [f"`{span}`: no test executes a line that starts this program" for span in spans
            if program(span) not in started]  # fmt: skip


def documents_of(package: Path) -> list[Path]:
    return [path for path in DOCUMENTS if path.parent == package]


def marks_of(package: Path) -> dict[str, str]:
    """Line -> test file, of a package's tests."""
    files = sorted(PACKAGES[package].glob("test_*.py"))
    return {line: relative(path) for path in files for line in marked_lines(path.read_text())}


def lines_of_documents(package: Path) -> dict[str, str]:
    return {line: relative(path) for path in documents_of(package) for line in shell_lines(path.read_text())}


# --- the law ---


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_every_line_of_the_documents_is_executed_or_listed(package):
    found = faults(lines_of_documents(package), marks_of(package), NOT_EXECUTED)
    assert not found, "\n".join(found)


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_every_program_named_in_running_text_is_executed_or_listed(package):
    marked = marks_of(package)
    found = [f"{relative(path)}: {fault}" for path in documents_of(package)
             for fault in text_faults(path.read_text(), marked)]  # fmt: skip
    assert not found, "\n".join(found)


def test_every_reason_is_needed():
    lines = [line for package in PACKAGES for line in lines_of_documents(package)]
    spans = [span for path in DOCUMENTS for span in SPAN.findall(path.read_text())]
    unused = [start for start in NOT_EXECUTED if not any(line.startswith(start) for line in lines)]
    unused += [start for start in NOT_EXECUTED_IN_TEXT if not any(span.startswith(start) for span in spans)]
    assert not unused, f"these stand in no document: remove them from the lists: {unused}"


# --- the gate sees ---


def test_lines_are_found_in_every_shell_fence():
    bash = "```bash\n# why\npython a.py \\\n    --x  1   # one\nmake all\n```\n"
    text = f"`python no.py`\n{bash}```sh\nls b\n```\n```text\nc\n```\n"
    assert shell_lines(text) == ["python a.py --x 1", "make all", "ls b"]


@pytest.mark.parametrize(
    ("documented", "marked", "told"),
    [
        ({"python a.py": "README.md"}, {}, "README.md: no test executes `python a.py`"),
        ({"python a.py": "r"}, {"python a.py": "t", "python b.py": "test_b.py"}, "test_b.py: `python b.py` stands in"),
        ({"make a": "r"}, {"make a": "test_a.py"}, "executed and listed as not"),
    ],
)
def test_a_line_on_one_side_alone_is_told(documented, marked, told):
    (fault,) = faults(documented, marked, ["make "])
    assert told in fault


def test_lines_on_both_sides_and_listed_ones_pass():
    assert faults({"python a.py": "r", "make b": "r"}, {"python a.py": "t"}, ["make "]) == []


def test_marks_are_read_and_must_be_written_out():
    assert marked_lines('@pytest.mark.readme("python  a.py", "b"\n " c")\ndef test_a(readme): ...') == [
        "python a.py", "b c"]  # fmt: skip
    with pytest.raises(ValueError, match="line 1: write the README's line out in the mark, it is LINE"):
        marked_lines("@pytest.mark.readme(LINE)\ndef test_a(readme): ...")


def test_programs_of_running_text_are_compared():
    marked = ["python tools/train.py --x", "python -m a.world", "bash run.sh 8"]
    assert (
        text_faults("`python train.py FILE` `python -m a.world D` `bash run.sh [N]` `make demo` `pip x`", marked) == []
    )
    assert len(text_faults("`python test.py` and `python -m a.lint ROOT`", marked)) == 2


# --- the plugin ---

TOY = """
import pytest

LINE = "python greet.py --loud"

@pytest.mark.readme("python greet.py --loud   # why")
def test_runs(readme, tmp_path):
    (line,) = readme
    assert "HELLO YOU" in line.run(tmp_path, "you")
    assert (tmp_path / "here").exists() and line.arguments == ["--loud"]

@pytest.mark.readme("python greet.py --loud")
def test_ends_otherwise(readme, tmp_path):
    (line,) = readme
    line.run(tmp_path)

@pytest.mark.readme("python greet.py --loud", "python greet.py you")
def test_forgets_one(readme, tmp_path):
    readme[0].run(tmp_path, "you")
"""
GREET = """
import sys, pathlib
pathlib.Path("here").touch()
words = sys.argv[1:]
if words[-1].startswith("-"):
    sys.exit(2)
print("HELLO", words[-1].upper())
"""


def run_toy(folder: Path, text: str) -> str:
    (folder / "tests").mkdir()
    (folder / "tests/test_toy.py").write_text(text)
    (folder / "greet.py").write_text(GREET)
    plugin = ("-p", "shared.testing.readme_commands")
    command = [sys.executable, "-m", "pytest", "-q", *plugin, "--strict-markers", "tests"]
    return subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout


def test_a_marked_line_is_run_from_another_folder_and_must_be_run(tmp_path):
    said = run_toy(tmp_path, TOY)
    assert "2 failed, 1 passed" in said
    assert "ends with 2, not 0" in said
    assert "marked with lines of the README that it does not run: python greet.py you" in said


def test_a_marked_test_without_the_fixture_is_refused(tmp_path):
    said = run_toy(tmp_path, "import pytest\n@pytest.mark.readme('python greet.py')\ndef test_a(): pass\n")
    assert "take their words from `readme`" in said and "passed" not in said
