"""What all paired data sets have in common: mmdet's BaseDetDataset with two images a sample.

A subclass says which pairs there are (`find_pairs`) and what is annotated on one (`labels_of`). Then

    pairs without a partner     an error that names both paths; `filter_unpaired=True` prints them and goes on
    images without persons      stay, in training and in evaluation (`filter_cfg=dict(filter_empty_gt=True)` drops
                                them from training)
    a sample that fails         an error that names it: no other sample is put in its place
    one access                  runs the pipeline once, with draws that belong to (seed, epoch, position) of the
                                sampler's key alone (see `randomness`)
"""

import logging
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from mmdet.datasets import BaseDetDataset
from mmengine.logging import print_log

from shared.errors import ConfigError, DataError, UserError

from .annotations import PERSON, LabelledBox, Labels, label_problems
from .layout import Pair, Pairs
from .pair_pipeline import PairedPipeline
from .pair_transforms import sample_name
from .randomness import SampleKey, sample_draws

SHOWN = 5  # problems an error lists
UNSTATED = "not stated"
FILTERS = ("filter_empty_gt", "min_size")


class PairedDataset(BaseDetDataset):
    """Base of LLVIPDataset, KAISTDataset, PairListDataset.

    Args:
        data_root: folder of the data set. None is for `tools/train.py`, which puts the embedded world there.
        pipeline: a plain mmdet pipeline (see `pair_pipeline`).
        label_version: which labels these are, recorded in `metainfo` and in results: numbers on different versions
            cannot be compared.
        filter_unpaired: leave out (and print) pairs with a missing half in place of stopping.
        filter_cfg: in training, filter_empty_gt=True drops pairs without a person, min_size=n images below n px.
        **kwargs: of mmdet's BaseDetDataset (ann_file, metainfo, indices, serialize_data, test_mode, lazy_init).

    Raises:
        ConfigError: an argument makes no sense for pairs.
        DataError: a folder, a half or a label file is missing or wrong.
    """

    METAINFO: ClassVar[dict] = {"classes": (PERSON,), "palette": [(220, 20, 60)]}
    has_boxes_ir = False  # whether the label set has boxes per modality, also on images without persons

    def __init__(
        self,
        *,
        data_root: str | None,
        pipeline: Sequence = (),
        label_version: str = UNSTATED,
        filter_unpaired: bool = False,
        lazy_init: bool = False,
        **kwargs: Any,
    ):
        _check_arguments(data_root, kwargs)
        self.root = Path(data_root)
        self._labels: dict[Any, Labels] = {}  # of label sets that are one file, while the records are made
        self.filter_unpaired = filter_unpaired
        super().__init__(data_root=str(data_root), pipeline=[], lazy_init=True, **kwargs)
        self._metainfo["label_version"] = label_version
        self.pipeline = PairedPipeline(pipeline)
        if not lazy_init:
            self.full_init()

    @abstractmethod
    def find_pairs(self) -> Pairs:
        """The pairs of this split."""

    @abstractmethod
    def labels_of(self, pair: Pair) -> Labels:
        """What is annotated on a pair."""

    @property
    def known_labels(self) -> tuple[str, ...]:
        """Labels that annotations may carry; those that are no class are regions to ignore."""
        return tuple(self._metainfo["classes"])

    def load_data_list(self) -> list[dict]:
        """One dict a pair; mmengine's hook."""
        if not self.root.is_dir():
            raise DataError(f"data_root {self.root} is missing: set it to the folder of the data set.")
        pairs = self.find_pairs()
        self._tell_problems(pairs.problems)
        if not pairs.found:
            raise DataError(f"{self.root} has no pair for this split: look at data_root and the split's name.")
        records = [self._record(pair, self.labels_of(pair)) for pair in pairs.found]
        self._labels = {}  # the records hold them now
        return records

    def _tell_problems(self, problems: Sequence[str]) -> None:
        if problems and not self.filter_unpaired:
            more = f"\n  and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
            raise DataError(
                f"{len(problems)} pairs of {self.root} are not whole (filter_unpaired=True leaves them out):\n  "
                + "\n  ".join(problems[:SHOWN])
                + more
            )
        for problem in problems:
            warn(f"left out: {problem}")

    def _record(self, pair: Pair, labels: Labels) -> dict:
        problem = next(label_problems(labels, self.known_labels, labels.size_hw), None)
        if problem:
            raise DataError(f"{problem} (`python -m llvip_macl.data.validate` lists every problem at once)")
        record = {
            "img_id": pair.number,
            "pair_name": pair.name,
            "img_path": str(pair.visible),
            "img_ir_path": str(pair.infrared),
            "instances": [self._instance(box) for box in labels.boxes],
        }
        if self.has_boxes_ir:
            record["has_boxes_ir"] = True
        if labels.size_hw:
            record["height"], record["width"] = labels.size_hw
        return record

    def _instance(self, box: LabelledBox) -> dict:
        classes = self._metainfo["classes"]
        is_class = box.label in classes
        instance = {
            "bbox": list(box.box_px),
            "bbox_label": classes.index(box.label) if is_class else 0,
            "ignore_flag": int(box.ignore or not is_class),
            "occlusion": box.occlusion,
            "label_name": box.label,
        }
        return instance | ({"bbox_ir": list(box.box_ir_px)} if box.box_ir_px else {})

    def filter_data(self) -> list[dict]:
        """mmengine's hook; evaluation keeps everything."""
        if self.test_mode or not self.filter_cfg:
            return self.data_list
        kept = [record for record in self.data_list if self._is_wanted(record)]
        if not kept:
            raise DataError(f"filter_cfg {self.filter_cfg} leaves nothing of the {len(self.data_list)} pairs.")
        return kept

    def _is_wanted(self, record: dict) -> bool:
        persons = [instance for instance in record["instances"] if not instance["ignore_flag"]]
        small = min(record.get("height", 1 << 30), record.get("width", 1 << 30)) < self.filter_cfg.get("min_size", 0)
        return not small and (bool(persons) or not self.filter_cfg.get("filter_empty_gt", False))

    def __getitem__(self, idx: int) -> dict:
        """The sample of an index or SampleKey after the pipeline.

        Raises:
            UserError: as the pipeline raised it, with the sample's name.
            RuntimeError: the pipeline raised something else; names the sample.
        """
        if not self._fully_initialized:
            self.full_init()
        with sample_draws(idx):
            return self.prepare_data(idx)

    def prepare_data(self, idx: int) -> dict:
        """mmengine's hook: one run of the pipeline."""
        info = self.get_data_info(int(idx))
        if isinstance(idx, SampleKey):
            info["sample_key"] = idx.triple
        where = f"sample {int(idx)}, {sample_name(info)}"
        try:
            return self.pipeline(info, fetch=self.get_data_info, samples=len(self))
        except UserError as error:
            raise type(error)(f"{error} ({where})") from error
        except Exception as error:  # a transform may raise anything: the sample's name must reach the parent process
            raise RuntimeError(f"{where}: {type(error).__name__}: {error}") from error


def warn(message: str) -> None:
    """A line in the log, or on the console where no run has a log."""
    print_log(message, logger="current", level=logging.WARNING)


def _check_arguments(data_root: str | None, kwargs: dict) -> None:
    if data_root is None:
        raise ConfigError(
            "data_root is None: set it to the data set's folder (tools/train.py and tools/test.py put the embedded "
            "world there when none is set)."
        )
    if kwargs.get("data_prefix"):
        raise ConfigError("data_prefix has no meaning for pairs: set the data set's *_dir arguments.")
    if kwargs.get("max_refetch"):
        raise ConfigError("max_refetch has no meaning for pairs: a sample that fails is an error, not replaced.")
    classes = (kwargs.get("metainfo") or {}).get("classes", (PERSON,))
    if isinstance(classes, str):
        raise ConfigError(f"metainfo classes={classes!r} is a string: write a tuple, ({classes!r},) with its comma.")
    unknown = sorted(set(kwargs.get("filter_cfg") or {}) - set(FILTERS))
    if unknown:
        raise ConfigError(f"filter_cfg has {', '.join(unknown)}; there are {', '.join(FILTERS)}.")
