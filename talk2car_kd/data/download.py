"""Downloads and unpacks COCO 2017 into the layout that Stage 1 reads.

    python data/download.py                            everything into data/coco (about 20 GB to fetch, 40 GB at work)
    python data/download.py --dest /data/coco --images val
    python data/download.py --dry-run                  what would be fetched, and whether the disk holds it

A broken download continues when the command is run again. Sizes and hashes are checked, archives are unpacked safely,
and a folder such as train2017/ appears only when it is complete. Annotations: CC BY 4.0; images: Flickr, each under the
licence its record names.
"""

import argparse
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from shared.run import run_command
from talk2car_kd.archives import download, extract

SERVER = "http://images.cocodataset.org"
DEST = Path(__file__).resolve().parent / "coco"


@dataclass(frozen=True)
class Archive:
    """One of COCO's archives; hashes as several public mirrors record them (COCO publishes none)."""

    path: str  # on the server
    folder: str  # the top-level folder it unpacks to
    size_bytes: int
    unpacked_bytes: int  # about
    sha256: str


ARCHIVES = {
    "annotations": Archive(
        "annotations/annotations_trainval2017.zip",
        "annotations",
        252_907_541,
        850_000_000,
        "113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
    ),
    "val": Archive(
        "zips/val2017.zip",
        "val2017",
        815_585_330,
        820_000_000,
        "4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
    ),
    "train": Archive(
        "zips/train2017.zip",
        "train2017",
        19_336_861_798,
        19_400_000_000,
        "69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929",
    ),
}


def main(argv: list[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    return run_command(lambda: fetch_coco(arguments.dest, arguments.images, arguments.server, arguments.dry_run))


def fetch_coco(dest: Path, images: list[str], server: str = SERVER, dry_run: bool = False) -> int:
    """Fetch the annotations and the image archives named, skipping what is unpacked already."""
    for archive in (ARCHIVES[name] for name in ("annotations", *dict.fromkeys(images))):
        url = f"{server}/{archive.path}"
        if (dest / archive.folder).exists():
            print(f"{dest / archive.folder}: there already")
        elif dry_run:
            print(f"{url} -> {dest / archive.folder} ({archive.size_bytes / 1e9:.2f} GB)")
        else:
            _fetch(archive, url, dest)
    if dry_run:
        print(f"{_free_bytes(dest) / 1e9:.1f} GB are free there; an archive and its files together need twice its size")
    return 0


def _fetch(archive: Archive, url: str, dest: Path) -> None:
    target = dest / Path(archive.path).name
    print(f"fetching {url} ({archive.size_bytes / 1e9:.2f} GB)")
    with tqdm(total=archive.size_bytes, unit="B", unit_scale=True, disable=not sys.stderr.isatty()) as bar:
        download(
            url,
            target,
            size=archive.size_bytes,
            sha256=archive.sha256,
            progress=lambda done, _: bar.update(done - bar.n),
        )
    print(f"unpacking {target}")
    extract(target, dest, only=[archive.folder], max_bytes=2 * archive.unpacked_bytes)
    target.unlink()
    print(f"{dest / archive.folder}: done")


def _free_bytes(folder: Path) -> int:
    return shutil.disk_usage(
        next(path for path in [folder.absolute(), *folder.absolute().parents] if path.exists())
    ).free


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--dest", type=Path, default=DEST, help="folder that becomes data.coco_root (default: %(default)s)"
    )
    parser.add_argument(
        "--images", nargs="*", choices=["train", "val"], default=["train", "val"], help="image archives to fetch"
    )
    parser.add_argument("--server", default=SERVER, help="a mirror with the same paths (default: %(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, fetch nothing")
    return parser


if __name__ == "__main__":
    sys.exit(main())
