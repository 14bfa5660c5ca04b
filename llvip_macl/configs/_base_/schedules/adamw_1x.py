# The stages' schedule: schedule_1x with AdamW, at the lower end of the range that suits it here (1e-4 .. 5e-4).
_base_ = "./schedule_1x.py"

optim_wrapper = dict(
    _delete_=True,
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-4, weight_decay=1e-4),
    clip_grad=dict(max_norm=5.0),
)
