"""`PlannerLR` in two processes of `torch.distributed`: one rate, that of one process, however the run is stopped.

The module imports little, since every process that it starts does so again.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial

from planners.torch_scheduler import PlannerLR
from tests.processes import Losses, in_processes

SOME = range(1, 16, 3)
"""Steps at which runs are killed: after a plan, before one, and between."""


def sgd():
    return torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)


def shared_run(ranks, kill=None, saved=None, same=False):
    """The rate of every step in one of two processes, or in one process that observes what both do.

    Args:
        ranks: the processes whose losses are observed here.
        kill: steps done when the run is killed; it goes on from `saved(scheduler)`.
        same: both observe the same; otherwise the training losses differ, and only the second process validates.
    """

    def observe(scheduler, step):
        for rank in ranks:
            scheduler.observe(train_loss=torch.tensor(step**2 % 11 + (2.0 * rank if step and not same else 0.5)))
            if (rank == 1 or same) and step % 4 in (0, 2):
                scheduler.observe(val_loss=0.25 * step)

    optimizer = sgd()
    scheduler = PlannerLR(optimizer, Losses(), 20, 4)
    observe(scheduler, 0)
    scheduler.synchronize()
    rates = []
    for step in range(16):
        if step == kill:
            state, optimizer = saved(scheduler), sgd()
            scheduler = PlannerLR(optimizer, Losses(), 20, 4)
            scheduler.load_state_dict(state)
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        observe(scheduler, step + 1)
        scheduler.step()
    return rates


def own_state(scheduler):
    return scheduler.state_dict()


def state_of_the_first(scheduler):
    state = [scheduler.state_dict()]
    dist.broadcast_object_list(state)
    return state[0]


def synchronized(scheduler):
    scheduler.synchronize()
    return state_of_the_first(scheduler)


def _shared_runs(rank, folder):
    def killed(saved, kills=range(16), **settings):
        return [shared_run([rank], kill, saved, **settings) for kill in kills]

    return {
        "whole": shared_run([rank]),
        "own": killed(own_state, SOME),
        "synchronized": killed(synchronized),
        "of the first": killed(state_of_the_first, SOME),
        "of the first, with the same losses": killed(state_of_the_first, SOME, same=True),
    }


def test_processes_have_the_rates_of_one_and_survive_every_kill(tmp_path):
    whole = shared_run([0, 1])
    assert len(set(whole)) == 4
    rates, others = in_processes(_shared_runs, tmp_path)
    assert rates == others
    assert rates["whole"] == whole
    assert rates["own"] == [whole] * len(SOME)
    assert rates["synchronized"] == [whole] * 16
    # Without `synchronize`, what the first process observed since the last plan stands for what each did.
    assert rates["of the first, with the same losses"] == [shared_run([0], same=True)] * len(SOME)
    for kill, resumed in zip(SOME, rates["of the first"], strict=True):
        next_plan = kill // 4 * 4 + 4
        same = np.equal(resumed, whole)
        assert same[:next_plan].all()
        assert same[next_plan + 4 :].all()


def _sharded_runs(rank, folder):
    mesh = init_device_mesh("cpu", (2,))

    def made():
        torch.manual_seed(0)
        network = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
        fully_shard(network, mesh=mesh)
        optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
        return network, optimizer, PlannerLR(optimizer, Losses(), 20, 4)

    def state_of(network, optimizer, scheduler):
        weights, moments = get_state_dict(network, optimizer)
        return {"network": weights, "optimizer": moments, "scheduler": scheduler.state_dict()}

    def run(kill=None):
        network, optimizer, scheduler = made()
        generator = torch.Generator().manual_seed(1 + rank)
        scheduler.observe(train_loss=1.0, val_loss=1.0)
        scheduler.synchronize()
        rates = []
        for step in range(16):
            if step == kill:
                scheduler.synchronize()
                dcp.save(state_of(network, optimizer, scheduler), checkpoint_id=f"{folder}/saved")
                network, optimizer, scheduler = made()
                state = state_of(network, optimizer, scheduler)
                dcp.load(state, checkpoint_id=f"{folder}/saved")
                set_state_dict(
                    network, optimizer, model_state_dict=state["network"], optim_state_dict=state["optimizer"]
                )
                scheduler.load_state_dict(state["scheduler"])
            rates.append(optimizer.param_groups[0]["lr"])
            loss = (network(torch.randn(8, 4, generator=generator)) - 1).square().mean()
            optimizer.zero_grad()
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            part = DTensor.from_local(loss.detach(), mesh, [Partial("avg")])
            scheduler.observe(train_loss=part, val_loss=norm)
            scheduler.step()
            if step == 0:
                losses = [torch.zeros(()) for _ in range(2)]
                dist.all_gather(losses, loss.detach())
                assert scheduler._observations.state_dict()["values"]["train_loss"] == [pytest.approx(sum(losses) / 2)]
        return rates, [parameter.full_tensor() for parameter in network.parameters()]

    return {"whole": run(), "killed": run(6)}


def test_a_sharded_network_goes_on_from_a_distributed_checkpoint(tmp_path):
    """FSDP2. torch.distributed.checkpoint keeps the scheduler's state of the first process alone."""
    one, other = in_processes(_sharded_runs, tmp_path)
    assert len(set(one["whole"][0])) == 4
    torch.testing.assert_close([one["killed"], other["killed"]], [one["whole"]] * 2, rtol=0, atol=0)
