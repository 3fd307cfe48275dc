"The command line: signatures against the real functions, configurations, exit codes and messages by table, interrupt and resume."
import inspect
import json
import os
import re
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import nbformat
import numpy as np
import pytest
import yaml
from PIL import Image

from simclr import cli
from simclr.model import load_encoder

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
ENV = os.environ | dict(PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1")
TINY = ("pretrain --dataset digits --backbone resnet8 --width 8 --hidden_dim 32 --projection_dim 16 --optimizer adamw "
        "--lr_scaling_method none --batch_size 128 --warmup_epochs 0 --knn_every 0")

ORIGINAL = dict(seed=42, epochs=200, version=0, eta_min=0.0, batch_size=512, dataset="cifar10", weight_decay=1e-6,
                lr_scaling_method="square-root", hidden_dim=2048, temperature=0.5, backbone="resnet50", projection_dim=128)


def shell(line, cwd, **env):
    "A fresh process, as a user starts it."
    return subprocess.run([sys.executable, "-m", "simclr.cli", *line.split()], cwd=cwd, env=ENV | env, capture_output=True, text=True)


def call(line, capsys):
    "The same without a process: exit code, stdout and stderr."
    try:
        cli.main(line.split())
        code = 0
    except SystemExit as e:
        code = e.code
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.parametrize("command, target", cli.COMMANDS.items())
def test_light_copies_have_the_signature_of_the_function_and_a_comment_for_each_option(command, target):
    module, name = target.split(":")
    real, copy = inspect.signature(getattr(import_module(module), name)), inspect.signature(cli.light_copy(target))
    assert list(copy.parameters.values()) == list(real.parameters.values())
    helps = dict(line.strip().split(": ", 1) for line in cli.light_copy(target).__doc__.split("Args:\n")[1].splitlines())
    assert list(helps) == list(real.parameters) and all(len(h) > 5 for h in helps.values())


def test_help_names_every_option_with_its_comment_and_imports_no_torch(tmp_path):
    code = ("import sys\nfrom simclr.cli import main\ntry: main(sys.argv[1:])\nexcept SystemExit as e: assert e.code == 0\n"
            "heavy = {'torch', 'numpy', 'pytorch_lightning', 'sklearn', 'plotly'} & set(sys.modules)\nassert not heavy, heavy")
    for command in cli.COMMANDS:
        done = subprocess.run([sys.executable, "-c", code, command, "--help"], cwd=tmp_path, env=ENV | dict(COLUMNS="500"), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        for name in inspect.signature(cli.light_copy(cli.COMMANDS[command])).parameters: assert name in done.stdout
    assert "smallest share of an image that a view shows, 0 to 1" in subprocess.run(
        [sys.executable, "-m", "simclr.cli", "pretrain", "--help"], env=ENV | dict(COLUMNS="500"), capture_output=True, text=True).stdout


@pytest.mark.parametrize("command", ["", *cli.COMMANDS])
def test_help_is_that_of_the_parser_with_all_options(command, capsys, monkeypatch):
    "main builds only what a line needs: the options of one command, or the names of all."
    monkeypatch.setenv("COLUMNS", "100")
    code, quick, _ = call(f"{command} --help", capsys)
    with pytest.raises(SystemExit): cli.build_parser().parse_args(f"{command} --help".split())
    assert code == 0 and quick == capsys.readouterr().out and "usage: simclr" in quick


@pytest.mark.parametrize("line", ["pretrian --epochs 3", "--epochs 3", "--epochs=3", "--epochs=3 pretrain --seed 1", "-- pretrain", ""])
def test_a_line_without_a_command_has_the_complaint_of_the_parser_with_all_options(line, capsys):
    code, _, quick = call(line, capsys)
    with pytest.raises(SystemExit): cli.build_parser().parse_args(line.split())
    assert code == 2 and quick == capsys.readouterr().err


@pytest.mark.parametrize("command", ["", *cli.COMMANDS])
def test_help_takes_less_than_half_a_second_of_processor_time(command, tmp_path):
    "Processor time, not wall time: what else the machine does should not decide."
    import resource
    spent = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert shell(f"{command} --help", tmp_path).returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        if spent[-1] < 0.5: break
    assert min(spent) < 0.5


WRONG = {   # command line: what the last line of stderr must contain
    "": ["command"],
    "pretrian": ["pretrian", "pretrain"],
    "pretrain --tempratur 1": ["tempratur", "did you mean temperature"],
    "pretrain --temp 1": ["no option temp"],
    "pretrain --batch-size 1": ["batch-size", "did you mean batch_size"],
    "pretrain --temperature warm": ["temperature=warm is not a number"],
    "pretrain --epochs 1.5": ["epochs=1.5 is not a whole number"],
    "pretrain --epochs null": ["epochs=None is not a whole number"],
    "pretrain --learning_rate x": ["learning_rate=x is not a number or null"],
    "pretrain --backbone vgg": ["backbone=vgg is not one of resnet8, resnet18"],
    "pretrain --resume maybe": ["resume=maybe is not true or false"],
    "pretrain --seed": ["--seed"],
    "pretrain epochs": ["epochs"],
    "pretrain --config lost.yaml": ["lost.yaml"],
    "pretrain --config typo.yaml": ["no option temprature; did you mean temperature"],
    "pretrain --config type.yaml": ["epochs=many is not a whole number"],
    "pretrain --config list.yaml": ["config"],
    "pretrain --config broken.yaml": ["config", "line 1"],
    "pretrain --config empty.yaml": ["config"],
    "pretrain --config photo.png": ["text file"],
    "pretrain --config .": ["file"],
    "pretrain --temperature -1": ["temperature=-1.0"],
    "pretrain --temperature 0": ["temperature=0.0"],
    "pretrain --epochs 0": ["epochs=0"],
    "pretrain --batch_size 1": ["batch_size=1"],
    "pretrain --flip_prob 2": ["flip_prob=2.0"],
    "pretrain --min_crop_scale 0": ["crop_scale"],
    "pretrain --eta_min -1": ["eta_min=-1.0"],
    "pretrain --dataset folder": ["root"],
    "pretrain --dataset folder --root lost": ["lost"],
    "pretrain --dataset digits --batch_size 5000 --warmup_epochs 0": ["batch_size=5000", "1295"],
    "pretrain --dataset digits --image_size 2": ["image_size=2"],
    "evaluate": ["evaluate.run"],
    "evaluate lost": ["lost"],
    "evaluate a b": ["b"],
    "evaluate lost --per_class 5": ["per_class=5 is not a list"],
    "evaluate --controls lost": ["controls=lost is not true or false"],
    "embed": ["embed.run"],
    "embed lost": ["images"],
    "embed lost --images .": ["lost"],
    "compare": ["required", "compare.runs"],
    "compare --out x.html": ["required", "compare.runs"],
    "compare lost": ["lost"],
    "compare lost.json": ["lost.json"],
    "compare --runs a": ["no option --runs", "by its position"],
    "compare a --outt x": ["no option outt; did you mean out"],
    "compare --config typo.yaml a": ["no option temprature"],
    "compare --config one_run.yaml": ["runs in the file is not a list"],
    "compare broken.yaml": ["broken.yaml"],
    "sweep": ["required", "sweep.runs"],
    "sweep --seeds 2": ["required", "sweep.runs"],
    "sweep lost": ["lost"],
    "sweep lost --seeds many": ["seeds=many is not a whole number"],
    "sweep lost --seeds 0": ["seeds=0"],
    "sweep lost --epochs 0": ["epochs=0"],
    "sweep lost --fractions 1": ["fractions=1 is not a list such as [0.01, 0.1]"],
    "sweep --config one_run.yaml": ["runs in the file is not a list"],
    "finetune": ["runs/pretrain/resnet18/version_0"],
    "finetune --run lost": ["lost"],
    "finetune lost": ["lost"],
    f"finetune --config {CONFIGS / 'finetune.yaml'}": ["runs/pretrain/resnet50/version_1"],
    "finetune --run lost --freeze_encoder maybe": ["freeze_encoder=maybe is not true or false"],
    "finetune --run lost --learning_rate 0": ["learning_rate=0.0"],
    "finetune --run lost --num_classes 1": ["num_classes=1"],
    "finetune --run lost --learning-rate 1": ["no option learning-rate; did you mean learning_rate"],
    "scratch --backbone vgg": ["backbone=vgg is not one of resnet8"],
    "scratch --labels_per_class few": ["labels_per_class=few is not a whole number or null"],
    "scratch --label_fraction 0": ["label_fraction=0.0"],
    "scratch --dataset digits --padding -1": ["padding=-1"],
    "scratch --dataset digits --labels_per_class 5000": ["5000", "there are"],
    "scratch --dataset folder --root lost": ["lost"],
    "scratch --temperature 1": ["no option temperature"],
    "explore": ["required", "explore.runs"],
    "explore lost": ["lost"],
    "explore lost --views 40": ["views=40", "from 2 to 32"],
    "explore lost --aligned 3000": ["aligned=3000", "from 16 to 2000"],
    "explore lost --out nowhere/x.html": ["nowhere"],
    "explore lost --views many": ["views=many is not a whole number"],
    "demo --seeds 0": ["seeds=0"],
    "demo --epochs 0 --run_dir nowhere": ["epochs=0"],
}


@pytest.fixture
def bad_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in dict(typo="temprature: 1\n", type="epochs: many\n", list="- 1\n", broken="a: [1\n", empty="",
                           one_run="runs: a\n").items():
        Path(f"{name}.yaml").write_text(text)
    Image.fromarray(np.zeros((8, 8), "uint8")).save("photo.png")


@pytest.mark.parametrize("line, words", WRONG.items())
def test_bad_input_ends_with_code_2_and_a_last_line_that_names_it(line, words, bad_files, capsys):
    files = sorted(Path().rglob("*"))
    code, out, err = call(line, capsys)
    assert code == 2 and "Traceback" not in err and len(err.splitlines()) <= 2
    last = err.splitlines()[-1]
    assert last.startswith("simclr") and ": error: " in last
    for word in words: assert word in last
    assert sorted(Path().rglob("*")) == files           # nothing was made


def test_a_process_gives_the_same_answer_and_debug_shows_the_traceback(tmp_path):
    done = shell("evaluate lost", tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "simclr: error: no results.json in lost: it is not a finished run\n")
    done = shell("evaluate lost", tmp_path, SIMCLR_DEBUG="1")
    assert done.returncode == 1 and "Traceback" in done.stderr and "FileNotFoundError" in done.stderr


def printed(line, capsys):
    code, out, err = call(line, capsys)
    assert (code, err) == (0, "")
    return yaml.safe_load(out)


def test_pre_train_yaml_is_the_original_configuration(capsys):
    stored = yaml.safe_load((CONFIGS / "pre-train.yaml").read_text())
    assert stored == ORIGINAL and list(stored) == list(ORIGINAL)
    assert {k: type(v) for k, v in stored.items()} == {k: type(v) for k, v in ORIGINAL.items()}
    config = printed(f"pretrain --config {CONFIGS / 'pre-train.yaml'} --print_config", capsys)
    assert {k: config[k] for k in ORIGINAL} == ORIGINAL


COMMAND_OF = {"demo.yaml": "demo", "finetune.yaml": "finetune", "from-scratch.yaml": "scratch", "cifar10-cpu-scratch.yaml": "scratch"}


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.name)
def test_every_configuration_is_accepted_and_in_range(path, capsys):
    from simclr.baseline import check_classifier
    from simclr.pretrain import check_config
    stored = yaml.safe_load(path.read_text())
    command = COMMAND_OF.get(path.name, "pretrain")
    config = printed(f"{command} --config {path} --print_config", capsys)
    assert {k: config[k] for k in stored} == stored
    if command == "pretrain": check_config(config)
    if command in ("finetune", "scratch"): check_classifier(config)
    if "resnet" in path.name or path.name in ("pre-train.yaml", "finetune.yaml", "from-scratch.yaml"):
        assert path.read_text().startswith("# Not measured here.")


def test_the_page_lists_every_configuration_and_every_command():
    cells = [c["source"] for c in json.loads((ROOT / "nbs/20_cli.ipynb").read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "markdown"]
    page = "\n".join("".join(source) for source in cells)
    rows = [line for line in page.splitlines() if line.startswith("|")]
    for path in CONFIGS.glob("*.yaml"):
        row, = [line for line in rows if f"`{path.name}`" in line]
        assert f"`{COMMAND_OF.get(path.name, 'pretrain')}`" in row
    for name in cli.COMMANDS: assert any(line.startswith(f"| `simclr {name}") for line in rows)


def test_every_command_that_a_page_shows_is_accepted(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)                                               # pages name configs/… as it is seen from the checkout
    command = re.compile(r"\bsimclr(?:\.cli)? ((?:%s) [^`#)\n]+)" % "|".join(cli.COMMANDS))
    prose = {path.stem: "\n".join(c.source for c in nbformat.read(path, 4).cells if c.cell_type == "markdown") for path in ROOT.glob("nbs/*.ipynb")}
    shown = [(page, line.replace("…", "")) for page, text in prose.items() for line in command.findall(text.replace("\\\n", ""))]
    for page, line in shown:
        try: cli.build_parser().parse_args(line.split())
        except SystemExit: pytest.fail(f"{page}: simclr {line}: {capsys.readouterr().err}")
    assert {"08_scale", "11b_minutes", "20_cli", "index"} <= {page for page, _ in shown} and len(shown) > 20


def test_finetune_yaml_is_the_original_configuration(capsys):
    original = dict(seed=42, epochs=100, experiment_version=1, eta_min=1e-6, batch_size=8, dataset="cifar10", weight_decay=0.0, learning_rate=1e-4,
                    num_classes=10, freeze_encoder=True, random_weight_init=False, backbone="resnet50")
    stored = yaml.safe_load((CONFIGS / "finetune.yaml").read_text())
    assert stored == original and list(stored) == list(original) and {k: type(v) for k, v in stored.items()} == {k: type(v) for k, v in original.items()}


def test_demo_yaml_is_the_demo(capsys):
    assert printed("demo --print_config", capsys) == yaml.safe_load((CONFIGS / "demo.yaml").read_text())
    assert printed(f"demo --config {CONFIGS / 'demo.yaml'} --print_config", capsys) == printed("demo --print_config", capsys)


def test_the_last_word_on_the_line_wins_and_flags_may_be_bare(tmp_path, capsys):
    file = tmp_path / "a.yaml"
    file.write_text("epochs: 3\nlearning_rate: 1e-6\nresume: true\n")
    assert printed(f"pretrain --config {file} --epochs 9 --print_config", capsys)["epochs"] == 9
    assert printed(f"pretrain --epochs 9 --config {file} --print_config", capsys)["epochs"] == 3
    assert printed(f"pretrain --config {file} --print_config", capsys)["learning_rate"] == 1e-6     # YAML 1.1 alone reads 1e-6 as text
    for line, expected in {"--resume": True, "--resume --seed 1": True, "--resume true": True, "--resume=false": False,
                           "--resume false": False, f"--config {file} --resume false": False, "--seed 1": False}.items():
        assert printed(f"pretrain {line} --print_config", capsys)["resume"] is expected


LISTS = {   # command line: runs, and another option
    "compare a b": (["a", "b"], dict(out="compare.html")),
    "compare a": (["a"], {}),
    "compare a b --out x.html": (["a", "b"], dict(out="x.html")),
    "compare --out x.html a b": (["a", "b"], dict(out="x.html")),
    "compare runs/1 2 null": (["runs/1", "2", "null"], {}),                                  # folders, whatever they look like
    "sweep a b --seeds 2": (["a", "b"], dict(seeds=2, fractions=(0.01, 0.1, 1.0))),
    "sweep --seeds 2 a b": (["a", "b"], dict(seeds=2)),
    "sweep a b --fractions [0.5] --echo false": (["a", "b"], dict(fractions=(0.5,), echo=False)),
    "sweep --config sweep.yaml a b": (["a", "b"], dict(seeds=7)),
    "sweep a b --config sweep.yaml --seeds 2": (["a", "b"], dict(seeds=2)),
    "sweep --config both.yaml": (["c", "d"], dict(seeds=7)),
    "sweep --config both.yaml a": (["a"], dict(seeds=7)),
}


@pytest.mark.parametrize("line, expected", LISTS.items())
def test_several_runs_are_several_words(line, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("sweep.yaml").write_text("seeds: 7\n")
    Path("both.yaml").write_text("runs: [c, d]\nseeds: 7\n")
    given = cli.build_parser().parse_args(line.split())
    runs, options = expected
    assert given[given.command].runs == runs
    assert {k: given[given.command][k] for k in options} == options


def test_a_printed_configuration_prints_itself(tmp_path, capsys):
    for line in ("pretrain --epochs 3 --learning_rate 0.1 --root x", "demo --seeds 2", "evaluate runs/a --per_class [1,2]", "compare a b", "sweep a b --seeds 2",
                 "finetune --run a", "scratch --labels_per_class 3"):
        code, once, _ = call(f"{line} --print_config", capsys)
        (tmp_path / "once.yaml").write_text(once)
        code, twice, err = call(f"{line.split()[0]} --config {tmp_path / 'once.yaml'} --print_config", capsys)
        assert (code, err) == (0, "") and once == twice and once


def test_the_original_configuration_runs_with_overrides(tmp_path):
    done = shell(f"pretrain --config {CONFIGS / 'pre-train.yaml'} --dataset digits --backbone resnet8 --epochs 1 --warmup_epochs 0 --batch_size 64 "
                 "--width 8", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "runs/pretrain/resnet8/version_0"
    record = json.loads((tmp_path / "runs/pretrain/resnet8/version_0/results.json").read_text())
    assert record["config"]["hidden_dim"] == 2048 and record["config"]["lr_scaling_method"] == "square-root" and len(record["curve"]) == 1


@pytest.mark.parametrize("line, says", [("scratch", "simclr: stopped; `simclr scratch … --resume` goes on from the last checkpoint"), ("evaluate pretrain", "simclr: stopped")])
def test_ctrl_c_says_how_to_go_on_where_one_can(line, says, capsys, monkeypatch):
    def stop(*_): raise KeyboardInterrupt
    monkeypatch.setattr(cli.Parser, "parse_args", stop)
    code, _, err = call(line, capsys)
    assert (code, err.splitlines()[-1]) == (130, says)


def test_a_demo_of_one_seed_claims_no_spread(tmp_path, capsys, monkeypatch):
    "Training, scoring and drawing are faked; what is printed is real."
    from simclr import compare, evaluate, explore, pretrain, runs
    score = dict(features=2, linear=0.9, knn=0.8, few_labels={1: dict(mean=0.5, sd=0.1, draws=20)})
    monkeypatch.setattr(pretrain, "pretrain", lambda **k: Path(k["run_dir"], f"seed{k['seed']}"))
    monkeypatch.setattr(evaluate, "evaluate_run", lambda *a, **k: {"SimCLR h": score})
    for module, name in ((compare, "draw_sweep"), (explore, "explore"), (runs, "draw_curves")): monkeypatch.setattr(module, name, lambda *a, **k: "a file")
    for seeds, told, row in ((1, "one seed", ["90.0%", "80.0%", "50.0% ± 10.0%"]), (2, "mean ± s.d. over 2 seeds", ["90.0% ± 0.0%", "80.0% ± 0.0%", "50.0% ± 0.0%"])):
        cli.demo(seeds=seeds, run_dir=str(tmp_path))
        out = capsys.readouterr().out
        assert f"Test set, {told}, after" in out and [cell.strip() for cell in out.split("| SimCLR h |")[1].split("|")[1:4]] == row


def test_interrupt_resume_and_embed(tmp_path):
    start = subprocess.Popen([sys.executable, "-m", "simclr.cli", *f"{TINY} --epochs 20".split()], cwd=tmp_path, env=ENV,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                             preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))   # a background shell would pass on "ignore"
    for epoch in (1, 2): assert start.stdout.readline().startswith(f"epoch   {epoch}/20")   # the checkpoint follows the line
    start.send_signal(signal.SIGINT)
    out, err = start.communicate()
    assert start.returncode == 130 and "--resume" in err.splitlines()[-1] and "Traceback" not in err
    again = shell(f"{TINY} --epochs 20 --version 0", tmp_path)
    assert again.returncode == 2 and "resume" in again.stderr
    done = shell(f"{TINY} --epochs 20 --resume", tmp_path)
    *lines, run = done.stdout.splitlines()
    assert done.returncode == 0 and 1 <= len(lines) < 20 and run == "runs/pretrain/resnet8/version_0"
    assert [row["epoch"] for row in json.loads((tmp_path / run / "results.json").read_text())["curve"]] == list(range(1, 21))

    (tmp_path / "album").mkdir()
    for i in range(3): Image.fromarray(np.full((20 + i, 30, 3), 80 * i, "uint8")).save(tmp_path / f"album/{i}.png")
    done = shell(f"embed {run} --images album --out h.npz", tmp_path)
    assert (done.returncode, done.stdout) == (0, "h.npz\n")
    saved = np.load(tmp_path / "h.npz")
    assert saved["h"].shape == (3, load_encoder(tmp_path / run).feature_dim) and saved["h"].dtype == np.float32 and [Path(p).name for p in saved["paths"]] == ["0.png", "1.png", "2.png"]
