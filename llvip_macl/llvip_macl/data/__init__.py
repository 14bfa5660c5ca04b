"""Paired visible/infrared data: annotations, data sets, transforms that keep both halves in step, validation."""
