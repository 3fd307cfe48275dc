"NT-Xent playground: the numbers by loops and autograd, the same numbers from JavaScript in a real browser, the widget live and static."
import io
import json
import math
import re
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from PIL import Image

import simclr.playground as playground
from simclr.data import load_images
from simclr.loss import contrastive_top1, loss_bounds, nt_xent_loss
from simclr.playground import (BROKEN, Playground, effective_negatives, false_negative_share, few_classes, log_stakes, partner_mask, project,
                               push_pull, temperature_curves, two_views, untrained)
from simclr.pretrain import pretrain
from simclr.runs import load_run
from simclr.widget import END, javascript, unpack

TEMPERATURES = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    return pretrain("digits", backbone="resnet8", width=8, hidden_dim=64, projection_dim=32, optimizer="adamw", lr_scaling_method="none", epochs=2,
                    batch_size=128, warmup_epochs=0, min_crop_scale=0.3, flip_prob=0.0, knn_every=0, temperature=0.2, seed=0, echo=False,
                    run_dir=str(tmp_path_factory.mktemp("playground")))


@pytest.fixture(scope="session")
def real(run): return Playground.from_run(run)


def random_pair(N=6, D=5, seed=0):
    z1, z2, noise = torch.randn(3, N, D, generator=torch.Generator().manual_seed(seed))
    return z1 + 0.5 * z2, z1 + 0.5 * noise


def labels(N): return torch.arange(N) % 3


@pytest.fixture(scope="session", params=["random", "wide", "collapsed", "two images", "untrained", "trained"])
def pair(request, real):
    made = {"random": lambda: random_pair(), "wide": lambda: random_pair(20, 64, 1), "two images": lambda: random_pair(2, 3),
            "collapsed": lambda: (torch.ones(4, 3), torch.ones(4, 3)), "untrained": lambda: real.zs["random weights"],
            "trained": lambda: real.zs["after 2 epochs"]}
    return made[request.param]()


# Python, by loops and by autograd

def loops(z1, z2, y, tau):
    "Loss, forces, share of each row and of all, effective number: one number at a time, in Python floats."
    z, N, y = [*z1.double().tolist(), *z2.double().tolist()], len(z1), [*y.tolist()] * 2
    cos = lambda a, b: sum(p * q for p, q in zip(a, b)) / math.sqrt(sum(p * p for p in a)) / math.sqrt(sum(q * q for q in b))
    loss, force, share, effective, wrong, whole = 0, np.zeros((2 * N, 2 * N)), [], [], 0, 0
    for i in range(2 * N):
        weight = {j: math.exp((cos(z[i], z[j]) - 1) / tau) for j in range(2 * N) if j != i}
        partner, total = (i + N) % (2 * N), sum(weight.values())
        loss -= math.log(weight[partner] / total) / (2 * N)
        for j, w in weight.items(): force[i, j] = (w / total - (j == partner)) / (2 * N * tau)
        push = {j: w / total for j, w in weight.items() if j != partner}
        hit = sum(w for j, w in push.items() if y[j] == y[i] >= 0)
        share.append(hit / sum(push.values()))
        effective.append(math.exp(-sum(w / sum(push.values()) * math.log(w / sum(push.values())) for w in push.values() if w)))
        wrong, whole = wrong + hit, whole + sum(push.values())
    return loss, force, share, wrong / whole, effective


@pytest.mark.parametrize("tau", [0.1, 0.5, 2.0])       # below 0.1 the loops, which have no logarithms, lose digits
def test_numbers_equal_loops(pair, tau):
    y = labels(len(pair[0]))
    loss, force, share, whole, effective = loops(*pair, y, tau)
    near = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)          # float64 in another order
    p, found = push_pull(*pair, tau)
    near(found, force)
    near(p.sum(1), 1)
    near(false_negative_share(*pair, y, tau)[0], share)
    near(false_negative_share(*pair, y, tau)[1], whole)
    near(effective_negatives(*pair, tau), effective)
    near([v[0] for v in temperature_curves(*pair, y, [tau]).values()], [loss, *loss_bounds(len(y), tau), whole, np.mean(effective)])


@pytest.mark.parametrize("tau", TEMPERATURES[::3])
def test_forces_are_the_gradient_of_nt_xent_loss(pair, tau):
    "From forces on cosines to the gradient of every projection, against autograd of the library's own loss."
    a = torch.cat(pair).double().requires_grad_()
    auto, = torch.autograd.grad(nt_xent_loss(*a.chunk(2), tau), a)
    force, length = push_pull(*pair, tau)[1], a.detach().norm(dim=1, keepdim=True)
    z = a.detach() / length
    g = (force + force.T) @ z                                        # each cosine moves both of its rows
    torch.testing.assert_close((g - (g * z).sum(1, keepdim=True) * z) / length, auto, rtol=1e-9, atol=1e-12)


def test_forces_by_nudging_one_cosine():
    z1, z2 = (z.double() for z in random_pair(3))
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    sim, tau = z @ z.T, 0.3
    def loss(s): return -((s / tau).fill_diagonal_(-math.inf).log_softmax(1)[partner_mask(3)]).mean()
    force = push_pull(z1, z2, tau)[1]
    for i, j in ((0, 1), (0, 3), (5, 2), (4, 5)):
        nudge = torch.zeros(6, 6, dtype=torch.float64)
        nudge[i, j] = 1e-6
        assert ((loss(sim + nudge) - loss(sim - nudge)) / 2e-6).item() == pytest.approx(force[i, j].item(), abs=1e-9)


def test_each_anchor_is_pulled_as_hard_as_it_is_pushed(pair):
    force = push_pull(*pair, 0.3)[1]
    assert force.sum(1).abs().max() < 1e-14
    assert (force[partner_mask(len(pair[0]))] <= 0).all() and (force[~partner_mask(len(pair[0]))] >= 0).all()


def test_numbers_survive_cold_and_heat(pair):
    y, most = labels(len(pair[0])), 2 * len(pair[0]) - 2
    for tau in (1e-5, 1e-3, 1e3, 1e6):
        share, whole = false_negative_share(*pair, y, tau)
        effective = effective_negatives(*pair, tau)
        assert share.isfinite().all() and 0 <= whole <= 1 + 1e-12
        assert effective.isfinite().all() and effective.min() >= 1 - 1e-9 and effective.max() <= most + 1e-9
    assert effective.min() == pytest.approx(most, rel=1e-6)          # hot: all push alike


def test_images_without_label_are_in_no_class():
    z = random_pair(4)
    assert false_negative_share(*z, torch.full((4,), -1), 0.5)[1] == 0
    half = false_negative_share(*z, torch.tensor([-1, -1, 0, 0]), 0.5)[0]
    assert half[[0, 1, 4, 5]].eq(0).all() and half[[2, 3, 6, 7]].gt(0).all()
    assert false_negative_share(*z, torch.zeros(4), 0.5)[1] == pytest.approx(1)          # one class: all of the push


@pytest.mark.parametrize("break_it, says", [
    (lambda z: (z[:1], z[:1], 0.5), "N=1"), (lambda z: (z, z[:2], 0.5), "same shape"), (lambda z: (z, z[:, :1], 0.5), "same shape"),
    (lambda z: (z, z, 0), "temperature=0"), (lambda z: (z, z, -1.0), "temperature=-1.0"), (lambda z: (z, z, math.nan), "temperature=nan"),
    (lambda z: (z, z, math.inf), "temperature=inf"), (lambda z: (z.where(z != z[1, 0], torch.tensor(math.nan)), z, 0.5), "z1 holds NaN or infinity in 1 of 3"),
    (lambda z: (z, z / 0, 0.5), "z2 holds NaN or infinity in 3 of 3")])
def test_bad_projections_are_refused(break_it, says):
    z1, z2, tau = break_it(random_pair(3)[0])
    for f in (log_stakes, push_pull, effective_negatives): pytest.raises(ValueError, f, z1, z2, tau).match(says)
    pytest.raises(ValueError, false_negative_share, z1, z2, labels(len(z1)), tau).match(says)
    pytest.raises(ValueError, temperature_curves, z1, z2, labels(len(z1)), [tau]).match(says)
    picture = np.zeros((len(z1), 1, 8, 8), "u1")
    pytest.raises(ValueError, Playground, dict(mine=(z1, z2)), picture, picture, labels(len(z1)), "abc", tau).match(f"mine: .*{says}")


def test_labels_of_another_shape_are_refused():
    pytest.raises(ValueError, false_negative_share, *random_pair(3), torch.arange(2), 0.5).match(r"y is \(2,\); expected \(3,\)")


# Choice of images, views, weights

def test_few_classes_are_four_of_each():
    y = torch.randint(0, 10, (200,), generator=torch.Generator().manual_seed(0))
    index = few_classes(y, 24, 3)
    assert len(set(index.tolist())) == 24 and sorted(y[index].tolist()) == y[index].tolist()
    assert sorted(y[index].bincount(minlength=10).tolist()) == [0] * 4 + [4] * 6
    assert few_classes(y, 24, 3).tolist() == index.tolist() != few_classes(y, 24, 4).tolist()
    assert few_classes(torch.tensor([0, 1] * 10), 18).numel() == 18                      # two classes: each gives more than four
    assert few_classes(torch.full((9,), -1), 5).numel() == 5                             # no labels: any five
    assert sorted(few_classes(y, 200).tolist()) == list(range(200))
    for bad in (1, 201): pytest.raises(ValueError, few_classes, y, bad).match(f"images={bad} must be from 2 to the 200")


def test_views_are_those_of_the_augmentation(run):
    settings, x = yaml.safe_load((run / "config.yaml").read_text()), load_images("digits").val.x[:5]
    one, two = two_views(x, settings, 1)
    assert one.dtype == torch.uint8 and one.shape == two.shape == x.shape and not torch.equal(one, two)
    assert torch.equal(one, two_views(x, settings, 1)[0]) and not torch.equal(one, two_views(x, settings, 2)[0])
    flat = torch.full_like(x, 200)                                                       # nothing to see: only jitter changes it
    assert torch.equal(two_views(flat, settings | dict(jitter_strength=0.0), 1)[0], flat)
    assert len(two_views(flat, settings | dict(jitter_strength=1.0), 1)[0].unique()) > 2


def test_projections_are_those_of_the_run_and_of_random_weights(run, real):
    model, data = load_run(run), load_images("digits")
    settings = yaml.safe_load((run / "config.yaml").read_text())
    x = data.val.x[few_classes(data.val.y, 24, 0)]
    views = two_views(x, settings, 0)
    assert list(real.zs) == ["random weights", "after 2 epochs"] and real.checkpoint == "after 2 epochs" and real.temperature == 0.2
    with torch.no_grad(): assert torch.equal(real.zs["after 2 epochs"][1], model.eval()(model.normalise(views[1])))
    before = torch.get_rng_state()
    fresh = untrained(model, torch.cat(views), 0)
    assert torch.equal(before, torch.get_rng_state()) and not fresh.training
    assert torch.equal(project(fresh, views[0]), real.zs["random weights"][0])
    with torch.no_grad(): batch = fresh.train()(fresh.normalise(torch.cat(views)))       # its own statistics, as at the first step
    worst = (F.normalize(batch[:24], dim=1) - F.normalize(real.zs["random weights"][0], dim=1)).abs().max()
    assert worst < 0.02                                                                  # variances with n - 1 against n
    assert not torch.equal(untrained(model, torch.cat(views), 1).head[0].weight, fresh.head[0].weight)


def test_from_run_reads_no_test_image(run, monkeypatch):
    class Untouchable:
        def __getattr__(self, name): raise AssertionError("the test images were read")
    data = load_images("digits")
    object.__setattr__(data, "test", Untouchable())
    monkeypatch.setattr(playground, "load_images", lambda *a: data)
    assert len(Playground.from_run(run, images=16, seed=1).y) == 16


def test_runs_stand_beside_each_other(run):
    pytest.raises(ValueError, Playground.from_run, run, beside=[run]).match("after 2 epochs")
    pytest.raises(FileNotFoundError, Playground.from_run, run / "nowhere")


def test_a_run_that_learned_from_the_pictures_shown_is_refused(run, tmp_path):
    shutil.copytree(run, other := tmp_path / "other")
    record = json.loads((other / "results.json").read_text())
    record["config"] |= dict(val_fraction=0.0, epochs=9)
    (other / "results.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="val_fraction: 0.1 in .*, but 0.0 in .*other"): Playground.from_run(run, beside=[other])


# The widget in Python

def tiny(classes=("zero", "one", "two"), y=(0, 0, 1, 1, 2, 2), **more):
    x = np.random.default_rng(0).integers(0, 255, (2, 6, 3, 8, 8), "u1")
    return Playground({"first": random_pair(6, 5, 0), "last": random_pair(6, 5, 1)}, *x, list(y), classes, **more)


def test_the_buffer_holds_projections_labels_and_pictures():
    made = tiny()
    meta, arrays = unpack(made.blob)
    assert meta["checkpoints"] == ["first", "last"] and meta["classes"] == ["zero", "one", "two"] and meta["tile"] == 8
    for k, pair in enumerate(made.zs.values()):
        for view, z in zip("ab", pair): assert np.array_equal(arrays[f"z{k}{view}"], z.numpy())
    assert arrays["y"].tolist() == [0, 0, 1, 1, 2, 2]
    sheet, x = np.asarray(Image.open(io.BytesIO(arrays["sheet"].tobytes()))), np.random.default_rng(0).integers(0, 255, (2, 6, 3, 8, 8), "u1")
    for i, picture in enumerate(x.reshape(12, 3, 8, 8)):                 # first views, then second views, every pixel as it is
        top, left = i // meta["columns"] * 8, i % meta["columns"] * 8
        assert np.array_equal(sheet[top:top + 8, left:left + 8].transpose(2, 0, 1), picture)


@pytest.mark.parametrize("name, bad, says", [("temperature", 0.0, "above 0"), ("temperature", -1.0, "above 0"), ("temperature", math.nan, "above 0"),
                                             ("temperature", math.inf, "finite"), ("anchor", 12, "from 0 to 11"), ("anchor", -1, "from 0 to 11"),
                                             ("checkpoint", "middle", "not one of first, last"), ("broken", "all", "broken")])
def test_values_out_of_range_are_refused_and_change_nothing(name, bad, says):
    made = tiny()
    before = getattr(made, name)
    with pytest.raises(Exception, match=says): setattr(made, name, bad)
    assert getattr(made, name) == before


@pytest.mark.parametrize("change, says", [
    (dict(zs={}), "zs is empty"), (dict(y=[0, 1]), "expected"), (dict(classes="ab"), "class number 2, but there are 2"),
    (dict(x1=np.zeros((5, 3, 8, 8), "u1")), "5 and 6 pictures for 6"), (dict(x1=np.zeros((6, 3, 8, 8)), x2=np.zeros((6, 3, 8, 8))), "float64")])
def test_what_does_not_belong_together_is_refused(change, says):
    x = np.zeros((6, 3, 8, 8), "u1")
    good = dict(zs=dict(a=random_pair(6)), x1=x, x2=x, y=[0, 0, 1, 1, 2, 2], classes="abc")
    Playground(**good)
    with pytest.raises(ValueError, match=says): Playground(**good | change)


# The same numbers in JavaScript

@pytest.fixture(scope="session")
def lab(browser):
    page = browser.new_page()
    names = "similarities, partnersOf, study, lossBounds, unpack, laboratory, CURVES, TEMPERATURES"
    page.add_script_tag(content=javascript("playground").removesuffix(END) + f"Object.assign(globalThis, {{ {names} }});", type="module")
    page.evaluate("""() => { globalThis.ask = ([z1, z2, y, tau, bug]) => {
        const array = (z) => Object.assign(Float32Array.from(z.flat()), { shape: [z.length, z[0].length] });
        const found = study(similarities(array(z1), array(z2), bug === "lengths"), Int32Array.from(y), tau, bug);
        return { ...found, p: [...found.p], force: [...found.force], bounds: lossBounds(y.length, tau) }; } }""")
    yield page
    page.close()


def ask(lab, pair, tau, bug="", y=None):
    y = labels(len(pair[0])) if y is None else y
    return lab.evaluate("a => ask(a)", [pair[0].tolist(), pair[1].tolist(), y.tolist(), tau, bug])


@pytest.fixture(scope="session")
def found(lab, pair): return {tau: ask(lab, pair, tau) for tau in TEMPERATURES}


def test_javascript_loss_is_nt_xent_loss(found, pair):
    for tau in TEMPERATURES:
        loss = nt_xent_loss(*pair, tau).item()
        assert abs(found[tau]["loss"] - loss) <= 1e-5 * max(1, loss)    # of 1 nat below 1 nat, relative above: float32 cosines divided by tau
        assert found[tau]["loss"] == pytest.approx(nt_xent_loss(pair[0].double(), pair[1].double(), tau).item(), rel=1e-10, abs=1e-12)
        assert found[tau]["bounds"] == pytest.approx(loss_bounds(len(pair[0]), tau), rel=1e-12)


def test_javascript_forces_are_pythons(found, pair):
    for tau in TEMPERATURES:
        p, force = push_pull(*pair, tau)
        np.testing.assert_allclose(found[tau]["p"], p.flatten(), rtol=1e-8, atol=1e-11)
        np.testing.assert_allclose(found[tau]["force"], force.flatten(), rtol=1e-8, atol=1e-11)


def test_javascript_share_is_pythons(found, pair):
    for tau in TEMPERATURES:
        share, whole = false_negative_share(*pair, labels(len(pair[0])), tau)
        np.testing.assert_allclose([row["share"] for row in found[tau]["rows"]], share, rtol=1e-8)
        assert found[tau]["share"] == pytest.approx(whole.item(), rel=1e-8)


def test_javascript_effective_number_is_pythons(found, pair):
    for tau in TEMPERATURES:
        np.testing.assert_allclose([row["effective"] for row in found[tau]["rows"]], effective_negatives(*pair, tau), rtol=1e-8)
        assert found[tau]["effective"] == pytest.approx(effective_negatives(*pair, tau).mean().item(), rel=1e-8)


def test_javascript_top1_is_contrastive_top1(found, pair): assert found[0.5]["top1"] == pytest.approx(contrastive_top1(*pair).item())


def test_javascript_survives_cold(lab, pair):
    found = ask(lab, pair, 1e-4)
    assert all(math.isfinite(found[name]) for name in ("loss", "share", "effective"))


def test_javascript_breaks_as_the_bugs_do(lab, pair):
    tau = 0.2
    z1, z2 = (z.double() for z in pair)
    mixed = torch.stack([z1, z2], 1).flatten(0, 1)                                       # 1a 1b 2a 2b
    expected = dict(interleaved=nt_xent_loss(*mixed.chunk(2), tau))
    target, z = torch.arange(2 * len(z1)).roll(len(z1)), torch.cat([z1, z2])
    expected["diagonal"] = F.cross_entropy(F.normalize(z, dim=1) @ F.normalize(z, dim=1).T / tau, target)
    expected["lengths"] = F.cross_entropy((z @ z.T / tau).fill_diagonal_(-math.inf), target)
    for bug, loss in expected.items(): assert ask(lab, pair, tau, bug)["loss"] == pytest.approx(loss.item(), rel=1e-9, abs=1e-12), bug
    assert sorted(expected) == sorted(BROKEN[1:])
    assert expected["diagonal"] >= math.log(2)                                           # no better than half a stake, as the page says


def test_javascript_curves_are_pythons(lab, real):
    found = lab.evaluate("""b => { const look = laboratory(unpack(new Uint8Array(b))), names = ["loss", "share", "effective"];
        const curves = (checkpoint) => names.map((name) => [name, look(checkpoint, 0.3, "").curve.map((s) => s[name])]);
        return { taus: TEMPERATURES, curves: ["random weights", "after 2 epochs"].map((c) => [c, curves(c)]) }; }""", list(real.blob))
    for checkpoint, curves in found["curves"]:                           # one after the other: what is kept belongs to its checkpoint
        expected = temperature_curves(*real.zs[checkpoint], real.y, found["taus"])
        for name, values in curves: np.testing.assert_allclose(values, expected[name], rtol=1e-9)
    assert found["taus"][0] == pytest.approx(0.02) and found["taus"][-1] == pytest.approx(2)


# The page without a kernel

@pytest.fixture
def open_page(browser, tmp_path):
    pages = []
    def open_(widget, **options):
        page = browser.new_page(**options)
        page.wrong, page.asked = [], []
        page.on("pageerror", lambda e: page.wrong.append(str(e)))
        page.on("console", lambda m: page.wrong.append(m.text) if m.type in ("error", "warning") else None)
        page.on("dialog", lambda d: (page.wrong.append(f"dialog {d.message}"), d.dismiss()))
        page.on("request", lambda r: page.asked.append(r.url))
        page.goto(widget.save(tmp_path / "page.html", title="NT-Xent playground").as_uri())
        page.wait_for_selector("html[data-ready]", timeout=10_000)
        pages.append(page)
        return page
    yield open_
    for page in pages:
        try:
            assert page.wrong == []
            assert [url for url in page.asked[1:] if not url.startswith(("blob:", "data:"))] == []
        finally: page.close()


def status(page): return page.get_by_role("status").inner_text()


def shown_loss(page): return float(status(page).split("loss ")[1].split(" nats")[0])


def test_a_page_without_a_kernel_shows_the_loss(open_page, real):
    page = open_page(real)
    for tau in (0.2, 0.05, 2):
        page.get_by_label("temperature", exact=True).fill(str(tau))
        assert shown_loss(page) == pytest.approx(nt_xent_loss(*real.zs["after 2 epochs"], tau).item(), abs=1e-4)   # four digits are shown
    page.get_by_role("button", name="random weights").click()
    assert shown_loss(page) == pytest.approx(nt_xent_loss(*real.zs["random weights"], 2).item(), abs=1e-4)
    assert page.get_by_role("button", name="random weights").get_attribute("aria-pressed") == "true"


def test_the_keyboard_moves_temperature_and_the_text_says_so(open_page):
    page = open_page(tiny())
    slider, before = page.get_by_role("slider"), status(page)
    assert page.get_by_role("status").get_attribute("aria-live") == "polite"
    slider.focus()
    slider.press("ArrowLeft")
    after = status(page)
    assert after != before and 0.45 < float(page.get_by_label("temperature", exact=True).input_value()) < 0.5
    slider.press("Home")
    assert page.get_by_label("temperature", exact=True).input_value() == "0.02" and slider.get_attribute("aria-valuetext") == "0.02"
    slider.press("End")
    assert page.get_by_label("temperature", exact=True).input_value() == "2"


def test_a_bad_temperature_is_named_and_changes_nothing(open_page):
    page = open_page(tiny())
    before = status(page)
    for bad in ("0", "-1", ""):
        page.get_by_label("temperature", exact=True).fill(bad)
        assert "above 0" in page.get_by_role("alert").inner_text() and status(page) == before
    page.get_by_label("temperature", exact=True).fill("0.1")
    assert page.get_by_role("alert").inner_text() == "" and status(page) != before


def test_arrow_keys_and_clicks_choose_the_anchor(open_page):
    page = open_page(tiny(y=(2, 0, 1, 0, 1, 2)))                         # rows by class: images 2 and 4, 3 and 5, 1 and 6, views side by side
    matrix, head = page.locator(".matrix"), page.locator(".anchor b")
    assert head.inner_text() == "Row 1a, class two"
    matrix.focus()
    seen = []
    matrix.press("Home")
    for _ in range(12):                                                  # the last step stays where it is
        seen.append(head.inner_text().split(",")[0][4:])
        matrix.press("ArrowDown")
    assert seen == "2a 2b 4a 4b 3a 3b 5a 5b 1a 1b 6a 6b".split()
    box, edge = matrix.bounding_box(), 30
    cell = (box["width"] - edge) / 12
    matrix.click(position=dict(x=edge + cell / 2, y=edge + 4.5 * cell))
    assert head.inner_text() == "Row 3a, class one"
    matrix.hover(position=dict(x=edge + 5.5 * cell, y=edge + 7.5 * cell))
    assert head.inner_text() == "Row 5b, class one" and "lies on 3b" in page.locator(".note").first.inner_text()
    page.mouse.move(0, 0)
    assert head.inner_text() == "Row 3a, class one"                      # hovering only looks


def test_the_tiles_are_the_strongest_forces_in_order(open_page):
    made = tiny()
    page = open_page(made)
    force = push_pull(*made.zs["last"], 0.5)[1][0]
    words = [b.get_attribute("aria-label") for b in page.locator(".column").all()]
    name = lambda j: f"{j % 6 + 1}{'ab'[j // 6]}"
    order = [6, *[j for j in force.argsort(descending=True).tolist() if j not in (0, 6)]]
    assert [w.split("row ")[1].split(",")[0] for w in words] == [name(j) for j in order]
    assert words[0].startswith("pull 100.0 %")
    part = (force / -force[6]).tolist()
    assert [float(w.split()[1]) for w in words[1:]] == pytest.approx([100 * part[j] for j in order[1:]], abs=0.06)
    assert [w.split()[0] for w in words[1:]] == ["same" if j % 6 == 1 else "push" for j in order[1:]]
    page.locator(".column").nth(1).focus()
    page.keyboard.press("Enter")
    assert page.locator(".anchor b").inner_text().startswith(f"Row {name(order[1])}")
    assert page.evaluate("document.activeElement.className").startswith("column")        # focus is not lost with the tiles


def test_a_bug_shows_its_loss_and_why(open_page):
    page = open_page(tiny())
    before, good = status(page), shown_loss(page)
    for button, says in (("views interleaved", "places on"), ("diagonal left in", "log 2"), ("not normalised", "twice the length")):
        page.get_by_role("button", name=button).click()
        why = page.locator(".why").inner_text()
        broken, instead = (float(word) for word in re.match(r"Broken: ([\d.]+) instead of ([\d.]+)\. ", why).groups())
        assert says in why and shown_loss(page) != good
        assert (broken, instead) == (pytest.approx(shown_loss(page), abs=6e-4), pytest.approx(good, abs=6e-4))    # three digits, four there
    page.get_by_role("button", name="as in Eq. 1").click()
    assert status(page) == before and page.locator(".why").inner_text() == ""


@pytest.mark.parametrize("bug, negatives", [("", 10), ("interleaved", 10), ("diagonal", 11), ("lengths", 10)])
def test_a_row_that_may_name_itself_has_one_more_negative(open_page, lab, bug, negatives):
    made = tiny()
    made.broken = bug
    page, words = open_page(made), f"of {negatives} negatives count"
    places = page.locator(".numbers"), page.get_by_role("status"), page.locator(".forces .note")
    assert all(words in place.inner_text() for place in places)
    top = "([b, bug]) => Object.values(CURVES).at(-1)({ ...laboratory(unpack(new Uint8Array(b)))('last', 0.5, bug), anchor: 0 }).top"
    assert lab.evaluate(top, [list(made.blob), bug]) == negatives


def test_hostile_names_are_text(open_page):
    x = np.zeros((4, 1, 8, 8), "u1")
    page = open_page(Playground({EVIL: random_pair(4)}, x, x, [0, 0, 1, 1], (EVIL, "</script><b>")))
    assert page.locator(".anchor b").inner_text() == f"Row 1a, class {EVIL}"
    assert page.get_by_role("button", name=EVIL, exact=True).count() == 1 and page.locator("#widget img, #widget b b").count() == 0


def test_a_narrow_or_dark_page_fits(open_page):
    page = open_page(tiny(), viewport=dict(width=390, height=800), color_scheme="dark")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.wait_for_selector(".playground.dark")
    assert page.locator("#widget canvas").count() == 4 and all(c.get_attribute("aria-label") for c in page.locator("#widget canvas").all())


def test_every_control_has_a_name(open_page):
    page = open_page(tiny())
    assert page.evaluate("""[...document.querySelectorAll("button, input, canvas")].filter((e) => !(e.getAttribute("aria-label") ?? e.textContent).trim()).length""") == 0


# Live: a stand-in for the kernel's model

KERNEL = """async ([bytes, state]) => {
  const heard = {}, sent = [], all = { ...state, blob: new DataView(Uint8Array.from(bytes).buffer) }, changed = new Set();
  const fire = (key) => [...(heard[`change:${key}`] ?? [])].forEach((f) => f());
  globalThis.model = { sent, heard, get: (key) => all[key], off(event, f) { heard[event] = heard[event].filter((g) => g !== f); },
    on(event, f) { (heard[event] ??= []).push(f); },
    set(key, value) { if (all[key] === value) return; all[key] = value; changed.add(key); fire(key); },
    save_changes() { for (const key of changed) sent.push([key, all[key]]); changed.clear(); } };
  globalThis.fromPython = (key, value) => { all[key] = value; fire(key); };
  globalThis.clean = await render({ model, el: document.getElementById("here") });
}"""


@pytest.fixture
def live(browser):
    page = browser.new_page()
    page.wrong = []
    page.on("pageerror", lambda e: page.wrong.append(str(e)))
    page.set_content("<div id=here></div>")
    page.add_script_tag(content=javascript("playground").removesuffix(END) + "globalThis.render = render;", type="module")
    yield page
    assert page.wrong == []
    page.close()


def show(live, widget):
    keys = ("temperature", "anchor", "checkpoint", "broken", "loss", "live")
    live.evaluate(KERNEL, [list(widget.blob), {k: getattr(widget, k) for k in keys}])


def sent(live): return dict(live.evaluate("model.sent.splice(0)"))


def test_python_moves_the_page_and_hears_the_loss(live, real):
    show(live, real)
    pair = real.zs["after 2 epochs"]
    assert sent(live) == dict(loss=pytest.approx(nt_xent_loss(*pair, 0.2).item(), abs=1e-5))
    live.evaluate("fromPython('temperature', 0.1)")
    assert sent(live) == dict(loss=pytest.approx(nt_xent_loss(*pair, 0.1).item(), abs=1e-5))
    assert live.get_by_label("temperature", exact=True).input_value() == "0.1"
    share = math.log(0.1 / 0.02) / math.log(100)
    assert float(live.get_by_role("slider").input_value()) == round(200 * share)
    live.evaluate("fromPython('checkpoint', 'random weights')")
    assert sent(live) == dict(loss=pytest.approx(nt_xent_loss(*real.zs["random weights"], 0.1).item(), abs=1e-5))
    live.evaluate("fromPython('anchor', 30)")
    assert live.locator(".anchor b").inner_text().startswith("Row 7b") and sent(live) == {}


def test_the_page_tells_python(live, real):
    show(live, real)
    sent(live)
    live.get_by_label("temperature", exact=True).fill("0.05")
    told = sent(live)
    assert told == dict(temperature=0.05, loss=pytest.approx(nt_xent_loss(*real.zs["after 2 epochs"], 0.05).item(), abs=1e-5))
    live.locator(".matrix").press("ArrowDown")
    assert sent(live) == dict(anchor=24)                                 # below view a of image 1 lies its view b
    live.get_by_role("button", name="diagonal left in").click()
    assert sent(live)["broken"] == "diagonal"
    live.get_by_role("button", name="random weights").click()
    assert sent(live)["checkpoint"] == "random weights"
    live.get_by_role("slider").press("Home")
    assert sent(live)["temperature"] == 0.02


def test_what_the_page_tells_is_what_python_accepts(live):
    made = tiny()
    show(live, made)
    live.locator(".matrix").press("End")
    live.get_by_label("temperature", exact=True).fill("1e-3")
    live.get_by_role("button", name="first").click()
    for name, value in sent(live).items(): setattr(made, name, value)
    assert (made.anchor, made.temperature, made.checkpoint) == (11, 1e-3, "first")
    assert made.loss == pytest.approx(nt_xent_loss(*(z.double() for z in made.zs["first"]), 1e-3).item(), rel=1e-9)


def test_closing_leaves_nothing_that_listens(live):
    show(live, tiny())
    assert live.evaluate("Object.values(model.heard).flat().length") == 4
    live.evaluate("clean()")
    assert live.evaluate("Object.values(model.heard).flat().length") == 0


def test_saved_state_is_the_state(open_page):
    made = tiny(temperature=0.1)
    made.anchor, made.checkpoint, made.broken = 7, "first", "interleaved"
    page = open_page(made)
    assert page.get_by_label("temperature", exact=True).input_value() == "0.1" and page.locator(".anchor b").inner_text().startswith("Row 2b")
    assert [b.inner_text() for b in page.locator("[aria-pressed=true]").all()] == ["first", "views interleaved"]
    state = json.loads(page.locator("#state").text_content())
    assert state == dict(anchor=7, broken="interleaved", checkpoint="first", loss=None, temperature=0.1)
