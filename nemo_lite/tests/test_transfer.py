"""Downloads over bad connections and from bad servers: continued, verified, refused."""

import hashlib
import subprocess
import sys
import threading
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nemo_lite.errors import DownloadError
from nemo_lite.hub import Progress
from nemo_lite.tests.fake_hub import (
    ARCHIVE,
    COMMIT,
    MIB,
    QUICK,
    FakeHub,
    Fault,
    kept,
    pull,
)
from nemo_lite.transfer import Retry


def test_cut_connection_is_continued_where_it_ended(fake: FakeHub, cache: Path) -> None:
    fake.faults = [Fault(cut_after=2 * MIB + 7)]

    assert pull(fake, cache).read_bytes() == ARCHIVE
    assert [request.range for request in fake.contents] == [None, f"bytes={2 * MIB + 7}-"]


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cuts=st.lists(st.integers(0, 20_000), max_size=6),
    ignored=st.lists(st.booleans(), min_size=6, max_size=6),
)
def test_file_is_whole_however_often_it_was_cut(
    fake: FakeHub, cuts: list[int], ignored: list[bool]
) -> None:
    fake.files = {"tiny.nemo": ARCHIVE[:20_000]}
    fake.faults = [
        Fault(cut_after=cut, ignore_range=ignore)
        for cut, ignore in zip(cuts, ignored, strict=False)
    ]
    with TemporaryDirectory() as folder:
        path = pull(fake, Path(folder), retry=Retry(attempts=10, wait_s=0.0))

        assert path.read_bytes() == ARCHIVE[:20_000]


def test_server_without_ranges_costs_a_new_start(fake: FakeHub, cache: Path) -> None:
    fake.faults = [Fault(cut_after=MIB), Fault(ignore_range=True)]

    assert pull(fake, cache).read_bytes() == ARCHIVE


def test_stopped_download_is_continued_by_the_next_one(fake: FakeHub, cache: Path) -> None:
    def stop(progress: Progress) -> None:
        if progress.done_bytes >= MIB:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull(fake, cache, progress=stop)
    there = len(kept(cache)[f"acme--tiny/{COMMIT}.partial/tiny.nemo.part"])
    seen: list[Progress] = []

    assert pull(fake, cache, progress=seen.append).read_bytes() == ARCHIVE
    assert MIB <= there < len(ARCHIVE)
    assert fake.contents[-1].range == f"bytes={there}-"
    assert seen[0].done_bytes == there


def test_killed_process_leaves_a_download_that_goes_on(fake: FakeHub, cache: Path) -> None:
    hold = threading.Event()
    fake.faults = [Fault(cut_after=2 * MIB, hold=hold)]
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from nemo_lite.hub import download\n"
        "report = lambda progress: print(progress.done_bytes, flush=True)\n"
        "download('acme/tiny', endpoint=sys.argv[1], cache_dir=Path(sys.argv[2]), progress=report)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, fake.url, str(cache)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= MIB:
                break
        process.kill()
    hold.set()

    assert pull(fake, cache).read_bytes() == ARCHIVE
    assert fake.contents[-1].range is not None


def test_files_finished_before_a_stop_are_not_fetched_again(fake: FakeHub, cache: Path) -> None:
    fake.files = {"config.json": b"{}", "model.safetensors": ARCHIVE}
    fake.faults = [Fault(), Fault(status=404)]
    with pytest.raises(DownloadError):
        pull(fake, cache)
    fake.requests.clear()

    path = pull(fake, cache)

    assert [request.path for request in fake.contents] == ["/model.safetensors"]
    assert (path / "config.json").read_bytes() == b"{}"


def test_partial_file_longer_than_the_whole_is_begun_anew(fake: FakeHub, cache: Path) -> None:
    partial = cache / "acme--tiny" / f"{COMMIT}.partial"
    partial.mkdir(parents=True)
    (partial / "tiny.nemo.part").write_bytes(ARCHIVE + b"more")

    assert pull(fake, cache).read_bytes() == ARCHIVE


@pytest.mark.parametrize("name", ["tiny.nemo", "small.nemo"])
def test_changed_byte_is_found_and_nothing_is_kept(fake: FakeHub, cache: Path, name: str) -> None:
    content = ARCHIVE if name == "tiny.nemo" else b"a small file is a git blob"
    fake.files = {name: content}
    fake.faults = [Fault(flip_byte=len(content) // 2)]

    with pytest.raises(DownloadError, match="does not have the published checksum"):
        pull(fake, cache)
    assert set(kept(cache)) == {f"acme--tiny/{COMMIT}.lock"}
    assert pull(fake, cache).read_bytes() == content


def test_damaged_beginning_of_a_continued_file_is_fetched_again(fake: FakeHub, cache: Path) -> None:
    partial = cache / "acme--tiny" / f"{COMMIT}.partial"
    partial.mkdir(parents=True)
    (partial / "tiny.nemo.part").write_bytes(bytes(MIB))

    assert pull(fake, cache).read_bytes() == ARCHIVE
    assert [request.range for request in fake.contents] == [f"bytes={MIB}-", None]


def test_more_bytes_than_published_are_refused(fake: FakeHub, cache: Path) -> None:
    fake.faults = [Fault(extra=b"!")]

    with pytest.raises(DownloadError, match="more than"):
        pull(fake, cache)
    assert not list(cache.rglob("*.nemo"))


@pytest.mark.parametrize(
    "change",
    [
        {"sha": "main"},
        {"sha": "../../up"},
        {"sha": None},
        {"siblings": None},
        {"siblings": [{"rfilename": "tiny.nemo"}]},
        {"siblings": [{"rfilename": "tiny.nemo", "size": 5, "blobId": "short"}]},
        {"siblings": [{"rfilename": "tiny.nemo", "size": -5, "blobId": "0" * 40}]},
        {"siblings": [{"rfilename": "tiny.nemo", "lfs": {"size": 5}}]},
    ],
)
def test_listing_that_makes_no_sense_is_refused(
    fake: FakeHub, cache: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, object]
) -> None:
    listing = {**fake.listing(), **change}
    monkeypatch.setattr(fake, "listing", lambda: listing)

    with pytest.raises(DownloadError, match="does not answer like a model hub"):
        pull(fake, cache)
    assert not cache.exists()


def test_web_page_in_place_of_a_listing_is_refused(fake: FakeHub, cache: Path) -> None:
    fake.listing_faults = [Fault(extra=b"<html>log in</html>")]

    with pytest.raises(DownloadError, match="does not answer like a model hub"):
        pull(fake, cache)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_temporary_refusals_are_borne(fake: FakeHub, cache: Path, status: int) -> None:
    headers = (("Retry-After", "0"),)
    fake.listing_faults = [Fault(status=status, headers=headers)] * 2
    fake.faults = [Fault(status=status)] * 2

    assert pull(fake, cache).read_bytes() == ARCHIVE


@pytest.mark.parametrize("wait", ["nan", "-1", "Wed, 21 Oct 2026 07:28:00 GMT", ""])
def test_senseless_wishes_for_a_wait_are_ignored(fake: FakeHub, cache: Path, wait: str) -> None:
    fake.faults = [Fault(status=429, headers=(("Retry-After", wait),))]

    assert pull(fake, cache).read_bytes() == ARCHIVE


def test_retries_are_bounded(fake: FakeHub, cache: Path) -> None:
    fake.faults = [Fault(status=503)] * 100

    with pytest.raises(DownloadError, match="HTTP 503"):
        pull(fake, cache)
    assert len(fake.contents) == QUICK.attempts


def test_progress_restores_patience(fake: FakeHub, cache: Path) -> None:
    bad = [Fault(status=503)] * (QUICK.attempts - 1)
    fake.faults = [*bad, Fault(cut_after=MIB + 1), *bad[1:], Fault(cut_after=MIB + 1), *bad[1:]]

    assert pull(fake, cache).read_bytes() == ARCHIVE


def test_trickle_is_no_progress(fake: FakeHub, cache: Path) -> None:
    fake.faults = [Fault(cut_after=10)] * 100

    with pytest.raises(DownloadError, match=rf"ended after {10 * QUICK.attempts} of"):
        pull(fake, cache)


def test_silent_server_is_given_up(fake: FakeHub, cache: Path) -> None:
    hold = threading.Event()
    fake.faults = [Fault(cut_after=10, hold=hold)] * 2

    with pytest.raises(DownloadError, match="timed out"):
        pull(fake, cache, retry=Retry(attempts=2, wait_s=0.0, timeout_s=0.2))
    hold.set()


@pytest.mark.parametrize(
    ("status", "why"),
    [
        (401, "needs a valid access token"),
        (403, "needs a valid access token"),
        (404, "no such repository"),
        (451, "HTTP 451"),
    ],
)
def test_final_refusals_are_not_repeated(fake: FakeHub, cache: Path, status: int, why: str) -> None:
    fake.listing_faults = [Fault(status=status)] * 5

    with pytest.raises(DownloadError, match=why):
        pull(fake, cache)
    assert len(fake.requests) == 1


def test_unknown_revision_is_told(fake: FakeHub, cache: Path) -> None:
    with pytest.raises(DownloadError, match="no such revision"):
        pull(fake, cache, revision="v9")


def test_gated_repository_needs_a_token_which_goes_to_the_hub_alone(
    fake: FakeHub, cache: Path
) -> None:
    fake.gated = True
    with pytest.raises(DownloadError, match="gated: accept its terms"):
        pull(fake, cache)
    fake.requests.clear()

    assert pull(fake, cache, token=" good\n").read_bytes() == ARCHIVE
    sent = {request.origin: request.authorization for request in fake.requests}
    assert sent == {"hub": "Bearer good", "cdn": None}


@pytest.mark.parametrize("endpoint", ["file:///etc", "hub.example", "ftp://hub.example", ""])
def test_address_that_is_not_http_is_refused(fake: FakeHub, cache: Path, endpoint: str) -> None:
    with pytest.raises(DownloadError, match="does not begin with https://"):
        pull(fake, cache, endpoint=endpoint)


@pytest.mark.parametrize("endpoint", ["http://a b", "http://[", "http://:", "http://hub:port"])
def test_address_that_cannot_be_requested_is_a_download_error(
    fake: FakeHub, cache: Path, endpoint: str
) -> None:
    with pytest.raises(DownloadError):
        pull(fake, cache, endpoint=endpoint)


def test_hub_behind_a_path_is_reached(fake: FakeHub, cache: Path) -> None:
    with pytest.raises(DownloadError, match="no such repository"):
        pull(fake, cache, endpoint=f"{fake.url}/mirror/")
    assert fake.requests[0].path == "/mirror/api/models/acme/tiny/revision/main"


def test_fake_hub_speaks_as_the_official_client_expects(fake: FakeHub) -> None:
    huggingface_hub = pytest.importorskip("huggingface_hub")

    api = huggingface_hub.HfApi(endpoint=fake.url, token=False)
    info = api.model_info("acme/tiny", revision="main", files_metadata=True)

    assert info.sha == COMMIT
    assert {file.rfilename: file.size for file in info.siblings} == {
        "tiny.nemo": len(ARCHIVE),
        "README.md": 7,
    }
    (large,) = [file.lfs for file in info.siblings if file.lfs is not None]
    assert large.sha256 == hashlib.sha256(ARCHIVE).hexdigest()
    assert fake.requests[0].path == "/api/models/acme/tiny/revision/main"
