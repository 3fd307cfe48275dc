"Arguments: types, ranges and places are told before any work, by every command, and what a careful caller passes is taken."
import inspect
import json
import os
import re
from importlib import import_module
from pathlib import Path
from typing import Literal, Optional

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import simclr.evaluate
from simclr.arguments import HUGE, TINY, check_ranges, checked, describe, fits, plain
from simclr.baseline import label_sweep
from simclr.cli import COMMANDS
from simclr.compare import compare
from simclr.explore import build_explorer, explore
from simclr.pretrain import pretrain

SMALL = dict(dataset="digits", image_size=8, backbone="resnet8", width=4, hidden_dim=16, projection_dim=8, batch_size=400, optimizer="adamw",
             lr_scaling_method="none", epochs=1, warmup_epochs=0, knn_every=0, echo=False)


@pytest.mark.parametrize("value, hint, expected", [
    (3, int, True), (3, float, True), (3.0, int, False), (2.5, float, True), (True, int, False), (True, float, False), (True, bool, True),
    (1, bool, False), ("3", int, False), ("a", str, True), (b"a", str, False), (None, str, False), (None, str | None, True), (None, Optional[int], True),
    (2.5, int | None, False), ("x", Literal["x", "y"], True), ("z", Literal["x", "y"], False), (None, Optional[Literal["x"]], True),
    ((), tuple[int, ...], True), ([1, 2], tuple[int, ...], True), ((1, 2.5), tuple[int, ...], False), (("a", "b"), list[str], True),
    ("ab", list[str], False), ([True], tuple[float, ...], False), (object(), inspect.Parameter.empty, True)])
def test_what_fits_a_type(value, hint, expected): assert fits(value, hint) is expected


@pytest.mark.parametrize("value, expected", [
    (Path("a/b"), str(Path("a/b"))), (np.float32(0.5), 0.5), (np.int8(3), 3), (np.bool_(True), True), (np.str_("a"), "a"), (torch.tensor(2), 2),
    (np.arange(3), [0, 1, 2]), ((np.int64(1), Path("a")), (1, "a")), ([], []), ("a", "a"), (None, None), (2.5, 2.5), (True, True)], ids=repr)
def test_plain_values_can_stand_in_a_file(value, expected):
    found = plain(value)
    assert found == expected and type(found) is type(expected)
    json.dumps(found), yaml.safe_dump(list(found) if isinstance(found, tuple) else found)


def test_numbers_of_numpy_are_judged_by_what_they_are():
    @checked
    def f(n:int=0, x:float=0.0): return n, x
    assert f(np.int64(2), np.float32(0.5)) == (2, 0.5) and type(f(np.int64(2))[0]) is int
    for bad in (dict(n=np.float64(2)), dict(n=np.arange(2)), dict(x=np.bool_(True)), dict(x=torch.zeros(2))):
        with pytest.raises(ValueError, match="is not a"): f(**bad)


def test_names_and_number_of_arguments_are_left_to_python():
    @checked
    def f(a:int, b:int=1): return a + b
    assert f(1) == f(a=1) == 2 and f(1, 2) == f(1, b=2) == 3
    for call, words in ((lambda: f(1, c=2), r"f\(\) got an unexpected keyword argument 'c'"), (lambda: f(), r"f\(\) missing 1 required"),
                        (lambda: f(1, 2, 3), r"f\(\) takes from 1 to 2"), (lambda: f(1, a=1), r"f\(\) got multiple values")):
        with pytest.raises(TypeError, match=words): call()


def test_an_error_of_the_function_itself_passes():
    @checked
    def f(a:int): raise TypeError(f"my own {a}")
    with pytest.raises(TypeError, match="my own 1"): f(1)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_checked_and_every_type_has_words(command):
    module, name = COMMANDS[command].split(":")
    function = getattr(import_module(module), name)
    inner = inspect.unwrap(function)
    assert inner is not function and function.__doc__ == inner.__doc__
    hints = {p.name: p.annotation for p in inspect.signature(function).parameters.values()}
    assert inspect.Parameter.empty not in hints.values()
    assert not re.search(r"class|typing|\bint\b|\bstr\b", " ".join(map(describe, hints.values())))
    for p in inspect.signature(function).parameters.values():
        assert p.default is p.empty or fits(p.default, p.annotation), p
        with pytest.raises(ValueError, match=f"{p.name}=.* is not "): function(**{q: None for q in hints if q != p.name and fits(None, hints[q])}
                                                                               | needed(hints, p.name) | {p.name: object()})


def test_a_lone_run_is_no_list_of_runs():
    for function in (build_explorer, compare, explore):
        with pytest.raises(ValueError, match=r"runs='runs/a' is not a list such as \[runs/a, runs/b\]"): function("runs/a")


def needed(hints, name):
    "Values for the arguments without a default, which come first."
    return {q: "x" if hint is str else ["x"] for q, hint in hints.items() if q != name and hint in (str, list[str]) and q in ("run", "runs")}


def test_paths_and_numbers_of_numpy_give_the_run_that_plain_ones_give(tmp_path):
    ours = pretrain(**SMALL, temperature=0.25, seed=3, run_dir=str(tmp_path / "a"))
    theirs = pretrain(**SMALL | dict(epochs=np.int64(1)), temperature=np.float32(0.25), seed=np.int64(3), run_dir=tmp_path / "b")
    files = [(run / "encoder.safetensors").read_bytes() for run in (ours, theirs)]
    assert files[0] == files[1]
    assert (ours / "config.yaml").read_text() == (theirs / "config.yaml").read_text()
    assert json.loads((theirs / "results.json").read_text())["config"]["run_dir"] == str(tmp_path / "b")


@pytest.mark.parametrize("given", ["~/runs", Path("~/runs")], ids=repr)
def test_a_wave_is_the_users_folder_and_no_folder_of_that_name_is_made(tmp_path, monkeypatch, given):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    run = pretrain(**SMALL, root="~/pictures", run_dir=given)
    assert run.is_relative_to(tmp_path / "home/runs") and (run / "encoder.safetensors").exists() and not list(Path().iterdir())
    assert yaml.safe_load((run / "config.yaml").read_text())["root"] == "~/pictures"      # in records, for other machines


def test_a_wave_in_lists_and_in_the_middle():
    @checked
    def f(runs:list[str], root:str="~/a"): return runs, root
    assert f(["~/a", "b~/c", "cifar10-small"], "~/b") == ([str(Path("~/a").expanduser()), "b~/c", "cifar10-small"], "~/b")


@pytest.mark.parametrize("value, limits, words", [
    (0, (1, HUGE), "v=0 must be at least 1"), (0.0, (TINY, HUGE), "v=0.0 must be above 0"), (1.0, (0, 1 - TINY), "v=1.0 must be at least 0 and below 1"),
    (float("nan"), (0, HUGE), "v=nan must be at least 0"), (float("inf"), (0, HUGE), "v=inf must be at least 0"), (-1, (0, 2), "v=-1 must be at least 0 and at most 2")])
def test_what_is_out_of_range(value, limits, words):
    with pytest.raises(ValueError) as e: check_ranges(dict(v=value), {limits: "v"})
    assert str(e.value) == words


# A place for the result

@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    "A finished run with scores, and a folder of pictures."
    top = tmp_path_factory.mktemp("finished")
    run = pretrain(**SMALL, run_dir=top)
    simclr.evaluate.evaluate_run(run, controls=False, echo=False)
    (top / "pictures").mkdir()
    for i in range(3): Image.new("RGB", (32, 32), (80 * i, 0, 0)).save(top / f"pictures/{i}.png")
    return run


def no_work(*_, **__): raise RuntimeError("work was begun")


WORK = dict(embed=("simclr.evaluate.embed", lambda run, out: simclr.evaluate.embed_folder("cifar10-small", run.parents[2] / "pictures", out)),
            explore=("simclr.explore.build_explorer", lambda run, out: explore([run], out)),
            compare=("simclr.compare.draw_scores", lambda run, out: compare([run], out)),
            sweep=("simclr.baseline.train_few", lambda run, out: label_sweep([run], out=out, epoch_images=2000, echo=False)))


@pytest.mark.parametrize("command", WORK)
def test_a_result_that_cannot_be_written_is_told_before_the_work(tmp_path, monkeypatch, finished, command):
    work, call = WORK[command]
    monkeypatch.setattr(work, no_work)
    with pytest.raises(RuntimeError, match="work was begun"): call(finished, tmp_path / "fine.out")     # so the place is all that is wrong
    with pytest.raises(IsADirectoryError): call(finished, tmp_path)
    with pytest.raises(RuntimeError if command == "sweep" else FileNotFoundError): call(finished, tmp_path / "lost/x.out")     # a sweep makes its folder
    monkeypatch.setattr(os, "access", lambda path, mode: False)                                         # as for a user other than root
    with pytest.raises(PermissionError, match="x.out: nothing may be written in"): call(finished, tmp_path / "x.out")


def test_scores_that_could_not_be_kept_are_not_computed(monkeypatch, finished):
    monkeypatch.setattr(simclr.evaluate, "score_on_test", no_work)
    with pytest.raises(RuntimeError, match="work was begun"): simclr.evaluate.evaluate_run(finished)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(PermissionError, match="results.json: nothing may be written in"): simclr.evaluate.evaluate_run(finished)
