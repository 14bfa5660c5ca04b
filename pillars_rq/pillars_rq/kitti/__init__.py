"""KITTI on disk: layout, calibration, labels, preparation, frames, augmentation, result files, validation.

Read in this order: layout and splits, calibration, labels, clouds; prepare (infos, database); dataset and
augmentation; results; validate.
"""

from .calibration import Calibration
from .dataset import Frame, KittiDataset, collate
from .labels import Annotations
from .layout import CLASSES, KittiRoot, find_kitti

__all__ = ["CLASSES", "Annotations", "Calibration", "Frame", "KittiDataset", "KittiRoot", "collate", "find_kitti"]
