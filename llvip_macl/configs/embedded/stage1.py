# Stage 1 of the demo: the small detector on drawn LLVIP scenes, minutes on two CPU cores.
_base_ = [
    "../_base_/models/faster_rcnn_r18_small.py",
    "../_base_/datasets/llvip.py",
    "../_base_/schedules/adamw_1x.py",
    "../_base_/default_runtime.py",
]

macl_head = dict(type="MACLHead")
embedded = dict(pairs=(320, 60))

_base_.train_pipeline[2].scale = _base_.test_pipeline[1].scale = (160, 128)  # of Resize
_base_.train_pipeline.insert(-1, dict(type="ColorJitter", brightness=0.2, contrast=0.2, saturation=0.2, hue=0.02))
train_dataloader = dict(batch_size=8, num_workers=2, dataset=dict(pipeline=_base_.train_pipeline))
val_dataloader = dict(batch_size=4, num_workers=1, dataset=dict(pipeline=_base_.test_pipeline))
test_dataloader = val_dataloader

# From scratch, so faster than the fine-tuning of released weights: 16 epochs of 40 steps.
train_cfg = dict(max_epochs=16, val_interval=8)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=40),
    dict(type="MultiStepLR", begin=0, end=16, by_epoch=True, milestones=[12, 14], gamma=0.3),
]
optim_wrapper = dict(optimizer=dict(lr=2e-3))
val_evaluator = [dict(type="KaistMissRate"), dict(type="PairCocoMetric")]
test_evaluator = val_evaluator
default_hooks = dict(logger=dict(interval=25))
