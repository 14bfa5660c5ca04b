# KAIST as released: 640x512, train-all-02 (25,086 pairs) and test-all-20 (2,252 pairs).
# Label sets give results that cannot be compared; `annotations` chooses one (llvip_macl/data/kaist.py lists them).

data_root = None  # the folder with images/, imageSets/, annotations...; None draws the embedded world
train_list = "imageSets/train-all-02.txt"
test_list = "imageSets/test-all-20.txt"
train_annotations = "xml"  # or 'bbgt', 'sanitized', 'paired' (boxes per modality)
train_label_version = "original (CVPR 2015)"
test_annotations = "xml"
test_label_version = "improved test labels (Liu et al., BMVC 2016)"  # what published miss rates are on

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="Resize", scale=(640, 512), keep_ratio=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(640, 512), keep_ratio=True),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="PackDetInputs"),
]

train_dataloader = dict(
    batch_size=2,
    num_workers=4,
    persistent_workers=True,
    drop_last=True,  # a projection with BatchNorm needs more than one pair
    sampler=dict(type="PositionKeyedSampler", shuffle=True),
    dataset=dict(
        type="KAISTDataset",
        data_root=data_root,
        ann_file=train_list,
        annotations=train_annotations,
        label_version=train_label_version,
        filter_cfg=dict(filter_empty_gt=True),  # most of KAIST's frames show nobody
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type="PositionKeyedSampler", shuffle=False),
    dataset=dict(
        type="KAISTDataset",
        data_root=data_root,
        ann_file=test_list,
        annotations=test_annotations,
        label_version=test_label_version,
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader

val_evaluator = [dict(type="KaistMissRate", protocol="matlab"), dict(type="PairCocoMetric")]
test_evaluator = val_evaluator
