"""Our own agent in a whole guest, which `create --from-distro` put there: what it outlives, and that it is chosen."""

from __future__ import annotations

import subprocess
import time

import pytest

from command import TART, surroundings
from vm_lab import Lab, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def unit(lab: Lab, *words: str) -> None:
    lab.done("exec", "--user", "root", "--detach", "debian", "systemctl", *words)


def test_it_is_the_one_that_answers_and_can_do_everything(debian: Lab) -> None:
    assert debian.done("exec", "-t", "debian", "stty", "size") == "24 80\r\n"
    assert debian.sh("id -un; id -Gn; echo $HOME; pwd", "debian").split() == (
        ["admin", "admin", "adm", "sudo", "/home/admin", "/home/admin"]
    )
    words = ["--env", "GREETING=a b", "--workdir", "/var/log", "--user", "root"]
    said = debian.done("exec", *words, "debian", "sh", "-c", 'pwd; id -un; echo "$GREETING"')
    assert said == "/var/log\nroot\na b\n"
    assert debian.tart("exec", "--timeout", "1", "debian", "sleep", "7660").code == 124
    assert debian.tart("exec", "debian", "pgrep", "-f", "^sleep 7660").code == 1
    assert debian.done("ip", "debian", "--resolver=agent").strip() == debian.sh("hostname -I", "debian").split()[0]


def test_input_streams(debian: Lab) -> None:
    with subprocess.Popen(
        debian.network.words(TART, "exec", "-i", "debian", "cat"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=surroundings(debian.home),
    ) as process:
        assert process.stdin
        assert process.stdout
        for word in (b"one\n", b"two\n"):  # the answer comes before the input ends
            process.stdin.write(word)
            process.stdin.flush()
            assert process.stdout.readline() == word
        process.stdin.close()
        assert process.wait(30) == 0


def test_it_outlives_its_own_restart_and_so_do_detached_commands(debian: Lab) -> None:
    debian.done("exec", "--detach", "debian", "sleep", "7661")
    with debian.started("exec", "debian", "sleep", "7662") as waiting:
        until(lambda: debian.tart("exec", "debian", "pgrep", "-f", "^sleep 7662").code == 0, "the command")
        before = debian.sh("pgrep -f tart-agent", "debian")
        unit(debian, "restart", "tart-agent")
        assert waiting.wait(30) == 1
        assert waiting.stdout
        assert "the guest agent has" in waiting.stdout.read()
    assert debian.sh("pgrep -f tart-agent", "debian") != before
    assert debian.tart("exec", "debian", "pgrep", "-f", "^sleep 7661").code == 0
    assert debian.tart("exec", "debian", "pgrep", "-f", "^sleep 7662").code == 1


def test_it_outlives_a_suspension_and_the_time_is_right_after_it(suspended_debian: Lab) -> None:
    time.sleep(3)
    with suspended_debian.running("debian"):
        assert suspended_debian.done("exec", "-t", "debian", "stty", "size") == "24 80\r\n"
        until(lambda: abs(int(suspended_debian.sh("date +%s", "debian")) - time.time()) < 2, "the right time", within=5)


def test_without_it_the_other_agent_takes_over_with_what_it_can(debian: Lab) -> None:
    unit(debian, "stop", "tart-agent")
    try:
        until(lambda: "QEMU guest agent" in debian.tart("exec", "--user", "bin", "debian", "true").err, "the other")
        assert debian.sh("id -un", "debian") == "admin"
    finally:
        debian.done("exec", "--user", "root", "debian", "systemctl", "start", "tart-agent")
    until(lambda: debian.tart("exec", "-t", "debian", "true").code == 0, "our own agent")
