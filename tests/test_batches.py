"""Batches: the order is a function of (seed, epoch), the same for workers, processes and a resumed run."""
import random

import pytest
import torch

import batch_worker
from simclr import batches
from simclr.batches import EpochShuffle, image_loader
from simclr.data import FileImages, TensorImages, find_images
from test_data import numbers, tree


def test_order_is_a_function_of_seed_and_epoch_alone():
    def order(n, seed, epoch):
        torch.rand(random.randrange(5)); s = EpochShuffle(n, seed); s.set_epoch(epoch); return list(s)
    orders = {(seed, epoch): order(50, seed, epoch) for seed in range(4) for epoch in range(4)}
    assert len({tuple(o) for o in orders.values()}) == 16
    for key, o in orders.items(): assert sorted(o) == list(range(50)) and order(50, *key) == o
    sampler = EpochShuffle(50, 2)
    for epoch in (3, 0, 3): sampler.set_epoch(epoch); assert list(sampler) == list(sampler) == orders[2, epoch]


@pytest.mark.parametrize("n, batch, drop, sizes", [(10, 4, False, [4, 4, 2]), (10, 4, True, [4, 4]), (8, 4, True, [4, 4]), (3, 4, False, [3]),
                                                   (4, 4, True, [4]), (0, 4, False, [])])
def test_last_batch(n, batch, drop, sizes):
    images = TensorImages(torch.zeros(n, 1, 8, 8, dtype=torch.uint8), torch.arange(n))
    for shuffle in (False, True):
        loader = image_loader(images, batch, shuffle, drop_last=drop)
        batches = list(loader)
        assert [len(x) for x, y in batches] == sizes and len(loader) == len(sizes)
        seen = [i for x, y in batches for i in y.tolist()]
        assert len(set(seen)) == len(seen) and (drop or sorted(seen) == list(range(n)))
    with pytest.raises(ValueError, match=f"batch_size={n + 1} is larger than the {n} training images"): image_loader(images, n + 1, drop_last=True)


def test_two_workers_give_the_batches_of_memory(tmp_path):
    tree(tmp_path, {"a": 9, "b": 14})
    files = FileImages(find_images(tmp_path), torch.tensor([0] * 9 + [1] * 14), 8)
    loaders = [image_loader(part, 5, shuffle=True, seed=3, drop_last=True, workers=2) for part in (files, files.load())]
    assert [loader.num_workers for loader in loaders] == [2, 0]
    epochs = []
    for epoch in range(2):                                    # the same workers, kept alive
        for loader in loaders: loader.sampler.set_epoch(epoch)
        a, b = map(list, loaders)
        assert len(a) == len(b) == 4
        for (xa, ya), (xb, yb) in zip(a, b): assert torch.equal(xa, xb) and torch.equal(ya, yb)
        epochs.append(numbers(TensorImages(torch.cat([x for x, y in a]), torch.cat([y for x, y in a]))))
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("shuffle", [False, True])
def test_batches_take_nothing_from_the_common_series_of_random_numbers(tmp_path, workers, shuffle):
    tree(tmp_path, {"a": 4})
    loader, rng = image_loader(FileImages(find_images(tmp_path), torch.zeros(4), 8), 2, shuffle, workers=workers), torch.get_rng_state()
    for _ in range(2): assert len(list(loader)) == 2
    assert torch.equal(torch.get_rng_state(), rng)


def test_a_worker_names_the_bad_file(tmp_path):
    tree(tmp_path, {"a": 3}); (tmp_path / "a" / "bad.png").write_bytes(b"")
    with pytest.raises(ValueError, match="bad.png"): list(image_loader(FileImages(find_images(tmp_path), torch.zeros(4), 8), 2, workers=1))


# ---- several processes

def test_alone_the_order_is_torchs_permutation():
    for seed, epoch in ((0, 0), (3, 2)):
        sampler = EpochShuffle(40, seed, batch_size=7)
        sampler.set_epoch(epoch)
        assert list(sampler) == torch.randperm(40, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch)).tolist() and len(sampler) == 40


def test_two_processes_share_each_batch_of_one(tmp_path):
    n, batch = 23, 4
    last = tree(tmp_path / "pictures", {"a": n})
    assert last == n
    paths = [str(p) for p in find_images(tmp_path / "pictures")]
    torch.multiprocessing.spawn(batch_worker.run, (2, str(tmp_path), n, batch, paths), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    images = TensorImages(torch.zeros(n, 1, 8, 8, dtype=torch.uint8), torch.arange(n))
    for drop, which in ((True, (0, 2)), (False, (1,))):
        whole = image_loader(images, 2 * batch, True, 3, drop)
        for epoch in range(3):
            whole.sampler.set_epoch(epoch)
            one = [y.tolist() for x, y in whole]
            if not drop: one[-1] = one[-1][:len(one[-1]) // 2 * 2]              # 23 do not divide by 2: one image is left out
            for kind in which:
                shares = [r["epochs"][epoch][kind] for r in ranks]
                assert [a + b for a, b in zip(*shares)] == one and len(shares[0]) == len(shares[1]) == ranks[0]["sizes"][kind] == ranks[1]["sizes"][kind]
                assert all(len(a) == len(b) for a, b in zip(*shares))
    for r in ranks:
        assert sum(r["everybody"], []) == list(range(n))                        # evaluation: each process sees all
        assert r["refused"] == "batch_size=12 on each of 2 processes is more than the 23 training images"


@pytest.mark.parametrize("n, world, batch", [(24, 2, 4), (23, 3, 2), (100, 8, 5), (16, 16, 1), (17, 4, 4), (9, 2, 4)])
def test_shares_are_equal_disjoint_and_together_the_batch(monkeypatch, n, world, batch):
    def order(rank, size, epoch, batch):
        monkeypatch.setattr(batches, "_rank_and_world", lambda: (rank, size))
        sampler = EpochShuffle(n, 5, batch)
        sampler.set_epoch(epoch)
        assert len(list(sampler)) == len(sampler)
        return list(sampler)
    for epoch in range(2):
        whole = order(0, 1, epoch, 1)[:n // world * world]
        shares = [order(rank, world, epoch, batch) for rank in range(world)]
        assert len({len(s) for s in shares}) == 1 and sorted(sum(shares, [])) == sorted(whole)
        for k in range(len(shares[0]) // batch):
            assert sum((s[k * batch:(k + 1) * batch] for s in shares), []) == whole[k * batch * world:(k + 1) * batch * world]
