# SPDX-License-Identifier: Apache-2.0
"""Processes that share a run: who does what, sums among them, FSDP2.

Started by `torchrun`, which sets RANK, WORLD_SIZE and LOCAL_RANK; alone without. NCCL on CUDA,
gloo on the CPU.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

# Methods of the networks that compute with weights, in the place of `forward`.
ENTRIES = ("project_text", "modulation", "encode_context", "predict_flow", "predict_clip")


@dataclass(frozen=True)
class Process:
    """This process among those of the run."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = torch.device("cpu")

    @property
    def first(self) -> bool:
        """Whether it is the one that writes files."""
        return self.rank == 0

    def total(self, value: Tensor) -> Tensor:
        """The sum over all processes, as a new tensor."""
        value = value.detach().clone()
        if self.world_size > 1:
            dist.all_reduce(value)
        return value

    def agreed(self, value: bool) -> bool:
        """What the first process says."""
        if self.world_size == 1:
            return value
        flag = torch.tensor([int(value)], device=self.device)
        dist.broadcast(flag, src=0)
        return bool(flag.item())

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace gradients by their mean over all processes, in one message.

        Gradients of sharded weights are left alone: FSDP has averaged them.
        """
        if self.world_size == 1:
            return
        grads = [p.grad for p in parameters if p.grad is not None and not is_sharded(p)]
        if not grads:
            return
        joint = torch.cat([g.flatten() for g in grads])
        dist.all_reduce(joint)
        joint /= self.world_size
        start = 0
        for grad in grads:
            grad.copy_(joint[start : start + grad.numel()].view_as(grad))
            start += grad.numel()

    def wait(self) -> None:
        """Until all processes are here."""
        if self.world_size > 1:
            dist.barrier()


@contextmanager
def process(device: str | None = None) -> Iterator[Process]:
    """This process, with the group that torchrun describes while inside.

    device: by default the CUDA device of the local rank, or the CPU when there is none.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_RANK", "0"))
    name = device or ("cuda" if torch.cuda.is_available() else "cpu")
    place = torch.device(f"cuda:{local}" if name == "cuda" else name)
    if place.type == "cuda":
        torch.cuda.set_device(place)
    if world == 1:
        yield Process(device=place)
        return
    dist.init_process_group("nccl" if place.type == "cuda" else "gloo")
    try:
        yield Process(dist.get_rank(), world, place)
    finally:
        dist.destroy_process_group()


def is_sharded(tensor: Tensor) -> bool:
    """Whether a tensor is one process' part of a larger one."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, gathered when it is sharded (then every process must ask)."""
    out: Tensor = tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]
    return out.detach()


def own(tensor: Tensor) -> Tensor:
    """This process' part of a tensor, sharing its memory."""
    part: Tensor = tensor.to_local() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]
    return part.detach()


def like_sharded(full: Tensor, like: Tensor) -> Tensor:
    """`full` laid out as `like` is: this process' part when that is sharded."""
    if not is_sharded(like):
        return full.to(like.device)
    from torch.distributed.tensor import distribute_tensor

    part: Any = like
    return distribute_tensor(full.to(like.device), part.device_mesh, part.placements)


def put_back(network: nn.Module) -> None:
    """Free the gathered weights of a sharded network; the next pass gathers the new ones."""
    reshard: Any = getattr(network, "reshard", None)
    if reshard is not None:
        reshard()


def shard(network: nn.Module, process: Process, precision: torch.dtype) -> None:
    """FSDP2: masters, gradients and the optimiser's state are split among all processes.

    The network is one unit, gathered in `precision` for a step and freed after the backward pass:
    a step enters it through several methods, and its layers twice, so that gathering layer by
    layer would send every weight several times. Gradients are summed in float32.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import (
        MixedPrecisionPolicy,
        fully_shard,
        register_fsdp_forward_method,
    )

    mesh = init_device_mesh(process.device.type, (process.world_size,))
    policy = MixedPrecisionPolicy(
        param_dtype=precision, reduce_dtype=torch.float32, cast_forward_inputs=False)
    fully_shard(network, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
    for name in ENTRIES:
        if hasattr(network, name):
            register_fsdp_forward_method(network, name)
