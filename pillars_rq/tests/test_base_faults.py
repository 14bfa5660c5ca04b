"""The training of a base detector under the faults of `shared.testing.faults`."""

from importlib.util import find_spec
from pathlib import Path

import pytest
from base_samples import TINY, write_root

from pillars_rq import base_training, onnx_export
from pillars_rq.kitti.dataset import KittiDataset
from shared.testing.faults import ExportCommand, FaultSuite, TrainingCommand
from shared.testing.worker_faults import TIMEOUT_S, WorkerFaults


def argv(work: Path) -> list[str]:
    settings = [f"data.dir={work / 'kitti'}", f"data.results_dir={work / 'results'}"]
    sets = [part for setting in settings for part in ("--set", setting)]
    return ["--run", "t", "--config", str(work / "tiny.yaml"), *sets]


COMMAND = TrainingCommand(
    name="base",
    main=base_training.main,
    argv=argv,
    script=Path(__file__).parents[1] / "train_pointpillars.py",
    run_folder=lambda work: work / "results" / "t",
    stage=base_training.STAGE,
    weights=base_training.WEIGHTS,
    evaluation=(base_training, "evaluate_base"),
    evaluation_of_all=(base_training, "_judge"),
    preparation={"data": (base_training, "datasets"), "teacher": (base_training, "make_anchors")},
    workers=lambda count: ["--set", f"training.workers={count}"],
    another_seed=["--set", "training.seed=1", "--run", "other"],
    # No `uneven`: batch norm sees each process's own frames, so two processes are not one. The normalisation of the
    # losses is held by test_base_training.py.
    export=ExportCommand(
        argv=lambda work: [str(work / "results/t" / base_training.WEIGHTS), "--out", str(work / "onnx")],
        point=(onnx_export, "check_parity"),
        folder=lambda work: work / "onnx",
        main=onnx_export.main,
    )
    if find_spec("onnxruntime")
    else None,
)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    work = tmp_path_factory.mktemp("prepared")
    write_root(work / "kitti")
    (work / "tiny.yaml").write_text(TINY)
    return work


class TestBase(WorkerFaults, FaultSuite):
    command = COMMAND
    sample_reader = (KittiDataset, "__getitem__")
    two_workers = (*COMMAND.workers(2), "--set", f"training.loader_timeout_s={TIMEOUT_S}")
