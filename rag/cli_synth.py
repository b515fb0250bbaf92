"""What `smallhold eval convert csv` and `smallhold eval synth` are given: documents of a folder, opened models."""

from collections.abc import Iterator
from pathlib import Path

from rich.markup import escape

from rag.console import err, stage_progress
from rag.datatypes import Document
from rag.errors import UnreadableDocument

LISTED = 20  # files that could not be read shown before the rest is only counted


def load_folder(folder: Path) -> Iterator[Document]:
    """Yield the documents of a folder of files, as `smallhold index` would read them, with their ids.

    Files that cannot be read are named on stderr and left out. Raises `InvalidRequest` where there is no such folder.
    """
    from indexer.load import Loader
    from indexer.scan import find_files, plan_roots

    failed: list[tuple[str, str]] = []
    with Loader() as loader, stage_progress() as progress:
        scan = find_files(plan_roots({}, [folder]), loader.suffixes, exclude=Path(), owners={})
        failed += scan.failed
        for done, file in enumerate(scan.files, start=1):
            try:
                yield loader.load_file(file.path, file.document_id, file.path.as_uri())
            except UnreadableDocument as error:
                failed.append((str(file.path), str(error)))
            progress("read", done, len(scan.files))
    for path, reason in failed[:LISTED]:
        err.print(f"[red]could not be read[/]: {escape(path)}: {escape(reason)}")
    if len(failed) > LISTED:
        err.print(f"[red]could not be read[/]: {len(failed) - LISTED} more")
