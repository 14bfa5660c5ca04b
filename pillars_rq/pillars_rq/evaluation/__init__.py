"""Evaluation by KITTI's protocol: detections as camera rows (conversion), overlaps, matching, average precision."""

from .conversion import detections_to_kitti
from .kitti_ap import Protocol, kitti_ap

__all__ = ["Protocol", "detections_to_kitti", "kitti_ap"]
