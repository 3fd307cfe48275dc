"""One of W real processes for tests/test_loss.py: spawned, so it lives in a module of its own that imports no test code."""
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel


def make_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 6))


def make_views(n):
    return torch.randn(2, n, 12, generator=torch.Generator().manual_seed(1)).unbind(0)


def silent_gather(z):
    "The bug: all_gather drops the gradient, then the rows of this process are put back alive."
    parts = [torch.empty_like(z) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, z.detach().contiguous())
    parts[dist.get_rank()] = z
    return torch.cat(parts)


def run(rank, world, folder, n, chunks):
    "Write {name: (loss, parameter gradients)} of this rank to folder/rank.pt."
    from simclr.loss import gather_rows, nt_xent_loss
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/init", rank=rank, world_size=world)
    own = slice(rank * n // world, (rank + 1) * n // world)
    x1, x2 = (x[own] for x in make_views(n))

    def step(loss_of):
        net = DistributedDataParallel(make_net())
        z1, z2 = net(torch.cat([x1, x2])).chunk(2)
        loss = loss_of(z1, z2)
        loss.backward()
        return loss.detach(), [p.grad.clone() for p in net.parameters()]

    out = {f"chunk {c}": step(lambda a, b, c=c: nt_xent_loss(a, b, 0.2, chunk_size=c, gather=True)) for c in chunks}
    out["silent"] = step(lambda a, b: nt_xent_loss(silent_gather(a), silent_gather(b), 0.2))
    out["local"] = step(lambda a, b: nt_xent_loss(a, b, 0.2))
    out["order"] = gather_rows(torch.full((2, 1), float(rank)))
    torch.save(out, f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
