# LLVIP as released: 12,025 training pairs, 3,463 test pairs, 1280x1024, one class.
# The pipelines are mmdet's own steps; the data set makes them act on pairs (llvip_macl/data/pair_pipeline.py).
# Normalisation stands with the model: model.data_preprocessor holds LLVIP's statistics, one set a modality.

data_root = None  # the folder with visible/, infrared/, Annotations/; None draws the embedded world
label_version = "not stated"  # LLVIP's labels were corrected on 2023-02-21: write which ones these are

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="Resize", scale=(640, 640), keep_ratio=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(640, 640), keep_ratio=True),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="PackDetInputs"),
]

train_dataloader = dict(
    batch_size=2,
    num_workers=4,
    persistent_workers=True,
    drop_last=True,  # a projection with BatchNorm needs more than one pair
    sampler=dict(type="PositionKeyedSampler", shuffle=True),
    dataset=dict(
        type="LLVIPDataset",
        data_root=data_root,
        split="train",
        label_version=label_version,
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type="PositionKeyedSampler", shuffle=False),
    dataset=dict(
        type="LLVIPDataset",
        data_root=data_root,
        split="test",
        label_version=label_version,
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader

val_evaluator = [dict(type="PairCocoMetric")]  # COCO AP over IoU 0.50:0.95, not VOC's 11 points
test_evaluator = val_evaluator
