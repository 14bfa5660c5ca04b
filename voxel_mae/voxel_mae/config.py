"""The configuration: OpenPCDet's keys as one typed, frozen tree.

    config = load_experiment(Path("cfgs/custom_models/x.yaml"), ["OPTIMIZATION.LR", "0.002"])       # pcdet_yaml
    config.MODEL.BACKBONE_3D.MASKED_RATIO

Names are OpenPCDet's and the design note's; keys of our own say so in their comment. What a value means together with
others (list lengths, ranges, classes) is checked in `config_checks`. A key that OpenPCDet knows and that has no effect
here is a `NoEffect` field: it is accepted, and one warning a run names all that were given (`unused_keys`). Any other
unknown key is an error.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from shared.config import Schema

PACKAGE_ROOT = Path(__file__).resolve().parent.parent  # the folder that holds tools/, cfgs/ and output/
SEED = 666  # OpenPCDet's --fix_random_seed
CLASSES = ("dumptruck", "excavator", "grader", "roller")  # ids 1 .. 4
KITTI_IOU = {"Car": 0.7, "Truck": 0.7, "Van": 0.7, "Tram": 0.7, "Pedestrian": 0.5, "Cyclist": 0.5}

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Probability = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Range6 = tuple[float, float, float, float, float, float]  # x, y, z from, then x, y, z to, in metres
Feature = Literal["x", "y", "z", "intensity", "ring", "elongation", "timestamp"]


class Ignored:
    """Marks a field that is accepted for OpenPCDet's sake and has no effect."""


NoEffect = Annotated[Any, Ignored()]


# --- data -------------------------------------------------------------------------------------------------------------


class Split(Schema):
    train: str = "train"
    test: str = "val"


class InfoPath(Schema):
    """The names may end in .pkl: the .json beside them is read, since pickles are not."""

    train: tuple[str, ...] = ("custom_infos_train.pkl",)
    test: tuple[str, ...] = ("custom_infos_val.pkl",)


class PointFeatures(Schema):
    encoding_type: Literal["absolute_coordinates_encoding"] = "absolute_coordinates_encoding"
    used_feature_list: tuple[Feature, ...] = ("x", "y", "z")
    src_feature_list: tuple[Feature, ...] = ("x", "y", "z")


class Prepare(Schema):
    filter_by_min_points: tuple[str, ...] = ()  # "class:count"
    filter_by_difficulty: NoEffect = None


class GtSampling(Schema):
    NAME: Literal["gt_sampling"]
    DB_INFO_PATH: tuple[str, ...] = ("custom_dbinfos_train.pkl",)
    PREPARE: Prepare = Prepare()
    SAMPLE_GROUPS: tuple[str, ...]  # "class:count"
    LIMIT_WHOLE_SCENE: bool = False  # whether a frame's own objects count towards the counts
    USE_ROAD_PLANE: Literal[False] = False
    NUM_POINT_FEATURES: Count | None = None
    DATABASE_WITH_FAKELIDAR: Literal[False] = False
    REMOVE_EXTRA_WIDTH: tuple[NonNegative, NonNegative, NonNegative] = (0.0, 0.0, 0.0)


class WorldFlip(Schema):
    NAME: Literal["random_world_flip"]
    ALONG_AXIS_LIST: tuple[Literal["x", "y"], ...]  # along x negates y and heading


class WorldRotation(Schema):
    NAME: Literal["random_world_rotation"]
    WORLD_ROT_ANGLE: tuple[float, float]  # radians


class WorldScaling(Schema):
    NAME: Literal["random_world_scaling"]
    WORLD_SCALE_RANGE: tuple[Positive, Positive]


Augmentation = Annotated[GtSampling | WorldFlip | WorldRotation | WorldScaling, Field(discriminator="NAME")]


class Augmentor(Schema):
    DISABLE_AUG_LIST: tuple[str, ...] = ()
    AUG_CONFIG_LIST: tuple[Augmentation, ...] = ()

    def enabled(self, name: str) -> Any | None:
        """The settings of an augmentation, None when it is absent or disabled."""
        wanted = (one for one in self.AUG_CONFIG_LIST if name == one.NAME and name not in self.DISABLE_AUG_LIST)
        return next(wanted, None)


class RangeFilter(Schema):
    NAME: Literal["mask_points_and_boxes_outside_range"]
    REMOVE_OUTSIDE_BOXES: bool = True


class PerModeBool(Schema):
    train: bool
    test: bool


class PerModeCount(Schema):
    train: Count
    test: Count


class ShufflePoints(Schema):
    NAME: Literal["shuffle_points"]
    SHUFFLE_ENABLED: PerModeBool = PerModeBool(train=True, test=False)


class Voxels(Schema):
    NAME: Literal["transform_points_to_voxels"]
    VOXEL_SIZE: tuple[Positive, Positive, Positive]  # x, y, z in metres
    MAX_POINTS_PER_VOXEL: Count = 5
    MAX_NUMBER_OF_VOXELS: PerModeCount = PerModeCount(train=150_000, test=150_000)


Processor = Annotated[RangeFilter | ShufflePoints | Voxels, Field(discriminator="NAME")]


class DataConfig(Schema):
    DATASET: Literal["CustomDataset"] = "CustomDataset"
    DATA_PATH: Path | None = None  # the data root, from the package's folder; null: the embedded world
    EMBEDDED_DIR: Path = "data"  # ours: where embedded worlds are written, and found again
    EMBEDDED_WORLD: dict[str, Any] = Field(default_factory=dict)  # ours: fields of world.WorldSpec
    POINT_CLOUD_RANGE: Range6
    DATA_SPLIT: Split = Split()
    INFO_PATH: InfoPath = InfoPath()
    MAP_CLASS_TO_KITTI: dict[str, str] | None = None
    DATA_AUGMENTOR: Augmentor = Augmentor()
    POINT_FEATURE_ENCODING: PointFeatures = PointFeatures()
    DATA_PROCESSOR: tuple[Processor, ...]
    GET_ITEM_LIST: NoEffect = None
    FOV_POINTS_ONLY: NoEffect = None

    def processor(self, name: str) -> Any | None:
        return next((one for one in self.DATA_PROCESSOR if name == one.NAME), None)

    @property
    def voxels(self) -> Voxels:
        return self.processor("transform_points_to_voxels")


# --- model ------------------------------------------------------------------------------------------------------------


class RangeProbabilities(Schema):
    """Bernoulli probability of masking a voxel, by the band of its distance from the sensor."""

    NEAR: Share = 0.5
    MID: Share = 0.75
    FAR: Share = 0.9


class MlfrConfig(Schema):
    SCALES: tuple[Literal[1, 2, 3, 4], ...] = (1, 2, 3, 4)  # conv1 .. conv4
    SCALE_WEIGHTS: tuple[NonNegative, ...] = (0.5, 0.8, 1.0, 1.2)  # one for each of SCALES
    DISTANCE: Literal["mse", "l1"] = "mse"


class VoxelContrastConfig(Schema):
    METHOD: Literal["infonce", "relational"] = "infonce"  # ours
    CONTRASTIVE_TEMPERATURE: Positive = 0.07
    PROJECTION_DIM: Count = 128
    MAX_NEGATIVE_SAMPLES: Count = 4096
    USE_HARD_NEGATIVES: bool = True
    HARD_NEGATIVE_RATIO: Probability = 0.3
    COORD_TOLERANCE: Literal[0] = 0  # equal sites only
    MAX_ANCHORS: Count = 512  # ours: sites drawn of a batch
    NEGATIVES_FROM: Literal["sample", "batch"] = "batch"  # ours


class FrameContrastConfig(Schema):
    METHOD: Literal["infonce", "relational"] = "infonce"  # ours
    FRAME_TEMPERATURE: Positive = 0.1
    MEMORY_BANK_SIZE: Count = 16  # frames in the queue
    PROJECTION_DIM: Count = 128
    MOMENTUM_UPDATE: Probability | None = 0.99  # of the teacher's projector; null: as the teacher
    MAX_FRAME_NEGATIVES: Count = 1024
    HARD_NEGATIVE_RATIO: Probability = 0.2
    DOMAIN_SPECIFIC: Literal[False] = False  # per-class contrast would leak the labels


class Vfe(Schema):
    NAME: Literal["MeanVFE"] = "MeanVFE"


class Backbone(Schema):
    NAME: Literal["RMAECMAEBackbonePhase1"]
    CHANNELS: tuple[Count, Count, Count, Count, Count] = (16, 32, 64, 128, 128)  # conv1 .. conv5; conv6 as conv5
    FEATURE_DIM: Count = 128  # of the fused map
    PRETRAINING: bool = False
    MASKED_RATIO: Share = 0.0
    NUM_ANGULAR_GROUPS: Count = 36
    ANGULAR_GROUP_SIZE: Positive = 10.0  # degrees
    DISTANCE_THRESHOLDS: tuple[Positive, Positive] = (10.0, 30.0)  # metres from the sensor
    RANGE_MASK_PROBS: RangeProbabilities = RangeProbabilities()
    USE_BERNOULLI_MASKING: bool = False
    ENABLE_2STAGE_MASKING: bool = False
    CALIBRATED_MASKING: bool = False  # ours: sectors are kept so often that the expected kept share is 1 - MASKED_RATIO
    RADIAL_LEAST_KEEP: Share = 0.1  # ours: R-MAE's rule; sectors with fewer voxels give way to so many at random
    RANGE_AWARE_LIMITS: tuple[Positive, ...] = (30.0, 50.0)  # ours: metres; masking range_aware, as the next
    RANGE_AWARE_EXTRA_KEEP: tuple[Probability, ...] = (0.0, 0.2, 0.4)  # kept beside 1 - MASKED_RATIO, band by band
    OCCUPANCY_SITES: Literal["Q1", "Q2", "Q4"] = "Q2"  # ours: where occupancy is asked (see occupancy)
    OCCUPANCY_BLOCK: Literal["centred", "corner"] = "centred"  # ours
    OCCUPANCY_POS_WEIGHT: Positive = 1.0  # ours: of occupied blocks
    OCCUPANCY_VISIBLE_WEIGHT: NonNegative = 1.0  # ours: of blocks that hold a visible voxel
    ENABLE_TEACHER_STUDENT: bool = False
    TEACHER_STUDENT_MODE: Literal["phase1", "phase2"] = "phase1"
    TEACHER_BACKBONE_TYPE: Literal["identical"] = "identical"
    TEACHER_MOMENTUM: Probability = 0.996  # ours: of the moving average, at the start
    TEACHER_MOMENTUM_SCHEDULE: Literal["cosine", "constant"] = "cosine"  # ours: cosine leads to 1 at the run's end
    ENABLE_MLFR: bool = False
    MLFR_CONFIG: MlfrConfig = MlfrConfig()
    ENABLE_VOXEL_CONTRASTIVE: bool = False
    VOXEL_CONTRASTIVE_CONFIG: VoxelContrastConfig = VoxelContrastConfig()
    ENABLE_FRAME_CONTRASTIVE: bool = False
    FRAME_CONTRASTIVE_CONFIG: FrameContrastConfig = FrameContrastConfig()

    @property
    def masking(self) -> str:
        """Which of masking's ways the switches name."""
        switches = (self.ENABLE_2STAGE_MASKING, self.USE_BERNOULLI_MASKING)
        names = {(True, True): "two_stage", (False, True): "range_only", (True, False): "range_aware",
                 (False, False): "radial"}  # fmt: skip
        return "calibrated" if self.CALIBRATED_MASKING else names[switches]


class Branch(Schema):
    out_channels: Count
    num_conv: Count = 2


class HeadBranches(Schema):
    center: Branch = Branch(out_channels=2)
    center_z: Branch = Branch(out_channels=1)
    dim: Branch = Branch(out_channels=3)
    rot: Branch = Branch(out_channels=2)


class SeparateHead(Schema):
    HEAD_ORDER: tuple[Literal["center", "center_z", "dim", "rot"], ...] = ("center", "center_z", "dim", "rot")
    HEAD_DICT: HeadBranches = HeadBranches()


class TargetAssigner(Schema):
    FEATURE_MAP_STRIDE: Literal[8] = 8
    NUM_MAX_OBJS: Count = 500
    GAUSSIAN_OVERLAP: Share = 0.1
    MIN_RADIUS: Count = 2


class LossWeights(Schema):
    cls_weight: NonNegative = 1.0
    loc_weight: NonNegative = 2.0
    code_weights: tuple[NonNegative, ...] = (1.0,) * 8


class HeadLoss(Schema):
    LOSS_WEIGHTS: LossWeights = LossWeights()


class MultiClassNms(Schema):
    """Rotated NMS on the bird's-eye view."""

    MULTI_CLASSES_NMS: bool = False  # per class, with a threshold each, or over all classes
    NMS_TYPE: Literal["nms_gpu"] = "nms_gpu"  # OpenPCDet's name; ours runs on either device
    NMS_THRESH: Probability | tuple[Probability, ...] = 0.2
    NMS_PRE_MAXSIZE: Count = 4096
    NMS_POST_MAXSIZE: Count = 500


class HeadPostProcessing(Schema):
    SCORE_THRESH: Share = 0.1
    POST_CENTER_LIMIT_RANGE: Range6
    MAX_OBJ_PER_SAMPLE: Count = 500
    NMS_CONFIG: MultiClassNms | None = None  # null: NMS-free, a site must be the greatest among its active neighbours
    USE_IOU_TO_RECTIFY_SCORE: Literal[False] = False  # there is no iou branch
    IOU_RECTIFIER: NoEffect = None


class DenseHead(Schema):
    NAME: Literal["VoxelNeXtHead"]
    CLASS_AGNOSTIC: Literal[False] = False
    INPUT_FEATURES: Count = 128
    CLASS_NAMES_EACH_HEAD: tuple[tuple[str, ...], ...]
    SHARED_CONV_CHANNEL: Count = 128
    KERNEL_SIZE_HEAD: Literal[1, 3] = 3
    USE_BIAS_BEFORE_NORM: bool = True
    NUM_HM_CONV: Count = 2
    SEPARATE_HEAD_CFG: SeparateHead = SeparateHead()
    TARGET_ASSIGNER_CONFIG: TargetAssigner = TargetAssigner()
    LOSS_CONFIG: HeadLoss = HeadLoss()
    POST_PROCESSING: HeadPostProcessing


class PostProcessing(Schema):
    RECALL_THRESH_LIST: tuple[Probability, ...] = (0.3, 0.5, 0.7)
    EVAL_METRIC: Literal["kitti"] = "kitti"  # AP at R40 and R11 by rotated 3D and BEV overlap
    KITTI_MAPPING: bool = False  # ours: judge under MAP_CLASS_TO_KITTI's names, with KITTI's ignored neighbours
    EVAL_IOU: dict[str, Annotated[float, Field(gt=0, le=1)]] | None = None  # ours: by class; null: KITTI's by mapping
    SCORE_THRESH: NoEffect = None
    OUTPUT_RAW_SCORE: NoEffect = None
    NMS_CONFIG: NoEffect = None


class Model(Schema):
    NAME: Literal["RMAECMAEDetectorPhase1"]
    VFE: Vfe = Vfe()
    BACKBONE_3D: Backbone
    DENSE_HEAD: DenseHead | None = None
    POST_PROCESSING: PostProcessing = PostProcessing()


# --- training ---------------------------------------------------------------------------------------------------------


class LossConfig(Schema):
    """Weights of the terms; TEACHER_STUDENT_WEIGHT multiplies the sum of the three that follow it."""

    RMAE_WEIGHT: NonNegative = 0.0
    TEACHER_STUDENT_WEIGHT: NonNegative = 0.0
    MLFR_WEIGHT: NonNegative = 1.0
    VOXEL_CONTRASTIVE_WEIGHT: NonNegative = 0.6
    FRAME_CONTRASTIVE_WEIGHT: NonNegative = 0.3
    DETECTION_WEIGHT: NonNegative = 0.0


class Optimization(Schema):
    BATCH_SIZE_PER_GPU: Count
    NUM_EPOCHS: Count
    OPTIMIZER: Literal["adam_onecycle"] = "adam_onecycle"
    LR: Positive
    WEIGHT_DECAY: NonNegative = 0.01
    MOMS: tuple[Share, Share] = (0.95, 0.85)  # beta1 at the ends, and at the peak
    PCT_START: Share = 0.4
    DIV_FACTOR: Positive = 10.0
    GRAD_NORM_CLIP: Positive = 10.0
    DIFFERENTIAL_LR: bool = False
    BACKBONE_LR_RATIO: Positive = 0.1
    DENSE_HEAD_LR_RATIO: Positive = 2.0
    UNTRAINED_LR_RATIO: Positive | None = None  # ours: of conv5, conv6, conv_out; null: as the rest of the backbone
    AMP_LOSS_SCALE: Positive = 1024.0  # ours: constant scale of fp16 gradients (--use_amp)
    MOMENTUM: NoEffect = None
    DECAY_STEP_LIST: NoEffect = None
    LR_DECAY: NoEffect = None
    LR_CLIP: NoEffect = None
    LR_WARMUP: NoEffect = None
    WARMUP_EPOCH: NoEffect = None


class Experiment(Schema):
    """A whole configuration file."""

    CLASS_NAMES: tuple[str, ...]
    DATA_CONFIG: DataConfig
    MODEL: Model
    LOSS_CONFIG: LossConfig
    OPTIMIZATION: Optimization
    SEED: Annotated[int, Field(ge=0)] = SEED  # ours

    @property
    def pretraining(self) -> bool:
        return self.MODEL.BACKBONE_3D.PRETRAINING

    @property
    def stage(self) -> Literal["pretrain", "finetune"]:
        return "pretrain" if self.pretraining else "finetune"
