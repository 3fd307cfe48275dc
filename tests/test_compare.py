"Comparison: names and averages against other arithmetic, what may not stand together, and a page that a hostile record cannot script."
import json
import math
import re
import statistics
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simclr.compare import (average, compare, data_of, draw_learning, draw_scores, draw_sweep, kind, names_by_kind, read_scored, row_names,
                            scores_by_kind)
from simclr.evaluate import score_table

IMG = "<img src=x onerror=1>"
IMAGES = "Images(digits: train 9, val 1, test 4; 1×8×8, 10 classes)"
CURVE = [dict(epoch=1, loss=5.0)]
TAUGHT = [dict(epoch=e, loss=2 / e, accuracy=0.3 * e, val_loss=3 / e, val_accuracy=0.2 * e) for e in (1, 2)]


def score(linear=0.9, few=(1, 5), classifier=None, **more):
    own = {} if classifier is None else dict(classifier=classifier)
    return own | dict(linear=linear, knn=linear - 0.1, features=8, few_labels={str(n): dict(mean=linear / 2, sd=0.3) for n in few}) | more


def record(names="SimCLR h", linear=0.9, seed=0, evaluated=None, curve=CURVE, images=IMAGES, **config):
    config = dict(dataset="digits", root=None, image_size=None, epochs=3, width=8, val_fraction=0.1, run_dir="runs", seed=seed) | config
    names = [names] if isinstance(names, str) else names
    scores = {n: score(linear, few=(1, 5), classifier=linear if "accuracy" in curve[0] else None) for n in names}
    return dict(config=config, images=images, curve=curve, evaluate=dict(scores=scores, seed=seed if evaluated is None else evaluated))


def tuned(run, seed=0, linear=0.9, **config):
    return record("SimCLR, fine-tuned", linear, seed, curve=TAUGHT, **dict(random_weight_init=False, run=run, backbone="resnet8", experiment_version=0) | config)


def write(folder, name, r):
    path = folder / f"{name}.json"
    path.write_text(json.dumps(r), encoding="utf-8")
    return str(path)


# Names

KINDS = st.lists(st.tuples(st.sampled_from("hz"), st.dictionaries(st.sampled_from("abcd"), st.sampled_from("012"))), max_size=7, unique_by=lambda k: (k[0], tuple(sorted(k[1].items()))))


@given(KINDS)
@settings(max_examples=300, deadline=None)
def test_names_are_all_different_and_say_only_what_differs(kinds):
    kinds = [(n, tuple(sorted(s.items()))) for n, s in kinds]
    names = row_names(kinds)
    assert len(set(names)) == len(names) == len(kinds)
    for (name, s), row in zip(kinds, names):
        head, *said = row.split(", ")
        assert head == name and set(said) <= {f"{k}={v}" for k, v in s}
        for k in {item.split("=")[0] for item in said}: assert len({dict(o).get(k) for n, o in kinds if n == name}) > 1
    for (a, row_a), (b, row_b) in combinations(zip(kinds, names), 2):                       # what tells two rows apart is said of one of them
        if a[0] == b[0]: assert set(row_a.split(", ")) ^ set(row_b.split(", "))
    alone = [n for n, _ in kinds]
    assert all(row == n for (n, _), row in zip(kinds, names) if alone.count(n) == 1)


SAME_KIND = [dict(seed=1), dict(run_dir="elsewhere"), dict(version=4), dict(resume=True), dict(echo=False), dict(workers=9), dict(root="kept/there"),
             dict(knn_every=7), dict(num_classes=10)]
OTHER_KIND = [dict(epochs=4), dict(width=9), dict(val_fraction=0.2), dict(temperature=0.1), dict(precision="bf16"), dict(labels_per_class=5)]


@pytest.mark.parametrize("change", SAME_KIND, ids=str)
def test_these_settings_make_no_other_kind(change): assert kind("h", record(**change)) == kind("h", record())


@pytest.mark.parametrize("change", OTHER_KIND, ids=str)
def test_these_settings_make_another_kind(change): assert kind("h", record(**change)) != kind("h", record())


@pytest.mark.parametrize("control, change, same", [
    ("pixels", dict(width=99, epochs=9), True), ("pixels", dict(val_fraction=0.3), False), ("random encoder", dict(epochs=9, temperature=0.1), True),
    ("random encoder", dict(width=99), False), ("random encoder", dict(backbone="resnet18"), False)])
def test_controls_depend_on_little(control, change, same): assert (kind(control, record(**change)) == kind(control, record())) is same


# Averages

@given(st.lists(st.floats(0.2, 1), min_size=2, max_size=6))
@settings(max_examples=50, deadline=None)
def test_mean_and_deviation_are_those_of_statistics(values):
    rows = scores_by_kind([record(linear=v, seed=n) for n, v in enumerate(values)])
    (name, s), = rows.items()
    assert name == f"SimCLR h ({len(values)} seeds)"
    for got, want in [(s["linear"], statistics.mean(values)), (s["linear_sd"], statistics.stdev(values)), (s["knn_sd"], statistics.stdev(values)),
                      (s["few_labels"][5]["mean"], statistics.mean(values) / 2), (s["few_labels"][5]["sd"], statistics.stdev(values) / 2)]:
        assert math.isclose(got, want, rel_tol=1e-9, abs_tol=1e-12)                         # sums of doubles in another order


def test_seeds_merge_and_recipes_do_not():
    rows = scores_by_kind([record(seed=0), record(seed=1, epochs=9), record(seed=2), record(seed=3, epochs=9, width=16)])
    assert list(rows) == ["SimCLR h, epochs=3, width=8 (2 seeds)", "SimCLR h, epochs=9, width=8", "SimCLR h, epochs=9, width=16"]
    assert "linear_sd" in next(iter(rows.values())) and "linear_sd" not in rows["SimCLR h, epochs=9, width=8"]


def test_a_control_that_runs_share_counts_once_a_seed():
    names = ["SimCLR h", "pixels", "random encoder"]
    shared = scores_by_kind([record(names, seed=s, evaluated=0) for s in range(3)])
    assert list(shared) == ["SimCLR h (3 seeds)", "pixels", "random encoder"] and "linear_sd" not in shared["pixels"]
    assert list(scores_by_kind([record(names, seed=s, epochs=3 + s) for s in range(2)])) == [
        "SimCLR h, epochs=3", "pixels (2 seeds)", "random encoder (2 seeds)", "SimCLR h, epochs=4"]


def test_the_same_seed_twice_is_refused():
    with pytest.raises(ValueError, match="two runs of SimCLR h have seed=4"): scores_by_kind([record(seed=4), record(seed=4)])
    assert len(scores_by_kind([record(seed=4), record(seed=4, epochs=9)])) == 2


def test_fine_tuned_runs_are_averaged_over_encoders_of_one_recipe_alone(tmp_path):
    for name, r in dict(a=record(seed=0), b=record(seed=1), c=record(seed=2, temperature=0.1)).items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(json.dumps(r))
    a, b, c, gone = (str(tmp_path / n) for n in ("a", "b", "c", "gone"))
    assert list(scores_by_kind([tuned(a), tuned(b)])) == ["SimCLR, fine-tuned (2 seeds)"]    # one seed of the head, two of the encoder
    assert list(scores_by_kind([tuned(a), tuned(c)])) == ["SimCLR, fine-tuned", "SimCLR, fine-tuned, pretrain.temperature=0.1"]
    assert len(scores_by_kind([tuned(gone, 0), tuned(gone + "2", 1)])) == 2
    assert list(scores_by_kind([tuned(gone, 0), tuned(gone, 1)])) == ["SimCLR, fine-tuned (2 seeds)"]
    fresh = [tuned(run, seed, random_weight_init=True) for seed, run in enumerate((a, c))]    # where the weights are fresh the run does not matter
    assert list(scores_by_kind(fresh)) == ["SimCLR, fine-tuned (2 seeds)"]
    numbered = tuned(None, run_dir=str(tmp_path), experiment_version=7)
    assert dict(kind("x", numbered)[1])["run"] == f"{tmp_path}/pretrain/resnet8/version_7"


def test_label_counts_that_some_rows_lack_are_empty_cells():
    few, many, taught = record(seed=0), record(seed=1), record("from scratch", curve=TAUGHT)
    many["evaluate"]["scores"]["SimCLR h"] = score(few=(1, 5, 20))
    many["config"]["epochs"] = 9
    rows = scores_by_kind([few, many, taught])
    assert [list(s["few_labels"]) for s in rows.values()] == [[1, 5, 20]] * 3
    assert [s["few_labels"][20]["mean"] for s in rows.values()] == [None, 0.45, None]
    assert scores_by_kind([taught])["from scratch"]["few_labels"] == {}                      # nor does it make columns
    assert {v["mean"] for v in rows["from scratch"]["few_labels"].values()} == {None}        # its features have seen every label
    table = [[c.strip() for c in line.split("|")[1:-1]] for line in score_table(rows).splitlines()]
    assert table[0][-1] == "20 labels/class" and [row[-1] for row in table[2:]] == ["", "45.0% ± 30.0%", ""]
    many["config"]["epochs"] = 3                                                             # now one kind, whose seeds share two counts
    both = scores_by_kind([few, many])["SimCLR h (2 seeds)"]["few_labels"]
    assert both[20]["mean"] is None and both[5]["mean"] == 0.45


def test_average_changes_no_score_of_its_input():
    s = score()
    before = json.dumps(s)
    average([s, s], [1, 9])
    assert json.dumps(s) == before


def test_rows_stand_in_the_order_of_the_runs():
    a, b = record(["h", "z"], seed=0, epochs=3), record(["z", "x", "h"], seed=1, epochs=9)
    assert list(scores_by_kind([a, b])) == ["h, epochs=3", "z, epochs=3", "z, epochs=9", "x", "h, epochs=9"] == list(names_by_kind([a, b]).values())
    assert list(scores_by_kind([b, a]))[0] == "z, epochs=9"


# Which records

def without(key):
    r = record()
    del r[key]
    return r


FAULTS = {
    "no runs": ([], ValueError, "runs is empty"),
    "no folder": (["lost"], FileNotFoundError, "lost"),
    "no file": (["lost.json"], FileNotFoundError, "lost.json"),
    "half a file": (['{"config"'], ValueError, "0.json holds no record"),
    "not text": ([b"\xff\xfe{}"], ValueError, "0.json holds no record"),
    "a list": (["[]"], ValueError, "0.json is not the record of one run"),
    "a sweep": (['{"config": {}, "points": []}'], ValueError, "0.json is not the record of one run"),
    "no scores": ([without("evaluate")], ValueError, "0.json has no scores yet: simclr evaluate"),
    "the second": ([record(), without("evaluate")], ValueError, "1.json has no scores yet"),
    "other data": ([record(), record(seed=1), record(dataset="cifar10")], ValueError, "2.json has dataset=cifar10, but .*0.json has dataset=digits"),
    "other folder": ([record(dataset="folder", root="a"), record(dataset="folder", root="b")], ValueError, "1.json has root=b, but .* has root=a"),
    "other pixels": ([record(), record(images="Images(digits: train 9, val 1, test 4; 1×16×16, 10 classes)")], ValueError, "1.json has images=test 4; 1×16"),
    "other test set": ([record(), record(images="Images(digits: train 9, val 1, test 5; 1×8×8, 10 classes)")], ValueError, "1.json has images=test 5"),
    "one seed twice": ([record(), record()], ValueError, "two runs of SimCLR h have seed=0"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_faults_are_named_and_leave_no_file(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given, error, words = FAULTS[case]
    runs = []
    for n, r in enumerate(given):
        if isinstance(r, str) and r.startswith("lost"): runs.append(r)
        elif isinstance(r, dict): runs.append(write(tmp_path, n, r))
        else:
            (tmp_path / f"{n}.json").write_bytes(r if isinstance(r, bytes) else r.encode())
            runs.append(f"{n}.json")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(error, match=words): compare(runs)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("other", [record(seed=1, root="elsewhere"), record(seed=1, image_size=8),                # kept elsewhere; the size said or not
                                   record(seed=1, images="Images(digits: train 2, val 0, test 4; 1×8×8, 10 classes)")])   # fewer labels
def test_runs_that_answered_one_exam_may_stand_together(other, tmp_path):
    assert len(read_scored([write(tmp_path, n, r) for n, r in enumerate((record(), other))])) == 2


def test_a_folder_and_its_record_are_read_alike(tmp_path):
    (tmp_path / "results.json").write_text(json.dumps(record()), encoding="utf-8")
    assert read_scored([tmp_path]) == read_scored([str(tmp_path / "results.json")]) == [record()]
    assert data_of(record(dataset="folder", root="r"))["root"] == "r"


def test_the_records_that_come_with_the_project_can_be_compared(tmp_path):
    stored = Path(__file__).parents[1] / "results/cifar10-jpeg-cpu.json"
    page = compare([str(stored)], out=str(tmp_path / "c.html"))
    assert "<title>1 run on folder</title>" in page.read_text(encoding="utf-8")


# Figures

def test_bars_are_the_scores_and_one_run_has_no_error_bar():
    rows = {"a": dict(classifier=0.5, linear=0.75, linear_sd=0.125, knn=0.25), "b": dict(linear=0.5, knn=0.5)}
    own, linear, knn = draw_scores(rows).data
    assert (own.y, own.x, own.error_x.array) == (("a",), (50,), ("unknown",))                # null would be drawn as an error bar of 0
    assert (linear.y, linear.x, linear.error_x.array) == (("a", "b"), (75, 50), (12.5, "unknown"))
    assert [t.name for t in (own, linear, knn)] == ["its own classifier", "linear probe", "kNN"] and len({t.marker.color for t in (own, linear, knn)}) == 3
    figure = draw_scores({"b": rows["b"], "a": rows["a"]}, classes=5)
    assert figure.layout.yaxis.categoryarray == ("b", "a")                                   # the order of the table, not of the colours
    assert figure.layout.title.text == "Highest: a, 75.0 ± 12.5 % by linear probe" and figure.layout.shapes[0].x0 == 20


def test_a_kind_has_one_colour_and_training_is_dotted():
    records = [record("from scratch", seed=0, curve=TAUGHT), record(), record("from scratch", seed=1, curve=TAUGHT), tuned("x")]
    data = draw_learning(records, ["from scratch", "SimCLR h", "from scratch", "tuned"]).data
    assert len(data) == 12 and {t.line.dash for t in data if "held-out" in t.name} == {"solid"} and {t.line.dash for t in data if "training" in t.name} == {"dot"}
    assert len({t.line.color for t in data if t.name.startswith("from scratch")}) == 1 and len({t.line.color for t in data}) == 2
    assert [t.name for t in data if t.showlegend] == ["from scratch, training", "from scratch, held-out", "tuned, training", "tuned, held-out"]
    bare = [{k: v for k, v in row.items() if "val" not in k} for row in TAUGHT]              # val_fraction 0
    figure = draw_learning([record("from scratch", curve=bare)], ["a"])
    assert len(figure.data) == 2 and figure.layout.title.text == "Learning from labels"
    assert draw_learning([record()], ["h"]) is None


def test_sweep_figure_reads_json_and_writes_one_file(tmp_path):
    few = {"1": dict(mean=0.5, sd=0.1), "5": dict(mean=0.75, sd=0.05)}
    path = draw_sweep(dict(h=dict(few_labels=few), pixels=dict(few_labels=few)), tmp_path / "sweep.html", classes=4)
    assert path == tmp_path / "sweep.html" and "plotly" in path.read_text(encoding="utf-8")[:5_000_000] and len(list(tmp_path.iterdir())) == 1
    figure = draw_sweep(dict(h=dict(few_labels=few)), classes=4)
    assert figure.data[0].y == (50, 75) and figure.data[0].error_y.array == (10, 5) and figure.layout.shapes[0].y0 == 25


def test_sweep_draws_every_row_with_scores_and_tells_them_apart():
    few = {1: dict(mean=0.5, sd=0.1), 20: dict(mean=0.75, sd=0.05)}
    rows = {f"row {n}": dict(few_labels=few) for n in range(14)} | {"none": dict(few_labels={5: dict(mean=None, sd=None)})}
    figure = draw_sweep(rows)
    looks = {(t.line.color, t.marker.symbol) for t in figure.data}
    assert len(figure.data) == len(looks) == 14 and figure.layout.xaxis.tickvals == (1, 20)
    with pytest.raises(ValueError, match="no row has few-label scores"): draw_sweep(dict(a=rows["none"]))


# The file

def page_of(tmp_path, *records):
    runs = [write(tmp_path, n, r) for n, r in enumerate(records)]
    return compare(runs, out=str(tmp_path / "c.html")).read_text(encoding="utf-8")


def test_the_page_works_offline_and_holds_plotly_once(tmp_path, capsys):
    page = page_of(tmp_path, record(), record("from scratch", curve=TAUGHT))
    assert capsys.readouterr().out.splitlines()[2].startswith("| SimCLR h ")
    assert not re.findall(r"<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=", page) and page.count("plotly.js v") == 1
    assert page.count('class="plotly-graph-div"') == 2 and page.startswith("<!doctype html>") and page.rstrip().endswith("</html>")
    assert page_of(tmp_path, record()).count('class="plotly-graph-div"') == 1                # nothing was learned from labels
    assert len(list(tmp_path.iterdir())) == 3                                                # two records and the page: nothing half-written


@pytest.mark.parametrize("where", ["setting", "row", "folder of pictures", "run", "end of script"])
def test_markup_in_a_record_is_text_on_the_page(where, tmp_path):
    bad = "</script></pre><script>alert(1)</script>" if where == "end of script" else IMG
    a, b = {"setting": (record(optimizer=bad), record(optimizer="x")), "row": (record(bad), record("other")), "folder of pictures": (record(dataset=bad), record(dataset=bad, seed=1)),
            "run": (tuned(f"gone/{bad}"), tuned("gone/2")), "end of script": (record(optimizer=bad), record(bad, seed=1, curve=TAUGHT))}[where]
    page = page_of(tmp_path, a, b)
    assert "<img" not in page.replace("<img>", "") and "<script>alert" not in page and "&lt;" in page
    assert page.count("</pre>") == 1


def test_names_in_figures_are_text():
    few = dict(few_labels={1: dict(mean=0.5, sd=0)})
    figures = draw_scores({IMG: dict(linear=1)}), draw_learning([record(curve=TAUGHT)], [IMG]), draw_sweep({IMG: few})
    assert figures[0].data[0].y == ("&lt;img src=x onerror=1&gt;",)
    for figure in figures:
        words = " ".join([figure.layout.title.text, *(t.name for t in figure.data)])
        assert "<img" not in words and "&lt;img" in figure.layout.title.text


def test_a_browser_runs_nothing_that_a_record_says(tmp_path):
    sync = pytest.importorskip("playwright.sync_api")
    bad = "<img src=x onerror=window.hit=1><a href='javascript:window.hit=1'>x</a>"
    page_of(tmp_path, record(optimizer=bad), record(optimizer="x", seed=1), record(bad, curve=TAUGHT))
    with sync.sync_playwright() as p:
        installed = next((path for path in ("/usr/bin/chromium", "/usr/bin/google-chrome") if Path(path).exists()), None)
        try: browser = p.chromium.launch(executable_path=installed)
        except sync.Error as e: pytest.skip(f"no browser: {e.message[:60]}")
        asked, errors = [], []
        page = browser.new_page()
        page.set_default_timeout(120_000)                                                    # a busy machine is slow to start one
        page.on("request", lambda r: asked.append(r.url))
        page.on("pageerror", lambda e: errors.append(str(e)))
        page.goto((tmp_path / "c.html").as_uri(), wait_until="domcontentloaded")
        page.wait_for_selector(".main-svg .bars .point")
        text = page.locator("body").inner_text()
        assert page.evaluate("window.hit") is None and page.locator("img").count() == 0 and page.locator("a[href^=javascript]").count() == 0
        assert page.locator(".plotly-graph-div .ytick", has_text="<img src=x").count() > 0 and f"optimizer={bad}" in text      # as it was written
        assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == [] and errors == []
        browser.close()


def test_the_page_is_whole_or_not_there(tmp_path, monkeypatch):
    run = write(tmp_path, "a", record())
    (tmp_path / "c.html").write_text("old")
    monkeypatch.setattr("pathlib.Path.replace", lambda *a: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"): compare([run], out=str(tmp_path / "c.html"))
    assert (tmp_path / "c.html").read_text() == "old" and sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "c.html"]
    monkeypatch.undo()
    with pytest.raises(FileNotFoundError, match="c.html"): compare([run], out=str(tmp_path / "no/c.html"))
