"""Rows of the systems file."""

from pathlib import Path

import pytest

from eval.system_file import choose_systems, load_systems
from eval.system_row import Endpoint, SystemRow
from rag.config import Settings
from rag.errors import ConfigError, UnknownModel

ENDPOINT = 'generator = {endpoint = "https://host/v1", model = "big", api_key_env = "KEY"}'


def row(text: str, tmp_path: Path) -> SystemRow:
    file = tmp_path / "systems.toml"
    file.write_text(f'[[system]]\nname = "mine"\n{text}\n')
    return load_systems(file)["mine"]


def test_the_built_in_systems() -> None:
    rows = load_systems()
    assert {name: (r.generator, r.retrieval, r.oracle) for name, r in rows.items()} == {
        "tiny": ("smollm2-135m-instruct", False, False),
        "tiny+retrieval": ("smollm2-135m-instruct", True, False),
        "small": ("qwen2.5-coder-0.5b-instruct", False, False),
        "small+retrieval": ("qwen2.5-coder-0.5b-reader", True, False),
        "small+warm": ("qwen2.5-coder-0.5b-reader", True, False),
        "small+oracle": ("qwen2.5-coder-0.5b-reader", True, True),
        "large": ("qwen2.5-coder-1.5b-instruct", False, False),
        "large+retrieval": ("qwen2.5-coder-1.5b-instruct", True, False),
        "large+oracle": ("qwen2.5-coder-1.5b-instruct", True, True),
        "retrieval": ("", True, False),
    }
    assert all(r.prices.stated for r in rows.values())


def test_a_file_adds_and_replaces(tmp_path: Path) -> None:
    file = tmp_path / "systems.toml"
    file.write_text(
        '[[system]]\nname = "small"\ngenerator = "other"\nretrieval = false\n'
        f'[[system]]\nname = "gpt"\n{ENDPOINT}\nretrieval = false\n'
        "price_per_million_prompt = 2\nprice_per_million_completion = 8.5\n"
    )
    rows = load_systems(file)
    assert rows["small"].generator == "other" and not rows["small"].prices.stated
    assert rows["gpt"].generator == Endpoint(endpoint="https://host/v1", model="big", api_key_env="KEY")
    assert (rows["gpt"].prices.per_million_prompt, rows["gpt"].prices.by_token) == (2.0, True)
    assert len(rows) == 11


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("retrieval = true\ncolour = 1", "colour: Extra inputs are not permitted"),
        ("", "retrieval: Field required"),
        ("retrieval = false", "there is nothing to run"),
        ('retrieval = "yes"', "retrieval: Input should be a valid boolean"),
        ("retrieval = true\nprice_per_hour = -1", "price_per_hour: Input should be greater than or equal to 0"),
        ("retrieval = true\nprice_per_hour = nan", "price_per_hour"),
        ("retrieval = true\nprice_per_million_prompt = 1", "belong together"),
        ("retrieval = true\nprice_per_million_cached = 1", "price_per_million_cached needs"),
        ("retrieval = true\nsettings = {evidence = {pasages = 3}}", "pasages"),
        ("retrieval = true\nsettings = {evidence = {passages = 0}}", "greater than or equal to 1"),
        ("retrieval = true\nsettings = {server = {port = 1}}", "settings.server is not a section; there are"),
        ('retrieval = true\nsettings = {generator = {model = "x"}}', "not by settings.generator.model"),
        ('generator = {endpoint = "host", model = "m"}\nretrieval = true', "an http or https URL is wanted"),
        ('generator = {endpoint = "https://a:b@host", model = "m"}\nretrieval = true', "no user or password"),
        ('generator = {endpoint = "https://host", model = "m", api_key = "k"}\nretrieval = true', "api_key"),
        ('generator = "m"\noracle = true\nretrieval = false', "an oracle needs a generator"),
        ("oracle = true", "an oracle needs a generator"),
        ("retrieval = true\nwarm = true", "only a model here"),
        ('generator = "m"\nretrieval = false\nwarm = true', "only a model here"),
        ('recorded = "a.jsonl"\ngenerator = "m"', "recorded answers go without `generator`"),
        ('recorded = "a.jsonl"\nretrieval = true', "recorded answers go without `retrieval`"),
        ('recorded = "a.jsonl"\nprice_per_hour = 1', "have no seconds of ours"),
        ("retrieval = true\nparameters = 7", "parameters and parameters_kind belong together"),
        ('retrieval = true\nparameters = 0\nparameters_kind = "known"', "parameters: Input should be greater than 0"),
        ('retrieval = true\nparameters = 7\nparameters_kind = "guess"', "parameters_kind"),
        (ENDPOINT.replace("}", ", budget = 1}") + "\nretrieval = true", "a budget needs price_per_million_prompt"),
        (ENDPOINT.replace("}", ", retries = 21}") + "\nretrieval = true", "retries"),
        (ENDPOINT.replace("}", ", timeout = 0}") + "\nretrieval = true", "timeout"),
        ("retrieval = = 1", "not valid TOML"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        row(text, tmp_path)
    assert message in caught.value.message and "systems.toml" in caught.value.message


@pytest.mark.parametrize("content", ["", "other = 1", "[[system]]\nname = 'a,b'\nretrieval = true", "[system]\nx = 1"])
def test_files_that_are_no_list_of_systems_are_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "systems.toml"
    file.write_text(content)
    with pytest.raises(ConfigError):
        load_systems(file)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_systems(tmp_path / "nowhere.toml")


def test_two_systems_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="two systems 'mine'"):
        row('retrieval = true\n[[system]]\nname = "mine"\nretrieval = true', tmp_path)


def test_choosing_keeps_the_order_and_names_what_there_is() -> None:
    rows = load_systems()
    assert [r.name for r in choose_systems(["large", "small", "large"], rows)] == ["large", "small"]
    with pytest.raises(UnknownModel, match="no system 'huge'") as caught:
        choose_systems(["huge"], rows)
    assert "small+retrieval" in caught.value.hint and caught.value.exit_code == 2


def test_apply_puts_overrides_and_generator_into_the_settings(tmp_path: Path) -> None:
    mine = row('generator = "tiny"\nretrieval = true\nsettings = {evidence = {passages = 3}}', tmp_path)
    settings = mine.apply(Settings())
    assert settings.evidence.passages == 3
    assert settings.evidence.tokens == Settings().evidence.tokens  # what is not overridden stays
    assert settings.generator.model == "tiny"
    assert settings.retrieval == Settings().retrieval


def test_apply_points_the_settings_at_an_endpoint_and_away_from_it(tmp_path: Path) -> None:
    remote = row(f"{ENDPOINT}\nretrieval = true", tmp_path).apply(Settings())
    assert (remote.generator.endpoint, remote.generator.model, remote.generator.api_key_env) == (
        "https://host/v1",
        "big",
        "KEY",
    )
    assert load_systems()["small"].apply(remote).generator.endpoint == ""


def test_thinking_longer_is_another_system_and_not_thinking_longer_the_one_of_before(tmp_path: Path) -> None:
    text = 'generator = "tiny"\nretrieval = true'
    plain = row(text, tmp_path).identity(Settings())
    assert "deliberation" not in plain["settings"]
    thinking = row(f"{text}\nsettings = {{deliberation = {{samples = 5}}}}", tmp_path).identity(Settings())
    assert thinking["settings"]["deliberation"]["samples"] == 5


def test_identity_is_what_answers_depend_on(tmp_path: Path) -> None:
    base = row('generator = "tiny"\nretrieval = true', tmp_path)

    def identity(text: str, settings: Settings | None = None) -> dict[str, object]:
        return row(text, tmp_path).identity(settings or Settings())

    same = identity('generator = "tiny"\nretrieval = true\nprice_per_hour = 9')
    assert same == base.identity(Settings())  # a price changes no answer
    other_settings = Settings(evidence={"passages": 4})  # type: ignore[arg-type]
    other_server = Settings(server={"port": 1})  # type: ignore[arg-type]
    assert base.identity(other_settings) != same
    assert base.identity(other_server) == same
    assert identity('generator = "tiny"\nretrieval = false') != same
    assert identity('generator = "other"\nretrieval = true') != same
    assert identity('generator = "tiny"\nretrieval = true\nsettings = {abstention = {enabled = false}}') != same


def test_the_retrieval_part_keeps_name_and_price(tmp_path: Path) -> None:
    part = row('generator = "tiny"\nretrieval = true\nprice_per_hour = 2', tmp_path).without_generator()
    assert (part.name, part.generator, part.retrieval, part.prices.per_hour) == ("mine", "", True, 2.0)


def test_recorded_answers_lie_beside_the_systems_file_and_follow_no_setting(tmp_path: Path) -> None:
    mine = row('recorded = "answers/gpt.jsonl"\nparameters = 175\nparameters_kind = "known"', tmp_path)
    assert mine.recorded == str(tmp_path / "answers" / "gpt.jsonl")
    assert (mine.generates, mine.retrieval, mine.generator) == (True, False, "")
    assert (mine.parameters, mine.parameters_kind) == (175.0, "known")
    assert row('recorded = "/there/gpt.jsonl"', tmp_path).recorded == "/there/gpt.jsonl"
    other = Settings(evidence={"passages": 4})  # type: ignore[arg-type]
    assert mine.identity(Settings()) == mine.identity(other)
    assert SystemRow.model_validate(mine.model_dump(exclude_none=True)) == mine  # as run.json holds it


def test_a_warm_system_is_another_with_the_retrieval_of_the_cold_one(tmp_path: Path) -> None:
    warm = row('generator = "tiny"\nretrieval = true\nwarm = true', tmp_path)
    cold = row('generator = "tiny"\nretrieval = true', tmp_path)
    assert warm.identity(Settings()) == {**cold.identity(Settings()), "warm": True}
    assert warm.without_generator() == cold.without_generator()


def test_an_oracle_is_another_system_than_retrieval(tmp_path: Path) -> None:
    oracle = row('generator = "tiny"\noracle = true', tmp_path)
    retrieval = row('generator = "tiny"\nretrieval = true', tmp_path)
    assert oracle.retrieval and oracle.identity(Settings()) != retrieval.identity(Settings())
    assert oracle.without_generator().oracle is False


def test_how_patiently_an_endpoint_is_asked_changes_no_answer(tmp_path: Path) -> None:
    plain = row(f"{ENDPOINT}\nretrieval = false", tmp_path)
    patience = ", timeout = 9, deadline = 99, retries = 1, requests_per_minute = 30, budget = 0.5}"
    prices = "price_per_million_prompt = 1\nprice_per_million_completion = 2"
    patient = row(f"{ENDPOINT.replace('}', patience)}\nretrieval = false\n{prices}", tmp_path)
    assert patient.identity(Settings()) == plain.identity(Settings())
    own = patient.apply(Settings()).generator
    assert (own.timeout, own.deadline, own.retries, own.requests_per_minute) == (9.0, 99.0, 1, 30.0)
    settings = Settings(generator={"retries": 7})  # type: ignore[arg-type]
    assert plain.apply(settings).generator.retries == 7  # what the row does not say stays
