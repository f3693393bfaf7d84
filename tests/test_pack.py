"""data.pack, data.cache and `python -m dist_ft.pack`: images decoded once, never a stale one."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from dist_ft.data import decoding, image_cache, pixel_file, transforms
from dist_ft.data.decoding import CorruptImage
from dist_ft.data.image_folder import scan
from dist_ft.data.pixel_file import PixelFile
from dist_ft.data.rank_batches import RankBatches
from dist_ft.data.transforms import InputSpec
from dist_ft.distributed.startup import World
from dist_ft.errors import UserError
from tests.conftest import ENVIRONMENT, run_job
from tests.images import make_folder

VIEWS = InputSpec(24, 28, False)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("pack"), train=[6, 5], test=[3, 4])


@pytest.fixture
def folder(pristine, tmp_path):
    shutil.copytree(pristine, tmp_path / "data")
    return scan(str(tmp_path / "data"))


@pytest.fixture(scope="module")
def world():
    world = World("cpu", 300)
    yield world
    world.close()


# Writes a pack; tells when it has begun, and goes on when it is told to.
NAMED = "os.O_TMPFILE = os.O_DIRECTORY;"  # which says of a folder what old file systems say
PACKING = """
import os, sys
import numpy as np
{}
from pathlib import Path
from dist_ft.data import pixel_file

def make(index):
    if index == 3:
        print("begun", flush=True)
        sys.stdin.readline()
    return np.full((200, 200, 3), index, np.uint8)

pixel_file.remove_abandoned(Path(sys.argv[1]).parent, ".*.pack.*")
pixel_file.write(Path(sys.argv[1]), "key", 5, make, 1)
"""
# A folder's packs in memory; the last of the test images takes for ever to read.
LENDING = """
import os, sys
from dist_ft.data import image_cache
from dist_ft.data.image_folder import scan
from dist_ft.data.transforms import InputSpec
from dist_ft.distributed.startup import World

folder = scan(sys.argv[1])
last = folder.test.root / folder.test.paths[-1]
last.unlink()
os.mkfifo(last)
said = lambda words: print(words, flush=True)
spec, world = InputSpec(24, 28, False), World("cpu", 300)
image_cache.open_cache(folder, spec, 28, "ram", folder.test.root, 2, world, said)
"""
can_be_pid_1 = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
needs_containers = pytest.mark.skipif(
    not shutil.which("unshare") or subprocess.run([*can_be_pid_1, "true"], stderr=-3).returncode,
    reason="no process may have a number of its own here (unshare)",
)


@pytest.fixture
def started():
    """Starts a Python program, and kills it in the end."""
    jobs = []

    def start(program, *words, prefix=()):
        command = [*prefix, sys.executable, "-c", program, *map(str, words)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        jobs.append(subprocess.Popen(command, env=ENVIRONMENT, **pipes))
        return jobs[-1]

    yield start
    for job in jobs:
        job.kill()
        job.communicate()


def goes_on(job):
    job.communicate("\n", timeout=60)
    return job.returncode == 0


def noise(index):
    return np.random.RandomState(index).randint(0, 256, (index % 5 + 1, 3, 3)).astype(np.uint8)


def obtain(folder, world, place, kept_in, side=28, said=None):
    said = [] if said is None else said
    return image_cache.open_cache(folder, VIEWS, side, place, kept_in, 2, world, said.append)


def epoch(folder, packs, num_workers=2):
    feed = RankBatches(folder, VIEWS, 0, 0, 1, num_workers, 1, packs)
    batches = list(feed.train(3, [slice(0, 4), slice(4, 11)])) + list(feed.test())
    feed.close()
    return [(batch.x.tobytes(), batch.labels.tolist(), batch.mask.tolist()) for batch in batches]


@pytest.mark.parametrize("num_workers", [1, 4])
def test_a_pack_gives_back_what_it_was_made_of(tmp_path, num_workers):
    pixel_file.write(tmp_path / "p", "key", 90, noise, num_workers)
    packed = PixelFile(tmp_path / "p", "key")
    assert len(packed) == 90
    for index in range(90):
        assert (packed.image(index).pixels() == noise(index)).all()


def test_a_pack_of_nothing_is_a_pack(tmp_path):
    pixel_file.write(tmp_path / "p", "key", 0, noise, 1)
    assert len(PixelFile(tmp_path / "p", "key")) == 0


def test_a_pack_of_another_key_is_refused(tmp_path):
    pixel_file.write(tmp_path / "p", "key", 3, noise, 1)
    with pytest.raises(ValueError, match="other images"):
        PixelFile(tmp_path / "p", "another")


def test_a_pack_that_is_cut_off_anywhere_is_refused(tmp_path):
    pixel_file.write(tmp_path / "p", "key", 3, noise, 1)
    whole = (tmp_path / "p").read_bytes()
    for length in range(len(whole)):
        (tmp_path / "p").write_bytes(whole[:length])
        with pytest.raises(ValueError):
            PixelFile(tmp_path / "p", "key")


def test_an_error_leaves_no_pack_and_nothing_beside_it(tmp_path):
    def broken(index):
        if index == 40:
            raise ZeroDivisionError
        return noise(index)

    with pytest.raises(ZeroDivisionError):
        pixel_file.write(tmp_path / "p", "key", 90, broken, 3)
    assert list(tmp_path.iterdir()) == []
    assert not any(thread.name.startswith("pack") for thread in threading.enumerate())


def test_memory_does_not_grow_with_the_pack(tmp_path):
    """Only a few images a worker wait for their turn to be written."""
    alive, most = [0], [0]

    class Made(np.ndarray):
        def __del__(self):
            alive[0] -= 1

    def make(index):
        alive[0] += 1
        most[0] = max(most[0], alive[0])
        return np.zeros((4, 4, 3), np.uint8).view(Made)

    pixel_file.write(tmp_path / "p", "key", 500, make, 2)
    assert 1 <= most[0] <= 2 * pixel_file.AHEAD + 4


@pytest.mark.parametrize("place", ["ram", "disk"])
def test_a_cached_epoch_is_the_uncached_one_where_no_image_is_larger_than_kept(
    folder, world, tmp_path, place
):
    """The pictures are PNG and JPEG of up to 50 px: a train view of them is decoded whole."""
    png = [index for index, path in enumerate(folder.train.paths) if path.endswith("png")]
    packs = obtain(folder, world, place, tmp_path / "kept", side=200)
    for index in png:
        assert (packs[0].image(index).pixels() == decoding.decode(folder.train.read(index))).all()
    assert epoch(folder, packs)[2:] == epoch(folder, None)[2:]  # the test batches, to the byte
    for (cached, *rest), (uncached, *others) in zip(epoch(folder, packs), epoch(folder, None)):
        difference = np.frombuffer(cached, np.uint8).astype(int) - np.frombuffer(uncached, np.uint8)
        assert abs(difference).mean() < 4  # chroma of the uncached JPEGs is repeated
        assert rest == others


def test_any_number_of_workers_gives_the_same_cached_epoch(folder, world, tmp_path):
    packs = obtain(folder, world, "disk", tmp_path)
    assert epoch(folder, packs, 1) == epoch(folder, packs, 4)


def test_a_larger_image_is_kept_with_the_side_that_was_asked_for(folder, world, tmp_path):
    train, _ = obtain(folder, world, "disk", tmp_path, side=28)
    for index in range(len(train)):
        kept, whole = train.image(index), decoding.open_image(folder.train.read(index))
        assert min(kept.height, kept.width) == 28
        assert kept.height / kept.width == pytest.approx(whole.height / whole.width, abs=0.05)


def test_a_kept_test_image_is_its_view(folder, world, tmp_path):
    _, test = obtain(folder, world, "disk", tmp_path)
    for index in range(len(test)):
        expected = transforms.center_crop(decoding.decode(folder.test.read(index)), *VIEWS)
        assert (test.image(index).pixels() == expected).all()


def test_an_unreadable_image_is_told_from_a_pack_as_from_its_file(folder, world, tmp_path):
    path = folder.train.root / folder.train.paths[4]
    path.write_bytes(path.read_bytes()[:100])
    train, _ = packs = obtain(folder, world, "disk", tmp_path / "kept")
    with pytest.raises(CorruptImage):
        train.image(4)
    for kept in (packs, None):
        feed = RankBatches(folder, VIEWS, 0, 0, 1, 2, 1, kept)
        (batch,) = feed.train(0, [slice(0, 11)])
        assert batch.num_images == 10
        assert list(feed.train_loader.unreadable) == [folder.train.paths[4]]
        feed.close()


def change_bytes(split):
    path = split.root / split.paths[2]
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 1))


def add_image(split):
    shutil.copy(split.root / split.paths[2], split.root / "class_a" / "zzz.jpg")


def take_image_away(split):
    (split.root / split.paths[2]).unlink()


@pytest.mark.parametrize("change", [change_bytes, add_image, take_image_away])
def test_a_stale_pack_is_noticed_and_replaced(folder, world, tmp_path, change):
    kept_in, said = tmp_path / "kept", []
    obtain(folder, world, "disk", kept_in, said=said)
    before = sorted(file.name for file in kept_in.iterdir())
    assert sum("decoding" in line for line in said) == 2
    obtain(folder, world, "disk", kept_in, said=said)
    assert sum("decoding" in line for line in said) == 2
    change(folder.train)
    changed = scan(str(folder.train.root.parent))
    train, _ = obtain(changed, world, "disk", kept_in, said=said)
    assert sum("decoding" in line for line in said) == 3
    assert sorted(file.name for file in kept_in.iterdir()) == before
    assert len(train) == len(changed.train)


def test_a_pack_that_was_cut_off_is_made_again(folder, world, tmp_path):
    obtain(folder, world, "disk", tmp_path / "kept")
    for file in (tmp_path / "kept").iterdir():
        file.write_bytes(file.read_bytes()[:-1])
    train, _ = obtain(folder, world, "disk", tmp_path / "kept")
    assert len(train) == len(folder.train)


def test_a_cache_in_memory_leaves_no_file_and_serves_on(folder, world, tmp_path):
    before = set(Path("/dev/shm").iterdir())
    train, _ = obtain(folder, world, "ram", tmp_path)
    assert set(Path("/dev/shm").iterdir()) == before
    assert list(tmp_path.glob("*.pack")) == []
    assert train.image(3).pixels().any()


def test_no_room_is_told_with_the_remedy(folder, world, tmp_path):
    """A limit on the size of files, as a quota sets one."""
    (tmp_path / "kept").mkdir()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9_000, before[1]))
    try:
        with pytest.raises(UserError, match="File too large.*--cache-dir"):
            obtain(folder, world, "disk", tmp_path / "kept")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert list((tmp_path / "kept").iterdir()) == []


def test_a_pack_is_mapped_and_not_read(tmp_path):
    """Opening a hundred megabytes takes no memory of their size."""
    pixel_file.write(tmp_path / "p", "key", 100, lambda _: np.ones((600, 600, 3), np.uint8), 1)
    before = psutil.Process().memory_info().rss
    packed = PixelFile(tmp_path / "p", "key")
    assert packed.num_bytes > 100e6
    assert psutil.Process().memory_info().rss - before < 20e6


def test_the_command_fills_the_cache_that_a_run_takes(folder, world, tmp_path):
    flags = ["--image-size", "24", "--resize", "28", "--cache-dir", str(tmp_path / "kept")]
    words = ["-m", "dist_ft.pack", str(folder.train.root.parent), *flags]
    ended = run_job(words, 60)
    assert ended.status == 0, ended.output
    assert ended.output.count(" MB") == 2
    said = []
    obtain(folder, world, "disk", tmp_path / "kept", said=said)
    assert not any("decoding" in line for line in said)
    assert run_job(words, 60).output.count("up to date") == 2


def test_the_command_names_a_folder_that_is_not_there():
    ended = run_job(["-m", "dist_ft.pack", "/nowhere"], 60)
    assert ended.status == 1
    assert "/nowhere: no such folder" in ended.output


@needs_containers
@pytest.mark.parametrize("named", ["", NAMED])
def test_processes_of_one_number_write_one_pack_at_once(tmp_path, started, named):
    """As those of two containers do, which are number 1 in each."""
    path = tmp_path / "it.pack"
    jobs = [started(PACKING.format(named), path, prefix=can_be_pid_1) for _ in range(2)]
    assert [job.stdout.readline() for job in jobs] == ["begun\n"] * 2
    assert len(list(tmp_path.iterdir())) == (2 if named else 0)
    assert goes_on(jobs[0])
    assert len(PixelFile(path, "key")) == 5
    assert goes_on(jobs[1])
    assert PixelFile(path, "key").image(4).pixels().min() == 4
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_a_process_that_is_killed_while_it_decodes_leaves_nothing_in_memory(
    folder, started, signum
):
    def lying():
        places = [one.path.name[:12] for one in image_cache.cache_files(folder, VIEWS, 28, Path())]
        return [file for place in places for file in Path("/dev/shm").glob(f"*{place}*")]

    job = started(LENDING, folder.train.root.parent)
    assert "train" in job.stdout.readline()
    assert "test" in job.stdout.readline()  # the training images lie there, whole
    assert lying() == []
    job.send_signal(signum)
    assert job.wait(60) == -signum
    assert lying() == []


def test_what_the_dead_have_left_in_memory_is_removed_and_what_the_living_lend_is_not(
    folder, world, tmp_path
):
    dead, lent = (
        Path("/dev/shm", f"dist_ft-{os.getpid()}{name}.{pixel_file.boot_id()}.test.pack")
        for name in ("dead", "lent")
    )
    with pixel_file.PixelFileWriter(lent) as unfinished:
        unfinished.fill("key", 3, noise, 1)
        unfinished.finish()
        dead.write_bytes(b"")
        try:
            obtain(folder, world, "ram", tmp_path)
            assert lent.exists() and not dead.exists()
        finally:
            lent.unlink()
            dead.unlink(missing_ok=True)


def test_a_pack_whose_writer_was_killed_is_removed_by_the_next_one(tmp_path, started):
    job = started(PACKING.format(NAMED), tmp_path / "it.pack")
    assert job.stdout.readline() == "begun\n"
    job.kill()
    job.wait()
    (left,) = tmp_path.iterdir()
    job = started(PACKING.format(""), tmp_path / "another.pack")
    assert goes_on(job)
    assert not left.exists()
    assert [file.name for file in tmp_path.iterdir()] == ["another.pack"]


def test_a_file_without_a_lock_is_another_hosts_for_a_day(tmp_path):
    """Whose locks may not be seen here."""
    file, folder = tmp_path / ".a.pack.far.1", tmp_path / ".b.pack.far.1"
    folder.mkdir()
    for place in (file, folder / "0.npy"):
        place.write_text("")
    os.utime(folder, (1, 1))
    pixel_file.remove_abandoned(tmp_path, ".*.pack.*")
    assert file.exists() and folder.exists()
    for place in (file, folder / "0.npy"):
        os.utime(place, (time.time() - 90_000,) * 2)
    pixel_file.remove_abandoned(tmp_path, ".*.pack.*")
    assert list(tmp_path.iterdir()) == []


def test_a_pack_may_be_read_by_whom_the_umask_lets(tmp_path, started):
    for name, named in (("a", ""), ("b", NAMED)):
        before = os.umask(0o027)
        job = started(PACKING.format(named), tmp_path / name)
        os.umask(before)
        assert goes_on(job)
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o640
