"""What `--dir` means: the original's grammar, and which folders go together."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tartlet.share.arguments import AUTOMOUNT_TAG, BadShare, Share, grouped, parse_share_option, synced

TAG = AUTOMOUNT_TAG
URL = "https://example.com/archive.tar.gz"


@pytest.mark.parametrize(
    ("value", "name", "path", "read_only", "tag"),
    [
        ("build:/Users/admin/build", "build", "/Users/admin/build", False, TAG),
        ("build:/Users/admin/build:ro", "build", "/Users/admin/build", True, TAG),
        ("/Users/admin/build", None, "/Users/admin/build", False, TAG),
        ("/Users/admin/build:ro", None, "/Users/admin/build", True, TAG),
        ("/Users/admin/build:tag=foo-bar", None, "/Users/admin/build", False, "foo-bar"),
        ("/Users/admin/build:ro,tag=foo-bar", None, "/Users/admin/build", True, "foo-bar"),
        ("/Users/admin/build:tag=foo-bar,ro", None, "/Users/admin/build", True, "foo-bar"),
        (URL, None, URL, False, TAG),
        (f"{URL}:ro,tag=sometag", None, URL, True, "sometag"),
        (f"somename:{URL}:ro,tag=sometag", "somename", URL, True, "sometag"),
        ("somename:http://example.com/a.tar", "somename", "http://example.com/a.tar", False, TAG),
        ("https://example.com:8443/a.tar", None, "https://example.com:8443/a.tar", False, TAG),
        ("a:/with:colon", "a", "/with:colon", False, TAG),
        ("a::/b:", "a", "/b", False, TAG),
        ("relative", None, "relative", False, TAG),
        ("~/x", None, "~/x", False, TAG),
        ("a:/b:ro,other,tag=t", "a", "/b", True, "t"),
        ("/a:tag=" + "t" * 36, None, "/a", False, "t" * 36),
    ],
)
def test_values(value: str, name: str | None, path: str, read_only: bool, tag: str) -> None:
    share = parse_share_option(value)
    assert share == Share(path=path, name=name, read_only=read_only, tag=tag)
    assert share.is_address == ("example.com" in path)


def test_copies_and_where_they_are_in_the_guest() -> None:
    values = ["/a/src:sync", "x:/b:sync,ro", "/c:sync,tag=code", "/d:tag=other", "src:/e:ro,sync", "y:./sync:sync"]
    assert [(copy.path, copy.guest_path, copy.read_only) for copy in synced(values)] == [
        ("/e", "/mnt/shared/src", True),
        ("/b", "/mnt/shared/x", True),
        ("/c", "/mnt/code/c", False),
        (os.path.abspath("sync"), "/mnt/shared/y", False),
    ]
    assert [group.tag for group in grouped(values)] == ["other"]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (["/a:sync", "/b"], "is to be copied to where the shared folders with the tag"),
        (["/a:sync,tag=t", "/b:tag=t"], "with the tag 't'"),
        (["/:sync"], "/ needs a name"),
        (["/a:sync,tag=t/u"], "cannot be a folder"),
        (["/a:sync,tag=.."], "cannot be a folder"),
        ([f"{URL}:sync"], "is a copy already"),
    ],
)
def test_copies_that_cannot_be(values: list[str], told: str) -> None:
    with pytest.raises(BadShare, match=told):
        synced(values)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("", "names no folder"),
        ("::", "names no folder"),
        ("ro", "names no folder"),
        (":ro,tag=x", "names no folder"),
        ("a/b:/c", "'a/b', characters 1 to 3, is no name"),
        ("..:/c", "'..', characters 1 to 2, is no name"),
        ("/a:ro,tag=", "the tag at character 11 is empty"),
        ("/a:tag=" + "ä" * 19, "the tag at character 8 is longer than 36 bytes"),
    ],
)
def test_mistakes_are_told_with_their_place(value: str, told: str) -> None:
    with pytest.raises(BadShare, match=told):
        parse_share_option(value)


@given(st.text())
def test_any_text_is_a_share_or_a_mistake(value: str) -> None:
    try:
        share = parse_share_option(value)
    except BadShare:
        return
    assert share.path
    assert share.name is None or "/" not in share.name


def test_folders_come_together_by_tag() -> None:
    one, two, other = grouped(["a:/1", "/3:tag=alone", "b:/2:ro", "/4:tag=other"])
    assert (one.tag, [(share.name, share.path, share.read_only) for share in one.shares]) == (
        TAG,
        [("a", "/1", False), ("b", "/2", True)],
    )
    assert [two.tag, other.tag] == ["alone", "other"]
    assert [share.name for share in two.shares] == [None]


def test_of_folders_with_one_name_the_last_one_wins() -> None:
    (group,) = grouped(["a:/1", "b:/2", "a:/3:ro"])
    assert [(share.name, share.path) for share in group.shares] == [("a", "/3"), ("b", "/2")]


@pytest.mark.parametrize("values", [["/1", "/2"], ["a:/1", "/2"], ["/1", "a:/2"], ["/1:tag=x", "a:/2:tag=x"]])
def test_folders_with_one_tag_need_names(values: list[str]) -> None:
    with pytest.raises(BadShare, match="needs a name"):
        grouped(values)
