"""tools/test.py: MMDetection's test command for pairs.

    python tools/test.py CONFIG CHECKPOINT [--work-dir DIR] [--out FILE.json] [--show-dir DIR]
                                           [--cfg-options KEY=VALUE ...] [--launcher none|pytorch|slurm|mpi]

Prints the metrics and writes, into the work dir, results_<checkpoint>.json (metrics, what was judged by what),
detections_<checkpoint>.json (COCO's list) and, where a miss rate is judged, detections_<checkpoint>.txt, which
`python -m llvip_macl.evaluation.kaist_mr` reads. Weights that were chosen on the very pairs they are tested on are
judged all the same, and a warning says so. Exit codes: 0 done, 2 something for you to mend.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shared import checkpoint
from shared.errors import ConfigError
from shared.run import run_command
from shared.storage import sha256_of, storage_error, write_atomic

from .embedded import datasets_of
from .train_command import add_common, build_runner, processes
from .work_folder import admit_training


def parser() -> argparse.ArgumentParser:
    """MMDetection's flags."""
    flags = argparse.ArgumentParser(description="Test a detector of visible/infrared pairs")
    flags.add_argument("config", help="config file")
    flags.add_argument("checkpoint", help="weights: epoch_N.pth, best.pth, ...")
    flags.add_argument("--work-dir", help="folder for the results (default: work_dirs/<config>)")
    flags.add_argument("--out", help="file for the detections, .json (default: in the work dir)")
    flags.add_argument("--show", action="store_true", help="not supported: no window is opened; see --show-dir")
    flags.add_argument("--show-dir", help="folder, in <work dir>/<time>, for pictures with boxes (visible image)")
    flags.add_argument("--wait-time", type=float, default=2, help="without effect: no window is opened")
    flags.add_argument("--tta", action="store_true", help="not supported")
    add_common(flags)
    return flags


def main(argv: Sequence[str] | None = None) -> int:
    """Test; the exit code."""
    arguments = parser().parse_args(argv)
    return run_command(lambda: test(arguments, sys.argv[1:] if argv is None else list(argv)))


def test(arguments: argparse.Namespace, command: list[str]) -> int:
    """The command's body; raises what `run_command` turns into exit codes."""
    from .preparation import Request, prepare

    _refuse(arguments)
    request = Request(arguments.config, arguments.work_dir, arguments.cfg_options, arguments.launcher,
                      load_from=arguments.checkpoint, testing=True)  # fmt: skip
    prepared = prepare(request)
    cfg = prepared.cfg
    cfg.resume = False
    files = output_files(cfg, arguments)
    judge_into(cfg, files)
    if arguments.show_dir:
        draw_into(cfg, arguments.show_dir)
    with processes(cfg, arguments) as world:
        runner = build_runner(prepared, world)
        metrics = runner.test()
        if world.is_main:
            report(cfg, metrics, files, arguments.checkpoint, command)
            if arguments.show_dir:
                print(f"pictures: {Path(cfg.work_dir) / runner.timestamp / drawn_folder(cfg, arguments.show_dir)}")
    return 0


def _refuse(arguments: argparse.Namespace) -> None:
    if arguments.tta:
        raise ConfigError("--tta: there is no test-time augmentation of pairs; leave it out.")
    if arguments.show:
        raise ConfigError("--show: no window is opened here; --show-dir DIR writes the pictures.")
    if arguments.out and not arguments.out.endswith(".json"):
        raise ConfigError(f"--out {arguments.out}: detections are written as .json (a pickle may run code when read).")


def output_files(cfg: Any, arguments: argparse.Namespace) -> dict[str, Path]:
    """{"results", "detections", "txt"}; their folders are made, and a training may begin in the work dir later."""
    folder, name = Path(cfg.work_dir), Path(arguments.checkpoint).stem
    files = {
        "results": folder / f"results_{name}.json",
        "detections": Path(arguments.out) if arguments.out else folder / f"detections_{name}.json",
        "txt": folder / f"detections_{name}.txt",
    }
    for path in files.values():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise storage_error(path, error) from error
    admit_training(folder)
    return files


def judge_into(cfg: Any, files: Mapping[str, Path]) -> None:
    """Let the evaluation write its detections."""
    evaluators = cfg.test_evaluator if isinstance(cfg.test_evaluator, list | tuple) else [cfg.test_evaluator]
    evaluators = [dict(one) for one in evaluators]
    for one in evaluators:
        if one["type"] == "KaistMissRate":
            one.setdefault("result_txt", str(files["txt"]))
    cfg.test_evaluator = [*evaluators, {"type": "DetectionsToJson", "path": str(files["detections"])}]


def drawn_folder(cfg: Any, folder: str) -> str:
    """Pictures of the embedded world say so by their folder."""
    return f"{folder}-embedded-world" if cfg.get("embedded_world") else folder


def draw_into(cfg: Any, folder: str) -> None:
    """mmdet's own pictures."""
    visualization = {"type": "DetVisualizationHook", "draw": True, "test_out_dir": drawn_folder(cfg, folder)}
    cfg.default_hooks["visualization"] = visualization


def chosen_on_test(cfg: Any, source: str) -> str | None:
    """The metric that chose these weights among the epochs of their run, if this config validates on its test pairs."""
    path = Path(source).resolve()  # best.pth leads to a best_epochN_lossX.pth, whose manifest says what chose it
    beside = path.with_name(f"{path.name}.json")
    metric = (checkpoint.manifest(path).get("extra") or {}).get("metric") if beside.is_file() else None
    same = cfg.get("val_dataloader") and cfg.val_dataloader.dataset == cfg.test_dataloader.dataset
    return metric if same and metric != "loss" else None


def report(cfg: Any, metrics: Mapping[str, Any], files: Mapping[str, Path], source: str, command: list[str]) -> None:
    """Print the metrics and what they are of, and write results_<checkpoint>.json."""
    numbers = {name: float(value) for name, value in metrics.items()}
    sets = [{key: value for key, value in one.items() if key != "pipeline"}
            for one in datasets_of({"test_dataloader": cfg.test_dataloader})]  # fmt: skip
    chosen_by = chosen_on_test(cfg, source)
    record = {
        "metrics": numbers,
        "checkpoint": str(source),
        "checkpoint_sha256": sha256_of(source) if Path(source).is_file() else None,
        "chosen_on_these_pairs_by": chosen_by,
        "config": str(cfg.filename),
        "data": "embedded" if cfg.get("embedded_world") else "data_root",
        "test_sets": sets,
        "evaluators": [dict(one) for one in cfg.test_evaluator],
        "command": command,
    }
    mark = "  (EMBEDDED WORLD)" if cfg.get("embedded_world") else ""
    for name, value in numbers.items():
        print(f"{name}  {value:.4f}{mark}")
    pairs = ", ".join(f"{one.get('split') or one.get('ann_file')} of {one['data_root']}" for one in sets)
    print(f"weights {source}, pairs {pairs}")
    if chosen_by:
        print(f"WARNING: these weights are the best of their run's epochs by {chosen_by} on these very pairs, which is "
              "optimistic; the last epoch_N.pth is not chosen.")  # fmt: skip
    write_atomic(files["results"], json.dumps(record, indent=1, default=str) + "\n")
    print(f"written: {files['results']}, {files['detections']}")
