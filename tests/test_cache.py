"Gradient caching: the gradient of the whole batch, the statistics of the pieces, nothing kept between the two passes."
import gc
import weakref

import pytest
import torch
from torch import nn

import simclr.cache as module_under_test
from simclr.cache import borrowed_buffers, loss_chunk, micro_batched
from simclr.loss import contrastive_top1, nt_xent_loss
from simclr.model import SimCLRModel, build_encoder

N = 24


def plain_net(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 32), nn.Tanh(), nn.Linear(32, 8)).to(dtype)


def norm_net(seed=0):
    torch.manual_seed(seed)
    return SimCLRModel(build_encoder("resnet8", 1, 8, width=4), 16, 8)


def views(dtype=torch.float32): return torch.randn(2 * N, 1, 8, 8, generator=torch.Generator().manual_seed(1)).to(dtype)


def gradient(net, z, **kwargs):
    loss = nt_xent_loss(*z.chunk(2), 0.2, **kwargs)
    return loss.item(), torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(net.parameters()))])


def off(a, b): return ((a - b).norm() / b.norm()).item()


def in_pieces(net, v, pieces):
    "What micro_batched computes, written as a loop that keeps everything."
    z = [None] * (2 * N)
    for j in range(pieces):
        index = list(range(j, N, pieces)) + list(range(N + j, 2 * N, pieces))
        for i, row in zip(index, net(v[index])): z[i] = row
    return torch.stack(z)


@pytest.mark.parametrize("size", [1, 2, 5, 8, 23, 24, 1000])
@pytest.mark.parametrize("chunk_size", [None, 7])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_without_batchnorm_it_is_the_gradient_of_the_whole_batch(size, chunk_size, dtype, tolerance):
    net, v = plain_net(dtype), views(dtype)
    loss, truth = gradient(net, net(v))
    found, ours = gradient(net, micro_batched(net, v, size), chunk_size=chunk_size)
    assert found == pytest.approx(loss, abs=tolerance) and off(ours, truth) < tolerance


@pytest.mark.parametrize("pieces", [2, 3, 5])
def test_with_batchnorm_it_is_the_gradient_and_the_statistics_of_the_pieces(pieces):
    nets = [norm_net(), norm_net()]
    loss, truth = gradient(nets[0], in_pieces(nets[0], views(), pieces))
    found, ours = gradient(nets[1], micro_batched(nets[1], views(), -(-N // pieces)))
    assert found == pytest.approx(loss, abs=1e-5) and off(ours, truth) < 1e-4      # BatchNorm divides by small deviations
    for a, b in zip(*(net.buffers() for net in nets)): assert torch.equal(a, b)    # running statistics too: each image counted once
    assert nets[1].encoder.net[0][1].num_batches_tracked == pieces


@pytest.mark.parametrize("size", [2, 5, 12])
def test_pieces_hold_both_views_of_their_images_and_differ_by_one_in_size(size):
    seen = []
    net = nn.Flatten()
    net.register_forward_pre_hook(lambda m, args: seen.append(args[0].flatten().tolist()))
    numbers = torch.arange(2. * N).view(-1, 1)
    assert torch.equal(micro_batched(net, numbers, size), numbers)
    assert all([n + N for n in piece[:len(piece) // 2]] == piece[len(piece) // 2:] for piece in seen)
    sizes = {len(piece) // 2 for piece in seen}
    assert max(sizes) <= size and max(sizes) - min(sizes) <= 1 and sorted(sum(seen, [])) == list(range(2 * N))


def test_nothing_but_inputs_and_z_lives_between_the_two_passes():
    outputs, net = [], plain_net()
    net[1].register_forward_hook(lambda m, args, out: outputs.append(weakref.ref(out)))
    z = micro_batched(net, views(), 6)
    gc.collect()
    assert len(outputs) == 4 and not any(ref() is not None for ref in outputs)
    del outputs[:]
    whole = net(views())
    gc.collect()
    assert outputs[0]() is not None and whole is not None                          # the control: undivided, it lives
    del outputs[:]
    alive = []
    net[1].register_forward_hook(lambda m, args, out: alive.append(sum(ref() is not None for ref in outputs)))
    nt_xent_loss(*z.chunk(2)).backward()
    assert len(outputs) == 4 and max(alive) <= 2                                   # one piece at a time on the way back: itself and the last


def test_dropout_draws_the_same_mask_again():
    net = nn.Sequential(plain_net(), nn.Dropout(0.5))
    torch.manual_seed(3)
    _, ours = gradient(net, micro_batched(net, views(), 12))
    torch.manual_seed(3)
    _, kept = gradient(net, in_pieces(net, views(), 2))
    assert off(ours, kept) < 1e-5


def test_autocast_gives_the_gradient_of_autocast():
    net, v = plain_net(), views()
    def run(z_of):
        with torch.autocast("cpu", torch.bfloat16): z = z_of()
        return z.dtype, *gradient(net, z)
    (kind, loss, truth), (ours_kind, found, ours) = run(lambda: in_pieces(net, v, 3)), run(lambda: micro_batched(net, v, 8))
    assert kind == ours_kind == torch.bfloat16 and found == pytest.approx(loss, abs=1e-6)
    assert off(ours, truth) < 0.02                                                  # bf16 has 8 bits; each piece rounds by itself


def test_evaluation_and_no_grad_run_once():
    calls, net = [], norm_net().eval()
    net.register_forward_pre_hook(lambda *_: calls.append(1))
    with torch.no_grad(): z = micro_batched(net, views(), 12)
    assert len(calls) == 2 and not z.requires_grad
    with torch.no_grad(): assert torch.allclose(z, net(views()), atol=1e-6)


def test_an_error_in_the_second_pass_gives_the_buffers_back():
    net, own = norm_net(), None
    z = micro_batched(net, views(), 8)
    own = [(b, b.clone()) for b in net.buffers()]
    net.encoder.net[1].register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("a hot machine")))
    with pytest.raises(RuntimeError, match="a hot machine"): nt_xent_loss(*z.chunk(2)).backward()
    for now, (before, value) in zip(net.buffers(), own): assert now is before and torch.equal(now, value)


def test_without_borrowed_buffers_each_image_would_count_twice(monkeypatch):
    monkeypatch.setattr(module_under_test, "borrowed_buffers", module_under_test.nullcontext)
    net = norm_net()
    nt_xent_loss(*micro_batched(net, views(), 8).chunk(2)).backward()
    assert net.encoder.net[0][1].num_batches_tracked == 6                           # three pieces, twice


def test_borrowed_buffers_of_every_kind():
    net = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2, track_running_stats=False), nn.utils.spectral_norm(nn.Linear(2, 2)))
    before = {k: (b, b.clone()) for k, b in net.named_buffers()}
    with borrowed_buffers(net): net(torch.randn(8, 2))
    for k, b in net.named_buffers(): assert b is before[k][0] and torch.equal(b, before[k][1])


@pytest.mark.parametrize("count, size, message", [(7, 2, "7 views"), (8, 0, "micro_batch_size=0"), (8, -1, "micro_batch_size=-1")])
def test_faults_are_named(count, size, message):
    with pytest.raises(ValueError, match=message): micro_batched(plain_net(), views()[:count], size)


def test_the_chunk_stays_within_its_limit():
    for images in (1, 2, 512, 2048, 2049, 4096, 65_536, 10**6):
        chunk = loss_chunk(images)
        assert (chunk is None) == (4 * (2 * images)**2 <= 2**26)
        assert chunk is None or chunk == 1 or chunk * 2 * images * 4 <= 2**24
    assert loss_chunk(2, 63) == 1 and loss_chunk(2, 64) is None


def test_top1_of_a_large_batch_holds_a_part_of_the_cosines():
    from torch.utils._python_dispatch import TorchDispatchMode
    largest = 0
    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor): largest = max(largest, out.numel())
            return out
    z1 = torch.randn(1500, 4, generator=torch.Generator().manual_seed(0))
    z2 = z1 + 0.3 * torch.randn(1500, 4, generator=torch.Generator().manual_seed(1))
    with Watch(): found = contrastive_top1(z1, z2)
    z = nn.functional.normalize(torch.cat([z1, z2]).double(), dim=1)
    nearest = (z @ z.T).fill_diagonal_(-2).argmax(1)
    assert found.item() == pytest.approx((nearest == torch.arange(3000).roll(1500)).double().mean().item(), abs=1e-3)
    assert largest == 1024 * 3000
