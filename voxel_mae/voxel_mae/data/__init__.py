"""Clouds and labels on disk as frames: layouts, infos, ground-truth database, augmentation, checks.

layout -> clouds, pcd, labels -> infos, database (prepare, pickles) -> augmentation -> dataset; validate beside them.
"""

from .augmentation import AugmentSettings, PasteSettings
from .dataset import Frame, LidarDataset
from .layout import CustomRoot, find_root

__all__ = ["AugmentSettings", "CustomRoot", "Frame", "LidarDataset", "PasteSettings", "find_root"]
