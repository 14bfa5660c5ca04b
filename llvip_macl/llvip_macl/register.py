"""Everything that this package adds to mmdet's registries.

    custom_imports = dict(imports=['llvip_macl.register'], allow_failed_imports=False)      # in a config

Importing it takes about as long as importing mmdet, of which it changes nothing.
"""

from .doctor import require_stack
from .runtime.console import quiet_imports

require_stack()

with quiet_imports():
    import mmdet.datasets
    import mmdet.engine
    import mmdet.evaluation
    import mmdet.models
    import mmdet.visualization  # noqa: F401

    from .data import (  # noqa: F401
        kaist,
        llvip,
        packing,
        pair_list,
        pair_transforms,
        photometric,
        preprocessor,
        sampler,
    )
    from .evaluation import pair_metrics  # noqa: F401
    from .hooks import (  # noqa: F401
        alignment,
        best_checkpoint,
        dhn_schedule,
        freeze,
        metrics_export,
        run_log,
    )
    from .models import detector, dhn, domain, fusion, macl_head, msp, neck, roi_head  # noqa: F401
    from .runtime import detections, loop, runner  # noqa: F401
