"""The pip line of the READMEs, in a fresh environment: it must give what the lock holds.

pip sees neither the lock nor the workspace's constraints, so what decides numbers is pinned in the member's own
pyproject.toml; a version that differs here wants a pin there. Downloads about 3 GB, hence `slow`.
"""

import json
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
# What decides results: these must have the lock's version exactly.
EXACT = ("torch", "torchvision", "timm", "open-clip-torch", "albumentations", "albucore", "opencv-python-headless")
# Their releases stay compatible within a major version, and pins would only bring conflicts: the major has to agree.
MAJOR = ("numpy", "pydantic", "pillow")
SECONDS = 3000


def plain(version: str) -> str:
    """Without the local part: 2.10.0+cu128 is 2.10.0."""
    return version.split("+")[0]


def differences(installed: dict[str, str], locked: dict[str, str]) -> list[str]:
    """Packages whose installed version is not the lock's, as far as EXACT and MAJOR ask for it."""
    found = []
    for name in (*EXACT, *MAJOR):
        parts = 1 if name in MAJOR else None
        here, lock = installed.get(name), locked[name]
        if here is None or plain(here).split(".")[:parts] != plain(lock).split(".")[:parts]:
            found.append(f"{name}: installed {here}, locked {lock}")
    return found


def locked_versions() -> dict[str, str]:
    packages = tomllib.loads((ROOT / "uv.lock").read_text())["package"]
    return {package["name"]: package["version"] for package in packages if "version" in package}


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def python() -> Iterator[Path]:
    """The interpreter of a fresh environment with both members in it; removed afterwards (8 GB)."""
    if sys.version_info[:2] != (3, 11):
        pytest.skip("the members ask for Python 3.11")
    with tempfile.TemporaryDirectory() as folder:
        run(sys.executable, "-m", "venv", folder, cwd=ROOT)
        python = Path(folder) / "bin" / "python"
        run(python, "-m", "pip", "install", "--no-cache-dir", "-e", "../shared", "-e", ".", cwd=ROOT / "talk2car_kd")
        yield python


@pytest.fixture(scope="module")
def installed(python) -> dict[str, dict]:
    """What pip lists, by name."""
    rows = json.loads(run(python, "-m", "pip", "list", "--format=json", cwd=ROOT))
    return {row["name"].lower().replace("_", "-"): row for row in rows}


def test_the_versions_are_those_of_the_lock(installed):
    versions = {name: row["version"] for name, row in installed.items()}
    assert not differences(versions, locked_versions())


def test_the_members_are_the_folders_of_this_workspace(installed):
    """Not a stranger's package of the same name."""
    places = {name: installed[name]["editable_project_location"] for name in ("papers-shared", "talk2car-kd")}
    assert {name: Path(place) for name, place in places.items()} == {
        "papers-shared": ROOT / "shared",
        "talk2car-kd": ROOT / "talk2car_kd",
    }
    assert "shared" not in installed


def test_there_is_one_opencv(installed):
    """Two OpenCV wheels in one environment overwrite each other's files."""
    assert [name for name in installed if name.startswith("opencv")] == ["opencv-python-headless"]


def test_nothing_conflicts_and_the_entry_script_starts(python, tmp_path):
    run(python, "-m", "pip", "check", cwd=tmp_path)
    assert "stages   teacher -> 1 -> 2 -> test" in run(python, "main.py", "--dry-run", cwd=ROOT / "talk2car_kd")
    run(
        python, "-c", "import talk2car_kd; talk2car_kd.Talk2CarModel, talk2car_kd.get_augmented_transform", cwd=tmp_path
    )
