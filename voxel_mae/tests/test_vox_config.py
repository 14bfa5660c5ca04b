"""Configurations in OpenPCDet's dialect: the shipped ones, their bases, their mistakes, and where they lead."""

import os
from pathlib import Path

import pytest
from vox_samples import arguments, prepare_work

from shared.errors import ConfigError
from voxel_mae import commands
from voxel_mae.config import PACKAGE_ROOT, Experiment
from voxel_mae.differential_lr import ratios
from voxel_mae.engine.network import build_network, loss_weights, masking_of
from voxel_mae.engine.sources import augmentation_of, grid_of
from voxel_mae.flags import parse_config
from voxel_mae.pcdet_yaml import find_config, load_experiment, output_group, read_settings
from voxel_mae.unused_keys import MASKING_KEYS, unread_by_masking, without_effect

MODELS = PACKAGE_ROOT / "cfgs/custom_models"
NAME = "rmae_cmae_isarc_4class_{}.yaml"
PRETRAIN, PHASE_2 = (MODELS / NAME.format(f"pretraining_phase{n}") for n in (1, 2))
FINETUNE = MODELS / NAME.format("finetune_phase1")
ORIGINAL = Path(__file__).parent / "note_finetune_original.yaml"
# The contract's table: key path -> value in pretraining, in fine-tuning (None: not there).
B, O, H = "MODEL.BACKBONE_3D.", "OPTIMIZATION.", "MODEL.DENSE_HEAD."
TABLE = {
    "MODEL.NAME": ("RMAECMAEDetectorPhase1",) * 2, "MODEL.VFE.NAME": ("MeanVFE",) * 2,
    B + "NAME": ("RMAECMAEBackbonePhase1",) * 2, B + "MASKED_RATIO": (0.8, 0.0), B + "NUM_ANGULAR_GROUPS": (36, None),
    B + "ANGULAR_GROUP_SIZE": (10, None), B + "DISTANCE_THRESHOLDS": ([10, 30], None),
    B + "RANGE_MASK_PROBS": ({"NEAR": 0.5, "MID": 0.75, "FAR": 0.9}, None), B + "USE_BERNOULLI_MASKING": (True, None),
    B + "ENABLE_2STAGE_MASKING": (True, None), B + "ENABLE_TEACHER_STUDENT": (True, False),
    B + "TEACHER_STUDENT_MODE": ("phase1", None), B + "TEACHER_BACKBONE_TYPE": ("identical", None),
    B + "FEATURE_DIM": (128, 128), B + "PRETRAINING": (True, False), "LOSS_CONFIG.RMAE_WEIGHT": (1.0, 0.0),
    "LOSS_CONFIG.TEACHER_STUDENT_WEIGHT": (0.0, 0.0), "LOSS_CONFIG.DETECTION_WEIGHT": (None, 1.0),
    O + "BATCH_SIZE_PER_GPU": (8, 4), O + "NUM_EPOCHS": (30, 50), O + "LR": (0.001, 0.003),
    O + "OPTIMIZER": ("adam_onecycle",) * 2, O + "WEIGHT_DECAY": (0.01,) * 2, O + "MOMENTUM": (0.9,) * 2,
    O + "MOMS": ([0.95, 0.85],) * 2, O + "PCT_START": (0.4,) * 2, O + "DIV_FACTOR": (10,) * 2,
    O + "GRAD_NORM_CLIP": (10,) * 2, O + "DECAY_STEP_LIST": ([20, 25], [35, 45]), O + "LR_DECAY": (0.1,) * 2,
    O + "LR_CLIP": (1e-7,) * 2, O + "LR_WARMUP": (False,) * 2, O + "WARMUP_EPOCH": (1,) * 2,
    O + "DIFFERENTIAL_LR": (None, True), O + "BACKBONE_LR_RATIO": (None, 0.1), O + "DENSE_HEAD_LR_RATIO": (None, 2.0),
    "MODEL.DENSE_HEAD": (None, ...), H + "INPUT_FEATURES": (None, 128), H + "SHARED_CONV_CHANNEL": (None, 128),
    H + "KERNEL_SIZE_HEAD": (None, 1), H + "USE_BIAS_BEFORE_NORM": (None, True), H + "NUM_HM_CONV": (None, 2),
    H + "SEPARATE_HEAD_CFG.HEAD_ORDER": (None, ["center", "center_z", "dim", "rot"]),
    H + "TARGET_ASSIGNER_CONFIG": (None, {"FEATURE_MAP_STRIDE": 8, "NUM_MAX_OBJS": 500, "GAUSSIAN_OVERLAP": 0.1,
                                          "MIN_RADIUS": 2}),
    H + "LOSS_CONFIG.LOSS_WEIGHTS.cls_weight": (None, 1.0), H + "LOSS_CONFIG.LOSS_WEIGHTS.loc_weight": (None, 2.0),
    H + "POST_PROCESSING.SCORE_THRESH": (None, 0.1), H + "POST_PROCESSING.MAX_OBJ_PER_SAMPLE": (None, 500),
    H + "POST_PROCESSING.NMS_CONFIG.NMS_THRESH": (None, [0.2, 0.25, 0.25, 0.25]),
    H + "POST_PROCESSING.NMS_CONFIG.NMS_PRE_MAXSIZE": (None, 4096),
    H + "POST_PROCESSING.NMS_CONFIG.NMS_POST_MAXSIZE": (None, 500),
    "MODEL.POST_PROCESSING.RECALL_THRESH_LIST": ([0.3, 0.5, 0.7],) * 2,
    "MODEL.POST_PROCESSING.EVAL_METRIC": ("kitti",) * 2,
}  # fmt: skip


def at(data, path: str):
    for part in path.split("."):
        data = data.get(part) if isinstance(data, dict) else None
    return data


def refused(path: Path, *sets: str) -> str:
    with pytest.raises(ConfigError) as error:
        load_experiment(path, sets)
    return str(error.value)


# --- the shipped files ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(MODELS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_file_is_right(path):
    assert isinstance(load_experiment(path), Experiment)


@pytest.mark.parametrize("key", TABLE)
def test_shipped_files_have_every_key_of_the_table_as_written(key):
    for file, wanted in zip((PRETRAIN, FINETUNE), TABLE[key], strict=True):
        found = at(read_settings(file).data, key)
        assert (found is not None) if wanted is ... else wanted is None or found == wanted


def test_the_data_set_is_the_facts_sheets():
    data = load_experiment(FINETUNE).DATA_CONFIG
    grid = grid_of(data)
    assert grid.shape_zyx == (81, 1408, 1408) and grid.max_points == 5 and grid.max_voxels_train == 150_000
    augment = augmentation_of(data.DATA_AUGMENTOR)
    assert augment.flip_axes == ("x",) and augment.scale == (0.95, 1.05) and not augment.paste.limit_whole_scene
    assert augment.paste.up_to == dict.fromkeys(("dumptruck", "excavator", "grader", "roller"), 15)
    pretrain = augmentation_of(load_experiment(PRETRAIN).DATA_CONFIG.DATA_AUGMENTOR)
    assert (pretrain.flip_axes, pretrain.turn_rad, pretrain.scale) == (("x",), (0, 0), (0.98, 1.02))
    assert pretrain.paste is None


def test_phase_2_weighs_the_sum_of_the_teachers_terms():
    """Trap T10: LOSS_CONFIG at the root reaches every term."""
    assert loss_weights(load_experiment(PRETRAIN)) == {"occupancy": 1.0}
    assert loss_weights(load_experiment(PHASE_2)) == {"occupancy": 1.0, "mlfr": 1.0, "voxel": 0.6, "frame": 0.3}
    half = load_experiment(PHASE_2, ["LOSS_CONFIG.TEACHER_STUDENT_WEIGHT", "0.5"])
    assert loss_weights(half) == {"occupancy": 1.0, "mlfr": 0.5, "voxel": 0.3, "frame": 0.15}


@pytest.mark.parametrize(
    ("key", "text", "field", "value"),
    [
        ("MASKED_RATIO", "0.6", "ratio", 0.6),
        ("DISTANCE_THRESHOLDS", "[5, 20]", "bands_m", (5.0, 20.0)),
        ("RANGE_MASK_PROBS.MID", "0.3", "mask_probs", (0.5, 0.3, 0.9)),
    ],
)
def test_every_masking_key_reaches_the_mask(key, text, field, value):
    assert getattr(masking_of(load_experiment(PRETRAIN, [B + key, text]).MODEL.BACKBONE_3D), field) == value


# A second value of every masking key, together with what must change with it.
OTHER_VALUES = {
    "MASKED_RATIO": [B + "MASKED_RATIO", "0.6"],
    "NUM_ANGULAR_GROUPS": [B + "NUM_ANGULAR_GROUPS", "72", B + "ANGULAR_GROUP_SIZE", "5"],
    "ANGULAR_GROUP_SIZE": [B + "NUM_ANGULAR_GROUPS", "18", B + "ANGULAR_GROUP_SIZE", "20"],
    "RADIAL_LEAST_KEEP": [B + "RADIAL_LEAST_KEEP", "0.05"],
    "RANGE_AWARE_LIMITS": [B + "RANGE_AWARE_LIMITS", "[20, 40]"],
    "RANGE_AWARE_EXTRA_KEEP": [B + "RANGE_AWARE_EXTRA_KEEP", "[0, 0.1, 0.2]"],
    "DISTANCE_THRESHOLDS": [B + "DISTANCE_THRESHOLDS", "[5, 20]"],
    "RANGE_MASK_PROBS": [B + "RANGE_MASK_PROBS", "{MID: 0.3}"],
}
SWITCHES = ("ENABLE_2STAGE_MASKING", "USE_BERNOULLI_MASKING", "CALIBRATED_MASKING")
KINDS = {"two_stage": "110", "range_only": "010", "range_aware": "100", "radial": "000", "calibrated": "111"}


@pytest.mark.parametrize("key", MASKING_KEYS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_masking_key_changes_the_mask_or_is_named_as_unread(kind, key):
    """Trap T2, no dead key: ENABLE_2STAGE_MASKING without USE_BERNOULLI_MASKING is range_aware, which reads no
    RANGE_MASK_PROBS, and a run that gives them says so."""
    switches = [word for name, on in zip(SWITCHES, KINDS[kind], strict=True) for word in (B + name, str(on == "1"))]
    sets = [*switches, *OTHER_VALUES[key]]
    plain, changed = (load_experiment(PRETRAIN, one) for one in (switches, sets))
    assert changed.MODEL.BACKBONE_3D.masking == kind
    moved = masking_of(plain.MODEL.BACKBONE_3D) != masking_of(changed.MODEL.BACKBONE_3D)
    unread = unread_by_masking(changed, read_settings(PRETRAIN, sets).data)
    assert (B + key in unread) != moved


def test_a_run_names_the_keys_that_its_masking_does_not_read(tmp_path, capsys):
    work = prepare_work(tmp_path / "work")
    sets = [B + "USE_BERNOULLI_MASKING", "false", B + "RANGE_MASK_PROBS", "{NEAR: 0.4}"]
    argv = arguments(work, "pretrain", *sets, "--epochs", "1")
    assert commands.main(commands.PRETRAIN, argv) == 0
    assert f"the masking is range_aware, which does not read {B}RANGE_MASK_PROBS" in capsys.readouterr().out


def test_the_switches_choose_the_masking_and_detection_has_none():
    kinds = {}
    for stages, bernoulli in ((True, True), (False, True), (True, False), (False, False)):
        sets = [B + "ENABLE_2STAGE_MASKING", str(stages), B + "USE_BERNOULLI_MASKING", str(bernoulli)]
        kinds[stages, bernoulli] = type(masking_of(load_experiment(PRETRAIN, sets).MODEL.BACKBONE_3D)).__name__
    assert list(kinds.values()) == ["TwoStage", "RangeOnly", "RangeAware", "Radial"]
    calibrated = load_experiment(PRETRAIN, [B + "CALIBRATED_MASKING", "True"])
    assert type(masking_of(calibrated.MODEL.BACKBONE_3D)).__name__ == "Calibrated"
    assert masking_of(load_experiment(FINETUNE).MODEL.BACKBONE_3D) is None


def test_the_networks_of_the_shipped_files_fit_together():
    """By name and shape: what pretraining leaves is the detector's backbone, of the published size up to conv6."""
    detector = build_network(load_experiment(FINETUNE), total_steps=1)
    pretrained = build_network(load_experiment(PRETRAIN), total_steps=1)
    shapes = {name: value.shape for name, value in detector.backbone_3d.state_dict().items()}
    assert shapes == {name: value.shape for name, value in pretrained.pretrainer.backbone_3d.state_dict().items()}
    fusion = ("conv_out", "shared_conv")
    tower = [value for name, value in detector.backbone_3d.named_parameters() if not name.startswith(fusion)]
    assert sum(value.numel() for value in tower) == 7_072_304
    assert set(ratios(load_experiment(FINETUNE).OPTIMIZATION)) == {"backbone_3d.*", "dense_head.*"}


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.fault(19)
def test_the_notes_own_file_is_refused_with_all_its_faults_at_once():
    told = refused(ORIGINAL)
    for trap in (
        "code_weights = [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]: 7 values; the head regresses 8",  # T21
        "POST_CENTER_LIMIT_RANGE = [-51.2, -51.2, -5.0, 51.2, 51.2, 3.0]: it must cover",  # T22
        "EXPERIMENT (", "stands twice", "no such setting",  # T23
        "NMS_THRESH = [0.2, 0.25, 0.25, 0.25]: a list is one value a class, and MULTI_CLASSES_NMS is False",  # T24
        "IOU_RECTIFIER = [0.68, 0.71, 0.65]: 3 values for 4 classes", "no iou branch",
        "dozer is not in CLASS_NAMES",
    ):  # fmt: skip
        assert trap in told, told


@pytest.mark.fault(19)
@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        (B + "MASK_RATIO", "0.5", "did you mean MODEL.BACKBONE_3D.MASKED_RATIO?"),
        ("OPTIMIZATION.LR", "fast", "OPTIMIZATION.LR = 'fast' (--set)"),
        ("OPTIMIZATION.DIFFERENTIAL_LR", "{BACKBONE: 0.1}", "OPTIMIZATION.DIFFERENTIAL_LR"),
        ("OPTIMIZATION.NUM_EPOCHS", "3.5", "OPTIMIZATION.NUM_EPOCHS = 3.5"),
        (B + "NUM_ANGULAR_GROUPS", "35", "make 350, not 360"),
        (B + "CHANNELS", "[8, 16, 32, 32, 64]", "the last two must be equal"),
        ("DATA_CONFIG.POINT_CLOUD_RANGE", "[-70.0, -70.4, -6, 70.4, 70.4, 10]", "a multiple of 8"),
        ("LOSS_CONFIG.RMAE_WEIGHT", "0.0", "nothing is left to train"),
        ("LOSS_CONFIG.DETECTION_WEIGHT", "1.0", "not part of pretraining"),
        ("LOSS_CONFIG.TEACHER_STUDENT_WEIGHT", "0.6", "none of ENABLE_MLFR"),
        (B + "MASKED_RATIO", "0.0", "pretraining (PRETRAINING: True) masks"),
        (B + "PRETRAINING", "False", "detection (PRETRAINING: False) never masks"),
        (B + "CHANNEL", "3", "no such setting"),
        ("DATA_CONFIG.POINT_FEATURE_ENCODING.used_feature_list", "[x, y, z, intensity]", "intensity is not in"),
    ],
)
def test_wrong_settings_are_told_with_the_remedy(key, value, told):
    assert told in refused(PRETRAIN, key, value)


def test_r_maes_rule_for_few_voxels_must_not_replace_every_mask():
    radial = [B + "USE_BERNOULLI_MASKING", "False", B + "ENABLE_2STAGE_MASKING", "False", B + "MASKED_RATIO"]
    told = refused(PRETRAIN, *radial, "0.95")
    assert "RADIAL_LEAST_KEEP = 0.1" in told and "every mask would be a random 0.1 of the voxels" in told
    load_experiment(PRETRAIN, [*radial, "0.95", B + "RADIAL_LEAST_KEEP", "0.0"])
    load_experiment(PRETRAIN, [*radial, "0.9"])  # R-MAE's own on nuScenes


def test_keys_of_openpcdet_without_effect_are_accepted_and_named():
    named = without_effect(Experiment, read_settings(FINETUNE).data)
    assert named == [O + name for name in ("MOMENTUM", "DECAY_STEP_LIST", "LR_DECAY", "LR_CLIP", "LR_WARMUP",
                                           "WARMUP_EPOCH")]  # fmt: skip


@pytest.mark.fault(19)
def test_a_base_is_laid_under_and_a_circle_or_a_missing_one_is_told(tmp_path):
    text = PRETRAIN.read_text()
    copy = tmp_path / "copy.yaml"
    copy.write_text(text)
    assert load_experiment(copy) == load_experiment(PRETRAIN)
    copy.write_text(text.replace("custom_dataset_isarc.yaml", "nowhere.yaml"))
    assert "nowhere.yaml" in refused(copy) and ":5)" in refused(copy)
    copy.write_text("_BASE_CONFIG_: copy.yaml\n")
    assert "in a circle" in refused(copy)


@pytest.mark.fault(19)
@pytest.mark.parametrize("text", ["a: !!python/object/apply:os.system [x]\n", "a:\n\tb: 1\n", "- 1\n", "a: &a [*a]\n"])
def test_hostile_or_broken_yaml_is_refused(tmp_path, text):
    path = tmp_path / "x.yaml"
    path.write_text(text)
    assert str(path) in refused(path)


# --- paths ------------------------------------------------------------------------------------------------------------


def test_every_way_to_write_the_file_gives_one_output_folder(monkeypatch, tmp_path):
    """Trap T30."""
    relative = PRETRAIN.relative_to(PACKAGE_ROOT)
    outputs = set()
    for cwd in (PACKAGE_ROOT, PACKAGE_ROOT / "tools", tmp_path):
        monkeypatch.chdir(cwd)
        for name in (str(relative), f"tools/{relative}", str(PRETRAIN)):
            outputs.add(parse_config("train_rmae_cmae_phase1.py", ["--cfg_file", name]).output)
    assert outputs == {PACKAGE_ROOT / "output/custom_models" / PRETRAIN.stem}


def test_a_file_elsewhere_and_a_file_that_is_not_there(tmp_path, monkeypatch):
    prepare_work(tmp_path / "work")
    assert output_group(tmp_path / "work/cfgs/tiny/pretrain.yaml") == Path("tiny/pretrain")
    assert output_group(Path("/nowhere/x.yaml")) == Path("x")
    monkeypatch.chdir(tmp_path / "work")
    assert find_config("cfgs/tiny/pretrain.yaml") == (tmp_path / "work/cfgs/tiny/pretrain.yaml").resolve()
    with pytest.raises(ConfigError, match=r"did you mean cfgs/custom_models/demo_pretrain\.yaml"):
        find_config("cfgs/custom_models/demo_pretrian.yaml")


def test_bf16_is_refused_with_the_reason():
    with pytest.raises(ConfigError, match="no bfloat16 kernels"):
        parse_config("train.py", ["--cfg_file", str(FINETUNE), "--bf16"])


@pytest.mark.parametrize("words", [["OPTIMIZATION.LR", "0.5"], ["OPTIMIZATION.LR=0.5"]])
def test_set_takes_pairs(words):
    request = parse_config("train.py", ["--cfg_file", str(FINETUNE), "--set", *words, "--epochs", "3", "--seed", "7"])
    assert (request.experiment.OPTIMIZATION.LR, request.experiment.OPTIMIZATION.NUM_EPOCHS) == (0.5, 3)
    assert request.experiment.SEED == 7
    with pytest.raises(ConfigError, match="needs a value"):
        parse_config("train.py", ["--cfg_file", str(FINETUNE), "--set", "OPTIMIZATION.LR"])


def test_no_machine_path_stands_in_the_shipped_files():
    for path in (PACKAGE_ROOT / "cfgs").rglob("*.yaml"):
        assert os.sep + "home" not in path.read_text()
