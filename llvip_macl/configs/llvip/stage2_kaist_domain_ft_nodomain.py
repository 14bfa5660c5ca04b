# Stage 2: fine-tuning on KAIST with hard negatives (DHN), backbones frozen, without a domain term.
#   --cfg-options load_from=work_dirs/stage1/best.pth        the weights of stage 1
_base_ = [
    "../_base_/models/faster_rcnn_r50_fpn.py",
    "../_base_/datasets/kaist.py",
    "../_base_/schedules/adamw_1x.py",
    "../_base_/default_runtime.py",
]

model = dict(roi_head=dict(dhn=dict(type="DHNSampler", queue_size=8192)))
macl_head = dict(type="MACLHead")

custom_hooks = [
    dict(type="FreezeBackboneHook", modules=["backbone", "backbone_ir"]),
    dict(type="DHNScheduleHook", milestones=[3, 8, 16], top_k=[64, 96, 128, 128], momentum=[0.995, 0.99, 0.99, 0.99]),
    dict(type="AlignmentHook"),
    dict(type="MetricsExportHook"),
]
# Stage 1 has no queues: that part, and nothing else, may be missing in its weights.
load_rules = dict(allow_missing=["roi_head.dhn.*"])
