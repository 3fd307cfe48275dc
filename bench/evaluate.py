"""Evaluation of 50,000 images beside scikit-learn: python bench/evaluate.py [--quick]

Features of a random resnet8 of width 64, for all CIFAR-10 training images; kNN of 10,000 of them against the other 40,000; linear probe.
Then, in a process of its own, the memory of kNN of many queries against 50,000 keys. The test images are not used.
Writes the part `evaluate` of results/bench.json.
"""
import argparse
import json
import sys
import time
import warnings
from importlib.metadata import version
from pathlib import Path

import torch
from measure import RECORD, child, cifar10, digits, megabytes, report, threads, write_part

from simclr.data import TensorImages
from simclr.evaluate import accuracy, fit_linear, linear_probe
from simclr.model import build_encoder, embed, knn_predict

K, TEMPERATURE, LIMIT = 20, 0.1, 500        # neighbours and the weight of their votes; iterations that scikit-learn may take


def timed(text, run):
    "Seconds, and what came out."
    report(f"  {text}")
    start = time.perf_counter()
    found = run()
    return digits(time.perf_counter() - start), found


def pictures(quick):
    "All training images, those that `load_images` holds out at the end; or a few of noise."
    if quick: return TensorImages(torch.randint(0, 256, (300, 3, 32, 32)).byte(), torch.arange(300) % 10)
    images = cifar10()
    return TensorImages(torch.cat([images.train.x, images.val.x]), torch.cat([images.train.y, images.val.y]))


def sklearn_knn(h, y, queries):
    "The same vote by scikit-learn."
    import numpy as np
    from sklearn.neighbors import KNeighborsClassifier
    vote = lambda distance: np.exp(-distance / TEMPERATURE)              # cosine distance is 1 - cosine
    return torch.from_numpy(KNeighborsClassifier(K, weights=vote, algorithm="brute", metric="cosine").fit(h, y).predict(queries))


def sklearn_logistic(h, y, weight_decay, iterations):
    "The same convex problem by scikit-learn: its C is 1 / (weight_decay · N)."
    from sklearn.linear_model import LogisticRegression
    return LogisticRegression(C=1 / (weight_decay * len(h)), max_iter=iterations).fit(h, y)


def objective(x, y, weight, bias, weight_decay):
    "What both minimise, in float64: the lower, the better solved."
    x, weight, bias = (torch.as_tensor(v).double() for v in (x, weight, bias))
    return torch.nn.functional.cross_entropy(x @ weight.T + bias, y).item() + weight_decay / 2 * weight.square().sum().item()


def knn(h, y, n):
    seconds, ours = timed(f"kNN of {len(h) - n:,} against {n:,}", lambda: knn_predict(h[n:], h[:n], y[:n], K, TEMPERATURE))
    theirs_seconds, theirs = timed("the same by scikit-learn", lambda: sklearn_knn(h[:n].numpy(), y[:n].numpy(), h[n:].numpy()))
    return dict(seconds=seconds, sklearn_seconds=theirs_seconds, agree=accuracy(ours, theirs), accuracy=accuracy(ours, y[n:]),
                sklearn_accuracy=accuracy(theirs, y[n:]))


def probe(h, y, n, iterations):
    seconds, found = timed("linear probe: five strengths, the best once more", lambda: linear_probe(h[:n], y[:n], h[n:], y[n:]))
    x, decay = (h - found.mean) / found.std, found.weight_decay
    layer = torch.nn.Linear(x.shape[1], 10)
    for p in layer.parameters(): torch.nn.init.zeros_(p)
    once, layer = timed("one of these fits", lambda: fit_linear(x[:n], y[:n], layer, decay))
    fit = lambda: sklearn_logistic(x[:n].numpy(), y[:n].numpy(), decay, iterations)
    theirs_seconds, theirs = timed("the same fit by scikit-learn", fit)
    both = dict(ours=objective(x[:n], y[:n], layer.weight.detach(), layer.bias.detach(), decay),
                sklearn=objective(x[:n], y[:n], theirs.coef_, theirs.intercept_, decay))
    return dict(seconds=seconds, fit_seconds=once, sklearn_fit_seconds=theirs_seconds, sklearn_iterations=int(theirs.n_iter_.max()),
                sklearn_stopped_at_limit=bool(theirs.n_iter_.max() >= iterations), weight_decay=decay, objective=both,
                accuracy=accuracy(layer(x[n:]).argmax(1), y[n:]), sklearn_accuracy=float(theirs.score(x[n:].numpy(), y[n:].numpy())))


def memory(queries, keys, dims):
    "In a fresh process: megabytes above the inputs."
    knn_predict(torch.randn(100, dims), torch.randn(1000, dims), torch.arange(1000) % 10)               # threads and libraries are there
    q, k, y = torch.randn(queries, dims), torch.randn(keys, dims), torch.arange(keys) % 10
    before = megabytes("VmRSS")
    knn_predict(q, k, y)
    return dict(queries=queries, keys=keys, dims=dims, megabytes=round(megabytes("VmHWM") - before, 1))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few images of noise, to see that it runs; no figures")
    parser.add_argument("--out", type=Path, default=RECORD, help="the record; its other parts stay as they are")
    parser.add_argument("--memory", type=int, nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory: return print(json.dumps(memory(*args.memory)))
    warnings.filterwarnings("ignore", module="sklearn")
    torch.manual_seed(0)
    torch.set_num_threads(1 if args.quick else threads())
    report("evaluate: decoding the images")
    images, encoder = pictures(args.quick), build_encoder("resnet8", width=8 if args.quick else 64)
    seconds, h = timed(f"features of {len(images):,} images", lambda: embed(encoder, images))
    order, cut = torch.randperm(len(h)), len(h) * 4 // 5
    h, y = h[order], images.y[order]
    part = dict(images=len(images), keys=cut, queries=len(h) - cut, features=h.shape[1], embed_seconds=seconds,
                images_per_second=digits(len(images) / seconds), knn=knn(h, y, cut), probe=probe(h, y, cut, 10 if args.quick else LIMIT))
    sizes = [(100, 500), (400, 500)] if args.quick else [(1_000, 50_000), (10_000, 50_000), (40_000, 50_000)]
    report("  memory of kNN")
    part["knn_memory"] = [child(__file__, "--memory", *size, h.shape[1]) for size in sizes]
    near, line = part["knn"], part["probe"]
    report(f"\n  {part['images_per_second']:,.0f} images/s\n"
           f"  kNN {near['seconds']:.1f} s, scikit-learn {near['sklearn_seconds']:.1f} s, same class for {near['agree']:.2%}\n"
           f"  probe {line['seconds']:.1f} s; one fit {line['fit_seconds']:.1f} s, scikit-learn {line['sklearn_fit_seconds']:.1f} s; "
           f"accuracy {line['accuracy']:.4f} and {line['sklearn_accuracy']:.4f}\n  memory of kNN: "
           + ", ".join(f"{m['queries']:,} queries {m['megabytes']:,.0f} MB" for m in part["knn_memory"]))
    versions = {"scikit-learn": version("scikit-learn")}
    write_part(dict(part, quick=args.quick, threads=torch.get_num_threads(), **versions), "evaluate", args.out)


if __name__ == "__main__": sys.exit(main())
