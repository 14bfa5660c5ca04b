"""Training: the teacher, the student by itself, and the student taught; `train` is the way in."""

from .experiment import TrainedRun, train

__all__ = ["TrainedRun", "train"]
