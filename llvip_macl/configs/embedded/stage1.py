# Stage 1 of the demo: the small detector on drawn LLVIP scenes, minutes on two CPU cores.
_base_ = [
    "../_base_/models/faster_rcnn_r18_small.py",
    "../_base_/datasets/llvip.py",
    "../_base_/schedules/schedule_1x.py",
    "../_base_/default_runtime.py",
]

macl_head = dict(type="MACLHead")
embedded = dict(pairs=(240, 60))

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="Resize", scale=(160, 128), keep_ratio=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="ColorJitter", brightness=0.2, contrast=0.2, saturation=0.2, hue=0.02),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(160, 128), keep_ratio=True),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="PackDetInputs"),
]
train_dataloader = dict(batch_size=4, num_workers=2, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(batch_size=4, num_workers=1, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

# From scratch, so faster than the fine-tuning of released weights: 8 epochs of 60 steps.
train_cfg = dict(max_epochs=8, val_interval=4)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=40),
    dict(type="MultiStepLR", begin=0, end=8, by_epoch=True, milestones=[6, 7], gamma=0.3),
]
optim_wrapper = dict(
    _delete_=True,
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-3, weight_decay=1e-4),
    clip_grad=dict(max_norm=5.0),
)
val_evaluator = [dict(type="KaistMissRate"), dict(type="PairCocoMetric")]
test_evaluator = val_evaluator
default_hooks = dict(logger=dict(interval=25))
