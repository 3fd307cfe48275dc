"simclr.speed: gradients against autograd in float64, where the plain convolution has to be taken, what stays as it was."
import subprocess
import sys
from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from conftest import ROOT
from simclr.model import SimCLRModel, build_encoder, load_encoder, save_encoder
from simclr.speed import SMALL, MeanPool, QuickConv2d, SmallMapConv, quicken, weight_gradient

CONVOLUTIONS = {   # images, channels in and out, sides, kernel, stride, padding
    "3×3": (2, 3, 5, (6, 6), (3, 3), (1, 1), (1, 1)), "3×3, stride 2": (2, 3, 5, (8, 8), (3, 3), (2, 2), (1, 1)),
    "1×1": (2, 4, 3, (4, 4), (1, 1), (1, 1), (0, 0)), "1×1, stride 2": (2, 4, 3, (7, 7), (1, 1), (2, 2), (0, 0)),
    "one image, one channel": (1, 1, 1, (3, 3), (3, 3), (1, 1), (1, 1)), "a stride that leaves a row over": (3, 2, 2, (6, 6), (3, 3), (2, 2), (0, 0)),
    "nothing square": (2, 3, 4, (5, 9), (3, 2), (1, 3), (2, 0)), "padding wider than the kernel": (2, 2, 2, (3, 3), (1, 1), (1, 1), (2, 2))}


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_gradients_are_those_of_autograd(name, layout):
    n, c_in, c_out, sides, kernel, stride, padding = CONVOLUTIONS[name]
    torch.manual_seed(0)
    x = torch.randn(n, c_in, *sides).double().contiguous(memory_format=layout).requires_grad_()
    w = torch.randn(c_out, c_in, *kernel).double().requires_grad_()
    y = F.conv2d(x, w, None, stride, padding)
    g = torch.randn_like(y).contiguous(memory_format=layout)
    dx, dw = torch.autograd.grad(y, (x, w), g)
    torch.testing.assert_close(weight_gradient(g, x.detach(), kernel, stride, padding), dw, rtol=1e-12, atol=1e-12)
    for needed in ((x, w), (x,), (w,)):                      # a frozen layer, or pixels, need no gradient
        inputs = [a if any(a is b for b in needed) else a.detach() for a in (x, w)]
        found = torch.autograd.grad(SmallMapConv.apply(*inputs, stride, padding), needed, g)
        for a, b in zip(found, [dx if b is x else dw for b in needed]): torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def taken(layer, x, dtype=torch.bfloat16):
    "The names of the backward functions of a layer, under autocast."
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype is not None): return type(layer(x).grad_fn).__name__


def quick(*args, **kwargs):
    layer = nn.Conv2d(*args, **kwargs)
    layer.__class__ = QuickConv2d
    return layer


@pytest.mark.parametrize("side, expected", [(3, "SmallMapConvBackward"), (4, "SmallMapConvBackward"), (5, "ConvolutionBackward0")])
def test_products_are_taken_up_to_the_limit(side, expected):
    assert SMALL == 16
    assert taken(quick(4, 4, 3, padding=1, bias=False), torch.randn(2, 4, side, side)) == expected


@pytest.mark.parametrize("args", [dict(bias=True), dict(groups=2), dict(dilation=2, padding=2), dict(padding="same"), dict(padding_mode="reflect")])
def test_what_products_do_not_know_is_left_to_the_library(args):
    torch.manual_seed(0)
    layer, x = quick(4, 4, 3, **dict(dict(padding=1, bias=False), **args)), torch.randn(2, 4, 4, 4)
    assert taken(layer, x) == "ConvolutionBackward0" and torch.equal(layer(x), nn.Conv2d.forward(layer, x))


def test_float32_and_inference_are_left_to_the_library():
    layer, x = quick(4, 4, 3, padding=1, bias=False), torch.randn(2, 4, 4, 4)
    assert taken(layer, x, None) == "ConvolutionBackward0"
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16): assert torch.equal(layer(x), nn.Conv2d.forward(layer, x))


def test_half_precision_weights_without_autocast_take_products():
    layer = quick(4, 4, 3, padding=1, bias=False).bfloat16()
    assert taken(layer, torch.randn(2, 4, 4, 4).bfloat16(), None) == "SmallMapConvBackward"


@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (2, 3, 5, 2), (1, 1, 1, 1)])
def test_the_mean_is_the_mean(shape):
    x = torch.randn(shape).double().requires_grad_()
    assert MeanPool()(x).shape == (*shape[:2], 1, 1)
    torch.testing.assert_close(MeanPool()(x).flatten(1), x.mean((2, 3)))
    MeanPool()(x).sum().backward()
    torch.testing.assert_close(x.grad, torch.full_like(x, 1 / (shape[2] * shape[3])))


def test_only_a_pooling_to_one_place_is_replaced():
    net = quicken(nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.AdaptiveAvgPool2d((1, 1)), nn.Sequential(nn.AdaptiveAvgPool2d(1))))
    assert [type(m).__name__ for m in (net[0], net[1], net[2][0])] == ["AdaptiveAvgPool2d", "MeanPool", "MeanPool"]


@pytest.mark.parametrize("backbone", ["resnet8", "resnet18"])
def test_an_encoder_stays_what_it_was(backbone, tmp_path):
    torch.manual_seed(0)
    plain = build_encoder(backbone)
    encoder, x = quicken(deepcopy(plain)), torch.randn(2, 3, 32, 32)
    assert sum(isinstance(m, QuickConv2d) for m in encoder.modules()) == sum(isinstance(m, nn.Conv2d) for m in plain.modules())
    assert quicken(encoder) is encoder and list(encoder.state_dict()) == list(plain.state_dict())
    save_encoder(encoder, tmp_path / "e.safetensors")
    torch.testing.assert_close(load_encoder(tmp_path / "e.safetensors")(x), plain.eval()(x))
    torch.testing.assert_close(deepcopy(encoder).eval()(x), plain(x))


def test_a_training_goes_the_same_way():
    torch.manual_seed(0)
    plain = SimCLRModel(build_encoder("resnet8", width=8), 32, 16).to(memory_format=torch.channels_last)
    models, losses = (plain, quicken(deepcopy(plain))), []
    x = torch.randn(32, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    for model in models:
        optimizer, seen = torch.optim.SGD(model.parameters(), lr=0.1), []
        for _ in range(5):
            with torch.autocast("cpu", torch.bfloat16): loss = (model(x).float() - 1).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            seen.append(loss.item())
        losses.append(seen)
    assert losses[0][-1] < 0.8 * losses[0][0] and losses[1] == pytest.approx(losses[0], rel=0.02)      # bfloat16 keeps 8 bits


@pytest.mark.skipif(sys.platform != "linux", reason="counts page faults as Linux does")
def test_memory_is_kept():
    code = ("import resource, sys, torch; from simclr.speed import reuse_memory\n"
            "faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
            "def made(n=3):\n    start = faults()\n    for _ in range(n): torch.ones(2**24)\n    return faults() - start\n"
            "made(); before = made(); listened = reuse_memory(); made(20); print(listened, before, made())")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    listened, before, after = done.stdout.split()
    if listened == "True": assert int(after) < 100 and int(after) < int(before)
