"""Masked pretraining of sparse LiDAR backbones (R-MAE with a teacher) and VoxelNeXt detection on top of them."""
