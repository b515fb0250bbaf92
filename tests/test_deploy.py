"""What stands beside the image: a compose file, Prometheus's settings, a dashboard, held against the server itself."""

import dataclasses
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from rag.cost import Costs, Prices
from rag.datatypes import Asked, Delta, PrefixCounters, Usage
from rag.service import IndexFacts
from tests.conftest import REPOSITORY
from tests.test_rag_app import ANSWER, Keeper, Script, ask, service, serving
from tests.test_setup import dockerfile

DEPLOY = REPOSITORY / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
BOARD = json.loads((DEPLOY / "grafana" / "smallhold.json").read_text())

# Names that PromQL itself brings.
FUNCTIONS = {"sum", "by", "rate", "increase", "histogram_quantile"}


# The dashboard


def queries() -> list[tuple[str, str]]:
    return [(panel["title"], target["expr"]) for panel in BOARD["panels"] for target in panel["targets"]]


@pytest.fixture(scope="module")
def exported() -> dict[str, set[str]]:
    """The labels of every sample that a server shows that has a model of its own, prices, and a larger model."""
    asked = tuple(Asked(name, Usage(), 1.0, 0.5, "") for name in ("small", "large"))
    answer = dataclasses.replace(ANSWER, timings={"retrieve": 0.1, "total": 1.0}, asked=asked)
    loaded = dataclasses.replace(
        service(Script(Delta("At six."), Delta(answer=answer))),
        costs=Costs(Prices(per_hour=1.0), Prices(None, 1.0, None, 1.0), "Large"),
        prefixes=PrefixCounters,
        keeper=Keeper(),
        index=lambda _: IndexFacts("000001", 1, 1),
    )
    with serving(lambda: loaded) as client:
        assert ask(client).status_code == 200
        text = client.get("/metrics").text
    samples: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            samples.setdefault(sample.name, set()).update(sample.labels)
    return samples


@pytest.mark.parametrize(("title", "query"), queries())
def test_every_query_names_figures_and_labels_that_the_server_shows(
    title: str, query: str, exported: dict[str, set[str]]
) -> None:
    bare = re.sub(r"\[[^\]]*\]|\"[^\"]*\"", "", query)
    selected = re.findall(r"([a-z_]+)\{([^}]*)\}", bare)
    assert selected, title
    for name, inside in selected:
        assert name in exported, title
        assert set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", inside)) - {"job"} <= exported[name], title
    outside = re.sub(r"[a-z_]+\{[^}]*\}", "", bare)
    grouped = {label.strip() for labels in re.findall(r"by \(([^)]*)\)", outside) for label in labels.split(",")}
    assert all(grouped <= exported[name] for name, _ in selected), title
    assert set(re.findall(r"[a-z_]+", re.sub(r"by \([^)]*\)", "by", outside))) <= FUNCTIONS, title
    assert query.count("(") == query.count(")")


def test_every_legend_names_a_label_that_its_query_leaves(exported: dict[str, set[str]]) -> None:
    for panel in BOARD["panels"]:
        for target in panel["targets"]:
            used = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            grouped = re.findall(r"by \(([^)]*)\)", target["expr"])
            left = {label.strip() for labels in grouped for label in labels.split(",")}
            names = re.findall(r"([a-z_]+)\{", target["expr"])
            assert used <= (left if "sum" in target["expr"] else exported[names[0]]), panel["title"]


def test_every_figure_of_ours_that_matters_to_operators_is_on_the_board(exported: dict[str, set[str]]) -> None:
    shown = " ".join(query for _, query in queries())
    families = {re.sub(r"_(total|bucket|count|sum|created)$", "", name) for name in exported}
    missing = {name for name in families if name.startswith("smallhold_") and name not in shown}
    assert missing == {"smallhold_prefix_states", "smallhold_prefix_tokens"}


def test_the_panels_fit_together() -> None:
    ids = [panel["id"] for panel in BOARD["panels"]]
    assert len(set(ids)) == len(ids)
    taken = set()
    for panel in BOARD["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert {variable["name"] for variable in BOARD["templating"]["list"]} == {"datasource", "job"}


# Prometheus and compose


def test_prometheus_asks_the_server_of_the_compose_file_with_its_key() -> None:
    (job,) = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())["scrape_configs"]
    ((target,),) = [entry["targets"] for entry in job["static_configs"]]
    host, port = target.split(":")
    assert host in SERVICES
    assert SERVICES[host]["ports"][0].endswith(f":{port}")
    secret = job["authorization"]["credentials_file"].removeprefix("/run/secrets/")
    assert secret in SERVICES["prometheus"]["secrets"]
    assert "metrics_path" not in job  # /metrics, as the server has it


@pytest.mark.parametrize("name", SERVICES)
def test_every_container_is_bound_to_this_machine_and_cannot_write_its_root(name: str) -> None:
    container = SERVICES[name]
    assert container["read_only"] is True
    assert container["cap_drop"] == ["ALL"]
    assert container["security_opt"] == ["no-new-privileges:true"]
    user = container["user"].split(":")[0]
    assert user.isdigit()
    assert int(user) > 0
    assert not {"privileged", "network_mode", "pid", "cap_add", "devices"} & container.keys()
    assert all(port.startswith("127.0.0.1:") for port in container["ports"])
    assert container["healthcheck"]["test"][0] == "CMD"
    assert re.fullmatch(r"smallhold|[a-z]+/[a-z]+:v?\d+\.\d+\.\d+", container["image"])
    for volume in container["volumes"]:
        source, target = volume.split(":")[:2]
        if source.startswith("."):
            assert (DEPLOY / source).exists(), volume
            assert volume.endswith(":ro"), volume
        else:
            assert source in COMPOSE["volumes"], volume
        assert target.startswith("/")
    assert set(container.get("secrets", [])) <= COMPOSE["secrets"].keys()


def test_the_server_of_the_compose_file_is_that_of_the_dockerfile() -> None:
    server, lines = SERVICES["smallhold"], dockerfile()
    assert f"USER {server['user']}" in lines
    mounted = {volume.split(":")[1] for volume in server["volumes"]}
    (declared,) = [json.loads(line.removeprefix("VOLUME ")) for line in lines if line.startswith("VOLUME ")]
    assert mounted == set(declared)
    (check,) = [line for line in lines if line.startswith("HEALTHCHECK ")]
    assert server["healthcheck"]["test"][-1] in check
    arguments = {line.removeprefix("ARG ").split("=")[0] for line in lines if line.startswith("ARG ")}
    assert server["build"]["args"].keys() <= arguments
    assert (DEPLOY / server["build"]["context"]).resolve() == REPOSITORY.resolve()
    assert "--host" in lines[-1]  # on all addresses, so that it does not start without an API key


def test_what_is_secret_is_in_no_file_of_the_repository() -> None:
    ignored = (REPOSITORY / ".gitignore").read_text().splitlines()
    for secret in COMPOSE["secrets"].values():
        assert f"/deploy/{Path(secret['file']).name}" in ignored
        assert not re.search(r"password\s*:\s*[^/\s.]", json.dumps(SERVICES), re.IGNORECASE)


def test_grafana_finds_the_data_source_and_the_board() -> None:
    provisioning = DEPLOY / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "smallhold.yaml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "smallhold.yaml").read_text())["providers"]
    mounted = [volume.split(":")[1] for volume in SERVICES["grafana"]["volumes"]]
    assert any(target.startswith(provider["options"]["path"] + "/") for target in mounted)


def test_docker_compose_takes_the_file_where_it_is_installed() -> None:
    if shutil.which("docker") is None:
        pytest.skip("docker is not installed")
    if subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode != 0:
        pytest.skip("docker has no compose plugin")
    command = ["docker", "compose", "--file", str(DEPLOY / "compose.yaml"), "--profile", "*", "config", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
