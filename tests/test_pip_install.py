"""The pip recipes of the READMEs, each run as it stands in a fresh environment: it must give what the lock holds.

pip sees neither the lock nor the workspace's constraints, so what decides numbers is pinned in the member's own
pyproject.toml; a version that differs here wants a pin there. Downloads about 3 GB a member, and llvip_macl's compiles
mmcv (7 minutes on two cores), hence `slow`.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
INSTALL = "pip install -e ../shared -e ."
# What decides results: where a member has these, they must have the lock's version exactly.
EXACT = ("torch", "torchvision", "timm", "open-clip-torch", "albumentations", "albucore", "opencv-python-headless",
         "onedl-mmcv", "onedl-mmdetection", "onedl-mmengine")  # fmt: skip
# Their releases stay compatible within a major version, and pins would only bring conflicts: the major has to agree.
MAJOR = ("numpy", "pydantic", "pillow")
# Does it start? Run in the member's folder.
STARTS = {
    "talk2car_kd": ("main.py", "--dry-run"),
    "llvip_macl": ("-c", "import torch; from mmcv.ops import nms; print(nms(torch.rand(2, 4), torch.rand(2), 0.5))"),
}
SECONDS = 3000


def recipe(readme: str) -> list[str]:
    """The lines of the fenced block that installs this member with pip; those of conda are not pip's business."""
    blocks = re.findall(r"^```bash\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    lines = next(block for block in blocks if INSTALL in block).splitlines()
    return [line for line in lines if line and not line.startswith("conda ")]


def differences(installed: dict[str, str], locked: dict[str, str]) -> list[str]:
    """Packages whose installed version is not the lock's, as far as EXACT and MAJOR ask for it."""
    found = []
    for name in sorted(installed.keys() & {*EXACT, *MAJOR}):
        parts = 1 if name in MAJOR else None
        if _plain(installed[name]).split(".")[:parts] != _plain(locked[name]).split(".")[:parts]:
            found.append(f"{name}: installed {installed[name]}, locked {locked[name]}")
    return found


def _plain(version: str) -> str:
    """Without the local part: 2.10.0+cu128 is 2.10.0."""
    return version.split("+")[0]


def locked_versions() -> dict[str, str]:
    packages = tomllib.loads((ROOT / "uv.lock").read_text())["package"]
    return {package["name"]: package["version"] for package in packages if "version" in package}


def test_the_recipe_is_the_block_that_installs():
    text = "```bash\nuv venv\n```\n```bash\nconda activate x\npip install wheel\n" + INSTALL + "\n```\n"
    assert recipe(text) == ["pip install wheel", INSTALL]


def test_a_difference_from_the_lock_is_seen():
    locked = {"torch": "2.10.0", "numpy": "2.4.6"}
    assert differences({"torch": "2.10.0+cu128", "numpy": "2.3.0", "other": "1"}, locked) == []
    assert len(differences({"torch": "2.10.1", "numpy": "1.26.0"}, locked)) == 2


@dataclass(frozen=True)
class Environment:
    """A fresh environment after a member's recipe."""

    member: str
    folder: Path

    def run(self, *command: str) -> str:
        """A line of the recipe, or a program of the environment, in the member's folder."""
        path = f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(command, cwd=ROOT / self.member, capture_output=True, text=True, timeout=SECONDS,
                              env={**os.environ, "PATH": path, "PIP_NO_CACHE_DIR": "1"})  # fmt: skip
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    def installed(self) -> dict[str, dict]:
        """What pip lists, by name."""
        rows = json.loads(self.run("python", "-m", "pip", "list", "--format=json"))
        return {row["name"].lower().replace("_", "-"): row for row in rows}


@pytest.fixture(scope="module", params=STARTS)
def environment(request) -> Iterator[Environment]:
    """Made by the README's lines; removed afterwards (8 GB)."""
    if sys.version_info[:2] != (3, 11):
        pytest.skip("the members ask for Python 3.11")
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        made = Environment(request.param, Path(folder))
        for line in recipe((ROOT / request.param / "README.md").read_text(encoding="utf-8")):
            made.run("bash", "-c", line)
        yield made


@pytest.mark.slow
def test_the_versions_are_those_of_the_lock(environment):
    versions = {name: row["version"] for name, row in environment.installed().items()}
    assert not differences(versions, locked_versions())


@pytest.mark.slow
def test_the_members_are_the_folders_of_this_workspace(environment):
    """Not a stranger's package of the same name."""
    installed = environment.installed()
    names = {"papers-shared": "shared", environment.member.replace("_", "-"): environment.member}
    places = {installed[name]["editable_project_location"]: ROOT / folder for name, folder in names.items()}
    assert all(Path(place) == folder for place, folder in places.items())
    assert "shared" not in installed


@pytest.mark.slow
def test_there_is_one_opencv(environment):
    """Two OpenCV wheels in one environment overwrite each other's files."""
    assert [name for name in environment.installed() if name.startswith("opencv")] == ["opencv-python-headless"]


@pytest.mark.slow
def test_it_starts(environment):
    environment.run("python", *STARTS[environment.member])
