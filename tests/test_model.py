"""Encoder, head, features and files against closed forms, hooks, NumPy loops and hostile input."""
import json
import math
import pickle
import random
import struct
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import ResNet18_Weights, ResNet34_Weights, ResNet50_Weights

import simclr.model as model_module
from simclr.data import TensorImages
from simclr.model import (BACKBONES, NarrowConv2d, ProjectionHead, SimCLRModel, build_encoder, count_macs, count_parameters, embed,
                          evaluating, fast_precision, knn_predict, load_encoder, load_state, save_encoder)

PUBLISHED = dict(resnet18=ResNet18_Weights, resnet34=ResNet34_Weights, resnet50=ResNet50_Weights)


def meta(*args, **kwargs):
    "An encoder of shapes alone: instant at any size."
    with torch.device("meta"): return build_encoder(*args, **kwargs)


def tiny(seed=0, **kwargs):
    torch.manual_seed(seed)
    return build_encoder("resnet8", width=4, **dict(in_channels=1, image_size=8) | kwargs)


def pictures(n=7, channels=1, size=8, seed=0):
    x = torch.randint(256, (n, channels, size, size), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return TensorImages(x, torch.arange(n) % 3)


def bits(module):
    "Everything that a module holds, also buffers that are not saved, as bytes; and every module's mode."
    held = [*module.named_parameters(), *module.named_buffers()]
    return {k: v.detach().contiguous().numpy().tobytes() for k, v in held}, [m.training for m in module.modules()]


# Architecture

def last_side(backbone, stem, size):
    "Side of the last map by ⌊(n + 2p - k)/s⌋ + 1, layer by layer."
    side = lambda n, k, s, p: (n + 2 * p - k) // s + 1
    if backbone == "resnet8": return side(side(side(size, 4, 2, 1), 3, 2, 1), 3, 2, 1)
    if stem == "imagenet": size = side(side(size, 7, 2, 3), 3, 2, 1)
    for _ in range(3): size = side(size, 3, 2, 1)
    return size


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("stem, size", [("cifar", 32), ("cifar", 28), ("cifar", 9), ("imagenet", 32), ("imagenet", 96), ("imagenet", 224)])
def test_last_map_and_feature_dim(backbone, stem, size):
    encoder, seen = meta(backbone, image_size=size, stem=stem), []
    for m in encoder.modules():
        if isinstance(m, nn.AdaptiveAvgPool2d): m.register_forward_hook(lambda m, i, o: seen.append(tuple(i[0].shape)))
    h = encoder.eval()(torch.zeros(2, 3, size, size, device="meta"))
    side = last_side(backbone, stem, size)
    assert seen == [(2, encoder.feature_dim, side, side)]
    assert h.shape == (2, encoder.feature_dim) and encoder.feature_dim == dict(resnet50=2048).get(backbone, 512)


@pytest.mark.parametrize("size, stem", [(8, "cifar"), (64, "cifar"), (65, "imagenet"), (224, "imagenet")])
def test_auto_stem(size, stem): assert meta(image_size=size).config["stem"] == stem


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("stem, kernel, pooled", [("cifar", 3, False), ("imagenet", 7, True)])
def test_stem_layers(channels, stem, kernel, pooled):
    net = meta("resnet18", channels, stem=stem, mean=(0.5,) * channels, std=(0.5,) * channels).net
    conv = net.conv1
    assert conv.weight.shape == (64, channels, kernel, kernel) and conv.bias is None
    assert (conv.stride, conv.padding) == (((1, 1), (1, 1)) if stem == "cifar" else ((2, 2), (3, 3)))
    assert isinstance(net.maxpool, nn.MaxPool2d) == pooled


@pytest.mark.parametrize("backbone, weights", PUBLISHED.items())
def test_published_parameters_and_macs(backbone, weights):
    net, published = meta(backbone, image_size=224), weights.IMAGENET1K_V1.meta
    classifier = net.feature_dim * 1000
    assert count_parameters(net) + classifier + 1000 == published["num_params"]
    assert (count_macs(net, (3, 224, 224)) + classifier) / 1e9 == pytest.approx(published["_ops"], abs=5e-4)    # rounded to three digits there


@pytest.mark.parametrize("channels, width", [(1, 4), (3, 32), (3, 64)])
def test_resnet8_parameters_by_formula(channels, width):
    w = width
    conv = lambda a, b, k: a * b * k * k + 2 * b                              # kernel, scale, shift
    block = lambda a, b: conv(a, b, 3) + conv(b, b, 3) + (conv(a, b, 1) if a != b else 0)
    expected = conv(channels, w, 4) + block(w, w) + block(w, 2 * w) + block(2 * w, 4 * w) + conv(4 * w, 8 * w, 1)
    assert count_parameters(meta("resnet8", channels, width=width)) == expected


def macs_by_hooks(module, shape):
    "Each output of a convolution or linear layer takes as many products as its weights have inputs; counted layer by layer."
    total = []

    def hook(m, i, out): total.append(out.numel() * m.weight[0].numel())

    handles = [m.register_forward_hook(hook) for m in module.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    with torch.no_grad(), evaluating(module): module(next(module.parameters()).new_zeros(1, *shape))
    for h in handles: h.remove()
    return sum(total)


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("size", [16, 33])
def test_macs_against_hooks(backbone, size):
    model = SimCLRModel(meta(backbone), 64, 8).to("meta")
    assert count_macs(model, (3, size, size)) == macs_by_hooks(model, (3, size, size))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_counting_leaves_no_trace(dtype):
    encoder = tiny().to(dtype).train()
    encoder.net[0].eval()
    before = bits(encoder)
    count_macs(encoder, (1, 8, 8))
    assert bits(encoder) == before


def test_frozen_parameters_count_and_buffers_do_not():
    layer = nn.BatchNorm2d(5).requires_grad_(False)
    assert count_parameters(layer) == 10


HOSTILE = [
    (dict(backbone="resnet101"), "backbone='resnet101' is not one of"), (dict(backbone=None), "backbone=None"),
    (dict(backbone=["resnet18"]), "is not one of"), (dict(backbone="__class__"), "is not one of"), (dict(stem=0), "stem=0 is not one of"),
    (dict(in_channels=0), "in_channels=0 must be"), (dict(in_channels=65), "from 1 to 64"), (dict(in_channels="3"), "in_channels='3'"),
    (dict(in_channels=True), "in_channels=True"), (dict(in_channels=None), "in_channels=None"), (dict(in_channels=3.0), "in_channels=3.0"),
    (dict(image_size=7), "image_size=7"), (dict(image_size=10**9), "from 8 to 4096"), (dict(image_size=math.nan), "image_size=nan"),
    (dict(width=0), "width=0"), (dict(width=10**18), "from 1 to 1024"), (dict(width="64"), "width='64'"), (dict(width=32, backbone="resnet18"), "resnet8"),
    (dict(mean=(0.5,)), "mean=(0.5,) must be a tuple of 3"), (dict(mean=0.5), "mean=0.5"), (dict(mean="abc"), "mean='abc'"),
    (dict(mean=(0.5, 0.5, math.nan)), "mean="), (dict(mean=(0, 0, 10**400)), "mean="), (dict(mean=(0, 0, True)), "mean="), (dict(mean={"0": 1}), "mean="),
    (dict(std=(0.2, 0.2, 0)), "std="), (dict(std=(0.2, 0.2, math.inf)), "std="), (dict(std=(0.2, 0.2, -1)), "std="), (dict(std=(0.2, 0.2, "x")), "std="),
]


@pytest.mark.parametrize("settings, message", HOSTILE)
def test_build_refuses(settings, message):
    with pytest.raises(ValueError, match=r"must be|is not one of|is for resnet8") as e: build_encoder(**dict(backbone="resnet8") | settings)
    assert message in str(e.value)


@pytest.mark.parametrize("sizes", [(0, 4, 4), (4, 0, 4), (4, 4, 0), (-1, 4, 4)])
def test_head_refuses_sizes(sizes):
    with pytest.raises(ValueError, match="must be at least 1"): ProjectionHead(*sizes)


@pytest.mark.parametrize("batch_norm, kinds", [(True, [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]), (False, [nn.Linear, nn.ReLU, nn.Linear])])
def test_head_layers(batch_norm, kinds):
    head = ProjectionHead(6, 5, 3, batch_norm)
    assert [type(m) for m in head] == kinds
    assert (head[0].bias is None) == batch_norm and head[-1].bias is not None
    assert head(torch.randn(4, 6)).shape == (4, 3)


def test_gradient_reaches_every_parameter():
    model = SimCLRModel(tiny(), 8, 4).train()
    model(torch.randn(6, 1, 8, 8)).square().sum().backward()
    assert [k for k, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


# Images in

def test_normalise_against_numpy():
    images, mean, std = pictures(5, 3), (0.1, 0.5, 0.9), (0.2, 0.3, 1.0)
    expected = (images.x.double().numpy() / 255 - np.array(mean).reshape(1, 3, 1, 1)) / np.array(std).reshape(1, 3, 1, 1)
    found = tiny(in_channels=3, mean=mean, std=std).normalise(images.x)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-6)            # three float32 roundings of numbers below 5


@pytest.mark.parametrize("x, message", [
    (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), "(2, 3, 8, 8), but this encoder takes (N, 1, H, W)"),
    (torch.zeros(1, 8, 8, dtype=torch.uint8), "(1, 8, 8)"), (torch.zeros(2, 1, 8, 8), "torch.float32"), (torch.zeros(2, 1, 8, 8, dtype=torch.int64), "int64")])
def test_normalise_refuses(x, message):
    with pytest.raises(ValueError) as e: tiny().normalise(x)
    assert message in str(e.value)


@pytest.mark.parametrize("channels", [1, 3])
def test_wrong_channels_are_named(channels):
    encoder = tiny(in_channels=4 - channels)
    for call in (lambda: encoder(torch.zeros(2, channels, 8, 8)), lambda: embed(encoder, pictures(3, channels)),
                 lambda: embed(SimCLRModel(encoder, 4, 4), pictures(3, channels))):
        with pytest.raises(ValueError, match=f"takes \\(N, {4 - channels}, H, W\\)"): call()


# Evaluation mode and features

def test_evaluating_restores_each_module_also_after_an_error():
    encoder = tiny().train()
    encoder.net[0].eval()
    before = [m.training for m in encoder.modules()]
    with evaluating(encoder) as inside: assert inside is encoder and not any(m.training for m in encoder.modules())
    assert [m.training for m in encoder.modules()] == before and any(before) and not all(before)
    with pytest.raises(KeyError), evaluating(encoder): raise KeyError
    assert [m.training for m in encoder.modules()] == before


@pytest.mark.parametrize("frozen", [0, 1, 2])
@pytest.mark.parametrize("wrap", [False, True])
def test_embed_leaves_the_model_bit_for_bit(frozen, wrap):
    model = SimCLRModel(tiny(), 8, 4).train() if wrap else tiny().train()
    for p in list(model.parameters())[:frozen]: p.requires_grad_(False)
    for m in list(model.modules())[5:5 + 3 * frozen]: m.eval()
    before, grads = bits(model), [p.requires_grad for p in model.parameters()]
    h = embed(model, pictures())
    assert bits(model) == before and [p.requires_grad for p in model.parameters()] == grads
    assert h.shape == (7, 4 if wrap else 32) and h.dtype == torch.float32 and not h.requires_grad


def test_embed_draws_no_random_number():
    encoder, images = tiny(), pictures()
    rng = torch.get_rng_state()
    embed(encoder, images)
    assert torch.equal(torch.get_rng_state(), rng)


def test_embed_restores_the_mode_after_an_error():
    encoder = tiny().train()
    with pytest.raises(ValueError): embed(encoder, pictures(3, 3))
    assert all(m.training for m in encoder.modules())


@pytest.mark.parametrize("precision, limit", [(torch.float32, 1e-5), (torch.bfloat16, 0.03)])     # bf16 rounds up to 0.4 % in each of 8 layers
@pytest.mark.parametrize("batch_size", [1, 3, 7, 500])
def test_embed_is_in_order_whatever_the_batch_and_precision(monkeypatch, precision, limit, batch_size):
    monkeypatch.setattr(model_module, "fast_precision", lambda device: precision)
    encoder, images = tiny(), pictures()
    encoder.eval()
    with torch.no_grad(): expected = torch.cat([encoder.net((x[None].float() / 255 - 0.5) / 0.5) for x in images.x])
    h = embed(encoder.train(), images, batch_size)
    assert ((h - expected).norm(dim=1) / expected.norm(dim=1)).max() < limit


def test_embed_refuses_nothing_at_all():
    with pytest.raises(ValueError, match="no images to embed"): embed(tiny(), pictures().subset([]))


@pytest.mark.parametrize("device, capability, hip, avx, expected", [
    ("cuda", (7, 5), None, True, torch.float32), ("cuda", (8, 0), None, False, torch.bfloat16), ("cuda:0", (9, 0), None, False, torch.bfloat16),
    ("cuda", (7, 0), "6.0", False, torch.bfloat16), ("cpu", (9, 0), None, False, torch.float32), ("cpu", (7, 0), None, True, torch.bfloat16),
    ("cpu", (9, 0), None, None, torch.float32), ("mps", (9, 0), None, True, torch.float32)])
def test_fast_precision(monkeypatch, device, capability, hip, avx, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.version, "hip", hip)
    if avx is None: monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported", raising=False)      # as in older PyTorch
    else: monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx, raising=False)
    assert fast_precision(device) == fast_precision(torch.device(device)) == expected


def test_in_train_mode_half_the_contrast_is_invisible_apart_and_visible_together():
    encoder, v = tiny().double().train(), torch.randn(16, 1, 8, 8, dtype=torch.float64)
    for m in encoder.modules():
        if isinstance(m, nn.BatchNorm2d): m.eps = 1e-30
    apart, together = (encoder(v), encoder(v / 2)), encoder(torch.cat([v, v / 2])).chunk(2)
    torch.testing.assert_close(*apart, rtol=1e-9, atol=1e-9)                  # exact but for float64 rounding
    assert (together[0] - together[1]).abs().max() > 0.1


# Neighbours

def knn_by_loops(query, keys, labels, k, temperature):
    "One query at a time in NumPy, with Python's dictionary as the tally."
    query, keys, predicted = query.double().numpy(), keys.double().numpy(), []
    for q in query:
        cosine = np.array([q @ key / math.sqrt((q @ q) * (key @ key)) for key in keys])
        tally = {}
        for i in np.argsort(-cosine)[:k]: tally[int(labels[i])] = tally.get(int(labels[i]), 0) + math.exp(cosine[i] / temperature)
        predicted.append(max(sorted(tally), key=tally.get))
    return predicted


@pytest.mark.parametrize("k", [1, 2, 5, 40])
@pytest.mark.parametrize("temperature", [0.05, 0.1, 1.0, 100.0])
def test_knn_against_loops(k, temperature):
    g = torch.Generator().manual_seed(k)
    query, keys, labels = torch.randn(30, 6, generator=g), torch.randn(40, 6, generator=g), torch.randint(4, (40,), generator=g) * 3
    assert knn_predict(query, keys, labels, k, temperature).tolist() == knn_by_loops(query, keys, labels, k, temperature)


def test_knn_ignores_length_and_order():
    g = torch.Generator().manual_seed(0)
    query, keys, labels, order = torch.randn(20, 5, generator=g), torch.randn(30, 5, generator=g), torch.randint(3, (30,), generator=g), torch.randperm(30, generator=g)
    expected = knn_predict(query, keys, labels, 7)
    assert torch.equal(knn_predict(query * torch.rand(20, 1, generator=g).add(0.1), keys * 100, labels, 7), expected)
    assert torch.equal(knn_predict(query, keys[order], labels[order], 7), expected)


def test_knn_past_a_thousand_queries():
    keys, labels = torch.eye(5), torch.tensor([4, 3, 2, 1, 0])
    which = torch.randint(5, (2345,), generator=torch.Generator().manual_seed(0))
    assert torch.equal(knn_predict(keys[which], keys, labels, 1), labels[which])


@pytest.mark.parametrize("labels", [[0, 9, 9], [5, 5, 5], [2, 7, 4]])
@pytest.mark.parametrize("temperature", [1e-8, 1e-3, 0.1, 1e8])
def test_knn_names_only_classes_that_are_there(labels, temperature):
    query, keys = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)), torch.eye(3)
    assert set(knn_predict(query, keys, torch.tensor(labels), 3, temperature).tolist()) <= set(labels)


def test_knn_of_opposite_and_zero_vectors():
    keys, labels = torch.tensor([[1.0, 0], [-1, 0]]), torch.tensor([2, 1])
    assert knn_predict(torch.tensor([[-3.0, 0], [0, 0]]), keys, labels, 2, 0.01).tolist() == [1, 1]     # zero: a draw, to the smaller number


@pytest.mark.parametrize("change, message", [
    (dict(k=0), "k=0 must be from 1 to the number of keys, 4"), (dict(k=5), "k=5"), (dict(temperature=0.0), "temperature=0.0"),
    (dict(temperature=-1), "temperature=-1"), (dict(temperature=math.nan), "temperature=nan"), (dict(labels=torch.tensor([0, -1, -1, 2])), "2 of 4 keys"),
    (dict(labels=torch.zeros(3, dtype=torch.int64)), "labels (3,)"), (dict(query=torch.zeros(2, 5)), "query (2, 5), keys (4, 3)"),
    (dict(query=torch.zeros(3)), "query (3,)")])
def test_knn_refuses(change, message):
    good = dict(query=torch.zeros(2, 3), keys=torch.zeros(4, 3), labels=torch.arange(4), k=2)
    with pytest.raises(ValueError) as e: knn_predict(**good | change)
    assert message in str(e.value)


# Files

def forge(path, config="own", tensors=None, encoder=None):
    encoder = encoder or tiny()
    text = json.dumps(encoder.config) if config == "own" else config
    save_file(tensors if tensors is not None else encoder.net.state_dict(), path, metadata=None if text is None else {"simclr_encoder": text})
    return path


def config_with(**changes): return json.dumps(tiny().config | changes)


@pytest.mark.parametrize("settings", [
    dict(backbone="resnet8", in_channels=1, image_size=8, width=4, mean=(0.25,), std=(1,)), dict(backbone="resnet8", width=8, in_channels=3),
    dict(backbone="resnet18"), dict(backbone="resnet18", in_channels=1, image_size=28), dict(backbone="resnet18", image_size=96),
    dict(backbone="resnet18", image_size=96, stem="cifar")])
def test_round_trip(tmp_path, settings):
    encoder = build_encoder(**settings)
    for v in encoder.net.state_dict().values(): v.copy_(torch.randn(v.shape) * 9)       # buffers too: none is at its default
    save_encoder(encoder.train(), tmp_path / "encoder.safetensors")
    rng = torch.get_rng_state()
    again = load_encoder(tmp_path)
    assert torch.equal(torch.get_rng_state(), rng)
    assert again.config == encoder.config and again.feature_dim == encoder.feature_dim and not any(m.training for m in again.modules())
    assert bits(again)[0] == bits(encoder)[0]
    assert all(p.requires_grad and p.is_leaf and p.device.type == "cpu" for p in again.parameters())
    assert [p.name for p in tmp_path.iterdir()] == ["encoder.safetensors"]


def test_a_loaded_encoder_can_be_trained_and_shares_nothing_with_the_file(tmp_path):
    path = tmp_path / "e"
    save_encoder(tiny(), path)
    before, encoder = path.read_bytes(), load_encoder(path).train()
    encoder(torch.randn(4, 1, 8, 8)).sum().backward()
    torch.optim.SGD(encoder.parameters(), lr=1.0).step()
    assert path.read_bytes() == before


@pytest.mark.parametrize("width", range(1, 10))
def test_gradients_of_narrow_nets_are_those_of_float64(width):
    "With the plain layers of PyTorch, on a processor with AVX2, this process ends here, or the gradient of the shortcuts is wrong."
    torch.manual_seed(width)
    net = build_encoder("resnet8", width=width, image_size=16).net.to(memory_format=torch.channels_last)
    exact, x = deepcopy(net).double(), torch.randn(32, 3, 16, 16)
    net(x.contiguous(memory_format=torch.channels_last)).square().sum().backward()
    exact(x.double()).square().sum().backward()
    for (name, p), q in zip(net.named_parameters(), exact.parameters()):
        assert (p.grad - q.grad).abs().max() <= 1e-3 * q.grad.abs().max() + 1e-4, name


@pytest.mark.parametrize("stride", [(2, 2), (3, 1), (1, 4)])
def test_narrow_convolution_is_the_plain_one(stride):
    plain, x = torch.nn.Conv2d(5, 7, 1, stride).double(), torch.randn(2, 5, 9, 8, dtype=torch.float64)
    narrow = NarrowConv2d(5, 7, 1, stride).double()
    narrow.load_state_dict(plain.state_dict())
    assert torch.allclose(narrow(x), plain(x), rtol=0, atol=1e-13)


def test_saved_by_channels_last_and_in_half_precision(tmp_path):
    encoder = tiny().to(memory_format=torch.channels_last)
    save_encoder(encoder, tmp_path / "e")
    assert bits(load_encoder(tmp_path / "e"))[0] == bits(encoder)[0]
    forge(tmp_path / "half", tensors={k: v.half().contiguous() if v.is_floating_point() else v for k, v in encoder.net.state_dict().items()})
    again = load_encoder(tmp_path / "half")
    assert {p.dtype for p in again.parameters()} == {torch.float32}
    assert torch.equal(again.net[0][0].weight, encoder.net[0][0].weight.half().float())


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "e"
    save_encoder(tiny(0), path)
    before = path.read_bytes()

    def full(part, data):
        with open(part, "wb") as f: f.write(data[:len(data) // 2])
        raise OSError("no space left")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="no space"): save_encoder(tiny(1), path)
    assert path.read_bytes() == before


def without(key): return {k: v for k, v in tiny().net.state_dict().items() if k != key}


STATE = tiny().net.state_dict()
FAULTS = {
    "no configuration": (lambda p: forge(p, None), "not the configuration that save_encoder writes"),
    "text": (lambda p: forge(p, "hello"), "not valid JSON"), "cut JSON": (lambda p: forge(p, config_with()[:-5]), "not valid JSON"),
    "empty JSON": (lambda p: forge(p, ""), "not valid JSON"), "deep JSON": (lambda p: forge(p, "[" * 100_000), "not valid JSON"),
    "long number": (lambda p: forge(p, '{"width": ' + "9" * 5000 + "}"), "not valid JSON"), "null": (lambda p: forge(p, "null"), "is a NoneType"),
    "list": (lambda p: forge(p, "[1]"), "is a list, not a JSON object"), "number": (lambda p: forge(p, "7"), "is a int"),
    "unknown key": (lambda p: forge(p, config_with(evil="os.system")), "unknown in its configuration: 'evil'"),
    "dunder key": (lambda p: forge(p, config_with(**{"__class__": 1, "return": 2})), "unknown in its configuration: '__class__', 'return'"),
    "missing key": (lambda p: forge(p, json.dumps({k: v for k, v in tiny().config.items() if k != "mean"})), "missing in its configuration: 'mean'"),
    "wrong type": (lambda p: forge(p, config_with(width="4")), "width='4' must be a whole number"),
    "wrong stem": (lambda p: forge(p, config_with(stem=None)), "stem=None is not one of"), "NaN": (lambda p: forge(p, config_with(mean=[math.nan])), "mean="),
    "infinite": (lambda p: forge(p, config_with(std=[1e999])), "std="), "wrong length": (lambda p: forge(p, config_with(mean=[0.1, 0.2])), "tuple of 1"),
    "null mean": (lambda p: forge(p, config_with(mean={"a": 1})), "mean="), "other backbone": (lambda p: forge(p, config_with(backbone="resnet18", width=64)), "Missing key"),
    "other width": (lambda p: forge(p, config_with(width=1024)), "size mismatch for 0.0.weight"),
    "huge": (lambda p: forge(p, config_with(width=1 << 40)), "from 1 to 1024"),
    "missing tensor": (lambda p: forge(p, tensors=without("0.0.weight")), 'Missing key(s) in state_dict: "0.0.weight"'),
    "extra tensor": (lambda p: forge(p, tensors=STATE | {"evil": torch.zeros(1)}), 'Unexpected key(s) in state_dict: "evil"'),
    "other shape": (lambda p: forge(p, tensors=STATE | {"0.1.bias": torch.zeros(5)}), "size mismatch for 0.1.bias"),
    "no tensors": (lambda p: forge(p, tensors={"x": torch.zeros(1)}), "Missing key(s)"),
    "empty file": (lambda p: p.write_bytes(b""), "not a whole safetensors file"), "noise": (lambda p: p.write_bytes(bytes(range(256)) * 9), "not a whole safetensors"),
    "huge header": (lambda p: p.write_bytes(struct.pack("<Q", 1 << 60) + b"{}"), "not a whole safetensors file"),
    "a checkpoint": (lambda p: torch.save(STATE, p), "not a whole safetensors file"),
}


@pytest.mark.parametrize("make, message", FAULTS.values(), ids=FAULTS)
def test_load_says_what_differs(tmp_path, make, message):
    path = tmp_path / "e"
    make(path)
    with pytest.raises(ValueError) as e: load_encoder(path)
    assert message in str(e.value) and str(path) in str(e.value) and "\n" not in str(e.value)


@pytest.mark.parametrize("name", ["nowhere", "."])
def test_no_file(tmp_path, name):
    with pytest.raises(FileNotFoundError, match="no encoder at"): load_encoder(tmp_path / name)


def test_a_large_network_is_refused_before_it_takes_memory(tmp_path, monkeypatch):
    forge(tmp_path / "e", config_with(width=1024))                            # 1.4 GB of weights
    allocated, plain = [], torch.empty
    monkeypatch.setattr(torch, "empty", lambda *a, **k: allocated.append(t := plain(*a, **k)) or t)
    with pytest.raises(ValueError, match="size mismatch"): load_encoder(tmp_path / "e")
    assert {t.device.type for t in allocated} == {"meta"}


class Program:
    "A pickle that leaves a mark when it is loaded."
    ran = []

    @staticmethod
    def go(): Program.ran.append(1)

    def __reduce__(self): return Program.go, ()


@pytest.mark.parametrize("write", [lambda p: p.write_bytes(pickle.dumps(Program())), lambda p: torch.save({"state_dict": Program()}, p),
                                   lambda p: torch.save(Program(), p, _use_new_zipfile_serialization=False)])
def test_no_code_from_a_file_runs(tmp_path, write, monkeypatch):
    write(tmp_path / "encoder.safetensors")
    with pytest.raises(ValueError, match="not a whole safetensors file"): load_encoder(tmp_path)
    assert not Program.ran
    pickle.loads(pickle.dumps(Program()))
    assert Program.ran.pop(), "the mark works"
    save_encoder(tiny(), tmp_path / "encoder.safetensors")
    for module, name in ((torch, "load"), (pickle, "load"), (pickle, "loads"), (pickle, "Unpickler")): monkeypatch.setattr(module, name, None)
    load_encoder(tmp_path)                                                    # a good file needs none of these


def test_a_file_cut_anywhere_is_refused(tmp_path):
    save_encoder(tiny(), tmp_path / "whole")
    whole = (tmp_path / "whole").read_bytes()
    for length in sorted({0, 7, 8, 9, len(whole) - 1, *random.Random(0).sample(range(len(whole)), 40)}):
        (tmp_path / "cut").write_bytes(whole[:length])
        with pytest.raises(ValueError, match="cut (is not a whole safetensors file|does not load)"): load_encoder(tmp_path / "cut")


def test_a_spoilt_header_loads_or_is_refused_and_nothing_else(tmp_path):
    save_encoder(tiny(), tmp_path / "whole")
    whole, rng, refused = (tmp_path / "whole").read_bytes(), random.Random(0), 0
    header = struct.unpack("<Q", whole[:8])[0]
    for _ in range(200):
        spoilt = bytearray(whole)
        for _ in range(rng.randint(1, 3)): spoilt[rng.randrange(8 + header)] = rng.randrange(256)
        (tmp_path / "spoilt").write_bytes(spoilt)
        try: load_encoder(tmp_path / "spoilt")
        except ValueError: refused += 1
    assert refused > 100


def test_load_state_on_meta_names_and_keeps():
    with torch.device("meta"): layer = nn.Linear(2, 1)
    with pytest.raises(ValueError, match="Missing key.*bias"): load_state(layer, dict(weight=torch.ones(1, 2)))
    load_state(layer, dict(weight=torch.ones(1, 2), bias=torch.zeros(1, dtype=torch.float64)))
    assert layer(torch.ones(1, 2)).item() == 2 and layer.bias.dtype == torch.float32
