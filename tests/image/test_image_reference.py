from __future__ import annotations

import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tartlet.image.format.reference import BadImageName, ImageName, from_cache, is_digest, looks_remote, parse

HEX = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
DIGEST = f"sha256:{HEX}"

GRAMMAR = re.compile(
    r"[A-Za-z0-9]+(-[A-Za-z0-9]+)*(\.[A-Za-z0-9]+(-[A-Za-z0-9]+)*)*(:[0-9]+)?"
    r"(/([A-Za-z0-9]+[._-])*([A-Za-z0-9]+[._-]?))+"
    r"(:[A-Za-z0-9]+([._-][A-Za-z0-9]+)*|@sha256:[A-Za-z0-9]+)?"
)
"""An independent form of the specification's grammar."""


@pytest.mark.parametrize(
    ("text", "host", "namespace", "reference"),
    [
        ("ghcr.io/a/b:latest", "ghcr.io", "a/b", "latest"),
        ("ghcr.io/a/b:1.2.3-RC-1", "ghcr.io", "a/b", "1.2.3-RC-1"),
        (f"ghcr.io/a/b@{DIGEST}", "ghcr.io", "a/b", DIGEST),
        ("127.0.0.1:8080/a/b", "127.0.0.1:8080", "a/b", "latest"),
        ("ghcr.io/a", "ghcr.io", "a", "latest"),
        ("localhost/a", "localhost", "a", "latest"),
        ("foo/bar", "foo", "bar", "latest"),
        ("GHCR.io/Org/Repo:TAG", "GHCR.io", "Org/Repo", "TAG"),
        ("ghcr.io/a_b/c.d-e", "ghcr.io", "a_b/c.d-e", "latest"),
        ("ghcr.io/a-/b_", "ghcr.io", "a-/b_", "latest"),
        ("ghcr.io/a-/b_:1", "ghcr.io", "a-/b_", "1"),
        ("a-b.c:65535/n", "a-b.c:65535", "n", "latest"),
    ],
)
def test_a_good_name_is_taken_apart(text: str, host: str, namespace: str, reference: str) -> None:
    name = parse(text)
    assert (name.host, name.namespace, name.reference) == (host, namespace, reference)
    assert looks_remote(text)


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("touché.fr/a/b:latest", 6),
        ("ghcr.io/tou/ché:latest", 15),
        ("ghcr.io/a/b:touché", 18),
        ("debian:latest", 8),
        ("127.0.0.1:/a/b", 11),
        ("ghcr.io/a/../b/c:latest", 11),
        ("ghcr.io/a--b", 11),
        ("ghcr.io/a__b", 11),
        ("ghcr.io/-a", 9),
        ("gh_cr.io/a", 3),
        ("-ghcr.io/a", 1),
        ("ghcr-.io/a", 6),
        ("ghcr..io/a", 6),
        ("ghcr.io/", 9),
        ("ghcr.io//a", 9),
        ("ghcr.io/a/", 11),
        ("a", 2),
        ("", 1),
        ("ghcr.io/a:", 11),
        ("ghcr.io/a:_x", 11),
        ("ghcr.io/a:x-", 13),
        ("ghcr.io/a:x..y", 13),
        ("ghcr.io/a:b:c", 12),
        ("ghcr.io/a@sha512:abc", 11),
        ("ghcr.io/a@SHA256:ab", 11),
        ("ghcr.io/a@sha256:", 18),
        ("ghcr.io/a:t@sha256:ab", 12),
        ("[::1]:5000/a", 1),
        ("https://ghcr.io/a/b", 7),
        ("ghcr.io/a b", 10),
        ("ghcr.io/a\n", 10),
        ("ghcr.io/a:٣", 11),
        ("h:٣/a", 3),
    ],
)
def test_a_bad_name_is_refused_at_the_right_position(text: str, position: int) -> None:
    with pytest.raises(BadImageName) as refused:
        parse(text)
    assert refused.value.position == position
    assert f"position {position}" in str(refused.value)
    assert not looks_remote(text)


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("ghcr.io/a@sha256:ZZ", 18),
        (f"ghcr.io/a@sha256:{HEX[:63]}", 81),
        (f"ghcr.io/a@{DIGEST}0", 82),
        (f"ghcr.io/a@sha256:{HEX.upper()}", 18),
        ("host:99999999/a", 6),
        ("host:65536/a", 6),
    ],
)
def test_what_the_original_lets_through_is_remote_but_refused(text: str, position: int) -> None:
    assert looks_remote(text)
    with pytest.raises(BadImageName) as refused:
        parse(text)
    assert refused.value.position == position


def test_names_are_ordered_by_host_namespace_tags_then_digests() -> None:
    ordered = [parse(text) for text in ("a.b/z:9", "b.c/a:2", "b.c/a:3", f"b.c/a@{DIGEST}", "b.c/b:1")]
    shuffled = [ordered[place] for place in (3, 0, 4, 2, 1)]
    assert sorted(shuffled) == ordered
    assert ordered[0] < ordered[1] <= ordered[1]
    assert ordered[1] > ordered[0] >= ordered[0]


def test_a_name_is_a_value() -> None:
    name = parse("h/a")
    assert name == parse("h/a:latest")
    assert len({name, parse("h/a:latest"), name.at_digest(DIGEST)}) == 2
    assert name != "h/a:latest"
    with pytest.raises(AttributeError):
        name.tag = "other"
    with pytest.raises(ValueError, match="either"):
        ImageName("h", "a", tag="t", digest=DIGEST)


def test_the_cache_path_leads_back_to_the_name() -> None:
    for text in ("127.0.0.1:8080/a/b:tag", f"127.0.0.1:8080/a/b@{DIGEST}", "ghcr.io/x-:1"):
        name = parse(text)
        assert ":" not in name.cache_folder
        folder, _, entry = name.cache_path.rpartition("/")
        assert folder == name.cache_folder
        assert from_cache(folder, entry, is_link=name.tag is not None) == name
    assert parse("127.0.0.1:8080/a/b").cache_path == "127.0.0.1%3A8080/a/b/latest"


def test_digests_are_recognised() -> None:
    assert is_digest(DIGEST)
    assert not any(
        map(is_digest, ("", "sha256:", HEX, DIGEST.upper(), DIGEST[:-1], f"{DIGEST}0", f"sha256:../{HEX[3:]}"))
    )


@given(st.from_regex(GRAMMAR, fullmatch=True))
def test_whatever_the_grammar_makes_is_remote_and_prints_back(text: str) -> None:
    assert looks_remote(text)
    try:
        name = parse(text)
    except BadImageName:
        assert ":" in text  # a long port or a digest that is none
    else:
        assert parse(str(name)) == name
        assert str(name).startswith(text)


@given(st.text(alphabet="aZ0.-_/:@ é", max_size=24) | st.text(max_size=16))
def test_the_scanner_agrees_with_the_grammar(text: str) -> None:
    assert looks_remote(text) == (GRAMMAR.fullmatch(text) is not None)


def test_importing_it_brings_nothing_along() -> None:
    heavy = {"re", "dataclasses", "typing", "asyncio"}
    script = f"import tartlet.image.format.reference; print(*{heavy} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path.insert(0, 'src'); {script}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == ""
