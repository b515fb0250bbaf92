"""The set-up: locks, Makefile, Dockerfile and the scripts behind them say the same things and keep their promises."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from base import requirement_lines
from install import TARGETS
from llama_wheel import BUILDS
from rag.config_sources import OTHER_VARIABLES

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCKS = ("requirements.lock", "requirements-dev.lock", "scripts/llama.lock", "scripts/llama-build.lock")


def pins(lock: str) -> dict[str, str]:
    lines = re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", (ROOT / lock).read_text(), re.MULTILINE)
    return {canonicalize_name(name): version for name, version in lines}


def wanted(*extras: str) -> list[Requirement]:
    optional = PROJECT["project"]["optional-dependencies"]
    listed = PROJECT["project"]["dependencies"] + [line for extra in extras for line in optional[extra]]
    return [Requirement(line) for line in listed]


# Locks


def test_the_locks_cover_what_pyproject_asks_for() -> None:
    runtime, dev = pins("requirements.lock"), pins("requirements-dev.lock")
    build = [Requirement(line) for line in PROJECT["build-system"]["requires"]]
    apart = {"llama-cpp-python"}
    for locked, requirements in ((runtime, [*wanted("hub"), *build]), ({**runtime, **dev}, wanted("dev"))):
        for requirement in requirements:
            name = canonicalize_name(requirement.name)
            if name not in apart:
                assert requirement.specifier.contains(locked[name]), f"{requirement}: locked {locked[name]}"
    assert not runtime.keys() & dev.keys()


def test_what_is_compiled_is_the_version_that_pyproject_asks_for() -> None:
    (pinned,) = [r for r in wanted() if r.name == "llama-cpp-python"]
    assert str(pinned.specifier) == f"=={pins('scripts/llama.lock')['llama-cpp-python']}"


def test_torch_is_pinned_apart_and_nothing_of_cuda_is_locked() -> None:
    (torch,) = requirement_lines(ROOT / "scripts/torch.txt")
    assert re.fullmatch(r"torch==\d+\.\d+\.\d+", torch)
    for lock in LOCKS:
        assert not [name for name in pins(lock) if re.match(r"torch$|nvidia|triton|cuda", name)]


@pytest.mark.parametrize("lock", LOCKS)
def test_every_locked_package_has_a_hash_and_no_origin(lock: str) -> None:
    text = (ROOT / lock).read_text()
    entries = re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE)[1:]
    assert entries
    assert all("--hash=sha256:" in entry for entry in entries)
    assert "://" not in text
    assert not re.search(r"(^|\s)/\w", text)
    assert not re.search(r"^--", text, re.MULTILINE)


def test_no_tracked_file_names_a_package_host() -> None:
    hosts = (("py" + "pi", "org"), ("files", "python" + "hosted", "org"), ("download", "py" + "torch", "org"))
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    names = [name for name in listed.stdout.split("\0") if name] or [*LOCKS, "Makefile", "Dockerfile", ".ci/run"]
    for name in names:
        path = ROOT / name
        if path.is_file() and path.stat().st_size < 5_000_000:
            content = path.read_bytes()
            assert not [host for host in hosts if ".".join(host).encode() in content], name


# Makefile and Dockerfile


def makefile() -> str:
    return (ROOT / "Makefile").read_text()


def dockerfile() -> list[str]:
    """Instructions of the Dockerfile, continuation lines joined, comments left out."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    return [re.sub(r"\s+", " ", line).strip() for line in text.replace("\\\n", " ").splitlines() if line.strip()]


def phony() -> set[str]:
    found = re.search(r"^\.PHONY: (.*)$", makefile(), re.MULTILINE)
    assert found
    return set(found[1].split())


def test_make_help_describes_every_target() -> None:
    shown = subprocess.run(["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True)
    described = dict(re.findall(r"^make (\S+)\s+(\S.*)$", shown.stdout, re.MULTILINE))
    assert described.keys() == phony()
    assert {"install", "serve", "test", "test-quick", "lint", "types", "check", "bench", "lock", "clean"} <= phony()


def test_the_manual_names_every_variable_and_only_targets_that_exist() -> None:
    manual = (ROOT / "docs/operations.md").read_text()
    table = manual[manual.index("### Choices") : manual.index("## What is kept where")]
    documented = set(re.findall(r"`([A-Z_]+)`", "".join(re.findall(r"^\| (`[^|]*)\|", table, re.MULTILINE))))
    taken = set(re.findall(r"^([A-Z_]+) [:?]=", makefile(), re.MULTILINE)) - {
        "ELSEWHERE",
        "EXAMPLE_INDEX",
        "PARALLEL",
        "REPORT_MODELS",
        "TEST_MODELS",
        "BIN",
        "SMALLHOLD",
    }
    assert documented == taken | OTHER_VARIABLES | {"SMALLHOLD_SECTION__KEY"}
    assert set(re.findall(r"(?:^    |`)make ([a-z][a-z-]*)", manual, re.MULTILINE)) <= phony()


def test_the_makefile_calls_the_set_up_with_options_it_has() -> None:
    assert set(re.findall(r"\$\(SETUP\) (\S+)", makefile())) == set(TARGETS)
    command = [sys.executable, "scripts/install.py", "--help"]
    usage = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    options = re.search(r"^OPTIONS = (.*)$", makefile(), re.MULTILINE)
    assert options
    for option in re.findall(r"--[a-z-]+", options[1]):
        assert option in usage


def test_the_shell_cannot_steer_the_server_by_a_stray_variable() -> None:
    environ = {**os.environ, "HOST": "0.0.0.0", "INDEX": "/elsewhere", "PORT": "1"}
    dry = subprocess.run(["make", "-n", "serve"], cwd=ROOT, env=environ, capture_output=True, text=True, check=True)
    assert "smallhold serve --index .smallhold/example" in dry.stdout
    assert "--host" not in dry.stdout
    assert "--port" not in dry.stdout


def test_the_dockerfile_sets_up_by_the_makefile_alone() -> None:
    runs = [line for line in dockerfile() if line.startswith("RUN ")]
    made = [found for line in runs if (found := re.match(r"RUN --mount=\S+ make ([a-z]+) (.*)", line))]
    assert [found[1] for found in made] == ["dependencies", "package"]
    variables = {name for found in made for name in re.findall(r"(\w+)=", found[2])}
    assert variables == {"VENV", "LLAMA_BUILD", "TORCH", "COPY"}
    assert [name for name in variables if re.search(rf"^{name} [:?]=", makefile(), re.MULTILINE)] == list(variables)
    assert all(re.match(r"RUN (--mount=\S+ make|apt-get update) ", line) for line in runs)
    assert not [line for line in runs if re.search(r"\bpip3?\b|scripts/", line)]


def test_the_image_is_small_portable_and_unprivileged() -> None:
    lines = dockerfile()
    last_stage = lines[max(i for i, line in enumerate(lines) if line.startswith("FROM ")) :]
    assert f"ARG LLAMA_BUILD={BUILDS[1]}" in lines
    assert BUILDS[1] == "portable"
    assert "USER 10001:10001" in last_stage
    assert any(line.startswith("HEALTHCHECK ") and "/ready" in line for line in last_stage)
    assert last_stage[-2:] == ['ENTRYPOINT ["smallhold"]', 'CMD ["serve", "--host", "0.0.0.0"]']
    assert [line for line in last_stage if line.startswith("COPY")] == [
        "COPY --from=build /opt/smallhold /opt/smallhold"
    ]
    assert f'org.opencontainers.image.version="{PROJECT["project"]["version"]}"' in " ".join(last_stage)


def test_what_the_image_copies_is_there_and_let_through() -> None:
    ignore = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    admitted = {line[1:] for line in ignore if line.startswith("!")}
    copied = [
        name.rstrip("/") for line in dockerfile() if re.match(r"COPY (?!--)", line) for name in line.split()[1:-1]
    ]
    assert ignore[0] == "*"
    assert set(copied) == admitted
    assert set(copied) >= {name.split(".")[0] for name in PROJECT["tool"]["setuptools"]["packages"]}
    assert all((ROOT / name).exists() for name in copied)
    assert "requirements-dev.lock" not in copied


def test_ci_runs_tests_lint_and_types() -> None:
    script = (ROOT / ".ci/run").read_text()
    assert "set -euo pipefail" in script
    assert "for target in test lint types; do" in script


# The package


def test_an_installed_wheel_carries_code_configs_and_page(tmp_path: Path) -> None:
    source = tmp_path / "source"
    packages = PROJECT["tool"]["setuptools"]["packages"]
    for name in {package.split(".")[0] for package in packages}:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "LICENSE", "README.md"):
        if (ROOT / name).is_file():
            shutil.copy(ROOT / name, source)
    site = tmp_path / "site"
    options = "--quiet --no-compile --no-deps --no-index --no-build-isolation --disable-pip-version-check".split()
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(site), str(source)]
    subprocess.run(command, check=True, capture_output=True)

    for data in ("configs/**/*.toml", "rag/static/*.*", "rag/*.py", "rag/engine/*.py", "indexer/*.py", "eval/*.py"):
        carried = {path.relative_to(site) for path in site.glob(data)}
        assert carried == {path.relative_to(ROOT) for path in ROOT.glob(data)}, data
        assert carried or data.startswith("rag/static"), data
    assert not [path for path in site.iterdir() if path.name in {"tests", "scripts", "benchmarks"}]
    metadata = next(site.glob("smallhold-*.dist-info"))
    assert (metadata / "licenses/LICENSE").read_text() == (ROOT / "LICENSE").read_text()
    script = "import json, rag, configs; print(json.dumps([rag.__file__, configs.__file__]))"
    command = [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(site)!r}); {script}"]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert all(Path(path).is_relative_to(site) for path in json.loads(found.stdout))
