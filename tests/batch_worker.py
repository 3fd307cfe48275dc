"One of W real processes for tests/test_batches.py: spawned, so it lives in a module of its own that imports no test code."
import torch
import torch.distributed as dist


def run(rank, world, folder, n, batch_size, paths):
    "Write what this rank's loaders give in three epochs, from memory and from files by a worker, to folder/rank.pt."
    from simclr.batches import image_loader
    from simclr.data import FileImages, TensorImages
    torch.set_num_threads(1)
    images = TensorImages(torch.arange(n, dtype=torch.uint8).view(n, 1, 1, 1).expand(n, 1, 8, 8), torch.arange(n))
    files = FileImages(paths, torch.arange(n), 8, 1)
    loaders = [image_loader(images, batch_size, True, 3, drop, workers) for images, drop, workers in ((images, True, 0), (images, False, 0), (files, True, 1))]
    dist.init_process_group("gloo", init_method=f"file://{folder}/init", rank=rank, world_size=world)      # after the loaders are made, as Lightning does
    out = []
    for epoch in range(3):
        for loader in loaders: loader.sampler.set_epoch(epoch)
        out.append([[y.tolist() for x, y in loader] for loader in loaders])
    sizes = [len(loader) for loader in loaders]
    everybody = [y.tolist() for x, y in image_loader(images, batch_size)]
    try: next(iter(image_loader(images, n // world + 1, True, drop_last=True))); refused = None
    except ValueError as e: refused = str(e)
    torch.save(dict(epochs=out, sizes=sizes, everybody=everybody, refused=refused), f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
