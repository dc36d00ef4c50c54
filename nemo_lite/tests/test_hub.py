"""Which files make a checkpoint, when the hub is asked for them, and what a source may be."""

import hashlib
from pathlib import Path

import pytest

from nemo_lite import hub
from nemo_lite.errors import DownloadError, UnknownModelError, UnsupportedError
from nemo_lite.hub import Progress, download, resolve
from nemo_lite.registry import BASE_MODELS, REGISTRY, RemoteFile
from nemo_lite.tests.fake_hub import (
    ARCHIVE,
    COMMIT,
    MIB,
    NEXT_COMMIT,
    QUICK,
    FakeHub,
    Fault,
    entry,
    kept,
    pull,
    running,
)
from nemo_lite.transfer import Stage


def test_archive_is_fetched_alone_and_lies_under_its_commit(fake: FakeHub, cache: Path) -> None:
    path = pull(fake, cache)

    assert path == cache / "acme--tiny" / COMMIT / "tiny.nemo"
    assert path.read_bytes() == ARCHIVE
    assert set(kept(cache)) == {
        f"acme--tiny/{COMMIT}/tiny.nemo",
        f"acme--tiny/{COMMIT}.lock",
        "acme--tiny/main.ref",
    }


def test_folder_of_safetensors_is_fetched_without_what_no_loader_reads(
    fake: FakeHub, cache: Path
) -> None:
    wanted = {
        "config.json": b"{}",
        "model.safetensors": ARCHIVE,
        "tokenizer.json": b"[]",
        "empty.txt": b"",
    }
    fake.files = {
        **wanted,
        "image.png": b"x",
        "old/model.safetensors": b"x",
        ".gitattributes": b"x",
    }

    path = pull(fake, cache)

    assert path.is_dir()
    assert {file.name: file.read_bytes() for file in path.iterdir()} == wanted


def test_archive_named_like_the_repository_is_chosen_among_several(
    fake: FakeHub, cache: Path
) -> None:
    fake.files = {"other.nemo": b"x" * 2_000, **fake.files}

    assert pull(fake, cache).name == "tiny.nemo"


@pytest.mark.parametrize(
    ("files", "why"),
    [
        (["a.nemo", "b.nemo"], "several archives"),
        (["README.md", "config.json"], "neither a .nemo archive nor safetensors"),
        (["../../evil.nemo", "/evil.nemo", "..\\evil.nemo"], "neither"),
    ],
)
def test_repository_without_one_checkpoint_is_refused(
    fake: FakeHub, cache: Path, files: list[str], why: str
) -> None:
    fake.files = dict.fromkeys(files, b"x")

    with pytest.raises(DownloadError, match=why):
        pull(fake, cache)
    assert fake.contents == []


def test_second_download_by_commit_asks_nobody(fake: FakeHub, cache: Path) -> None:
    first = pull(fake, cache, revision=COMMIT)
    asked = len(fake.requests)

    assert pull(fake, cache, revision=COMMIT) == first
    assert len(fake.requests) == asked


def test_branch_is_fetched_again_only_when_it_moved(fake: FakeHub, cache: Path) -> None:
    first = pull(fake, cache)
    assert pull(fake, cache) == first
    assert len(fake.contents) == 1

    fake.commit, fake.files = NEXT_COMMIT, {"tiny.nemo": b"new" * 1_000}
    fake.branches = {"main": NEXT_COMMIT}
    second = pull(fake, cache)

    assert second.read_bytes() == b"new" * 1_000
    assert first.read_bytes() == ARCHIVE
    assert pull(fake, cache, offline=True) == second


def test_branch_with_a_slash_stays_inside_its_folder(fake: FakeHub, cache: Path) -> None:
    fake.branches = {"../../up": COMMIT}

    path = pull(fake, cache, revision="../../up")

    assert pull(fake, cache, revision="../../up", offline=True) == path
    assert all(name.startswith("acme--tiny/") for name in kept(cache))
    assert list(cache.parent.iterdir()) == [cache]


def test_registry_name_is_fetched_by_its_pinned_digest_without_a_listing(
    fake: FakeHub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(REGISTRY, "tiny", entry(fake))  # type: ignore[arg-type]

    path = pull(fake, cache, "tiny")

    assert path.read_bytes() == ARCHIVE
    assert [request.path for request in fake.requests] == [
        f"/acme/tiny/resolve/{COMMIT}/tiny.nemo",
        "/tiny.nemo",
    ]
    assert pull(fake, cache, "acme/tiny", offline=True) == path


def test_other_bytes_than_the_registry_pins_are_refused(
    fake: FakeHub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned = (RemoteFile("tiny.nemo", len(ARCHIVE), "0" * 64),)
    monkeypatch.setitem(REGISTRY, "tiny", entry(fake, files=pinned))  # type: ignore[arg-type]

    with pytest.raises(DownloadError, match="does not have the published checksum"):
        pull(fake, cache, "tiny")


@pytest.mark.parametrize("revision", ["main", COMMIT])
def test_other_revision_of_a_registry_name_is_asked_of_the_hub(
    fake: FakeHub, cache: Path, monkeypatch: pytest.MonkeyPatch, revision: str
) -> None:
    pinned = (RemoteFile("gone.nemo", 1, "0" * 64),)
    changed = entry(fake, revision=NEXT_COMMIT, files=pinned)
    monkeypatch.setitem(REGISTRY, "tiny", changed)  # type: ignore[arg-type]

    assert pull(fake, cache, "tiny", revision=revision).read_bytes() == ARCHIVE


def test_model_that_cannot_be_loaded_is_not_downloaded(fake: FakeHub, cache: Path) -> None:
    with pytest.raises(UnsupportedError, match="sortformer"):
        pull(fake, cache, "sortformer")
    assert fake.requests == []


def test_offline_uses_what_is_there(fake: FakeHub, cache: Path) -> None:
    path = pull(fake, cache)
    asked = len(fake.requests)

    assert pull(fake, cache, offline=True) == path
    assert len(fake.requests) == asked


def test_offline_without_a_copy_is_an_error_that_asks_nobody(fake: FakeHub, cache: Path) -> None:
    with pytest.raises(DownloadError, match="switched off"):
        pull(fake, cache, offline=True)
    assert fake.requests == []
    assert not cache.exists()


def test_half_a_download_is_no_copy(fake: FakeHub, cache: Path) -> None:
    fake.faults = [Fault(cut_after=MIB)] + [Fault(status=503)] * 5
    with pytest.raises(DownloadError):
        pull(fake, cache, revision=COMMIT)

    assert hub.cached("acme/tiny", revision=COMMIT, cache_dir=cache) is None
    with pytest.raises(DownloadError, match="switched off"):
        pull(fake, cache, revision=COMMIT, offline=True)


def test_copy_serves_while_the_hub_is_down(cache: Path) -> None:
    with running(FakeHub(files={"tiny.nemo": ARCHIVE})) as fake:
        path = pull(fake, cache)
        fake.listing_faults = [Fault(status=503)] * 10
        assert pull(fake, cache) == path

    assert pull(fake, cache) == path  # nobody listens any more


def test_hub_that_is_down_is_an_error_without_a_copy(cache: Path) -> None:
    with running(FakeHub()) as fake:
        pass

    with pytest.raises(DownloadError, match="refused"):
        pull(fake, cache)


@pytest.mark.parametrize("content", [b"../../up", b"..", b"\xff", b"", COMMIT[1:].encode()])
def test_damaged_ref_is_as_good_as_none(fake: FakeHub, cache: Path, content: bytes) -> None:
    pull(fake, cache)
    (cache / "acme--tiny" / "main.ref").write_bytes(content)

    assert hub.cached("acme/tiny", cache_dir=cache) is None
    assert pull(fake, cache).read_bytes() == ARCHIVE


def test_progress_is_of_all_files_and_ends_with_everything(fake: FakeHub, cache: Path) -> None:
    fake.files = {"config.json": b"{}", "model.safetensors": ARCHIVE}
    seen: list[Progress] = []

    pull(fake, cache, progress=seen.append)

    assert {progress.total_bytes for progress in seen} == {len(ARCHIVE) + 2}
    done = [progress.done_bytes for progress in seen]
    assert done == sorted(done)
    assert done[0] == 0
    assert done[-1] == len(ARCHIVE) + 2
    assert len(seen) < 12
    assert seen[-1] == Progress(
        Stage.VERIFYING, "model.safetensors", len(ARCHIVE) + 2, len(ARCHIVE) + 2
    )


def test_path_that_exists_wins_over_a_name(
    fake: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "parakeet-eou"
    folder.mkdir()

    assert resolve("parakeet-eou", endpoint=fake.url) == Path("parakeet-eou")
    assert resolve(folder, endpoint=fake.url) == folder
    assert fake.requests == []


def test_home_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model.nemo").touch()

    assert resolve("~/model.nemo") == tmp_path / "model.nemo"


@pytest.mark.parametrize(
    "source",
    ["./model", "model.nemo", "models/tiny.nemo", "/no/such/folder", Path("acme/tiny"), "~/none"],
)
def test_path_that_does_not_exist_is_told_as_a_path(
    fake: FakeHub, source: str | Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    with pytest.raises(UnknownModelError, match=r"there is no checkpoint at /"):
        resolve(source, endpoint=fake.url)
    assert fake.requests == []


@pytest.mark.parametrize(
    "source",
    [
        "parakeet",
        "",
        "a/b/c",
        "../up",
        "a b/c",
        "acme/../x",
        "https://hub.example/a/b",
        "x" * 5_000,
    ],
)
def test_what_is_neither_name_nor_hub_id_is_unknown(
    fake: FakeHub, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    with pytest.raises(UnknownModelError):
        download(source, endpoint=fake.url, cache_dir=tmp_path)
    assert fake.requests == []


def test_hub_id_is_resolved_by_downloading(fake: FakeHub, cache: Path) -> None:
    path = resolve("acme/tiny", endpoint=fake.url, cache_dir=cache, retry=QUICK)

    assert path.read_bytes() == ARCHIVE


def test_cache_is_in_the_home_folder_by_default(
    fake: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))

    path = download("acme/tiny", endpoint=fake.url)

    assert path.is_relative_to(tmp_path / ".cache" / "nemo_lite")


def test_part_of_a_checkpoint_may_come_from_another_repository(
    fake: FakeHub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = hashlib.sha256(b"{}").hexdigest()
    pinned = (
        RemoteFile("tiny.safetensors", len(ARCHIVE), hashlib.sha256(ARCHIVE).hexdigest()),
        RemoteFile("base/config.json", 2, digest, f"{fake.repo}/resolve/{COMMIT}/other.json"),
    )
    fake.files = {"tiny.safetensors": ARCHIVE, "other.json": b"{}"}
    monkeypatch.setitem(REGISTRY, "tiny", entry(fake, files=pinned))  # type: ignore[arg-type]
    told: list[Progress] = []

    path = pull(fake, cache, "tiny", progress=told.append)

    assert (path / "base" / "config.json").read_bytes() == b"{}"
    assert told[-1].done_bytes == told[-1].total_bytes == len(ARCHIVE) + 2
    assert hub.cached("tiny", cache_dir=cache) == path


def test_base_model_is_fetched_without_its_weights(fake: FakeHub, cache: Path) -> None:
    wanted = {"config.json": b"{}", "tokenizer.json": b"[]", "tokenizer_config.json": b"{ }"}
    fake.files = {**wanted, "model.safetensors": ARCHIVE, "vocab.json": b"x"}
    path = hub.base_model("acme/tiny", cache_dir=cache, endpoint=fake.url, retry=QUICK)

    assert {file.name: file.read_bytes() for file in path.iterdir()} == wanted
    assert hub.base_model("acme/tiny", cache_dir=cache, offline=True) == path
    assert hub.cached("acme/tiny", cache_dir=cache) is None


def test_base_model_does_not_stand_in_for_the_checkpoint(fake: FakeHub, cache: Path) -> None:
    fake.files = {"config.json": b"{}", "tokenizer.json": b"[]", "model.safetensors": ARCHIVE}
    hub.base_model("acme/tiny", cache_dir=cache, endpoint=fake.url, retry=QUICK)

    assert (pull(fake, cache) / "model.safetensors").read_bytes() == ARCHIVE


def test_base_model_of_the_registry_is_fetched_at_its_commit_by_its_digests(
    fake: FakeHub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned = (RemoteFile("config.json", 2, hashlib.sha256(b"{}").hexdigest()),)
    fake.files = {"config.json": b"{}", "tokenizer.json": b"[]"}
    monkeypatch.setitem(BASE_MODELS, "acme/tiny", (COMMIT, pinned))  # type: ignore[arg-type]

    path = hub.base_model("acme/tiny", cache_dir=cache, endpoint=fake.url, retry=QUICK)

    assert [file.name for file in path.iterdir()] == ["config.json"]
    assert not any(request.path.startswith("/api") for request in fake.requests)


@pytest.mark.parametrize("absent", ["config.json", "tokenizer.json"])
def test_base_model_without_what_is_needed_is_refused(
    fake: FakeHub, cache: Path, absent: str
) -> None:
    fake.files = {"config.json": b"{}", "tokenizer.json": b"[]"}
    del fake.files[absent]

    with pytest.raises(DownloadError, match=f"acme/tiny has no {absent}"):
        hub.base_model("acme/tiny", cache_dir=cache, endpoint=fake.url, retry=QUICK)


def test_base_model_is_named_by_a_hub_id_alone(cache: Path) -> None:
    with pytest.raises(UnknownModelError, match="no hub id"):
        hub.base_model("../tiny", cache_dir=cache)
