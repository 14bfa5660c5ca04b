"""What is measured: real bytes, the same features through bytes and books, sums that any sharding gives."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rq_run_samples import command, write_work

from pillars_rq import cells, evaluate, grid_report
from pillars_rq.bitstream.stream import compress
from pillars_rq.checkpoints import load_rq
from pillars_rq.config import DatasetSettings
from pillars_rq.detector import open_detector
from pillars_rq.kitti.infos import FrameInfo
from pillars_rq.kitti.labels import Annotations
from pillars_rq.rq_data import Data, eval_loader, open_data, open_root, validation_subset
from pillars_rq.senders import Books, Stream, Whole
from shared.run import World

RUN = "python train_eval_rq.py --config exp/split1_ALL.yaml"
CKPT = "progressive_rq_logs/checkpoints/final.pth"
CLASSES = ("Pedestrian", "Cyclist", "Car")


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    work = write_work(tmp_path_factory.mktemp("evaluated") / "work", train=4, val=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(work)
        assert command(f"{RUN} --no_wandb") == 0
    return work


@pytest.fixture
def work(finished, tmp_path, monkeypatch) -> Path:
    copy = Path(shutil.copytree(finished, tmp_path / "work"))
    monkeypatch.chdir(copy)
    return copy


@pytest.fixture
def parts(finished):
    detector = open_detector(finished / "pretrained/epoch_160.pth", None, torch.device("cpu"))
    dataset = DatasetSettings(dir=finished / "datasets")
    data: Data = open_data(dataset, open_root(dataset), detector.grid, detector.class_names, 0)
    return detector, load_rq(finished / CKPT), data


def items(detector, data):
    return list(eval_loader(data.val, range(3), detector.grid, workers=0, timeout_s=60))


def test_bytes_are_those_of_the_stream(parts):
    detector, loaded, data = parts
    frame = evaluate.split_frame(detector, items(detector, data)[0])
    arrived = Stream(loaded.codec, 2, 4)(frame)
    codes = loaded.codec.quantizer.encode(torch.from_numpy(frame.features), 2, 4)
    data_bytes = compress(codes, torch.from_numpy(frame.coords), loaded.codec, 2, 4)
    assert arrived.bytes == len(data_bytes) > arrived.position_bytes > 0


def test_bytes_and_books_bring_the_same_features_to_the_tail(parts):
    detector, loaded, data = parts
    frame = evaluate.split_frame(detector, items(detector, data)[1])
    for n, k in loaded.codec.quantizer.points():
        through_bytes, through_books = Stream(loaded.codec, n, k)(frame), Books(loaded.codec.quantizer, n, k)(frame)
        assert torch.equal(through_bytes.features, through_books.features)
        assert torch.equal(through_bytes.coords, through_books.coords)


def test_without_quantization_nothing_is_lost(parts):
    detector, _, data = parts
    results = evaluate.judge(detector, data.val, range(3), Whole())
    assert evaluate.relative_error(results) == 0
    assert all(one.bytes is None for one in results)


def test_any_sharding_gives_the_same_figures(parts):
    """Three frames over two processes; the results are gathered by hand."""
    detector, loaded, data = parts
    sender = Books(loaded.codec.quantizer, 2, 4)
    whole = evaluate.judge(detector, data.val, range(3), sender)

    class Half(World):
        def gather(self, value):
            return [value]

    halves = [evaluate.judge(detector, data.val, range(3), sender, world=Half(rank=r, size=2)) for r in (0, 1)]
    assert [[one.index for one in half] for half in halves] == [[0, 2], [1]]
    together = sorted(halves[0] + halves[1], key=lambda one: one.index)
    for name in ("relative_error", "detection_loss"):
        assert getattr(evaluate, name)(together) == pytest.approx(getattr(evaluate, name)(whole), rel=1e-12)


def test_the_four_ratios_are_of_the_sums(parts):
    detector, loaded, data = parts
    results = evaluate.judge(detector, data.val, range(3), Stream(loaded.codec, 1, 2))
    found, sent = evaluate.rate(results), sum(one.bytes for one in results)
    assert found["ratios"]["dense_fp32_canvas"] == pytest.approx(3 * 32 * 32 * 8 * 4 / sent)
    assert found["ratios"]["sparse_fp16"] == pytest.approx(sum(one.pillars for one in results) * 8 * 2 / sent)
    assert set(found["ratios"]) == set(evaluate.BASES)
    assert found["bits_per_pillar"] == pytest.approx(8 * sent / sum(one.pillars for one in results))


# --- the subset


def info(name: str, *objects: str) -> FrameInfo:
    count = len(objects)
    rows = Annotations(
        name=np.array(objects),
        truncated=np.zeros(count),
        occluded=np.zeros(count, int),
        alpha=np.zeros(count),
        bbox=np.tile([0.0, 0, 60, 60], (count, 1)),
        dimensions=np.ones((count, 3)),
        location=np.ones((count, 3)),
        rotation_y=np.zeros(count),
        score=np.zeros(count),
    )
    return FrameInfo(name, "", 0, None, None, None, rows)


def test_the_subset_has_enough_objects_of_every_class_where_there_are_that_many():
    infos = [info(f"{i:06d}", "Car", "Car", *(["Cyclist"] if i % 5 == 0 else [])) for i in range(100)]
    chosen = validation_subset(infos, ("Car", "Cyclist"), 10, seed=0)
    counts = {name: sum((infos[i].annotations.name == name).sum() for i in chosen) for name in ("Car", "Cyclist")}
    assert counts["Car"] >= 10 and counts["Cyclist"] == 10  # one frame less would have nine
    assert len(chosen) < 100 and chosen == sorted(chosen)
    assert chosen == validation_subset(infos, ("Car", "Cyclist"), 10, seed=0)
    assert chosen != validation_subset(infos, ("Car", "Cyclist"), 10, seed=1)
    everything = validation_subset(infos, ("Car", "Cyclist"), 41, seed=0)
    assert sum((infos[i].annotations.name == "Cyclist").sum() for i in everything) == 20  # all there are
    assert validation_subset(infos, ("Car", "Pedestrian"), 41, seed=0)


# --- --mode grid, --mode eval


def test_grid_measures_every_point_once_and_continues(work, monkeypatch):
    assert command(f"{RUN} --mode grid --rq_ckpt {CKPT}") == 0
    folder = work / "progressive_rq_logs-grid"
    record = json.loads((folder / "grid.json").read_text())
    names = [cell["name"] for cell in record["results"]["cells"]]
    assert names[:5] == ["base", "1x2", "1x4", "2x2", "2x4"]
    assert {"sparse fp16", "int8", "int8 + lzma", "cloud 2 cm + lzma"} < set(names)
    by_name = {cell["name"]: cell for cell in record["results"]["cells"]}
    assert by_name["2x4"]["rel_mse"] < by_name["1x4"]["rel_mse"]
    assert by_name["1x2"]["bytes"]["mean"] < by_name["2x4"]["bytes"]["mean"]
    assert {"commit", "hardware", "command"} <= record.keys()
    assert (folder / "grid.png").is_file() and (folder / "report.html").is_file()

    measured = []
    judge = evaluate.judge

    def counted(detector, val, indices, sender, **more):
        measured.append(sender.name)
        return judge(detector, val, indices, sender, **more)

    monkeypatch.setattr(evaluate, "judge", counted)
    (folder / "cells" / "2x2.json").unlink()
    assert command(f"{RUN} --mode grid --rq_ckpt {CKPT}") == 0
    assert measured == ["2x2"]
    again = json.loads((folder / "grid.json").read_text())["results"]["cells"]
    assert [{**cell, "time": None} for cell in again] == [{**cell, "time": None} for cell in record["results"]["cells"]]
    assert command(f"{RUN} --mode grid --rq_ckpt progressive_rq_logs/checkpoints/codebook_1_stage_0_final.pth") == 0
    assert measured[1:] == ["1x2", "1x4", "2x2"]  # another checkpoint: the base's cell and the baselines' still count


def test_grid_of_some_cells(work, capsys):
    some = "--set evaluation.grid_cells=[[1,2],[2,4]] --set evaluation.baseline_frames=0"
    assert command(f"{RUN} --mode grid --rq_ckpt {CKPT} {some}") == 0
    cells_found = json.loads((work / "progressive_rq_logs-grid/grid.json").read_text())["results"]["cells"]
    assert [cell["name"] for cell in cells_found] == ["base", "1x2", "2x4"]
    assert command(f"{RUN} --mode grid --rq_ckpt {CKPT} --set evaluation.grid_cells=[[3,2]]") == 2
    assert "3 codebook(s) with 2 embeddings cannot be used" in capsys.readouterr().err


def test_baselines_on_fewer_frames_are_held_against_the_detector_on_these(work, capsys):
    some = "--set evaluation.grid_cells=[[2,4]] --set evaluation.baseline_frames=2"
    assert command(f"{RUN} --mode grid --rq_ckpt {CKPT} {some}") == 0
    path = work / "progressive_rq_logs-grid/cells"
    files = ("base.json", "2x4.json", "beside-baselines/base.json", "int8.json")
    base, point, own, int8 = (cells.read_cell(path / name) for name in files)
    own = replace(own, name="base, 2 frames")
    assert len(base.indices) == len(point.indices) == 3 and own.indices == int8.indices == [0, 1]
    drops = [row[grid_report.HEADERS.index("drop R40")] for row in grid_report.table([base, point, own, int8])]
    score = [cell.found["map_3d_moderate_r40"] for cell in (base, point, own, int8)]
    assert drops == pytest.approx([0, score[0] - score[1], 0, score[2] - score[3]])
    plot = grid_report.rate_plot([base, point, own, int8])
    labels = [text.get_text() for text in plot.legends[0].get_texts()]
    assert labels == ["k = 4", "int8", "without RQ", "without RQ, 2 frames"]
    assert "base, 2 frames" in capsys.readouterr().out


def test_a_damaged_cell_is_told(work, capsys):
    assert command(f"{RUN} --mode grid --rq_ckpt {CKPT} --set evaluation.baseline_frames=0") == 0
    (work / "progressive_rq_logs-grid/cells/1x2.json").write_text("{")
    assert command(f"{RUN} --mode grid --rq_ckpt {CKPT}") == 2
    assert "cells/1x2.json is no cell of a grid" in capsys.readouterr().err


def test_a_byte_target_is_kept_frame_by_frame(work):
    assert command(f"{RUN} --mode eval --rq_ckpt {CKPT} --target-kb 0.6 --set evaluation.baseline_frames=0") == 0
    (cell,) = json.loads((work / "progressive_rq_logs-eval/final-within-0.6-kB.json").read_text())["results"]["cells"]
    assert cell["bytes"]["p95"] <= 600
    assert sum(count for _, _, count in cell["points"]) == 3


def test_eval_writes_kitti_result_files_for_every_frame(work):
    point = "--eval_num_codebooks 2 --eval_num_embeddings 4"
    assert command(f"{RUN} --mode eval --rq_ckpt {CKPT} {point}") == 0
    files = sorted(path.name for path in (work / "progressive_rq_logs-eval/final-2x4/data").iterdir())
    assert files == ["000004.txt", "000005.txt", "000006.txt"]


def test_a_kept_cell_is_read_back_as_it_was(parts, tmp_path):
    detector, _, data = parts
    found = evaluate.judge(detector, data.val, [0], Whole())[0].detections
    boxes = np.linspace(-9, 9, 14).reshape(2, 7).astype(np.float32)
    found = type(found)(boxes, np.array([0.5, 0.25], np.float32), np.array([2, 0]))
    cell = cells.Cell("1x2", "rq", {"rel_mse": 0.5}, [0], [found])
    cells._write_cell(tmp_path / "1x2.json", cell, "key")
    back = cells.read_cell(tmp_path / "1x2.json", "key")
    assert np.allclose(back.detections[0].boxes, boxes, atol=1e-5)
    assert np.array_equal(back.detections[0].scores, found.scores)
    assert cells.read_cell(tmp_path / "1x2.json", "another") is None
    assert cells.read_cell(tmp_path / "none.json") is None


def test_the_table_shows_the_drop_from_the_base():
    base = cells.Cell("base", "base", {"rel_mse": 0.0, "map_3d_moderate_r40": 60.0}, [0, 1], [])
    cell = cells.Cell("1x2", "rq", {"rel_mse": 0.1, "map_3d_moderate_r40": 58.5, "bytes": {"mean": 9.0}}, [0, 1], [])
    fewer = cells.Cell("int8", "baseline", {"rel_mse": 0.1, "map_3d_moderate_r40": 58.5}, [0], [])
    drop = grid_report.HEADERS.index("drop R40")
    assert [row[drop] for row in grid_report.table([base, cell, fewer])] == [0.0, 1.5, None]


def test_the_plot_says_what_it_is_not():
    """The picture leaves the report: it carries the mark itself."""
    cell = cells.Cell("1x2", "rq", {"rel_mse": 0.1, "map_3d_moderate_r40": 58.5, "bytes": {"mean": 9.0}}, [0, 1], [])
    assert grid_report.rate_plot([cell], "not a KITTI result").get_suptitle() == "not a KITTI result"
    assert grid_report.rate_plot([cell]).get_suptitle() == ""
    nothing = cells.Cell("1x2", "rq", {**cell.found, "map_3d_moderate_r40": 0.0}, [0, 1], [])
    assert grid_report.rate_plot([nothing]).axes[0].get_ylim() == (0, 1)  # its axis is one of per cent


def test_the_embedded_world_stands_in_when_no_root_is_named_and_is_never_silent(tmp_path, monkeypatch, capsys):
    write_work(tmp_path / "w", {"dataset.dir": None, "model.n_codebook": 1,
                                "progressive_learning.embedding_schedule": [2]}, train=2, val=1)  # fmt: skip
    monkeypatch.chdir(tmp_path / "w")
    small = "--set dataset.world.train_frames=2 --set dataset.world.val_frames=2"
    assert command(f"{RUN} --no_wandb {small}") == 0
    assert "EMBEDDED DATA" in capsys.readouterr().out
    folder = tmp_path / "w" / "progressive_rq_logs"
    assert json.loads((folder / "run.json").read_text())["data"] == "embedded"
    assert "embedded synthetic data: not a KITTI result" in (folder / "report.html").read_text()
