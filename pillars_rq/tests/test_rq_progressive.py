"""The plan, and the laws of training: what moves, what never moves, and where gradients go."""

import pytest
import torch
from base_samples import write_root
from rq_run_samples import CHANNELS, CONTRACT, GRID

from pillars_rq import bottleneck
from pillars_rq.batches import Collate
from pillars_rq.config import RqConfig
from pillars_rq.detector import FrozenDetector
from pillars_rq.judging import StageState
from pillars_rq.kitti.dataset import KittiDataset
from pillars_rq.kitti.layout import find_kitti
from pillars_rq.network import PointPillars, Widths
from pillars_rq.progressive import GlobalBest, Stage, Watch, best_file, epoch_file, final_file, stages_of
from pillars_rq.rq.codebooks import ResidualQuantizer
from pillars_rq.weights import Base, frozen
from shared.checkpoint import tensors_sha256
from shared.config import load_config
from shared.run import World

SCHEDULE = (2, 4)
FIRST, SECOND = Stage(1, 0, 1, 4, (0,), 2, 1), Stage(2, 1, 0, 2, (1,), 2, 1)


@pytest.fixture(scope="module")
def detector(tmp_path_factory) -> FrozenDetector:
    torch.manual_seed(0)
    model = PointPillars(GRID, widths=Widths(CHANNELS, (8, 8, 8), (1, 0, 0), 8))
    return FrozenDetector(Base(frozen(model), tmp_path_factory.getbasetemp() / "none", "", {}), torch.device("cpu"))


@pytest.fixture(scope="module")
def batch(tmp_path_factory):
    root = find_kitti(write_root(tmp_path_factory.mktemp("kitti"), 2, 1))
    frames = KittiDataset(root, "train", ("Pedestrian", "Cyclist", "Car"), train=True)
    return Collate(GRID, 2000)([frames[0], frames[1]])


def books(features: torch.Tensor, stage: Stage) -> ResidualQuantizer:
    """Books in the middle of a stage, the earlier ones finished."""
    quantizer, generator = ResidualQuantizer(2, SCHEDULE, CHANNELS), torch.Generator().manual_seed(0)
    for book, size in ((0, 2), (0, 4), (1, 2), (1, 4)):
        quantizer.grow(book, size, quantizer.residual(features, book, 2), generator)
        if (book, size) == (stage.codebook, stage.size):
            return quantizer
        quantizer.finish()
    raise AssertionError


# --- the plan


def test_the_contract_s_plan_is_25_stages_under_its_names():
    stages = stages_of(load_config(RqConfig, [CONTRACT]))
    assert len(stages) == 25
    assert [stage.number for stage in stages] == list(range(25))
    assert (stages[7].codebook, stages[7].step, stages[7].size, stages[7].n) == (1, 2, 64, 2)
    assert epoch_file(stages[0], 5) == "codebook_0_stage_0_epoch_5.pth"
    assert best_file(stages[0]) == "codebook_0_stage_0_best.pth"
    assert final_file(stages[0]) == "codebook_0_stage_0_final.pth"
    assert epoch_file(stages[7], 10) == "codebook_1_stage_2_epoch_10.pth"


def test_legacy_is_one_stage_of_all_books():
    (stage,) = stages_of(load_config(RqConfig, [CONTRACT], ["progressive_learning.enabled=false"]))
    assert (stage.name, stage.n, stage.size, stage.epochs) == ("legacy", 5, 64, 100)
    (single,) = stages_of(load_config(RqConfig, [CONTRACT], ["progressive_learning.enabled=false",
                                                             "model.n_codebook=1"]))  # fmt: skip
    assert single.legacy and single.n == 1


def test_patience_counts_after_the_warm_up_and_lowers_the_rate_each_time():
    watch = Watch()
    scores = [3.0, 1.0, 2.0, 2.0, 4.0, 1.0, 4.0, 1.0, 1.0]
    history = []
    for epoch, score in enumerate(scores):
        improved = watch.update(score, warm=epoch >= 2, patience=2, lr_factor=0.5)
        history.append((improved, watch.waited, watch.factor))
    assert history == [(True, 0, 1), (False, 0, 1), (False, 1, 1), (False, 2, 0.5), (True, 0, 0.5), (False, 1, 0.5),
                       (False, 2, 0.25), (False, 3, 0.25), (False, 4, 0.125)]  # fmt: skip


def test_the_best_of_the_run_breaks_ties_by_bits():
    best = GlobalBest()
    assert best.update(50.0, 16, 2, 256)
    assert not best.update(50.0, 24, 3, 256)
    assert best.update(50.0, 8, 1, 256)
    assert not best.update(49.9, 4, 1, 16)
    assert best.update(50.1, 40, 5, 256)
    assert (best.n, best.k) == (5, 256)


# --- freezing


@pytest.mark.fault(14)
def test_the_detector_stays_frozen_in_any_parent(detector, batch):
    parent = torch.nn.ModuleDict({"detector": detector})
    before = tensors_sha256(detector.model.state_dict())
    parent.train()
    assert not any(module.training for module in detector.modules())
    assert not any(parameter.requires_grad for parameter in detector.parameters())
    features = detector.head(batch.pillars)
    detector.tail(features, batch.pillars.coords, 2)
    assert not features.requires_grad
    assert tensors_sha256(detector.model.state_dict()) == before
    detector.check()


@pytest.mark.fault(14)
def test_a_detector_that_moved_is_noticed(detector):
    bias = detector.model.head.conv_cls.bias
    bias += 1
    with pytest.raises(RuntimeError, match="has changed"):
        detector.check()
    bias -= 1


# --- gradients


def gradient(quantizer: ResidualQuantizer, stage: Stage, loss: torch.Tensor) -> torch.Tensor:
    rows = quantizer.fresh[str(stage.codebook)]
    (found,) = torch.autograd.grad(loss, [rows], allow_unused=True)
    return torch.zeros_like(rows) if found is None else found


@pytest.mark.parametrize("stage", [FIRST, SECOND])
def test_both_losses_reach_the_new_rows(detector, batch, stage):
    features = detector.head(batch.pillars)
    quantizer = books(features, stage)
    sizes = bottleneck.sizes_behind(quantizer, stage, batch, 0, 0)
    bottled = bottleneck.bottle(quantizer, stage, features, sizes)
    term, positives = bottleneck.detection_term(detector, batch, bottled.quantized)
    assert positives > 0
    assert gradient(quantizer, stage, term).abs().sum() > 0
    bottled = bottleneck.bottle(quantizer, stage, features, sizes)
    assert gradient(quantizer, stage, bottled.codebook).abs().sum() > 0


def test_a_straight_through_estimator_would_cut_the_path(detector, batch):
    features = detector.head(batch.pillars)
    quantizer = books(features, FIRST)
    q = bottleneck.bottle(quantizer, FIRST, features, 0).quantized
    term, _ = bottleneck.detection_term(detector, batch, features + (q - features).detach())
    assert not term.requires_grad


def test_commitment_has_no_gradient_and_the_same_value(detector, batch):
    features = detector.head(batch.pillars)
    bottled = bottleneck.bottle(books(features, FIRST), FIRST, features, 0)
    terms = bottleneck.distortion_terms(bottled, features)
    assert not terms["vq"].requires_grad
    torch.testing.assert_close(terms["vq"], terms["codebook"].detach())


def test_the_tail_sees_the_looked_up_rows(detector, batch):
    """What is quantized while training is what encode and decode give afterwards."""
    features = detector.head(batch.pillars)
    quantizer = books(features, FIRST)
    bottled = bottleneck.bottle(quantizer, FIRST, features, 0)
    quantizer.finish()
    torch.testing.assert_close(bottled.quantized.detach(), quantizer.decode(quantizer.encode(features, 1, 4)))


def test_the_codebook_loss_on_a_residual_is_the_whole_sum_s_distortion(detector, batch):
    features = detector.head(batch.pillars)
    quantizer = books(features, SECOND)
    bottled = bottleneck.bottle(quantizer, SECOND, features, bottleneck.sizes_behind(quantizer, SECOND, batch, 0, 0))
    torch.testing.assert_close(bottled.codebook.detach(), (features - bottled.quantized.detach()).square().mean())


def test_a_warm_up_s_terms_move_nothing(detector, batch):
    features = detector.head(batch.pillars)
    quantizer = books(features, FIRST)
    rows = quantizer.fresh["0"]
    optimizer, before = torch.optim.Adam([rows], lr=0.1), rows.detach().clone()
    terms = bottleneck.distortion_terms(bottleneck.bottle(quantizer, FIRST, features, 0), features)
    sum(bottleneck.without_gradient(terms, [rows]).values()).backward()
    optimizer.step()
    assert torch.equal(rows, before)


# --- draws


def test_sizes_behind_a_book_follow_from_the_frame_alone(batch):
    quantizer = ResidualQuantizer(2, (1, 2, 4), CHANNELS)
    whole = bottleneck.sizes_behind(quantizer, SECOND, batch, 0, 3)
    first = int((batch.pillars.coords[:, 0] == 0).sum())
    swapped = Collate(GRID, 2000)
    assert set(whole.tolist()) == {1, 2, 4}
    assert torch.equal(whole[:first], quantizer.draw_sizes(first, bottleneck.generator_of(0, 2, 3, batch.frame_ids[0])))
    assert not torch.equal(whole, bottleneck.sizes_behind(quantizer, SECOND, batch, 0, 4))
    assert not torch.equal(whole, bottleneck.sizes_behind(quantizer, SECOND, batch, 1, 3))
    assert bottleneck.sizes_behind(quantizer, FIRST, batch, 0, 3) == 0
    assert swapped.grid == GRID


class TwoProcesses(World):
    """One of two processes; `sum` adds what the other one would have brought."""

    def __init__(self, other: torch.Tensor):
        super().__init__(rank=0, size=2)
        object.__setattr__(self, "other", other)

    def sum(self, tensor):
        return tensor + self.other


def test_terms_are_normalised_over_all_processes():
    """Frames 1 and 3, pillars 10 and 90, positives 0 and 8: together the losses of one process with all of them."""
    ours = {"codebook": torch.tensor(2.0), "det": torch.tensor(3.0)}  # sums 20 and 3
    theirs = {"codebook": torch.tensor(1.0), "det": torch.tensor(0.5)}  # sums 90 and 4
    a = bottleneck.over_processes(TwoProcesses(torch.tensor([3.0, 90.0, 8.0])), ours, 1, 10, torch.tensor(0))
    b = bottleneck.over_processes(TwoProcesses(torch.tensor([1.0, 10.0, 0.0])), theirs, 3, 90, torch.tensor(8))
    whole = {name: (a[name] * 1 + b[name] * 3) / 4 for name in a}
    torch.testing.assert_close(whole["codebook"], torch.tensor(110 / 100))
    torch.testing.assert_close(whole["det"], torch.tensor(7 / 8))
    alone = bottleneck.over_processes(World(), ours, 1, 10, torch.tensor(0))
    assert alone == ours


def test_a_stage_s_state_resumes(detector, batch):
    features = detector.head(batch.pillars)
    quantizer = books(features, FIRST)
    state = StageState(quantizer, FIRST, 0.9, GlobalBest())
    state.averages["0"].step(quantizer, features)
    state.hits(0).add_(3)
    state.watch.update(4.0, warm=True, patience=1, lr_factor=0.5)
    state.best.update(4.0, 2, 1, 4)
    other = StageState(quantizer, FIRST, 0.9, GlobalBest())
    other.load_state_dict(state.state_dict())
    assert other.watch == state.watch and other.best == state.best
    assert torch.equal(other.averages["0"].sums, state.averages["0"].sums)
    assert other.hits(0).tolist() == [3, 3, 3, 3]
