"""Settings: what flags and variables give, and what is said when they cannot be."""

from typing import Any

import pytest

from app.journal.records import Allowance
from app.settings.declaration import SECTIONS, Settings, SettingsError, spellings, variable
from app.settings.inheritance import inherited
from app.settings.loading import RANK_VARIABLES, load_settings
from app.settings.service_links import service_links
from engines.contract.spec import EngineKind

MIB = 1024 * 1024


def problems(given: dict[str, Any] | None = None, **environ: str) -> list[str]:
    with pytest.raises(SettingsError) as raised:
        load_settings(given or {}, environ)
    return str(raised.value).splitlines()


def test_everything_has_a_default() -> None:
    settings = load_settings({}, {})
    assert (settings.host, settings.port, settings.engine) == ("127.0.0.1", 8000, EngineKind.VLLM)
    assert settings.max_body_bytes == 128 * MIB
    assert settings.max_timeout_s == 86400
    assert settings.public_name == "phalanx-tiny"


def test_quotas_are_for_all_together_unless_a_tenant_has_one_too() -> None:
    settings = load_settings({"max_stored_items": "1k", "max_tenant_batches": "3"}, {})
    quotas = settings.quotas
    assert (quotas.total.items, quotas.total.batches, quotas.total.bytes) == (1000, 1_000_000, 100 * 1024 * MIB)
    assert quotas.tenant == Allowance(batches=3)


def test_a_flag_wins_over_its_variable() -> None:
    settings = load_settings({"dp_size": "4", "tp_size": None}, {"PHALANX_DP_SIZE": "2", "PHALANX_TP_SIZE": "3"})
    assert (settings.dp_size, settings.tp_size) == (4, 3)


def test_an_empty_variable_is_unset() -> None:
    assert load_settings({}, {"PHALANX_PORT": "", "PHALANX_MODEL": ""}).port == 8000


@pytest.mark.parametrize(
    ("name", "written", "value"),
    [
        ("max_model_len", "8k", 8000),
        ("max_num_batched_tokens", "16K", 16384),
        ("max_model_len", "auto", -1),
        ("max_prompt_bytes", "1MiB", MIB),
        ("start_timeout_s", "5m", 300.0),
        ("keepalive_s", "500ms", 0.5),
        ("drain_timeout_s", "7", 7.0),
        ("enforce_eager", "true", True),
        ("log_level", "WARNING", "warning"),
        ("allowed_hosts", "a.example, b.example", ["a.example", "b.example"]),
        ("engine_args", '{"block_size": 32}', {"block_size": 32}),
        ("extra_args", "--block-size 32", ["--block-size", "32"]),
        ("retention", "7d", 7 * 86400.0),
        ("max_stored_items", "2m", 2_000_000),
        ("max_tenant_bytes", "1MiB", MIB),
    ],
)
def test_values_are_understood_as_people_write_them(name: str, written: str, value: object) -> None:
    assert getattr(load_settings({name: written}, {}), name) == value
    assert getattr(load_settings({}, {variable(name): written}), name) == value


@pytest.mark.parametrize(
    ("name", "written", "sentence"),
    [
        ("dp_size", "0", "--dp-size (PHALANX_DP_SIZE) is 0: it must be at least 1"),
        ("port", "99999", "--port (PHALANX_PORT) is 99999: it must be at most 65535"),
        ("tp_size", "two", "--tp-size (PHALANX_TP_SIZE) is two: it must be a whole number"),
        ("engine", "vlm", "--engine (PHALANX_ENGINE) is vlm: it must be 'vllm' or 'simulated'"),
        ("device", "tpu", "--device (PHALANX_DEVICE) is tpu: it must be 'auto', 'cuda' or 'cpu'"),
        ("model", "", "--model (PHALANX_MODEL) is empty: it must not be empty"),
        ("enforce_eager", "perhaps", "--enforce-eager (PHALANX_ENFORCE_EAGER) is perhaps: it must be true or false"),
        ("stop_timeout_s", "0", "--stop-timeout-s (PHALANX_STOP_TIMEOUT_S) is 0: it must be more than 0"),
        ("max_n", "1.5", "--max-n (PHALANX_MAX_N) is 1.5: it must be a whole number"),
    ],
)
def test_a_wrong_value_is_named_with_its_remedy(name: str, written: str, sentence: str) -> None:
    assert problems({name: written}) == [sentence]


@pytest.mark.parametrize(
    ("name", "written", "remedy"),
    [
        ("max_body_bytes", "lots", "it must be a size such as 4194304 or 4MiB"),
        ("keepalive_s", "nan", "it must be a number of seconds, or such as 90s, 5m or 24h"),
        ("engine_args", "[1]", "it must be a JSON object"),
        ("engine_args", "{", "it must be a JSON object"),
        ("gpu_memory_utilization", "nan", "it must be"),
    ],
)
def test_a_wrong_notation_is_answered_with_a_right_one(name: str, written: str, remedy: str) -> None:
    (problem,) = problems({name: written})
    assert problem.startswith(f"--{name.replace('_', '-')} (")
    assert remedy in problem


def test_all_problems_are_said_at_once() -> None:
    said = problems({"dp_size": "0"}, PHALANX_TP_SIZE="x", PHALANX_NONSENSE_THING="1")
    assert len(said) == 3
    assert "PHALANX_TP_SIZE" in said[-1]


def test_an_unknown_variable_is_an_error_that_names_the_closest() -> None:
    (problem,) = problems(PHALANX_DPSIZE="2")
    assert problem == "PHALANX_DPSIZE is no variable of Phalanx: correct or unset it; did you mean PHALANX_DP_SIZE?"


def links(service: str, address: str = "10.0.0.1", port: str = "8000") -> dict[str, str]:
    """What Kubernetes sets in every container for a Service of this name."""
    url, host = (f"tcp://[{address}]:{port}" if ":" in address else f"tcp://{address}:{port}"), address
    return {
        f"{service}_SERVICE_HOST": host,
        f"{service}_SERVICE_PORT": port,
        f"{service}_SERVICE_PORT_HTTP": port,
        f"{service}_PORT": url,
        f"{service}_PORT_{port}_TCP": url,
        f"{service}_PORT_{port}_TCP_PROTO": "tcp",
        f"{service}_PORT_{port}_TCP_PORT": port,
        f"{service}_PORT_{port}_TCP_ADDR": host,
    }


def test_kubernetes_service_links_are_no_settings() -> None:
    set_by_kubernetes = links("PHALANX") | links("PHALANX_ADMIN", "fd00:10:96::7")
    assert load_settings({}, set_by_kubernetes).port == 8000
    assert service_links(set_by_kubernetes) == sorted(set_by_kubernetes)
    assert service_links({"PHALANX_PORT": "8001", "PHALANX_MASTER_PORT": "1"}) == []


@pytest.mark.parametrize("service", ["VLLM", "VLLM_DP_MASTER", "MASTER", "RAY_HEAD", "NCCL", "TORCH", "PHALANX"])
def test_ranks_do_not_get_service_links_that_they_would_take_for_settings(service: str) -> None:
    for address in ("10.0.0.1", "fd00:10:96::7"):
        assert inherited({"HOME": "/h"} | links(service, address)) == {"HOME": "/h"}


def test_what_an_operator_set_for_the_ranks_reaches_them() -> None:
    theirs = {
        "VLLM_PORT": "5000",
        "VLLM_HOST_IP": "10.0.0.1",
        "VLLM_NIXL_SIDE_CHANNEL_PORT": "5600",
        "VLLM_USAGE_STATS_SERVER": "https://stats.example:443",
        "MASTER_ADDR": "10.0.0.1",
        "MASTER_PORT": "29500",
        "RAY_ADDRESS": "10.0.0.1:6379",
        "OTEL_SERVICE_NAME": "ours",
        "HF_TOKEN": "a-secret-of-the-hub",
    }
    others = links("KUBERNETES") | links("REDIS")  # a plugin may look for its server there
    assert inherited(theirs | others) == theirs | others
    assert service_links(theirs | others) == []


def test_no_variable_of_ours_is_inherited() -> None:
    ours = {variable(name): "x" for name in Settings.model_fields}
    assert inherited(ours | {"PHALANX_API_KEY": "phx-a-secret", "PATH": "/bin"}) == {"PATH": "/bin"}


def test_variables_of_ranks_and_of_others_are_none_of_ours() -> None:
    ours = dict.fromkeys(RANK_VARIABLES, "1")
    assert load_settings({}, ours | {"HOME": "/", "phalanx_port": "1"}).port == 8000
    with pytest.raises(SettingsError, match="PHALANX_RANK_X is no variable of Phalanx"):
        load_settings({}, {"PHALANX_RANK_X": "1"})
    assert load_settings({}, {"PHALANX_API_KEY": "phx-a-secret-of-a-client"}).api_keys_file is None


def test_vllms_own_variable_for_the_cpu_cache_counts_below_ours() -> None:
    theirs = {"VLLM_CPU_KVCACHE_SPACE": "4"}
    assert load_settings({}, theirs).cpu_kv_cache_gib == 4
    assert load_settings({}, theirs | {"PHALANX_CPU_KV_CACHE_GIB": "2"}).cpu_kv_cache_gib == 2
    assert load_settings({}, {}).cpu_kv_cache_gib == 1


def test_only_what_was_set_goes_to_the_engine() -> None:
    assert load_settings({}, {}).engine_arguments() == {}
    settings = load_settings({"max_model_len": "512", "engine_args": '{"block_size": 32}', "port": "1"}, {})
    assert settings.engine_arguments() == {"max_model_len": 512, "block_size": 32}


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({"engine_args": '{"seed": 1}', "seed": "2"}, ("seed in --engine-args", "--seed (PHALANX_SEED)")),
        ({"engine_args": '{"tensor_parallel_size": 2}'}, ("tensor_parallel_size", "--tp-size")),
        ({"engine_args": '{"enable_expert_parallel": false}'}, ("enable_expert_parallel", "--expert-parallel")),
        ({"engine_args": '{"data_parallel_rank": 1}'}, ("data_parallel_rank", "leave it out")),
        ({"extra_args": ["--model", "x"]}, ("--model after --", "(PHALANX_MODEL)")),
        ({"extra_args": ["-tp=2"]}, ("-tp=2 after --", "--tp-size")),
        ({"extra_args": ["--no-enforce-eager"], "enforce_eager": "1"}, ("--no-enforce-eager", "--enforce-eager (")),
    ],
)
def test_an_engine_argument_that_a_setting_says_too_is_refused(given: dict[str, Any], names: tuple[str, str]) -> None:
    (problem,) = problems(given)
    assert all(name in problem for name in names)


def test_an_engine_argument_may_stand_in_for_a_setting_that_is_unset() -> None:
    settings = load_settings({"engine_args": {"seed": 1}, "extra_args": ["--dtype", "half", "-1"]}, {})
    assert settings.engine_arguments() == {"seed": 1}


def test_what_contradicts_itself_is_refused() -> None:
    assert "--model (PHALANX_MODEL) is missing" in problems({"require_model": "1"})[0]
    assert "it must be at most --max-timeout-s" in problems({"default_timeout_s": "2h", "max_timeout_s": "1h"})[0]
    assert load_settings({"require_model": True, "engine": "simulated"}, {}).model is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "gpu-1.example"])  # noqa: S104  nothing is bound
def test_an_address_that_others_reach_takes_keys_or_an_explicit_word(host: str) -> None:
    (problem,) = problems({"host": host})
    assert problem.startswith(f"--host (PHALANX_HOST) is {host}, which other machines may reach, and nobody is asked")
    assert "--api-keys-file (PHALANX_API_KEYS_FILE)" in problem and "--insecure (PHALANX_INSECURE)" in problem
    assert problems({"host": host, "api_keys_file": None, "insecure": "no"}) == [problem]
    assert load_settings({"host": host}, {"PHALANX_INSECURE": "1"}).host == host
    assert load_settings({"host": host, "api_keys_file": "keys.json"}, {}).host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_on_loopback_nobody_has_to_say_anything(host: str) -> None:
    settings = load_settings({"host": host}, {})
    assert (settings.api_keys_file, settings.insecure) == (None, False)


def test_the_keys_file_may_lie_in_ones_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    settings = load_settings({}, {"PHALANX_API_KEYS_FILE": "~/keys.json"})
    assert str(settings.api_keys_file) == "/home/somebody/keys.json"


def test_a_journal_has_one_place_and_its_password_is_not_repeated() -> None:
    with pytest.raises(SettingsError, match="each name a place for the journal: keep one of them"):
        load_settings({"journal_url": "postgresql://me:secret@db/j", "data_dir": "/data"}, {})
    with pytest.raises(SettingsError, match=r"--journal-url \(PHALANX_JOURNAL_URL\): it begins with mysql") as refused:
        load_settings({}, {"PHALANX_JOURNAL_URL": "mysql://me:secret@db/j"})
    assert "secret" not in str(refused.value)
    assert "secret" not in repr(load_settings({"journal_url": "postgresql://me:secret@db/j"}, {}))


def test_every_setting_stands_in_one_section_and_is_described() -> None:
    names = [name for section in SECTIONS for name in section.model_fields]
    assert sorted(names) == sorted(Settings.model_fields)
    assert all(field.description for field in Settings.model_fields.values())


def test_no_flag_is_spelled_twice() -> None:
    flags = [spelling for name in Settings.model_fields for spelling in spellings(name)]
    assert len(flags) == len(set(flags))
