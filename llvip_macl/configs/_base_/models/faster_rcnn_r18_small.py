# A small two-stream detector for CPUs, 128x160 pixels and training from scratch: the demo's and the tests'. A quarter
# of R18's width: in the same time it sees four times the pairs.
_base_ = "./faster_rcnn_r50_fpn.py"

model = dict(
    backbone=dict(depth=18, base_channels=16, frozen_stages=-1, norm_eval=False, init_cfg=None),
    neck=dict(in_channels=[16, 32, 64, 128], out_channels=32, msp_module=dict(channels=32)),
    rpn_head=dict(
        in_channels=32,
        feat_channels=32,
        # Persons of 5 to 50 pixels, 2.4 times as high as wide.
        anchor_generator=dict(scales=[2.0, 3.2], ratios=[2.4]),
    ),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=32),
        bbox_head=dict(in_channels=32, fc_out_channels=128),
        macl_weight=0.1,  # from random weights, the stages' 1.0 leaves the detector behind (README, experiments)
    ),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=128)),
        rpn_proposal=dict(nms_pre=200, max_per_img=100),
        rcnn=dict(sampler=dict(num=32)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=200, max_per_img=100)),
)
