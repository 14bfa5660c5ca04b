"""The binaural student, under the name it is imported by in this folder; the code is batvision_kd.models.student."""

from batvision_kd.models.student import BinauralAttentionModel, create_binaural_attention_model

__all__ = ["BinauralAttentionModel", "create_binaural_attention_model"]
