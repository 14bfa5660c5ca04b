"""PointPillars split inference with progressive residual quantization: one checkpoint for every operating point.

Read in this order: grid, boxes, voxelize, network (the detector's three parts), anchors, targets, detection_loss,
decode; weights and base_training; then rq and bitstream (the bottleneck and its bytes), wire (edge and server), kitti,
evaluation and world (data, average precision, the embedded LiDAR world).
"""
