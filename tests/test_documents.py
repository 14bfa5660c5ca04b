"""What the documents promise is there: links, pictures, make targets, and command lines that their scripts accept."""

import argparse
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
from workspace import MEMBERS, ROOT, files, relative

LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)|<img[^>]*\bsrc=[\"']([^\"']+)")
FENCE = re.compile(r"^```[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
DOCUMENTS = [path for path in files() if path.suffix == ".md"]
SECTIONS = ["Quick start", "Your own data", "Commands", "Results", "Deviations from the note and from the papers",
            "How it works", "Limits"]  # fmt: skip
# Command lines of the documents that are not tried, by their beginning.
NOT_PARSED: dict[str, str] = {}


def dead_links(text: str, folder: Path) -> list[str]:
    """Relative links and pictures of a Markdown text that lead nowhere from its folder."""
    targets = [first or second for first, second in LINK.findall(text)]
    local = [target.split("#")[0] for target in targets if not re.match(r"[a-z]+:|#", target)]
    return [target for target in local if not (folder / target).exists()]


def command_lines(text: str) -> list[str]:
    """Shell lines of a Markdown text's fences that start Python, continuations joined."""
    fences = "\n".join(FENCE.findall(text)).replace("\\\n", " ")
    return [
        line.strip()
        for line in fences.splitlines()
        if re.match(r"(python|torchrun|srun .*(python|torchrun)) ", line.strip())
    ]


class Parsed(BaseException):
    """A command line was accepted; what it asks for is not done."""


def parse_only(self, args=None, namespace=None):
    _PARSE(self, args, namespace)
    raise Parsed


_PARSE = argparse.ArgumentParser.parse_args


def try_command(line: str, folder: Path) -> str | None:
    """Run a command line up to the end of its argument parsing; what is wrong with it, or None."""
    words = shlex.split(line, comments=True)
    start = next((i for i, word in enumerate(words) if word.endswith(".py") or word == "-m"), None)
    if start is None:
        return f"{line}: starts no script"
    script, arguments = words[start], words[start + 1 :]
    try:
        sys.argv = [script, *arguments]
        if script == "-m":
            sys.argv = arguments
            runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
        elif not (folder / script).is_file():
            return f"{line}: there is no {script}"
        else:
            runpy.run_path(str(folder / script), run_name="__main__")
    except Parsed:
        return None
    except SystemExit as stop:
        return f"{line}: its parser stops with {stop.code}"
    return f"{line}: parses no arguments"


@pytest.fixture
def parsing(monkeypatch):
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    monkeypatch.setattr(sys, "path", list(sys.path))


def test_the_link_gate_sees():
    text = "[a](missing.md) ![b](docs/none.jpg) <img src='no.png'> [ok](README.md#part) [web](https://x.org) [here](#a)"
    assert dead_links(text, Path(__file__).parent) == ["missing.md", "docs/none.jpg", "no.png", "README.md"]
    assert dead_links("[ok](test_documents.py#L1)", Path(__file__).parent) == []


def test_the_command_gate_finds_command_lines():
    text = "text `python a.py`\n```bash\npython main.py --stage all \\\n    --run x   # why\nmake demo\n```\n"
    assert [shlex.split(line, comments=True)[-1] for line in command_lines(text)] == ["x"]


@pytest.mark.parametrize(
    "line",
    ["python main.py --stage three", "python main.py --stag_e all", "python nowhere.py", "python -m talk2car_kd.lint"],
)
def test_the_command_gate_sees(line, parsing, capsys):
    assert try_command(line, ROOT / "talk2car_kd")


def test_the_command_gate_lets_a_good_line_pass(parsing):
    assert try_command("python main.py --stage test --visualize", ROOT / "talk2car_kd") is None


@pytest.mark.parametrize("document", DOCUMENTS, ids=relative)
def test_every_link_and_picture_is_there(document):
    assert not dead_links(document.read_text(), document.parent)


@pytest.mark.parametrize("document", DOCUMENTS, ids=relative)
def test_every_command_line_parses(document, parsing, capsys):
    lines = [line for line in command_lines(document.read_text()) if not line.startswith(tuple(NOT_PARSED))]
    faults = [fault for line in dict.fromkeys(lines) if (fault := try_command(line, document.parent))]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("document", DOCUMENTS, ids=relative)
def test_every_setting_on_a_command_line_exists(document):
    """`--set a.b=c` of a documented main.py line passes the schema."""
    from talk2car_kd import pipeline

    for line in command_lines(document.read_text()):
        words = shlex.split(line, comments=True)
        if "main.py" in words and "--set" in words:
            request = pipeline.parse(words[words.index("main.py") + 1 :])
            configs = tuple(document.parent / path for path in request.configs)
            pipeline.resolve(pipeline.Request(**{**vars(request), "configs": configs}))


@pytest.mark.parametrize("member", [member for member in MEMBERS if member != "shared"])
def test_a_package_readme_has_its_sections_in_their_order(member):
    assert re.findall(r"^## (.*)", (ROOT / member / "README.md").read_text(), re.MULTILINE) == SECTIONS


@pytest.mark.parametrize("member", [member for member in MEMBERS if member != "shared"])
def test_a_package_readme_starts_one_process_several_and_slurm(member):
    """Three lines for the same script, which the command gate parses too."""
    _, section = (ROOT / member / "README.md").read_text().split("### Several GPUs\n")
    lines = command_lines(section.split("\n#")[0])
    assert [line.split()[0] for line in lines] == ["python", "torchrun", "srun"]
    scripts = {next(word for word in line.split() if word.endswith(".py")) for line in lines}
    assert len(scripts) == 1


def make_targets(text: str) -> set[str]:
    """Targets that a Markdown text tells its reader to make."""
    return set(re.findall(r"`make ([a-z0-9_-]+)`", text)) | set(re.findall(r"^make ([a-z0-9_-]+)", text, re.MULTILINE))


@pytest.mark.parametrize("document", DOCUMENTS, ids=relative)
def test_every_make_target_exists(document):
    makefile = (ROOT / "Makefile").read_text()
    known = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE)) | {f"test-{member}" for member in MEMBERS}
    assert not make_targets(document.read_text()) - known
