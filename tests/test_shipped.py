"The encoder that comes with the package: found by its name, small, and of use without a network."
import numpy as np
import pytest
import torch
from PIL import Image

from simclr.cli import main
from simclr.evaluate import evaluate_run
from simclr.explore import build_explorer
from simclr.files import SHIPPED, run_path
from simclr.model import count_parameters, load_encoder, save_encoder
from simclr.runs import read_record

NAME = "cifar10-small"


@pytest.fixture
def pictures(tmp_path):
    noise = np.random.default_rng(0)
    for i in range(24):
        (tmp_path / f"pictures/{'ab'[i % 2]}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(tmp_path / f"pictures/{'ab'[i % 2]}/{i}.png")
    return tmp_path / "pictures"


def test_it_is_small_and_has_its_card():
    assert (SHIPPED / NAME / "encoder.safetensors").stat().st_size < 3_000_000
    encoder, card = load_encoder(NAME), read_record(NAME)
    assert count_parameters(encoder) == card["parameters"] and encoder.feature_dim == 512 and not encoder.training
    assert {p.dtype for p in encoder.parameters()} == {torch.float32}                          # stored as half of that
    assert card["evaluate"]["scores"]["SimCLR h"]["linear"] > 0.7 and card["environment"]["date"] and "train 45,000" in card["images"]


def test_simclr_embed_takes_its_name(pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(["embed", NAME, "--images", str(pictures), "--out", "h.npz"])
    h = np.load("h.npz")["h"]
    assert h.shape == (24, 512) and np.isfinite(h).all() and h.std(0).max() > 0


def test_the_explorer_takes_its_name(pictures):
    explorer = build_explorer([NAME], root=str(pictures), images=16, controls=False, grid=False, views=0, aligned=0)
    assert len(explorer.spaces) == 1


def test_a_folder_of_that_name_goes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / NAME).mkdir()
    with pytest.raises(FileNotFoundError): load_encoder(NAME)
    encoder = load_encoder(SHIPPED / NAME)
    with torch.no_grad(): next(encoder.parameters()).zero_()
    save_encoder(encoder, tmp_path / NAME / "encoder.safetensors")
    assert not next(load_encoder(NAME).parameters()).any()


@pytest.mark.parametrize("name", [f"../encoders/{NAME}", f"{NAME}/encoder.safetensors", "..", "", "cifar10-large"])
def test_nothing_else_is_found_by_name(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert not run_path(name).is_relative_to(SHIPPED)


def test_its_record_in_the_package_is_not_written_to(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="cifar10-small is no pre-training run"): evaluate_run(NAME)
