"""Augmentations against oracles that share no code with them: torchvision one picture at a time, loops, colorsys, closed forms."""
import colorsys
import math

import numpy as np
import pytest
import torch
import torchvision.transforms as T
import torchvision.transforms.functional as TF
from scipy.stats import ks_2samp
from simclr.augment import (Draws, SimCLRAugment, blur_matrix, check_augment, colour_matrix, draw_boxes, hue_matrix, resize_matrix,
                            rotate)

KS = 1.95 * math.sqrt(2 / 4000)          # 0.1 % point of the two-sample distance at 4,000 each
STILL = torch.tensor([1.0, 1, 1, 0])     # jitter that changes nothing


def seeded(seed): return torch.Generator().manual_seed(seed)


def pictures(n=12, c=3, h=32, w=32, seed=0):
    "Smooth random uint8 pictures of moderate colours, so that little is cut at 0 or 1."
    x = torch.nn.functional.interpolate(torch.rand(n, c, 5, 6, generator=seeded(seed)), (h, w), mode="bicubic")
    return ((0.25 + 0.5 * x).clamp(0, 1) * 255).round().byte()


def draws(n, h, w, **change):
    "Draws that leave an image as it is, but for what is asked."
    base = dict(box=torch.tensor([[0.0, 0, h, w]]).repeat(n, 1), flip=torch.zeros(n, dtype=torch.bool), jitter=STILL.repeat(n, 1),
                order=torch.arange(4).repeat(n, 1), grey=torch.zeros(n, dtype=torch.bool), sigma=torch.zeros(n), angle=torch.zeros(n))
    return Draws(**{**base, **change})


def worst(a, b): return (a.double() - b.double()).abs().max().item()


# ---- crops

def reference_box(h, w, scale, ratio, rng):
    "RandomResizedCrop as its documentation tells it, one number at a time, in NumPy."
    for _ in range(10):
        area, r = h * w * rng.uniform(*scale), math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        bw, bh = round(math.sqrt(area * r)), round(math.sqrt(area / r))
        if 0 < bw <= w and 0 < bh <= h: return rng.integers(h - bh + 1), rng.integers(w - bw + 1), bh, bw
    bw, bh = (w, round(w / ratio[0])) if w / h < ratio[0] else (round(h * ratio[1]), h) if w / h > ratio[1] else (w, h)
    return (h - bh) // 2, (w - bw) // 2, bh, bw


@pytest.mark.parametrize("h,w,scale", [(32, 32, (0.08, 1.0)), (20, 48, (0.3, 1.0)), (64, 16, (0.5, 1.0))])
def test_boxes_have_the_distribution_of_the_loop(h, w, scale):
    rng = np.random.default_rng(0)
    theirs = np.array([reference_box(h, w, scale, (3/4, 4/3), rng) for _ in range(4000)])
    ours = draw_boxes(4000, h, w, scale, generator=seeded(0)).double().numpy()    # ratios tie with NumPy's
    for k in range(4): assert ks_2samp(ours[:, k], theirs[:, k]).statistic < KS, k
    assert ks_2samp(ours[:, 2] * ours[:, 3], theirs[:, 2] * theirs[:, 3]).statistic < KS
    assert ks_2samp(ours[:, 3] / ours[:, 2], theirs[:, 3] / theirs[:, 2]).statistic < KS


def test_boxes_have_the_distribution_of_torchvision():
    torch.manual_seed(0)
    image = torch.empty(3, 32, 32)
    theirs = torch.tensor([T.RandomResizedCrop.get_params(image, (0.2, 1.0), (3/4, 4/3)) for _ in range(4000)])
    ours = draw_boxes(4000, 32, 32, (0.2, 1.0), generator=seeded(1))
    for k in range(4): assert ks_2samp(ours[:, k], theirs[:, k]).statistic < KS, k


@pytest.mark.parametrize("h,w", [(1, 1), (1, 50), (50, 1), (8, 8), (31, 97)])
def test_boxes_lie_in_the_image_in_whole_pixels(h, w):
    box = draw_boxes(5000, h, w, generator=seeded(0))
    top, left, bh, bw = box.unbind(1)
    assert torch.equal(box, box.round())
    assert (top >= 0).all() and (left >= 0).all() and (bh >= 1).all() and (bw >= 1).all()
    assert (top + bh <= h).all() and (left + bw <= w).all()
    assert draw_boxes(0, h, w).shape == (0, 4)


def test_every_place_is_drawn_evenly():
    top = draw_boxes(20_000, 9, 9, (1/9, 1/9), (1, 1), seeded(0))[:, 0]          # 3 x 3 boxes: seven places
    counts = top.long().bincount(minlength=7)
    assert len(counts) == 7 and (counts - 20_000 / 7).abs().max() < 5 * math.sqrt(20_000 / 7)


@pytest.mark.parametrize("size", [1, 5, 32, 33, 80])
@pytest.mark.parametrize("h,w", [(32, 32), (24, 40)])
def test_crop_and_resize_equal_torchvision(size, h, w):
    x = pictures(h=h, w=w)
    d = draws(12, h, w, box=draw_boxes(12, h, w, generator=seeded(0)), flip=torch.arange(12) % 2 == 0)
    ours = SimCLRAugment(size).apply(x, d)
    for k in range(12):
        oracle = TF.resized_crop(x[k].float() / 255, *map(int, d.box[k]), (size, size), antialias=True)
        assert worst(ours[k], TF.hflip(oracle) if d.flip[k] else oracle) < 3e-6   # float32 rounding of positions


def test_resize_matrix_is_zero_outside_the_crop_and_sums_to_one():
    start, length = torch.tensor([0.0, 3, 9]), torch.tensor([2.0, 6, 1])
    for size in (1, 4, 20):
        m = resize_matrix(start, length, 10, size)
        assert m.shape == (3, size, 10) and worst(m.sum(2), torch.ones(3, size)) < 1e-6 and (m >= 0).all()
        for k in range(3):
            a, b = int(start[k]), int(start[k] + length[k])
            assert m[k, :, :a].abs().sum() == 0 and m[k, :, b:].abs().sum() == 0


# ---- blur

@pytest.mark.parametrize("kernel", [3, 5, 23])
def test_blur_equals_torchvision(kernel):
    x, sigma = pictures().float() / 255, torch.linspace(0.1, 2, 12)
    b = blur_matrix(sigma, 32, kernel)
    for k in range(12):
        assert worst(b[k] @ x[k] @ b[k].T, TF.gaussian_blur(x[k], kernel, sigma[k].item())) < 2e-6   # float32, 23 terms twice


@pytest.mark.parametrize("size,kernel", [(32, 3), (64, 7), (96, 11)])
def test_the_class_blurs_with_a_tenth_of_the_view(size, kernel):
    x, sigma = pictures(h=size, w=size), torch.linspace(0.1, 2, 12)
    ours = SimCLRAugment(size, blur_prob=0.5).apply(x, draws(12, size, size, sigma=sigma))
    oracle = torch.stack([TF.gaussian_blur(p.float() / 255, kernel, s.item()) for p, s in zip(x, sigma)])
    assert worst(ours, oracle) < 2e-6


def test_contrast_pivots_on_the_mean_before_blur():
    "Paper's order: colours, then blur. Picture with a bright rim, whose mean the mirror at the edge would change."
    x = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    x[..., 0] = 200
    d = draws(1, 16, 16, sigma=torch.tensor([2.0]), jitter=torch.tensor([[1, 0.5, 1, 0.0]]))
    oracle = TF.gaussian_blur(TF.adjust_contrast(x.float() / 255, 0.5), 3, 2.0)
    assert worst(SimCLRAugment(16, blur_prob=1).apply(x, d), oracle) < 1e-4       # torchvision's grey weights sum to 0.9999


@pytest.mark.parametrize("kernel", [0, -1, 2, 4, 9, 11])
def test_blur_refuses_kernels_without_a_mirror(kernel):
    with pytest.raises(ValueError, match="kernel"): blur_matrix(torch.ones(1), 4, kernel)


# ---- colour

@pytest.mark.parametrize("factor", [0.0, 0.2, 0.6, 1.0, 1.4])
@pytest.mark.parametrize("k,adjust,tolerance", [   # torchvision's grey weights sum to 0.9999, ours to 1
    (0, TF.adjust_brightness, 1e-6), (1, TF.adjust_contrast, 1.1e-4), (2, TF.adjust_saturation, 1.1e-4)])
def test_jitter_equals_torchvision(k, adjust, tolerance, factor):
    x, jitter = pictures(), STILL.repeat(12, 1)
    jitter[:, k] = factor
    ours = SimCLRAugment(32).apply(x, draws(12, 32, 32, jitter=jitter))
    assert worst(ours, torch.stack([adjust(p.float() / 255, factor) for p in x])) < tolerance


def test_grey_equals_torchvision():
    x = pictures()
    ours = SimCLRAugment(32).apply(x, draws(12, 32, 32, grey=torch.ones(12, dtype=torch.bool)))
    assert worst(ours, TF.rgb_to_grayscale(x.float() / 255, 3)) < 1.1e-4
    assert worst(ours[:, 0], ours[:, 2]) < 1e-6


def test_hue_is_a_rotation_about_grey():
    turn = torch.linspace(-0.5, 0.5, 21)
    m = hue_matrix(turn).double()
    assert worst(m @ m.mT, torch.eye(3).expand(21, 3, 3)) < 1e-6                  # lengths and angles stay
    assert worst(torch.linalg.det(m), torch.ones(21)) < 1e-6                      # and it is no mirror
    assert worst(m.sum(2), torch.ones(21, 3)) < 1e-6                              # greys stay
    assert worst((m.diagonal(dim1=1, dim2=2).sum(1) - 1) / 2, torch.cos(2 * math.pi * turn)) < 1e-6   # by the angle asked for


@pytest.mark.parametrize("turn", [-0.2, -0.1, 0.05, 0.1, 0.3])
def test_hue_turns_as_far_and_in_the_direction_of_hsv(turn):
    rng = np.random.default_rng(0)
    for _ in range(300):
        colour = rng.uniform(0.3, 0.7, 3)
        h, s, _ = colorsys.rgb_to_hsv(*colour)
        if s < 0.1: continue
        new = (hue_matrix(torch.tensor([turn]))[0].double() @ torch.tensor(colour)).tolist()
        moved = (colorsys.rgb_to_hsv(*new)[0] - h + 0.5) % 1 - 0.5
        assert abs(moved - turn) < 0.02                                           # hexagon against circle: at most 1.1 degrees twice


@pytest.mark.parametrize("turn", [1/3, -1/3])
def test_hue_equals_torchvision_at_a_third_of_a_turn(turn):
    x = pictures()
    jitter = torch.tensor([1, 1, 1, turn]).repeat(12, 1)
    ours = SimCLRAugment(32).apply(x, draws(12, 32, 32, jitter=jitter))
    assert worst(ours, TF.adjust_hue(x.float() / 255, turn)) < 1e-4               # torchvision's way there and back through HSV


def test_order_is_followed_for_each_image():
    "Every order against the same steps in turn in float64 NumPy, where nothing is cut."
    import itertools
    orders = list(itertools.permutations(range(4)))
    x = pictures(24).double().numpy() / 255
    b, c, s, turn = 1.2, 0.7, 1.3, 0.08
    luma, hue = np.array([0.2989, 0.587, 0.114]) / 0.9999, hue_matrix(torch.tensor([turn]))[0].double().numpy()
    steps = [lambda y: b * y, lambda y: c * y + (1 - c) * (luma @ y).mean(), lambda y: s * y + (1 - s) * (luma @ y), lambda y: hue @ y]
    m, o = colour_matrix(torch.tensor(x.mean((2, 3))).float(), torch.tensor([[b, c, s, turn]]).repeat(24, 1), torch.tensor(orders),
                         torch.zeros(24, dtype=torch.bool))
    for k, order in enumerate(orders):
        y = x[k].reshape(3, -1)
        for step in order: y = steps[step](y)
        assert np.abs(m[k].double().numpy() @ x[k].reshape(3, -1) + o[k].double().numpy() - y).max() < 1e-6


def test_composite_equals_torchvision_step_by_step_where_nothing_is_cut():
    x = pictures()
    a = SimCLRAugment(24, jitter_strength=0.2, jitter_prob=1)
    d = a.draw(12, 32, 32, seeded(0))
    d.jitter[:, 3] = 0                                                            # hue has another rule
    ours = a.apply(x, d)
    for k in range(12):
        y = TF.resized_crop(x[k].float() / 255, *map(int, d.box[k]), (24, 24), antialias=True)
        if d.flip[k]: y = TF.hflip(y)
        for step in d.order[k].tolist():
            if step < 3: y = (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation)[step](y, d.jitter[k, step].item())
        if d.grey[k]: y = TF.rgb_to_grayscale(y, 3)
        assert 0 < y.min() and y.max() < 1                                        # the premise
        assert worst(ours[k], y) < 2e-4                                           # the grey weights, at most twice


def test_one_channel_has_brightness_and_contrast_only():
    x, jitter = pictures(c=1), torch.tensor([[0.8, 0.5, 0.1, 0.3]]).repeat(12, 1)
    a = SimCLRAugment(32, (0.5,), (0.5,))
    ours = a.apply(x, draws(12, 32, 32, jitter=jitter, grey=torch.ones(12, dtype=torch.bool)))
    y = x.float() / 255 * 0.8
    assert worst(ours, 0.5 * y + 0.5 * y.mean((1, 2, 3), keepdim=True)) < 1e-6
    assert [v.shape for v in a(x)] == [(12, 1, 32, 32)] * 2


# ---- rotation

@pytest.mark.parametrize("h,w", [(32, 32), (24, 40), (40, 24)])
@pytest.mark.parametrize("angle", [7.0, -15.0, 60.0, 135.0])
def test_rotation_equals_torchvision_inside(h, w, angle):
    x = pictures(h=h, w=w).float() / 255
    inside = (..., slice(h // 2 - 7, h // 2 + 7), slice(w // 2 - 7, w // 2 + 7))
    oracle = TF.rotate(x, angle, interpolation=T.InterpolationMode.BILINEAR)
    assert worst(rotate(x, torch.full((12,), angle))[inside], oracle[inside]) < 1e-5


def test_rotation_is_applied_before_the_crop_and_repeats_the_edge():
    x = torch.full((2, 3, 16, 16), 77, dtype=torch.uint8)
    a = SimCLRAugment(16, rotate_degrees=45)
    assert worst(a.apply(x, draws(2, 16, 16, angle=torch.tensor([45.0, -20]))), x / 255) < 1e-5   # no black corners
    x = pictures()
    d = draws(12, 32, 32, angle=torch.full((12,), 20.0), box=torch.tensor([[12.0, 12, 8, 8]]).repeat(12, 1))
    oracle = TF.rotate(x.float() / 255, 20, interpolation=T.InterpolationMode.BILINEAR)[..., 12:20, 12:20]
    assert worst(SimCLRAugment(8, rotate_degrees=45).apply(x, d), oracle) < 1e-5


# ---- draws

@pytest.mark.parametrize("s", [0.25, 0.5, 1.0, 1.5])
def test_jitter_has_the_distribution_of_torchvision(s):
    torch.manual_seed(0)
    jitter = T.ColorJitter(0.8 * s, 0.8 * s, 0.8 * s, 0.2 * s)
    params = [jitter.get_params(jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue) for _ in range(4000)]
    theirs, orders = torch.tensor([p[1:] for p in params]), torch.stack([p[0] for p in params])
    d = SimCLRAugment(32, jitter_strength=s, jitter_prob=1).draw(4000, 32, 32, seeded(0))
    for k in range(4): assert ks_2samp(d.jitter[:, k], theirs[:, k]).statistic < KS, k
    place = lambda o: (o * torch.tensor([64, 16, 4, 1])).sum(1).numpy()
    assert len(np.unique(place(d.order))) == 24 and ks_2samp(place(d.order), place(orders)).statistic < KS


def test_rates_and_ranges():
    a = SimCLRAugment(32, blur_prob=0.5, rotate_degrees=30, flip_prob=0.3, grey_prob=0.1, jitter_prob=0.6)
    d = a.draw(20_000, 32, 32, seeded(0))
    rate = lambda b: b.float().mean().item()
    for got, p in [(rate(d.flip), 0.3), (rate(d.grey), 0.1), (rate((d.jitter != STILL).any(1)), 0.6), (rate(d.sigma > 0), 0.5)]:
        assert abs(got - p) < 4 * math.sqrt(0.25 / 20_000)
    blurred, uniform = d.sigma[d.sigma > 0], torch.rand(20_000, generator=seeded(1))
    assert ks_2samp(blurred, 0.1 + 1.9 * uniform).statistic < 0.025
    assert ks_2samp(d.angle, 60 * uniform - 30).statistic < 0.02
    both = torch.stack([d.flip, d.grey, (d.jitter != STILL).any(1), d.sigma > 0]).float()
    assert (torch.corrcoef(both) - torch.eye(4)).abs().max() < 4 / math.sqrt(20_000)   # independent of each other


def test_one_setting_does_not_move_the_draws_of_another():
    base = SimCLRAugment(32).draw(50, 32, 32, seeded(0))
    for change, touched in [(dict(flip_prob=0), {"flip"}), (dict(blur_prob=1), {"sigma"}), (dict(rotate_degrees=9), {"angle"}),
                            (dict(jitter_strength=1), {"jitter"}), (dict(grey_prob=1), {"grey"}), (dict(crop_scale=(0.5, 1)), {"box"})]:
        d = SimCLRAugment(32, **change).draw(50, 32, 32, seeded(0))
        assert {k for k in Draws._fields if not torch.equal(getattr(d, k), getattr(base, k))} == touched


def test_extremes_of_probability():
    d = SimCLRAugment(8, flip_prob=1, grey_prob=0, jitter_prob=0, blur_prob=1).draw(1000, 8, 8, seeded(0))
    assert d.flip.all() and not d.grey.any() and torch.equal(d.jitter, STILL.repeat(1000, 1)) and (d.sigma >= 0.1).all()


def test_each_image_has_its_own_draw_and_a_seed_repeats_it():
    x, a = pictures(1).repeat(64, 1, 1, 1), SimCLRAugment(32, blur_prob=0.5, rotate_degrees=10)
    one, two = a(x, seeded(0))
    assert len(torch.cat([one, two]).unique(dim=0)) == 128
    assert all(torch.equal(p, q) for p, q in zip((one, two), a(x, seeded(0))))
    assert not torch.equal(one, a(x, seeded(1))[0])
    torch.manual_seed(3); first = a(x)[0]
    torch.manual_seed(3)
    assert torch.equal(first, a(x)[0])                                            # without a generator: torch's own seed


def test_view_k_of_both_shows_image_k():
    "Pictures of one flat level each: without jitter the level survives every crop, so rows must match."
    x = (torch.arange(10) * 20 + 5).byte().view(10, 1, 1, 1).expand(10, 3, 16, 16)
    a = SimCLRAugment(8, jitter_prob=0, grey_prob=0, blur_prob=0.5, rotate_degrees=20)
    for v in a(x): assert worst((v + 1) / 2, x[:, :, :8, :8] / 255) < 1e-5


# ---- the module as a whole

def test_everything_off_is_the_identity():
    x = pictures()
    off = dict(crop_scale=(1, 1), crop_ratio=(1, 1), flip_prob=0, jitter_prob=0, grey_prob=0)
    for v in SimCLRAugment(32, (0,) * 3, (1,) * 3, **off)(x): assert worst(v, x / 255) < 1e-6
    for v in SimCLRAugment(32, (0,) * 3, (1,) * 3, **{**off, "jitter_prob": 1}, jitter_strength=0)(x): assert worst(v, x / 255) < 1e-5


def test_normalisation_is_per_channel():
    mean, std, off = (0.1, 0.2, 0.3), (0.5, 0.25, 2.0), dict(crop_scale=(1, 1), crop_ratio=(1, 1), flip_prob=0, jitter_prob=0, grey_prob=0)
    x = pictures()
    assert worst(SimCLRAugment(32, mean, std, **off)(x)[0], TF.normalize(x / 255, mean, std)) < 1e-5


@pytest.mark.parametrize("settings", [{}, dict(jitter_strength=2, jitter_prob=1), dict(blur_prob=1, rotate_degrees=180),
                                      dict(crop_scale=(0.001, 0.01))])
@pytest.mark.parametrize("size,h,w", [(1, 32, 32), (8, 32, 32), (48, 20, 33), (2, 1, 1), (16, 5, 64)])
def test_views_are_finite_and_in_range_at_any_size(settings, size, h, w):
    a, x = SimCLRAugment(size, **settings), torch.randint(0, 256, (16, 3, h, w), dtype=torch.uint8, generator=seeded(0))
    for v in a(x, seeded(0)):
        assert v.shape == (16, 3, size, size) and v.dtype == torch.float32 and v.isfinite().all()
        assert v.min() >= -1 - 1e-6 and v.max() <= 1 + 1e-6


def test_mixed_precision_and_empty_batches_and_input_left_alone():
    a, x = SimCLRAugment(32, blur_prob=0.5), pictures()
    before, plain = x.clone(), a(x, seeded(0))
    with torch.autocast("cpu", torch.bfloat16): mixed = a(x, seeded(0))
    assert all(torch.equal(p, q) for p, q in zip(plain, mixed)) and torch.equal(x, before)
    assert [v.shape for v in a(x[:0])] == [(0, 3, 32, 32)] * 2
    assert not a.state_dict()                                                     # a checkpoint need not know the augmentation


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_views_of_the_cpu():
    a, x = SimCLRAugment(32, blur_prob=0.5, rotate_degrees=10), pictures()
    for p, q in zip(a(x, seeded(0)), a.cuda()(x.cuda(), seeded(0))): assert worst(p, q.cpu()) < 1e-4


# ---- faults by table

@pytest.mark.parametrize("change,word", [
    (dict(image_size=0), "image_size"), (dict(image_size=-4), "image_size"), (dict(image_size=7.5), "image_size"),
    (dict(crop_scale=(0, 1)), "crop_scale"), (dict(crop_scale=(0.5, 0.4)), "crop_scale"), (dict(crop_scale=(0.5, 1.01)), "crop_scale"),
    (dict(crop_scale=0.2), "crop_scale"), (dict(crop_scale=(0.2,)), "crop_scale"), (dict(crop_scale=(math.nan, 1)), "crop_scale"),
    (dict(crop_ratio=(0, 1)), "crop_ratio"), (dict(crop_ratio=(2, 1)), "crop_ratio"), (dict(crop_ratio=(1, math.inf)), "crop_ratio"),
    (dict(flip_prob=-0.1), "flip_prob"), (dict(flip_prob=1.1), "flip_prob"), (dict(jitter_prob=2), "jitter_prob"),
    (dict(grey_prob=math.nan), "grey_prob"), (dict(blur_prob=-1), "blur_prob"),
    (dict(jitter_strength=-0.1), "jitter_strength"), (dict(jitter_strength=2.1), "jitter_strength"),
    (dict(rotate_degrees=-1), "rotate_degrees"), (dict(rotate_degrees=181), "rotate_degrees"),
    (dict(mean=(0.5, 0.5), std=(0.5, 0.5)), "1 or 3"), (dict(mean=(0.5,)), "1 or 3"), (dict(std=(0.5, 0, 0.5)), "above 0"),
    (dict(std=(1, -1, 1)), "above 0")])
def test_bad_settings_are_named(change, word):
    with pytest.raises(ValueError, match=word): SimCLRAugment(**{"image_size": 32, **change})


@pytest.mark.parametrize("x,word", [
    (torch.zeros(2, 3, 8, 8), "float32.*expected uint8"), (torch.zeros(2, 3, 8, 8, dtype=torch.int64), "int64.*expected uint8"),
    (torch.zeros(3, 8, 8, dtype=torch.uint8), "expected uint8"), (torch.zeros(2, 1, 8, 8, dtype=torch.uint8), "1 channels, but mean has 3"),
    (torch.zeros(2, 4, 8, 8, dtype=torch.uint8), "4 channels")])
def test_bad_images_are_named(x, word):
    with pytest.raises(ValueError, match=word): SimCLRAugment(8)(x)


def test_a_draw_is_applied_whatever_the_settings_are():
    x, plain, all_on = pictures(), SimCLRAugment(32), SimCLRAugment(32, blur_prob=1, rotate_degrees=180)
    for change in (dict(sigma=torch.full((12,), 1.5)), dict(angle=torch.full((12,), 30.))):
        d = draws(12, 32, 32, **change)
        assert torch.equal(plain.apply(x, d), all_on.apply(x, d)) and worst(plain.apply(x, d), plain.apply(x, draws(12, 32, 32))) > 0.02


@pytest.mark.parametrize("rows", [1, 5])
def test_draws_are_never_shared(rows):
    with pytest.raises(ValueError, match=f"12 images but {rows} draws"): SimCLRAugment(32).apply(pictures(), draws(rows, 32, 32))


def test_good_settings_pass():
    check_augment(1, (1, 1), [1, 1], 0, 180, {})
    check_augment(224, (0.08, 1), (3/4, 4/3), 2, 0, dict(p=0, q=1))
