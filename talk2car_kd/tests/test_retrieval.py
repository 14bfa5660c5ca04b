"""Region Recall@K: hand-made galleries, chance, sizes, and several processes."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from talk2car_kd import retrieval
from talk2car_kd.captions import TEMPLATES
from talk2car_kd.coco_annotations import Region

LABELS = ["car", "car", "dog", "dog", "cup"]
SIZES = ["small", "large", "small", "small", "large"]


def embeddings(angles):
    """Unit vectors in the plane: the cosine of two is the cosine of the angle between them."""
    angles = torch.deg2rad(torch.tensor(angles, dtype=torch.float32))
    return torch.stack([angles.cos(), angles.sin()], dim=-1)


def test_recall_by_hand():
    images = embeddings([0.0, 90.0, 30.0, 120.0, 60.0])  # car, car, dog, dog, cup
    texts = embeddings([1.0, 61.0, 100.0])  # next to the car at 0, the cup at 60, the car at 90
    found = retrieval.region_recall(images, LABELS, SIZES, texts, ["car", "dog", "cup"], ks=(1, 2, 3, 99))
    overall = found["overall"]
    assert (overall["queries"], overall["gallery"]) == (3, 5)
    # car first at once; dog after the cup and the car at 90 (distances 1, 29, 31); cup after the car and the dog
    assert overall["recall@1"] == pytest.approx(1 / 3)
    assert overall["recall@2"] == pytest.approx(1 / 3)
    assert overall["recall@3"] == 1.0
    assert overall["recall@99"] == overall["chance@99"] == 1.0


def test_sizes_share_the_gallery_and_count_only_their_own_positives():
    images = embeddings([0.0, 90.0, 30.0, 120.0, 60.0])
    texts = embeddings([1.0, 29.0, 60.0])
    found = retrieval.region_recall(images, LABELS, SIZES, texts, ["car", "dog", "cup"], ks=(1,))
    assert set(found) == {"overall", "small", "large"}
    assert found["small"]["queries"] == 2 and found["large"]["queries"] == 2  # car and dog; car and cup
    assert found["small"]["gallery"] == found["large"]["gallery"] == 5
    assert found["small"]["recall@1"] == 1.0
    assert found["large"]["recall@1"] == 0.5  # the nearest car is the small one: the large car is not found


def test_chance_is_that_of_the_positives():
    images = F.normalize(torch.randn(160, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    labels = ["one"] + ["ten"] * 10 + ["rest"] * 149
    found = retrieval.region_recall(images, labels, ["small"] * 160, images[:1], ["one"], ks=(1, 10))["overall"]
    assert (found["chance@1"], found["chance@10"]) == pytest.approx((0.00625, 0.0625))
    found = retrieval.region_recall(images, labels, ["small"] * 160, images[:1], ["ten"], ks=(5, 10))["overall"]
    assert (found["chance@5"], found["chance@10"]) == pytest.approx((0.279, 0.486), abs=5e-4)


def test_random_embeddings_do_as_well_as_chance():
    generator = torch.Generator().manual_seed(0)
    images, texts = torch.randn(300, 16, generator=generator), torch.randn(2000, 16, generator=generator)
    labels = torch.arange(300).remainder(30).tolist()
    queries = torch.randint(30, (2000,), generator=generator).tolist()
    found = retrieval.region_recall(images, labels, ["small"] * 300, texts, queries, ks=(1, 5, 10))["overall"]
    for k in (1, 5, 10):
        assert found[f"recall@{k}"] == pytest.approx(found[f"chance@{k}"], abs=0.04)


def test_order_and_length_do_not_matter():
    generator = torch.Generator().manual_seed(1)
    images, texts = torch.randn(5, 8, generator=generator), torch.randn(3, 8, generator=generator)
    names = ["car", "dog", "cup"]
    found = retrieval.region_recall(images, LABELS, SIZES, texts, names)
    order, lengths = [3, 0, 4, 2, 1], torch.tensor([[0.01], [1.0], [5.0], [0.3], [90.0]])
    mixed = retrieval.region_recall(
        lengths * images[order], [LABELS[i] for i in order], [SIZES[i] for i in order], 0.1 * texts, names
    )
    assert found == mixed


def test_queries_without_positives_are_no_queries():
    images = embeddings([0.0, 90.0, 30.0, 120.0, 60.0])
    found = retrieval.region_recall(images, LABELS, SIZES, embeddings([1.0, 5.0]), ["car", "zebra"], ks=(1,))
    assert found["overall"]["queries"] == 1 and found["overall"]["recall@1"] == 1.0
    with pytest.raises(ValueError, match="none of 1 queries has a positive among 5 regions"):
        retrieval.region_recall(images, LABELS, SIZES, embeddings([5.0]), ["zebra"])


def region(number, category, size):
    return Region(
        image_id=number,
        annotation_id=number,
        image_path=Path("none.jpg"),
        box_xywh_px=(0.0, 0.0, 9.0, 9.0),
        mask_area_px=81.0,
        category=category,
        size=size,
    )


REGIONS = [region(i, category, size) for i, (category, size) in enumerate(zip(LABELS, SIZES, strict=True))]


class Student(nn.Module):
    """Gives the two numbers painted into an image back as its embedding."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, images):
        assert not self.training
        return self.gain * images[:, :2, 0, 0]


def loader(images, rows, batch_size=2):
    for start in range(0, len(rows), batch_size):
        part = torch.tensor(rows[start : start + batch_size])
        yield {"image": images[part], "index": part}


def encode(texts):
    """A teacher that places every word: car at 1, dog at 29, cup at 60 degrees, and jitters by template."""
    place = {"car": 1.0, "dog": 29.0, "cup": 60.0}
    return embeddings([next(a for word, a in place.items() if word in text) + 0.1 * len(text) for text in texts])


def test_concepts_average_their_templates():
    single = retrieval.concept_embeddings([("car", "small"), ("cup", "large")], encode)
    assert single.shape == (2, 2)
    assert torch.allclose(single.norm(dim=-1), torch.ones(2))
    every = encode([template.format(thing="a small car") for template in TEMPLATES])
    assert torch.allclose(single[0], F.normalize(every.mean(dim=0), dim=-1), atol=1e-6)


def test_evaluation_over_processes_equals_one_process():
    images = F.pad(embeddings([0.0, 90.0, 30.0, 120.0, 60.0])[:, :, None, None], (0, 3, 0, 3, 0, 1))
    model = Student().train()
    alone = retrieval.evaluate_regions(model, loader(images, [4, 1, 0, 2, 3]), REGIONS, encode, ks=(1, 5))
    assert model.training
    assert alone["overall"]["queries"] == 4 and alone["overall"]["gallery"] == 5
    indices, emb = retrieval.embed_regions(model, loader(images, [1, 3, 1]))
    assert indices == [1, 3]

    class World:
        def gather(self, mine):
            return [mine, dict(zip(indices, emb, strict=True))]

    together = retrieval.evaluate_regions(model, loader(images, [0, 2, 4]), REGIONS, encode, ks=(1, 5), world=World())
    assert together == alone


def test_numbers_are_printed_with_gallery_and_chance():
    images = embeddings([0.0, 90.0, 30.0, 120.0, 60.0])
    texts = embeddings([1.0, 29.0, 60.0])
    found = retrieval.region_recall(images, LABELS, SIZES, texts, ["car", "dog", "cup"], ks=(1,))
    flat = retrieval.flat_recall(found)
    assert flat == {"recall@1": 1.0, "recall@1/small": 1.0, "recall@1/large": 0.5}
    lines = retrieval.describe_recall(found).splitlines()
    assert lines[1].split()[:3] == ["overall", "3", "5"] and "100.0" in lines[1]
    assert f"{100 * found['overall']['chance@1']:.1f}" in lines[1] and "chance" in lines[-1]
