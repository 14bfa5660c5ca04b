"""Configs and data that must not be taken in: the training command ends with words for a person."""

import re

import pytest
from llvip_samples import Work

from shared.errors import ConfigError

slow = pytest.mark.slow


# --- configs ----------------------------------------------------------------------------------------------------------

FILES = {  # name -> (lines after the config's, what is said)
    "mmdet 2.x": ("data = dict(samples_per_gpu=2)", "keys of mmdet 2.x"),
    "half a line": ("model = dict(", "cannot be read"),
    "a name that is nothing": ("train_cfg.update(max_epochs=fifty)", "cannot be read"),
    "a division by zero": ("lr = 1 / 0", "cannot be read"),
    "a base that is not there": ("_base_ = './nothing.py'", "nothing.py"),
    "a class that is nothing": ("model['backbone'].update(type='ResNext')", "ResNext"),
    "an argument that is nothing": ("model['backbone'].update(dept=18)", "dept"),
    "a key of MACL that is nothing": ("macl_head.update(temprature=0.1)", "temprature"),
    "a depth that is none": ("model['backbone'].update(depth=19)", "19"),
    "a string for a number": ("train_cfg.update(max_epochs='many')", "max_epochs"),
    "a string for a rate": ("optim_wrapper = dict(optimizer=dict(lr='fast'))", "lr"),
    "an import that is not there": ("custom_imports = dict(imports=['nothing_like_this'])", "nothing_like_this"),
    "no pairs in a batch": ("train_dataloader.update(batch_size=0)", "batch_size"),
}
OPTIONS = {
    "an unknown key": ("train_cfg.max_epoch=3", "train_cfg.max_epochs"),
    "an unknown table": ("schedule.lr=3", "no such key"),
    "a place that is not there": ("param_scheduler[7].end=3", "a list of 2"),
    "no value": ("train_cfg.max_epochs", "KEY=VALUE"),
    "an open bracket": ("param_scheduler[1].milestones=[1,2", "close every bracket"),
    "an entry of a number": ("train_cfg.max_epochs.x=1", "has no entries"),
    "a number as a string": ("optim_wrapper.optimizer.lr=fast", "lr"),
    "the export's typing error": ("metrics_export.enable_html=True", "enable_html_report"),
}
FAST_FILES = ("mmdet 2.x", "a name that is nothing")


@pytest.mark.fault(19)
@pytest.mark.parametrize("case", [*FAST_FILES, *[pytest.param(n, marks=slow) for n in FILES if n not in FAST_FILES]])
def test_a_wrong_config_file_is_told_without_a_traceback(work, case):
    line, told = FILES[case]
    work.config.write_text(f"{work.config.read_text()}\n{line}\n")
    if line.startswith("_base_"):
        work.config.write_text(f"{line}\n")
    work.refused(told)


@pytest.mark.fault(19)
@pytest.mark.parametrize("case", [*list(OPTIONS)[:1], *[pytest.param(n, marks=slow) for n in list(OPTIONS)[1:]]])
def test_a_wrong_option_is_told_without_a_traceback(work, case):
    option, told = OPTIONS[case]
    work.refused(told, options=[option])


@pytest.mark.fault(19)
@slow
def test_two_bases_that_set_the_same_key_are_refused(work, tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.py").write_text("train_cfg = dict(max_epochs=1)\n")
    work.config.write_text(f"_base_ = [{str(tmp_path / 'a.py')!r}, {str(tmp_path / 'b.py')!r}]\n")
    work.refused("cannot be read", "uplicate key")


@pytest.mark.fault(19)
@slow
def test_numbers_are_read_as_numbers(work):
    """`1e-4` is a rate, not a string, and `no` stays the word it is."""
    from llvip_macl.runtime.cfg_options import parse_options

    assert parse_options(["a.b=1e-4", "c=no"]) == {"a.b": 1e-4, "c": "no"}


@pytest.mark.fault(19)
@pytest.mark.parametrize(
    ("table", "key", "value"),
    [
        ("train_cfg", "max_epochs", "12"),
        ("train_cfg", "max_epochs", 0),
        ("train_cfg", "val_interval", 1.5),
        ("train_dataloader", "batch_size", True),
        ("val_dataloader", "num_workers", -1),
    ],
)
def test_numbers_that_are_none_are_named(table, key, value):
    from mmengine.config import Config

    from llvip_macl.runtime.config_rules import Context, check_numbers

    assert check_numbers(Config({table: {key: 1}}), Context()) == []
    with pytest.raises(ConfigError, match=rf"{table}\.{key} is {value!r}"):
        check_numbers(Config({table: {key: value}}), Context())


def test_what_a_constructor_does_not_take_names_the_part_of_the_config():
    from llvip_macl.runtime.building import told

    def build(depth):
        return {"18": 2}[depth]

    assert told(build, "model")("18") == 2
    for wrong, said in (({"depth": "19"}, "KeyError: 19"), ({"dept": "18"}, "unexpected keyword argument 'dept'")):
        with pytest.raises(ConfigError, match=f"config's model cannot be built: .*{said}"):
            told(build, "model")(**wrong)

    def full():
        raise MemoryError

    with pytest.raises(MemoryError):  # no matter of the config
        told(full, "model")()


def test_a_table_may_stand_where_the_config_has_none():
    from mmengine.config import Config

    from llvip_macl.runtime.cfg_options import apply_options

    cfg = Config({"optim_wrapper": {"type": "OptimWrapper", "clip_grad": None}, "model": [{"init_cfg": None}]})
    options = {"optim_wrapper.clip_grad.max_norm": 3.0, "model.0.init_cfg.type": "Pretrained"}
    apply_options(cfg, options, lambda kind, key: True)
    assert cfg.optim_wrapper.clip_grad == {"max_norm": 3.0}
    assert cfg.model[0].init_cfg == {"type": "Pretrained"}


# --- data -------------------------------------------------------------------------------------------------------------


@pytest.mark.fault(15)
@pytest.mark.parametrize("layout", ["kaist", pytest.param("llvip", marks=slow)])
@pytest.mark.parametrize(
    "fault",
    [
        "missing_partner",
        *[pytest.param(name, marks=slow) for name in ("other_size", "broken_xml", "box_outside", "unknown_label")],
    ],
)
def test_a_spoilt_pair_stops_training_and_testing_by_name(data, tmp_path, layout, fault):
    from llvip_macl.data.validate import validate
    from llvip_macl.world import ensure_world

    root = ensure_world(tmp_path / "world", layout=layout, pairs=(4, 12), size_hw=(64, 96), faults=(fault,))
    problems = validate(root, layout)
    assert problems
    work = Work(tmp_path / "one", data, base=f"configs/embedded/{'stage1' if layout == 'llvip' else 'stage2'}.py")
    output = work.refused(str(root), options=[f"data_root={root}", "train_cfg.max_epochs=1"])
    named = re.findall(r"I\d{5}|\d{6}", problems[0])
    assert any(name in output for name in named), output[-2000:]
