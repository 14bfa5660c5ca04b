# Stage 3 (optional): joint training on KAIST and a second set of pairs (M3FD) that you convert to a pair list.
# It builds, and stops with a clear message until both roots are set:
#   --cfg-options train_dataloader.dataset.datasets[0].data_root=KAIST \
#       train_dataloader.dataset.datasets[1].data_root=M3FD val_dataloader.dataset.data_root=KAIST \
#       test_dataloader.dataset.data_root=KAIST load_from=work_dirs/stage2/best.pth
_base_ = "./stage2_kaist_domain_ft.py"

model = dict(roi_head=dict(macl_weight=0.3, dhn_weight=0.5))
macl_head = dict(domain_weight=0.2)
embedded = None  # no drawn world stands in for M3FD

train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type="ConcatDataset",
        datasets=[
            dict(
                type="KAISTDataset",
                data_root=None,
                ann_file={{_base_.train_list}},
                annotations={{_base_.train_annotations}},
                pipeline={{_base_.train_pipeline}},
            ),
            dict(
                type="PairListDataset",
                data_root=None,
                ann_file="pairs_train.json",  # COCO's format, images with file_name and file_name_ir
                pipeline={{_base_.train_pipeline}},
            ),
        ],
    ),
)
load_rules = dict(allow_missing=[])  # stage 2's weights have everything
