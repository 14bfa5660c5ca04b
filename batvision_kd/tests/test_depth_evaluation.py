"""Judging: tables, controls and constant maps, on echoes whose depth is known."""

import numpy as np
import pytest
import torch
from echo_samples import SIDE, SPECTROGRAM, Deaf, Echoes, Hears

from batvision_kd.controls import (
    AUDIO_CONTROLS,
    best_constant,
    constant_maps,
    derangement,
    heard_wrongly,
    one_ear_input,
    silent_input,
)
from batvision_kd.evaluation import predictor, read_table, score, stacked, write_table
from batvision_kd.spectrogram import SpectrogramSettings, spectrogram
from shared.errors import DataError

WITH_PHASE = SpectrogramSettings(size=(SIDE, SIDE), channels="magnitude+ipd+gcc")


def judged(model, data, **options):
    return score(predictor(model, "audio"), data, max_depth_m=30.0, **options)


# --- tables -----------------------------------------------------------------------------------------------------------


def test_a_perfect_model_scores_perfectly():
    table = judged(Hears(), Echoes())
    assert table.means("strict")["rmse"] == pytest.approx(0, abs=1e-6) and table.means("strict")["delta1"] == 1
    assert table.ids[:2] == ("image_0", "image_1") and table.scenes.unit == "rooms within locations"


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_the_batch_size_changes_nothing(batch_size):
    a, b = judged(Deaf(), Echoes()), judged(Deaf(), Echoes(), batch_size=batch_size)
    assert a.ids == b.ids
    assert all(np.array_equal(a.values("strict", m), b.values("strict", m)) for m in ("rmse", "log10", "pixels"))


def test_an_image_without_valid_pixels_is_left_out_and_counted():
    table = judged(Deaf(), Echoes(holes=1.0))
    assert table.means("strict") == {"counted": 0, "skipped": 12}
    assert table.means("official")["rmse"] == 0 and table.means("official")["counted"] == 12


def test_a_table_survives_its_file(tmp_path):
    table = judged(Deaf(), Echoes())
    table.protocols["official"]["log10"][3] = np.inf
    write_table(tmp_path / "t.json", table, best="abc")
    again, about = read_table(tmp_path / "t.json")
    assert about == {"best": "abc"} and again.ids == table.ids and again.scenes.rooms == table.scenes.rooms
    assert np.isinf(again.values("official", "log10")[3]) and again.counted("strict").dtype == bool
    for metric in ("rmse", "delta1", "pixels"):
        np.testing.assert_allclose(again.values("strict", metric), table.values("strict", metric), rtol=1e-11)


def test_broken_scores_are_told(tmp_path):
    (tmp_path / "t.json").write_text("{}")
    with pytest.raises(DataError, match="holds no scores"):
        read_table(tmp_path / "t.json")
    with pytest.raises(DataError, match="evaluate again"):
        read_table(tmp_path / "none.json")


def test_tables_of_other_images_are_not_compared():
    with pytest.raises(DataError, match="not of the same images"):
        stacked([judged(Deaf(), Echoes(6)), judged(Deaf(), Echoes(8))], "strict", "rmse")


def test_the_interval_holds_the_mean():
    table = judged(Deaf(), Echoes())
    low, high = table.interval("strict", "rmse")
    assert low < table.means("strict")["rmse"] < high


# --- controls ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("control", AUDIO_CONTROLS)
def test_a_model_that_hears_loses_by_every_control_and_a_deaf_one_by_none(control):
    data = Echoes()
    wrong = heard_wrongly(data, control, SPECTROGRAM)
    assert judged(Hears(), wrong).means("strict")["rmse"] > 0.3
    assert judged(Deaf(), wrong).means("strict")["rmse"] == judged(Deaf(), data).means("strict")["rmse"]


@pytest.mark.parametrize("control", AUDIO_CONTROLS)
def test_a_control_changes_the_audio_alone(control):
    item, wrong = Echoes()[3], heard_wrongly(Echoes(), control, SPECTROGRAM)[(0, 3)]
    assert not torch.equal(item["audio"], wrong["audio"])
    assert torch.equal(item["depth"], wrong["depth"]) and item["id"] == wrong["id"]


@pytest.mark.parametrize("count", [2, 3, 50])
def test_a_derangement_moves_everything_and_loses_nothing(count):
    order = derangement(count, seed=1)
    assert sorted(order) == list(range(count)) and (order != np.arange(count)).all()
    assert np.array_equal(order, derangement(count, seed=1))


def test_one_image_cannot_be_shuffled():
    with pytest.raises(ValueError, match="two are needed"):
        heard_wrongly(Echoes(1), "shuffled", SPECTROGRAM)
    with pytest.raises(ValueError, match="unknown; choose from shuffled"):
        heard_wrongly(Echoes(), "loud", SPECTROGRAM)


@pytest.mark.parametrize("settings", [SPECTROGRAM, WITH_PHASE], ids=["ears", "ears and phase"])
def test_silence_and_one_ear_have_the_shape_of_the_input(settings):
    audio = spectrogram(torch.randn(2, 4000, generator=torch.Generator().manual_seed(0)), settings)
    silent, one = silent_input(audio, settings), one_ear_input(audio, settings)
    assert silent.shape == one.shape == audio.shape
    assert silent[:2].max() == 0 and torch.equal(one[0], one[1]) and torch.equal(one[0], audio[0])


def test_one_ear_is_what_two_equal_ears_would_give():
    samples = torch.randn(1, 4000, generator=torch.Generator().manual_seed(0))
    twice = spectrogram(samples.expand(2, -1), WITH_PHASE)
    torch.testing.assert_close(one_ear_input(twice, WITH_PHASE)[:4], twice[:4], atol=1e-4, rtol=0)


# --- constant maps ----------------------------------------------------------------------------------------------------


class Maps(torch.utils.data.Dataset):
    """Depth maps with 0 where invalid."""

    def __init__(self, maps: torch.Tensor):
        self.maps = maps

    def __len__(self) -> int:
        return len(self.maps)

    def __getitem__(self, index: int) -> dict:
        return {"depth": self.maps[index][None], "valid": self.maps[index][None] > 0}


def test_constant_maps_by_hand():
    maps = constant_maps(Maps(torch.tensor([[[1.0, 0]], [[4.0, 0]], [[2.0, 8]]])))
    assert maps["mean"][0, 0].tolist() == pytest.approx([7 / 3, 8]) and maps["median"][0, 0, 0] == 2
    assert maps["log_mean"][0, 0].tolist() == pytest.approx([2, 8])


def test_a_pixel_that_nothing_measures_takes_the_value_of_all():
    maps = constant_maps(Maps(torch.tensor([[[1.0, 0]], [[3.0, 0]]])))
    assert maps["mean"][0, 0].tolist() == [2, 2]
    with pytest.raises(ValueError, match="no constant to predict"):
        constant_maps(Maps(torch.zeros(2, 4, 4)))


def test_constant_maps_of_many_rows_are_those_of_each_row():
    values = 1 + torch.rand(5, 70, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(constant_maps(Maps(values))["median"][0], values.median(0).values)


def test_each_constant_is_the_best_under_its_own_error():
    """The mean minimises squares, the median absolute errors, the log-mean squared log errors."""
    values = torch.tensor([1.0, 1.5, 2.0, 4.0, 12.0])[:, None, None].expand(5, 4, 4)
    maps = {name: constant[0, 0, 0] for name, constant in constant_maps(Maps(values)).items()}
    errors = {
        "mean": lambda c: ((values - c) ** 2).mean(),
        "median": lambda c: (values - c).abs().mean(),
        "log_mean": lambda c: ((values / c).log() ** 2).mean(),
    }
    for name, error in errors.items():
        assert min(maps, key=lambda other, error=error: float(error(maps[other]))) == name


def test_the_best_constant_is_the_one_with_the_least_error():
    assert best_constant({"mean": 2.0, "median": 1.0, "log_mean": 1.5}) == "median"
    with pytest.raises(ValueError, match="no validation error of the constant log_mean"):
        best_constant({"mean": 2.0, "median": 1.0})
