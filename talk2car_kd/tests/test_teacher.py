"""The frozen teacher: where its weights come from, what it says, and its embeddings on disk."""

import logging
from pathlib import Path

import pytest
import safetensors.torch
import torch

from shared.config import load_config
from shared.errors import CheckpointError, ConfigError
from shared.run import World
from talk2car_kd import embedded_teacher
from talk2car_kd.config import DEFAULT, EMBEDDED, Config, TeacherTraining
from talk2car_kd.config import Teacher as TeacherConfig
from talk2car_kd.teacher import CommandReader, load_teacher
from talk2car_kd.teacher_cache import CachedTargets, OnlineTargets, cache_key, cached_targets

RECIPE = TeacherTraining(
    image_tower="test_convnext", embed_dim=16, text_width=16, text_layers=1, text_heads=2, image_size=32, epochs=1,
    batch_size=8, lr=1e-3, weight_decay=0.0,
)  # fmt: skip


def named(pretrained, name="embedded"):
    return TeacherConfig(name=name, pretrained=pretrained, train=None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("teacher")
    embedded_teacher.save_folder(embedded_teacher.new_model(RECIPE), RECIPE, folder)
    return folder


@pytest.fixture(scope="module")
def teacher(folder):
    return load_teacher(named(f"local-dir:{folder}"))


def test_a_saved_teacher_comes_back_with_its_own_pixel_statistics(folder, teacher):
    weights = safetensors.torch.load_file(folder / embedded_teacher.WEIGHTS_NAME)
    assert all(torch.equal(weights[name], tensor) for name, tensor in teacher.model.state_dict().items())
    assert teacher.mean == (0.485, 0.456, 0.406) and teacher.image_size == 32
    assert (teacher.embed_dim, teacher.text_width) == (16, 16)


def test_the_teacher_is_frozen_and_its_hash_proves_it(folder, teacher):
    assert not teacher.model.training
    assert not any(parameter.requires_grad for parameter in teacher.model.parameters())
    teacher.encode_images(torch.randn(2, 3, 32, 32))
    teacher.read(["stop here"])
    assert load_teacher(named(f"local-dir:{folder}")).sha256 == teacher.sha256


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("local-dir:teachers/small", "local-dir:{here}/teachers/small"),
        ("weights/b16.pt", "{here}/weights/b16.pt"),
        ("local-dir:/far/teacher", "local-dir:/far/teacher"),
        ("/far/b16.safetensors", "/far/b16.safetensors"),
        ("laion2b_s34b_b88k", "laion2b_s34b_b88k"),
    ],
)
def test_weights_named_by_a_path_count_from_where_they_were_written(tmp_path, text, expected):
    file = tmp_path / "mine.yaml"
    file.write_text(f"teacher: {{pretrained: '{text}'}}\nstudent: {{init: '{text.removeprefix('local-dir:')}'}}\n")
    config = load_config(Config, [DEFAULT, EMBEDDED, file])
    assert config.teacher.pretrained == expected.format(here=tmp_path)
    if not text.startswith("local-dir:"):
        assert config.student.init == config.teacher.pretrained
    there = load_config(Config, [DEFAULT, EMBEDDED], [f"teacher.pretrained={text}"])
    assert there.teacher.pretrained == expected.format(here=Path.cwd())


@pytest.mark.parametrize("pretrained", [None, "", "local-dir:/nowhere", "/nowhere/weights.pt"])
def test_missing_weights_are_an_error_and_never_random(pretrained):
    with pytest.raises(CheckpointError):
        load_teacher(named(pretrained, "ViT-B-32"))


def test_unknown_names_and_tags_are_refused_with_what_there_is():
    with pytest.raises(ConfigError, match="list_models"):
        load_teacher(named("openai", "ViT-Z-99"))
    with pytest.raises(ConfigError, match="openai"):
        load_teacher(named("no_such_tag", "ViT-B-32"))


def test_embeddings_are_unit_vectors(teacher):
    for embedding in (teacher.encode_images(torch.randn(3, 3, 32, 32)), teacher.encode_texts(["a", "a red car", ""])):
        assert embedding.shape == (3, 16)
        torch.testing.assert_close(embedding.norm(dim=1), torch.ones(3))


def test_reading_does_not_depend_on_padding_or_company(teacher):
    alone = teacher.read(["turn left"])[0]
    among = teacher.read(["park beside the second white truck on the right", "turn left"])[1]
    assert alone.states.shape == (4, 16) and alone.ids.shape == (4,)  # [SOT] turn left [EOT]
    torch.testing.assert_close(alone, among, atol=1e-5, rtol=1e-5)
    left, right = teacher.read(["the car on the left", "the car on the right"])
    assert (left.states[5] - right.states[5]).abs().max() > 0.1  # the word that differs
    assert (left.ids != right.ids).nonzero().tolist() == [[5]]


def test_the_state_of_the_tower_agrees_with_open_clip(teacher):
    """The last token's state, normalised against open_clip's own text encoder."""
    text = teacher.text
    ids = teacher.tokenizer(["follow the bus"])
    hidden = embedded_teacher.encode_short(teacher.model, ids)
    torch.testing.assert_close(hidden, teacher.model.encode_text(ids), atol=1e-5, rtol=1e-5)
    assert text is teacher.model


def test_a_long_command_is_cut_with_its_end_kept_and_counted(teacher, caplog):
    with caplog.at_level(logging.WARNING):
        (tokens,) = teacher.read(["very " * 60], length=20)
    assert len(tokens.ids) == len(tokens.states) == 20
    assert "1 commands are longer than 20 tokens" in caplog.text
    assert tokens.ids[0] == 49406 and tokens.ids[-1] == 49407  # [SOT], [EOT]


def test_the_reader_reads_as_the_teacher_and_knows_the_words(teacher):
    reader = CommandReader(teacher, ["stop", "go", "stop"], 48)
    torch.testing.assert_close(reader("go"), teacher.read(["go"])[0], atol=1e-5, rtol=1e-5)
    assert reader.vocabulary(["go", "go"]).tolist() == reader("go").ids.sort().values.tolist()


class Regions(torch.utils.data.Dataset):
    """Five 'crops' that differ from view to view."""

    def __len__(self):
        return 5

    def batch(self, view):
        generator = torch.Generator().manual_seed(view)
        index = torch.arange(5)
        return {"teacher_image": torch.randn(5, 3, 32, 32, generator=generator), "index": index,
                "view": torch.full((5,), view)}  # fmt: skip


class Walk:
    """Loader and sampler in one: a single batch an epoch."""

    def __init__(self):
        self.dataset, self.view, self.walks = Regions(), 0, 0

    def set_position(self, epoch, batch):
        self.view = epoch

    def __iter__(self):
        self.walks += 1
        return iter([self.dataset.batch(self.view)])


@pytest.fixture
def walk(monkeypatch):
    walk = Walk()
    monkeypatch.setattr("shared.run.iterate", iter)
    return walk


def cached(teacher, walk, folder):
    return cached_targets(teacher, walk, walk, fingerprint="crops", views=2, folder=folder, world=World(),
                          log=logging.getLogger("test"))  # fmt: skip


def test_cached_targets_equal_online_ones(teacher, walk, tmp_path):
    targets = cached(teacher, walk, tmp_path)
    assert isinstance(targets, CachedTargets) and targets.table.shape == (2, 5, 16)
    for view in (0, 1):
        batch = walk.dataset.batch(view)
        torch.testing.assert_close(targets(batch), OnlineTargets(teacher)(batch), atol=2e-3, rtol=0)


def test_the_cache_is_read_again_and_a_damaged_one_is_made_again(teacher, walk, tmp_path, caplog):
    first = cached(teacher, walk, tmp_path)
    again = cached(teacher, walk, tmp_path)
    assert walk.walks == 2 and torch.equal(first.table, again.table)  # two views, walked once
    (file,) = tmp_path.glob("teacher-*.pt")
    file.write_bytes(file.read_bytes()[:-7])
    with caplog.at_level(logging.WARNING):
        third = cached(teacher, walk, tmp_path)
    assert "made again" in caplog.text and walk.walks == 4
    assert torch.equal(first.table, third.table)


def test_the_cache_key_tells_teachers_crops_and_views_apart(teacher):
    keys = {cache_key(teacher, "crops", 2), cache_key(teacher, "others", 2), cache_key(teacher, "crops", 3)}
    assert len(keys) == 3
