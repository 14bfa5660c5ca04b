"""The RGB depth teacher, under the name it is imported by in this folder; the code is batvision_kd.models.teacher."""

from batvision_kd.models.teacher import RGBDepthModel, create_rgb_depth_model

__all__ = ["RGBDepthModel", "create_rgb_depth_model"]
