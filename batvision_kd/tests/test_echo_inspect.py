"""The check of a data root: every kind of damage is found, all at once, with path and remedy, and exit code 2."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from batvision_kd.audio import write_wav
from batvision_kd.data.inspect import inspect_root, main
from batvision_kd.world import write_world

PLACE = "Building_00"


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("world") / "clean", train=7, val=2, test=3, size_hw=(18, 32), workers=0)


@pytest.fixture
def root(clean, tmp_path):
    """A copy to damage: hard links would damage the original."""
    import shutil

    return Path(shutil.copytree(clean, tmp_path / "root"))


def mono(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[22:24] = (1).to_bytes(2, "little")
    path.write_bytes(bytes(content))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def repeated(path: Path) -> None:
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, lines[1]]) + "\n")


def shared_row(path: Path) -> None:
    row = path.read_text().splitlines()[1]
    other = path.with_name("val.csv")
    other.write_text(other.read_text() + row + "\n")


DAMAGE = {
    "audio missing": (f"{PLACE}/audio/audio_0.wav", Path.unlink, "cannot be read"),
    "audio empty": (f"{PLACE}/audio/audio_0.wav", lambda p: p.write_bytes(b""), "no WAV"),
    "audio cut": (f"{PLACE}/audio/audio_0.wav", cut, "cut short"),
    "audio mono": (f"{PLACE}/audio/audio_0.wav", mono, "mono"),
    "other rate": (f"{PLACE}/audio/audio_0.wav", lambda p: write_wav(p, np.full((2, 20_000), 0.1), 48_000), "48,000"),
    "picture missing": (f"{PLACE}/camera/camera_0.jpeg", Path.unlink, "is missing"),
    "picture cut": (f"{PLACE}/camera/camera_0.jpeg", cut, "no whole picture"),
    "depth missing": (f"{PLACE}/depth/depth_0.npy", Path.unlink, "is missing"),
    "depth cut": (f"{PLACE}/depth/depth_0.npy", cut, "cannot be read"),
    "depth in metres": (f"{PLACE}/depth/depth_0.npy", lambda p: np.save(p, np.full((18, 32), 2.5)), "metres"),
    "depth of another shape": (f"{PLACE}/depth/depth_0.npy", lambda p: np.save(p, np.ones(9)), "no map"),
    "table without a column": (f"{PLACE}/train.csv", lambda p: p.write_text("index,time\n0,1\n"), "no column"),
    "table not UTF-8": (f"{PLACE}/train.csv", lambda p: p.write_bytes(b"\xff\xfe\x00"), "UTF-8"),
    "path outside": (f"{PLACE}/train.csv",
                     lambda p: p.write_text(p.read_text().replace(f"{PLACE}/depth/", "/etc/")), "does not stay below"),
    "row twice": (f"{PLACE}/train.csv", repeated, "twice in train"),
    "row in two splits": (f"{PLACE}/train.csv", shared_row, "in train and val"),
}  # fmt: skip


def test_a_clean_world_has_no_finding(clean):
    findings = inspect_root(clean)
    assert findings.problems == [] and findings.warnings == []
    assert sum(findings.counts.values()) == 12 and findings.counts[PLACE, "train"] == 1


@pytest.mark.fault(15)
@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_found_with_its_path(root, name):
    place, damage, message = DAMAGE[name]
    damage(root / place)
    problems = inspect_root(root).problems
    assert len(problems) == 1 and message in problems[0], problems
    assert str(root) in problems[0] and ":" in problems[0]


@pytest.mark.fault(15)
def test_everything_is_found_at_once(root):
    names = ("audio missing", "picture cut", "depth in metres")
    for name in names:
        DAMAGE[name][1](root / DAMAGE[name][0].replace("00", "01"))
    DAMAGE["table not UTF-8"][1](root / PLACE / "train.csv")
    problems = inspect_root(root).problems
    assert len(problems) == 4
    assert all(any(DAMAGE[name][2] in line for line in problems) for name in (*names, "table not UTF-8"))


@pytest.mark.fault(15)
def test_what_the_loader_copes_with_is_a_warning(root):
    (root / PLACE / "val.csv").unlink()
    np.save(root / PLACE / "depth" / "depth_0.npy", np.zeros((18, 32), np.uint16))
    write_wav(root / "Building_01" / "audio" / "audio_0.wav", np.zeros((2, 20_000)), 44_100)
    write_wav(root / "Building_02" / "audio" / "audio_0.wav", np.full((2, 3000), 0.1), 44_100)
    (root / PLACE / "audio" / "audio_99.wav").write_bytes(b"x")
    findings = inspect_root(root)
    told = "\n".join(findings.warnings)
    assert findings.problems == [] and len(findings.warnings) == 5
    for expected in ("val.csv is missing", "0.0% of its pixels", "is silent", "filled up", "audio_99.wav"):
        assert expected in told


@pytest.mark.fault(15)
def test_the_command_ends_with_2_and_prints_every_line(root, capsys):
    assert main([str(root)]) == 0
    assert "12 records" in capsys.readouterr().out
    DAMAGE["audio mono"][1](root / DAMAGE["audio mono"][0])
    assert main([str(root)]) == 2
    assert "mono" in capsys.readouterr().err
    assert main([str(root / "nowhere")]) == 2
    assert "is no folder" in capsys.readouterr().err


def test_the_entry_script_starts_from_its_folder():
    folder = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run([sys.executable, "inspect_data.py", "nowhere"], cwd=folder, env=environment, text=True,
                          capture_output=True, timeout=120)  # fmt: skip
    assert done.returncode == 2 and "is no folder" in done.stderr and "Traceback" not in done.stderr
