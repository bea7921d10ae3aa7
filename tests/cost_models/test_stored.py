"""Model files: written, read, refused."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cost_models.base import Sample
from cost_models.card import make_card
from cost_models.create import KINDS, create
from cost_models.stored import StoredModel, joined, read_model, write_model
from cost_models.times import Parts
from cost_models.whole_times import Unchunked
from search_space.errors import ModelFileError
from tests.cost_models.made_features import drawn_features
from tests.cost_models.made_rates import PLAIN


def made_samples(count: int = 60, model: str = "m") -> list[Sample]:
    """Samples that rise with the passes, four to a group."""
    draw = np.random.default_rng(0)
    return [
        Sample(one, 0.1 * float(np.log2(one.passes)) + draw.normal(0, 0.01), f"g{k // 4}",
               64 + k // 30, model, 0.01, 2000 * one.roofline_whole_s, (0.1, 0.12))
        for k, one in enumerate(drawn_features(count))
    ]  # fmt: skip


def stored(kind: str, samples: list[Sample]) -> StoredModel:
    (model,) = create(kind, 3)
    card = make_card(create("roofline"), samples, device="a device")
    return StoredModel(
        "a device", PLAIN, model.fit(samples), tuple(samples),
        (Unchunked("m", 64, Parts(0.001, 0.007, 0.002), 12.5),), card,
    )  # fmt: skip


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_model_read_again_is_the_same(kind: str, tmp_path: Path) -> None:
    samples = [
        replace(one, noise=round(one.noise, 5), log_ratio=round(one.log_ratio, 5))
        for one in made_samples()
    ]
    before = stored(kind, samples)
    write_model(tmp_path / "new" / "model.json.gz", before)
    after = read_model(tmp_path / "new" / "model.json.gz")
    features = drawn_features(20, seed=5)
    assert after.model.estimate(features) == before.model.estimate(features)
    assert after.device == before.device and after.ceilings == before.ceilings
    assert after.baselines == before.baselines
    assert [one.group for one in after.samples] == [one.group for one in samples]
    assert [one.log_ratio for one in after.samples] == [one.log_ratio for one in samples]
    assert after.samples[0].features.vector() == pytest.approx(
        samples[0].features.vector(), rel=1e-4, abs=1e-4
    )
    assert after.card is not None and before.card is not None
    assert after.card.plain() == before.card.plain()
    # read once more, nothing changes any more
    write_model(tmp_path / "again.json.gz", after)
    assert read_model(tmp_path / "again.json.gz").plain() == after.plain()


def damaged(change: Callable[[dict[str, Any]], Any], path: Path) -> Path:
    write_model(path, stored("learned", made_samples(24)))
    row = json.loads(gzip.decompress(path.read_bytes()))
    change(row)
    path.write_bytes(gzip.compress(json.dumps(row).encode()))
    return path


@pytest.mark.parametrize(
    "change",
    [
        lambda row: row.pop("model"),
        lambda row: row["model"].update(kind="os.system"),
        lambda row: row["model"]["fitted"]["regressor"].update(type="pickle"),
        lambda row: row["model"]["fitted"]["regressor"].update(roots=[10**9]),
        lambda row: row["samples"][0]["features"].pop("flops"),
        lambda row: row["ceilings"].update(launch_s=0),
        lambda row: row.update(samples=[3]),
    ],
)
def test_a_damaged_file_is_one_clear_error(
    change: Callable[[dict[str, Any]], Any], tmp_path: Path
) -> None:
    path = damaged(change, tmp_path / "model.json.gz")
    with pytest.raises(ModelFileError, match="damaged") as caught:
        read_model(path)
    assert str(path) in str(caught.value)


def test_other_versions_are_refused_by_name(tmp_path: Path) -> None:
    path = damaged(lambda row: row.update(version=99), tmp_path / "model.json.gz")
    with pytest.raises(ModelFileError, match="version 99"):
        read_model(path)


def test_what_is_no_model_file_is_refused(tmp_path: Path) -> None:
    packed = gzip.compress(b"{}")
    wrong = packed[:10] + b"\xff" + packed[11:]  # (a kind of block that there is none of)
    contents = (("text", b"hello"), ("torn", gzip.compress(b"{" * 9999)[:40]), ("bits", wrong))
    for name, content in contents:
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(ModelFileError, match="autochunk"):
            read_model(path)
    with pytest.raises(ModelFileError, match="cannot be read"):
        read_model(tmp_path / "nowhere")


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "model.json.gz"
    write_model(path, stored("roofline", made_samples(8)))
    write_model(path, stored("macro_micro", made_samples(8)))
    assert read_model(path).model.kind == "macro_micro"
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


def test_own_samples_stand_before_earlier_ones() -> None:
    own = [replace(made_samples(1)[0], group="a", log_ratio=1.0)]
    earlier = [replace(own[0], log_ratio=2.0), replace(own[0], group="b"),
               replace(own[0], model="other")]  # fmt: skip
    assert joined(own, earlier) == [own[0], *earlier[1:]]
    # timed as it is, a class's compiled passes are still known from before
    compiled = replace(own[0], features=replace(own[0].features, compiled=1))
    assert joined(own, [compiled]) == [own[0], compiled]
    assert joined([compiled], [compiled, own[0]]) == [compiled, own[0]]
