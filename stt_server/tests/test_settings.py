"""Where settings come from and which one wins."""

import os
import tomllib
from pathlib import Path

import pytest
from pydantic import ValidationError

from stt_server.settings import (
    DEFAULT_PORT,
    Dtype,
    EndpointingMode,
    EngineName,
    FinalModelName,
    client_variables,
    load_settings,
    unknown_variables,
)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the machine that runs the tests."""
    for name in list(os.environ):  # noqa: TID251
        if name.startswith(("STT_", "ASR_")):
            monkeypatch.delenv(name)


def toml(folder: Path, text: str) -> Path:
    file = folder / "settings.toml"
    file.write_text(text)
    return file


def test_defaults_hold_without_any_source() -> None:
    settings = load_settings({})

    assert settings.port == DEFAULT_PORT
    assert settings.endpointing.silence_ms == 1_500


def test_flags_win_over_environment_over_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = toml(tmp_path, "port = 1\ndevice = 'cpu'\nhost = '10.0.0.1'\n")
    monkeypatch.setenv("STT_PORT", "2")
    monkeypatch.setenv("STT_DEVICE", "cuda")

    settings = load_settings({"port": "3"}, file=file)

    assert (settings.port, settings.device, settings.host) == (3, "cuda", "10.0.0.1")


def test_sources_are_joined_within_a_section(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = toml(tmp_path, "[endpointing]\nsilence_ms = 500\nstall_ms = 501\nonset = 0.7\n")
    monkeypatch.setenv("STT_ENDPOINTING__SILENCE_MS", "600")
    monkeypatch.setenv("STT_ENDPOINTING__STALL_MS", "601")

    endpointing = load_settings({"endpointing": {"silence_ms": "700"}}, file=file).endpointing

    assert (endpointing.silence_ms, endpointing.stall_ms, endpointing.onset) == (700, 601, 0.7)


@pytest.mark.parametrize(
    ("variable", "value", "path", "expected"),
    [
        ("STT_DEVICE", "cpu", "device", "cpu"),
        ("STT_PORT", "8080", "port", 8_080),
        ("STT_HOST", "0.0.0.0", "host", "0.0.0.0"),
        ("STT_MODEL", "scripted", "model", EngineName.SCRIPTED),
        ("STT_ENDPOINTING__SILENCE_MS", "700", "endpointing.silence_ms", 700),
        ("STT_ENDPOINTING__MODE", "none", "endpointing.mode", EndpointingMode.NONE),
        ("STT_LIMITS__MAX_SESSIONS", "5", "limits.max_sessions", 5),
        ("STT_LOG__TRANSCRIPTS", "true", "log.transcripts", True),
        ("stt_port", "8080", "port", 8_080),
        ("STT_FINAL_MODEL", "canary-qwen", "final_model", FinalModelName.CANARY_QWEN),
        ("STT_DTYPE", "int8", "dtype", Dtype.INT8),
        ("STT_DEVICE", "cuda:1", "device", "cuda:1"),
        ("STT_CANARY_QWEN__CHECKPOINT", "/models/c", "canary_qwen.checkpoint", "/models/c"),
    ],
)
def test_environment_variable_sets_a_field(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, path: str, expected: object
) -> None:
    monkeypatch.setenv(variable, value)

    found: object = load_settings({})
    for name in path.split("."):
        found = getattr(found, name)
    assert found == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('["one", "two"]', ["one", "two"]),
        (' ["with, comma"]', ["with, comma"]),
        ("secret", ["secret"]),
        ("one, two", ["one", "two"]),
        ("12345", ["12345"]),
    ],
)
def test_api_keys_come_as_text_with_commas_or_a_json_list(
    monkeypatch: pytest.MonkeyPatch, text: str, expected: list[str]
) -> None:
    monkeypatch.setenv("STT_AUTH__API_KEYS", text)

    keys = load_settings({}).auth.api_keys

    assert [key.get_secret_value() for key in keys] == expected


def test_origins_come_as_text_with_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("stt_auth__allowed_origins", "https://a,https://b")
    monkeypatch.setenv("STT_AUTH__API_KEYS", "secret")

    auth = load_settings({}).auth

    assert auth.allowed_origins == ("https://a", "https://b")
    assert len(auth.api_keys) == 1


def test_section_may_be_a_json_object(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STT_AUTH", '{"allowed_origins": ["https://a"], "metrics": "off"}')
    monkeypatch.setenv("STT_AUTH__METRICS", "open")

    auth = load_settings({}).auth

    assert (auth.allowed_origins, auth.metrics) == (("https://a",), "open")


@pytest.mark.parametrize("text", ["", "one,,two", ","])
def test_missing_key_is_an_error_and_not_an_open_server(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("STT_AUTH__API_KEYS", text)

    with pytest.raises(ValidationError):
        load_settings({})


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("STT_AUTH__API_KEYS", '["s3cret"', "begins like a JSON list and is none"),
        ("STT_LIMITS", "s3cret", r"STT_LIMITS__\* set one setting each"),
    ],
)
def test_text_that_is_no_json_is_told_with_its_variable_alone(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str, said: str
) -> None:
    monkeypatch.setenv(name, text)

    with pytest.raises(ValueError, match=f"^{name}: .*{said}") as caught:
        load_settings({})
    assert "s3cret" not in str(caught.value)


def test_api_keys_are_not_shown() -> None:
    assert "s3cret" not in repr(load_settings({"auth": {"api_keys": ["s3cret"]}}))


@pytest.mark.parametrize("text", ["prot = 1", "[endpointing]\nsilence = 5", "[endpoint]\nx = 1"])
def test_unknown_key_in_the_file_is_an_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        load_settings({}, file=toml(tmp_path, text))


def test_unknown_key_in_a_section_of_the_environment_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("STT_ENDPOINTING__SILENCE", "700")

    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        load_settings({})


def test_unknown_flag_is_an_error() -> None:
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        load_settings({"prot": 1})


@pytest.mark.parametrize(
    "flags",
    [
        {"port": 65_536},
        {"port": -1},
        {"device": "tpu"},
        {"device": "cuda:x"},
        {"device": "cpu:0"},
        {"dtype": "int4"},
        {"final_model": "pocketsphinx"},
        {"final_timeout_ms": -1},
        {"model": "canary-qwen", "final_model": "canary-qwen"},
        {"model": "parakeet-eou", "eou_model": "parakeet-eou"},
        {"eou_model": "nemotron-en"},
        {"endpointing": {"silence_ms": 99}},
        {"endpointing": {"onset": 0.3, "offset": 0.5}},
        {"limits": {"max_sessions": 0}},
        {"log": {"level": "LOUD"}},
        {"auth": {"api_keys": [""]}},
    ],
)
def test_value_out_of_bounds_is_an_error(flags: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        load_settings(flags)


def test_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no\.toml"):
        load_settings({}, file=tmp_path / "no.toml")


def test_file_that_is_not_toml_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(tomllib.TOMLDecodeError):
        load_settings({}, file=toml(tmp_path, "port: 1"))


def test_files_of_two_loads_do_not_mix(tmp_path: Path) -> None:
    load_settings({}, file=toml(tmp_path, "port = 1"))

    assert load_settings({}).port == DEFAULT_PORT


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load_settings({}).port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("flags", "host"),
    [
        ({}, "127.0.0.1"),
        ({"auth": {"api_keys": ["s3cret"]}}, "0.0.0.0"),
        ({"host": "192.0.2.1"}, "192.0.2.1"),
        ({"host": "::1", "auth": {"api_keys": ["s3cret"]}}, "::1"),
    ],
)
def test_only_this_machine_may_connect_without_a_key_by_default(
    flags: dict[str, object], host: str
) -> None:
    assert load_settings(flags).bind_host == host


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("STT_PROT", "STT_PORT"),
        ("STT_ENDPOINTING_SILENCE_MS", "STT_ENDPOINTING__SILENCE_MS"),
        ("STT_SILENCE_MS", "STT_ENDPOINTING__SILENCE_MS"),
        ("STT_LOG_LEVEL", "STT_LOG__LEVEL"),
        ("stt_api_keys", "STT_AUTH__API_KEYS"),
        ("STT_PORT__X", "STT_PORT"),
        ("STT_QWERTY", None),
    ],
)
def test_variable_that_sets_nothing_is_told_with_what_is_most_like_it(
    name: str, meant: str | None
) -> None:
    assert unknown_variables({name: "1"}) == {name.upper(): meant}


def test_variables_that_set_something_are_known() -> None:
    names = ("STT_PORT", "stt_port", "STT_LIMITS__DRAIN_S", "STT_LIMITS", "STT_API_KEY", "PATH")
    assert unknown_variables(dict.fromkeys(names, "1")) == {}


def test_variables_of_clients_are_told_apart() -> None:
    assert client_variables({"stt_api_key": "k", "STT_PORT": "1"}) == ["STT_API_KEY"]
