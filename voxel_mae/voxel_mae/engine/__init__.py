"""Training and judging: batches, the two epochs, checkpoints in OpenPCDet's layout, and evaluation."""
