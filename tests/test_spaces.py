"Several spaces of the same images: refusals, the choice of images, neighbours by brute force, views, names of runs."
import json
import math
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.metrics import silhouette_score

import simclr.spaces as spaces
from simclr.augment import SimCLRAugment
from simclr.baseline import train_from_scratch
from simclr.data import TensorImages, load_images
from simclr.evaluate import pixel_features, random_encoder
from simclr.model import build_encoder, embed, load_encoder, save_encoder
from simclr.pretrain import pretrain
from simclr.spaces import K, LAYOUTS, Space, build_space, choose_images, encoders_of, judge, probe, same_images, views_of

DIGITS = dict(dataset="digits", root=None, image_size=None, val_fraction=0.1)
OFF = dict(crop_scale=(1, 1), crop_ratio=(1, 1), flip_prob=0, jitter_strength=0, grey_prob=0)


@pytest.fixture(scope="module")
def digits(): return load_images("digits")


@pytest.fixture(scope="module")
def shown(): return choose_images(DIGITS, 200)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    "Two short runs of the same kind, and one with labels from scratch."
    net = dict(backbone="resnet8", width=4, optimizer="adamw", epochs=1, batch_size=256, warmup_epochs=0, flip_prob=0.0, echo=False)
    net |= dict(run_dir=str(tmp_path_factory.mktemp("runs")))
    made = [pretrain("digits", **net, hidden_dim=16, projection_dim=8, knn_every=0, snapshots=n, seed=s) for s, n in ((0, 2), (1, 0))]
    return [*made, train_from_scratch("digits", **net, padding=0, seed=0)]


def record(folder, **settings):
    "A run's folder with nothing but a record."
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(dict(config=DIGITS | dict(epochs=1) | settings)))
    return folder


def random_features(N=60, D=7, classes=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(N, D, generator=generator), torch.randint(classes, (N,), generator=generator)


# same_images

REFUSED = dict(dataset=(dict(dataset="cifar10"), "dataset: digits in .*one, but cifar10 in .*two"), image_size=(dict(image_size=8), "image_size: None in"),
               val_fraction=(dict(val_fraction=0.2), "val_fraction: 0.1 in"))


@pytest.mark.parametrize("key", REFUSED)
def test_runs_of_other_images_are_refused(key, tmp_path):
    settings, says = REFUSED[key]
    with pytest.raises(ValueError, match=says): same_images([record(tmp_path / "one"), record(tmp_path / "two", **settings)])


def test_the_third_run_is_compared_too(tmp_path):
    with pytest.raises(ValueError, match="dataset: digits in .*one, but stl10 in .*three"):
        same_images([record(tmp_path / "one"), record(tmp_path / "two"), record(tmp_path / "three", dataset="stl10")])


def test_root_counts_for_a_folder_of_images_alone(tmp_path):
    assert same_images([record(tmp_path / "one", root="a"), record(tmp_path / "two", root="b", epochs=9)])["root"] == "a"
    with pytest.raises(ValueError, match="root: a in .*three, but b in .*four"):
        same_images([record(tmp_path / "three", dataset="folder", root="a"), record(tmp_path / "four", dataset="folder", root="b")])


def test_no_runs_and_unfinished_runs_are_refused(tmp_path):
    with pytest.raises(ValueError, match="runs is empty"): same_images([])
    with pytest.raises(FileNotFoundError, match="it is not a finished run"): same_images([record(tmp_path / "one"), tmp_path])


def test_a_classifier_and_its_pre_training_belong_together(runs): assert same_images(runs)["dataset"] == same_images(runs[::-1])["dataset"] == "digits"


# gallery

def pictures(images): return [x.numpy().tobytes() for x in images.x]


@pytest.mark.parametrize("count, held", [(16, 16), (143, 143), (144, 143), (500, 143), (1438, 143), (9999, 143)])
def test_held_out_images_come_first_and_test_images_never(digits, count, held):
    shown = choose_images(DIGITS, count)
    seen, val, train = pictures(shown.images), set(pictures(digits.val)), set(pictures(digits.train))
    assert len(seen) == min(count, 1438) and len(shown.held) == len(shown.images.y) == len(seen)
    assert shown.held.tolist() == [True] * held + [False] * (len(seen) - held)
    assert all(x in val for x in seen[:held]) and all(x in train for x in seen[held:])
    assert not set(seen) & set(pictures(digits.test)) and len(set(seen)) == len(seen)      # no two digits of these are equal
    assert shown.classes == tuple("0123456789") and shown.names is None


def test_labels_stay_with_their_pictures(digits, shown):
    of = dict(zip(pictures(digits.val) + pictures(digits.train), torch.cat([digits.val.y, digits.train.y]).tolist()))
    assert [of[x] for x in pictures(shown.images)] == shown.images.y.tolist()


def test_the_seed_decides_the_choice_and_the_order():
    one, same, other = choose_images(DIGITS, 50), choose_images(DIGITS, 50), choose_images(DIGITS, 50, seed=1)
    assert pictures(one.images) == pictures(same.images) != pictures(other.images) and set(pictures(one.images)) != set(pictures(other.images))
    assert pictures(choose_images(DIGITS, 30).images) == pictures(one.images)[:30]


def test_too_few_images_are_refused():
    with pytest.raises(ValueError, match="images=15 must be at least 16"): choose_images(DIGITS, 15)


def coloured(folder, n, start=0):
    "Pictures of one colour each, named after it."
    folder.mkdir(parents=True)
    for i in range(start, start + n): Image.new("RGB", (9, 9), (i, 255 - i, 7)).save(folder / f"picture {i}.png")


@pytest.mark.parametrize("labelled", [True, False])
def test_a_folder_gives_names_that_fit_the_pictures(tmp_path, labelled):
    if labelled:
        coloured(tmp_path / "train/<b>", 20)
        coloured(tmp_path / "train/cats", 20, 20)
        coloured(tmp_path / "test/cats", 5, 200)
    else: coloured(tmp_path / "all", 40)
    root = tmp_path if labelled else tmp_path / "all"
    shown = choose_images(dict(dataset="folder", root=str(root), image_size=9, val_fraction=0.25), 30)
    assert len(shown.images) == len(shown.names) == 30 and shown.classes == (("<b>", "cats") if labelled else ())
    assert int(shown.held.sum()) == (10 if labelled else 0)
    for name, x, y in zip(shown.names, shown.images.x, shown.images.y.tolist()):
        number = int(name.removeprefix("picture ").removesuffix(".png"))
        assert x[:, 0, 0].tolist() == [number, 255 - number, 7] and number < 200
        assert y == (number // 20 if labelled else -1)


# judge

@pytest.mark.parametrize("seed, k", [(0, 1), (1, 5), (2, K), (3, 59)])
def test_judgement_against_brute_force(seed, k):
    h, y = random_features(seed=seed)
    maps = [h[:, :2].numpy(), np.random.default_rng(seed).random((60, 2)).astype("f4")]
    found, unit = judge(h, maps, y, k), h.double() / h.double().norm(dim=1, keepdim=True)
    right = 0
    for i in range(60):
        near = sorted((j for j in range(60) if j != i), key=lambda j: -float(unit[i] @ unit[j]))[:k]
        assert found.index[i].tolist() == near
        cosines = [float(unit[i] @ unit[j]) for j in near]
        assert found.cosine[i].tolist() == pytest.approx(cosines, abs=1e-6)                # float32
        votes = [sum(math.exp(c / 0.1) for j, c in zip(near, cosines) if y[j] == label) for label in range(4)]
        assert found.said[i] == votes.index(max(votes))
        right += int(found.said[i] == y[i])
        assert found.purity[i] == pytest.approx(sum(int(y[j] == y[i]) for j in near) / k)
        for trust, p in zip(found.trust, maps):
            on_map = sorted((j for j in range(60) if j != i), key=lambda j: float(((p[i].astype("f8") - p[j])**2).sum()))[:k]
            assert trust[i] == pytest.approx(len(set(near) & set(on_map)) / k)
    for quality, p in zip(found.quality, maps):
        assert quality["knn"] == round(right / 60, 4) and quality["silhouette"] == round(float(silhouette_score(p, y)), 4)


def test_without_labels_nobody_votes():
    h, _ = random_features()
    found = judge(h, [h[:, :2].numpy()])
    assert found.said is None and found.purity is None and list(found.quality[0]) == ["trustworthiness"] and found.index.shape == (60, K)


def test_too_many_neighbours_and_broken_features_are_refused():
    h, y = random_features()
    with pytest.raises(ValueError, match="k=60 must be from 1 to 59"): judge(h, [], y, 60)
    with pytest.raises(ValueError, match="1 of 60 features hold NaN"): judge(h.where(h != h[3, 0], torch.tensor(torch.nan)), [], y)


# Views

def test_views_repeat_for_an_image_and_differ_between_images(shown):
    augment, x = SimCLRAugment(16, flip_prob=0), shown.images.x
    views = [views_of(augment, x[0], n, 8, seed) for n in (0, 1, 2) for seed in (0, 1)]
    assert views[0].shape == (8, 1, 16, 16) and views[0].dtype == torch.uint8
    assert views[0].equal(views_of(augment, x[0], 0, 8, 0))
    assert not any(a.equal(b) for i, a in enumerate(views) for b in views[:i])             # number and seed both decide
    assert not any(views[0][i].equal(views[0][j]) for i in range(8) for j in range(i))     # and each view has a draw of its own


def test_views_leave_the_global_random_stream_alone(shown):
    before = torch.get_rng_state()
    views_of(SimCLRAugment(16), shown.images.x[0], 0)
    assert torch.get_rng_state().equal(before)


def test_views_are_what_pre_training_sees(shown):
    augment, x = SimCLRAugment(16, crop_scale=(0.3, 1.0)), shown.images.x[5]
    draws = augment.draw(4, 16, 16, torch.Generator().manual_seed(3 * 1_000_003 + 5))
    exact = augment.apply(x[None].repeat(4, 1, 1, 1), draws) * 255
    assert (views_of(augment, x, 5, 4, 3).float() - exact).abs().max() <= 0.501            # rounded to whole grey levels, no more


def test_views_with_everything_off_are_the_image(shown):
    for i in range(5): assert views_of(SimCLRAugment(16, **OFF), shown.images.x[i], i, 3).equal(shown.images.x[i].expand(3, -1, -1, -1))


def space_of(shown, encode, name="test"):
    h = encode(shown.images)
    return Space(name, h, [h[:, :2].numpy(), np.random.default_rng(0).random((len(h), 2)).astype("f4")], encode)


@pytest.mark.parametrize("count, number", [(1, 120), (3, 100), (16, 7)])
def test_probe_of_views_that_change_nothing(shown, count, number):
    places, cosine = probe(space_of(shown, pixel_features), SimCLRAugment(16, **OFF), shown.images.x[:number], count)
    assert places.shape == (number, count, 2) and places.dtype == np.float32 and cosine.shape == (number, count)
    np.testing.assert_allclose(cosine, 1, atol=1e-5)                                       # float32
    assert (places == places[:, :1]).all()


def test_probe_against_one_image_at_a_time(shown):
    "Over the border of its parts of 100 images, on the second map."
    space, augment, x = space_of(shown, pixel_features), SimCLRAugment(16, crop_scale=(0.3, 1.0)), shown.images.x[:103]
    places, cosine = probe(space, augment, x, 2, layout=1, seed=4)
    for i in (0, 1, 99, 100, 102):
        h = pixel_features(TensorImages(views_of(augment, x[i], i, 2, 4), torch.zeros(2).long()))
        np.testing.assert_allclose(cosine[i], F.cosine_similarity(h, space.h[i:i + 1]), atol=1e-6)
        unit = F.normalize(space.h, dim=1)
        for v in range(2):
            near = (unit @ F.normalize(h[v], dim=0)).topk(10)                              # the mean of the ten nearest, the nearest weighing most
            expected = ((near.values / 0.02).softmax(0)[:, None] * torch.from_numpy(space.maps[1])[near.indices]).sum(0)
            np.testing.assert_allclose(places[i, v], expected, atol=1e-4)
    assert not np.allclose(places, probe(space, augment, x, 2, layout=0, seed=4)[0])
    assert not np.allclose(cosine, probe(space, augment, x, 2, layout=1, seed=5)[1])


def test_an_encoder_blind_to_what_varies_gives_one(shown):
    "Invariance by construction: the mean grey survives a mirror image, and nothing else does here."
    mirror = SimCLRAugment(16, **(OFF | dict(flip_prob=1)))
    blind = lambda images: torch.stack([images.x.float().mean((1, 2, 3)), torch.ones(len(images))], 1)
    np.testing.assert_allclose(probe(space_of(shown, blind), mirror, shown.images.x[:30], 2)[1], 1, atol=1e-6)
    assert probe(space_of(shown, pixel_features), mirror, shown.images.x[:30], 2)[1].mean() < 0.95


# Runs and spaces

def test_names_of_runs(runs, tmp_path):
    one, two, scratch = runs
    assert list(encoders_of(runs)) == ["SimCLR", "SimCLR, version_1", "from scratch", "random encoder", "pixels"]
    shutil.copytree(two, third := tmp_path / "version_1")                                  # the same name once more: the whole path tells
    assert list(encoders_of([str(one), two, third], controls=False)) == ["SimCLR", "SimCLR, version_1", str(third)]
    assert list(encoders_of([scratch], controls=False)) == ["from scratch"]


def test_each_name_has_its_own_encoder_and_its_own_ages(runs, shown):
    found = encoders_of(runs, seed=3)
    for name, run in zip(found, runs): assert found[name][0](shown.images).equal(embed(load_encoder(run), shown.images))
    assert [list(ages) for _, ages in found.values()] == [[0, 1], [], [], [], []]
    ages = found["SimCLR"][1]
    assert ages[1](shown.images).equal(found["SimCLR"][0](shown.images)) and not ages[0](shown.images).equal(ages[1](shown.images))
    assert found["pixels"][0](shown.images).equal(pixel_features(shown.images))
    control = lambda seed: embed(random_encoder(load_encoder(runs[0]), seed), shown.images)
    assert found["random encoder"][0](shown.images).equal(control(3)) and not control(3).equal(control(0))


def test_each_kind_of_net_has_its_own_control(runs, shown, tmp_path):
    shutil.copytree(runs[0], wide := tmp_path / "wide")
    config = load_encoder(runs[0]).config
    save_encoder(build_encoder(**config | dict(width=config["width"] * 2)), wide / "encoder.safetensors")
    found = encoders_of([wide, runs[1]], seed=3)
    names = [f"random encoder, resnet8 of width {config['width'] * k}" for k in (2, 1)]
    assert list(found)[2:] == [*names, "pixels"]
    for name, run in zip(names, (wide, runs[1])): assert found[name][0](shown.images).equal(embed(random_encoder(load_encoder(run), 3), shown.images))


def test_no_runs_have_no_encoders(tmp_path):
    with pytest.raises(ValueError, match="runs is empty"): encoders_of([])
    with pytest.raises(FileNotFoundError, match="not a finished run"): encoders_of([tmp_path])


@pytest.fixture
def drawn(monkeypatch):
    "What is asked of the maps, which take seconds and have their own tests."
    asked = []
    def one(h, n, d, seed, progress):
        asked.append((len(h), n, d, seed, progress))
        return np.full((len(h), 2), len(asked), "f4")
    def several(stages, n, seed):
        asked.append(([len(h) for h in stages], n, seed))
        return [np.full((len(h), 2), -i, "f4") for i, h in enumerate(stages)]
    monkeypatch.setattr(spaces, "umap_map", one)
    monkeypatch.setattr(spaces, "aligned_maps", several)
    return asked


def test_a_space_has_a_map_a_layout(drawn, shown):
    space = build_space("pixels", shown.images, pixel_features, seed=5, progress=False)
    assert drawn == [(200, n, d, 5, False) for n in (5, 15, 50) for d in (0.0, 0.1, 0.5)] and LAYOUTS[4] == (15, 0.1)
    assert space.name == "pixels" and space.h.equal(pixel_features(shown.images)) and space.ages == {}
    assert [p[0, 0] for p in space.maps] == list(range(1, 10)) and space.encode is pixel_features


def test_where_images_are_few_all_are_neighbours(drawn, shown):
    build_space("few", shown.images.subset(list(range(16))), pixel_features, ((5, 0.1), (15, 0.1), (50, 0.5)), ages={0: pixel_features, 1: pixel_features})
    assert [asked[:2] for asked in drawn] == [(16, 5), (16, 15), (16, 15), ([16, 16], 15)]


def test_ages_are_of_the_first_images(drawn, shown):
    ages = {0: pixel_features, 7: lambda images: 2 * pixel_features(images)}
    space = build_space("aged", shown.images, pixel_features, ((15, 0.1),), 2, ages, aligned=30)
    assert drawn[1] == ([30, 30], 15, 2) and list(space.ages) == [0, 7]
    for i, (epoch, (h, p)) in enumerate(space.ages.items()):
        assert h.equal(ages[epoch](shown.images)[:30]) and p.shape == (30, 2) and p[0, 0] == -i
    assert len(build_space("aged", shown.images, pixel_features, ((15, 0.1),), 2, ages, aligned=2000).ages[7][0]) == 200


@pytest.mark.parametrize("count, aligned, says", [(15, 600, "15 images: a map of fewer than 16"), (20, 15, "aligned=15 must be from 16 to 2000"),
                                                  (20, 2001, "aligned=2001 must be"), (0, 600, "0 images")])
def test_build_space_refuses(count, aligned, says, shown):
    with pytest.raises(ValueError, match=says): build_space("x", shown.images.subset(list(range(count))), pixel_features, aligned=aligned)


def test_a_real_map_repeats_and_groups_equal_pictures(shown):
    few = shown.images.subset(list(range(40)))
    one, two = (build_space("pixels", few, pixel_features, ((5, 0.1),), seed=1, progress=False) for _ in range(2))
    assert (one.maps[0] == two.maps[0]).all() and np.isfinite(one.maps[0]).all()
    chance = 5 / 39
    assert judge(one.h, one.maps, few.y, 5).trust[0].mean() > 3 * chance
