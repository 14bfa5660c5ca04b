"""The embedded world as a data root: written and prepared when no KITTI root is configured, and never silently.

    root = embedded_root(Path("data"), WorldSpec(val_frames=200), world, workers=2)

Its folder is named by seed and size, so worlds of several sizes lie side by side, and one that is complete is used
again. What is made from one carries MARK; a run says BANNER when it starts.
"""

from pathlib import Path

from shared.embedded_world import alone
from shared.run import World

from .kitti.layout import KittiRoot
from .kitti.prepare import prepare
from .world import WorldSpec, write_world

MARK = "embedded synthetic data: not a KITTI result"
BANNER = """
  +----------------------------------------------------------------------------+
  |  EMBEDDED DATA: scenes from this package's own generator, no real LiDAR.   |
  |  Numbers of this run are not KITTI results.                                |
  +----------------------------------------------------------------------------+
"""


def world_folder(parent: Path, spec: WorldSpec) -> Path:
    """Where the world of this seed and size lies below `parent`."""
    return parent / f"world-{spec.seed}-{spec.train_frames}-{spec.val_frames}-{spec.test_frames}"


def embedded_root(parent: Path, spec: WorldSpec, world: World, *, workers: int = 0) -> KittiRoot:
    """The prepared world of `spec`. The main process writes what is missing, in `workers` processes; the others wait.

    A cut run leaves no half of it: the world gets its name when it is whole, and preparing ends with the database's
    index, without which it is done again. Two commands may ask for one world at once.

    Raises:
        DataError: the folder holds another world, or one of another generator.
        StorageError: the file system refused.
    """
    root = KittiRoot(world_folder(parent, spec))
    if world.is_main:
        write_world(root.path, spec, workers=workers)
        if not root.database_infos.is_file():
            _prepare_once(root, workers)
    world.barrier()
    return root


def _prepare_once(root: KittiRoot, workers: int) -> None:
    with alone(root.path / "prepared"):
        if not root.database_infos.is_file():  # another command may have made it meanwhile
            prepare(root, workers=workers, say=lambda text: None)
