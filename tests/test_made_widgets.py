"The widgets that the site shows: made by today's code, small, and each with its picture and its record."
import json

import pytest

from conftest import ROOT
from widgets import RECORD, SCRIPTS, WIDGETS, parts, repacked

EACH = pytest.mark.parametrize("name", SCRIPTS)


def saved(name): return (WIDGETS / f"{name}-digits.html").read_text(encoding="utf-8")


@EACH
def test_script_and_style_are_todays(name): assert repacked(name, saved(name)) == saved(name), "run: python tools/widgets.py --repack"


def test_a_change_of_the_script_would_be_noticed():
    page = saved("explorer")
    assert repacked("explorer", page.replace("readData(model)", "readDatum(model)")) != page.replace("readData(model)", "readDatum(model)")


@EACH
def test_small_and_with_a_picture(name):
    assert (WIDGETS / f"{name}-digits.html").stat().st_size <= 1_050_000
    assert 10_000 < (ROOT / f"nbs/images/{name}.png").stat().st_size < 400_000


@EACH
def test_numbers_have_their_record(name):
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    assert record["seconds"][name] > 0 and record["configs"]["SimCLR"]["dataset"] == "digits" and record["environment"]["cpu"]


def test_the_explorer_shows_what_the_record_says():
    from simclr.widget import unpack
    blob, _, title = parts(saved("explorer"))
    meta, _ = unpack(blob)
    epochs = json.loads(RECORD.read_text(encoding="utf-8"))["configs"]["SimCLR"]["epochs"]
    assert meta["epochs"][0] == 0 and meta["epochs"][-1] == epochs and title.startswith("Explorer")
    assert [space["name"] for space in meta["spaces"]] == ["SimCLR", "from scratch", "random encoder", "pixels"]
