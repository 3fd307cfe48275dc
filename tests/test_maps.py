"Neighbours, maps, trust and places: oracles that share no code with them."
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from sklearn.manifold import trustworthiness
from sklearn.metrics import silhouette_score
from sklearn.neighbors import NearestNeighbors

from simclr.maps import aligned_maps, cosine_neighbours, map_quality, map_trust, neighbour_votes, place, umap_map
from simclr.model import knn_predict


def features(n=120, dims=8, seed=0): return torch.randn(n, dims, generator=torch.Generator().manual_seed(seed))


def blobs(each=40, dims=8, seed=0):
    "Three tight heaps of directions, and which is which."
    return torch.cat([4 * torch.eye(dims)[j] + 0.5 * features(each, dims, seed + j) for j in range(3)]), torch.arange(3).repeat_interleave(each)


def scattered(n, seed=0): return np.random.default_rng(seed).random((n, 2)).astype("f")


# Neighbours

@pytest.mark.parametrize("n, k", [(2, 1), (50, 1), (50, 49), (1001, 5), (2300, 12)])
def test_neighbours_are_scikit_learns(n, k):
    h = features(n, 16)
    index, cosine = cosine_neighbours(h, k)
    distance, found = NearestNeighbors(metric="cosine", algorithm="brute").fit(h.double()).kneighbors(n_neighbors=k)
    assert index.dtype == torch.int64 and index.shape == cosine.shape == (n, k)
    np.testing.assert_allclose(cosine, 1 - distance, atol=2e-6)
    assert (index.numpy() == found).mean() > 0.9999                    # float32 against float64: near-ties may swap


def test_neighbours_of_others_are_scikit_learns():
    h, of = features(60, 16), features(1500, 16, seed=1)
    distance, found = NearestNeighbors(metric="cosine", algorithm="brute").fit(h).kneighbors(of, 60)
    index, cosine = cosine_neighbours(h, 60, of=of)
    np.testing.assert_allclose(cosine, 1 - distance, atol=2e-6)
    assert (index[:, :5].numpy() == found[:, :5]).mean() > 0.999
    assert cosine_neighbours(h, 1, of=h)[0].flatten().tolist() == list(range(60))


def test_among_equals_the_smaller_index_comes_first():
    h = torch.eye(4)[[0, 1, 0, 1, 0, 0]] * torch.tensor([1., 2, 4, 8, 16, 32])[:, None]       # lengths do not count
    rows = [[j for j in range(6) if j != i] for i in range(6)]
    wanted = [sorted(row, key=lambda j: (-(h[i] @ h[j] > 0).int().item(), j)) for i, row in enumerate(rows)]
    assert cosine_neighbours(h, 5)[0].tolist() == wanted
    assert cosine_neighbours(torch.zeros(5, 3), 4)[0].tolist() == [[j for j in range(5) if j != i] for i in range(5)]


def test_cosines_stay_within_one():
    h = features(3, 5).repeat(40, 1) * torch.linspace(1e-3, 1e3, 120)[:, None]
    _, cosine = cosine_neighbours(h, 119)
    assert cosine.max() <= 1 and cosine.min() >= -1


# Votes

def test_votes_are_those_of_knn_predict_without_the_one_asked():
    h, _ = blobs(12)
    y = torch.randint(0, 4, (36,), generator=torch.Generator().manual_seed(0))
    index, cosine = cosine_neighbours(h, 7)
    said, purity = neighbour_votes(index, cosine, y)
    for i in range(36):
        others = [j for j in range(36) if j != i]
        assert said[i] == knn_predict(h[i:i + 1], h[others], y[others], k=7).item()
        near = torch.nn.functional.cosine_similarity(h[i:i + 1], h[others]).argsort(descending=True)[:7]
        assert purity[i].item() == pytest.approx((y[others][near] == y[i]).float().mean().item())


def test_a_low_temperature_leaves_the_nearest_alone_and_nothing_overflows():
    index, cosine, y = torch.tensor([[1, 2, 3]] * 4), torch.tensor([[.9, .8, .8]] * 4), torch.tensor([0, 2, 1, 1])
    assert neighbour_votes(index, cosine, y, temperature=1e-6)[0].tolist() == [2] * 4
    assert neighbour_votes(index, cosine, y, temperature=1e6)[0].tolist() == [1] * 4


# Maps

FRESH = """import sys, torch, hashlib
from simclr.maps import umap_map
h = torch.randn(120, 8, generator=torch.Generator().manual_seed(0))
print(hashlib.sha256(umap_map(h, 10, progress=bool(int(sys.argv[1]))).tobytes()).hexdigest())"""


def test_the_same_map_in_another_process_with_and_without_a_bar():
    import hashlib
    ours = hashlib.sha256(umap_map(features(), 10).tobytes()).hexdigest()
    done = subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", FRESH, "1"], capture_output=True, text=True, timeout=200)
    assert done.stdout.strip() == ours, done.stderr
    assert "UMAP of 120 images" in done.stderr and "100%" in done.stderr


@pytest.mark.parametrize("progress, shown", [(True, True), (False, False), (None, False)])
def test_the_bar_is_shown_where_it_is_wanted(progress, shown, capsys):
    umap_map(features(30), 5, progress=progress)
    out, err = capsys.readouterr()
    assert ("UMAP of 30 images" in err) == shown and not out
    if not shown: assert err == ""


def test_another_seed_gives_another_map_and_the_same_one_does_not():
    h = features()
    one, again, other = umap_map(h, 10), umap_map(h, 10), umap_map(h, 10, seed=1)
    assert one.shape == (120, 2) and one.dtype == np.float32 and np.isfinite(one).all()
    assert np.array_equal(one, again) and np.abs(one - other).mean() > 0.1


def test_umap_is_handed_the_exact_neighbours_and_no_more(monkeypatch):
    import umap
    given = {}

    class Spy:
        def __init__(self, **kwargs): given.update(kwargs)
        def fit_transform(self, x):
            given["x"] = x
            return np.zeros((len(x), 2))
    monkeypatch.setattr(umap, "UMAP", Spy)
    h = features(200) * 3
    umap_map(h, n_neighbors=9, min_dist=0.3, seed=7)
    index, distance = given["precomputed_knn"]
    truth, found = NearestNeighbors(metric="cosine", algorithm="brute").fit(h.double()).kneighbors(n_neighbors=8)
    assert index.shape == distance.shape == (200, 9)                   # below 4,096 rows umap 0.5 uses every column that it is given
    assert (index[:, 0] == np.arange(200)).all() and (distance[:, 0] == 0).all()
    assert (index[:, 1:] == found).all()
    np.testing.assert_allclose(distance[:, 1:], truth, atol=2e-6)
    np.testing.assert_allclose(np.linalg.norm(given["x"], axis=1), 1, atol=1e-5)
    assert (given["metric"], given["random_state"], given["n_neighbors"], given["min_dist"]) == ("cosine", 7, 9, 0.3)


def test_a_map_keeps_heaps_apart():
    h, y = blobs()
    p = umap_map(h, 10)
    assert silhouette_score(p, y) > 0.5
    assert map_quality(h, p, y)["silhouette"] == pytest.approx(silhouette_score(p, y), abs=1e-4)


@pytest.mark.parametrize("name, h, n", [("four images", features(4), 2), ("all are neighbours", features(6), 5), ("all equal", torch.ones(30, 4), 5),
                                        ("zeros", torch.zeros(30, 4), 5), ("copies", features(10).repeat(3, 1), 5),
                                        ("one against all", torch.tensor([[1., 0.]] + [[-1., 0.]] * 9), 5)])
def test_odd_features_give_a_finite_map_and_no_warning(name, h, n, recwarn):
    warnings.simplefilter("always", UserWarning)
    assert np.isfinite(umap_map(h, n)).all()
    assert not [w for w in recwarn if issubclass(w.category, UserWarning)]


# Aligned maps

def drift(a, b): return np.linalg.norm(a - b, axis=1).mean() / a.std()


def test_aligned_maps_keep_their_orientation_and_those_made_alone_do_not():
    h, y = blobs(20)
    stages = [h, h + 0.1 * features(60, 8, seed=9), h + 0.2 * features(60, 8, seed=9)]
    maps, again = (aligned_maps(stages, 10) for _ in range(2))
    assert [p.shape for p in maps] == [(60, 2)] * 3 and all(p.dtype == np.float32 and np.isfinite(p).all() for p in maps)
    assert all(np.array_equal(p, q) for p, q in zip(maps, again))
    alone = [umap_map(s, 10, seed=n) for n, s in enumerate(stages)]
    steps = lambda maps: [drift(a, b) for a, b in zip(maps, maps[1:])]
    assert max(steps(maps)) < 0.6 < min(steps(alone))
    middles = np.stack([[p[y == c].mean(0) - p.mean(0) for c in range(3)] for p in maps])          # (3 stages, 3 heaps, 2)
    cosine = (middles[0] * middles[2]).sum(-1) / np.linalg.norm(middles[0], axis=-1) / np.linalg.norm(middles[2], axis=-1)
    assert cosine.min() > 0.9                                          # each heap still lies in its direction
    assert all(silhouette_score(p, y) > 0.4 for p in maps)


# Quality

def brute_trust(h, p, k):
    h, p = h.double().numpy(), p.astype(np.float64)
    h /= np.linalg.norm(h, axis=1, keepdims=True)
    shares = []
    for i in range(len(h)):
        others = [j for j in range(len(h)) if j != i]
        near = set(sorted(others, key=lambda j: -h[i] @ h[j])[:k])
        shares.append(len(near & set(sorted(others, key=lambda j: ((p[i] - p[j])**2).sum())[:k])) / k)
    return shares


@pytest.mark.parametrize("k", [1, 4, 39])
def test_trust_against_loops(k):
    h = features(40)
    for p in (h[:, :2].numpy(), scattered(40)):
        np.testing.assert_allclose(map_trust(cosine_neighbours(h, k)[0], p), brute_trust(h, p, k), atol=1e-6)


def test_trust_of_random_positions_is_chance():
    index, _ = cosine_neighbours(features(300), 12)
    means = [map_trust(index, scattered(300, seed)).mean() for seed in range(20)]
    assert np.mean(means) == pytest.approx(12 / 299, abs=0.004)        # four s.d. of the mean of twenty


def test_trust_does_not_care_how_a_map_is_turned_or_scaled():
    index, p = cosine_neighbours(features(), 12)[0], scattered(120).astype(np.float64)
    turn = np.array([[0, -1], [1, 0]])
    assert np.array_equal(map_trust(index, p), map_trust(index, 8 * p @ turn))


def test_a_map_that_is_the_circle_of_the_features_is_fully_trustworthy():
    angle = torch.linspace(0, 5, 60)
    h = torch.stack([angle.cos(), angle.sin()], 1)
    assert map_quality(h, h.numpy()) == dict(trustworthiness=1.0)
    assert (map_trust(cosine_neighbours(h, 12)[0], h.numpy()) > 0.9).all()             # equal distances left and right may fall either way


def test_quality_is_scikit_learns():
    (h, y), p = blobs(), scattered(120)
    found = map_quality(h, p, y, k=7)
    unit = (h / h.norm(dim=1, keepdim=True)).double().numpy()
    assert found["trustworthiness"] == pytest.approx(trustworthiness(unit, p, n_neighbors=7), abs=2e-4)     # on unit vectors the order is cosine's
    assert found["silhouette"] == pytest.approx(silhouette_score(p, y), abs=1e-4)


@pytest.mark.parametrize("y", [None, torch.zeros(20).long(), torch.arange(20)])
def test_no_silhouette_where_there_are_no_classes_to_tell_apart(y):
    assert list(map_quality(features(20), scattered(20), y)) == ["trustworthiness"]


def test_few_images_have_a_quality_too(): assert 0 <= map_quality(features(3), scattered(3))["trustworthiness"] <= 1


# Places

def test_an_image_of_the_map_lands_on_itself():
    h, p = features(60, 32), scattered(60)
    np.testing.assert_allclose(place(h, h, p, temperature=1e-4), p, atol=1e-6)
    np.testing.assert_array_equal(place(h, h, p, k=1), p)


def test_place_is_the_weighted_mean_of_the_neighbours():
    h, new, p = features(30), features(5, seed=3), scattered(30)
    unit = lambda a: a.double().numpy() / np.linalg.norm(a.double().numpy(), axis=1, keepdims=True)
    for q, c in zip(place(new, h, p, k=4, temperature=0.1), unit(new) @ unit(h).T):
        near = np.argsort(-c)[:4]
        np.testing.assert_allclose(q, np.average(p[near], axis=0, weights=np.exp(c[near] / 0.1)), atol=1e-5)


def test_places_lie_inside_the_hull_of_their_neighbours():
    from scipy.spatial import Delaunay
    h, new, p = features(200), features(300, seed=5), scattered(200)
    index, _ = cosine_neighbours(h, 10, of=new)
    for q, near in zip(place(new, h, p).astype(np.float64), index.numpy()):
        middle = p[near].mean(0)
        assert Delaunay(middle + (p[near] - middle) * (1 + 1e-5)).find_simplex(q) >= 0             # a hair wider: float32


def test_fewer_images_than_neighbours_all_decide():
    h, p = features(3), scattered(3)
    np.testing.assert_array_equal(place(features(4, seed=1), h, p, k=50), place(features(4, seed=1), h, p, k=3))


# Faults

H, P, NAN = features(30), scattered(30), features(30).index_fill(0, torch.tensor([3, 7]), float("nan"))
INDEX, COSINE = cosine_neighbours(H, 5)
Y = torch.zeros(30).long()
FAULTS = {
    "features of one axis": (lambda: cosine_neighbours(H[0]), r"shape \(8,\); expected \(N, D\)"),
    "features of three axes": (lambda: umap_map(H[None]), r"shape \(1, 30, 8\)"),
    "one image": (lambda: cosine_neighbours(H[:1], 1), "N of at least 2"),
    "no images to place": (lambda: place(H[:0], H, P), "N of at least 1"),
    "NaN": (lambda: cosine_neighbours(NAN), "2 of 30 features hold NaN"),
    "NaN in the question": (lambda: cosine_neighbours(H, 3, of=NAN), "2 of 30 features hold NaN"),
    "NaN on a map": (lambda: umap_map(NAN), "2 of 30 features hold NaN"),
    "infinity": (lambda: umap_map(H / 0), "30 of 30 features hold NaN or infinity"),
    "k of 0": (lambda: cosine_neighbours(H, 0), "k=0 must be from 1 to 29"),
    "k of 0 with others": (lambda: cosine_neighbours(H, 0, of=H), "k=0 must be from 1 to 30"),
    "k of N": (lambda: cosine_neighbours(H, 30), "k=30 must be from 1 to 29: there are 30 images"),
    "k above N": (lambda: cosine_neighbours(H, 31, of=H), "k=31 must be from 1 to 30"),
    "other dimensions": (lambda: cosine_neighbours(H, 3, of=H[:, :5]), "new features in 5 dimensions, others in 8"),
    "votes: cosines of other neighbours": (lambda: neighbour_votes(INDEX, COSINE[:, :3], Y), r"cosine \(30, 3\)"),
    "votes: labels of others": (lambda: neighbour_votes(INDEX, COSINE, Y[:9]), r"y \(9,\)"),
    "votes: no label": (lambda: neighbour_votes(INDEX, COSINE, Y - 1), "30 of 30 images have no label"),
    "votes: temperature": (lambda: neighbour_votes(INDEX, COSINE, Y, -1), "temperature=-1 must be above 0"),
    "three images": (lambda: umap_map(H[:3], 2), "N of at least 4"),
    "one neighbour": (lambda: umap_map(H, 1), "n_neighbors=1 must be from 2 to 29"),
    "all neighbours": (lambda: umap_map(H, 30), "n_neighbors=30 must be from 2 to 29: there are 30 images"),
    "min_dist below 0": (lambda: umap_map(H, 5, -0.1), "min_dist=-0.1 must be from 0 to 1"),
    "min_dist above 1": (lambda: umap_map(H, 5, 1.1), "min_dist=1.1 must be from 0 to 1"),
    "min_dist NaN": (lambda: umap_map(H, 5, float("nan")), "min_dist=nan must be from 0 to 1"),
    "no stage": (lambda: aligned_maps([]), "0 stages: aligning needs at least two"),
    "one stage": (lambda: aligned_maps([H]), "1 stage: aligning needs at least two"),
    "other images": (lambda: aligned_maps([H, H[:20]]), "stages of 30, 20 images"),
    "stage with NaN": (lambda: aligned_maps([H, NAN]), "2 of 30 features hold NaN"),
    "stage too small": (lambda: aligned_maps([H[:10], H[:10]]), "n_neighbors=15 must be from 2 to 9"),
    "aligned min_dist": (lambda: aligned_maps([H, H], min_dist=2), "min_dist=2 must be from 0 to 1"),
    "trust: positions of others": (lambda: map_trust(INDEX, P[:9]), r"positions of shape \(9, 2\); expected \(30, 2\)"),
    "trust: positions in 3 dimensions": (lambda: map_trust(INDEX, np.zeros((30, 3))), r"expected \(30, 2\)"),
    "trust: NaN": (lambda: map_trust(INDEX, P * np.nan), "30 of 30 positions are not finite"),
    "quality: too many positions": (lambda: map_quality(H[:20], P), r"expected \(20, 2\)"),
    "quality: NaN": (lambda: map_quality(NAN, P), "2 of 30 features hold NaN"),
    "quality: k of 0": (lambda: map_quality(H, P, k=0), "k=0 must be at least 1"),
    "place: too many positions": (lambda: place(H, H[:20], P), r"positions of shape \(30, 2\); expected \(20, 2\)"),
    "place: NaN": (lambda: place(NAN, H, P), "2 of 30 features hold NaN"),
    "place: other dimensions": (lambda: place(H[:, :5], H, P), "new features in 5 dimensions, others in 8"),
    "place: temperature": (lambda: place(H, H, P, temperature=0), "temperature=0 must be above 0"),
    "place: k of 0": (lambda: place(H, H, P, k=0), "k=0 must be from 1 to 30"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_named(name):
    call, message = FAULTS[name]
    with pytest.raises(ValueError, match=message): call()
