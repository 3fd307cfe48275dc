"An Explorer whose right answers are known without it: features and maps by hand, no UMAP. Used by test_explore.py and in JupyterLab."
import numpy as np
import torch

from simclr.augment import SimCLRAugment
from simclr.data import TensorImages
from simclr.explore import Explorer
from simclr.spaces import Gallery, Space

N, M, LAYOUTS, EPOCHS = 60, 30, ((5, 0.1), (15, 0.1), (5, 0.5), (15, 0.5)), (0, 3, 9)
CLASSES = ("cat", "dog", "<img src=x onerror=alert(1)>")


def toy_images(n=N, size=16):
    "Image i has one colour, a different one for each i, with a dark corner; its class is i modulo 3."
    x = torch.stack([torch.tensor([40 + 3 * i % 200, 250 - 2 * i % 200, 30 + 7 * i % 220]).view(3, 1, 1).expand(3, size, size) for i in range(n)])
    x = x.clone().byte()
    x[:, :, :3, :3] = 0
    return TensorImages(x, torch.arange(n) % len(CLASSES))


def toy_encode(images):
    "Eight features of an image: its mean colours, and products of them."
    r, g, b = (images.x.float() / 255).mean((2, 3)).unbind(1)
    return torch.stack([r, g, b, r * g, g * b, r * b, r * r, torch.full_like(r, 0.1)], 1)


def toy_spaces(images):
    "Two spaces of the same images; the first has three ages."
    generator, h = np.random.default_rng(0), toy_encode(images)
    maps = [generator.random((len(h), 2)).astype(np.float32) * 7 - 3 for _ in LAYOUTS]
    few = min(M, len(h))
    ages = {epoch: (h[:few] + 0.05 * epoch * torch.rand(few, 8, generator=torch.Generator().manual_seed(epoch)), maps[0][:few] + epoch) for epoch in EPOCHS}
    other = torch.randn(len(h), 5, generator=torch.Generator().manual_seed(1))
    return [Space("SimCLR", h, maps, toy_encode, ages), Space("pixels & <b>more</b>", other, maps[::-1], lambda x: torch.randn(len(x), 5))]


def toy_explorer(n=N, names=True):
    "The Explorer of both, with four views of each image."
    images = toy_images(n)
    named = [f"photo <i>{i}</i>.jpg" for i in range(n)] if names else None
    shown = Gallery(images, torch.arange(n) < n // 2, CLASSES, named)
    return Explorer(toy_spaces(images), shown, LAYOUTS, SimCLRAugment(16), views=4)
