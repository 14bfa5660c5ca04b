# LLVIP as released: 12,025 training pairs, 3,463 test pairs, 1280x1024, one class.
_base_ = "./pairs.py"

data_root = None  # the folder with visible/, infrared/, Annotations/; None draws the embedded world
label_version = "not stated"  # LLVIP's labels were corrected on 2023-02-21: write which ones these are

train_dataloader = dict(
    dataset=dict(type="LLVIPDataset", data_root=data_root, split="train", label_version=label_version),
)
val_dataloader = dict(
    dataset=dict(type="LLVIPDataset", data_root=data_root, split="test", label_version=label_version),
)
test_dataloader = val_dataloader

val_evaluator = [dict(type="PairCocoMetric")]  # COCO AP over IoU 0.50:0.95, not VOC's 11 points
test_evaluator = val_evaluator
