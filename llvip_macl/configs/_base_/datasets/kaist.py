# KAIST as released: 640x512, train-all-02 (25,086 pairs) and test-all-20 (2,252 pairs).
# Label sets give results that cannot be compared; `annotations` chooses one (llvip_macl/data/kaist.py lists them).
_base_ = "./pairs.py"

data_root = None  # the folder with images/, imageSets/, annotations...; None draws the embedded world
train_list = "imageSets/train-all-02.txt"
test_list = "imageSets/test-all-20.txt"
train_annotations = "xml"  # or 'bbgt', 'sanitized', 'paired' (boxes per modality)
train_label_version = "original (CVPR 2015)"
test_annotations = "xml"
test_label_version = "improved test labels (Liu et al., BMVC 2016)"  # what published miss rates are on

_base_.train_pipeline[2].scale = _base_.test_pipeline[1].scale = (640, 512)  # of Resize
train_dataloader = dict(
    dataset=dict(
        type="KAISTDataset",
        data_root=data_root,
        ann_file=train_list,
        annotations=train_annotations,
        label_version=train_label_version,
        filter_cfg=dict(filter_empty_gt=True),  # most of KAIST's frames show nobody
        pipeline=_base_.train_pipeline,
    ),
)
val_dataloader = dict(
    dataset=dict(
        type="KAISTDataset",
        data_root=data_root,
        ann_file=test_list,
        annotations=test_annotations,
        label_version=test_label_version,
        pipeline=_base_.test_pipeline,
    ),
)
test_dataloader = val_dataloader

val_evaluator = [dict(type="KaistMissRate", protocol="matlab"), dict(type="PairCocoMetric")]
test_evaluator = val_evaluator
