"""The doctor names what is wrong with an environment, and imports without the stack."""

import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import pytest

from llvip_macl import doctor
from shared.errors import UserError

ONEDL = dict.fromkeys(doctor.FAMILIES["onedl"], "1.0")
FOUND = object()


def finder(*missing):
    return lambda module: None if module in missing else FOUND


def test_one_whole_family_is_well():
    report = doctor.examine({**ONEDL, "opencv-python-headless": "4"}.get, finder(), lambda: (["ok"], []))
    assert report.problems == ()
    assert report.exit_code == 0
    assert report.lines[0] == "family: onedl"


@pytest.mark.parametrize(
    ("installed", "missing", "told"),
    [
        ({**ONEDL, "mmcv": "2.1.0"}, (), "both families"),
        ({**ONEDL, "mmcv-lite": "2.1.0"}, (), "both families"),
        ({"onedl-mmengine": "1", "onedl-mmcv": "1"}, (), "onedl-mmdetection is missing"),
        ({"mmdet": "3", "mmcv": "2"}, (), "mmengine is missing"),
        ({}, ("mmcv", "mmcv._ext"), "neither family"),
        (ONEDL, ("mmcv._ext",), "no operators"),
        (ONEDL, ("mmcv", "mmcv._ext"), "mmcv is not installed"),
        ({**ONEDL, "opencv-python": "4", "opencv-python-headless": "4"}, (), "2 builds of OpenCV"),
    ],
)
def test_what_is_wrong_is_told_with_its_remedy(installed, missing, told):
    report = doctor.examine(installed.get, finder(*missing), lambda: ([], []))
    assert report.exit_code == 2
    assert told in "\n".join(report.problems)
    assert "pip" in "\n".join(report.problems)
    with pytest.raises(UserError, match=told):
        doctor.require_stack(installed.get, finder(*missing))


def test_remedies_name_the_versions_that_this_package_takes():
    text = (Path(__file__).parents[1] / "pyproject.toml").read_text()
    required = tomllib.loads(text)["project"]["dependencies"]
    assert dict(one.split("==") for one in required if "==" in one) == doctor.PINS
    for problem in doctor.examine({}.get, finder("mmcv"), lambda: ([], [])).problems:
        assert "pip install 'onedl-mmdetection==" in problem or "'onedl-mmcv==" in problem


def test_operators_of_another_torch_are_told():
    def load(name):
        raise ImportError("undefined symbol")

    assert "undefined symbol" in doctor.working_operators(load)[1][0]


def test_this_environment_is_well():
    doctor.require_stack()
    lines, problems = doctor.working_operators()
    assert problems == []
    assert "work" in lines[0]


def test_it_runs_where_nothing_of_the_stack_is():
    code = textwrap.dedent("""
        import sys
        for name in ("torch", "mmcv", "mmdet", "mmengine", "numpy"):
            sys.modules[name] = None
        from llvip_macl import doctor
        try:
            doctor.require_stack(lambda name: None, lambda name: None)
        except Exception as error:
            print(error)
    """)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "mmcv is not installed" in done.stdout, done.stderr
