"""Metrics: means that are right on several processes, recall, intervals."""

import json
import math
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from shared.metrics import (
    RunningMeans,
    bootstrap_interval,
    paired_difference,
    recall_at_k,
    recall_chance,
)

# --- running means ---


def test_mean_of_unequal_batches_is_the_mean_of_samples():
    samples = torch.arange(10, dtype=torch.float64).square()
    means = RunningMeans()
    for part in samples.split([1, 4, 5]):
        means.update({"loss": part.mean(), "other": 2.0}, len(part))
    assert means.compute() == {"loss": samples.mean().item(), "other": 2.0}


def test_python_numbers_keep_double_precision():
    means = RunningMeans()
    means.update({"x": 0.1}, 1)
    assert means.compute()["x"] == 0.1


def test_small_terms_are_not_lost_beside_large_sums():
    means = RunningMeans()
    means.update({"x": torch.tensor(1e8)}, 1)
    for _ in range(100):
        means.update({"x": torch.tensor(1.0)}, 1)
    assert means.compute()["x"] == (1e8 + 100) / 101


def test_each_name_has_its_own_count():
    means = RunningMeans()
    means.update({"a": 1.0}, 3)
    means.update({"a": 5.0, "b": 7.0}, 1)
    assert means.compute() == {"a": 2.0, "b": 7.0}


def test_empty_batches_count_nothing_and_no_graph_is_kept():
    means = RunningMeans()
    assert means.compute() == {}
    means.update({"x": math.nan}, 0)
    value = torch.ones((), requires_grad=True) * 2
    means.update({"x": value}, 2)
    assert means.compute() == {"x": 2.0}
    assert not means._sums["x"].requires_grad


def test_bad_updates_are_refused():
    with pytest.raises(ValueError, match="count -1"):
        RunningMeans().update({"x": 1.0}, -1)
    with pytest.raises(ValueError, match=r"x has shape \(3,\)"):
        RunningMeans().update({"x": torch.zeros(3)}, 3)


def test_state_continues_bit_for_bit():
    values = torch.rand(9).tolist()
    whole, first, second = RunningMeans(), RunningMeans(), RunningMeans()
    for n, value in enumerate(values):
        whole.update({"x": value}, n + 1)
        (first if n < 4 else second).update({"x": value}, n + 1)
        if n == 3:
            second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert second.compute() == whole.compute()


def test_state_counts_once_over_ranks():
    means = RunningMeans()
    means.update({"x": 2.0}, 3)
    state = means.state_dict()
    for rank, expected in ((0, {"x": 2.0}), (1, {})):
        means.load_state_dict(state, SimpleNamespace(rank=rank))
        assert means.compute() == expected


TWO_PROCESSES = """
import json, sys, torch, torch.distributed as dist
from shared.metrics import RunningMeans
from shared.run import World

torch.set_num_threads(1)
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
world = World(rank, 2)
for samples, batch in json.loads(sys.argv[3]):
    means = RunningMeans()
    mine = torch.arange(samples, dtype=torch.float64)[rank::2]
    for part in mine.split(batch):
        means.update({"square": part.square().mean(), "half": part.mean() / 2}, len(part))
        if rank == 1:
            means.update({"only_on_rank_1": 3.0}, len(part))
    print(json.dumps([means.compute(world), means.state_dict(world)["counts"]]))
"""


@pytest.mark.fault(22)
def test_two_processes_equal_one_when_sizes_do_not_divide(tmp_path):
    cases = [(9, 2), (7, 2), (13, 4), (101, 8), (1, 4)]  # the last leaves rank 1 without samples
    commands = [
        [sys.executable, "-c", TWO_PROCESSES, str(rank), str(tmp_path / "store"), json.dumps(cases)] for rank in (0, 1)
    ]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    running = [subprocess.Popen(c, env={**os.environ, "OMP_NUM_THREADS": "1"}, **options) for c in commands]
    for out, err in [process.communicate(timeout=60) for process in running]:
        results = [json.loads(line) for line in out.splitlines() if line.startswith("[{")]
        assert len(results) == len(cases), err
        for (samples, _), (means, counts) in zip(cases, results, strict=True):
            every = torch.arange(samples, dtype=torch.float64)
            assert means["square"] == pytest.approx(every.square().mean().item(), rel=1e-14)
            assert means["half"] == pytest.approx(every.mean().item() / 2, rel=1e-14)
            assert means.get("only_on_rank_1") == (3.0 if samples > 1 else None)
            assert counts["square"] == samples


# --- recall ---


def test_recall_hand_values():
    scores = torch.tensor([[0.9, 0.5, 0.1, 0.3], [0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1]])
    positives = torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1]], dtype=torch.bool)  # ranks 1, 3, 3
    assert recall_at_k(scores, positives, [1, 2, 3, 10]) == pytest.approx({1: 1 / 3, 2: 1 / 3, 3: 1.0, 10: 1.0})


def test_recall_equals_topk_without_ties_and_is_monotone():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(40, 90, generator=generator)
    positives = torch.rand(40, 90, generator=generator) < 0.05
    positives[:, 0] |= ~positives.any(1)
    ks = [1, 5, 10, 90]
    recalls = recall_at_k(scores, positives, ks)
    for k in ks:
        top = scores.topk(k, dim=1).indices
        assert recalls[k] == pytest.approx(positives.gather(1, top).any(1).double().mean().item())
    assert sorted(recalls.values()) == list(recalls.values()) and recalls[90] == 1


def test_recall_does_not_depend_on_the_gallery_order():
    scores = torch.randn(5, 30, generator=torch.Generator().manual_seed(1)).round()  # many ties
    positives = torch.eye(30, dtype=torch.bool)[:5]
    order = torch.randperm(30, generator=torch.Generator().manual_seed(2))
    assert recall_at_k(scores, positives, [1, 5]) == recall_at_k(scores[:, order], positives[:, order], [1, 5])


def test_equal_scores_are_no_luck():
    assert recall_at_k(torch.zeros(3, 8), torch.ones(3, 8).tril().bool(), [1, 5]) == {1: 0.0, 5: 0.0}


def test_recall_refuses_nonsense():
    scores, positives = torch.rand(2, 3), torch.tensor([[True, False, False], [False, False, False]])
    with pytest.raises(ValueError, match=r"1 queries have no positive image \(first rows \[1\]\)"):
        recall_at_k(scores, positives, [1])
    positives[1, 1] = True
    for bad_scores, bad_positives, ks in (
        (scores[:, :2], positives, [1]), (scores[:0], positives[:0], [1]), (scores * math.nan, positives, [1]),
        (scores, positives.float(), [1]), (scores, positives, [0]),
    ):  # fmt: skip
        with pytest.raises(ValueError):
            recall_at_k(bad_scores, bad_positives, ks)


@pytest.mark.parametrize(
    ("gallery", "positives", "k", "percent"),
    [(160, 1, 1, 0.625), (160, 1, 10, 6.25), (160, 10, 5, 27.9), (160, 10, 10, 48.6)],
)
def test_chance_values(gallery, positives, k, percent):
    assert 100 * recall_chance(gallery, positives, k) == pytest.approx(percent, abs=0.05)


def test_chance_agrees_with_random_scores():
    generator = torch.Generator().manual_seed(3)
    positives = torch.arange(30).expand(4000, 30) < 4
    measured = recall_at_k(torch.rand(4000, 30, generator=generator), positives, [5])[5]
    assert measured == pytest.approx(recall_chance(30, 4, 5), abs=0.03)


def test_chance_edges():
    assert recall_chance(10, 3, 99) == 1 and recall_chance(10, 10, 1) == 1
    assert recall_chance(50_000, 2, 1000) == pytest.approx(1 - (49 / 50) ** 2, rel=1e-3)
    for arguments in ((10, 0, 1), (10, 11, 1), (10, 1, 0)):
        with pytest.raises(ValueError):
            recall_chance(*arguments)


# --- intervals ---


def test_interval_covers_the_true_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        low, high = bootstrap_interval(rng.normal(3.0, 1.0, size=60), samples=300, seed=trial, level=0.9)
        covered += low <= 3.0 <= high
    assert 0.82 <= covered / 200 <= 0.96


def test_groups_are_drawn_together():
    """Ten scenes of fifty equal rows carry the information of ten samples, not five hundred."""
    scenes = np.random.default_rng(1).normal(size=10)
    groups = np.repeat([f"scene-{n}" for n in range(10)], 50)
    width = np.diff(bootstrap_interval(np.repeat(scenes, 50), groups))
    assert width == pytest.approx(np.diff(bootstrap_interval(scenes)), rel=0.1)
    assert width > 4 * np.diff(bootstrap_interval(np.repeat(scenes, 50)))


def test_group_order_and_names_do_not_matter_and_sizes_may_differ():
    values = np.arange(7.0)
    groups = np.array([0, 1, 1, 2, 2, 2, 2])
    expected = bootstrap_interval(values, groups)
    order = np.array([3, 0, 4, 1, 5, 2, 6])
    shuffled = bootstrap_interval(values[order], groups[order])
    assert shuffled == pytest.approx(expected)
    total_rows = []
    bootstrap_interval(
        values, groups, statistic=lambda rows: total_rows.append(sorted(rows.tolist())) or 0.0, samples=50
    )
    assert {len(rows) for rows in total_rows} <= {3, 4, 5, 6, 7, 8, 9, 10, 12} and len({len(r) for r in total_rows}) > 2
    for rows in total_rows:
        assert rows.count(1.0) == rows.count(2.0), "rows of a group come together"


def test_interval_is_seeded_and_takes_other_statistics():
    values = np.random.default_rng(2).normal(size=(40, 3))
    assert bootstrap_interval(values, seed=1) == bootstrap_interval(values, seed=1)
    assert bootstrap_interval(values, seed=1) != bootstrap_interval(values, seed=2)
    low, high = bootstrap_interval(values, statistic=lambda rows: float(np.median(rows[:, 0])))
    assert low <= np.median(values[:, 0]) <= high


def test_constant_values_have_no_width_and_one_group_no_interval():
    assert bootstrap_interval(np.full(9, 0.5)) == (0.5, 0.5)
    assert all(math.isnan(bound) for bound in bootstrap_interval(np.arange(5.0), ["only"] * 5))
    for values, groups, level in (([], None, 0.9), ([1.0, 2.0], ["a"], 0.9), ([1.0, 2.0], None, 1.0)):
        with pytest.raises(ValueError):
            bootstrap_interval(values, groups, level=level)


def paired_case(seeds, effect, noise=0.0):
    rng = np.random.default_rng(4)
    control = rng.random((seeds, 200))
    return control + effect + noise * rng.normal(size=control.shape), control, np.repeat(np.arange(40), 5)


def test_paired_difference_removes_what_both_share():
    treated, control, scenes = paired_case(5, 0.01, noise=0.005)
    result = paired_difference(treated, control, scenes)
    assert result.low < 0.01 < result.high and result.high - result.low < 0.002
    assert result.mean == pytest.approx(np.mean(result.per_seed)) and len(result.per_seed) == 5
    assert result.headline and str(result).count("+0.0") == 3 + 5


def test_headline_needs_five_seeds_one_sign_and_the_interval():
    assert not paired_difference(*paired_case(3, 0.01, noise=0.005)).headline
    assert paired_difference(*paired_case(5, -0.01, noise=0.005)).headline
    assert not paired_difference(*paired_case(5, 0.0, noise=0.5)).headline
    treated, control, scenes = paired_case(5, 0.05)
    treated[0] -= 0.06
    mixed = paired_difference(treated, control, scenes)
    assert mixed.low > 0 and not mixed.one_sign and not mixed.headline
    with pytest.raises(ValueError, match="paired"):
        paired_difference(treated[:4], control)
