"""The command line as a sequence of stages, all in one run folder.

all = [teacher,] 1, 2, test    (teacher: only in the embedded world)
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from shared import run as run_module
from shared.config import config_hash, load_config, merged, to_yaml
from shared.embedded_world import lies_in_embedded
from shared.errors import CheckpointError, ConfigError, DataError

from .config import ABLATION, DEFAULT, EMBEDDED, Config
from .stages.context import Context, data_roots, in_package
from .weights import BEST, config_hash_of, newest

STAGES = ("all", "1", "2", "test", "teacher", "export", "ablate")
NEEDS_MODEL = ("test", "export")  # stages that, alone, judge a model that is there already
# What changes neither the weights nor the numbers, so that a cut run can be continued with another value.
NOT_HASHED = (
    "data.cache_dir", "data.results_dir", "data.embedded_dir", "training.device", "training.workers",
    "training.loader_timeout_s", "training.keep", "training.wandb", "export",
)  # fmt: skip
BANNER = """
  +----------------------------------------------------------------------------+
  |  EMBEDDED DATA: this run uses a small world that this package draws        |
  |  itself (data.coco_root and data.talk2car_root are null, or lie in one).   |
  |  Its numbers are not Talk2Car results.                                     |
  +----------------------------------------------------------------------------+
"""


@dataclass(frozen=True)
class Request:
    """The parsed command line."""

    stage: str
    visualize: bool
    generate_predictions: bool
    configs: tuple[Path, ...]
    overrides: tuple[str, ...]
    run: str | None
    checkpoint: Path | None
    validate: bool
    dry_run: bool


def parse(argv: Sequence[str] | None = None) -> Request:
    parser = argparse.ArgumentParser(
        prog="main.py",
        description="Distil OpenCLIP into a small ConvNeXt on COCO regions (stage 1), then ground Talk2Car commands "
        "(stage 2). Without data roots everything runs on an embedded world.",
    )
    parser.add_argument("--stage", choices=STAGES, default="all", help="what to run (default: all)")
    parser.add_argument("--visualize", action="store_true", help="test: save pictures to results/<run>/visualizations/")
    parser.add_argument(
        "--generate_predictions", action="store_true", help="test: write results/<run>/predictions.json"
    )
    parser.add_argument("--config", action="append", type=Path, default=[], metavar="FILE",
                        help="YAML laid over config/default.yaml; repeatable, later wins")  # fmt: skip
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c", dest="overrides",
                        help="one setting; wins over all files")  # fmt: skip
    parser.add_argument("--run", metavar="NAME", help="folder below results/; default: continue the newest unfinished "
                        "run of this configuration, else a new one; test, export: the run of the model")  # fmt: skip
    parser.add_argument(
        "--checkpoint", type=Path, help="stage 2: distilled_weights.pth; test, export: talk2car_best.pth"
    )
    parser.add_argument("--validate", action="store_true", help="check the data roots, list every problem, and stop")
    parser.add_argument("--dry-run", action="store_true", help="resolve everything, print the plan, write nothing")
    args = parser.parse_args(argv)
    return Request(args.stage, args.visualize, args.generate_predictions, tuple(args.config), tuple(args.overrides),
                   args.run, args.checkpoint, args.validate, args.dry_run)  # fmt: skip


def resolve(request: Request) -> Config:
    """default.yaml < embedded.yaml (both roots null) < ablate.yaml (--stage ablate) < --config < --set; roots that lie
    in an embedded world bring its mark, unless there is one."""
    roots = merged([DEFAULT, *request.configs], request.overrides)["data"]
    unset = [key for key in ("coco_root", "talk2car_root") if roots.get(key) is None]
    if len(unset) == 1:
        raise ConfigError(
            f"data.{unset[0]} is null and the other root is set: set both for real data, or neither for the embedded "
            "world"
        )
    embedded = [EMBEDDED] if unset else []
    ablation = [ABLATION] if request.stage == "ablate" else []
    files = [DEFAULT, *embedded, *ablation, *request.configs]
    config = load_config(Config, files, request.overrides)
    if config.data.mark or not is_synthetic(config):
        return config
    mark = json.dumps(merged([EMBEDDED])["data"]["mark"])
    return load_config(Config, files, [*request.overrides, f"data.mark={mark}"])


def is_synthetic(config: Config) -> bool:
    """Whether a data root is null, or lies in an embedded world."""
    roots = (config.data.coco_root, config.data.talk2car_root)
    return any(root is None or lies_in_embedded(in_package(root)) for root in roots)


def stages_of(request: Request, config: Config) -> list[str]:
    """The stages a request means, in order."""
    first = ["teacher"] if config.embedded and config.teacher.train else []
    plans = {"all": [*first, "1", "2", "test"], "1": [*first, "1"]}
    return plans.get(request.stage, [request.stage])


def main(argv: Sequence[str] | None = None) -> int:
    return run_module.run_command(lambda: execute(parse(argv)))


def execute(request: Request) -> int:
    config = resolve(request)
    if request.validate:
        return validate(config)
    if request.stage == "ablate":
        from .ablation import ablate

        files = [part for file in (ABLATION, *request.configs) for part in ("--config", str(file.resolve()))]
        sets = [part for setting in request.overrides for part in ("--set", setting)]
        return ablate(config, request.run, (*files, *sets))
    check_roots(request, config)
    if request.dry_run:
        print(plan(request, config))
        return 0
    if request.stage in NEEDS_MODEL:
        request = with_model(request, config)
    with run_module.world_from_environment(config.training.device) as world:
        if is_synthetic(config) and world.is_main:
            run_module.announce(BANNER)
        with open_run(request, config, world) as run:
            run_stages(request, config, world, run)
    return 0


def check_roots(request: Request, config: Config) -> None:
    """Refuse roots that are missing, or half-present for these stages, before anything is loaded or written."""
    from .coco import find_coco
    from .talk2car import find_talk2car

    if config.embedded:
        return
    coco, talk2car = in_package(config.data.coco_root), in_package(config.data.talk2car_root)
    for key, root in (("coco_root", coco), ("talk2car_root", talk2car)):
        if not root.is_dir():
            raise DataError(f"data.{key}: {root} is not a folder; correct the path, or see --validate")
    stages = stages_of(request, config)
    if "1" in stages:
        find_coco(coco)
    if "2" in stages or "test" in stages:
        find_talk2car(talk2car)


def with_model(request: Request, config: Config) -> Request:
    """The request with the model it judges and the run it belongs to, both found where they were not named.

    Without --checkpoint: the best of the run named, else the newest best of this configuration. Without --run: the run
    that the model lies in, if it has this configuration; otherwise a run of its own.
    """
    results, ours = in_package(config.data.results_dir), config_hash(config, NOT_HASHED)
    named = results / request.run / BEST if request.run else None
    path = request.checkpoint or named or newest(results, BEST, ours)
    if not path.is_file():
        raise CheckpointError(
            f"{path} does not exist: run `python main.py --stage 2` first, or name a file: --checkpoint"
        )
    home = path.resolve().parent
    lies_in_run = home.parent == results.resolve() and config_hash_of(home) == ours
    return replace(request, checkpoint=path, run=request.run or (home.name if lies_in_run else None))


def open_run(request: Request, config: Config, world) -> run_module.RunFolder:
    return run_module.RunFolder.open(
        in_package(config.data.results_dir),
        name=request.run,
        config_hash=config_hash(config, NOT_HASHED),
        config_yaml=to_yaml(config),
        stages=stages_of(request, config),
        world=world,
        command=sys.argv,
        packages=("torch", "torchvision", "timm", "open-clip-torch", "albumentations", "numpy"),
        wandb=config.training.wandb,
    )


def run_stages(request: Request, config: Config, world, run: run_module.RunFolder) -> None:
    """Run what is not done yet; a stage is done when it has written everything it writes."""
    run.record(seed=config.training.seed, data=_data_record(config))
    ctx = Context(config, run, world, *data_roots(config, world, run.log))
    for stage in stages_of(request, config):
        if run.is_done(stage) and stage not in ("test", "export"):
            run.log.info("stage %s is done in %s", stage, run.path.name)
            continue
        run.log.info("stage %s", stage)
        _perform(stage, ctx, request)
        run.mark_done(stage)


def _data_record(config: Config) -> str | dict[str, str]:
    if config.embedded:
        return "embedded"
    roots = {"coco": str(config.data.coco_root), "talk2car": str(config.data.talk2car_root)}
    return {**roots, "mark": config.data.mark} if config.data.mark else roots


def _perform(stage: str, ctx: Context, request: Request) -> None:
    if stage == "teacher":
        from .stages.teacher import train_teacher

        train_teacher(ctx)
    elif stage == "1":
        from .stages.distill import distil

        distil(ctx)
    elif stage == "2":
        from .stages.ground import fine_tune

        fine_tune(ctx, request.checkpoint)
    elif stage == "test":
        from .stages.test import Outputs, test

        test(ctx, Outputs(request.visualize, request.generate_predictions), request.checkpoint)
    elif stage == "export":
        from .stages.export import export

        export(ctx, request.checkpoint)


def validate(config: Config) -> int:
    """Print every problem of both data roots; 0 when there is none, 2 otherwise."""
    from .coco import validate_coco
    from .talk2car import validate_talk2car

    if config.embedded:
        print("both data roots are null: the embedded world needs no validation")
        return 0
    problems = validate_coco(in_package(config.data.coco_root))
    problems += validate_talk2car(in_package(config.data.talk2car_root), config.stage2.frame_wh)
    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"{len(problems)} problems" if problems else "both data roots are complete")
    return 2 if problems else 0


def plan(request: Request, config: Config) -> str:
    """What the request would do: stages, data, models, sizes."""
    stages = " -> ".join(stages_of(request, config))
    data = "embedded world" if config.embedded else f"{config.data.coco_root}, {config.data.talk2car_root}"
    return f"stages   {stages}\ndata     {data}\nconfig   {config_hash(config, NOT_HASHED)}\n\n{to_yaml(config)}"
