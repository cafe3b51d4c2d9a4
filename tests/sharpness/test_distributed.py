"""The fused loss inside DDP and FSDP2, with tied weights: two processes equal one."""

import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from sharpgpt.model.build import create_gpt2_model
from sharpgpt.model.lm import SharpnessLM

NUM_BLOCKS, LENGTH, VOCABULARY = 6, 16, 127


def model() -> SharpnessLM:
    causal_lm = create_gpt2_model(
        n_layer=2, n_head=2, n_embd=32, vocab_size=VOCABULARY, max_seq_length=LENGTH,
        end_of_text_id=None,
    )  # fmt: skip
    return SharpnessLM(causal_lm, penalty="neg_entropy", top_k=5)


def blocks() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(VOCABULARY, (NUM_BLOCKS, LENGTH), generator=generator)


def loss(wrapped: Any, blocks_BT: torch.Tensor, world_size: int) -> torch.Tensor:
    """Data-parallel wrappers average gradients over ranks, so each divides by its share of rows."""
    normalizer = NUM_BLOCKS * (LENGTH - 1) / world_size
    weights = {"penalty_weight": 0.3, "z_loss_weight": 0.05, "label_smoothing": 0.1}
    result: torch.Tensor = wrapped(blocks_BT, normalizer=normalizer, **weights).loss
    return result


def gradients(wrapped: Any) -> dict[str, torch.Tensor]:
    found = {}
    for name, parameter in wrapped.named_parameters():
        gradient = parameter.grad
        full = gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient
        found[name.removeprefix("module.")] = full.clone()
    return found


def worker(rank: int, kind: str, port: int, result: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=2)
    torch.set_num_threads(1)
    wrapped: Any = model()
    if kind == "ddp":
        wrapped = torch.nn.parallel.DistributedDataParallel(wrapped)
    else:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh("cpu", (2,))
        for layer in wrapped.causal_lm.transformer.h:
            fully_shard(layer, mesh=mesh)
        fully_shard(wrapped, mesh=mesh)
    loss(wrapped, blocks().chunk(2)[rank], 2).backward()
    found = gradients(wrapped)
    if rank == 0:
        torch.save(found, result)
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_two_processes_give_the_gradient_of_one(kind: str, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(worker, args=(kind, port, str(tmp_path / "gradients.pt")), nprocs=2)
    found = torch.load(tmp_path / "gradients.pt", weights_only=True)
    single = model()
    loss(single, blocks(), 1).backward()
    expected = gradients(single)
    assert found.keys() == expected.keys()
    for name, truth in expected.items():
        assert ((found[name] - truth).norm() / truth.norm()).item() < 1e-5, name
