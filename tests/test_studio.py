"The augmentation studio: JavaScript against PyTorch, the live widget against a direct computation, the page in a real browser."
import base64
import math
import re
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import ks_2samp
from torch import nn

from simclr.augment import Draws, SimCLRAugment
from simclr.data import TensorImages, load_images
from simclr.model import ProjectionHead, SimCLRModel, build_encoder
from simclr.pretrain import pretrain
from simclr.runs import load_run
from simclr.studio import SETTINGS, Studio, fold, pair_cosines, pick, round_weights, run_steps, shrink, steps_of, win_rate
from simclr.widget import END, javascript, pack, unpack

HOSTILE = "<img src=x onerror=alert(1)>"
FIELDS = Draws._fields


def seeded(seed): return torch.Generator().manual_seed(seed)


def pictures(channels, size, n=6, seed=0):
    "Smooth coloured patterns with noise, uint8."
    g = seeded(seed)
    low = F.interpolate(torch.rand(n, channels, 4, 4, generator=g), (size, size), mode="bicubic", align_corners=False)
    return ((low + 0.1 * torch.rand(n, channels, size, size, generator=g)).clamp(0, 1) * 255).byte()


def used_model(channels=1, size=16, width=8, head=True, seed=0):
    "A network with random weights whose BatchNorms have seen data and have weights of their own, so that folding them is a task."
    torch.manual_seed(seed)
    encoder = build_encoder("resnet8", channels, size, width=width, mean=(0.4,) * channels, std=(0.25,) * channels)
    model = SimCLRModel(encoder, 30, 10) if head else encoder
    for norm in (m for m in model.modules() if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d))):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.uniform_(norm.bias, -0.3, 0.3)
    x = model.normalise(pictures(channels, size, 64, seed))
    for _ in range(30): model(x)
    return model.eval()


def json_draws(draws): return [dict(zip(FIELDS, (field[i].tolist() for field in draws))) for i in range(len(draws.box))]


@pytest.fixture
def script(browser):
    "A blank page that knows every function of the studio's script."
    page = browser.new_page()
    errors = []
    page.on("pageerror", lambda e: errors.append(str(e)))
    page.add_script_tag(content=javascript("studio").removesuffix(END))
    page.evaluate("window.bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0))")
    yield page
    assert errors == []
    page.close()


def text(data): return base64.b64encode(bytes(data)).decode()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    "A short real run."
    return pretrain("digits", backbone="resnet8", width=32, optimizer="adamw", learning_rate=3e-3, lr_scaling_method="none", batch_size=128,
                    min_crop_scale=0.3, flip_prob=0.0, rotate_degrees=15.0, epochs=3, warmup_epochs=1, knn_every=0, seed=0, echo=False,
                    run_dir=str(tmp_path_factory.mktemp("studio")))


@pytest.fixture(scope="module")
def small():
    "A studio with hostile class names and a net of random weights."
    return Studio(used_model(), TensorImages(pictures(1, 16), torch.arange(6) % 2), (HOSTILE, "b"), trained=None, min_crop_scale=0.3, grey_prob=0)


# Numbers, by oracles that do not share the code

def test_pair_cosines_are_those_of_a_loop():
    model, x = used_model(), pictures(1, 16)
    augment = SimCLRAugment(16, (0.4,), (0.25,), rotate_degrees=20)
    same, other = pair_cosines(model, x, augment, seeded(1))
    with torch.no_grad(): a, b = (model(view).double().numpy() for view in augment(x, seeded(1)))
    cos = lambda u, v: u @ v / np.sqrt(u @ u * (v @ v))
    for i in range(6):
        assert same[i].item() == pytest.approx(cos(a[i], b[i]), abs=1e-5)
        assert other[i].tolist() == pytest.approx([cos(a[i], b[j]) for j in range(6) if j != i], abs=1e-5)


def test_pair_cosines_leaves_the_model_in_its_mode():
    model = used_model().train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    pair_cosines(model, pictures(1, 16), SimCLRAugment(16, (0.4,), (0.25,)))
    assert model.training and all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("n, m", [(1, 1), (7, 13), (40, 5)])
def test_win_rate_counts_comparisons(script, n, m):
    same, other = ((torch.rand(k, generator=seeded(k)) * 9).round() / 9 for k in (n, m))              # many draws
    counted = sum(1 if s > o else 0.5 if s == o else 0 for s, o in product(same.tolist(), other.tolist())) / (n * m)
    assert win_rate(same, other) == pytest.approx(counted, abs=1e-12)
    assert script.evaluate("([s, o]) => winRate(s, o)", [same.tolist(), other.tolist()]) == pytest.approx(counted, abs=1e-12)


# The encoder as steps

@pytest.mark.parametrize("channels, size, width, head", [(1, 16, 8, True), (3, 20, 6, True), (3, 32, 4, False)])
def test_steps_are_the_network(channels, size, width, head):
    model = used_model(channels, size, width, head)
    x = model.normalise(pictures(channels, size))
    steps = steps_of(getattr(model, "encoder", model), getattr(model, "head", None))
    h, z = run_steps(steps, x)
    with torch.no_grad():
        torch.testing.assert_close(h, getattr(model, "encoder", model)(x), rtol=1e-4, atol=1e-5)
        assert z is None if not head else (z - model(x)).abs().max() < 1e-4


def test_a_head_without_batchnorm_has_steps_too():
    torch.manual_seed(0)
    encoder = build_encoder("resnet8", 1, 16, width=4).eval()
    head = ProjectionHead(32, 12, 7, batch_norm=False).eval()
    x = torch.randn(3, 1, 16, 16)
    with torch.no_grad(): torch.testing.assert_close(run_steps(steps_of(encoder, head), x)[1], head(encoder(x)), rtol=1e-4, atol=1e-5)


def test_fold_of_a_linear_layer_with_a_bias():
    torch.manual_seed(0)
    layer, norm = nn.Linear(5, 3), nn.BatchNorm1d(3)
    nn.init.uniform_(norm.weight, 0.5, 2)
    nn.init.uniform_(norm.bias)
    for _ in range(20): norm(layer(torch.randn(50, 5)))
    x = torch.randn(4, 5)
    weight, bias = fold(layer, norm.eval())
    with torch.no_grad(): torch.testing.assert_close(F.conv2d(x[:, :, None, None], weight, bias).flatten(1), norm(layer(x)))


@pytest.mark.parametrize("bits", [2, 4, 7, 8])
def test_rounding_errs_by_half_a_step_at_most(bits):
    weight = torch.randn(5, 3, 3, 3, generator=seeded(0)) * torch.tensor([1e-3, 1, 10, 0, 5]).view(-1, 1, 1, 1)
    whole, scale = round_weights(weight, bits)
    assert whole.dtype == np.int8 and abs(whole).max() == 2**(bits - 1) - 1 and not whole[3].any()
    error = (torch.from_numpy(whole) * scale.view(-1, 1, 1, 1) - weight).abs().flatten(1).amax(1)
    assert (error <= scale / 2 * 1.0001).all()


def test_the_biases_take_up_what_rounding_adds_on_average():
    model = used_model()
    x, steps = model.normalise(pictures(1, 16)), steps_of(model.encoder, model.head)
    errors = []
    for keep in (True, False):
        rounded, _ = shrink(steps, x, lambda step: 3)
        if not keep: rounded = [step._replace(bias=old.bias) for step, old in zip(rounded, steps)]
        errors.append((run_steps(rounded, x)[1] - run_steps(steps, x)[1]).mean(0).abs().mean().item())
    assert errors[0] < errors[1] / 2


# JavaScript against PyTorch

OPERATIONS = dict(nothing=dict(crop_scale=(1, 1), flip_prob=0, jitter_strength=0, grey_prob=0), crop=dict(flip_prob=0, jitter_strength=0, grey_prob=0),
                  flip=dict(crop_scale=(1, 1), flip_prob=1, jitter_strength=0, grey_prob=0), turn=dict(rotate_degrees=180, jitter_strength=0, grey_prob=0),
                  blur=dict(blur_prob=1, jitter_strength=0, grey_prob=0), jitter=dict(crop_scale=(1, 1), jitter_strength=2, jitter_prob=1, grey_prob=0),
                  grey=dict(crop_scale=(1, 1), grey_prob=1), all=dict(crop_scale=(0.02, 1), rotate_degrees=180, blur_prob=0.5, jitter_strength=1.5, grey_prob=0.3))
VIEWS = """([sheet, C, S, draws]) => draws.map((d, i) => Array.from(viewOf(bytes(sheet).subarray(i * C * S * S, (i + 1) * C * S * S), C, S, d)))"""


@pytest.mark.parametrize("channels, size", [(1, 16), (3, 16), (3, 30)])
@pytest.mark.parametrize("name", OPERATIONS)
def test_views_are_those_of_simclr_augment(script, name, channels, size):
    x = pictures(channels, size, 12)
    augment = SimCLRAugment(size, (0.5,) * channels, (0.5,) * channels, **OPERATIONS[name])
    draws = augment.draw(12, size, size, seeded(0))
    ours = script.evaluate(VIEWS, [text(x.numpy().tobytes()), channels, size, json_draws(draws)])
    gap = (torch.tensor(ours).view_as(x) - augment.apply(x, draws)).abs().max().item()
    assert gap < 2e-4                                                   # float32 against float64; a twentieth of a grey level


def test_draws_come_from_the_same_distributions(script):
    settings = dict(min_crop_scale=0.1, jitter_strength=1.5, grey_prob=0.3, blur_prob=0.6, rotate_degrees=90, flip_prob=0.25)
    theirs = script.evaluate("([s, n]) => Array.from({ length: n }, (_, k) => drawView(stream(7, k), s, 24))", [settings, 4000])
    ours = SimCLRAugment(24, crop_scale=(0.1, 1), **{k: v for k, v in settings.items() if k != "min_crop_scale"}).draw(4000, 24, 24, seeded(0))
    for field, value in zip(FIELDS, ours):
        column = torch.tensor([d[field] for d in theirs]).float().view(4000, -1)
        for a, b in zip(column.T, value.float().view(4000, -1).T):
            assert ks_2samp(a, b, method="asymp").statistic < 1.95 * math.sqrt(2 / 4000), field               # the 0.1 % point, and less where values repeat
    assert len({tuple(d["order"]) for d in theirs}) == 24
    sides = torch.tensor([d["box"] for d in theirs]).float()[:, 2:].log()
    assert abs((sides[:, 1] - sides[:, 0]).mean()) < 0.015              # as often wide as tall: 4 standard errors, and pixels


def test_one_slider_leaves_the_other_draws_alone(script):
    base = dict(min_crop_scale=0.3, jitter_strength=0.5, grey_prob=0.2, blur_prob=0.5, rotate_degrees=15, flip_prob=0.5)
    draw = lambda **change: script.evaluate("(s) => plan(s, 0, 0, 6, 16).draws", base | change)
    same, turned = draw(), draw(rotate_degrees=30)
    assert [{**d, "angle": 2 * d["angle"]} for d in same] == [{**d, "angle": pytest.approx(d["angle"])} for d in turned]
    assert draw() == same and script.evaluate("(s) => plan(s, 0, 1, 6, 16).draws", base) != same


def test_a_stranger_is_never_the_picture_itself(script):
    images = script.evaluate("(s) => plan(s, 3, 0, 6, 16).images", dict.fromkeys(SETTINGS, 0.5))
    assert images[0::3] == images[1::3] == [3] * 32 and set(images[2::3]) == {0, 1, 2, 4, 5}


def test_half_floats_are_read_right(script):
    bits = np.arange(1 << 16, dtype="u2")
    bits = bits[np.isfinite(bits.view("f2"))]
    assert script.evaluate("(bits) => bits.map(fromHalf)", bits.tolist()) == bits.view("f2").astype(float).tolist()


def ask_page(script, studio, question):
    return script.evaluate("([blob, q]) => { const a = pageEngine(unpack(bytes(blob)))(q); return { ...a, views: a.views.map((v) => Array.from(v)) }; }",
                           [text(studio.blob), question])


def question(studio, n=24, seed=0, **change):
    "Pairs of partners and of strangers at settings, as the script asks them, and as tensors."
    size, g = studio.images.x.shape[3], seeded(seed)
    draws = SimCLRAugment(size, (0.5,), (0.5,), **dict(crop_scale=(0.3, 1), rotate_degrees=15) | change).draw(n, size, size, g)
    index = torch.randint(len(studio.images), (n,), generator=g).tolist()
    index[1] = index[0]
    pairs = [[0, 1], *torch.randint(n, (40, 2), generator=g).tolist()]
    return dict(images=index, draws=json_draws(draws), pairs=pairs, show=[0, n - 1]), draws


def as_message(question): return dict(question, draws={k: [d[k] for d in question["draws"]] for k in FIELDS})


def direct(model, x, question, draws):
    "The cosines by PyTorch, without the studio."
    augment = SimCLRAugment(x.shape[3], model.encoder.config["mean"], model.encoder.config["std"], blur_prob=1, rotate_degrees=1)
    views = augment.apply(x[question["images"]], draws)
    a, b = torch.tensor(question["pairs"]).T
    with torch.no_grad(): h, z = model.encoder(augment.normalise(views)), model(augment.normalise(views))
    return F.cosine_similarity(h[a], h[b]), F.cosine_similarity(z[a], z[b]), views


@pytest.mark.parametrize("channels, size, width", [(1, 16, 8), (3, 20, 6)])
def test_the_script_runs_the_rounded_network(script, channels, size, width):
    model = used_model(channels, size, width)
    studio = Studio(model, TensorImages(pictures(channels, size), torch.zeros(6).long()))
    asked, draws = question(studio, blur_prob=0.5)
    rounded, _ = shrink(steps_of(model.encoder, model.head), model.normalise(studio.images.x))
    _, _, views = direct(model, studio.images.x, asked, draws)
    h, z = run_steps(rounded, (views - model.encoder.mean) / model.encoder.std)
    a, b = torch.tensor(asked["pairs"]).T
    answer = ask_page(script, studio, asked)
    assert answer["h"] == pytest.approx(F.cosine_similarity(h[a], h[b]).tolist(), abs=2e-4)
    assert answer["z"] == pytest.approx(F.cosine_similarity(z[a], z[b]).tolist(), abs=1e-3)
    for n, shown in zip(asked["show"], answer["views"]): assert abs(torch.tensor(shown) - 255 * views[n].flatten()).max() < 0.51


@pytest.mark.parametrize("change", [{}, dict(crop_scale=(0.02, 1), jitter_strength=2, rotate_degrees=180, blur_prob=0.5)])
def test_rounding_costs_a_trained_encoder_less_than_a_hundredth(script, run, change):
    studio, model = Studio.from_run(run), load_run(run)
    asked, draws = question(studio, 48, **change)
    h, z, _ = direct(model, studio.images.x, asked, draws)
    answer = ask_page(script, studio, asked)
    assert answer["h"] == pytest.approx(h.tolist(), abs=0.01)
    assert answer["z"] == pytest.approx(z.tolist(), abs=0.05)           # four bits in the head


# Python's side

def test_an_answer_is_what_pytorch_computes(run):
    studio, model = Studio.from_run(run), load_run(run)
    asked, draws = question(studio, blur_prob=0.5)
    h, z, views = direct(model, studio.images.x, asked, draws)
    answer, shown = studio.answer(as_message(asked))
    assert answer["h"] == pytest.approx(h.tolist(), abs=1e-5) and answer["z"] == pytest.approx(z.tolist(), abs=1e-5)
    assert [np.frombuffer(v, "u1").tolist() for v in shown] == [(views[n] * 255).round().byte().flatten().tolist() for n in (0, 23)]


def test_a_message_is_answered_with_its_number_and_a_bad_one_with_an_error(small):
    sent = []
    small.send = lambda content, buffers=None: sent.append((content, buffers))
    asked = as_message(question(small, 3)[0] | dict(pairs=[[0, 1]]))
    small._handle_custom_msg(asked | dict(id="a-1"), [])
    small._handle_custom_msg(asked | dict(id="a-2", images=[0, 0, 99]), [])
    small._handle_custom_msg(asked | dict(id="a-3", images=[0]), [])
    (good, buffers), (bad, none), (few, _) = sent
    assert good["id"] == "a-1" and good["h"] == [pytest.approx(small.answer(asked)[0]["h"][0])] and len(buffers) == 2
    assert bad == dict(id="a-2", error="images=[0, 0, 99], but there are 6, from 0") and none == []
    assert few["id"] == "a-3" and "each image needs its own" in few["error"]


def test_a_run_gives_its_settings_and_held_out_pictures(run):
    studio, images = Studio.from_run(run, flip_prob=0.25), load_images("digits")
    meta, arrays = unpack(studio.blob)
    assert meta["trained"] == dict(min_crop_scale=0.3, jitter_strength=0.5, grey_prob=0.2, blur_prob=0.0, rotate_degrees=15.0, flip_prob=0.0)
    assert [studio.min_crop_scale, studio.rotate_degrees, studio.flip_prob] == [0.3, 15, 0.25]
    held_out = {p.numpy().tobytes() for p in images.val.x}
    assert len(arrays["x"]) == 24 and all(p.tobytes() in held_out for p in arrays["x"])
    assert arrays["y"].tolist() == images.val.y[pick(images.val.y)].tolist() == sorted(arrays["y"].tolist())


def test_a_run_without_a_checkpoint_has_no_z(run, tmp_path):
    for name in ("config.yaml", "encoder.safetensors"): (tmp_path / name).write_bytes((run / name).read_bytes())
    studio = Studio.from_run(tmp_path, n=5)
    assert studio.answer(as_message(question(studio, 4)[0] | dict(pairs=[[0, 1]], show=[])))[0]["z"] is None
    assert unpack(studio.blob)[0]["head"] is False and len(studio.images) == 5


def test_another_backbone_is_live_only(tmp_path):
    torch.manual_seed(0)
    encoder = build_encoder("resnet18", 1, 16)
    studio = Studio(encoder, TensorImages(pictures(1, 16, 2), torch.tensor([0, 1])))
    assert unpack(studio.blob)[0]["steps"] is None
    assert len(studio.answer(as_message(question(studio, 3)[0] | dict(pairs=[[0, 1]], show=[])))[0]["h"]) == 1
    with pytest.raises(ValueError, match="resnet18 is shown live only"): studio.save(tmp_path / "x.html")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("change, message", [
    (dict(crop=0.5), "no setting called crop"), (dict(jitter_strength=2.5), "greater than 2"), (dict(min_crop_scale=0.0), "less than 1e-09"),
    (dict(seed=-1), "less than 0"), (dict(images=TensorImages(pictures(1, 16, 1), torch.zeros(1))), "at least 2"),
    (dict(images=TensorImages(pictures(1, 16)[:, :, :8], torch.zeros(6))), "square"),
    (dict(images=TensorImages(pictures(3, 16), torch.zeros(6))), "takes (N, 1, H, W)")])
def test_bad_arguments_are_named(change, message):
    given = dict(images=TensorImages(pictures(1, 16), torch.zeros(6).long())) | change
    with pytest.raises(Exception, match=re.escape(message)): Studio(used_model(width=4), **given)


def test_bad_runs_are_named(run, tmp_path):
    with pytest.raises(FileNotFoundError, match="config.yaml"): Studio.from_run(tmp_path)
    (tmp_path / "config.yaml").write_text("epochs: 3\n")
    with pytest.raises(ValueError, match="no pre-training run: it has no min_crop_scale"): Studio.from_run(tmp_path)
    with pytest.raises(ValueError, match="0 pictures held out of digits"): Studio.from_run(run, load_images("digits", val_fraction=0))


# In a real browser

DONE = ".studio:not([data-busy]) .status:not(:empty)"


@pytest.fixture
def visit(browser):
    "Open an address; whatever goes wrong on it, and every request but the first, fails the test."
    pages = []
    def go(address, **how):
        page = browser.new_page(**how)
        page.wrong = []
        page.on("pageerror", lambda e: page.wrong.append(str(e)))
        page.on("console", lambda m: page.wrong.append(m.text))
        page.on("dialog", lambda d: (page.wrong.append(d.message), d.dismiss()))
        page.on("request", lambda r: r.url == address or page.wrong.append(r.url[:200]))
        page.goto(address)
        page.wait_for_selector(DONE)
        pages.append(page)
        return page
    yield go
    for page in pages:
        assert page.wrong == []
        page.close()


def settled(page, act):
    "Do something, and wait until the studio has drawn all of it."
    act()
    page.wait_for_timeout(60)
    page.wait_for_selector(DONE)
    return [page.inner_text(part) for part in (".number", ".status")]


@pytest.fixture(scope="module")
def saved(small, tmp_path_factory): return small.save(tmp_path_factory.mktemp("page") / "studio.html", "Studio").as_uri()


def test_the_page_shows_the_cosine_of_the_two_views(visit, script, small, saved):
    page = visit(saved)
    settings = {k: getattr(small, k) for k in SETTINGS}
    plan = script.evaluate("(s) => plan(s, 0, 0, 6, 16)", settings)
    asked = dict(images=plan["images"], draws=plan["draws"], pairs=[[3 * k, 3 * k + i] for k in range(32) for i in (1, 2)], show=[0, 1])
    exact, shown = small.answer(as_message(asked))
    number, z = page.inner_text(".number").split(" in h, ")
    assert float(number.split()[-1].replace("−", "-")) == pytest.approx(exact["h"][0], abs=0.015)
    assert float(z.split()[0].replace("−", "-")) == pytest.approx(exact["z"][0], abs=0.03)
    wins = win_rate(torch.tensor(exact["z"][0::2]), torch.tensor(exact["z"][1::2]))
    assert f"more alike in {round(100 * wins)} %" in page.inner_text(".status")
    canvas = page.evaluate("(() => { const c = document.querySelector('.two canvas'); return [...c.getContext('2d').getImageData(0, 0, 16, 16).data]; })()")
    assert abs(np.array(canvas[::4]) - np.frombuffer(shown[1], "u1").astype(int)).max() <= 1


def test_keyboard_moves_a_slider_and_the_cosine(visit, saved):
    page = visit(saved)
    before = page.inner_text(".number")
    assert page.get_by_label("rotated up to").get_attribute("aria-valuetext") == "0°"
    page.get_by_label("rotated up to").focus()
    after = settled(page, lambda: page.keyboard.press("End"))
    assert after[0] != before and page.get_by_label("rotated up to").get_attribute("aria-valuetext") == "180°"
    page.get_by_label("picture 3", exact=False).focus()
    assert settled(page, lambda: page.keyboard.press("Enter"))[0] != after[0]
    assert page.locator(".thumb[aria-pressed=true]").count() == 1


def test_buttons(visit, saved):
    page = visit(saved)
    first = page.inner_text(".number")
    assert settled(page, lambda: page.get_by_text("draw again").click())[0] != first
    number, status = settled(page, lambda: page.get_by_text("no change at all").click())
    assert "1.00 in h, 1.00 in z" in number and "Nothing is random" in status and "100 % of comparisons" in status
    assert "a factor can be 0" in settled(page, lambda: page.get_by_text("all at their ends").click())[1]
    assert "Cosines of h" in settled(page, lambda: page.get_by_text("h, what the encoder says").click())[1]
    assert page.get_by_label("greyed").is_disabled() and page.get_by_text("as in training").count() == 0


def test_only_the_last_of_many_moves_counts(visit, saved):
    page = visit(saved)
    page.get_by_label("rotated up to").focus()
    moved = settled(page, lambda: [page.keyboard.press("ArrowRight") for _ in range(12)])
    other = visit(saved)
    other.get_by_label("rotated up to").focus()
    set_once = "(v) => { const s = document.activeElement; s.value = v; s.dispatchEvent(new Event('input', { bubbles: true })); }"
    assert settled(other, lambda: other.evaluate(set_once, 60)) == moved
    dots = "(() => document.querySelector('.plot').toDataURL())()"
    assert page.evaluate(dots) == other.evaluate(dots)


@pytest.mark.parametrize("channels", [1, 3])
def test_greying_what_has_no_colour_is_nothing_random(visit, channels, tmp_path):
    still = dict(min_crop_scale=1, jitter_strength=0, grey_prob=0.2, blur_prob=0, rotate_degrees=0, flip_prob=0)
    studio = Studio(used_model(channels), TensorImages(pictures(channels, 16), torch.zeros(6).long()), **still)
    page = visit(studio.save(tmp_path / "still.html").as_uri())
    assert ("Nothing is random" in page.inner_text(".status")) == (channels == 1)


@pytest.mark.parametrize("how", [dict(viewport=dict(width=390, height=800)), dict(color_scheme="dark")])
def test_hostile_names_are_text_and_nothing_overflows(visit, saved, how):
    page = visit(saved, **how)
    assert page.inner_text(".original figcaption") == f"picture class {HOSTILE}"
    assert page.locator("img").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate("document.querySelector('.studio').classList.contains('dark')") is ("color_scheme" in how)


LIVE = """async ([blob, state]) => {
  const heard = {}, host = document.createElement("div");
  document.body.append(host);
  window.model = {
    ...localModel({ ...state, blob: bytes(blob), live: true }),
    on(event, f) { (heard[event] ??= []).push(f); }, off(event, f) { heard[event] = heard[event].filter((g) => g !== f); }, set() {},
    async send(question) {
      const [content, views] = await askPython(question);
      heard["msg:custom"].forEach((f) => f(content, views.map((v) => new DataView(bytes(v).buffer))));
    },
  };
  window.end = await render({ model, el: host });
  window.heard = heard;
}"""


@pytest.mark.parametrize("channels", [1, 3])
def test_the_live_widget_shows_what_python_answers(script, channels):
    studio = Studio(used_model(channels), TensorImages(pictures(channels, 16), torch.zeros(6).long()), ("a",), rotate_degrees=30.0)
    asked = []
    def ask(message):
        asked.append(message)
        content, views = studio.answer(message)
        return dict(content, id=message["id"]), [text(v) for v in views]
    script.expose_function("askPython", ask)
    script.evaluate(LIVE, [text(studio.blob), {k: getattr(studio, k) for k in (*SETTINGS, "image", "seed")}])
    script.wait_for_selector(DONE)
    first, rest = asked
    assert len(first["images"]) == 3 and len(rest["images"]) == 93 and rest["show"] == []
    h, z = (studio.answer(first)[0][k][0] for k in "hz")
    assert script.inner_text(".number").replace("−", "-") == f"cosine of the two views: {h:.2f} in h, {z:.2f} in z"
    canvas = script.evaluate("(() => { const c = document.querySelector('.one canvas'); return [...c.getContext('2d').getImageData(0, 0, 16, 16).data]; })()")
    shown = np.frombuffer(studio.answer(first)[1][0], "u1").reshape(channels, 256)
    assert np.array(canvas).reshape(256, 4)[:, :3].T.tolist() == np.broadcast_to(shown, (3, 256)).tolist()
    script.evaluate("end()")
    assert script.evaluate("Object.values(heard).every((f) => f.length === 0)")


def test_an_error_in_python_is_shown(script, small):
    script.expose_function("askPython", lambda message: [dict(id=message["id"], error="out of <b>memory</b>"), []])
    script.evaluate(LIVE, [text(small.blob), {k: getattr(small, k) for k in (*SETTINGS, "image", "seed")}])
    script.wait_for_selector(".status:not(:empty)")
    assert script.inner_text(".status") == "No answer: out of <b>memory</b>"


def test_a_busy_kernel_is_named_and_asked_again(script, small):
    asked, busy = [], True
    def ask(message):
        asked.append(len(message["images"]))
        if busy: return [dict(id="of another widget"), []]
        content, views = small.answer(message)
        return dict(content, id=message["id"]), [text(v) for v in views]
    script.expose_function("askPython", ask)
    script.evaluate("(() => { const wait = setTimeout; window.haste = 40; window.setTimeout = (f, ms = 0) => wait(f, ms / haste); })()")
    script.evaluate(LIVE, [text(small.blob), {k: getattr(small, k) for k in (*SETTINGS, "image", "seed")}])
    script.wait_for_selector(DONE)
    assert script.inner_text(".status").startswith("The kernel does not answer in time") and asked == [3]
    busy = False
    settled(script, lambda: script.evaluate("(() => { haste = 1; heard['change:seed'].forEach((f) => f()); })()"))
    assert script.inner_text(".status").startswith("Cosines of z") and asked == [3, 3, 93]


def test_where_the_page_takes_over_it_takes_small_steps(script):
    sizes = script.evaluate("""async () => {
        const sizes = [], plain = { images: Array(96).fill(0), draws: Array(96).fill(0) }, page = (q) => { sizes.push(q.images.length); return {}; };
        await measure(null, async (q) => { sizes.push(q.images.length); return sizes.length > 1 ? { page } : {}; }, plain, PAIRS, () => false);
        return sizes; }""")
    assert sizes == [3, 93, 21, 21, 21, 21, 9]


def test_the_page_takes_over_from_a_kernel_that_has_ended(script, small):
    asked, _ = question(small, 4)
    asked["pairs"] = [[0, 1]]
    waits = "async ([blob, q]) => { const silent = { on() {}, send() {} }; return kernelEngine(silent, unpack(bytes(blob)), 0.05).ask(q).then((a) => a.page(q), (e) => e.message); }"
    answer = script.evaluate(waits, [text(small.blob), dict(asked, show=[])])
    assert answer["h"] == ask_page(script, small, asked)["h"]
    meta, arrays = unpack(small.blob)
    bare = pack(meta | dict(steps=None), **arrays)
    assert script.evaluate(waits, [text(bare), dict(asked, show=[])]) == "the kernel does not answer"
