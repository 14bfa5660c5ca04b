"""rq_model.metric: joint through the commands: what is trained, judged and sent are codes chosen together."""

from pathlib import Path

import pytest
import torch
from rq_run_samples import command, write_work

from pillars_rq import evaluate
from pillars_rq.bottleneck import bottle
from pillars_rq.checkpoints import load_rq
from pillars_rq.config import DatasetSettings
from pillars_rq.detector import open_detector
from pillars_rq.progressive import Stage
from pillars_rq.rate import operating_points
from pillars_rq.rq_data import eval_loader, open_data, open_root
from pillars_rq.senders import Books, Stream
from pillars_rq.sensitivity import first_convolution
from pillars_rq.wire.split import EdgeEncoder, Rate

RUN = "python train_eval_rq.py --config exp/split1_ALL.yaml --no_wandb"
CKPT = "progressive_rq_logs/checkpoints/final.pth"


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    changes = {"rq_model.metric": "joint", "training.object_repeats": 2}
    work = write_work(tmp_path_factory.mktemp("joint") / "work", changes, train=3, val=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(work)
        assert command(RUN) == 0
    return work


@pytest.fixture(scope="module")
def parts(work):
    """Detector, checkpoint, and a validation frame on both sides of the split."""
    detector = open_detector(work / "pretrained/epoch_160.pth", None, torch.device("cpu"))
    dataset = DatasetSettings(dir=work / "datasets")
    data = open_data(dataset, open_root(dataset), detector.grid, detector.class_names, 0)
    (item,) = eval_loader(data.val, [0], detector.grid, workers=0, timeout_s=60)
    return detector, load_rq(work / CKPT).codec, evaluate.split_frame(detector, item)


def test_the_checkpoint_holds_the_detector_s_first_convolution(parts):
    detector, codec, _ = parts
    taps, shift = first_convolution(detector.model)
    assert torch.equal(codec.quantizer.taps, taps) and torch.equal(codec.quantizer.shift, shift)


def test_every_way_out_sends_the_codes_chosen_together(parts):
    _, codec, frame = parts
    features, coords = torch.from_numpy(frame.features), torch.from_numpy(frame.coords)
    together = codec.quantizer.encode(features, 2, 4, coords=coords)
    assert not torch.equal(together, codec.quantizer.encode(features, 2, 4))
    wanted = codec.quantizer.decode(together)
    assert torch.equal(Books(codec.quantizer, 2, 4)(frame).features, wanted)
    stream = Stream(codec, 2, 4)(frame)
    assert torch.equal(stream.features, wanted)
    encoded = EdgeEncoder(lambda points: (features, coords), codec, Rate(2, 4))(frame.points).stream
    assert len(encoded) == stream.bytes and encoded in operating_points(features, coords, codec).values()


def test_training_sees_the_codes_chosen_together_but_for_the_warm_up_s_own_book(parts):
    _, codec, frame = parts
    features, coords = torch.from_numpy(frame.features), torch.nn.functional.pad(torch.from_numpy(frame.coords), (1, 0))
    stage, quantizer = Stage(0, 1, 1, 4, (1,), 2, 1), codec.quantizer
    codes = quantizer.encode(features, 2, 4, coords=coords)
    gradient = bottle(quantizer, stage, features, 4, coords=coords)
    warm = bottle(quantizer, stage, features, 4, coords=coords, alone=True)
    assert torch.equal(gradient.codes[1], codes[:, 1])
    assert torch.allclose(gradient.quantized, quantizer.decode(codes), atol=1e-6)
    assert torch.equal(warm.residuals[1], gradient.residuals[1])
    assert torch.equal(warm.codes[1], quantizer.nearest(warm.residuals[1], 1))


def test_a_beam_is_refused(work, monkeypatch, capsys):
    monkeypatch.chdir(work)
    evaluation = f"{RUN} --mode eval --eval_num_codebooks 1 --eval_num_embeddings 4 --rq_ckpt {CKPT}"
    assert command(f"{evaluation} --set evaluation.beam=2") == 2
    assert "leave the beam at 1" in capsys.readouterr().err
    assert command(evaluation) == 0
