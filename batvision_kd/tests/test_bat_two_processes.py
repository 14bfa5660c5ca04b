"""Two processes with unequal numbers of measured pixels learn as one process with the joined batch (gloo)."""

import multiprocessing

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from batvision_kd.config import LossSettings
from batvision_kd.losses import response_kd
from batvision_kd.losses.depth import TERMS, gradient_loss
from batvision_kd.training.objective import Task
from shared.run import World

CASES = [*TERMS, "gradient", "kd, all", "kd, invalid", "task"]
EMPTY = 2  # the batch whose second half holds no measured pixel


def batches():
    """Three joined batches of four images; the share of measured pixels falls from image to image."""
    g = torch.Generator().manual_seed(0)
    for number in range(EMPTY + 1):
        seen, teacher = (torch.rand(4, 1, 6, 8, generator=g) * 5 + 0.2 for _ in range(2))
        valid = torch.rand(4, 1, 6, 8, generator=g) < torch.tensor([0.9, 0.8, 0.3, 0.1]).view(4, 1, 1, 1)
        valid[2:] &= number != EMPTY
        yield {"image": torch.rand(4, 3, 6, 8, generator=g), "depth": seen, "teacher": teacher, "valid": valid}


def network() -> nn.Module:
    """Without batch norm, which is of one process."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 1, 1), nn.Softplus())


def loss_of(case: str, depth: torch.Tensor, batch: dict, world: World) -> torch.Tensor:
    if case.startswith("kd"):
        return response_kd(depth, batch["teacher"], batch["depth"], batch["valid"], region=case.split(", ")[1],
                           confidence=batch["depth"] / 6, world=world)  # fmt: skip
    if case == "task":
        terms = Task(LossSettings(criterion="Combined"), edges=False, world=world)(depth, batch)
        return sum(terms.values())
    return {**TERMS, "gradient": gradient_loss}[case](depth, batch["depth"], batch["valid"], world=world)


def learned(model: nn.Module, batch: dict, case: str, world: World) -> tuple[float, list[torch.Tensor]]:
    """The loss, and its gradients as the optimizer finds them."""
    model.zero_grad()
    loss = loss_of(case, model(batch["image"]), batch, world)
    loss.backward()
    return float(loss.detach()), [parameter.grad.clone() for parameter in model.parameters()]


def process(rank: int, store: str, answers) -> None:
    """One of two: the first holds the two well measured images of a batch, the second the others."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    world, model = World(rank, 2), DistributedDataParallel(network())
    found = {}
    for number, batch in enumerate(batches()):
        mine = {name: value[2 * rank : 2 * rank + 2] for name, value in batch.items()}
        for case in CASES:
            loss, gradients = learned(model, mine, case, world)
            found[number, case] = (loss, [gradient.tolist() for gradient in gradients])
    answers.put((rank, found))
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def of_two(tmp_path_factory) -> dict:
    """{rank: {(batch, case): (loss, gradients)}}."""
    start = multiprocessing.get_context("fork")  # what is imported here is imported there
    answers, store = start.Queue(), tmp_path_factory.mktemp("gloo") / "store"
    both = [start.Process(target=process, args=(rank, str(store), answers)) for rank in range(2)]
    for one in both:
        one.start()
    found = dict(answers.get(timeout=120) for _ in both)
    for one in both:
        one.join(60)
        assert one.exitcode == 0
    return found


@pytest.mark.fault(22)
@pytest.mark.parametrize("case", CASES)
def test_two_processes_have_the_gradients_of_the_joined_batch(case, of_two):
    model = network()
    for number, batch in enumerate(batches()):
        loss, gradients = learned(model, batch, case, World())
        losses, theirs = zip(*(of_two[rank][number, case] for rank in range(2)), strict=True)
        assert sum(losses) / 2 == pytest.approx(loss, rel=1e-5, abs=1e-7)  # as the log takes them
        for found in theirs:
            for ours, other in zip(gradients, found, strict=True):
                torch.testing.assert_close(torch.tensor(other), ours, rtol=1e-4, atol=1e-6)


def test_the_halves_differ_so_that_means_of_each_would_not_do():
    """The mean of the processes' own means is another number: the law above is not met by accident."""
    batch = next(batches())
    model, halves = network(), [{name: value[at : at + 2] for name, value in batch.items()} for at in (0, 2)]
    together = learned(model, batch, "l1", World())[0]
    apart = sum(learned(model, half, "l1", World())[0] for half in halves) / 2
    assert abs(apart - together) > 1e-3 * together  # a hundred times the tolerance above
