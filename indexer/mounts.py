"""Disks that are mounted in folders below a root: one that is not mounted any more leaves an empty folder, or none.

Its documents have not been deleted. That a folder is another file system's is remembered (`indexer.stamps`).
"""

from collections.abc import Collection
from pathlib import Path

from indexer.scan import Place, RootPlan, Scan, document_id_of, is_path, printable
from indexer.stamps import Stamps

_REASON = "a disk was mounted here and is not; what the index holds of it stays (--allow-empty drops it)"


def note_mounts(scan: Scan, plan: RootPlan, stamps: Stamps, known: Collection[str], *, allow_empty: bool) -> None:
    """Remember where disks are mounted, and note as unseen where one was and nothing is left.

    `known` are the ids of documents in the index, empty where they are not known.
    """
    for mount in scan.mounts:
        stamps.note_mount(mount)
    for mount in stamps.mounts() if not allow_empty else ():
        root = next((root for root in filter(is_path, plan.sync) if Path(root) in mount.parents), None)
        if root is None or mount in scan.mounts or not _is_bare(mount) or _is_left_out(mount, scan):
            continue
        place = Place(root, document_id_of(mount, Path(root), plan.labels[root]))
        if known and not any(document_id.startswith(f"{place.id}/") for document_id in known):
            continue
        stamps.note_mount(mount)
        scan.failed.append((printable(mount), _REASON))
        scan.unseen.append(place)


def _is_bare(folder: Path) -> bool:
    """Whether a folder is not there, or holds nothing that could be indexed."""
    try:
        return all(path.name.startswith(".") for path in folder.iterdir())
    except FileNotFoundError:
        return True
    except OSError:
        return False  # the walk tells what is wrong with it


def _is_left_out(folder: Path, scan: Scan) -> bool:
    return any(f"{printable(part)}/" in scan.excluded for part in (folder, *folder.parents))
