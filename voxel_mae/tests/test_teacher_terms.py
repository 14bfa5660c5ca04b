"""EMA, MLFR, voxel and frame contrast: laws, oracles and traps T11, T12, T14."""

import math

import pytest
import torch
from sparse_cases import cloud, half, sites, toy_backbone

from shared.run import World
from voxel_mae.contrast import (
    VoxelContrast,
    VoxelContrastSettings,
    choose_negatives,
    draw,
    info_nce,
    mean,
    relations,
)
from voxel_mae.frame_level import FrameContrast, FrameContrastSettings, Vectors, max_pooled, of_all
from voxel_mae.mlfr import MlfrSettings, MultiLevelReconstruction, distance
from voxel_mae.sparse import sparse_tensor
from voxel_mae.teacher import Teacher, TeacherSettings, cosine_momentum, move_towards, similarity

COARSE = (3, 6, 6)
WIDTHS = (4, 6, 8, 8, 8)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def unit(rows: int, seed: int, width: int = 16) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(rows, width, generator=seeded(seed)), dim=1)


def permuted(tensor, seed: int = 3):
    """The same tensor with its rows in another order."""
    order = torch.randperm(len(tensor.indices), generator=seeded(seed))
    return sparse_tensor(tensor.features[order], tensor.indices[order], tensor.spatial_shape, tensor.batch_size)


def branches():
    """Levels of a masked and of the whole cloud, from one backbone in evaluation mode."""
    batch, keep, backbone = cloud(), half(300), toy_backbone().eval()
    student = backbone.encode(batch.features[keep], batch.coords[keep], 2, 4)
    return student, backbone.encode(batch.features, batch.coords, 2, 4)


# --- teacher ---


def test_momentum_0_copies_and_1_freezes_bitwise():
    teacher, student = torch.nn.Linear(5, 5), torch.nn.Linear(5, 5)
    before = teacher.weight.clone()
    move_towards(teacher, student, 1.0)
    assert torch.equal(teacher.weight, before)
    move_towards(teacher, student, 0.0)
    assert torch.equal(teacher.weight, student.weight)


def test_a_hundred_steps_at_999_move_the_teacher_a_tenth():
    teacher, student = torch.nn.Linear(1, 1, dtype=torch.float64), torch.nn.Linear(1, 1, dtype=torch.float64)
    start = teacher.weight.item()
    for _ in range(100):
        move_towards(teacher, student, 0.999)
    moved = (teacher.weight.item() - start) / (student.weight.item() - start)
    assert moved == pytest.approx(0.095, abs=5e-4)


def test_the_momentum_rises_along_a_cosine():
    assert cosine_momentum(0.996, 0, 100) == pytest.approx(0.996)
    assert cosine_momentum(0.996, 50, 100) == pytest.approx(0.998)
    assert cosine_momentum(0.996, 100, 100) == cosine_momentum(0.996, 300, 100) == 1.0
    rising = [cosine_momentum(0.9, step, 40) for step in range(41)]
    assert rising == sorted(rising)


def test_a_teacher_is_a_copy_without_gradients_up_to_conv4():
    student = toy_backbone()
    teacher = Teacher(student, TeacherSettings(schedule="constant"))
    own = dict(teacher.encoder.named_parameters())
    assert not any(p.requires_grad for p in own.values())
    for name, parameter in student.named_parameters():
        if name.startswith("conv_input") or name[:5] in ("conv1", "conv2", "conv3", "conv4"):
            assert torch.equal(own[name], parameter)
            assert own[name].data_ptr() != parameter.data_ptr()
        else:
            assert name not in own


def test_the_teachers_norms_keep_statistics_of_their_own():
    student, batch = toy_backbone(), cloud()
    teacher = Teacher(student, TeacherSettings(0.0, "constant"))
    teacher.encode(batch.features, batch.coords, 2)
    moved = teacher.encoder.conv1[0].bn1.running_mean.clone()
    assert moved.any()
    teacher.follow(student, 0)
    assert torch.equal(teacher.encoder.conv1[0].bn1.running_mean, moved)
    assert not student.conv1[0].bn1.running_mean.any()


@pytest.mark.parametrize("wrong", [{"momentum": 1.5}, {"schedule": "linear"}])
def test_wrong_teacher_settings_are_refused(wrong):
    with pytest.raises(ValueError, match="teacher momentum"):
        TeacherSettings(**wrong)


def test_a_rising_momentum_needs_the_length_of_the_run():
    with pytest.raises(ValueError, match="total_steps"):
        Teacher(toy_backbone(), TeacherSettings())


# --- MLFR ---


@pytest.mark.parametrize("kind", ["mse", "l1"])
def test_distance_equals_a_loop_over_common_sites(kind):
    a = sparse_tensor(torch.randn(20, 4), sites(20, COARSE, seed=1), COARSE, 2)
    b = sparse_tensor(torch.randn(30, 4), sites(30, COARSE, seed=2), COARSE, 2)
    table = {tuple(site): row for row, site in enumerate(b.indices.tolist())}
    pairs = [(i, table[tuple(site)]) for i, site in enumerate(a.indices.tolist()) if tuple(site) in table]
    apart = torch.stack([a.features[i] - b.features[j] for i, j in pairs])
    wanted = apart.square().mean() if kind == "mse" else apart.abs().mean()
    assert torch.allclose(distance(a, b, kind), wanted)
    assert torch.allclose(distance(a, permuted(b), kind), wanted)
    assert torch.allclose(distance(permuted(a), b, kind), wanted)


@pytest.mark.fault(12)
def test_a_level_without_common_sites_counts_0_with_zero_gradients():
    features = torch.randn(1, 4, requires_grad=True)
    a = sparse_tensor(features, torch.tensor([[0, 0, 0, 0]]).int(), COARSE, 1)
    b = sparse_tensor(torch.randn(1, 4), torch.tensor([[0, 1, 1, 1]]).int(), COARSE, 1)
    loss = distance(a, b, "mse")
    loss.backward()
    assert loss.item() == 0
    assert not features.grad.any()


def test_mlfr_is_the_weighted_sum_of_its_levels():
    student, teacher = branches()
    both = MultiLevelReconstruction(MlfrSettings((2, 4), (0.8, 1.2)), WIDTHS).eval()
    wanted = sum(
        weight * distance(both.decoders[name](student[name]), teacher[name], "mse")
        for name, weight in (("conv2", 0.8), ("conv4", 1.2))
    )
    assert torch.allclose(both(student, teacher), wanted)


def test_mlfr_does_not_care_for_the_teachers_row_order():
    student, teacher = branches()
    torch.manual_seed(0)
    term = MultiLevelReconstruction(MlfrSettings(), WIDTHS).eval()
    mixed = {name: permuted(tensor) for name, tensor in teacher.items()}
    assert torch.allclose(term(student, teacher), term(student, mixed))


@pytest.mark.parametrize("wrong", [{"scales": (1, 5), "weights": (1.0, 1.0)}, {"weights": (1.0,)}, {"distance": "l2"}])
def test_wrong_mlfr_settings_are_refused(wrong):
    with pytest.raises(ValueError, match="MLFR"):
        MlfrSettings(**wrong)


def test_equal_features_are_similar_at_every_common_site():
    student, teacher = branches()
    coords, cosine = similarity(teacher["conv3"], permuted(teacher["conv3"]))
    assert len(coords) == len(teacher["conv3"].indices)
    assert torch.allclose(cosine[teacher["conv3"].features.abs().sum(1) > 0], torch.ones(1))
    assert len(similarity(student["conv3"], teacher["conv3"])[0]) == len(student["conv3"].indices)  # a subset


# --- contrast ---


@pytest.mark.parametrize(("negatives", "loss"), [(4096, 8.318), (512, 6.240)])
def test_infonce_of_equal_vectors_is_log_1_plus_k(negatives, loss):
    z = unit(1, 0).expand(3, -1)
    bank = unit(1, 0).expand(negatives, -1)
    terms = info_nce(z, z, bank, torch.ones(3, negatives, dtype=torch.bool), 0.07)
    assert torch.allclose(terms, torch.full((3,), math.log(1 + negatives)))
    assert terms[0].item() == pytest.approx(loss, abs=1e-3)


def test_infonce_equals_a_loop_without_the_positive():
    z, bank, own = unit(6, 1), unit(20, 2), torch.tensor([3, 0, 7, 19, 4, 4])
    allowed = torch.ones(6, 20, dtype=torch.bool).scatter(1, own[:, None], False)
    for i, term in enumerate(info_nce(z, bank[own], bank, allowed, 0.2)):
        scores = (bank @ z[i] / 0.2).exp()
        rest = sum(scores[j] for j in range(20) if j != own[i])
        assert term.item() == pytest.approx(-math.log(scores[own[i]] / (scores[own[i]] + rest)), rel=1e-5)


def test_without_negatives_infonce_is_0():
    z, none = unit(2, 1), torch.zeros(2, 2, dtype=torch.bool)
    assert torch.allclose(info_nce(z, unit(2, 2), z, none, 0.1), torch.zeros(2), atol=1e-6)


@pytest.mark.parametrize("scope", ["batch", "sample"])
def test_the_positive_and_other_clouds_are_never_allowed(scope):
    term = VoxelContrast(VoxelContrastSettings(negatives_from=scope), 8)
    sample, own = torch.tensor([0, 0, 1, 1, 1]), torch.tensor([1, 4])
    wanted = torch.ones(2, 5, dtype=torch.bool) if scope == "batch" else own[:, None].ge(2) == sample.bool()[None]
    wanted[0, 1] = wanted[1, 4] = False
    assert torch.equal(term._allowed(sample, own), wanted)


def test_negatives_are_the_hardest_share_and_random_others():
    similarity_ap, allowed = torch.randn(5, 100, generator=seeded()), torch.ones(5, 100, dtype=torch.bool)
    allowed[:, 7] = False
    similarity_ap[:, 7] = 50.0  # the positive would be the hardest of all
    chosen = choose_negatives(similarity_ap, allowed, 20, 0.3, seeded(1))
    assert chosen.sum(1).tolist() == [20] * 5
    assert not chosen[:, 7].any()
    hardest = similarity_ap.masked_fill(~allowed, -9).topk(6).indices
    assert chosen.gather(1, hardest).all()
    other = choose_negatives(similarity_ap, allowed, 20, 0.3, seeded(2))
    assert not torch.equal(chosen, other)
    assert torch.equal(chosen, choose_negatives(similarity_ap, allowed, 20, 0.3, seeded(1)))


def test_few_negatives_are_all_taken():
    allowed = torch.rand(3, 10) < 0.5
    assert torch.equal(choose_negatives(torch.randn(3, 10), allowed, 10, 0.3, seeded()), allowed)
    some = torch.zeros(3, 10, dtype=torch.bool)
    some[:, :2] = True
    assert torch.equal(choose_negatives(torch.randn(3, 10), some, 4, 0.5, seeded()), some)


def test_draws_are_different_rows_and_all_of_them_when_few():
    rows = draw(100, 30, seeded())
    assert len(set(rows.tolist())) == 30
    assert torch.equal(draw(5, 30, seeded()), torch.arange(5))


def test_the_relational_loss_is_0_exactly_at_equal_sides():
    z_s, z_t = unit(12, 1), unit(12, 2)
    assert mean(relations(z_t, z_t, z_t, z_t, 0.1)).item() == 0
    assert mean(relations(z_s, z_t, z_s, z_t, 0.1)).item() > 0.1


def test_the_relational_loss_equals_the_formula():
    z_s, z_t, tau = unit(4, 1), unit(4, 2), 0.2
    sides = {"s": z_s, "t": z_t}
    p = {a + b: torch.softmax(sides[a] @ sides[b].T / tau, 1) for a in sides for b in sides}
    wanted = (p["st"] * (p["st"] / p["tt"]).log()).sum(1) + (p["ts"] * (p["ts"] / p["ss"]).log()).sum(1)
    wanted = (wanted + (z_s - z_t).square().sum(1)).mean()
    assert torch.allclose(mean(relations(z_s, z_t, z_s, z_t, tau)), wanted)


@pytest.mark.parametrize("kind", ["infonce", "relational"])
def test_voxel_contrast_is_the_same_for_any_row_order(kind):
    student, teacher = (levels["conv4"] for levels in branches())
    term = VoxelContrast(VoxelContrastSettings(kind, max_anchors=10_000, projection_dim=16), 8)
    values = [term(student, t, seeded()) for t in (teacher, permuted(teacher))]
    assert torch.allclose(*values, rtol=1e-5)


def test_more_anchors_than_wanted_are_drawn_by_the_generator():
    student, teacher = (levels["conv4"] for levels in branches())
    term = VoxelContrast(VoxelContrastSettings(max_anchors=5, max_negatives=8, projection_dim=16), 8)
    one, again, other = (term(student, teacher, seeded(seed)).item() for seed in (0, 0, 1))
    assert one == again != other


@pytest.mark.parametrize("wrong", [{"kind": "kl"}, {"negatives_from": "world"}, {"temperature": 0}, {"hard_ratio": 2}])
def test_wrong_contrast_settings_are_refused(wrong):
    with pytest.raises(ValueError, match="contrast"):
        VoxelContrastSettings(**wrong)


# --- frames ---


def test_pooling_is_the_maximum_of_each_cloud():
    coords = torch.tensor([[0, 0, 0, 0], [0, 0, 0, 1], [2, 0, 0, 0]]).int()
    tensor = sparse_tensor(torch.tensor([[1.0, -5], [3, -7], [-2, 4]]), coords, COARSE, 3)
    pooled, present = max_pooled(tensor)
    assert pooled.tolist() == [[3, -5], [0, 0], [-2, 4]]
    assert present.tolist() == [True, False, True]


def frame_term(kind: str = "infonce", bank: int = 4) -> FrameContrast:
    torch.manual_seed(0)
    return FrameContrast(FrameContrastSettings(kind, projection_dim=16, bank_size=bank), 8)


def vectors(rows: int, seed: int, valid=None) -> Vectors:
    valid = torch.ones(rows, dtype=torch.bool) if valid is None else torch.tensor(valid)
    return Vectors(unit(rows, seed), unit(rows, seed + 50), valid)


def test_queues_are_first_in_first_out():
    term, seen = frame_term(), [vectors(3, seed) for seed in range(3)]
    for one in seen:
        term.push(one)
    student = torch.cat([one.student for one in seen])
    assert {tuple(r) for r in term.queue_student.tolist()} == {tuple(r) for r in student[-4:].tolist()}
    assert term.written.item() == 9


def test_more_rows_than_the_queue_holds_keep_the_last():
    term, many = frame_term(), vectors(7, 0)
    term.push(many)
    assert {tuple(r) for r in term.queue_teacher.tolist()} == {tuple(r) for r in many.teacher[-4:].tolist()}


def test_two_processes_remember_the_clouds_of_both_in_the_batchs_order():
    """Also of a last batch that does not divide: 3 clouds on the first process, 2 on the second."""

    class Two(World):
        def gather(self, value):
            return shares

    batch = vectors(5, 0, [True, True, False, True, True])
    shares = [Vectors(*(part[rank::2] for part in batch)) for rank in range(2)]
    for rank in range(2):
        found = of_all(shares[rank], Two(rank, 2))
        assert all(torch.equal(one, whole) for one, whole in zip(found, batch, strict=True))
    assert of_all(batch, World()) is batch


def test_clouds_without_voxels_are_not_remembered():
    term = frame_term()
    term.push(vectors(3, 0, [True, False, True]))
    assert term.written.item() == 2


@pytest.mark.parametrize("kind", ["infonce", "relational"])
def test_rows_never_written_take_no_part(kind):
    student, teacher = (levels["conv4"] for levels in branches())
    term = frame_term(kind)
    term.push(vectors(2, 0))
    clean = term(student, teacher, seeded())[0].item()
    term.queue_student[2:], term.queue_teacher[2:] = unit(2, 8), unit(2, 9)
    assert term(student, teacher, seeded())[0].item() == clean
    term.push(vectors(1, 5))
    assert term(student, teacher, seeded())[0].item() != clean


def test_an_empty_queue_gives_infonce_nothing_to_tell_apart():
    student, teacher = (levels["conv4"] for levels in branches())
    assert frame_term()(student, teacher, seeded())[0].item() == pytest.approx(0, abs=1e-6)


def test_frame_infonce_counts_the_written_rows():
    term = frame_term()
    same = unit(1, 0).expand(3, -1)
    term.push(Vectors(same, same, torch.ones(3, dtype=torch.bool)))
    assert torch.allclose(term._terms(same, same, seeded()), torch.full((3,), math.log(4.0)), atol=1e-5)
