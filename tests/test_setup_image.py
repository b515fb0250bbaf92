"""The check of the image without Docker: the Dockerfile is read whole and carried out, and nothing is passed over."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from base import SetupError
from dockerfile import read
from image_build import carry_out, make_base
from image_root import Image
from image_run import belongs

ROOT = Path(__file__).resolve().parent.parent


def dockerfile(folder: Path, text: str) -> Path:
    path = folder / "Dockerfile"
    path.write_text(text)
    return path


def test_the_dockerfile_is_read_whole() -> None:
    base, build, final = read(ROOT / "Dockerfile")
    assert (base.name, base.base, base.instructions) == ("base", "python:3.11-slim-bookworm", [])
    assert (build.name, build.base) == ("build", "base")
    assert (final.name, final.base) == ("", "base")
    runs = [one for one in build.instructions if one.name == "RUN"]
    assert [one.option for one in runs] == ["", "/root/.cache", "/root/.cache"]
    assert runs[0].text.startswith("apt-get update && apt-get install")
    assert runs[0].text.endswith("rm -rf /var/lib/apt/lists/*")
    assert [one.option for one in final.instructions if one.name == "COPY"] == ["build"]
    assert final.last("USER") == ["10001:10001"]
    assert final.last("VOLUME") == ["/var/cache/smallhold", "/var/lib/smallhold"]
    assert final.last("CMD") == ["serve", "--host", "0.0.0.0"]
    assert final.last("HEALTHCHECK")[:2] == ["python", "-c"]
    assert "/ready" in final.last("HEALTHCHECK")[2]
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    assert all(lines[one.line - 1].startswith(one.name) for stage in (build, final) for one in stage.instructions)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("ADD x y", "line 2: ADD"),
        ("SHELL ['bash']", "line 2: SHELL"),
        ("COPY --chown=1 x y", "line 2: COPY --chown=1"),
        ("RUN --network=none true", "line 2: RUN --network=none"),
        ("RUN --mount=type=secret,id=x true", "line 2: RUN --mount=type=secret"),
        ("FROM --platform=x y AS z", "line 2: FROM"),
    ],
)
def test_what_cannot_be_carried_out_is_refused(tmp_path: Path, line: str, said: str) -> None:
    with pytest.raises(SetupError, match=said):
        read(dockerfile(tmp_path, f"FROM python:3.11-slim-bookworm\n{line}\n"))


def test_only_pythons_slim_images_can_be_put_together(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="alpine:3"):
        make_base("alpine:3", tmp_path / "root", "")


def test_steps_are_carried_out_in_order_with_their_environment(tmp_path: Path) -> None:
    text = """FROM python:3.11-slim-bookworm AS build
ARG LEVEL=low
ARG INDEX=""
ENV HOME_OF=/opt/x PATH=/opt/x/bin:$PATH
WORKDIR /build
COPY one ./
RUN --mount=type=cache,target=/root/.cache make \\
    # a comment within
    "$LEVEL"
COPY two/ two/
USER 7:7
FROM build
COPY --from=build /build /elsewhere/build
"""
    context = tmp_path / "context"
    (context / "two/__pycache__").mkdir(parents=True)
    (context / "one").write_text("1")
    (context / "two/file").write_text("2")
    (context / "two/__pycache__/x.pyc").write_text("")
    (context / ".dockerignore").write_text("*\n!one\n!two\n")
    build, final = read(dockerfile(tmp_path, text))
    ran: list[tuple[list[str], dict[str, str], str, str]] = []

    def execute(root: Path, command: Sequence[str], env: Mapping[str, str], workdir: str, cache: str) -> None:
        assert (root / "build/one").read_text() == "1"
        assert not (root / "build/two").exists()
        ran.append(([*command], dict(env), workdir, cache))

    (tmp_path / "root").mkdir()
    image = Image(tmp_path / "root")
    carry_out(build, image, {}, execute, {"INDEX": "here"}, context)
    ((command, env, workdir, cache),) = ran
    assert command == ["/bin/sh", "-c", 'make "$LEVEL"']
    assert (env["LEVEL"], env["INDEX"], env["HOME"]) == ("low", "here", "/root")
    assert env["PATH"].startswith("/opt/x/bin:/usr/local/sbin:")
    assert (workdir, cache) == ("/build", "/root/.cache")
    assert {path.name for path in (image.root / "build/two").iterdir()} == {"file"}
    assert image.user == "7:7"
    (tmp_path / "image").mkdir()
    carry_out(final, Image(tmp_path / "image"), {"build": image}, execute, {}, context)
    assert (tmp_path / "image/elsewhere/build/two/file").read_text() == "2"


def test_volumes_are_the_users_and_its_groups(tmp_path: Path) -> None:
    user, group = os.getuid(), tmp_path.stat().st_gid
    belongs(tmp_path, "/x", f"{user}:{group}")
    with pytest.raises(SetupError, match=f"/x belongs to {user}:{group}, .* user is {user}:10001"):
        belongs(tmp_path, "/x", f"{user}:10001")
    made = " ".join(one.text for one in read(ROOT / "Dockerfile")[-1].instructions if one.name == "RUN")
    assert "groupadd --system --gid 10001 smallhold" in made
    assert "useradd --system --uid 10001 --gid smallhold " in made


def test_what_dockerignore_keeps_out_is_not_copied(tmp_path: Path) -> None:
    (tmp_path / ".dockerignore").write_text("*\n!one\n")
    (tmp_path / "two").write_text("2")
    (stage,) = read(dockerfile(tmp_path, "FROM python:3.11-slim-bookworm\nCOPY two ./\n"))
    with pytest.raises(SetupError, match=r"line 2: \.dockerignore keeps two out"):
        carry_out(stage, Image(tmp_path / "root"), {}, lambda *_: None, {}, tmp_path)


def test_where_it_cannot_be_done_it_says_what_is_missing_and_leaves_nothing(tmp_path: Path) -> None:
    environ = {"PATH": str(tmp_path), "SMALLHOLD_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "scripts/image_check.py"]
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "hadolint is not installed" in done.stderr
    assert "debootstrap is not on the PATH" in done.stderr
    assert not (tmp_path / "cache").exists()


def test_a_dockerfile_that_hadolint_does_not_like_is_refused(tmp_path: Path) -> None:
    hadolint = tmp_path / "hadolint"
    hadolint.write_text("#!/bin/sh\necho DL9999; exit 1\n")
    hadolint.chmod(0o755)
    environ = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = [sys.executable, "scripts/image_check.py"]
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (3, "DL9999\n")
    assert "hadolint has found something" in done.stderr
