"""From a list of samples to normalised batches: each modality with its own statistics, one padded size."""

from typing import Any

from mmdet.models.data_preprocessors import DetDataPreprocessor
from mmdet.registry import MODELS
from mmengine.model import BaseDataPreprocessor

from shared.errors import ConfigError, DataError


@MODELS.register_module()
class PairedDetDataPreprocessor(BaseDataPreprocessor):
    """Two DetDataPreprocessors of mmdet, one a modality.

    Args:
        vis, ir: dict(mean, std, bgr_to_rgb): statistics of the pixel values 0..255, in RGB order with bgr_to_rgb=True.
        pad_size_divisor: batches are padded on the right and below to the largest image, then to a multiple of this.
        pad_value: of the normalised images.

    forward: {'inputs': [(3, H, W)], 'inputs_ir': [(3, H, W)], 'data_samples': [DetDataSample]} ->
        {'inputs': {'vis': (B, 3, H, W) float32, 'ir': likewise}, 'data_samples': list}.
    """

    def __init__(
        self,
        vis: dict,
        ir: dict,
        pad_size_divisor: int = 32,
        pad_value: float = 0,
        non_blocking: bool = False,
    ):
        super().__init__(non_blocking=non_blocking)
        if pad_size_divisor < 1:
            raise ConfigError(f"pad_size_divisor={pad_size_divisor}: give 1 or more (32 fits an FPN).")
        common = {"pad_size_divisor": pad_size_divisor, "pad_value": pad_value, "non_blocking": non_blocking}
        self.vis = DetDataPreprocessor(**vis, **common)
        self.ir = DetDataPreprocessor(**ir, **common)

    def forward(self, data: dict[str, Any], training: bool = False) -> dict[str, Any]:
        """See the class. Raises DataError when a batch lacks its infrared half or sizes differ in a pair."""
        if "inputs_ir" not in data:
            raise DataError(
                "a batch came without its infrared half (`inputs_ir`): its data set or pipeline is for single images; "
                "use LLVIPDataset, KAISTDataset or PairListDataset."
            )
        for visible, infrared in zip(data["inputs"], data["inputs_ir"], strict=True):
            if visible.shape[-2:] != infrared.shape[-2:]:
                raise DataError(f"a pair has sizes {tuple(visible.shape[-2:])} and {tuple(infrared.shape[-2:])}.")
        for half in (self.vis, self.ir):
            half._device = self.device  # `to` of a parent module reaches the outer preprocessor only
        visible = self.vis({"inputs": data["inputs"], "data_samples": data.get("data_samples")}, training)
        infrared = self.ir({"inputs": data["inputs_ir"], "data_samples": None}, training)
        inputs = {"vis": visible["inputs"], "ir": infrared["inputs"]}
        return {"inputs": inputs, "data_samples": visible["data_samples"]}
