"""What the student minimises: three distillation terms (Stage 1), and grounding terms (Stage 2).

Terms come back named and unweighted; the training step weights them once, in view.

    N regions of a batch, U unique texts among them, D embedding dimension, B commands, n cells of the map
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .boxes import cxcywh_to_xyxy, paired_giou

LOG_SCALE_INIT = math.log(1 / 0.07)  # CLIP's initial logit scale, 14.29
LOG_SCALE_MAX = math.log(100.0)


def same_text(text_ids: Tensor) -> Tensor:
    """(N,) integer ids -> (N,N) bool: rows with equal text are each other's positives."""
    return text_ids[:, None] == text_ids[None, :]


def soft_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean over rows of -sum_j target_ij log softmax(logits)_ij; target rows sum to one."""
    return -(target * F.log_softmax(logits, dim=1)).sum(1).mean()


def clip_loss(logits: Tensor, text_ids: Tensor) -> Tensor:
    """L_clip over pairs: symmetric InfoNCE with all equal texts as positives (Radford et al. 2103.00020).

    logits (N,N) = scale * image @ text.T; with unique texts it is the usual symmetric cross-entropy.
    """
    positives = same_text(text_ids).to(logits.dtype)
    target = positives / positives.sum(1, keepdim=True)
    return (soft_cross_entropy(logits, target) + soft_cross_entropy(logits.T, target)) / 2


def clip_loss_unique(logits: Tensor, text_ids: Tensor) -> Tensor:
    """L_clip over the batch's unique texts: the floor of ln(n_i) that repeated captions impose is gone.

    image -> text: cross-entropy over the U unique texts. text -> image: soft cross-entropy over a text's images, minus
    its floor, the entropy ln(n_u) of the uniform target. Both reach 0.
    """
    _, column = torch.unique(text_ids, return_inverse=True)
    first = torch.zeros(int(column.max()) + 1, dtype=torch.long, device=logits.device)
    first.scatter_(0, column.flip(0), torch.arange(len(column) - 1, -1, -1, device=logits.device))
    per_text = logits[:, first]  # (N,U): equal texts have equal columns
    members = F.one_hot(column, len(first)).T.to(logits.dtype)  # (U,N)
    counts = members.sum(1, keepdim=True)
    image_to_text = F.cross_entropy(per_text, column)
    text_to_image = soft_cross_entropy(per_text.T, members / counts) - counts.log().mean()
    return (image_to_text + text_to_image) / 2


def similarity_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """L_sim = T^2/2 [KL(teacher || student) over rows + over columns] (Hinton et al. 1503.02531; CLIP-KD's CRD)."""

    def kl(student: Tensor, teacher: Tensor) -> Tensor:
        return F.kl_div(
            F.log_softmax(student / temperature, 1),
            F.log_softmax(teacher.detach() / temperature, 1),
            reduction="batchmean",
            log_target=True,
        )

    rows = kl(student_logits, teacher_logits)
    columns = kl(student_logits.T, teacher_logits.T)
    return temperature**2 / 2 * (rows + columns)


def cosine_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """L_cos = mean_i (1 - s_i . v_i) of unit vectors (N,D)."""
    return (1 - (student * teacher).sum(1)).mean()


class DistillationLosses(nn.Module):
    """L_clip, L_sim and L_cos between a student's embeddings and a frozen teacher's.

    The student's logit scale is learnable, log-parametrised, clamped to 100; give it no weight decay. A term whose
    weight is 0 is not computed.
    """

    def __init__(self, weights: dict[str, float], temperature: float = 1.0, unique_texts: bool = True):
        super().__init__()
        self.weights = weights
        self.temperature = temperature
        self.clip = clip_loss_unique if unique_texts else clip_loss
        self.log_scale = nn.Parameter(torch.tensor(LOG_SCALE_INIT))

    def forward(
        self, student: Tensor, teacher_image: Tensor, teacher_text: Tensor, text_ids: Tensor, teacher_scale: float
    ) -> dict[str, Tensor]:
        """student (N,D) any norm; teacher_image, teacher_text (N,D) unit; text_ids (N,) -> {term: scalar}, fp32.

        Raises ValueError when N < 2 (contrast needs another row) or the dimensions differ.
        """
        if student.shape != teacher_image.shape or len(student) < 2:
            raise ValueError(
                f"need equal (N >= 2, D); got student {tuple(student.shape)} teacher {tuple(teacher_image.shape)}"
            )
        with torch.autocast(student.device.type, enabled=False):
            student = F.normalize(student.float(), dim=1)
            teacher_image, teacher_text = teacher_image.float(), teacher_text.float()
            logits = self.log_scale.clamp(0, LOG_SCALE_MAX).exp() * student @ teacher_text.T
            terms = {
                "clip": lambda: self.clip(logits, text_ids),
                "sim": lambda: similarity_loss(
                    logits, teacher_scale * teacher_image @ teacher_text.T, self.temperature
                ),
                "cos": lambda: cosine_loss(student, teacher_image),
            }
            return {name: term() for name, term in terms.items() if self.weights[name] > 0}


def gaussian_targets(boxes_cxcywh: Tensor, map_hw: tuple[int, int], sigma: float = 0.25) -> Tensor:
    """Where a command's object is, as a distribution over cells: a Gaussian inside the box.

    boxes_cxcywh (B,4) in 0..1 -> (B, h*w), rows sum to 1. Standard deviation `sigma` x the box's side, but at least
    half a cell, so that a box smaller than a cell still lands on the nearest one.
    """
    h, w = map_hw
    y = (torch.arange(h, device=boxes_cxcywh.device) + 0.5) / h
    x = (torch.arange(w, device=boxes_cxcywh.device) + 0.5) / w
    cx, cy, bw, bh = boxes_cxcywh.float().unbind(1)
    log_x = -(((x - cx[:, None]) / (sigma * bw).clamp(min=0.5 / w)[:, None]) ** 2) / 2
    log_y = -(((y - cy[:, None]) / (sigma * bh).clamp(min=0.5 / h)[:, None]) ** 2) / 2
    return (log_y[:, :, None] + log_x[:, None, :]).flatten(1).softmax(1)


class Talk2CarLoss(nn.Module):
    """L1 + GIoU on boxes, summed over the four coordinates as DETR does, and cross-entropy on the score maps.

    A head that scores cells is trained at the cells that cover the object (weighted by the Gaussian target), not at
    its current best cell: early in training the best cell is noise. A head without a score map is trained on its box.
    """

    def forward(self, outputs: dict, boxes_cxcywh: Tensor) -> dict[str, Tensor]:
        """outputs: Talk2CarModel.forward's dict; boxes_cxcywh (B,4) in 0..1 -> {l1, giou[, score, aux]}, fp32."""
        with torch.autocast(boxes_cxcywh.device.type, enabled=False):
            boxes = boxes_cxcywh.float()
            if outputs["score_map"] is None:
                return self._box_terms(outputs["boxes_cxcywh"].float()[:, None], boxes, boxes.new_ones(len(boxes), 1))
            target = gaussian_targets(boxes, outputs["score_map"].shape[-2:])
            terms = self._box_terms(outputs["cell_boxes"].float(), boxes, target)
            terms["score"] = soft_cross_entropy(outputs["score_map"].float().flatten(1), target)
            if outputs["aux"]:
                aux = [soft_cross_entropy(score.float().flatten(1), target) for score in outputs["aux"]]
                terms["aux"] = torch.stack(aux).mean()
            return terms

    @staticmethod
    def _box_terms(candidates: Tensor, boxes: Tensor, weight: Tensor) -> dict[str, Tensor]:
        """candidates (B,n,4), boxes (B,4), weight (B,n) with rows summing to 1."""
        target = boxes[:, None].expand_as(candidates)
        l1 = (candidates - target).abs().sum(-1)
        giou = 1 - paired_giou(cxcywh_to_xyxy(candidates), cxcywh_to_xyxy(target))
        return {"l1": (weight * l1).sum(1).mean(), "giou": (weight * giou).sum(1).mean()}


def weighted_sum(terms: dict[str, Tensor], weights: dict[str, float]) -> Tensor:
    """The one place where terms meet their weights."""
    return sum(weights[name] * term for name, term in terms.items())
