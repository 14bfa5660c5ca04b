# Stage 1 of the transfer arms: MACL and MSP on drawn LLVIP scenes, as many steps as an arm has.
_base_ = "../embedded/stage1.py"

val_cfg = None
val_dataloader = None
val_evaluator = None
train_dataloader = dict(num_workers=1)
custom_hooks = []
default_hooks = dict(logger=dict(interval=50), checkpoint=dict(max_keep_ckpts=2, save_best=None))
