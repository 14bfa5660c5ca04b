"""Boxes per modality through a transform that knows one list of boxes.

Where a person has a box in each image, both go through the transform as rows of one list. A label stands in for each
row's identity meanwhile (2 * person for visible, 2 * person + 1 for infrared), since every transform that drops boxes
drops their labels with them. Afterwards the rows are told apart again.
"""

from collections.abc import Sequence

import numpy as np
import torch


class PersonRows:
    """The persons of a sample (and of the partners mixed into it) while a transform is at work.

    Args:
        parts: sample dicts with `gt_bboxes` and `gt_bboxes_ir` (N, 4), `gt_bboxes_labels` (N,), `gt_ignore_flags` (N,);
            changed in place: gt_bboxes gets 2N rows, gt_bboxes_ir goes.
    """

    def __init__(self, parts: Sequence[dict]):
        self.labels = np.concatenate([part["gt_bboxes_labels"] for part in parts])
        first = 0
        for part in parts:
            first = _join(part, first)

    def split(self, results: dict) -> None:
        """Tell the rows that are left apart again, in place: persons keep their order.

        A person of whom one half's box was dropped is, in that half, no longer to be found: it becomes a region to
        ignore, with the remaining box in both.
        """
        persons, rows = self._remaining(results["gt_bboxes_labels"])
        lost = (rows < 0).any(axis=0)
        visible, infrared = np.where(rows < 0, rows[::-1], rows)
        boxes, ignored = results["gt_bboxes"], results["gt_ignore_flags"]
        results["gt_bboxes"], results["gt_bboxes_ir"] = boxes[visible], boxes[infrared]
        results["gt_ignore_flags"] = ignored[visible] | ignored[infrared] | lost
        results["gt_bboxes_labels"] = self.labels[persons]

    def _remaining(self, identities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Persons left (P,), and (2, P) the row of each in visible and infrared, -1 where it was dropped."""
        where = np.full((2, len(self.labels)), -1)
        where[identities % 2, identities // 2] = np.arange(len(identities))
        persons = np.flatnonzero((where >= 0).any(axis=0))
        return persons, where[:, persons]


def _join(part: dict, first: int) -> int:
    persons = len(part["gt_bboxes_labels"])
    visible, infrared = part["gt_bboxes"], part.pop("gt_bboxes_ir")
    part["gt_bboxes"] = type(visible)(torch.cat([visible.tensor, infrared.tensor]), clone=False)
    identities = 2 * np.arange(first, first + persons)
    part["gt_bboxes_labels"] = np.concatenate([identities, identities + 1])
    part["gt_ignore_flags"] = np.tile(part["gt_ignore_flags"], 2)
    return first + persons
