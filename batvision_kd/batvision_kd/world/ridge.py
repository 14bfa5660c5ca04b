"""The standing check of a world: can even a linear model hear depth in it, and does it need both ears?

A ridge regression from a coarse spectrogram (16 bands x 81 frames x 2 ears) to the logarithm of a 9 x 16 depth map,
fitted on train with its mirrored twin. In a world worth training on

    RMSE: audio < mean map < audio of another sample,   swapped ears worse than audio,

and the predicted difference between left and right half of the map correlates with the true one.
"""

# S samples, X features, P pixels of the map

from dataclasses import asdict, dataclass

import numpy as np

from batvision_kd.data.dataset import EchoDepthDataset
from batvision_kd.spectrogram import SpectrogramSettings

MAP_HW = (9, 16)
SETTINGS = SpectrogramSettings(size=(16, 81))
PENALTY = 30.0


@dataclass(frozen=True)
class RidgeScores:
    """RMSE in metres over all measured pixels of test, and the correlation of left-right differences."""

    mean_map: float
    audio: float
    swapped: float
    shuffled: float
    asymmetry: float

    @property
    def holds(self) -> bool:
        """Whether the order of the four is as it must be and the ears tell sides apart (r > 0.3)."""
        ordered = self.audio < self.mean_map < self.shuffled and self.audio < self.swapped
        return ordered and self.asymmetry > 0.3

    def as_json(self) -> dict:
        return asdict(self) | {"holds": self.holds}


@dataclass(frozen=True, eq=False)
class Coarse:
    """A split for the regression: audio (S, 2, 16, 81), depth (S, 9, 16) in metres, valid (S, 9, 16)."""

    audio: np.ndarray
    depth: np.ndarray
    valid: np.ndarray

    def mirrored(self) -> "Coarse":
        return Coarse(self.audio[:, ::-1], self.depth[:, :, ::-1], self.valid[:, :, ::-1])

    def with_audio(self, audio: np.ndarray) -> "Coarse":
        return Coarse(audio, self.depth, self.valid)


def coarse(root, split: str) -> Coarse:
    """The samples of a split of a data root, small."""
    data = EchoDepthDataset(root, split, settings=SETTINGS, size=MAP_HW)
    samples = [data[index] for index in range(len(data))]
    audio, depth, valid = (np.stack([s[name].numpy() for s in samples]) for name in ("audio", "depth", "valid"))
    return Coarse(audio, depth[:, 0], valid[:, 0])


def ridge_scores(train: Coarse, test: Coarse, penalty: float = PENALTY) -> RidgeScores:
    """Fit on train and its mirror image, judge on test."""
    twice = Coarse(*(np.concatenate(pair) for pair in zip(_parts(train), _parts(train.mirrored()), strict=True)))
    mean = _mean_log(twice)
    predict = _fit(twice, mean, penalty)
    shifted = np.roll(test.audio, 1 + len(test.audio) // 2, axis=0)  # no sample keeps its own
    return RidgeScores(
        mean_map=rmse(np.broadcast_to(np.exp(mean), test.depth.shape), test),
        audio=rmse(predict(test.audio), test),
        swapped=rmse(predict(test.audio[:, ::-1]), test),
        shuffled=rmse(predict(shifted), test),
        asymmetry=float(np.corrcoef(_difference(predict(test.audio), test), _difference(test.depth, test))[0, 1]),
    )


def _parts(data: Coarse) -> tuple[np.ndarray, ...]:
    return data.audio, data.depth, data.valid


def _log(data: Coarse) -> np.ndarray:
    return np.log(np.where(data.valid, data.depth, 1))


def _mean_log(data: Coarse) -> np.ndarray:
    """(9, 16) mean of the logarithm over the measured values."""
    return (_log(data) * data.valid).sum(axis=0) / np.maximum(data.valid.sum(axis=0), 1)


def _fit(data: Coarse, mean: np.ndarray, penalty: float):
    """Ridge in its dual form (there are more features than samples); holes take the mean."""
    features = data.audio.reshape(len(data.audio), -1).astype(np.float64)
    centre, spread = features.mean(axis=0), features.std(axis=0) + 1e-6
    scaled = (features - centre) / spread
    target = np.where(data.valid, _log(data) - mean, 0).reshape(len(features), -1)
    kernel = scaled @ scaled.T / scaled.shape[1]
    dual = np.linalg.solve(kernel + penalty / 1000 * np.eye(len(kernel)), target)
    weights = scaled.T @ dual / scaled.shape[1]  # (X, P)

    def predict(audio: np.ndarray) -> np.ndarray:
        """(S, 9, 16) metres."""
        given = (audio.reshape(len(audio), -1) - centre) / spread
        return np.exp(mean + (given @ weights).reshape(-1, *mean.shape))

    return predict


def rmse(depth: np.ndarray, truth: Coarse) -> float:
    """Metres, over all measured pixels together."""
    return float(np.sqrt(((depth - truth.depth) ** 2)[truth.valid].mean()))


def _difference(depth: np.ndarray, truth: Coarse) -> np.ndarray:
    """(S,) mean of the logarithm in the left half minus that in the right half, over measured pixels; 0
    where a half has none."""
    half = depth.shape[2] // 2
    logs = np.where(truth.valid, np.log(np.where(truth.valid, depth, 1)), 0)
    sums, counts = ([part.sum((1, 2)) for part in (x[:, :, :half], x[:, :, half:])] for x in (logs, truth.valid))
    left, right = (total / np.maximum(count, 1) for total, count in zip(sums, counts, strict=True))
    return np.where((counts[0] > 0) & (counts[1] > 0), left - right, 0)
