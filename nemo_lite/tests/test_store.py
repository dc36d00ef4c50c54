"""The cache: shared by several processes, on a disk that may be full."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nemo_lite.errors import DownloadError
from nemo_lite.hub import Progress
from nemo_lite.registry import REGISTRY, RemoteFile
from nemo_lite.tests.fake_hub import ARCHIVE, COMMIT, MIB, FakeHub, Fault, entry, pull
from nemo_lite.transfer import Retry, Stage


def test_threads_that_want_the_same_share_one_download(fake: FakeHub, cache: Path) -> None:
    hold = threading.Event()
    fake.faults = [Fault(cut_after=MIB, hold=hold)]
    stages: list[Stage] = []

    def note(progress: Progress) -> None:
        stages.append(progress.stage)
        if progress.stage is Stage.WAITING:
            hold.set()

    with ThreadPoolExecutor(4) as pool:
        paths = set(pool.map(lambda _: pull(fake, cache, progress=note), range(4)))

    assert len(paths) == len(fake.contents) == 1
    assert Stage.WAITING in stages
    assert paths.pop().read_bytes() == ARCHIVE


def test_processes_that_want_the_same_share_one_download(fake: FakeHub, cache: Path) -> None:
    hold = threading.Event()
    fake.faults = [Fault(cut_after=MIB, hold=hold)]
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from nemo_lite.hub import download\n"
        "report = lambda progress: print(progress.stage, flush=True)\n"
        "download('acme/tiny', endpoint=sys.argv[1], cache_dir=Path(sys.argv[2]), progress=report)"
    )
    command = [sys.executable, "-c", script, fake.url, str(cache)]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as one,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other,
    ):
        begun = {process.stdout.readline() for process in (one, other) if process.stdout}
        hold.set()
        for process in (one, other):
            process.communicate(timeout=60)

    assert begun == {"fetching\n", "waiting\n"}
    assert [one.returncode, other.returncode] == [0, 0]
    assert len(fake.contents) == 1
    assert pull(fake, cache, offline=True).read_bytes() == ARCHIVE


def test_download_that_another_process_holds_up_is_not_waited_for_without_end(
    fake: FakeHub, cache: Path
) -> None:
    hold = threading.Event()
    fake.faults = [Fault(cut_after=MIB, hold=hold)]
    begun = threading.Event()

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(pull, fake, cache, progress=lambda _: begun.set())
        assert begun.wait(20)
        with pytest.raises(DownloadError, match="got no further"):
            pull(fake, cache, retry=Retry(attempts=1, stall_s=0.3))
        hold.set()
        assert first.result().read_bytes() == ARCHIVE


def test_checkpoint_larger_than_the_disk_is_refused_before_it_is_fetched(
    fake: FakeHub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    huge = (RemoteFile("tiny.nemo", 10**18, "0" * 64),)
    monkeypatch.setitem(REGISTRY, "tiny", entry(fake, files=huge))  # type: ignore[arg-type]

    with pytest.raises(DownloadError, match="1,000,000,000,000,000,000 bytes are missing"):
        pull(fake, cache, "tiny")
    assert fake.requests == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_full_disk_is_a_download_error(fake: FakeHub, cache: Path) -> None:
    partial = cache / "acme--tiny" / f"{COMMIT}.partial"
    partial.mkdir(parents=True)
    (partial / "tiny.nemo.part").symlink_to("/dev/full")

    with pytest.raises(DownloadError, match=r"cannot be kept in .*: No space left on device"):
        pull(fake, cache)


def test_cache_that_cannot_be_written_is_a_download_error(fake: FakeHub, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()

    with pytest.raises(DownloadError, match=r"cannot be kept in .*: Not a directory"):
        pull(fake, file / "cache")


def test_what_is_there_is_found_without_writing(fake: FakeHub, cache: Path) -> None:
    path = pull(fake, cache, revision=COMMIT)
    lock = cache / "acme--tiny" / f"{COMMIT}.lock"
    lock.unlink()

    assert pull(fake, cache, revision=COMMIT) == path
    assert not lock.exists()
