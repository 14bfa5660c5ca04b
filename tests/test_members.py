"""Every member is locked in place, kept from upload, and declares what it imports."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from workspace import MEMBERS, ROOT, projects, texts

# --- the lock ---


def lock_faults(lock: str, names: dict[str, str]) -> list[str]:
    """Members (distribution name -> folder) that the lock does not hold as editable."""
    sources = {package["name"]: package["source"] for package in tomllib.loads(lock)["package"]}
    return [f"{name}: {sources.get(name)}" for name, at in names.items() if sources.get(name) != {"editable": at}]


@pytest.mark.fault(21)
def test_the_lock_gate_sees_a_member_from_an_index():
    lock = '[[package]]\nname = "papers-shared"\nsource = { registry = "https://somewhere" }\n'
    assert lock_faults(lock, {"papers-shared": "shared"})


@pytest.mark.fault(21)
def test_every_member_is_editable_in_the_lock():
    names = {project["name"]: member for member, project in projects().items()}
    assert not lock_faults((ROOT / "uv.lock").read_text(), names)


def test_no_member_can_be_uploaded():
    open_ones = [m for m, project in projects().items() if "Private :: Do Not Upload" not in project["classifiers"]]
    assert not open_ones


@pytest.mark.fault(21)
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
