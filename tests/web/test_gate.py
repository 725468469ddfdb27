"""A link opens the page once, and only its cookie opens it from then on."""

from __future__ import annotations

import os
import socket

import pytest

from tartlet.web import gate
from tartlet.web.gate import Gate, Refusal, Session
from tartlet.web.peer import user_at


def nobody_asks() -> int | None:
    pytest.fail("the user was asked for")


def test_a_link_opens_once() -> None:
    ours = Gate()
    token = ours.new_token()
    session = ours.enter(token, nobody_asks)
    assert isinstance(session, Session)
    assert ours.enter(token, nobody_asks) is Refusal.USED
    assert ours.enter("", nobody_asks) is Refusal.USED
    assert ours.admits(session.path, session.cookie)


def test_a_session_wants_the_cookie_of_its_own_path() -> None:
    ours = Gate()
    one, other = (ours.enter(ours.new_token(), nobody_asks) for _ in range(2))
    assert isinstance(one, Session)
    assert isinstance(other, Session)
    for path, cookie in ((one.path, other.cookie), (one.path, None), (one.path, ""), (one.path, "ü"), ("", "")):
        assert not ours.admits(path, cookie)
    assert not Gate().admits(one.path, one.cookie), "another run's"


def test_a_link_gets_too_old() -> None:
    now = 0.0
    ours = Gate(lambda: now)
    old = ours.new_token()
    now = gate.LINK_LIFE - 1
    young = ours.new_token()
    now = gate.LINK_LIFE
    assert ours.enter(old, nobody_asks) is Refusal.USED
    assert isinstance(ours.enter(young, nobody_asks), Session)


@pytest.mark.parametrize(("user", "enters"), [(1000, True), (0, True), (1001, False), (None, False)])
def test_a_link_for_one_user_is_not_spent_by_another(user: int | None, enters: bool) -> None:
    ours = Gate()
    token = ours.new_token(only=1000)
    assert isinstance(ours.enter(token, lambda: user), Session) is enters
    assert isinstance(ours.enter(token, lambda: 1000), Session) is not enters


def test_the_user_behind_a_connection_is_known() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        assert user_at(client.getsockname(), server.getsockname()) == os.getuid()
        assert user_at(("127.0.0.1", 1), server.getsockname()) is None
