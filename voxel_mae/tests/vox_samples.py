"""A data root of a few made-up frames, tiny configurations that train on it, and their command lines."""

import json
from pathlib import Path

import numpy as np

from voxel_mae.commands import PRETRAIN, TRAIN

CLASSES = ("dumptruck", "excavator", "grader", "roller")
SIZES_M = ((6.0, 3.0, 3.2), (6.2, 2.7, 2.9), (8.5, 2.5, 3.2), (5.8, 2.3, 2.8))
GROUND_M = -1.7
DATA = """\
CLASS_NAMES: [dumptruck, excavator, grader, roller]
DATA_CONFIG:
  DATA_PATH: {root}
  POINT_CLOUD_RANGE: [-12.8, -12.8, -3, 12.8, 12.8, 3.4]
  MAP_CLASS_TO_KITTI: {{dumptruck: Truck, excavator: Cyclist, grader: Car, roller: Van}}
  DATA_AUGMENTOR:
    AUG_CONFIG_LIST:
      - {{NAME: random_world_flip, ALONG_AXIS_LIST: [x]}}
      - {{NAME: random_world_scaling, WORLD_SCALE_RANGE: [0.95, 1.05]}}
  DATA_PROCESSOR:
    - {{NAME: mask_points_and_boxes_outside_range}}
    - {{NAME: shuffle_points}}
    - {{NAME: transform_points_to_voxels, VOXEL_SIZE: [0.4, 0.4, 0.8]}}
"""
BACKBONE = "NAME: RMAECMAEBackbonePhase1, CHANNELS: [4, 4, 8, 8, 8], FEATURE_DIM: 8"
PRETRAINING = f"""\
MODEL:
  NAME: RMAECMAEDetectorPhase1
  BACKBONE_3D: {{{BACKBONE}, PRETRAINING: True, MASKED_RATIO: 0.7, USE_BERNOULLI_MASKING: True,
    ENABLE_2STAGE_MASKING: True, ENABLE_TEACHER_STUDENT: True, TEACHER_STUDENT_MODE: phase2, TEACHER_MOMENTUM: 0.9,
    ENABLE_MLFR: True, ENABLE_VOXEL_CONTRASTIVE: True, ENABLE_FRAME_CONTRASTIVE: True,
    VOXEL_CONTRASTIVE_CONFIG: {{PROJECTION_DIM: 8, MAX_NEGATIVE_SAMPLES: 16}},
    FRAME_CONTRASTIVE_CONFIG: {{PROJECTION_DIM: 8, MEMORY_BANK_SIZE: 4}}}}
LOSS_CONFIG: {{RMAE_WEIGHT: 1.0, TEACHER_STUDENT_WEIGHT: 1.0}}
OPTIMIZATION: {{BATCH_SIZE_PER_GPU: 2, NUM_EPOCHS: 2, LR: 0.01}}
"""
DETECTION = f"""\
MODEL:
  NAME: RMAECMAEDetectorPhase1
  BACKBONE_3D: {{{BACKBONE}}}
  DENSE_HEAD: {{NAME: VoxelNeXtHead, INPUT_FEATURES: 8, SHARED_CONV_CHANNEL: 8,
    CLASS_NAMES_EACH_HEAD: [[dumptruck, excavator, grader, roller]],
    POST_PROCESSING: {{POST_CENTER_LIMIT_RANGE: [-12.8, -12.8, -3, 12.8, 12.8, 3.4], MAX_OBJ_PER_SAMPLE: 20}}}}
LOSS_CONFIG: {{DETECTION_WEIGHT: 1.0}}
OPTIMIZATION: {{BATCH_SIZE_PER_GPU: 2, NUM_EPOCHS: 2, LR: 0.01, DIFFERENTIAL_LR: True, BACKBONE_LR_RATIO: 0.1,
  DENSE_HEAD_LR_RATIO: 2.0}}
"""
PROGRAMS = {"pretrain": PRETRAIN, "finetune": TRAIN}


def prepare_work(work: Path, *, train: int = 6, val: int = 3) -> Path:
    """work/site (data), work/cfgs/tiny/{pretrain,finetune}.yaml; output goes to work/output."""
    write_site(work / "site", train, val)
    folder = work / "cfgs/tiny"
    folder.mkdir(parents=True)
    data = DATA.format(root=json.dumps(str(work / "site")))
    (folder / "pretrain.yaml").write_text(data + PRETRAINING)
    (folder / "finetune.yaml").write_text(data + DETECTION)
    return work


def write_site(root: Path, train: int, val: int) -> None:
    for part in ("points", "labels", "ImageSets"):
        (root / part).mkdir(parents=True)
    names = [f"drive{number}_{number:03d}" for number in range(train + val)]
    for number, name in enumerate(names):
        _write_frame(root, name, np.random.default_rng(number))
    lists = {"train": names[:train], "val": names[train:]}
    lists |= {f"val_{count}": names[-count:] for count in (3, 5, 7, 9, 11) if count <= len(names)}
    for split, chosen in lists.items():
        (root / "ImageSets" / f"{split}.txt").write_text("\n".join(chosen) + "\n")


def _write_frame(root: Path, name: str, rng: np.random.Generator) -> None:
    """Flat ground and two machines, each full of points."""
    ground = np.c_[rng.uniform(-12, 12, (500, 2)), rng.normal(GROUND_M, 0.02, 500)]
    clouds, rows = [ground], []
    for place in (-6.0, 6.0):
        label, heading = rng.integers(4), rng.uniform(-3, 3)
        size, centre = np.array(SIZES_M[label]), np.array([place, rng.uniform(-6, 6), GROUND_M + 1.5])
        turn = np.array([[np.cos(heading), -np.sin(heading)], [np.sin(heading), np.cos(heading)]])
        inside = rng.uniform(-0.5, 0.5, (150, 3)) * size
        clouds.append(np.c_[inside[:, :2] @ turn.T, inside[:, 2]] + centre)
        rows.append(" ".join(f"{value:.4f}" for value in (*centre, *size, heading)) + f" {CLASSES[label]}")
    np.save(root / "points" / f"{name}.npy", np.concatenate(clouds).astype(np.float32))
    (root / "labels" / f"{name}.txt").write_text("\n".join(rows) + "\n")


def arguments(work: Path, stage: str, *more: str) -> list[str]:
    """The tiny configuration; everything that it writes lies below work/output."""
    return ["--cfg_file", str(work / f"cfgs/tiny/{stage}.yaml"), "--output_dir", str(work / "output"),
            "--extra_tag", "t", "--workers", "0", "--device", "cpu", "--batch_size", "2", "--logger_iter_interval", "1",
            "--num_epochs_to_eval", "2", "--set", "DATA_CONFIG.DATA_PATH", str(work / "site"), *more]  # fmt: skip


def run_folder(work: Path, stage: str, tag: str = "t") -> Path:
    return work / "output/tiny" / stage / tag
