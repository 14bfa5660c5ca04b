"""Gates over the whole workspace: what must not stand in the code, and what the documents promise.

Each gate is a function from text (or a parsed file) to the faults in it, is tried on a bad snippet here, and then runs
over every file of the workspace that is, or could be, committed. An exception stands in one list with its reason, and
an exception that is no longer needed is a fault too.
"""

import argparse
import ast
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MEMBERS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["uv"]["workspace"]["members"]
NOT_OURS = {"__pycache__", "results", "build", "dist", "node_modules"}  # besides hidden folders and *.egg-info
NOT_COMMITTED = re.compile(
    r"talk2car_kd/data/(?!download\.py$)|batvision_kd/(data|checkpoints|logs)/|voxel_mae/(data|output)/|llvip_macl/(data|work_dirs)/"
    r"|pillars_rq/(data|datasets|pretrained|base_results|\w*rq_logs[\w-]*)/"
)
TEXT_SUFFIXES = {".py", ".md", ".yaml", ".yml", ".toml", ".cfg", ".sh", ""}
MAX_BYTES = 500_000

# (file, rule): why it may stand there
EXCEPTIONS = {
    ("voxel_mae/voxel_mae/data/pickles.py", "pickle.Unpickler"): "the converter of OpenPCDet's infos: numpy and plain"
    " Python alone, everything else is refused by name",
    ("shared/tests/test_checkpoint.py", "pickle.loads"): "shows that the hostile pickle of the test does fire unsafely",
    (
        "batvision_kd/tests/test_bat_contract.py",
        "torch.load without weights_only",
    ): "the note's own load line, run as it stands",
    (
        "talk2car_kd/tests/test_download.py",
        "machine path",
    ): "a hostile archive's absolute member, which must not appear",
}


def files() -> list[Path]:
    """Every file of the workspace that is committed or would be."""
    found = []
    for folder, names, leaves in os.walk(ROOT):
        names[:] = [
            n for n in names if n == ".ci" or not (n in NOT_OURS or n.startswith(".") or n.endswith(".egg-info"))
        ]
        found += [Path(folder, leaf) for leaf in leaves if not NOT_COMMITTED.match(relative(Path(folder, leaf)))]
    return sorted(path for path in found if path.suffix != ".pyc")


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def texts() -> Iterator[tuple[str, str]]:
    """(path from the root, text) of sources, settings and documents."""
    for path in files():
        if path.suffix in TEXT_SUFFIXES:
            yield relative(path), path.read_text(encoding="utf-8")


def refuse(found: set[tuple[str, str, str]], rules: set[str]) -> None:
    """Fail with every (file, rule, detail) that no exception covers, and with exceptions that cover nothing."""
    covered = {(file, rule) for file, rule, _ in found}
    faults = [" ".join(fault) for fault in sorted(found) if fault[:2] not in EXCEPTIONS]
    stale = [f"{file}: the exception for {rule} is not needed" for file, rule in EXCEPTIONS
             if rule in rules and (file, rule) not in covered]  # fmt: skip
    assert not faults + stale, "\n".join(faults + stale)


# --- code ---

CALLS = {
    "pickle": {"load", "loads", "Unpickler"},
    "dill": {"load", "loads"},
    "joblib": {"load"},
    "marshal": {"load", "loads"},
    "yaml": {"load", "load_all", "unsafe_load", "full_load"},
    "os": {"system", "popen"},
}
BUILTINS = {"eval", "exec", "__import__"}
CODE_RULES = {f"{module}.{name}" for module, names in CALLS.items() for name in names} | BUILTINS | {
    "shell=True", "weights_only=False", "torch.load without weights_only", "extractall without filter", "bare except",
    "swallowed exception",
}  # fmt: skip


def code_faults(source: str) -> list[tuple[str, int]]:
    """(rule, line) of everything in a Python source that the gates forbid."""
    faults = []
    for node in ast.walk(ast.parse(source)):
        rules = _call_rules(node) if isinstance(node, ast.Call) else []
        if isinstance(node, ast.ClassDef):
            rules = _forbidden(*node.bases)
        if isinstance(node, ast.ImportFrom):
            rules = [f"{node.module}.{a.name}" for a in node.names if a.name in CALLS.get(node.module, ())]
        if isinstance(node, ast.ExceptHandler):
            rules = _handler_rules(node)
        faults += [(rule, node.lineno) for rule in rules]
    return faults


def _call_rules(call: ast.Call) -> list[str]:
    rules = []
    if isinstance(call.func, ast.Name) and call.func.id in BUILTINS:
        rules.append(call.func.id)
    rules += _forbidden(call.func)
    name = ast.unparse(call.func)
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    rules += [f"{key}={value}" for key, value in given.items() if (key, value) in FORBIDDEN_ARGUMENTS]
    if name == "torch.load" and "weights_only" not in given:
        rules.append("torch.load without weights_only")
    if name.rpartition(".")[2] == "extractall" and "filter" not in given:
        rules.append("extractall without filter")
    return rules


def _forbidden(*expressions: ast.expr) -> list[str]:
    """Which of them are names of CALLS, called or inherited from."""
    names = [ast.unparse(expression) for expression in expressions]
    return [name for name in names if name.rpartition(".")[2] in CALLS.get(name.rpartition(".")[0], ())]


FORBIDDEN_ARGUMENTS = {("shell", "True"), ("weights_only", "False")}


def _handler_rules(handler: ast.ExceptHandler) -> list[str]:
    if handler.type is None:
        return ["bare except"]
    wide = ast.unparse(handler.type) in ("Exception", "BaseException")
    idle = all(isinstance(s, ast.Pass | ast.Continue) or ast.unparse(s) == "..." for s in handler.body)
    return ["swallowed exception"] if wide and idle else []


BAD_CODE = {
    "pickle.load": "import pickle\npickle.load(open('x', 'rb'))",
    "pickle.loads": "from pickle import loads",
    "pickle.Unpickler": "import pickle\nclass Mine(pickle.Unpickler):\n    pass",
    "yaml.load": "import yaml\nyaml.load('a', Loader=yaml.Loader)",
    "os.system": "import os\nos.system('ls')",
    "eval": "eval('1')",
    "exec": "exec('1')",
    "shell=True": "import subprocess\nsubprocess.run('ls', shell=True)",
    "weights_only=False": "import torch\ntorch.load('x', weights_only=False)",
    "torch.load without weights_only": "import torch\ntorch.load('x')",
    "extractall without filter": "archive.extractall('there')",
    "bare except": "try:\n    f()\nexcept:\n    g()",
    "swallowed exception": "for x in y:\n    try:\n        f()\n    except Exception:\n        continue",
}


@pytest.mark.parametrize("rule", BAD_CODE)
def test_the_code_gate_sees(rule):
    assert rule in {found for found, _ in code_faults(BAD_CODE[rule])}


def test_the_code_gate_lets_good_code_pass():
    good = "model.eval()\nyaml.safe_load(x)\ntorch.load(p, weights_only=True)\ntar.extractall(d, filter='data')\n"
    assert code_faults(good + "try:\n    f()\nexcept Exception as e:\n    raise ValueError('x') from e") == []


def test_code_holds_nothing_unsafe():
    found = {
        (file, rule, f"line {line}")
        for file, text in texts()
        if file.endswith(".py")
        for rule, line in code_faults(text)
    }
    refuse(found, CODE_RULES)


# --- names of machines ---

MACHINE_PATH = re.compile(r"(?<![\w.~/}>-])/(?:home|root|work|tmp|Users|mnt|scratch)(?:/|\b)")
INDEX_HOST = re.compile(
    r"\bpypi\.[a-z]|pythonhosted\.|anaconda\.(?:org|com)|download\.pytorch\.|--(?:extra-)?index-url"
)
THIS = relative(Path(__file__))  # its own patterns and bad snippets


def place_faults(text: str) -> list[tuple[str, str]]:
    """(rule, what) of absolute paths of some machine, and of package indexes."""
    rules = (("machine path", MACHINE_PATH), ("package index", INDEX_HOST))
    return [(rule, match[0]) for rule, pattern in rules for match in pattern.finditer(text)]


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ('ROOT = Path("/home/me/data")', "machine path"),
        ("run `/work/x/main.py`", "machine path"),
        ("cp a /tmp/b", "machine path"),
        ("pip install --index-url https://x", "package index"),
        ("see https://files.pythonhosted.org/a.whl", "package index"),
    ],
)
def test_the_place_gate_sees(text, rule):
    assert [found for found, _ in place_faults(text)] == [rule]


def test_the_place_gate_lets_relative_and_example_paths_pass():
    assert place_faults("data_root: /data/coco\n../shared/real <run>/tmp/x https://a.org/work/b network/tmp/") == []


def test_no_file_names_a_machine():
    found = {(file, rule, what) for file, text in texts() if file != THIS for rule, what in place_faults(text)}
    refuse(found, {"machine path", "package index"})


# --- the lock and the members ---


def lock_faults(lock: str, names: dict[str, str]) -> list[str]:
    """Members (distribution name -> folder) that the lock does not hold as editable."""
    sources = {package["name"]: package["source"] for package in tomllib.loads(lock)["package"]}
    return [f"{name}: {sources.get(name)}" for name, at in names.items() if sources.get(name) != {"editable": at}]


def projects() -> dict[str, dict]:
    return {member: tomllib.loads((ROOT / member / "pyproject.toml").read_text())["project"] for member in MEMBERS}


def test_the_lock_gate_sees_a_member_from_an_index():
    lock = '[[package]]\nname = "papers-shared"\nsource = { registry = "https://somewhere" }\n'
    assert lock_faults(lock, {"papers-shared": "shared"})


def test_every_member_is_editable_in_the_lock():
    names = {project["name"]: member for member, project in projects().items()}
    assert not lock_faults((ROOT / "uv.lock").read_text(), names)


def test_no_member_can_be_uploaded():
    open_ones = [m for m, project in projects().items() if "Private :: Do Not Upload" not in project["classifiers"]]
    assert not open_ones


def test_the_lock_is_up_to_date():
    uv = shutil.which("uv") or shutil.which(str(ROOT / ".uv" / "bin" / "uv"))
    if uv is None:
        pytest.skip("uv is not installed: the lock cannot be checked")
    done = subprocess.run([uv, "lock", "--check", "--offline"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# --- what is imported is declared ---

# Names of imports whose distribution is called otherwise.
DISTRIBUTION = {
    "PIL": "pillow", "cv2": "opencv-python-headless", "open_clip": "open-clip-torch", "shared": "papers-shared",
    "sklearn": "scikit-learn", "spconv": "spconv-cu120", "yaml": "pyyaml", "zmq": "pyzmq", "mmcv": "onedl-mmcv",
    "mmdet": "onedl-mmdetection", "mmengine": "onedl-mmengine",
}  # fmt: skip


def imported(source: str) -> set[str]:
    """Top-level names that a source imports, wherever in it; imports for the type checker alone included."""
    nodes = list(ast.walk(ast.parse(source)))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.level == 0]
    return {name.split(".")[0] for name in names}


def declared(member: str) -> set[str]:
    """Distributions that a member declares, extras and the development group included."""
    table = tomllib.loads((ROOT / member / "pyproject.toml").read_text())
    project, lines = table["project"], list(table["project"]["dependencies"])
    extras = project_extras()
    for group in (*project.get("optional-dependencies", {}).values(), *table.get("dependency-groups", {}).values()):
        lines += group
    lines += [line for given in tuple(lines) for line in extras.get(given, ())]
    return {re.split(r"[\[<>=~!;\s]", line)[0].lower() for line in lines}


def project_extras() -> dict[str, list[str]]:
    """ "name[extra]" -> what the extra of that member brings."""
    return {f"{project['name']}[{extra}]": lines for project in projects().values()
            for extra, lines in project.get("optional-dependencies", {}).items()}  # fmt: skip


def undeclared(sources: dict[str, str], own: set[str], known: set[str]) -> list[str]:
    """Imports ("file: name") that are neither the standard library's, nor the member's own, nor declared."""
    found = ((file, name) for file, text in sources.items() for name in sorted(imported(text)))
    return [f"{file}: {name}" for file, name in found if name not in sys.stdlib_module_names | own
            and DISTRIBUTION.get(name, name).replace("_", "-") not in known]  # fmt: skip


def test_the_import_gate_sees_what_is_not_declared():
    sources = {"a.py": "import numpy as np\ndef f():\n    from timm.models import x\nfrom . import y\nimport os, own"}
    assert undeclared(sources, {"own"}, {"numpy"}) == ["a.py: timm"]


@pytest.mark.parametrize("member", MEMBERS)
def test_a_member_declares_what_it_imports(member):
    """Else its own environment holds it by another package's favour."""
    sources = {file: text for file, text in texts() if file.startswith(f"{member}/") and file.endswith(".py")}
    modules = {Path(file).stem for file in sources} | {part for file in sources for part in Path(file).parts[:-1]}
    assert not undeclared(sources, modules, declared(member))


# --- documents ---

LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)|<img[^>]*\bsrc=[\"']([^\"']+)")
FENCE = re.compile(r"^```[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
DOCUMENTS = [path for path in files() if path.suffix == ".md"]
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
    assert dead_links("[ok](test_gates.py#L1)", Path(__file__).parent) == []


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


def make_targets(text: str) -> set[str]:
    """Targets that a Markdown text tells its reader to make."""
    return set(re.findall(r"`make ([a-z0-9_-]+)`", text)) | set(re.findall(r"^make ([a-z0-9_-]+)", text, re.MULTILINE))


@pytest.mark.parametrize("document", DOCUMENTS, ids=relative)
def test_every_make_target_exists(document):
    makefile = (ROOT / "Makefile").read_text()
    known = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE)) | {f"test-{member}" for member in MEMBERS}
    assert not make_targets(document.read_text()) - known


# --- files ---


def too_large(sizes: dict[str, int]) -> list[str]:
    return [f"{file}: {size} bytes" for file, size in sizes.items() if size >= MAX_BYTES]


def repeated(names: list[str]) -> list[str]:
    return [name for name, times in Counter(names).items() if times > 1]


def test_the_file_gates_see():
    assert too_large({"a.jpg": 600_000, "b.jpg": 400_000}) == ["a.jpg: 600000 bytes"]
    assert repeated(["test_a.py", "test_b.py", "test_a.py"]) == ["test_a.py"]


def test_no_file_is_large():
    assert not too_large({relative(path): path.stat().st_size for path in files()})


def test_no_two_test_files_share_a_name():
    """pytest imports test files by name here: of two equal names one would hide the other."""
    assert not repeated([path.name for path in files() if path.name.startswith("test_") and "tests" in path.parts])
