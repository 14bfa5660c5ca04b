# 12 epochs with two drops. Keys and shape are those of `mmdet::_base_/schedules/schedule_1x.py`.
train_cfg = dict(type="PairedEpochLoop", max_epochs=12, val_interval=1, checkpoint_interval_iters=0)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")

param_scheduler = [
    # Warm-up. A run shorter than it never reaches the rate, and is warned.
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=500),
    # `end` follows train_cfg.max_epochs, unless it is set itself.
    dict(type="MultiStepLR", begin=0, end=12, by_epoch=True, milestones=[8, 11], gamma=0.1),
]

optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="SGD", lr=0.02, momentum=0.9, weight_decay=0.0001),
)

# base_batch_size = 8 GPUs x 2 pairs; --auto-scale-lr (or enable=True) scales the rate by the real batch size.
auto_scale_lr = dict(enable=False, base_batch_size=16)
