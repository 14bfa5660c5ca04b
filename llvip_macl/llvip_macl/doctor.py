"""`python -m llvip_macl.doctor`: is the OpenMMLab stack of this environment one that can work?

Two families of distributions install the same import names: the official mmdet, mmcv, mmengine, and the maintained
onedl-mmdetection, onedl-mmcv, onedl-mmengine. With both in one environment they overwrite each other's files. mmcv also
builds *without its operators* when torch is not visible to its build, and says nothing until the first NMS.

Exit code 0 when all is well, 2 when something must be mended; every problem is listed with its remedy. The module
imports without torch, mmcv and mmdet. `require_stack()` is the quick form that `llvip_macl.register` calls.
"""

import argparse
import importlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata

from shared.errors import UserError

FAMILIES = {
    "official": ("mmdet", "mmcv", "mmengine"),
    "onedl": ("onedl-mmdetection", "onedl-mmcv", "onedl-mmengine"),
}
OFFICIAL_ALIASES = ("mmcv-lite", "mmcv-full")
OPENCV = ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")
OTHERS = ("torch", "torchvision", "numpy", "pycocotools")
PINS = {  # of pyproject.toml
    "torch": "2.10.*",
    "torchvision": "0.25.*",
    "onedl-mmdetection": "3.5.1",
    "onedl-mmcv": "2.3.6",
    "onedl-mmengine": "0.10.12",
    "opencv-python-headless": "4.11.*",
}


def pinned(*names: str) -> str:
    """For pip: the distributions in the versions that this package takes."""
    return " ".join(f"'{name}=={PINS[name]}'" if name in PINS else name for name in names)


BUILD = (
    f"pip install {pinned('torch', 'torchvision')} 'setuptools>=80,<81' wheel ninja psutil packaging && "
    "CFLAGS=-g0 CXXFLAGS=-g0 pip install --no-build-isolation --no-cache-dir --force-reinstall --no-deps "
    f"{pinned('onedl-mmcv')}"
)
MISSING_MMCV = f"mmcv is not installed. Build it against this torch: {BUILD}"
NO_OPERATORS = (
    "mmcv has no operators (mmcv._ext): torch was not visible to its build, or it is mmcv-lite. "
    f"Remove it (pip uninstall mmcv mmcv-lite onedl-mmcv) and build it again: {BUILD}"
)


@dataclass(frozen=True)
class Report:
    """What was found: lines to read, and problems that must be mended."""

    lines: tuple[str, ...]
    problems: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        return 2 if self.problems else 0


def installed_version(distribution: str) -> str | None:
    """Version of an installed distribution, None when it is not there."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def family_problems(version_of: Callable[[str], str | None]) -> list[str]:
    """Both families at once, half of one, or two builds of OpenCV."""
    found = {name: [one for one in members if version_of(one)] for name, members in FAMILIES.items()}
    found["official"] += [name for name in OFFICIAL_ALIASES if version_of(name)]
    problems = []
    if found["official"] and found["onedl"]:
        every = ", ".join([*found["official"], *found["onedl"]])
        problems.append(
            f"both families are installed ({every}) and overwrite each other's files. Keep one: pip uninstall "
            f"{every.replace(',', '')}, then install llvip-macl again."
        )
    for name, members in FAMILIES.items():
        missing = [one for one in members if one not in found[name]]
        if found[name] and missing and not (name == "official" and found["onedl"]):
            remedy = BUILD if "onedl-mmcv" in missing else f"pip install {pinned(*missing)}"
            problems.append(f"of the {name} family {', '.join(missing)} is missing: {remedy}.")
    if not found["official"] and not found["onedl"]:
        problems.append(
            f"neither family is installed: pip install {pinned('onedl-mmdetection', 'onedl-mmengine')}, and "
            + MISSING_MMCV
        )
    builds = [name for name in OPENCV if version_of(name)]
    if len(builds) > 1:
        problems.append(
            f"{len(builds)} builds of OpenCV are installed ({', '.join(builds)}) and overwrite each other's files: "
            f"pip uninstall -y {' '.join(builds)} && pip install {pinned('opencv-python-headless')}."
        )
    return problems


def family_of(version_of: Callable[[str], str | None]) -> str:
    """'onedl', 'official', 'both' or 'none'."""
    there = [name for name, members in FAMILIES.items() if any(version_of(one) for one in members)]
    return {0: "none", 1: there[0] if there else "none", 2: "both"}[len(there)]


def operator_problems(find: Callable[[str], object | None]) -> list[str]:
    """mmcv missing, or built without operators; `find` answers as importlib.util.find_spec."""
    if find("mmcv") is None:
        return [MISSING_MMCV]
    return [] if find("mmcv._ext") is not None else [NO_OPERATORS]


def _find(module: str) -> object | None:
    try:
        return importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None


def require_stack(
    version_of: Callable[[str], str | None] = installed_version, find: Callable[[str], object | None] = _find
) -> None:
    """UserError with every problem that keeps mmdet from working here; imports nothing of it."""
    problems = [*operator_problems(find), *family_problems(version_of)]
    if problems:
        raise UserError("this environment cannot run the detector:\n  " + "\n  ".join(problems)
                        + "\n`python -m llvip_macl.doctor` says more.")  # fmt: skip


def working_operators(load: Callable[[str], object] = importlib.import_module) -> tuple[list[str], list[str]]:
    """(lines, problems) of importing mmcv's operators and calling one on the CPU and, if there is one, on the GPU."""
    try:
        torch, ops = load("torch"), load("mmcv.ops")
    except (ImportError, OSError) as error:  # OSError: a shared library of another torch
        return [], [f"mmcv's operators cannot be loaded ({error}): they were built for another torch. Again: {BUILD}"]
    compiled = ops.get_compiling_cuda_version()
    lines = [f"mmcv operators: work, compiled by {ops.get_compiler_version()}, CUDA {compiled}"]
    boxes, scores = torch.tensor([[0.0, 0.0, 9.0, 9.0], [0.0, 0.0, 8.0, 9.0]]), torch.tensor([0.9, 0.8])
    kept = ops.nms(boxes, scores, 0.5)[1].tolist()
    problems = [] if kept == [0] else [f"mmcv.ops.nms answers {kept} and not [0]: build mmcv again: {BUILD}"]
    if torch.cuda.is_available() and compiled == "not available":
        problems.append(f"there is a CUDA device and mmcv's operators are of the CPU only: with an nvcc of CUDA "
                        f"{torch.version.cuda} on the PATH, FORCE_CUDA=1 and {BUILD}")  # fmt: skip
    return lines, problems


def examine(
    version_of: Callable[[str], str | None] = installed_version,
    find: Callable[[str], object | None] = _find,
    operators: Callable[[], tuple[list[str], list[str]]] = working_operators,
) -> Report:
    """The whole report."""
    names = [*FAMILIES["official"], *OFFICIAL_ALIASES, *FAMILIES["onedl"], *OPENCV, *OTHERS]
    lines = [f"family: {family_of(version_of)}"]
    lines += [f"{name} {version_of(name)}" for name in names if version_of(name)]
    problems = [*operator_problems(find), *family_problems(version_of)]
    if not operator_problems(find):
        more, wrong = operators()
        lines, problems = [*lines, *more], [*problems, *wrong]
    return Report(tuple(lines), tuple(problems))


def main(argv: Sequence[str] | None = None) -> int:
    """Print the report; the exit code says whether something must be mended."""
    parser = argparse.ArgumentParser(
        prog="python -m llvip_macl.doctor", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args(argv)
    report = examine()
    print("\n".join(report.lines))
    for problem in report.problems:
        print(f"PROBLEM: {problem}")
    print("all is well" if not report.problems else f"{len(report.problems)} problem(s)")
    return report.exit_code


if __name__ == "__main__":
    sys.exit(main())
