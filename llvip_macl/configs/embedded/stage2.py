# Stage 2 of the demo: the small detector fine-tuned on drawn KAIST scenes, backbones frozen, with hard negatives.
#   --cfg-options load_from=work_dirs/embedded_stage1/best.pth
_base_ = [
    "../_base_/models/faster_rcnn_r18_small.py",
    "../_base_/datasets/kaist.py",
    "../_base_/schedules/adamw_1x.py",
    "../_base_/default_runtime.py",
]

model = dict(roi_head=dict(dhn=dict(type="DHNSampler", queue_size=512, top_k=64)))
macl_head = dict(type="MACLHead")
embedded = dict(pairs=(320, 60))

_base_.train_pipeline[2].scale = _base_.test_pipeline[1].scale = (160, 128)  # of Resize
train_dataloader = dict(batch_size=8, num_workers=2, dataset=dict(pipeline=_base_.train_pipeline))
val_dataloader = dict(batch_size=4, num_workers=1, dataset=dict(pipeline=_base_.test_pipeline))
test_dataloader = val_dataloader

train_cfg = dict(max_epochs=12, val_interval=6)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=20),
    dict(type="MultiStepLR", begin=0, end=12, by_epoch=True, milestones=[8, 10], gamma=0.3),
]
optim_wrapper = dict(optimizer=dict(lr=1e-3))
custom_hooks = [
    dict(type="FreezeBackboneHook", modules=["backbone", "backbone_ir"]),
    dict(type="DHNScheduleHook", milestones=[6], top_k=[32, 64], momentum=[0.995, 0.99]),
    dict(type="AlignmentHook"),
    dict(type="MetricsExportHook"),
]
default_hooks = dict(logger=dict(interval=25))
load_rules = dict(allow_missing=["roi_head.dhn.*"])
