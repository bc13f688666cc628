"""What a model is, by its config.json alone, and what an operator reads when it cannot be known."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from engines.host import inspect_model
from engines.host.inspect_model import ModelUnusable, inspect


def folder_with(path: Path, config: Any, name: str = "config.json") -> str:
    path.mkdir(exist_ok=True)
    (path / name).write_text(config if isinstance(config, str) else json.dumps(config))
    return str(path)


def test_a_dense_model_is_no_mixture_of_experts(tmp_path: Path) -> None:
    config = {"architectures": ["LlamaForCausalLM"], "num_attention_heads": 8, "max_position_embeddings": 4096}
    facts = inspect(folder_with(tmp_path, config))
    assert (facts.is_moe, facts.num_experts) == (False, 0)
    assert (facts.architecture, facts.max_position_embeddings) == ("LlamaForCausalLM", 4096)
    assert facts.model == str(tmp_path)


@pytest.mark.parametrize(
    ("config", "experts"),
    [
        ({"num_local_experts": 8}, 8),
        ({"n_routed_experts": 256, "num_local_experts": 4}, 256),
        ({"moe_num_experts": [64, 64]}, 64),
        ({"moe_num_experts": []}, 0),
        ({"num_experts": 1}, 1),
        ({"num_local_experts": 0}, 0),
        ({"num_experts": None, "n_routed_experts": 16}, 0),  # the first field that is there decides, as in vLLM
        ({"text_config": {"num_experts": 128}}, 128),
        ({"num_experts": 4, "text_config": {"hidden_size": 8}}, 0),
        ({"text_config": None, "num_experts": 4}, 4),
        ({"llm_config": {"num_experts": 32}}, 32),
        ({"language_config": {"n_routed_experts": 72}}, 72),
        ({"thinker_config": {"text_config": {"num_experts": 128}}}, 128),
        ({"block_configs": [{"block_type": "moe", "n_routed_experts": n} for n in (8, 16)]}, 16),
        ({"block_configs": [{"block_type": "mlp", "n_routed_experts": 8}, {"attention": {}}]}, 0),
    ],
)
def test_experts_are_counted_by_vllms_rule(config: dict[str, Any], experts: int, tmp_path: Path) -> None:
    facts = inspect(folder_with(tmp_path, config))
    assert (facts.is_moe, facts.num_experts) == (experts > 0, experts)


def test_mistrals_own_format_is_read(tmp_path: Path) -> None:
    assert (
        inspect(folder_with(tmp_path / "moe", {"dim": 8, "moe": {"num_experts": 16}}, "params.json")).num_experts == 16
    )
    assert not inspect(folder_with(tmp_path / "dense", {"dim": 8}, "params.json")).is_moe
    both = folder_with(tmp_path / "dense", {"num_local_experts": 8})
    assert inspect(both).is_moe
    (tmp_path / "dense" / "consolidated.safetensors").touch()  # with these weights vLLM reads params.json
    assert not inspect(both).is_moe


@pytest.mark.parametrize(
    ("name", "is_moe"),
    [("phalanx-tiny", True), ("phalanx-tiny-random", True), ("phalanx-tiny-random-dense", False)],
)
def test_a_built_in_model_is_built_first(
    name: str, is_moe: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tokenizers")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    facts = inspect(name)
    assert facts.is_moe is is_moe
    assert facts.model == str(tmp_path / "phalanx" / "models" / name)
    assert Path(facts.model, "tokenizer.json").exists()


@pytest.mark.parametrize("broken", ["{", "[]", '"text"', ""])
def test_a_broken_config_is_named(broken: str, tmp_path: Path) -> None:
    with pytest.raises(ModelUnusable, match=r"config\.json .*download the model again"):
        inspect(folder_with(tmp_path, broken))


@pytest.mark.parametrize(
    "model", ["/no/such/folder", "./no-such-folder", "../no/such", "~/no-such-folder-here", "a/b/c"]
)
def test_a_path_that_does_not_exist_is_not_sought_on_the_hub(model: str) -> None:
    with pytest.raises(ModelUnusable, match=r"does not exist: check the spelling"):
        inspect(model)


def test_a_folder_without_a_model_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ModelUnusable, match=r"has no config\.json: name a folder that holds a whole model$"):
        inspect(str(tmp_path))
    below = folder_with(tmp_path / "model", {})
    with pytest.raises(ModelUnusable, match=f"such as {below}"):
        inspect(str(tmp_path))
    with pytest.raises(ModelUnusable, match="LoRA adapter"):
        inspect(folder_with(tmp_path / "adapter", {}, "adapter_config.json"))
    with pytest.raises(ModelUnusable, match="is a file"):
        inspect(str(tmp_path / "model" / "config.json"))


class TestTheHub:
    """The hub's library is real; its one request is replaced."""

    @pytest.fixture(autouse=True)
    def empty_cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        hub = pytest.importorskip("huggingface_hub")
        monkeypatch.setattr(hub, "try_to_load_from_cache", lambda *_, **__: None)

    def refuse_with(self, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
        import huggingface_hub as hub

        def refuse(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr(hub, "get_hf_file_metadata", refuse)

    @pytest.mark.parametrize(
        ("name", "remedy"),
        [
            ("GatedRepoError", r"accept its licence at http.*/some/model and set HF_TOKEN"),
            ("RepositoryNotFoundError", r"no hub repository some/model: check the spelling; if it is private"),
            ("RevisionNotFoundError", r"no revision 'v9': check --revision"),
            ("OfflineModeIsEnabled", r"HF_HUB_OFFLINE is set and some/model is not in the cache"),
            ("RemoteEntryNotFoundError", r"some/model has no config\.json"),
        ],
    )
    def test_each_refusal_says_what_to_do(self, name: str, remedy: str, monkeypatch: pytest.MonkeyPatch) -> None:
        from huggingface_hub import errors

        kind = getattr(errors, name)
        self.refuse_with(monkeypatch, kind.__new__(kind))  # its constructor wants an HTTP response
        with pytest.raises(ModelUnusable, match=remedy):
            inspect("some/model", "v9")

    def test_an_unreachable_hub_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.refuse_with(monkeypatch, ConnectionError("no route to host"))
        with pytest.raises(ModelUnusable, match=r"could not be asked \(ConnectionError: no route to host\)"):
            inspect("some/model")

    def test_a_silent_hub_is_given_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import huggingface_hub as hub

        answered = threading.Event()

        def wait(*_: object, **__: object) -> None:
            answered.wait(30)
            raise ConnectionError("too late")

        monkeypatch.setattr(hub, "get_hf_file_metadata", wait)
        monkeypatch.setattr(inspect_model, "HUB_TIMEOUT_S", 0.05)
        with pytest.raises(ModelUnusable, match="no answer in 0 s"):
            inspect("some/model")
        answered.set()

    def test_a_cached_model_needs_no_hub(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import huggingface_hub as hub

        cached = Path(folder_with(tmp_path, {"num_experts": 8})) / "config.json"
        monkeypatch.setattr(hub, "try_to_load_from_cache", lambda *_, **__: str(cached))
        self.refuse_with(monkeypatch, ConnectionError("no route to host"))
        assert inspect("some/model").num_experts == 8
        assert inspect("some/model").model == "some/model"

    def test_a_name_that_cannot_be_one_is_refused(self) -> None:
        with pytest.raises(ModelUnusable, match="'two words' is neither a folder nor a hub name"):
            inspect("two words")
