"""Several processes agree, end together and share one folder; and the laws of seeds."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from forked_runs import environment, exit_code, forked, free_port, open_run, start_world

from shared import run
from shared.errors import ConfigError, UserError

# --- randomness


def test_a_sample_s_generator_depends_on_its_three_numbers_and_nothing_else():
    first = run.sample_rng(1, 2, 3).random(4).tolist()
    np.random.default_rng(5).random(3)
    torch.rand(3)
    assert run.sample_rng(1, 2, 3).random(4).tolist() == first
    others = [(0, 2, 3), (1, 0, 3), (1, 2, 0), (3, 2, 1), (1, 3, 2), (2, 1, 3), (1, 2, 4)]
    assert len({tuple(run.sample_rng(*other).random(4)) for other in others} | {tuple(first)}) == len(others) + 1


def test_seed_everything_repeats_all_three_generators():
    import random

    def draws(seed):
        run.seed_everything(seed)
        return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002

    assert draws(7) == draws(7)
    assert not set(draws(7)) & set(draws(8))


# --- worlds


def test_a_world_of_one_costs_nothing_and_changes_nothing():
    with environment(RANK=0, LOCAL_RANK=0, WORLD_SIZE=1), run.world_from_environment("cpu") as under_torchrun:
        assert not torch.distributed.is_initialized()
    with run.world_from_environment("cpu") as plain:
        assert plain == under_torchrun == run.World(0, 1, 0, torch.device("cpu"))
    tensor = torch.ones(2)
    assert plain.is_main
    assert plain.sum(tensor) is tensor
    assert plain.any(True) is True
    assert plain.any(False) is False
    assert plain.gather("x") == ["x"]
    assert plain.broadcast("x") == "x"
    plain.barrier()


def test_a_failed_process_lets_the_others_go_before_it_has_ended(mark):
    """It may take long to end (workers, files); the others must not wait for that."""

    def body():
        try:
            with run.world_from_environment("cpu", timeout_s=40) as world:
                world.barrier()
                if world.rank == 1:
                    raise UserError("enough")
                world.barrier()
        except UserError:
            mark("the other ended").wait()
            raise

    processes, port = [], free_port()
    for rank in range(2):
        several = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        with environment(**several, GLOO_SOCKET_IFNAME="lo"):
            processes.append(forked(body))
    assert exit_code(processes[0], 8) != 0
    mark("the other ended").set()
    assert exit_code(processes[1], 8) == 2


def test_incomplete_variables_and_missing_devices_are_told():
    with environment(WORLD_SIZE=2), pytest.raises(UserError, match="torchrun"), run.world_from_environment("cpu"):
        pass
    with pytest.raises(ConfigError, match="'gpu' is not a device"), run.world_from_environment("gpu"):
        pass
    with pytest.raises(ConfigError, match="cuda:99 is not there"), run.world_from_environment("cuda:99"):
        pass


def test_two_processes_agree(tmp_path):
    def body(world):
        tensor = torch.tensor([1.0, 10.0]) * (world.rank + 1)
        answers = {
            "sum": world.sum(tensor).tolist(),
            "kept": tensor.tolist(),
            "any": [world.any(False), world.any(world.rank == 1), world.any(True)],
            "gather": world.gather({"rank": world.rank}),
            "broadcast": world.broadcast(f"from {world.rank}"),
            "main": world.is_main,
        }
        world.barrier()
        (tmp_path / f"{world.rank}.json").write_text(json.dumps(answers))

    assert [exit_code(process) for process in start_world(body)] == [0, 0]
    for rank in range(2):
        answers = json.loads((tmp_path / f"{rank}.json").read_text())
        assert answers["sum"] == [3.0, 30.0]
        assert answers["kept"] == [rank + 1.0, 10.0 * (rank + 1)]
        assert answers["any"] == [False, True, True]
        assert answers["gather"] == [{"rank": 0}, {"rank": 1}]
        assert answers["broadcast"] == "from 0"
        assert answers["main"] == (rank == 0)


@pytest.mark.fault(23)
@pytest.mark.parametrize("place", ["start", "between collectives", "user error"])
def test_an_exception_on_one_rank_ends_both(place, capfd):
    def body(world):
        if world.rank == 1 and place == "start":
            raise RuntimeError("broken on one")
        world.barrier()
        if world.rank == 1:
            raise (UserError if place == "user error" else RuntimeError)("broken on one")
        world.sum(torch.ones(1))
        world.barrier()

    started = time.monotonic()
    codes = [exit_code(process, 60) for process in start_world(body)]
    assert time.monotonic() - started < 30
    assert 0 not in codes
    told = capfd.readouterr().err
    assert "broken on one" in told
    assert ("[rank 1] error: broken on one" in told) == (place == "user error")


def test_two_processes_share_one_folder_and_the_main_one_writes_it(tmp_path):
    def body(world):
        with open_run(tmp_path / "results", world=world) as opened:
            opened.record(data="embedded")
            opened.mark_done("1")
            opened.log.info("hello from %d", world.rank)
            opened.metrics.log(1, {"loss": 1.0}, split="train")
            (tmp_path / f"{world.rank}.txt").write_text(f"{opened.path} {opened.is_done('1')}")
            world.barrier()

    assert [exit_code(process) for process in start_world(body)] == [0, 0]
    assert (tmp_path / "0.txt").read_text() == (tmp_path / "1.txt").read_text()
    (path,) = (tmp_path / "results").iterdir()
    assert json.loads((path / "run.json").read_text())["starts"][0]["processes"] == 2
    log = (path / "log.txt").read_text()
    assert "hello from 0" in log
    assert "hello from 1" not in log
    assert len((path / "metrics.jsonl").read_text().splitlines()) == 1


@pytest.mark.fault(7)
def test_a_folder_refused_on_the_main_process_ends_all_with_its_message(tmp_path, capfd):
    with open_run(tmp_path, name="mine"):
        codes = [exit_code(p) for p in start_world(lambda world: open_run(tmp_path, name="mine", world=world))]
    assert codes == [2, 2]
    assert "is being written by another process" in capfd.readouterr().err


@pytest.mark.fault(23)
@pytest.mark.slow
@pytest.mark.parametrize("place", ["before", "after"])
def test_torchrun_ends_when_one_rank_fails(tmp_path, place):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, torch\nfrom shared import run\n"
        "def body():\n"
        "    with run.world_from_environment('cpu') as world:\n"
        f"        if world.rank == 1 and {place == 'before'}: raise RuntimeError('broken on one')\n"
        "        world.barrier()\n"
        "        if world.rank == 1: raise RuntimeError('broken on one')\n"
        "        world.sum(torch.ones(1))\n"
        "sys.exit(run.run_command(body))\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode != 0
    assert "RuntimeError: broken on one" in done.stderr
