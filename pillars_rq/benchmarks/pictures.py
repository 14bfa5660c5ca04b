"""The picture of the READMEs: two frames of the embedded world, each as the camera and as the LiDAR see it.

python pillars_rq/benchmarks/pictures.py --out docs
"""

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path

from pillars_rq.world import WorldSpec
from pillars_rq.world.preview import sheet
from shared.checkpoint import write_atomic
from shared.run import run_command

NAME = "pillars_rq.png"
SEED = 5  # shows cars, pedestrians, cyclists, and what stands in their way


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    out = parser.parse_args(argv).out
    return run_command(lambda: draw(out))


def draw(out: Path) -> int:
    buffer = io.BytesIO()
    sheet(WorldSpec(seed=SEED), frames=2).quantize(64).save(buffer, format="PNG", optimize=True)
    out.mkdir(parents=True, exist_ok=True)
    print(f"wrote {write_atomic(out / NAME, buffer.getvalue())}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
