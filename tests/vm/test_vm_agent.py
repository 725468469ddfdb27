"""Our own agent in a whole guest, which `create --from-distro` put there: what it outlives, and that it is chosen."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

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
        until(lambda: abs(int(suspended_debian.sh("date +%s", "debian")) - time.time()) < 2, "the right time")


IDENTITY = "hostname; cat /etc/hostname /etc/machine-id; awk '{print $2}' /etc/ssh/ssh_host_*.pub"


def test_a_clone_becomes_a_machine_of_its_own_and_nothing_else_does(suspended_debian: Lab) -> None:
    lab = suspended_debian
    lab.done("clone", "debian", "My Copy")
    lab.done("rename", "debian", "renamed")
    with lab.running("renamed"):
        own = lab.sh(IDENTITY, "renamed").split()
        assert own[:2] == ["debian", "debian"]
        sent = lab.tart("cp", "renamed:/etc/ssh/ssh_host_ed25519_key.pub", str(lab.home / "key"))
        assert sent.code == 0
        assert own[-1] in (lab.home / "key").read_text()
        port = unused_port(lab)
        with lab.started("port-forward", "renamed", f"{port}:22") as forward:
            assert forward.stdout
            assert forward.stdout.readline() == f"127.0.0.1:{port} -> renamed:22\n"
            assert lab.network.run("bash", "-c", f"head -c 8 < /dev/tcp/127.0.0.1/{port}").stdout == "SSH-2.0-"
            lab.done("stop", "renamed")
            assert forward.wait(20) == 0
    with lab.running("My Copy"):
        copied = lab.sh(IDENTITY, "My Copy").split()
        assert copied[:2] == ["my-copy", "my-copy"]
        assert len(copied) == len(own)
        assert not set(copied) & set(own)
        until(lambda: lab.sh("systemctl is-active ssh || true", "My Copy") == "active", "the SSH server")
        assert lab.sh("sudo -n true; getent hosts my-copy; systemctl --failed --no-legend", "My Copy").split()[1:] == (
            ["my-copy"]
        )


def unused_port(lab: Lab) -> int:
    script = "import socket; s = socket.socket(); s.bind(('127.0.0.1', 0)); print(s.getsockname()[1])"
    return int(lab.network.run(sys.executable, "-c", script).stdout)


def test_the_root_grows_when_the_disk_does(debian: Lab) -> None:
    def size() -> int:
        return int(debian.sh("df --output=size --block-size=1M / | tail -1", "debian"))

    assert 10_000 < size() < 12_000, "it has grown when the guest started"
    debian.done("set", "debian", "--disk-size", "15")
    until(lambda: size() > 13_000, "the root to grow", within=60)
    assert "grew from" in debian.done("exec", "--user", "root", "debian", "journalctl", "--unit", "tart-agent")
    assert "No errors detected" in debian.sh("sudo sfdisk --verify /dev/vda", "debian")


STATUS = "dpkg-query -W -f '${db:Status-Abbrev}' tart-agent || true"


@pytest.fixture(scope="module")
def bereft_home(tmp_path_factory: pytest.TempPathFactory, suspended_debian_home: Lab) -> Lab:
    """`debian` without our agent, suspended. Never to be changed: copy it."""
    lab = suspended_debian_home.copied(tmp_path_factory.mktemp("bereft") / "home")
    with lab.running("debian"):
        assert lab.sh(STATUS, "debian") == "ii"
        said = lab.done(
            "exec", "--user", "root", "debian", "dpkg", "--purge", "tart-agent"
        )  # it goes on until dpkg ends
        assert "Removing tart-agent" in said
        assert "Purging" in said
        until(lambda: "QEMU guest agent" in lab.tart("exec", "--user", "bin", "debian", "true").err, "the other agent")
        lab.done("suspend", "debian")
        lab.done("wait", "debian", timeout=120)
    return lab


@pytest.fixture
def bereft(bereft_home: Lab, tmp_path: Path) -> Generator[Lab]:
    """A home of the test's own in which `debian` runs without our agent."""
    lab = bereft_home.copied(tmp_path / "home")
    with lab.running("debian"):
        yield lab


def test_without_it_the_other_agent_does_what_it_can_and_lets_ours_in(bereft: Lab) -> None:
    assert bereft.sh("ls -d /var/lib/tart-agent /usr/sbin/tart-agent || true; pgrep tart-agent || true", "debian") == ""
    assert bereft.sh("id -un", "debian") == "admin"
    assert bereft.tart("exec", "-t", "debian", "true").err.splitlines()[1].endswith("puts it there")
    assert "own does not run in it" in bereft.done("doctor", "debian")
    assert bereft.done("agent", "install", "debian", timeout=120) == 'Tartlet\'s agent answers in VM "debian"\n'
    assert bereft.done("exec", "-t", "debian", "stty", "size") == "24 80\r\n"
    assert "through Tartlet's own agent" in bereft.done("doctor", "debian")
    assert bereft.sh(STATUS, "debian") == "ii"
    before = bereft.sh("pgrep -f tart-agent", "debian")
    bereft.done("agent", "install", "debian", timeout=120)  # through itself
    assert bereft.sh("pgrep -f tart-agent", "debian") != before
    assert bereft.sh("dpkg --audit; systemctl --failed --no-legend; " + STATUS, "debian") == "ii"


def test_a_guest_whose_packages_are_not_to_be_touched_gets_files(bereft: Lab) -> None:
    bereft.done("exec", "--user", "root", "debian", "chmod", "-x", "/usr/bin/dpkg-query")
    bereft.done("agent", "install", "debian", timeout=120)
    before = bereft.sh("pgrep -f tart-agent", "debian")
    bereft.done("agent", "install", "debian", timeout=120)  # through itself
    assert bereft.sh("pgrep -f tart-agent", "debian") != before
    bereft.done("exec", "--user", "root", "debian", "chmod", "+x", "/usr/bin/dpkg-query")
    assert bereft.done("exec", "-t", "debian", "stty", "size") == "24 80\r\n"
    assert bereft.sh("readlink -e /usr/local/sbin/tart-agent; " + STATUS, "debian") == "/usr/local/sbin/tart-agent"
    bereft.done("agent", "install", "debian", timeout=120)  # the package takes the place of the files
    assert bereft.done("exec", "-t", "debian", "stty", "size") == "24 80\r\n"
    assert (
        bereft.sh("ls /usr/local/sbin/tart-agent /etc/udev/rules.d/60-tart-agent.rules || true; " + STATUS, "debian")
        == "ii"
    )


def test_it_gets_in_by_ssh_too(bereft: Lab) -> None:
    key = bereft.home / "ssh-key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    bereft.done("exec", "debian", "mkdir", "-p", "-m", "700", ".ssh")
    bereft.done("cp", f"{key}.pub", "debian:.ssh/authorized_keys")
    agent = f'eval "$(ssh-agent)" > /dev/null && trap "ssh-agent -k > /dev/null" EXIT && ssh-add -q {key}'
    done = subprocess.run(
        bereft.network.words("sh", "-c", f"{agent} && {TART} agent install --ssh admin debian"),
        capture_output=True, text=True, timeout=150, check=False, env=surroundings(bereft.home),
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert bereft.done("exec", "-t", "debian", "stty", "size") == "24 80\r\n"
