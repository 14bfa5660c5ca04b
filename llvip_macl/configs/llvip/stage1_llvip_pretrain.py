# Stage 1: LLVIP, Faster R-CNN R50-FPN in two streams with MSP and MACL.
#
# Optimiser: AdamW at 1e-4, the lower end of the tuning tables' range (1e-4 .. 5e-4), as the stage was described; the
# tables' own starting point, SGD at 5e-4 with momentum 0.9, is one command away:
#   --cfg-options optim_wrapper.optimizer.type=SGD optim_wrapper.optimizer.lr=0.0005 \
#       optim_wrapper.optimizer.momentum=0.9
_base_ = [
    "../_base_/models/faster_rcnn_r50_fpn.py",
    "../_base_/datasets/llvip.py",
    "../_base_/schedules/schedule_1x.py",
    "../_base_/default_runtime.py",
]

macl_head = dict(type="MACLHead")  # merged into model.roi_head.macl_head; None leaves the contrastive loss out

optim_wrapper = dict(
    _delete_=True,
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-4, weight_decay=1e-4),
    clip_grad=dict(max_norm=5.0),
)
norm_cfg = dict(type="BN", requires_grad=True)  # --cfg-options norm_cfg.type=GN reaches both backbones
