"""Everything a distillation step takes: response and feature losses in one place."""

from .features import FeatureKD, FeatureTerms
from .response import flip_disagreement, region_mask, response_kd, teacher_confidence

__all__ = ["FeatureKD", "FeatureTerms", "flip_disagreement", "region_mask", "response_kd", "teacher_confidence"]
