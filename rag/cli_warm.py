"""`smallhold warm`: settings in, the states of an index's passages on disk and a summary out."""

import time
from collections.abc import Callable
from contextlib import closing
from itertools import islice
from typing import Any

from rich.markup import escape

from rag.build import ahead_prefix, build_ahead, model_store
from rag.config import Settings
from rag.console import StageProgress, err, out, print_json, stage_progress
from rag.engine.files import PrefixFiles
from rag.index import Index
from rag.machine import free_bytes
from rag.warm import Plan, check_room, make_plan, warm


def warm_index(settings: Settings, *, limit: int | None, dry_run: bool, as_json: bool) -> None:
    """Read the passages of the settings' index ahead, all or the first `limit`, saying first what disk that takes.

    Raises `ConfigError` and `Unavailable` where that is too much, and what opening index and model raises.
    """
    began = time.perf_counter()
    with Index.open(settings.index.dir) as index, closing(build_ahead(settings, model_store(settings))) as ahead:
        chunks = min(index.manifest.counts.chunks, limit or index.manifest.counts.chunks)
        prefix = ahead_prefix(settings, ahead)
        with stage_progress() as progress:
            listed = islice(index.store.all_chunks(), chunks)
            plan = make_plan(listed, prefix, ahead, _stage(progress, "counting", chunks))
        free = free_bytes(ahead.files.folder)
        for line in plan_lines(plan, ahead.files, free, settings):
            err.print(line)
        check_room(plan, ahead.files, free)
        written = 0
        if not dry_run:
            with stage_progress() as progress:
                written = warm(plan, ahead, _stage(progress, "reading", len(plan.missing)))
    if as_json:
        print_json(_plain(plan, ahead.files, settings, written, dry_run, time.perf_counter() - began))
    elif not dry_run:
        there = f", {len(plan.kept)} were there already" if plan.kept else ""
        out.print(
            f"{escape(str(settings.index.dir))}: {len(plan.missing)} passages read{there}; "
            f"{(plan.bytes_kept + written) / 1e6:,.0f} MB in {escape(str(ahead.files.folder))}, "
            f"{time.perf_counter() - began:.1f} s"
        )


def plan_lines(plan: Plan, files: PrefixFiles, free: int, settings: Settings) -> list[str]:
    """Return what is going to be read and what disk it takes, in sentences."""
    lines = [
        f"{plan.chunks} chunks: {plan.states} states, {plan.bytes_needed / 1e6:,.0f} MB of disk in "
        f"{escape(str(files.folder))}",
        f"there already: {len(plan.kept)}, {plan.bytes_kept / 1e6:,.0f} MB; to be read: {len(plan.missing)}, "
        f"about {plan.bytes_missing / 1e6:,.0f} MB, {plan.tokens:,} tokens; {free / 1e6:,.0f} MB are free",
    ]
    if plan.unread:
        lines.append(
            f"[yellow]{plan.unread} chunks are left out:[/] too long for a prompt (evidence.tokens, "
            "generator.context), or so short that they are read as fast"
        )
    if leaving := files.leaving(plan.bytes_missing):
        lines.append(f"[yellow]older states of about {leaving / 1e6:,.0f} MB will have to leave[/]")
    if settings.evidence.mode == "joint" and settings.evidence.passages > 1:
        lines.append(
            "[yellow]evidence.mode is joint:[/] of several passages in one prompt only the first can be reused"
        )
    if settings.evidence.window:
        lines.append("[yellow]evidence.window is set:[/] what is read of a passage depends on the question")
    return lines


def _stage(progress: StageProgress, name: str, total: int) -> Callable[[int], None]:
    return lambda done: progress(name, done, total)


def _plain(
    plan: Plan, files: PrefixFiles, settings: Settings, written: int, dry_run: bool, seconds: float
) -> dict[str, Any]:
    return {
        "index": str(settings.index.dir),
        "model": settings.generator.model,
        "folder": str(files.folder),
        "chunks": plan.chunks,
        "chunks_left_out": plan.unread,
        "states": plan.states,
        "states_there": len(plan.kept),
        "states_read": 0 if dry_run else len(plan.missing),
        "tokens_missing": plan.tokens,
        "bytes_there": plan.bytes_kept,
        "bytes_expected": plan.bytes_missing,
        "bytes_written": written,
        "budget_bytes": files.budget,
        "dry_run": dry_run,
        "seconds": round(seconds, 3),
    }
