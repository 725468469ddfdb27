from __future__ import annotations

import time
from contextlib import suppress

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tartlet.image.registry.challenge import BadChallenge, Challenge, parse_challenges, preferred
from tartlet.image.registry.pace import Pace, delay_before, read_retry_after
from tartlet.image.registry.tokens import BadToken, Token, TokenStore, read_token

DOCKER = (
    'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",'
    'scope="repository:samalba/my-app:pull,push"'
)


@pytest.mark.parametrize(
    ("header", "challenges"),
    [
        (
            DOCKER,
            [
                (
                    "bearer",
                    {
                        "realm": "https://auth.docker.io/token",
                        "service": "registry.docker.io",
                        "scope": "repository:samalba/my-app:pull,push",
                    },
                )
            ],
        ),
        ('Bearer a=b,c="d"', [("bearer", {"a": "b", "c": "d"})]),
        ('Bearer Realm = "x" , SERVICE="y"', [("bearer", {"realm": "x", "service": "y"})]),
        (r'Basic realm="say \"hi\", \\you"', [("basic", {"realm": r'say "hi", \you'})]),
        (
            'BASIC realm="r", Bearer realm="x",scope="a b=c"',
            [
                ("basic", {"realm": "r"}),
                ("bearer", {"realm": "x", "scope": "a b=c"}),
            ],
        ),
        ('Bearer realm="x", service = "y"', [("bearer", {"realm": "x", "service": "y"})]),
        ('Bearer realm="x",,', [("bearer", {"realm": "x"})]),
        ('Basic realm="a=="', [("basic", {"realm": "a=="})]),
    ],
)
def test_challenges_are_read(header: str, challenges: list[tuple[str, dict[str, str]]]) -> None:
    assert [(one.scheme, one.directives) for one in parse_challenges([header])] == challenges


@pytest.mark.parametrize("header", ["Whatever", "Bearer ", "Bearer whatever", "", "Bearer =x", 'Bearer a=""', "a=b"])
def test_malformed_challenges_are_refused(header: str) -> None:
    with pytest.raises(BadChallenge):
        preferred([header])


def test_a_token_is_preferred_to_a_password() -> None:
    assert preferred(['Basic realm="r"', DOCKER]).scope == "repository:samalba/my-app:pull,push"
    assert preferred(['Digest realm="d", Basic realm="r"']).scheme == "basic"
    assert preferred(['Bearer service="no realm"', 'Basic realm="r"']).scheme == "basic"
    for nothing in ([], ['Digest realm="d"'], ['Bearer service="x"']):
        with pytest.raises(BadChallenge):
            preferred(nothing)


@given(st.text(max_size=60) | st.from_regex(r'(Basic|Bearer) ([a-z]+="?[^"]{0,5}"?,? ?){0,4}'))
def test_no_header_makes_the_parser_stumble(header: str) -> None:
    with suppress(BadChallenge):
        assert preferred([header]).scheme in ("basic", "bearer")


@pytest.mark.parametrize(
    ("body", "text", "valid_for"),
    [
        (b'{"token":"some token"}', "some token", 60),
        (b'{"token":"some token","expires_in":2}', "some token", 2),
        (b'{"access_token":"x"}', "x", 60),
        (b'{"token":"t","access_token":"x"}', "t", 60),
        (b'{"token":"","access_token":"x"}', "x", 60),
        (b'{"token":"t","expires_in":"300"}', "t", 300),
        (b'{"token":"t","expires_in":"soon"}', "t", 60),
        (b'{"token":"t","expires_in":0}', "t", 60),
        (b'{"token":"t","expires_in":null,"issued_at":"rubbish"}', "t", 60),
        (b'{"token":"t","expires_in":100.5}', "t", 100.5),
        (b'{"token":"t","issued_at":"2099-01-01T00:00:00Z"}', "t", 60),
        (b'{"token":"t","expires_in":3600,"issued_at":"1970-01-01T00:00:00Z"}', "t", None),
    ],
)
def test_tokens_are_read(body: bytes, text: str, valid_for: float | None) -> None:
    token = read_token(body)
    assert token.text == text
    assert text not in repr(token)
    if valid_for is None:
        assert not token.is_valid()
        return
    assert token.is_valid()
    assert token.is_valid(token.received + valid_for * 0.8)
    assert not token.is_valid(token.received + valid_for)


@pytest.mark.parametrize(
    "body", [b"{}", b"", b"[]", b'"t"', b'{"token":1}', b'{"token":null}', b"\xff", b'{"token":""}']
)
def test_an_answer_without_a_token_is_refused(body: bytes) -> None:
    with pytest.raises(BadToken):
        read_token(body)


def test_the_age_of_a_token_counts_on_the_servers_clock() -> None:
    date = "Tue, 12 May 2026 10:00:00 GMT"
    body = b'{"token":"t","expires_in":300,"issued_at":"2026-05-12T09:59:00.123456789Z"}'
    token = read_token(body, server_date=date)
    assert token.life == pytest.approx(240, abs=1)
    dead = read_token(b'{"token":"t","expires_in":30,"issued_at":"2026-05-12T09:59:00Z"}', server_date=date)
    assert not dead.is_valid()
    assert read_token(b'{"token":"t"}', server_date="rubbish").is_valid()


@pytest.mark.anyio
async def test_tasks_share_one_request_for_a_token() -> None:
    store, fetched = TokenStore(), 0
    challenge = Challenge("bearer", {"realm": "r", "scope": "s"})

    async def fetch() -> Token:
        nonlocal fetched
        fetched += 1
        await anyio.sleep(0.02)
        return Token(f"t{fetched}", 60, time.monotonic())

    given_out: list[str] = []

    async def use(rejected: str | None = None) -> None:
        given_out.append((await store.get(challenge, fetch, rejected=rejected)).text)

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(use)
    assert given_out == ["t1"] * 5
    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(use, "t1")
    assert given_out[5:] == ["t2"] * 5
    other = Challenge("bearer", {"realm": "r", "scope": "other"})
    assert (await store.get(other, fetch)).text == "t3"


@pytest.mark.anyio
async def test_a_token_that_ended_is_fetched_again() -> None:
    store = TokenStore()
    lives = iter([0.05, 60.0])

    async def fetch() -> Token:
        life = next(lives)
        return Token(str(life), life, time.monotonic())

    challenge = Challenge("bearer", {"realm": "r"})
    assert (await store.get(challenge, fetch)).text == "0.05"
    await anyio.sleep(0.06)
    assert (await store.get(challenge, fetch)).text == "60.0"


@pytest.mark.parametrize(
    ("value", "seconds"), [("0", 0), ("7", 7), (" 12 ", 12), ("", None), (None, None), ("soon", None), ("-1", None)]
)
def test_retry_after_in_seconds(value: str | None, seconds: float | None) -> None:
    assert read_retry_after(value) == seconds


def test_retry_after_as_a_date() -> None:
    assert read_retry_after("Fri, 31 Dec 1999 23:59:59 GMT") == 0
    far = read_retry_after("Fri, 31 Dec 2100 23:59:59 GMT")
    assert far
    assert far > 10**8


def test_waiting_times_grow_and_have_a_bound() -> None:
    for retry in range(12):
        assert 0 <= delay_before(retry) <= min(20, 2**retry)
        assert 3 <= delay_before(retry, 3) <= 4
    assert max(delay_before(3) for _ in range(200)) > 4


@pytest.mark.anyio
async def test_failures_halve_the_transfers_and_successes_bring_them_back() -> None:
    pace = Pace(8)
    for expected in (4, 2, 1, 1):
        pace.failed()
        assert pace.at_once == expected
    for expected in (2, 2, 3, 3, 3, 4):
        pace.succeeded()
        assert pace.at_once == expected
    for _ in range(100):
        pace.succeeded()
    assert pace.at_once == 8


@pytest.mark.anyio
async def test_no_more_transfers_than_the_pace_allows() -> None:
    pace, now, most = Pace(2), 0, 0

    async def transfer() -> None:
        nonlocal now, most
        async with pace.slot():
            now += 1
            most = max(most, now)
            await anyio.sleep(0.01)
            now -= 1

    async with anyio.create_task_group() as tasks:
        for _ in range(6):
            tasks.start_soon(transfer)
    assert most == 2
