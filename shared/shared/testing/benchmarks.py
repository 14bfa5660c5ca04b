"""Benchmark scripts under test: imported as `python benchmarks/...` imports them, and the laws of a scaling.py.

scripts = load_all(BENCHMARKS, ("search", "bitstream"))  # bitstream's own `search` is scripts["search"]

class TestScaling(ScalingLaws):
    folder, growths = BENCHMARKS, 4
"""

import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import pytest

from ..scaling import Growth


def load(folder: Path, name: str) -> ModuleType:
    """A new module of the script `name`.py in a folder; no later import finds it."""
    return load_all(folder, [name])[name]


def load_all(folder: Path, names: Sequence[str]) -> dict[str, ModuleType]:
    """The same of several scripts, which may import one another, by their names."""
    importlib.invalidate_caches()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        try:
            return {name: importlib.import_module(name) for name in names}
        finally:
            for name, module in list(sys.modules.items()):
                if Path(getattr(module, "__file__", None) or "").parent == folder:
                    del sys.modules[name]


def hold_growths(growths: Sequence[Growth]) -> None:
    """ValueError unless every growth has five rising sizes that span a decade."""
    for growth in growths:
        sizes = list(growth.sizes)
        if len(sizes) < 5 or sizes != sorted(set(sizes)) or sizes[-1] < 10 * sizes[0]:
            raise ValueError(f"{growth.what}: {sizes} are not five sizes or more that rise over a decade")


class ScalingLaws:
    """Subclass with the `folder` of the benchmarks and the number of `growths`."""

    folder: ClassVar[Path]
    growths: ClassVar[int]
    works: ClassVar[slice] = slice(None)  # the growths whose smallest work is done in `make test`

    @pytest.fixture(scope="class")
    @classmethod
    def scaling(cls) -> ModuleType:
        return load(cls.folder, "scaling")

    def test_it_covers_a_decade_and_its_works_work(self, scaling):
        growths = scaling.growths()
        hold_growths(growths)
        assert len(growths) == self.growths
        for growth in growths[self.works]:
            growth.prepare(growth.sizes[0])()

    @pytest.mark.slow
    def test_its_quick_form_measures_every_growth(self, scaling, tmp_path):
        out = tmp_path / "scaling.json"
        assert scaling.main(["--quick", "--out", str(out)]) == 0
        rows = json.loads(out.read_text())["results"]["growths"]
        assert len(rows) == self.growths
        assert all(min(row["seconds"]) > 0 and row["time"] for row in rows)
