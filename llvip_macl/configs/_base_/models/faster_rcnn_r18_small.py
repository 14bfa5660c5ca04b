# A small two-stream detector for CPUs, 128x160 pixels and training from scratch: the demo's and the tests'.
_base_ = "./faster_rcnn_r50_fpn.py"

model = dict(
    backbone=dict(depth=18, frozen_stages=-1, norm_eval=False, init_cfg=None),
    neck=dict(in_channels=[64, 128, 256, 512], out_channels=64, msp_module=dict(channels=64)),
    rpn_head=dict(
        in_channels=64,
        feat_channels=64,
        # Persons of 5 to 50 pixels, 2.4 times as high as wide.
        anchor_generator=dict(scales=[2.0, 3.2], ratios=[2.4]),
    ),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=64),
        bbox_head=dict(in_channels=64, fc_out_channels=128),
    ),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=128)),
        rpn_proposal=dict(nms_pre=400, max_per_img=200),
        rcnn=dict(sampler=dict(num=64)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=400, max_per_img=200)),
)
