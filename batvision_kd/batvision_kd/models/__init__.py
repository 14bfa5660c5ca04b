"""The teacher (RGB to depth) and the student (two ears to depth), with the same nine feature maps."""

from .blocks import DECODER_LEVELS, ENCODER_LEVELS, LEVELS, STRIDE, feature_channels
from .student import BinauralAttentionModel, StudentSettings, create_binaural_attention_model
from .teacher import RGBDepthModel, TeacherSettings, create_rgb_depth_model

__all__ = [
    "DECODER_LEVELS",
    "ENCODER_LEVELS",
    "LEVELS",
    "STRIDE",
    "BinauralAttentionModel",
    "RGBDepthModel",
    "StudentSettings",
    "TeacherSettings",
    "create_binaural_attention_model",
    "create_rgb_depth_model",
    "feature_channels",
]
