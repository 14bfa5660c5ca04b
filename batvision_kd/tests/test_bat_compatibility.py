"""verify_feature_compatibility.py: the real forward decides, and the exit status tells."""

import runpy
import sys
from pathlib import Path

import pytest
import torch

from batvision_kd import compatibility
from batvision_kd.compatibility import compare, describe, main
from batvision_kd.models import create_binaural_attention_model, create_rgb_depth_model

SCRIPT = Path(__file__).resolve().parent.parent / "verify_feature_compatibility.py"
SMALL = ["--base_channels", "8", "--size", "32", "48"]


def models(base=8, **options):
    torch.manual_seed(0)
    return create_rgb_depth_model(8, output_size=None), create_binaural_attention_model(
        base, output_size=None, **options
    )


def test_the_script_says_ready_and_ends_with_zero(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *SMALL])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    out = capsys.readouterr().out
    assert stop.value.code == 0 and "Ready for distillation" in out
    assert "[1, 64, 2, 3]" in out and out.count("fits") == 10


def test_the_script_without_arguments_checks_the_contracts_models(monkeypatch):
    asked = {}
    monkeypatch.setattr(compatibility, "verify", lambda args: asked.update(vars(args)) or 0)
    assert main([]) == 0
    assert (asked["base_channels"], asked["size"], asked["attention_levels"]) == (64, [256], [4, 5])


def test_other_widths_end_with_one_and_are_named(capsys):
    assert main([*SMALL, "--student_base_channels", "16"]) == compatibility.MISMATCH == 1
    assert "NOT ready for distillation: x1, x2, x3" in capsys.readouterr().out


@pytest.mark.parametrize("flags", [["--no-bilinear"], ["--attention", "reference"], ["--shared_encoder"],
                                   ["--attention_levels"]])  # fmt: skip
def test_every_variant_fits(flags):
    assert main([*SMALL, *flags]) == 0


def test_a_size_that_does_not_divide_is_an_error_of_its_own(capsys):
    assert main(["--base_channels", "8", "--size", "40"]) == 2
    assert "divisible by 16" in capsys.readouterr().err


def test_a_student_that_returns_one_ears_maps_is_found_out():
    teacher, student = models()
    student._fuse = lambda level, left, right: left
    rows = {row.name: row for row in compare(teacher, student, (32, 32))}
    assert [name for name, row in rows.items() if not row.fits] == ["x1", "x2", "x3", "x4", "x5"]
    assert "deaf to the right ear" in rows["x1"].problem


def test_a_missing_map_and_a_broken_one_are_found_out():
    teacher, student = models()
    forward = student.forward

    def broken(x, return_features=False):
        depth, features = forward(x, return_features=True)
        features.pop("x4")
        return depth, {**features, "d1": features["d1"] * float("nan")}

    student.forward = broken
    rows = {row.name: row.problem for row in compare(teacher, student, (32, 32))}
    assert rows["x4"] == "missing in the student" and rows["d1"] == "not finite" and rows["x1"] == ""
    assert "NOT ready" in describe(compare(teacher, student, (32, 32)))
