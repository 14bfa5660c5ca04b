"""The demo: stage 1 on drawn LLVIP scenes, stage 2 on drawn KAIST scenes, test, pictures, one page.

    python demo.py                       # the same command continues a cut one

The trainings are ordinary runs of tools/train.py with configs/embedded/; what is finished is not trained again. All
of it goes to work_dirs/demo/: stage1/, stage2/, test/, pictures, report.html. The data are drawn; everything says so.
Stage 2 is judged by its last epoch, so that nothing is chosen on the test scenes.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.run import run_command

PACKAGE_ROOT = Path(__file__).parents[1]
CONFIGS = {"stage1": PACKAGE_ROOT / "configs/embedded/stage1.py", "stage2": PACKAGE_ROOT / "configs/embedded/stage2.py"}
SHOWN_PAIRS = 4
LEAST_SCORE = 0.3
PAIRS_CAPTION = (
    f"Test pairs of different scenes: boxes and scores of the stage-2 detector (orange, from {LEAST_SCORE} on), "
    "annotated persons (green), regions to ignore (yellow). A pair has one set of boxes, drawn on both halves. Not the "
    "best ones: the first pair with persons of each scene."
)
FPPI_CAPTION = (
    "Miss rate against false positives per image, by subset, protocol matlab, on the test scenes. The number in the "
    "legend is the log-average over the nine references."
)
ALIGNMENT_CAPTION = (
    "Do the embeddings of one person agree across the modalities? Dots: value; bands: 95 % interval over images; red: "
    "what unrelated embeddings would give. The untrained network is the control."
)
TSNE_CAPTION = "The same embeddings in a t-SNE plane; lines join the two halves of a person. A picture, no measurement."


@dataclass(frozen=True)
class Finished:
    """What the demo leaves behind: folders of the two stages and of the test, seconds this command spent on each."""

    folder: Path
    seconds: dict[str, float]

    @property
    def weights(self) -> Path:
        """Of stage 2's last epoch."""
        return last_checkpoint(self.folder / "stage2")

    def test_scores(self) -> dict[str, float]:
        """The metrics of tools/test.py."""
        text = (self.folder / "test" / f"results_{self.weights.stem}.json").read_text(encoding="utf-8")
        return json.loads(text)["metrics"]


def last_checkpoint(folder: Path) -> Path:
    """The newest checkpoint of a run's folder. CheckpointError when there is none."""
    from shared.errors import CheckpointError

    from .runtime.checkpoints import LAST

    try:
        return folder / Path((folder / LAST).read_text(encoding="utf-8").strip()).name
    except OSError as error:
        raise CheckpointError(f"{folder} holds no finished training ({error}): run the demo again.") from None


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="demo.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--work-dir", type=Path, default=Path("work_dirs/demo"), help="(default: %(default)s)")
    parser.add_argument("--cfg-options", nargs="+", action="extend", default=[], metavar="KEY=VALUE",
                        help="settings of both stages, as of tools/train.py")  # fmt: skip
    parser.add_argument("--epochs", type=int, nargs=2, metavar=("STAGE1", "STAGE2"), help="(default: the configs')")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns its exit code."""
    args = parse(argv)
    return run_command(lambda: run_all(args))


def run_all(args: argparse.Namespace) -> int:
    """World, both stages, test, pictures, page."""
    started = time.monotonic()
    epochs = args.epochs or (None, None)
    seconds = {}
    seconds["stage 1"] = _train("stage1", args, epochs[0])
    start = f"load_from={args.work_dir / 'stage1' / 'best.pth'}"
    seconds["stage 2"] = _train("stage2", args, epochs[1], start)
    seconds["test"] = _test(args)
    finished = Finished(args.work_dir, seconds)
    pictures = draw_all(finished, args.cfg_options)
    page = write_report(finished, pictures, time.monotonic() - started)
    print(f"demo: {time.monotonic() - started:.0f} s; wrote {page}", flush=True)
    return 0


def _train(stage: str, args: argparse.Namespace, epochs: int | None, *options: str) -> float:
    """One of the two trainings, to its end; seconds spent."""
    from .runtime import train_command

    started = time.monotonic()
    options = [*args.cfg_options, *options, *([f"train_cfg.max_epochs={epochs}"] if epochs else [])]
    argv = [str(CONFIGS[stage]), "--work-dir", str(args.work_dir / stage), "--resume"]
    argv += ["--cfg-options", *options] if options else []
    train_command.train(train_command.parser().parse_args(argv), ["tools/train.py", *argv])
    return time.monotonic() - started


def _test(args: argparse.Namespace) -> float:
    from .runtime import test_command

    started = time.monotonic()
    weights = last_checkpoint(args.work_dir / "stage2")
    argv = [str(CONFIGS["stage2"]), str(weights), "--work-dir", str(args.work_dir / "test")]
    argv += ["--cfg-options", *args.cfg_options] if args.cfg_options else []
    test_command.test(test_command.parser().parse_args(argv), argv)
    return time.monotonic() - started


# --- pictures ---------------------------------------------------------------------------------------------------------


def draw_all(finished: Finished, options: Sequence[str] = ()) -> list[tuple[Path, str]]:
    """(picture, caption) of detections, miss rate, alignment, t-SNE; written to the demo's folder."""
    from .evaluation.alignment import alignment_report
    from .evaluation.export import EMBEDDED_MARK, write_figure
    from .evaluation.tsne import pairs_figure, tsne_plane
    from .inference import PairInferencer
    from .pictures import alignment_figure

    folder = finished.folder
    detector = PairInferencer(CONFIGS["stage2"], finished.weights, options=options)
    dataset = test_set(detector.cfg)
    made = [(draw_pairs(detector, dataset, folder / "pairs.png"), PAIRS_CAPTION)]
    made.append((folder / "test" / "figures" / "kaist_fppi_test.png", FPPI_CAPTION))
    rows = embeddings(detector, dataset, options)
    reports = {name: alignment_report(pairs.visible, pairs.infrared, pairs.images) for name, pairs in rows.items()}
    count = len(rows["after stage 2"].images)
    title = f"{count} persons of the test scenes, MACL embedding"
    figure = alignment_figure(reports, title, EMBEDDED_MARK)
    made.append((write_figure(folder / "alignment.png", figure), ALIGNMENT_CAPTION))
    plane = tsne_plane(rows["after stage 2"].visible, rows["after stage 2"].infrared)
    made.append((write_figure(folder / "tsne.png", pairs_figure(*plane, title, EMBEDDED_MARK)), TSNE_CAPTION))
    return made


def embeddings(detector: Any, dataset: Any, options: Sequence[str]) -> dict[str, Any]:
    """Paired embeddings of the test persons by the trained detector and by an untrained one (the control)."""
    from .evaluation.paired_rois import gather_pairs
    from .inference import PairInferencer

    untrained = PairInferencer(CONFIGS["stage2"], None, options=options)
    models = {"untrained": untrained.model, "after stage 2": detector.model}
    return {name: gather_pairs(model, dataset) for name, model in models.items()}


def test_set(cfg: Any) -> Any:
    """The config's test pairs; the embedded world where no root is set."""
    from mmdet.registry import DATASETS

    from .runtime.embedded import find_data

    find_data(cfg, PACKAGE_ROOT)
    return DATASETS.build(cfg.test_dataloader.dataset)


def draw_pairs(detector: Any, dataset: Any, path: Path, count: int = SHOWN_PAIRS) -> Path:
    """The first pair with persons of each of `count` scenes, spread over the set (day and night), with detections."""
    from .pictures import sheet, write_picture

    chosen = one_of_each_scene([dataset.get_data_info(index) for index in range(len(dataset))], count)
    pictures = [labelled_picture(detector, info) for info in chosen]
    return write_picture(path, sheet(pictures))


def labelled_picture(detector: Any, info: dict, least: float = LEAST_SCORE) -> Any:
    """A pair of a data set with its annotations and detections."""
    import numpy as np

    from shared.embedded_world import lies_in_embedded

    from .pictures import pair_picture, read_image

    found = detector(info["img_path"], info["img_ir_path"]).above(least)
    persons, ignored = ([one["bbox"] for one in info["instances"] if bool(one["ignore_flag"]) is flag]
                        for flag in (False, True))  # fmt: skip
    embedded = lies_in_embedded(info["img_path"])
    return pair_picture(
        read_image(info["img_path"]),
        read_image(info["img_ir_path"]),
        found.boxes_xyxy_px,
        found.scores,
        truth=np.array(persons, float).reshape(-1, 4),
        ignored=np.array(ignored, float).reshape(-1, 4),
        caption=info["pair_name"],
        mark="EMBEDDED WORLD: no real data" if embedded else "",
    )


def one_of_each_scene(records: Sequence[dict], count: int) -> list[dict]:
    """The first record with a person of each scene, `count` of them, evenly spread over the scenes."""
    scenes: dict[str, dict] = {}
    for record in records:
        if any(not one["ignore_flag"] for one in record["instances"]):
            scenes.setdefault(str(record["pair_name"]).rpartition("/")[0], record)
    found = list(scenes.values())
    count = min(count, len(found))
    return [found[index * len(found) // count] for index in range(count)]


# --- the page ---------------------------------------------------------------------------------------------------------


def write_report(finished: Finished, pictures: Sequence[tuple[Path, str]], seconds: float) -> Path:
    """report.html of the demo."""
    from shared.report import Report, curves

    from .evaluation.export import EMBEDDED_MARK

    scores = finished.test_scores()
    spent = f"{seconds:.0f} s: " + ", ".join(f"{name} {value:.0f} s" for name, value in finished.seconds.items())
    page = Report("Paired visible/infrared detection: the demo", EMBEDDED_MARK, spent)
    page.highlights({"miss rate, reasonable": _percent(scores.get("kaist/MR_reasonable_all"), 1),
                     "COCO AP50": _percent(scores.get("coco/bbox_mAP_50")),
                     "COCO AP": _percent(scores.get("coco/bbox_mAP"))})  # fmt: skip
    page.text(
        "A small two-stream detector was trained on drawn LLVIP scenes (stage 1), then fine-tuned with frozen "
        "backbones and hard negatives on drawn KAIST scenes (stage 2), and judged on streets that neither stage saw: "
        f"the weights are of stage 2's last epoch ({finished.weights.name}), so nothing was chosen on the test pairs. "
        "It is small and short: it shows that every part works, not what the method can reach. What each part is "
        "worth is the question of `python -m llvip_macl.experiments`."
    )
    page.heading("Test")
    page.table(["metric", "value"], [[name, f"{value:.4f}"] for name, value in scores.items()],
               "Miss rates in percent (lower is better), AP in 0..1.")  # fmt: skip
    page.heading("Pictures")
    for path, caption in pictures:
        page.figure(path, caption)
    page.heading("Training")
    for stage in ("stage1", "stage2"):
        names = ["loss", "loss_macl", "loss_cls", "loss_bbox"]
        page.figure(curves(finished.folder / stage / "metrics.jsonl", names, stage, split_prefix="train"), stage)
    page.write(finished.folder / "report.html")
    return finished.folder / "report.html"


def _percent(value: float | None, factor: float = 100) -> str:
    return "-" if value is None else f"{factor * value:.1f} %"


if __name__ == "__main__":
    sys.exit(main())
