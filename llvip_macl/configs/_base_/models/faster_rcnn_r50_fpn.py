# Two-stream Faster R-CNN, ResNet-50-FPN with MSP, fusion and MACL, on top of mmdet's own base.
# What is not set here stands in mmdet's `faster-rcnn_r50_fpn.py`: anchors, assigners, samplers, NMS.
_base_ = "mmdet::_base_/models/faster-rcnn_r50_fpn.py"

model = dict(
    type="PairedFasterRCNN",
    modality="both",  # 'vis' or 'ir': one stream only (then roi_head.macl_head=None)
    det_modality="fused",
    fusion=dict(type="add"),
    share_backbone=False,
    checkpoint_ir=False,
    data_preprocessor=dict(
        _delete_=True,
        type="PairedDetDataPreprocessor",
        # Statistics of LLVIP's training images, 0..255, RGB (RSDet's config); infrared is grey, repeated three times.
        vis=dict(mean=[51.00, 48.92, 33.50], std=[49.81, 49.64, 46.55], bgr_to_rgb=True),
        ir=dict(mean=[71.41, 71.41, 71.41], std=[47.07, 47.07, 47.07], bgr_to_rgb=False),
        pad_size_divisor=32,
    ),
    backbone=dict(
        depth=50,
        frozen_stages=1,
        init_cfg=dict(type="Pretrained", checkpoint="torchvision://resnet50"),
    ),
    neck=dict(type="MSPFPN", num_outs=5, msp_module=dict(type="MSPReweight", channels=256)),
    roi_head=dict(
        type="MACLRoIHead",
        bbox_head=dict(num_classes=1, fc_out_channels=1024),
        macl_head=dict(type="MACLHead"),
        # A later stage adds dhn=dict(type="DHNSampler", ...); a None here would forbid that.
        macl_weight=1.0,  # lambda 1
        dhn_weight=0.5,  # lambda 2, of DHN's separate mode
    ),
)
