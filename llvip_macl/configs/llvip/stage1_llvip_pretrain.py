# Stage 1: LLVIP, Faster R-CNN R50-FPN in two streams with MSP and MACL.
#
# The optimiser is AdamW (adamw_1x.py); SGD is one command away:
#   --cfg-options optim_wrapper.optimizer.type=SGD optim_wrapper.optimizer.lr=0.0005 \
#       optim_wrapper.optimizer.momentum=0.9
_base_ = [
    "../_base_/models/faster_rcnn_r50_fpn.py",
    "../_base_/datasets/llvip.py",
    "../_base_/schedules/adamw_1x.py",
    "../_base_/default_runtime.py",
]

macl_head = dict(type="MACLHead")  # merged into model.roi_head.macl_head; None leaves the contrastive loss out
norm_cfg = dict(type="BN", requires_grad=True)  # --cfg-options norm_cfg.type=GN reaches both backbones
