"""Look at what a config feeds the network: both halves of each pair, after the pipeline, with boxes.

    python tools/analysis_tools/browse_dataset.py configs/llvip/stage1_llvip_pretrain.py --output-dir pictures

Writes pictures and never opens a window, so it also runs where there is none.
"""

import argparse
import sys

from shared.run import run_command


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line; flags as mmdet's browse_dataset."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="config file")
    parser.add_argument("--output-dir", default="browse", help="folder of the pictures (default: browse)")
    parser.add_argument("--split", default="train", choices=("train", "val", "test"))
    parser.add_argument("--number", type=int, help="of pairs, from the first (default: all)")
    parser.add_argument("--epoch", type=int, default=0, help="whose random draws are shown")
    parser.add_argument("--not-show", action="store_true", help="mmdet's flag; no window is ever opened")
    parser.add_argument("--cfg-options", nargs="+", default=[], help="settings, key=value")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """0: pictures written; 2: a mistake in the config or data."""
    args = parse(argv)

    def body() -> None:
        from llvip_macl.runtime.console import quiet_imports

        with quiet_imports():
            from llvip_macl.data.browse import browse_config  # importing mmdet takes seconds

        browse_config(args.config, args.cfg_options, args.split, args.output_dir, args.number, args.epoch)

    return run_command(body)


if __name__ == "__main__":
    sys.exit(main())
