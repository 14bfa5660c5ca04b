"""What is minimised: task losses (depth), distillation (response, features), and how its weights change (adaptive)."""

from .adaptive import GradientBalance, anneal, gradient_norm
from .depth import CRITERIA, task_losses
from .features import FeatureKD, FeatureTerms
from .response import flip_disagreement, region_mask, response_kd, teacher_confidence

__all__ = [
    "CRITERIA",
    "FeatureKD",
    "FeatureTerms",
    "GradientBalance",
    "anneal",
    "flip_disagreement",
    "gradient_norm",
    "region_mask",
    "response_kd",
    "task_losses",
    "teacher_confidence",
]
