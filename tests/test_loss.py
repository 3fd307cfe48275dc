"""NT-Xent against oracles that share none of its code: a float64 double loop, closed forms, two other libraries, two processes."""
import math
import subprocess
import sys

import ddp_worker
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import multiprocessing as mp

from simclr.loss import (ChunkedNTXent, alignment, check_pair, contrastive_top1, gather_rows, loss_bounds, nt_xent_loss,
                         uniformity)

CHUNKS = (None, 1, 3, 7, 16, 1000)   # 3 and 7 do not divide 2N = 16; 1000 exceeds it


def views(n=8, d=5, seed=0, dtype=torch.float64):
    return torch.randn(2, n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype).unbind(0)


def loop_value_and_grad(z1, z2, tau):
    "Eq. 1 and its gradient by NumPy double loops over scalars and rows: quotient rule written out, no matrix product."
    a = np.concatenate([z1.double().numpy(), z2.double().numpy()])
    rows, grad, loss = len(a), np.zeros_like(a), 0.0
    partner = [(i + rows // 2) % rows for i in range(rows)]

    def cos(i, j):
        return sum(a[i] * a[j]) / math.sqrt(sum(a[i] ** 2) * sum(a[j] ** 2))

    def dcos(i, j):                                                   # gradient of cos(i, j) with respect to row i
        ni, nj = math.sqrt(sum(a[i] ** 2)), math.sqrt(sum(a[j] ** 2))
        return a[j] / (ni * nj) - cos(i, j) * a[i] / ni**2

    for i in range(rows):
        weight = {j: math.exp((cos(i, j) - 1) / tau) for j in range(rows) if j != i}
        total = math.fsum(weight.values())
        loss -= math.log(weight[partner[i]] / total) / rows
        for j, w in weight.items():
            slope = (w / total - (j == partner[i])) / (rows * tau)
            grad[i] += slope * dcos(i, j)
            grad[j] += slope * dcos(j, i)
    return loss, grad


def value_and_grad(z1, z2, tau, **options):
    z1, z2 = z1.clone().requires_grad_(), z2.clone().requires_grad_()
    loss = nt_xent_loss(z1, z2, tau, **options)
    loss.backward()
    return loss.detach(), torch.cat([z1.grad, z2.grad])


# ---------------------------------------------------------------- value and gradient
@pytest.mark.parametrize("tau", [0.05, 0.5, 2.0])
@pytest.mark.parametrize("chunk_size", CHUNKS)
def test_float64_value_and_gradient_equal_a_double_loop(tau, chunk_size):
    z1, z2 = views()
    loss, grad = value_and_grad(z1, z2, tau, chunk_size=chunk_size)
    want, want_grad = loop_value_and_grad(z1, z2, tau)
    assert loss.dtype == torch.float64
    assert loss.item() == pytest.approx(want, abs=1e-12)              # float64: 16 rows of sums
    np.testing.assert_allclose(grad.numpy(), want_grad, rtol=0, atol=1e-12 / tau)


@pytest.mark.parametrize("n,d,tau", [(8, 5, 0.5), (150, 64, 0.1), (130, 32, 0.05)])
@pytest.mark.parametrize("chunk_size", [None, 1, 17, 64, 299])
def test_float32_is_within_1e_6_in_value_and_1e_5_in_gradient(n, d, tau, chunk_size):
    z1, z2 = views(n, d)
    want, want_grad = value_and_grad(z1, z2, tau)
    loss, grad = value_and_grad(z1.float(), z2.float(), tau, chunk_size=chunk_size)
    assert loss.dtype == torch.float32
    assert abs(loss.double() - want) <= 1e-6 * max(1, want)           # relative: float32 stores 6 to 6e-7
    assert (grad.double() - want_grad).norm() <= 1e-5 * want_grad.norm()


def test_chunked_gradient_passes_gradcheck_and_scales_with_upstream():
    z = torch.nn.functional.normalize(torch.cat(views(4, 3)), dim=1).requires_grad_()
    for chunk_size in (1, 3, 8):
        assert torch.autograd.gradcheck(lambda z: 7 * ChunkedNTXent.apply(z, 0.5, chunk_size), z)


def test_chunks_compute_nothing_twice_and_no_gradient_that_nobody_asked_for():
    from torch.utils.flop_counter import FlopCounterMode
    z1, z2 = views()
    product = 2 * 16 * 16 * 5                                         # flops of Z Z^T for 2N = 16, D = 5

    def flops(step):
        with FlopCounterMode(display=False) as counter: step()
        return counter.get_total_flops()

    for chunk_size in (None, 3):
        assert flops(lambda: nt_xent_loss(z1, z2, chunk_size=chunk_size)) == product
        assert flops(lambda: value_and_grad(z1, z2, 0.5, chunk_size=chunk_size)) == 3 * product
    assert nt_xent_loss(z1, z2, chunk_size=3).item() == pytest.approx(nt_xent_loss(z1, z2).item(), abs=1e-14)


def test_chunked_keeps_only_z_for_backward():
    n, d = 256, 8
    sizes = {}
    for chunk_size in (None, 32):
        z1, z2 = (v.requires_grad_() for v in views(n, d, dtype=torch.float32))
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
            nt_xent_loss(z1, z2, chunk_size=chunk_size)
        sizes[chunk_size] = max(saved)
    assert sizes == {None: (2 * n) ** 2, 32: 2 * n * d}


def test_no_chunk_size_makes_a_tensor_of_the_whole_matrix():
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor): self.numel = max(self.numel, out.untyped_storage().nbytes() // out.element_size())
            return out

    n, d, chunk_size = 256, 8, 40
    with Largest() as largest: value_and_grad(*views(n, d, dtype=torch.float32), 0.5, chunk_size=chunk_size)
    assert largest.numel == chunk_size * 2 * n


# ---------------------------------------------------------------- other libraries
@pytest.mark.parametrize("tau", [0.07, 0.5, 1.0])
def test_equals_lightly(tau):
    from lightly.loss import NTXentLoss
    z1, z2 = views(32, 16, dtype=torch.float32)
    a, b = z1.clone().requires_grad_(), z2.clone().requires_grad_()
    theirs = NTXentLoss(tau)(a, b)
    theirs.backward()
    loss, grad = value_and_grad(z1, z2, tau)
    assert loss.item() == pytest.approx(theirs.item(), abs=3e-6)      # two float32 programs
    torch.testing.assert_close(grad, torch.cat([a.grad, b.grad]), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("tau", [0.07, 0.5, 1.0])
def test_equals_pytorch_metric_learning(tau):
    from pytorch_metric_learning.losses import NTXentLoss, SelfSupervisedLoss
    z1, z2 = views(32, 16)
    ours = nt_xent_loss(z1, z2, tau).item()
    assert ours == pytest.approx(SelfSupervisedLoss(NTXentLoss(tau))(z1, z2).item(), abs=1e-5)
    labels = torch.arange(32).repeat(2)
    assert ours == pytest.approx(NTXentLoss(tau)(torch.cat([z1, z2]), labels).item(), abs=1e-5)


# ---------------------------------------------------------------- properties
seeds, sizes, dims, taus = st.integers(0, 2**31), st.integers(2, 12), st.integers(1, 20), st.floats(0.05, 2)
chunks = st.one_of(st.none(), st.integers(1, 30))
quick = settings(max_examples=40, deadline=None)


@quick
@given(seeds, sizes, dims, taus, chunks)
def test_order_of_images_swap_of_views_and_length_of_rows_leave_the_loss(seed, n, d, tau, chunk_size):
    z1, z2 = views(n, d, seed)
    g = torch.Generator().manual_seed(seed)
    order = torch.randperm(n, generator=g)
    scale = torch.rand(2, n, 1, generator=g, dtype=torch.float64) * 10 + 0.1
    loss = nt_xent_loss(z1, z2, tau, chunk_size=chunk_size)
    for other in ((z1[order], z2[order]), (z2, z1), (z1 * scale[0], z2 * scale[1])):
        torch.testing.assert_close(nt_xent_loss(*other, tau, chunk_size=chunk_size), loss, rtol=0, atol=1e-10)


@quick
@given(seeds, sizes, dims, taus)
def test_loss_stays_between_the_floor_and_the_widest_spread_of_cosines(seed, n, d, tau):
    z1, z2 = views(n, d, seed)
    floor, ceiling = loss_bounds(n, tau)
    noise = 1e-12                                                     # float64 rounding at the bounds themselves
    for a, b in ((z1, z2), (z1, z1), (z1, -z1)):
        assert floor - noise <= nt_xent_loss(a, b, tau).item() <= math.log1p((2 * n - 2) * math.exp(2 / tau)) + noise
    assert 0 <= floor < ceiling


@quick
@given(sizes, taus)
def test_simplex_reaches_the_floor_and_collapse_the_ceiling(n, tau):
    simplex, same = torch.eye(n).double() - 1 / n, torch.ones(n, 3).double()
    floor, ceiling = loss_bounds(n, tau)
    assert nt_xent_loss(simplex, simplex, tau).item() == pytest.approx(floor, abs=1e-10)
    assert nt_xent_loss(same, same, tau).item() == pytest.approx(ceiling, abs=1e-10)
    assert contrastive_top1(simplex, simplex) == 1


@quick
@given(seeds, sizes, dims, taus)
def test_the_loss_is_alignment_plus_spread(seed, n, d, tau):
    z1, z2 = views(n, d, seed, torch.float32)
    a = np.concatenate([z1.double().numpy(), z2.double().numpy()])
    a /= np.linalg.norm(a, axis=1, keepdims=True)
    s = a @ a.T / tau
    spread = np.mean([np.log(np.exp(np.delete(row, i)).sum()) for i, row in enumerate(s)])
    want = (alignment(z1, z2).item() / 2 - 1) / tau + spread
    assert nt_xent_loss(z1, z2, tau).item() == pytest.approx(want, abs=1e-4)     # float32, divided by tau >= 0.05


# ---------------------------------------------------------------- known numbers
def test_published_numbers():
    assert loss_bounds(256, 0.5) == pytest.approx((4.241, 6.236), abs=5e-4)
    assert loss_bounds(512, 0.5) == pytest.approx((4.93, 6.93), abs=5e-3)
    for seed in range(3):
        z1, z2 = views(256, 128, seed)
        assert nt_xent_loss(z1, z2, 0.5).item() == pytest.approx(math.log(511) + 1 / (2 * 128 * 0.25), abs=0.03)


@pytest.mark.parametrize("chunk_size", [None, 1, 3])
def test_two_orthogonal_pairs_and_the_interleaving_bug(chunk_size):
    eye = torch.eye(2)
    assert nt_xent_loss(eye, eye, chunk_size=chunk_size).item() == pytest.approx(0.2395, abs=5e-5)
    mixed = torch.stack([eye, eye], 1).flatten(0, 1).chunk(2)
    assert nt_xent_loss(*mixed, chunk_size=chunk_size).item() == pytest.approx(2.2395, abs=5e-5)


def test_tiny_temperature_neither_overflows_nor_turns_to_nan():
    for chunk_size in (None, 3):
        loss, grad = value_and_grad(*views(dtype=torch.float32), 1e-3, chunk_size=chunk_size)
        assert loss.isfinite() and grad.isfinite().all()


def test_top1_alignment_uniformity_against_numpy():
    z1, noise = views(40, 4, dtype=torch.float32)
    z2 = z1 + 0.3 * noise                                             # near enough that some, not all, partners are found
    a = np.concatenate([z1.numpy(), z2.numpy()]).astype(np.float64)
    a /= np.linalg.norm(a, axis=1, keepdims=True)
    hits = [max((j for j in range(80) if j != i), key=lambda j: a[i] @ a[j]) == (i + 40) % 80 for i in range(80)]
    assert 0.2 < np.mean(hits) < 0.9
    assert contrastive_top1(z1, z2).item() == pytest.approx(np.mean(hits))
    assert alignment(z1, z2).item() == pytest.approx(np.mean(((a[:40] - a[40:]) ** 2).sum(1)), abs=1e-5)
    pairs = [math.exp(-2 * ((a[i] - a[j]) ** 2).sum()) for i in range(40) for j in range(i)]
    assert uniformity(z1).item() == pytest.approx(math.log(np.mean(pairs)), abs=1e-5)


def test_collapse_earns_no_top1():
    assert contrastive_top1(torch.ones(16, 4), torch.ones(16, 4)) <= 1 / 31


# ---------------------------------------------------------------- precision
@pytest.mark.parametrize("backward_inside,chunk_size,exact", [
    (False, None, True), (False, 5, True),
    (True, 5, True),        # the chunks finished their products in the forward pass
    (True, None, False),    # the control: autocast was on, and PyTorch asks for backward outside it
])
def test_autocast_changes_no_bit(backward_inside, chunk_size, exact):
    def grad(forward, backward):
        z = torch.cat(views(64, 32, dtype=torch.float32)).requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=forward): loss = nt_xent_loss(*z.chunk(2), 0.1, chunk_size=chunk_size)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=backward): return loss.detach(), torch.autograd.grad(loss, z)[0]

    (loss, got), (want_loss, want) = grad(True, backward_inside), grad(False, False)
    assert loss.dtype == torch.float32 and torch.equal(loss, want_loss)
    assert torch.equal(got, want) is exact


def test_top1_under_autocast_ranks_float32_cosines():
    z1 = views(64, 32, dtype=torch.float32)[0] + 50
    z2 = z1 + 0.05 * views(64, 32, 1, dtype=torch.float32)[0]
    z = torch.nn.functional.normalize(torch.cat([z1, z2]), dim=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        top1 = contrastive_top1(z1, z2)
        rounded = (z @ z.T).fill_diagonal_(-2).argmax(1)
    assert top1 == contrastive_top1(z1, z2) > 0.9
    assert (rounded == torch.arange(128).roll(64)).float().mean() < top1     # the control: rounding would have shown


def test_bfloat16_projections_are_scored_in_float32_and_get_a_bfloat16_gradient():
    z1, z2 = (z.bfloat16().requires_grad_() for z in views(16, 8))
    loss = nt_xent_loss(z1, z2)
    loss.backward()
    assert loss.dtype == torch.float32 and z1.grad.dtype == torch.bfloat16
    assert loss.item() == nt_xent_loss(z1.detach().float(), z2.detach().float()).item()


# ---------------------------------------------------------------- faults
GOOD = torch.ones(4, 3)


@pytest.mark.parametrize("z1,z2,options,message", [
    (GOOD[:1], GOOD[:1], {}, "N=1"),
    (GOOD[:0], GOOD[:0], {}, "N=0"),
    (GOOD, GOOD[:3], {}, r"\(4, 3\) and z2 is \(3, 3\)"),
    (GOOD, GOOD[:, :2], {}, r"\(4, 3\) and z2 is \(4, 2\)"),
    (GOOD[0], GOOD[0], {}, r"expected two of the same shape \(N, D\)"),
    (GOOD[None], GOOD[None], {}, r"expected two of the same shape \(N, D\)"),
    (GOOD, GOOD, dict(temperature=0), "temperature=0 must"),
    (GOOD, GOOD, dict(temperature=-0.5), "temperature=-0.5 must"),
    (GOOD, GOOD, dict(temperature=math.nan), "temperature=nan must"),
    (GOOD, GOOD, dict(temperature=math.inf), "temperature=inf must"),
    (GOOD, GOOD, dict(chunk_size=0), "chunk_size=0 must"),
    (GOOD, GOOD, dict(chunk_size=-3), "chunk_size=-3 must"),
])
def test_faults_are_named(z1, z2, options, message):
    with pytest.raises(ValueError, match=message): nt_xent_loss(z1, z2, **options)


@pytest.mark.parametrize("call,message", [
    (lambda: loss_bounds(1, 0.5), "N=1"),
    (lambda: loss_bounds(4, 0), "temperature=0"),
    (lambda: loss_bounds(4, math.nan), "temperature=nan"),
    (lambda: contrastive_top1(GOOD, GOOD[:2]), "same shape"),
    (lambda: alignment(GOOD, GOOD[:2]), "same shape"),
    (lambda: uniformity(GOOD[:1]), "N at least 2"),
    (lambda: uniformity(GOOD[0]), "N, D"),
    (lambda: check_pair(GOOD[:1], GOOD[:1]), "N=1"),
])
def test_other_faults_are_named(call, message):
    with pytest.raises(ValueError, match=message): call()


def test_a_nan_in_a_row_is_not_hidden():
    z1, z2 = views(dtype=torch.float32)
    z1[0, 0] = math.nan
    assert nt_xent_loss(z1, z2).isnan() and nt_xent_loss(z1, z2, chunk_size=3).isnan()


def test_the_module_imports_torch_alone():
    code = "import sys, simclr.loss; print([m for m in ('pytorch_lightning', 'torchvision', 'sklearn', 'plotly', 'simclr.data') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


# ---------------------------------------------------------------- two processes
WORLD, BATCH, DDP_CHUNKS = 2, 12, (None, 5)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    "What each of two gloo processes computed: see ddp_worker."
    folder = tmp_path_factory.mktemp("ddp")
    mp.spawn(ddp_worker.run, args=(WORLD, str(folder), BATCH, DDP_CHUNKS), nprocs=WORLD)
    return [torch.load(folder / f"{rank}.pt") for rank in range(WORLD)]


@pytest.fixture(scope="module")
def one_process():
    net, (x1, x2) = ddp_worker.make_net(), ddp_worker.make_views(BATCH)
    loss = nt_xent_loss(net(x1), net(x2), 0.2)
    loss.backward()
    return loss.detach(), [p.grad for p in net.parameters()]


def off(grads, truth):
    flat, true = (torch.cat([g.flatten() for g in gs]) for gs in (grads, truth))
    return ((flat - true).norm() / true.norm()).item()


@pytest.mark.parametrize("chunk_size", DDP_CHUNKS)
def test_two_processes_equal_one_with_the_whole_batch(ranks, one_process, chunk_size):
    for rank in ranks:
        loss, grads = rank[f"chunk {chunk_size}"]
        assert loss.item() == pytest.approx(one_process[0].item(), abs=1e-5)
        assert off(grads, one_process[1]) < 1e-5


def test_a_gather_without_gradient_has_the_right_loss_and_half_the_gradient(ranks, one_process):
    for rank in ranks:
        loss, grads = rank["silent"]
        assert loss.item() == pytest.approx(one_process[0].item(), abs=1e-5)
        assert off(grads, one_process[1]) == pytest.approx(0.5, abs=1e-4)
        assert off([WORLD * g for g in grads], one_process[1]) < 1e-5


def test_no_gather_is_another_loss(ranks, one_process):
    for rank in ranks:
        assert abs(rank["local"][0].item() - one_process[0].item()) > 0.1
        assert off(rank["local"][1], one_process[1]) > 0.1


def test_rows_come_in_order_of_rank(ranks):
    for rank in ranks: assert rank["order"].flatten().tolist() == [0, 0, 1, 1]


def test_gather_alone_is_the_identity():
    z1, z2 = views()
    assert gather_rows(z1) is z1
    assert nt_xent_loss(z1, z2, gather=True) == nt_xent_loss(z1, z2)
