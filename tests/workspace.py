"""What the gates look at: the members of the workspace, and every file of it that is, or would be, committed."""

import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MEMBERS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["uv"]["workspace"]["members"]
NOT_OURS = {"__pycache__", "results", "build", "dist", "node_modules"}  # besides hidden folders and *.egg-info
NOT_COMMITTED = re.compile(
    r"talk2car_kd/data/(?!download\.py$)|batvision_kd/(data|checkpoints|logs)/|voxel_mae/(data|output)/|llvip_macl/(data|work_dirs)/"
    r"|pillars_rq/(data|datasets|pretrained|base_results|\w*rq_logs[\w-]*)/"
)
TEXT_SUFFIXES = {".py", ".md", ".yaml", ".yml", ".toml", ".cfg", ".sh", ""}


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


def projects() -> dict[str, dict]:
    return {member: tomllib.loads((ROOT / member / "pyproject.toml").read_text())["project"] for member in MEMBERS}
