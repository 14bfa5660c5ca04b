# What every stage has in common: hooks, log, seed. `mmdet::_base_/default_runtime.py` is where the names come from.
custom_imports = dict(imports=["llvip_macl.register"], allow_failed_imports=False)
default_scope = "mmdet"

default_hooks = dict(
    timer=dict(type="IterTimerHook"),
    logger=dict(type="RunLogHook", interval=50),
    param_scheduler=dict(type="ParamSchedulerHook"),
    checkpoint=dict(type="BestCheckpointHook", interval=1),  # CheckpointHook means this one too
    sampler_seed=None,  # the loop moves the sampler itself
)
custom_hooks = [
    dict(type="AlignmentHook"),  # retrieval, cosine, probe, and a t-SNE picture after every validation
    dict(type="MetricsExportHook"),
]
metrics_export = dict(enable_html_report=True)

env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0),
    dist_cfg=dict(backend="nccl"),  # without CUDA gloo is taken
)
# Proposals may be of no person, streams of one modality: then parameters have no gradient.
model_wrapper_cfg = dict(type="MMDistributedDataParallel", find_unused_parameters=True, broadcast_buffers=False)
randomness = dict(seed=0)  # a run can be repeated, and a cut one resumed exactly

visualizer = dict(
    type="DetLocalVisualizer",
    name="visualizer",
    vis_backends=[dict(type="LocalVisBackend"), dict(type="TensorboardVisBackend")],  # work_dir/tensorboard_logs
)
log_processor = dict(type="LogProcessor", window_size=50, by_epoch=True)
log_level = "INFO"
load_from = None
resume = False
work_dir = None  # work_dirs/<config>

# The world that is drawn where data_root is None (`data/embedded`).
embedded = dict(pairs=(300, 60), size_hw=(128, 160), seed=0, misalignment_px=0)
