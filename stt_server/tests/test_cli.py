"""`stt-server`: flags, messages and exit codes. What it would serve is caught, not served."""

import os
from pathlib import Path

import pytest

from stt_server import __version__, serve
from stt_server.cli import main
from stt_server.settings import EngineName, Settings


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the machine that runs the tests."""
    for name in list(os.environ):  # noqa: TID251
        if name.startswith(("STT_", "ASR_")):
            monkeypatch.delenv(name)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """The settings that would have been served."""
    caught: list[Settings] = []

    def catch(settings: Settings) -> int:
        caught.append(settings)
        return 0

    monkeypatch.setattr(serve, "serve", catch)
    return caught


def test_no_flags_serve_the_defaults(served: list[Settings]) -> None:
    assert main([]) == 0
    assert [settings.model_dump() for settings in served] == [Settings().model_dump()]


def test_flags_of_every_kind_reach_the_settings(served: list[Settings]) -> None:
    main(
        [
            "--port=8080",
            "--model=scripted",
            "--device=cpu",
            "--endpointing-silence-ms=700",
            "--endpointing-onset=0.6",
            "--limits-max-sessions=5",
            "--log-transcripts",
            "--auth-api-keys=one",
            "--auth-api-keys=two",
        ]
    )

    (settings,) = served
    assert (settings.port, settings.model, settings.device) == (
        8_080,
        EngineName.SCRIPTED,
        "cpu",
    )
    assert (settings.endpointing.silence_ms, settings.endpointing.onset) == (700, 0.6)
    assert settings.limits.max_sessions == 5
    assert settings.log.transcripts
    assert [key.get_secret_value() for key in settings.auth.api_keys] == ["one", "two"]


def test_negative_form_of_a_flag_wins_over_the_environment(
    served: list[Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STT_LOG__TRANSCRIPTS", "true")

    main(["--no-log-transcripts"])

    assert not served[0].log.transcripts


def test_flag_wins_over_environment_over_file(
    served: list[Settings], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("port = 1\n[endpointing]\nsilence_ms = 501\nstall_ms = 502\n")
    monkeypatch.setenv("STT_PORT", "2")
    monkeypatch.setenv("STT_ENDPOINTING__SILENCE_MS", "601")

    main(["--config", str(file), "--port", "3"])

    (settings,) = served
    assert settings.port == 3
    assert (settings.endpointing.silence_ms, settings.endpointing.stall_ms) == (601, 502)


def test_exit_code_is_that_of_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "serve", lambda settings: 1)

    assert main([]) == 1


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["--port=x"], "port"),
        (["--endpointing-silence-ms=5"], "endpointing.silence_ms"),
        (["--endpointing-onset=0.2"], "endpointing"),
    ],
)
def test_bad_value_is_told_with_its_name(
    served: list[Settings], capsys: pytest.CaptureFixture[str], arguments: list[str], name: str
) -> None:
    assert main(arguments) == 2
    assert f"stt-server: setting {name}: " in capsys.readouterr().err
    assert served == []


def test_bad_value_of_an_old_variable_is_told_with_its_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ASR_STEP_MS", "0")
    monkeypatch.setenv("ASR_MAX_BATCH", "many")

    assert main([]) == 2
    told = capsys.readouterr().err
    assert "stt-server: setting nemo.tick_ms (or ASR_STEP_MS): " in told
    assert "stt-server: setting max_streams (or ASR_MAX_BATCH): " in told


def test_old_variable_that_cannot_be_understood_is_a_usage_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ASR_ATT_CTX", "wide")

    assert main([]) == 2
    assert capsys.readouterr().err.startswith("stt-server: ASR_ATT_CTX: 'wide'")


def test_secrets_are_not_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--auth-api-keys=s3cret", "--port=x"]) == 2
    assert "s3cret" not in capsys.readouterr().err


@pytest.mark.parametrize("text", ["prot = 1", "port: 1", "[endpointing]\nsilence = 1"])
def test_bad_file_is_a_usage_error(
    served: list[Settings], capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str
) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(text)

    assert main(["--config", str(file)]) == 2
    assert capsys.readouterr().err.startswith("stt-server: ")
    assert served == []


def test_missing_file_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", "/nowhere/settings.toml"]) == 2
    assert "/nowhere/settings.toml" in capsys.readouterr().err


def test_unreadable_environment_variable_is_a_usage_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STT_AUTH__API_KEYS", "[s3cret")

    assert main([]) == 2
    told = capsys.readouterr().err
    assert told.startswith("stt-server: STT_AUTH__API_KEYS: ")
    assert "s3cret" not in told


def test_mistyped_variable_is_told_with_the_one_most_like_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STT_ENDPOINTING__SILENCE", "700")

    assert main([]) == 2
    told = capsys.readouterr().err
    assert told.startswith("stt-server: setting endpointing.silence (or STT_ENDPOINTING__SILENCE)")
    assert "did you mean STT_ENDPOINTING__SILENCE_MS?" in told


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("prot = 1", "did you mean port?"),
        ("[endpointing]\nsilence = 1", "did you mean endpointing.silence_ms?"),
        ("[endpoint]\nsilence = 1", "did you mean endpointing?"),
        ("[qwerty]\nx = 1", "there is no such setting\n"),
    ],
)
def test_mistyped_key_of_the_file_is_told_with_the_one_most_like_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str, meant: str
) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(text)

    assert main(["--config", str(file)]) == 2
    assert meant in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--modle", "x"], "no such flag: --modle; did you mean --model?"),
        (["--silence-ms=5"], "did you mean --endpointing-silence-ms?"),
        (["--qwertyuiop"], "no such flag: --qwertyuiop (see"),
        (["--api-key=s3cret"], "did you mean --auth-api-keys?"),
        (["models", "list", "--offlin3"], "did you mean --offline?"),
    ],
)
def test_unknown_flag_is_one_line_with_the_one_most_like_it(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)

    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert "s3cret" not in line


@pytest.mark.parametrize("arguments", [["--prot=1"], ["extra"], ["--dtype=int4"], ["--port"]])
def test_wrong_usage_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)

    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("(see stt-server --help)")


def test_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])

    assert caught.value.code == 0
    assert capsys.readouterr().out == f"stt-server {__version__}\n"


def test_help_lists_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])

    told = capsys.readouterr().out
    for name, field in Settings.model_fields.items():
        section = getattr(field.annotation, "model_fields", None)
        for flag in [name] if section is None else [f"{name}-{inner}" for inner in section]:
            assert f"--{flag.replace('_', '-')}" in told
