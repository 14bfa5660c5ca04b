"""The registered names, the shipped configs, and what importing the package does not do."""

import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1]
CONFIGS = sorted([*PACKAGE.glob("configs/llvip/*.py"), *PACKAGE.glob("configs/embedded/*.py")])
NAMES = {
    "MODELS": ("PairedFasterRCNN", "MACLRoIHead", "MACLHead", "DHNSampler", "MSPFPN", "PairedDetDataPreprocessor"),
    "DATASETS": ("LLVIPDataset", "KAISTDataset", "PairListDataset"),
    "TRANSFORMS": ("ColorJitter", "PackPairedDetInputs"),
    "DATA_SAMPLERS": ("PositionKeyedSampler",),
    "METRICS": ("KaistMissRate", "PairCocoMetric", "DetectionsToJson"),
    "HOOKS": ("FreezeBackboneHook", "DHNScheduleHook", "BestCheckpointHook", "RunLogHook", "AlignmentHook",
              "MetricsExportHook"),
    "LOOPS": ("PairedEpochLoop",),
    "RUNNERS": ("PairedRunner",),
}  # fmt: skip


@pytest.mark.parametrize("kind", NAMES)
def test_names_are_in_mmdets_registries(kind):
    import mmdet.registry

    import llvip_macl.register  # noqa: F401

    registry = getattr(mmdet.registry, kind)
    assert [name for name in NAMES[kind] if registry.get(name) is None] == []


def test_importing_the_package_imports_nothing():
    code = "import sys, llvip_macl; print([n for n in ('torch', 'mmcv', 'mmdet', 'mmengine') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configs_have_a_seed_and_no_absolute_path(path):
    from llvip_macl.runtime.preparation import read_config

    cfg = read_config(str(path))
    assert cfg.randomness.seed is not None
    assert cfg.custom_imports["imports"] == ["llvip_macl.register"]
    assert cfg.get("data_root") is None
    assert str(Path.home()) + "/" not in path.read_text()
    assert not [line for line in path.read_text().splitlines() if '"/' in line or "'/" in line]
    assert cfg.default_hooks.sampler_seed is None


@pytest.mark.parametrize(
    "name", ["llvip/stage1_llvip_pretrain", "llvip/stage2_kaist_domain_ft", "llvip/stage3_joint", "embedded/stage2"]
)
def test_detectors_of_the_configs_build(name):
    from mmdet.registry import MODELS
    from mmengine.registry import init_default_scope

    from llvip_macl.runtime.config_rules import RULES, Context, apply_rules
    from llvip_macl.runtime.preparation import read_config

    cfg = read_config(str(PACKAGE / "configs" / f"{name}.py"))
    assert not [line for line in apply_rules(cfg, Context(before=cfg.to_dict()), RULES) if "WARNING" in line]
    init_default_scope("mmdet")
    model = MODELS.build(cfg.model)
    assert model.roi_head.macl_head is not None
    assert (model.roi_head.dhn is not None) == ("stage1" not in name)


def test_stage_3_fails_clearly_without_its_data(tmp_path):
    from llvip_macl.runtime.embedded import find_data
    from llvip_macl.runtime.preparation import read_config
    from shared.errors import ConfigError

    with pytest.raises(ConfigError, match="data_root is not set"):
        find_data(read_config(str(PACKAGE / "configs/llvip/stage3_joint.py")), tmp_path)
