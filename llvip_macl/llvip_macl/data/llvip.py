"""LLVIP as released: the folder is the split, one VOC xml a pair for both halves."""

from pathlib import Path
from typing import Any

from mmdet.registry import DATASETS

from shared.errors import ConfigError

from .annotations import Labels, read_xml
from .layout import Pair, Pairs, llvip_pairs
from .paired_dataset import PairedDataset, warn

SPLITS = ("train", "test")


@DATASETS.register_module()
class LLVIPDataset(PairedDataset):
    """visible/{train,test}, infrared/{train,test}, Annotations.

    Boxes are as the official COCO converter takes them (x = xmin). Ids are the numbers in the file names.

    Args:
        split: 'train' or 'test': reads the folder of that name.
        one_based: take 1 off all corners, as mmdet's XMLDataset does (the files count from 1).
        ann_dir, visible_dir, infrared_dir: below data_root.
        filter_unlabelled: leave out (and print) pairs without an xml in place of stopping.
        **kwargs: see PairedDataset.
    """

    def __init__(
        self,
        *,
        split: str = "train",
        one_based: bool = False,
        ann_dir: str = "Annotations",
        visible_dir: str = "visible",
        infrared_dir: str = "infrared",
        filter_unlabelled: bool = False,
        **kwargs: Any,
    ):
        if split not in SPLITS:
            raise ConfigError(f"split={split!r}: LLVIP has {' and '.join(SPLITS)}.")
        self.split, self.one_based, self.filter_unlabelled = split, one_based, filter_unlabelled
        self.dirs = ann_dir, visible_dir, infrared_dir
        super().__init__(**kwargs)

    def find_pairs(self) -> Pairs:
        pairs = llvip_pairs(self.root, self.split, *self.dirs[1:])
        if self.filter_unlabelled:
            labelled = [pair for pair in pairs.found if self._xml(pair).exists()]
            for pair in sorted(set(pairs.found) - set(labelled), key=lambda pair: pair.name):
                warn(f"left out: {pair.visible} has no labels: {self._xml(pair)} is missing.")
            pairs.found = labelled
        return pairs

    def _xml(self, pair: Pair) -> Path:
        return self.root / self.dirs[0] / f"{pair.name}.xml"

    def labels_of(self, pair: Pair) -> Labels:
        return read_xml(self._xml(pair), one_based=self.one_based)
