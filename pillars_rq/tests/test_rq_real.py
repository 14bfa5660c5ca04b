"""Distortion on real frames against reference values: dedicated and nested (column B) books.

Train on six reduced frames, test on 000134 and testing/000002, as the reference does. Features come from the published
first layer. 10 % are allowed; better is welcome.
"""

import pytest
import torch
from rq_samples import REDUCED, real_encoder, real_frame

from pillars_rq.rq.lloyd import fit_dedicated, fit_nested
from pillars_rq.rq.losses import relative_mse

DEDICATED = {  # m2, test relMSE at depth 1..5
    16: (0.1545, 0.1026, 0.0768, 0.0622, 0.0526),
    32: (0.1239, 0.0759, 0.0563, 0.0449, 0.0372),
    64: (0.1005, 0.0587, 0.0424, 0.0332, 0.0272),
    128: (0.0819, 0.0464, 0.0326, 0.0252, 0.0206),
    256: (0.0688, 0.0376, 0.0262, 0.0201, 0.0164),
}
NESTED_B = {
    16: (0.1519, 0.1047, 0.0809, 0.0673, 0.0578),
    32: (0.1288, 0.0806, 0.0595, 0.0481, 0.0401),
    64: (0.1058, 0.0625, 0.0453, 0.0360, 0.0300),
    128: (0.0839, 0.0486, 0.0351, 0.0277, 0.0231),
    256: (0.0704, 0.0401, 0.0287, 0.0227, 0.0188),
}
TOLERANCE = 1.10

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def features(real_samples):
    model = real_encoder(real_samples)
    train = torch.cat([real_frame(model, real_samples, name)[0] for name in REDUCED])
    test = torch.cat([real_frame(model, real_samples, name)[0] for name in ("000134", "testing/000002")])
    assert (len(train), len(test)) == (31_372, 11_535)
    return train, test


def depths(quantizer, features, k):
    codes = quantizer.encode(features, 5, k)
    return [relative_mse(features, quantizer.decode(codes, n)) for n in range(1, 6)]


def judge(name, found, expected):
    print(f"{name}: {' '.join(f'{value:.4f}' for value in found)}")
    assert all(mine <= TOLERANCE * theirs for mine, theirs in zip(found, expected, strict=True)), (found, expected)
    assert found == sorted(found, reverse=True)


@pytest.mark.parametrize("k", DEDICATED)
def test_dedicated_books(features, k):
    quantizer = fit_dedicated(features[0], 5, k, torch.Generator().manual_seed(0))
    judge(f"dedicated {k}", depths(quantizer, features[1], k), DEDICATED[k])


def test_nested_books(features):
    quantizer = fit_nested(features[0], 5, (16, 32, 64, 128, 256), torch.Generator().manual_seed(0))
    for k, expected in NESTED_B.items():
        judge(f"nested {k}", depths(quantizer, features[1], k), expected)
