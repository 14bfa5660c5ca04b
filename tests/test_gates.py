"""Gates over every file of the workspace: what must stand in none of them.

Each gate is a function from text (or a parsed file) to the faults in it, is tried on a bad snippet here, and then runs
over all files. An exception stands in one list with its reason, and one that is no longer needed is a fault too.
"""

import ast
import re
from collections import Counter
from pathlib import Path

import pytest
from workspace import files, relative, texts

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
    **{f"{module}.{name}": f"import {module}\n{module}.{name}(x)" for module, names in CALLS.items() for name in names},
    **{name: f"{name}('1')" for name in BUILTINS},
    "shell=True": "import subprocess\nsubprocess.run('ls', shell=True)",
    "weights_only=False": "import torch\ntorch.load('x', weights_only=False)",
    "torch.load without weights_only": "import torch\ntorch.load('x')",
    "extractall without filter": "archive.extractall('there')",
    "bare except": "try:\n    f()\nexcept:\n    g()",
    "swallowed exception": "for x in y:\n    try:\n        f()\n    except Exception:\n        continue",
}


@pytest.mark.fault(20)
@pytest.mark.parametrize("rule", sorted(BAD_CODE))
def test_the_code_gate_sees(rule):
    assert rule in {found for found, _ in code_faults(BAD_CODE[rule])}


def test_the_code_gate_sees_an_import_and_an_heir():
    assert BAD_CODE.keys() == CODE_RULES
    assert code_faults("from pickle import loads") == [("pickle.loads", 1)]
    assert code_faults("import pickle\nclass Mine(pickle.Unpickler):\n    pass") == [("pickle.Unpickler", 2)]


def test_the_code_gate_lets_good_code_pass():
    good = "model.eval()\nyaml.safe_load(x)\ntorch.load(p, weights_only=True)\ntar.extractall(d, filter='data')\n"
    assert code_faults(good + "try:\n    f()\nexcept Exception as e:\n    raise ValueError('x') from e") == []


@pytest.mark.fault(20)
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
