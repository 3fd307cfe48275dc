"""Evaluation: oracles that share no code with simclr.evaluate, edge cases, faults. The notebook 05 holds the cases done by hand."""
import ast
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from PIL import Image
from sklearn.linear_model import LogisticRegression
from torch import nn

import simclr
from simclr import evaluate as ev
from simclr.data import FileImages, Images, TensorImages, load_images
from simclr.evaluate import (LinearProbe, crop_and_flip, embed, embed_folder, evaluate_run, few_label_accuracy, fit_linear, knn_accuracy,
                             linear_probe, mean_scores, pixel_features, random_encoder, score_on_test, score_table)
from simclr.model import SimCLRModel, build_encoder, save_encoder

SOURCE = Path(simclr.__file__).parent


def gen(seed=0): return torch.Generator().manual_seed(seed)

def blobs(n, D=6, classes=3, spread=1.0, seed=0):
    "Gaussian clouds: features (n, D) and class numbers (n,); the same clouds for every seed of the points."
    centre = 2 * torch.randn(classes, D, generator=gen(99))
    y = torch.arange(n) % classes
    return centre[y] + spread * torch.randn(n, D, generator=gen(seed)), y

def pictures(n, seed=0, size=8, channels=3, classes=3):
    "Images whose mean brightness gives away the class."
    y = torch.arange(n) % classes
    x = torch.randint(0, 60, (n, channels, size, size), generator=gen(seed)) + 80 * y[:, None, None, None]
    return TensorImages(x.byte(), y)

def dataset(n=30, **k):
    return Images("toy", pictures(n, 0, **k), pictures(12, 1, **k), pictures(15, 2, **k), ("a", "b", "c"), (0.5,) * 3, (0.5,) * 3)

def write_folder(root, per_class=12, size=8, classes=("a", "b", "c")):
    for c, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(per_class):
            pixels = torch.randint(0, 60, (size, size, 3), generator=gen(100 * c + i)) + 80 * c
            Image.fromarray(pixels.byte().numpy()).save(root / name / f"{i:03}.png")
    return root

def write_run(folder, root, checkpoint=False, **more):
    "The folder of a finished run, without the training."
    config = dict(dataset="folder", root=str(root), image_size=8, val_fraction=0.25, flip_prob=0.0, workers=0, hidden_dim=8, projection_dim=4) | more
    encoder = build_encoder("resnet8", width=4, image_size=8)
    folder.mkdir(parents=True)
    save_encoder(encoder, folder / "encoder.safetensors")
    (folder / "results.json").write_text(json.dumps(dict(config=config, seconds=1.0)))
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    if checkpoint:
        (folder / "checkpoints").mkdir()
        torch.save(dict(state_dict={f"model.{k}": v for k, v in SimCLRModel(encoder, 8, 4).state_dict().items()}), folder / "checkpoints/last.ckpt")
    return folder


# ---- embed

@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("head", [True, False])
def test_embed_leaves_parameters_buffers_and_mode_to_the_bit(training, head):
    model = build_encoder("resnet8", width=4, image_size=8)
    if head: model = SimCLRModel(model, 8, 4)
    model.train(training)
    before = {k: v.clone() for k, v in (*model.named_parameters(), *model.named_buffers())}
    h = embed(model, pictures(40), batch_size=16)
    after = dict((*model.named_parameters(), *model.named_buffers()))
    assert before.keys() == after.keys() and any("running_var" in k for k in before)
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert all(p.grad is None for p in model.parameters()) and not h.requires_grad
    assert model.training is training

def test_embed_of_one_image_does_not_depend_on_its_neighbours():
    encoder, images = build_encoder("resnet8", width=4, image_size=8), pictures(20)
    together, alone = embed(encoder, images), embed(encoder, images, batch_size=1)
    assert torch.allclose(together, alone, atol=1e-2)      # bf16 where the processor is quick at it


# ---- kNN

def knn_by_loops(h, y, q, k, temperature):
    unit = lambda v: v / np.linalg.norm(v)
    out = []
    for v in q:
        near = sorted(((float(unit(v) @ unit(w)), int(c)) for w, c in zip(h, y)), reverse=True)[:k]
        votes = {}
        for cosine, c in near: votes[c] = votes.get(c, 0) + math.exp(cosine / temperature)
        out.append(max(votes, key=votes.get))
    return np.array(out)

@pytest.mark.parametrize("k,temperature", [(1, 0.1), (5, 0.1), (20, 0.5), (60, 0.07)])
def test_knn_accuracy_against_loops(k, temperature):
    (h, y), (q, t) = blobs(60, spread=3.0), blobs(40, spread=3.0, seed=1)
    expected = (knn_by_loops(h.double().numpy(), y.numpy(), q.double().numpy(), k, temperature) == t.numpy()).mean()
    assert 0.34 < expected < 0.999
    assert knn_accuracy(h, y, q, t, k, temperature) == pytest.approx(expected, abs=1e-6)

@pytest.mark.parametrize("k", [0, 61])
def test_knn_accuracy_names_k(k):
    h, y = blobs(60)
    with pytest.raises(ValueError, match=f"k={k}"): knn_accuracy(h, y, h, y, k)


# ---- linear probe

def features(kind):
    "Features of several kinds, standardised, with noisy labels so that no classifier is perfect."
    if kind == "clouds": x, y = blobs(300, D=8, classes=4, spread=3.0)
    elif kind == "random walks":                          # neighbouring features nearly equal, as pixels are
        x = torch.randn(1500, 64, generator=gen(1)).cumsum(1)
        y = (x.diff(dim=1) @ torch.randn(63, 5, generator=gen(2)) + 6 * torch.randn(1500, 5, generator=gen(3))).argmax(1)
    elif kind == "more features than images": x, y = torch.randn(40, 90, generator=gen(4)), torch.arange(40) % 3
    elif kind == "constant and repeated features":
        x, y = blobs(200, D=5, spread=3.0)
        x = torch.cat([x, x, torch.ones(200, 3)], 1)
    return (x - x.mean(0)) / x.std(0).clamp_min(1e-6), y

def objective(x, y, W, b, decay):
    logit = x.double().numpy() @ np.asarray(W, float).T + np.asarray(b, float)
    logit -= logit.max(1, keepdims=True)
    return (np.log(np.exp(logit).sum(1)) - logit[np.arange(len(y)), y.numpy()]).mean() + decay / 2 * (np.asarray(W, float) ** 2).sum()

@pytest.mark.parametrize("decay", [1e-1, 1e-2, 1e-3])
@pytest.mark.parametrize("kind", ["clouds", "random walks", "more features than images", "constant and repeated features"])
def test_fit_linear_against_scikit_learn(kind, decay):
    x, y = features(kind)
    ours = fit_linear(x, y, nn.Linear(x.shape[1], int(y.max()) + 1), decay)
    oracle = LogisticRegression(C=1 / (decay * len(x)), max_iter=20_000, tol=1e-9).fit(x.double().numpy(), y.numpy())
    best = objective(x, y, oracle.coef_, oracle.intercept_, decay)
    assert -1e-6 < objective(x, y, ours.weight, ours.bias, decay) - best < 1e-4
    assert (ours(x).argmax(1).numpy() == oracle.predict(x.double().numpy())).mean() >= 0.99

def test_fit_linear_goes_on_from_a_solution_with_weights_and_bias():
    x, y = features("clouds")
    x, y = x[y < 2], y[y < 2]
    x, y = torch.cat([x, x[y == 0], x[y == 0]]), torch.cat([y, y[y == 0], y[y == 0]])      # unbalanced: the bias matters
    layer = nn.Linear(8, 2)
    fit_linear(x, 1 - y, layer, 1e-2)                      # the wrong way round
    fit_linear(x, y, layer, 1e-2)
    fresh = fit_linear(x, y, nn.Linear(8, 2), 1e-2)
    assert objective(x, y, layer.weight, layer.bias, 1e-2) == pytest.approx(objective(x, y, fresh.weight, fresh.bias, 1e-2), abs=1e-5)     # each stops when a step gains less than 1e-6
    assert not layer.weight.requires_grad and not layer.bias.requires_grad

@pytest.mark.parametrize("scale", [0.1, 10.0])
def test_gram_changes_the_path_and_not_the_goal(scale):
    x, y = features("clouds")
    given = fit_linear(x, y, nn.Linear(8, 4), 1e-2, gram=scale * torch.eye(8))
    own = fit_linear(x, y, nn.Linear(8, 4), 1e-2)
    assert objective(x, y, given.weight, given.bias, 1e-2) == pytest.approx(objective(x, y, own.weight, own.bias, 1e-2), abs=1e-5)

@pytest.mark.parametrize("decay", [0, -1e-3, float("nan")])
def test_fit_linear_names_weight_decay(decay):
    with pytest.raises(ValueError, match="weight_decay"): fit_linear(*features("clouds"), nn.Linear(8, 4), decay)

def test_linear_probe_is_scikit_learn_fitted_on_both_parts_with_the_lambda_that_val_prefers():
    (h, y), (v, t) = blobs(120, D=30, classes=4, spread=4.0), blobs(60, D=30, classes=4, spread=4.0, seed=1)
    scale = torch.logspace(-2, 3, 30)
    h, v = 5 + h * scale, 5 + v * scale
    kept = h.clone(), v.clone()
    decays = (10.0, 1.0, 1e-1, 1e-2, 1e-3)
    probe = linear_probe(h, y, v, t, decays)
    assert torch.equal(h, kept[0]) and torch.equal(v, kept[1])
    mean, std = h.double().mean(0).numpy(), h.double().numpy().std(0)
    x, xv = ((a.double().numpy() - mean) / std for a in (h, v))
    fit = lambda a, b, decay: LogisticRegression(C=1 / (decay * len(a)), max_iter=20_000, tol=1e-9).fit(a, b)
    scores = {d: (fit(x, y, d).predict(xv) == t.numpy()).mean() for d in decays}
    assert len(set(scores.values())) > 2, "the choice must matter in this test"
    assert probe.weight_decay == max(scores, key=scores.get) and probe.val_accuracy == pytest.approx(max(scores.values()), abs=1e-6)
    both = fit(np.concatenate([x, xv]), torch.cat([y, t]).numpy(), probe.weight_decay)
    assert np.allclose(probe.layer.weight.numpy(), both.coef_, atol=2e-3)
    other, _ = blobs(500, D=30, classes=4, spread=4.0, seed=2)
    other = 5 + other * scale
    assert (probe.predict(other).numpy() == both.predict((other.double().numpy() - mean) / std)).mean() >= 0.99

@pytest.mark.parametrize("train,val", [([0, 1, 2], [0, 1]), ([0, 1], [0, 2]), ([0, 2], [0, 2]), ([1], [1])])
def test_linear_probe_with_classes_missing(train, val):
    h, y = blobs(90)
    pick = lambda classes: torch.tensor([i for i, c in enumerate(y.tolist()) if c in classes])
    i, j = pick(train), pick(val)
    probe = linear_probe(h[i], y[i], h[j], y[j])
    assert isinstance(probe, LinearProbe) and probe.layer.out_features == max(train + val) + 1
    assert set(probe.predict(h).tolist()) <= set(train + val)

def test_linear_probe_of_one_image_each_and_of_constant_features():
    one = linear_probe(torch.ones(1, 3), torch.tensor([1]), torch.ones(1, 3), torch.tensor([1]))
    assert one.predict(torch.zeros(2, 3)).tolist() == [1, 1]
    flat = linear_probe(torch.ones(9, 3), torch.tensor([0] * 6 + [1] * 3), torch.ones(3, 3), torch.tensor([0, 0, 1]))
    assert flat.predict(torch.ones(2, 3)).tolist() == [0, 0]

@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("part", [0, 1])
def test_linear_probe_names_features_that_are_not_finite(bad, part):
    h, y = blobs(30)
    parts = [h.clone(), h.clone()]
    parts[part][3, 1] = bad
    with pytest.raises(ValueError, match="NaN"): linear_probe(parts[0], y, parts[1], y)


# ---- crops, few labels, controls

def test_crop_and_flip_keeps_labels_colours_and_the_seed():
    images = pictures(10)
    a, b, c = (crop_and_flip(images, 3, seed=s) for s in (0, 0, 1))
    assert torch.equal(a.x, b.x) and not torch.equal(a.x, c.x)
    assert a.x.shape == (30, 3, 8, 8) and a.x.dtype == torch.uint8 and torch.equal(a.y, images.y.repeat(3))
    flat = TensorImages(torch.tensor([10, 200, 77], dtype=torch.uint8).view(1, 3, 1, 1).expand(5, 3, 8, 8).contiguous(), torch.zeros(5).long())
    assert torch.equal(crop_and_flip(flat, 2).x, flat.x.repeat(2, 1, 1, 1))
    same = TensorImages(images.x[:1].repeat(20, 1, 1, 1), torch.zeros(20).long())
    assert len(crop_and_flip(same, 1).x.unique(dim=0)) > 10          # every copy has its own draw

def test_crop_and_flip_of_files_is_that_of_tensors(tmp_path):
    root = write_folder(tmp_path / "d", 2)
    files = load_images("folder", str(root), in_memory=False).train
    assert isinstance(files, FileImages)
    assert torch.equal(crop_and_flip(files, 2).x, crop_and_flip(files.load(), 2).x)

def test_few_labels_against_loops():
    (h, y), (q, t) = blobs(45, spread=3.0), blobs(40, spread=3.0, seed=1)
    result = few_label_accuracy(h, y, q, t, 4, draws=6, seed=7)
    g, scores = gen(7), []
    for _ in range(6):
        order = torch.randperm(45, generator=g).tolist()
        means = []
        for c in range(3):
            chosen = [i for i in order if y[i] == c][:4]
            m = np.mean([h[i].double().numpy() / np.linalg.norm(h[i].double().numpy()) for i in chosen], 0)
            means.append(m / np.linalg.norm(m))
        scores.append(np.mean([np.argmax([v.double().numpy() @ m for m in means]) == c for v, c in zip(q, t.tolist())]))
    assert result["mean"] == pytest.approx(np.mean(scores), abs=1e-6) and result["sd"] == pytest.approx(np.std(scores, ddof=1), abs=1e-6)

def test_few_labels_draw_the_same_images_for_every_kind_of_features():
    "A draw depends on seed and labels alone, so differences between features are paired."
    h, y = blobs(45, spread=3.0)
    chosen = []
    for scale in (1.0, 5.0):                               # cosines do not see the scale
        chosen.append(few_label_accuracy(h * scale, y, h, y, 1, draws=5, seed=3))
    assert chosen[0] == chosen[1]

def test_one_draw_has_no_spread():
    h, y = blobs(30)
    assert few_label_accuracy(h, y, h, y, 1, draws=1)["sd"] == 0.0

@pytest.mark.parametrize("labels,n", [([0, 0, 1, 1], 3), ([0, 0, 2, 2], 1), ([0, 0, 1, 1], 0), ([0, 0, 1, 1], -1)])
def test_few_labels_name_a_count_that_is_not_there(labels, n):
    y = torch.tensor(labels)
    with pytest.raises(ValueError, match=f"per_class={n} "): few_label_accuracy(torch.ones(4, 2), y, torch.ones(4, 2), y, n)

def test_pixel_features_average_down_large_images_alone():
    images = pictures(3, size=64)
    expected = images.x.double().numpy().reshape(3, 3, 32, 2, 32, 2).mean((3, 5)).reshape(3, -1) / 255
    assert np.allclose(pixel_features(images).numpy(), expected, atol=1e-6)
    small = pictures(3, size=8)
    assert torch.equal(pixel_features(small), small.x.flatten(1) / 255)

def test_random_encoder_is_fresh_and_leaves_the_random_numbers_alone():
    encoder = build_encoder("resnet8", width=4, image_size=8, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    state = torch.get_rng_state()
    a, b, c = (random_encoder(encoder, s) for s in (0, 0, 1))
    assert torch.equal(state, torch.get_rng_state())
    weights = [next(e.net.parameters()) for e in (a, b, c, encoder)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2]) and not torch.equal(weights[0], weights[3])
    assert a.config == encoder.config and torch.equal(a.mean, encoder.mean) and not a.training


# ---- the test set

def test_no_other_function_touches_the_test_set():
    "By attribute in any module, and by name in any function of the modules that come after the split is made."
    readers = set()
    for path in SOURCE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.FunctionDef): continue
            for part in ast.walk(node):
                attribute = isinstance(part, ast.Attribute) and part.attr == "test"
                named = isinstance(part, ast.Call) and getattr(part.func, "id", "") in ("getattr", "attrgetter") and path.name != "data.py" and (
                    any(isinstance(a, ast.Constant) and a.value == "test" for a in ast.walk(node)))
                if attribute or named: readers.add(f"{path.stem}.{node.name}")
    assert readers == {"evaluate.score_on_test"}

class Spy:
    "Data whose test part counts how often it is read."
    def __init__(self, images): self.images, self.reads = images, 0
    def __getattr__(self, name):
        if name == "test": self.reads += 1
        return getattr(self.images, name)

@pytest.mark.parametrize("more", [{}, dict(shuffle=True), dict(crops=dict(copies=2))])
def test_score_on_test_reads_the_test_part_once(more):
    spy = Spy(dataset())
    score_on_test(pixel_features, spy, **more)
    assert spy.reads == 1

def test_what_is_chosen_does_not_depend_on_the_test_part():
    images = dataset()
    other = replace(images, test=TensorImages(images.test.x.flip(0), images.test.y.roll(1)))
    a, b = score_on_test(pixel_features, images), score_on_test(pixel_features, other)
    assert (a["weight_decay"], a["linear_val"]) == (b["weight_decay"], b["linear_val"]) and a["linear"] != b["linear"]

def test_score_on_test_finds_what_is_there_and_shuffling_hides_it():
    images = dataset(90)
    seen = score_on_test(pixel_features, images)
    assert seen["linear"] == 1.0 and seen["features"] == 192    # kNN is left out: its cosine does not see brightness
    labels = lambda part: F.one_hot(part.y, 3).float()
    for crops in (None, dict(copies=4)):                   # labels of crops must be shuffled with those of their images
        hidden = [score_on_test(labels, images, (1,), crops, shuffle=True, seed=s)["linear"] for s in range(6)]
        assert np.mean(hidden) < 0.75, "true labels leak through"
        plain = score_on_test(labels, images, (1,), crops)
        assert plain["linear"] == plain["knn"] == 1.0

def test_score_on_test_leaves_out_counts_above_the_smallest_class_and_caps_k():
    score = score_on_test(pixel_features, dataset(6), per_class=(1, 2, 3, 20))
    assert list(score["few_labels"]) == [1, 2] and 0 <= score["knn"] <= 1      # 6 keys, k would be 20

@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_score_on_test_names_an_empty_part(part):
    images = dataset()
    with pytest.raises(ValueError, match=f"no {part} images"): score_on_test(pixel_features, replace(images, **{part: pictures(9).subset([])}))

def test_files_score_as_tensors_do(tmp_path):
    root = write_folder(tmp_path / "d")
    a, b = (load_images("folder", str(root), val_fraction=0.25, in_memory=m) for m in (False, True))
    assert isinstance(a.train, FileImages) and isinstance(b.train, TensorImages)
    for crops in (None, dict(copies=2, flip_prob=0.0)):
        assert score_on_test(pixel_features, a, crops=crops) == score_on_test(pixel_features, b, crops=crops)

def test_crops_are_made_in_pieces_that_differ(monkeypatch):
    seen = []
    monkeypatch.setattr(ev, "crop_and_flip", lambda part, seed, **k: seen.append((len(part), seed)) or crop_and_flip(part, seed=seed, **k))
    images = dataset(30)
    many = replace(images, train=pictures(2500))
    score_on_test(pixel_features, many, (1,), dict(copies=1))
    assert [n for n, _ in seen] == [1000, 1000, 500] and len({s for _, s in seen}) == 3


# ---- runs

def test_evaluate_run_writes_every_row_beside_what_was_there(tmp_path, capsys):
    run = write_run(tmp_path / "run", write_folder(tmp_path / "d"), checkpoint=True)
    before = (run / "encoder.safetensors").read_bytes()
    scores = evaluate_run(str(run), probe_copies=2)
    assert list(scores) == ["SimCLR h", "SimCLR h, probe on crops", "SimCLR z", "pixels", "random encoder", "SimCLR h, shuffled labels"]
    assert [scores[k]["features"] for k in ("SimCLR h", "SimCLR z", "pixels")] == [32, 4, 192]
    assert scores["pixels"]["linear"] == 1.0
    record = json.loads((run / "results.json").read_text())
    assert record["seconds"] == 1.0 and record["config"]["dataset"] == "folder" and record["evaluate"]["seed"] == 0
    assert score_table(record["evaluate"]["scores"]) == score_table(scores) == capsys.readouterr().out.strip()
    assert list(record["evaluate"]["scores"]["pixels"]["few_labels"]) == ["1", "5"]        # 7 training images a class: no 20
    assert (run / "encoder.safetensors").read_bytes() == before

def test_evaluate_run_without_a_checkpoint_or_controls(tmp_path, capsys):
    run = write_run(tmp_path / "run", write_folder(tmp_path / "d"))
    assert list(evaluate_run(run, controls=False, echo=False)) == ["SimCLR h"]
    assert list(evaluate_run(run, echo=False)) == ["SimCLR h", "pixels", "random encoder", "SimCLR h, shuffled labels"]
    assert capsys.readouterr().out == ""

def test_evaluate_run_mirrors_as_the_run_did(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(ev, "crop_and_flip", lambda part, **k: seen.append(k) or crop_and_flip(part, **k))
    run = write_run(tmp_path / "run", write_folder(tmp_path / "d"), flip_prob=0.25)
    evaluate_run(run, probe_copies=3, controls=False, echo=False)
    assert [(k["copies"], k["flip_prob"]) for k in seen] == [(3, 0.25)]

def test_evaluate_run_on_another_folder_and_twice(tmp_path):
    run = write_run(tmp_path / "run", tmp_path / "gone")
    root = write_folder(tmp_path / "d")
    assert evaluate_run(run, root=str(root), echo=False) == evaluate_run(run, root=str(root), echo=False)
    with pytest.raises(FileNotFoundError, match="gone"): evaluate_run(run)

def test_evaluate_run_with_a_class_missing_in_val(tmp_path):
    root = write_folder(tmp_path / "d")
    for path in sorted((root / "c").glob("*.png"))[2:]: path.unlink()
    images = load_images("folder", str(root), val_fraction=0.25)
    assert 2 not in images.val.y.tolist() and 2 in images.train.y.tolist()
    scores = evaluate_run(write_run(tmp_path / "run", root), echo=False)
    assert list(scores["SimCLR h"]["few_labels"]) == [1]

def test_evaluate_run_on_files(tmp_path, monkeypatch):
    monkeypatch.setattr(ev, "load_images", lambda *a: load_images(*a, in_memory=False))
    scores = evaluate_run(write_run(tmp_path / "run", write_folder(tmp_path / "d")), probe_copies=1, echo=False)
    assert "SimCLR h, probe on crops" in scores

@pytest.mark.parametrize("fault,error,message", [
    ("no results.json", FileNotFoundError, "not a finished run"), ("no folder", FileNotFoundError, "not a finished run"),
    ("no encoder", FileNotFoundError, "no encoder"), ("no labels", ValueError, "no class sub-folders"), ("no val", ValueError, "no val images")])
def test_evaluate_run_faults(tmp_path, fault, error, message):
    root = write_folder(tmp_path / "d")
    run = write_run(tmp_path / "run", root / "a" if fault == "no labels" else root, val_fraction=0.0 if fault == "no val" else 0.25)
    if fault == "no results.json": (run / "results.json").unlink()
    if fault == "no folder": run = tmp_path / "nowhere"
    if fault == "no encoder": (run / "encoder.safetensors").unlink()
    with pytest.raises(error, match=message): evaluate_run(run, echo=False)
    if (run / "results.json").exists(): assert "evaluate" not in json.loads((run / "results.json").read_text())

def test_the_command_line_can_read_the_signatures_from_the_source():
    source = (SOURCE / "evaluate.py").read_text(encoding="utf-8")
    lines = source.splitlines()
    for node in ast.parse(source).body:
        if not isinstance(node, ast.FunctionDef) or node.name not in ("evaluate_run", "embed_folder"): continue
        assert len(node.args.args) == len(node.args.defaults) + 1 and ast.get_docstring(node)
        for default in node.args.defaults: ast.literal_eval(default)
        for a in node.args.args: assert lines[a.end_lineno - 1].strip().startswith(a.arg + ":") and "# " in lines[a.end_lineno - 1]


# ---- tables

def score(linear, few, knn=0.5):
    return {"SimCLR h": dict(features=2, linear=linear, knn=knn, few_labels={n: dict(mean=m, sd=0.01, draws=20) for n, m in few.items()})}

def test_mean_scores_and_table_take_numbers_and_strings():
    runs = [score(0.5, {1: 0.2, 20: 0.6}), json.loads(json.dumps(score(0.7, {1: 0.4, 20: 0.8})))]
    for order in (runs, runs[::-1]):
        mean = mean_scores(order)["SimCLR h"]
        assert mean["few_labels"][1] == pytest.approx(dict(mean=0.3, sd=0.2 / math.sqrt(2))) and mean["linear"] == pytest.approx(0.6)
        assert mean["linear_sd"] == pytest.approx(0.2 / math.sqrt(2)) and mean["knn_sd"] == 0
    table = score_table(mean_scores(runs))
    assert score_table(json.loads(json.dumps(mean_scores(runs)))) == table
    assert "60.0% ± 14.1%" in table and "1 label/class" in table and "20 labels/class" in table
    rows = table.splitlines()
    assert len({len(r) for r in rows}) == 1 and set(rows[1]) <= set("|- ")

def test_table_without_few_labels_and_of_one_run():
    assert "few" not in score_table(score(0.5, {})) and len(score_table(score(0.5, {})).splitlines()) == 3
    assert mean_scores([score(0.5, {1: 0.2})])["SimCLR h"]["linear_sd"] == 0.0


# ---- pictures of your own

@pytest.mark.parametrize("channels", [1, 3])
def test_embed_folder_resizes_sorts_and_converts(tmp_path, channels):
    encoder = build_encoder("resnet8", in_channels=channels, width=4, image_size=16).eval()
    save_encoder(encoder, tmp_path / "encoder.safetensors")
    album = tmp_path / "album"
    (album / "sub").mkdir(parents=True)
    for name, size, mode in (("b.png", (40, 20), "RGB"), ("a.jpg", (16, 16), "L"), ("sub/c.png", (9, 33), "RGBA")): Image.new(mode, size, 128).save(album / name)
    (album / "notes.txt").write_text("no picture")
    out = embed_folder(tmp_path / "encoder.safetensors", str(album), str(tmp_path / "features.npz"))
    saved = np.load(out)
    assert [Path(p).name for p in saved["paths"]] == ["a.jpg", "b.png", "c.png"]
    assert saved["h"].shape == (3, 32) and saved["h"].dtype == np.float32 and np.isfinite(saved["h"]).all()
    assert sorted(p.name for p in tmp_path.glob("*.part")) == []

@pytest.mark.parametrize("fault,error,message", [("missing", ValueError, "images is missing"), ("empty", ValueError, "no pictures"),
                                                 ("broken", ValueError, "x.png"), ("no folder", FileNotFoundError, "nowhere"), ("no run", FileNotFoundError, "no encoder")])
def test_embed_folder_faults_leave_an_old_file_alone(tmp_path, fault, error, message):
    run, album, out = tmp_path / "run", tmp_path / "album", tmp_path / "h.npz"
    run.mkdir(), album.mkdir(), out.write_text("old")
    if fault != "no run": save_encoder(build_encoder("resnet8", width=4, image_size=16), run / "encoder.safetensors")
    if fault != "empty": (album / "x.png").write_bytes(b"no picture")
    where = dict(missing=None, **{"no folder": str(tmp_path / "nowhere")}).get(fault, str(album))
    with pytest.raises(error, match=message): embed_folder(run, where, str(out))
    assert out.read_text() == "old"
