"Rate, schedule and optimizers: oracles that share no code with them."
import numpy as np
import pytest
import torch
from timm.optim import NAdamW
from torch import nn

from simclr.model import SimCLRModel, build_encoder
import simclr.optim as optim_module
from simclr.optim import BASE_LR, build_optimizer, decay_groups, scaled_lr, warmup_cosine


def tiny_model():
    torch.manual_seed(0)
    return SimCLRModel(build_encoder("resnet8", 1, 8, width=4), 16, 8)


# Rate and schedule

@pytest.mark.parametrize("batch", [1, 64, 256, 512, 4096, 32768])
def test_scaling_is_the_papers(batch):
    assert scaled_lr(0.3, batch, "linear") == pytest.approx(0.3 * batch / 256)
    assert scaled_lr(0.3, batch, "square-root") == pytest.approx(0.075 * batch**0.5)
    assert scaled_lr(0.3, batch, "none") == 0.3


def test_schedule_against_interpolation():
    warmup, total, floor = 7, 50, 0.25
    ours = [warmup_cosine(s, warmup, total, floor) for s in range(total + 5)]
    angle = np.interp(np.arange(total + 5), [warmup, total], [0, np.pi])
    theirs = np.where(np.arange(total + 5) < warmup, (np.arange(total + 5) + 1) / warmup, floor + (1 - floor) * np.cos(angle / 2) ** 2)
    np.testing.assert_allclose(ours, theirs, atol=1e-12)
    assert max(ours) == 1 and ours[-1] == pytest.approx(floor)         # past the end it stays at the floor


@pytest.mark.parametrize("warmup, total", [(0, 1), (1, 1), (10, 1), (0, 0)])
def test_schedule_of_very_short_runs_is_finite(warmup, total):
    assert all(0 <= warmup_cosine(s, warmup, total) <= 1 for s in range(3))


# Optimizers

@pytest.mark.parametrize("backbone", ["resnet8", "resnet18"])
def test_weights_of_layers_decay_and_nothing_else(backbone):
    model = SimCLRModel(build_encoder(backbone, 3, 32), 16, 8)
    decayed, rest = decay_groups(model, 0.5)
    layers = {id(m.weight) for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))}
    assert {id(p) for p in decayed["params"]} == layers
    assert {id(p) for p in rest["params"]} == {id(p) for p in model.parameters()} - layers
    assert len(decayed["params"]) + len(rest["params"]) == len(list(model.parameters()))
    assert (decayed["weight_decay"], rest["weight_decay"]) == (0.5, 0)


@pytest.mark.parametrize("decay", [0.0, 1e-6, 0.1])
def test_lars_against_the_formula(decay):
    "You et al. 2017, Algorithm 1, with momentum after the trust ratio as in timm; the bias takes plain momentum steps."
    torch.manual_seed(0)
    layer, lr = nn.Linear(5, 3), 0.7
    w, b = (p.detach().double() for p in (layer.weight, layer.bias))
    vw, vb, optimizer = torch.zeros_like(w), torch.zeros_like(b), build_optimizer("lars", layer, lr, decay)
    for _ in range(4):
        gw, gb = torch.randn(3, 5), torch.randn(3)
        layer.weight.grad, layer.bias.grad = gw.clone(), gb.clone()
        optimizer.step()
        ratio = 0.001 * w.norm() / (gw.double().norm() + decay * w.norm())
        vw, vb = 0.9 * vw + ratio * (gw + decay * w), 0.9 * vb + gb
        w, b = w - lr * vw, b - lr * vb
    torch.testing.assert_close(layer.weight.detach().double(), w, atol=1e-5, rtol=0)
    torch.testing.assert_close(layer.bias.detach().double(), b, atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", [(12, 8), (8, 12), (8, 3, 3, 3)])
def test_muon_against_the_singular_value_decomposition(shape):
    "Jordan et al. 2024: the Nesterov momentum with every singular value at 1; 0.2 √max of Liu et al. 2025; norms and biases take NAdamW's."
    torch.manual_seed(0)
    layer = nn.Linear(shape[1], shape[0]) if len(shape) == 2 else nn.Conv2d(shape[1], shape[0], 3)
    bias = nn.Parameter(layer.bias.detach().clone())
    muon, adamw = build_optimizer("muon", layer, 0.1, 0.0), NAdamW([bias], lr=0.1, betas=(0.9, 0.95), weight_decay=0)
    momentum = torch.zeros(shape)
    for _ in range(3):
        before, g = layer.weight.detach().clone(), torch.randn(shape)
        layer.weight.grad, layer.bias.grad = g.clone(), torch.randn(shape[0])
        bias.grad = layer.bias.grad.clone()
        muon.step(), adamw.step()
        momentum = 0.95 * momentum + 0.05 * g
        u, _, v = torch.linalg.svd((0.05 * g + 0.95 * momentum).flatten(1), full_matrices=False)
        step = ((before - layer.weight.detach()) / 0.1).flatten(1)
        wanted = 0.2 * max(step.shape)**0.5 * u @ v
        cosine = (step * wanted).sum() / step.norm() / wanted.norm()
        assert cosine > 0.97 and step.norm() / wanted.norm() == pytest.approx(1, abs=0.15)    # five turns of a polynomial, in bfloat16
    torch.testing.assert_close(layer.bias, bias, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_muon_multiplies_in_what_the_hardware_is_quick_at(monkeypatch, dtype):
    import timm.optim.muon as timm_muon
    usual, product, seen = timm_muon.zeropower_via_newtonschulz, torch.addmm, []
    def noting(a, *args, **kwargs):
        seen.append((a.dtype, timm_muon.zeropower_via_newtonschulz is usual))
        return product(a, *args, **kwargs)
    monkeypatch.setattr(torch, "addmm", noting)
    monkeypatch.setattr(optim_module, "fast_precision", lambda device: dtype)
    layer = nn.Linear(8, 12)
    layer.weight.grad, layer.bias.grad = torch.randn(12, 8), torch.randn(12)
    build_optimizer("muon", layer, 0.1, 0.0).step()
    assert seen == [(dtype, True)] * 15    # three products in each of five turns; timm as others see it is untouched even then


def test_optimizers_have_the_papers_momentum():
    lars, sgd = (build_optimizer(name, tiny_model(), 0.1, 1e-6) for name in ("lars", "sgd"))
    assert {g["momentum"] for g in lars.param_groups + sgd.param_groups} == {0.9}
    assert [g["nesterov"] for g in sgd.param_groups] == [True, True]
    assert type(build_optimizer("adamw", tiny_model(), 0.1, 0)).__name__ == "AdamW"


@pytest.mark.parametrize("method", ["sqrt", "Linear", "", None])
def test_unknown_rules_are_named(method):
    with pytest.raises(ValueError, match="lr_scaling_method=.* is not one of square-root, linear, none"): scaled_lr(0.3, 256, method)


@pytest.mark.parametrize("name", ["adam", "LARS", "", None])
def test_unknown_optimizers_are_named(name):
    with pytest.raises(ValueError, match="optimizer=.* is not one of lars, sgd, adamw, muon"): build_optimizer(name, nn.Linear(2, 2), 0.1, 0)


@pytest.mark.parametrize("name", BASE_LR)
@pytest.mark.parametrize("decay", [0.0, 1e-4])
def test_every_optimizer_has_the_rate_and_the_decay_it_was_given(name, decay):
    groups = build_optimizer(name, tiny_model(), 0.25, decay).param_groups
    assert [(g["lr"], g["weight_decay"]) for g in groups] == [(0.25, decay), (0.25, 0)]


def test_no_rate_is_lost_or_gained_between_steps():
    "The rise ends at the peak exactly, the fall starts from it, and both go one way only."
    rates = [warmup_cosine(s, 10, 110) for s in range(111)]
    assert rates[9] == rates[10] == 1 and np.argmax(rates) == 9
    assert np.all(np.diff(rates[:10]) > 0) and np.all(np.diff(rates[10:]) < 0)
    np.testing.assert_allclose(np.add(rates[10:], rates[:9:-1]), 1, atol=1e-12)      # the cosine is symmetric about its middle


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_lars_forgets_the_size_of_the_gradient(scale):
    layer = nn.Linear(5, 3, bias=False)
    nn.init.eye_(layer.weight)
    layer.weight.grad = scale * torch.arange(15.0).view(3, 5)
    build_optimizer("lars", layer, 1.0, 0.0).step()
    moved = (layer.weight.detach() - torch.eye(3, 5)).norm()
    assert moved.item() == pytest.approx(0.001 * 3**0.5, rel=1e-3)
