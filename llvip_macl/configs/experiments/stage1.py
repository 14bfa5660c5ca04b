# Stage 1 of the transfer arms: MACL and MSP on drawn LLVIP scenes, as many steps as an arm has.
_base_ = "../embedded/stage1.py"

model = dict(backbone=dict(base_channels=32), neck=dict(in_channels=[32, 64, 128, 256]))  # as the arms
val_cfg = None
val_dataloader = None
val_evaluator = None
train_dataloader = dict(num_workers=1)
train_cfg = dict(max_epochs=9)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=40),
    dict(type="MultiStepLR", begin=0, end=9, by_epoch=True, milestones=[7, 8], gamma=0.3),
]
custom_hooks = []
default_hooks = dict(logger=dict(interval=50), checkpoint=dict(max_keep_ckpts=2, save_best=None))
