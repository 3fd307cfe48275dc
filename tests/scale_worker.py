"What runs in the processes of tests/test_scale.py: a module of its own that imports no test code."
import os
import signal
import time
from pathlib import Path
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

N = 24                                                                   # images of the whole batch
VARIANTS = {f"{net}, micro {micro}, chunk {chunk}": dict(net=net, micro=micro, chunk=chunk)
            for net in ("plain", "norm") for micro in (None, 8) for chunk in (None, 5)}


def make_model(kind):
    from simclr.model import SimCLRModel, build_encoder
    torch.manual_seed(0)
    if kind == "norm": return SimCLRModel(build_encoder("resnet8", 1, 8, width=4), 16, 8)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 32), nn.Tanh(), nn.Linear(32, 8))


class Step(nn.Module):
    "The training step of `SimCLR` as a module that DDP can wrap."
    def __init__(self, model, micro):
        super().__init__()
        from simclr.augment import SimCLRAugment
        from simclr.pretrain import SimCLR
        self.model = model
        self.module = [SimCLR(model, SimCLRAugment(8, (0.5,), (0.25,), (0.3, 1)), 0.2, seed=7, micro_batch_size=micro)]
        self.module[0].log_dict = lambda row, **_: self.seen.update(row)
        self.seen = {}
    def forward(self, x): return self.module[0].training_step((x, None), 0)


def images(): return torch.randint(0, 256, (N, 1, 8, 8), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)


def one_step(x, net, micro=None, chunk=None, wrap=lambda step: step, synced=True):
    "Loss, parameter gradients, running statistics and top-1 of one step."
    from simclr import pretrain
    from simclr.devices import sync_norms
    step = Step(sync_norms(make_model(net)) if synced else make_model(net), micro)
    run = wrap(step)                                                     # DDP's hooks live as long as it does
    with patch.object(pretrain, "loss_chunk", lambda n: chunk): loss = run(x)
    loss.backward()
    return dict(loss=loss.item(), top1=step.seen["top1"].item(), grads=torch.cat([p.grad.flatten() for p in step.model.parameters()]),
                stats=torch.cat([b.float().flatten() for b in step.model.buffers()] or [torch.zeros(0)]))


def steps(folder):
    "All variants on this rank's share of the batch, and the bugs, to folder/rank.pt."
    import ddp_worker

    from simclr import pretrain
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    share, ddp = images().chunk(world)[rank], DistributedDataParallel
    found = {name: one_step(share, wrap=ddp, **v) for name, v in VARIANTS.items()}
    with patch.object(pretrain, "gather_rows", ddp_worker.silent_gather): found["silent"] = one_step(share, "plain", wrap=ddp)
    with patch.object(pretrain, "gather_rows", lambda z: z): found["local"] = one_step(share, "plain", wrap=ddp)
    found["unsynced"] = one_step(share, "norm", wrap=ddp, synced=False)
    with patch.object(pretrain, "shared_views", lambda augment, x, g: torch.cat(augment(x, g))): found["own draws"] = one_step(share, "plain", wrap=ddp)
    torch.save(found, Path(folder) / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def norms(folder):
    "`SyncedNorm` in float64 on an uneven-sized picture, by rank."
    from simclr.devices import sync_norms
    dist.init_process_group("gloo")
    rank, found = dist.get_rank(), {}
    for momentum in (0.1, None):
        torch.manual_seed(0)
        norm = sync_norms(nn.Sequential(nn.BatchNorm2d(3, momentum=momentum).double()))
        x = torch.randn(8, 3, 5, 7, dtype=torch.float64)[rank * 4:][:4].clone().requires_grad_()
        for _ in range(2): y = norm(x)
        (y**3).sum().backward()
        found[momentum] = [t.detach() for t in (y, x.grad, norm[0].weight.grad, norm[0].running_mean, norm[0].running_var)]
    found["eval"] = norm.eval()(x).detach()
    torch.save(found, Path(folder) / f"norm{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def places(folder):
    "Each process notes its place, and says something."
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "NODE_RANK", "OMP_NUM_THREADS")
    Path(folder, os.environ["RANK"]).write_text(" ".join(os.environ[n] for n in names) + " " + " ".join(k for k in os.environ if k.startswith("SLURM")))
    print("hello from", os.environ["RANK"], flush=True)


def misbehave(folder, how, who):
    "One process ends in some way; the others wait for it for ever."
    Path(folder, f"{os.environ['RANK']}.pid").write_text(str(os.getpid()))
    if int(os.environ["RANK"]) == who:
        while len(list(Path(folder).glob("*.pid"))) < 2: time.sleep(0.05)
        if how == "kill": os.kill(os.getpid(), signal.SIGKILL)
        if how == "raise": raise ValueError("a bad value")
        if how == "interrupt": raise KeyboardInterrupt
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(600)


def train_and_note(config, folder):
    "A real run in which each process notes what it writes."
    from simclr import pretrain, report
    for module, name in ((pretrain, "write_json"), (pretrain, "save_encoder"), (report, "write_csv"), (report, "save_encoder")):
        def noting(*args, usual=getattr(module, name), name=name, **kwargs):
            with open(Path(folder, f"wrote{os.environ['RANK']}"), "a") as f: f.write(f"{name} ")
            return usual(*args, **kwargs)
        setattr(module, name, noting)
    pretrain.train(config, folder)


def train_and_lose_one(config, folder):
    "A real run whose second process is killed in its third step."
    from simclr import pretrain
    usual = pretrain.SimCLR.training_step
    def training_step(self, *args):
        if self.global_step == 2 and os.environ["RANK"] == "1": os.kill(os.getpid(), signal.SIGKILL)
        return usual(self, *args)
    pretrain.SimCLR.training_step = training_step
    pretrain.train(config, folder)
