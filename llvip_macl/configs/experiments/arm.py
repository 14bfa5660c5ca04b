# One arm of `python -m llvip_macl.experiments`: the whole model, from random weights, on drawn KAIST scenes. Arms leave
# parts of it out by options (configs/experiments/default.yaml). Nothing is validated on the way: the last epoch counts.
_base_ = "../embedded/stage2.py"

val_cfg = None
val_dataloader = None
val_evaluator = None
train_dataloader = dict(num_workers=1)
train_cfg = dict(max_epochs=16)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=40),
    dict(type="MultiStepLR", begin=0, end=16, by_epoch=True, milestones=[12, 14], gamma=0.3),
]
optim_wrapper = dict(optimizer=dict(lr=2e-3))
custom_hooks = []
default_hooks = dict(logger=dict(interval=50), checkpoint=dict(max_keep_ckpts=2, save_best=None))
