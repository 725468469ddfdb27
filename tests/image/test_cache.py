from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from cached_images import digest, fill, home_in, name, put
from killed import deaths
from tartlet.host import access_time
from tartlet.host.locks import file_lock
from tartlet.host.paths import Home
from tartlet.host.scratch import scratch_folder
from tartlet.image.cache.cache import MARK, ImageCache
from tartlet.image.cache.cached_image import ImageInUse, ImageMissing

TAG = "127.0.0.1:5000/org/vm:one"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return home_in(tmp_path)


@pytest.fixture
def cache(home: Home) -> ImageCache:
    return ImageCache(home)


def names(cache: ImageCache) -> list[str]:
    return [str(one.name) for one in cache.names()]


def test_an_image_stands_where_the_original_has_it(cache: ImageCache, home: Home) -> None:
    image = put(cache, TAG, 1)
    folder = home.cache / "OCIs" / "127.0.0.1%3A5000" / "org" / "vm"
    assert image.path == folder / digest(1)
    assert os.readlink(folder / "one") == str(image.path)
    assert sorted(os.listdir(image.path)) == ["config.json", "disk.img", "nvram.bin"]
    assert os.listdir(home.tmp) == []
    assert cache.find(name(TAG)) == cache.find(name(f"127.0.0.1:5000/org/vm@{digest(1)}")) == image
    assert names(cache) == [TAG, f"127.0.0.1:5000/org/vm@{digest(1)}"]


def test_what_is_not_there_is_missing(cache: ImageCache) -> None:
    for missing in (TAG, f"a/b@{digest(1)}"):
        with pytest.raises(ImageMissing, match="does not exist") as error:
            cache.find(name(missing))
        assert error.value.exit_code == 2
        with pytest.raises(ImageMissing):
            cache.delete(name(missing))
    assert names(cache) == []


def test_an_old_image_goes_when_its_tag_moves(cache: ImageCache) -> None:
    put(cache, TAG, 1)
    put(cache, TAG, 2)
    assert names(cache) == [TAG, f"127.0.0.1:5000/org/vm@{digest(2)}"]


def test_it_stays_for_another_tag_or_a_mark(cache: ImageCache) -> None:
    put(cache, TAG, 1)
    assert cache.link(name("127.0.0.1:5000/org/vm:two"), digest(1))
    put(cache, TAG, 2)
    assert cache.link(name(f"127.0.0.1:5000/org/vm@{digest(2)}"), digest(2))
    put(cache, TAG, 3)
    assert [image.digest for image in cache.images()] == sorted([digest(1), digest(2), digest(3)])
    assert (cache.find(name(f"127.0.0.1:5000/org/vm@{digest(2)}")).path / MARK).exists()
    cache.delete(name("127.0.0.1:5000/org/vm:two"))
    assert digest(1) not in {image.digest for image in cache.images()}


def test_what_is_not_here_cannot_be_linked(cache: ImageCache) -> None:
    assert cache.link(name(TAG), digest(1)) is None
    assert not os.path.lexists(cache.path(name(TAG)))


def test_deleting_a_digest_takes_its_tags_along(cache: ImageCache) -> None:
    put(cache, TAG, 1)
    cache.delete(name(f"127.0.0.1:5000/org/vm@{digest(1)}"))
    assert names(cache) == []
    assert not os.path.lexists(cache.path(name(TAG)))


def test_nothing_is_removed_while_somebody_reads_it(cache: ImageCache) -> None:
    image = put(cache, TAG, 1)
    with cache.using(image), pytest.raises(ImageInUse):
        cache.remove(image)
    with cache.using(image):
        put(cache, TAG, 2)
        assert image.disk_path.exists()
    assert cache.collect() == [image.name]
    with pytest.raises(ImageMissing), cache.using(image):
        pytest.fail("it is gone")


def test_an_image_that_comes_twice_stays_the_first(cache: ImageCache, home: Home) -> None:
    first = put(cache, TAG, 1, b"first")
    put(cache, "127.0.0.1:5000/org/vm:two", 1, b"second")
    assert first.disk_path.read_bytes() == b"first"
    assert os.listdir(home.tmp) == []


def test_what_an_image_left_is_replaced_and_collected(cache: ImageCache) -> None:
    image = put(cache, TAG, 1)
    image.disk_path.unlink()
    assert cache.cached(name(TAG)) is None
    put(cache, TAG, 1)
    assert cache.cached(name(TAG)) == image
    cache.path(name(TAG)).unlink()
    image.disk_path.unlink()
    cache.collect()
    assert not image.path.exists()


def test_a_moved_home_and_relative_links_are_understood(tmp_path: Path) -> None:
    put(ImageCache(home_in(tmp_path)), TAG, 1)
    (tmp_path / "home").rename(tmp_path / "moved")
    cache = ImageCache(Home(tmp_path / "moved"))
    assert cache.collect() == []
    image = cache.find(name(TAG))
    cache.path(name(TAG)).unlink()
    cache.path(name(TAG)).symlink_to(digest(1))
    assert cache.find(name(TAG)) == image
    assert cache.collect() == []
    cache.link(name(TAG), digest(1))
    assert os.readlink(cache.path(name(TAG))) == str(image.path)


def test_foreign_things_are_left_alone(cache: ImageCache) -> None:
    image = put(cache, TAG, 1)
    strange = image.path.parent / "sha256:xyz"
    strange.mkdir()
    (cache.root / "file").write_text("")
    (image.path.parent / "-no-tag").symlink_to(image.path)
    cache.collect()
    assert names(cache) == [TAG, f"127.0.0.1:5000/org/vm@{digest(1)}"]
    assert strange.exists()


def test_looking_changes_no_access_date_and_opening_does(cache: ImageCache) -> None:
    image = put(cache, TAG, 1)
    access_time.mark(image.path, 1_000_000_000)
    cache.names()
    cache.find(name(TAG))
    cache.collect()
    with cache.using(image):
        assert access_time.of(image.path) == 1_000_000_000
    cache.open(name(TAG))
    assert access_time.of(image.path) > 1_700_000_000


def test_a_cache_behind_a_link_works(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "cache").symlink_to(tmp_path / "elsewhere")
    cache = ImageCache(home_in(tmp_path))
    put(cache, TAG, 1)
    assert (tmp_path / "elsewhere" / "OCIs").exists()
    cache.delete(name(TAG))
    assert names(cache) == []


def test_whoever_else_changes_the_cache_is_waited_for(cache: ImageCache) -> None:
    put(cache, TAG, 1)
    start, go = os.pipe()
    child = os.fork()  # before the lock is taken: a child would inherit it
    if child == 0:
        os.read(start, 1)
        cache.delete(name(TAG))
        os._exit(0)
    with file_lock(cache.root):
        os.write(go, b"!")
        time.sleep(0.1)
        assert os.waitpid(child, os.WNOHANG) == (0, 0)
        assert cache.find(name(TAG))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert names(cache) == []
    os.close(start)
    os.close(go)


def test_killed_at_any_point_installing_leaves_the_old_image_or_the_new(tmp_path: Path) -> None:
    new, second = name(TAG), digest(2)

    def work() -> None:
        cache = ImageCache(Home(tmp_path / "home"))
        with scratch_folder(cache.work_folders()) as folder:
            fill(folder)
            cache.install(folder, new, second)

    def fresh() -> None:
        shutil.rmtree(tmp_path / "home", ignore_errors=True)
        put(ImageCache(home_in(tmp_path)), TAG, 1)

    fresh()
    for point in deaths(work):
        cache = ImageCache(Home(tmp_path / "home"))
        tag = cache.find(name(TAG)).digest
        assert tag in (digest(1), digest(2)), f"the tag leads nowhere after point {point}"
        cache.collect()
        assert names(cache) == [TAG, f"127.0.0.1:5000/org/vm@{tag}"], f"left-overs after point {point}"
        folder = cache.path(name(TAG)).parent
        assert set(os.listdir(folder)) == {"one", tag}, f"left-overs after point {point}"
        fresh()


def test_killed_at_any_point_deleting_leaves_it_whole_or_gone(tmp_path: Path) -> None:
    def fresh() -> None:
        shutil.rmtree(tmp_path / "home", ignore_errors=True)
        put(ImageCache(home_in(tmp_path)), TAG, 1)

    fresh()
    by_digest = name(f"127.0.0.1:5000/org/vm@{digest(1)}")
    for point in deaths(lambda: ImageCache(Home(tmp_path / "home")).delete(by_digest)):
        cache = ImageCache(Home(tmp_path / "home"))
        left = cache.cached(by_digest)
        assert left is None or left.disk_path.exists()
        cache.collect()
        assert len(names(cache)) == (2 if left else 0), f"left-overs after point {point}"
        fresh()
