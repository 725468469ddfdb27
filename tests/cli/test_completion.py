"""Completion, in the shells themselves: what is offered for a half-written line."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from command import TART, surroundings, tart

Complete = Callable[[str], list[str]]

NAMES = ["alpha", "beta", "ghcr.io:x:1", "with space"]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with VMs of awkward names; `beta` runs."""
    home = tmp_path / "home"
    for name in NAMES:
        folder = home / "vms" / name
        folder.mkdir(parents=True)
        for file in ("config.json", "disk.img", "nvram.bin"):
            (folder / file).write_text("{}")
    return home


@pytest.fixture
def surroundings_with_tart(home: Path, tmp_path: Path) -> dict[str, str]:
    """An environment whose PATH leads to the command under test, in a folder with something to complete."""
    work = tmp_path / "work"
    (work / "folder").mkdir(parents=True)
    (work / "file.img").write_text("")
    (work / "two words.img").write_text("")
    environment = surroundings(home)
    return environment | {"PATH": f"{TART.parent}:{environment['PATH']}", "PWD": str(work), "HOME": str(tmp_path)}


def shell_or_skip(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def run(words: list[str], environment: dict[str, str]) -> list[str]:
    done = subprocess.run(
        words, capture_output=True, text=True, check=True, env=environment, cwd=environment["PWD"], timeout=60
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


BASH = """
eval "$(tart --generate-completion-script bash)"
compopt() { :; }  # only allowed while readline completes
COMP_LINE=$1
COMP_POINT=${#COMP_LINE}
COMP_WORDS=("${@:2}")
COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 ))
_tart_complete tart
(( ${#COMPREPLY[@]} )) && printf '%s\\n' "${COMPREPLY[@]}"
exit 0
"""


def bash_words(line: str) -> list[str]:
    """The words as bash cuts them: at blanks, and around each `:` and `=`."""
    words: list[str] = []
    for piece in line.split(" "):
        word = ""
        for character in piece:
            if character in ":=":
                words += [word] if word else []
                words.append(character)
                word = ""
            else:
                word += character
        if word or not piece:
            words.append(word)
    return words


@pytest.fixture
def in_bash(surroundings_with_tart: dict[str, str]) -> Complete:
    shell = shell_or_skip("bash")
    return lambda line: run([shell, "--norc", "-c", BASH, "bash", line, *bash_words(line)], surroundings_with_tart)


FISH = """
tart --generate-completion-script fish | source
complete -C $argv[1]
"""


@pytest.fixture
def in_fish(surroundings_with_tart: dict[str, str]) -> Complete:
    shell = shell_or_skip("fish")

    def complete(line: str) -> list[str]:
        lines = run([shell, "--no-config", "-c", FISH, line], surroundings_with_tart)
        return [each.split("\t")[0] for each in lines]

    return complete


ZSH = r"""
zmodload zsh/zpty
zpty shell 'zsh -f -i'
say() { zpty -w shell "$1" }
say "PS1= PS2= RPS1= ; unsetopt zle_bracketed_paste 2>/dev/null; autoload -Uz compinit; compinit -u -d $2/dump"
say 'eval "$(tart --generate-completion-script zsh)"'
# Instead of a menu, each candidate is written to a file as compadd gets it.
say 'compadd() { builtin compadd -O found "$@" 2>/dev/null; print -rl -- $found >> '$2'/found; builtin compadd "$@" }'
say 'done_completing() { zle complete-word; print -r -- "$BUFFER" > '$2'/buffer; exit }; zle -N done_completing'
say 'bindkey "^T" done_completing; print ready > '$2'/ready'
repeat 200; do [[ -e $2/ready ]] && break; sleep 0.05; done
zpty -w -n shell "$1"$'\x14'
repeat 200; do [[ -e $2/buffer ]] && break; sleep 0.05; done
zpty -d shell
"""


@pytest.fixture
def in_zsh(surroundings_with_tart: dict[str, str], tmp_path: Path) -> Complete:
    shell = shell_or_skip("zsh")

    def complete(line: str) -> list[str]:
        notes = Path(tempfile.mkdtemp(dir=tmp_path))
        run([shell, "-f", "-c", ZSH, "zsh", line, str(notes)], surroundings_with_tart | {"TERM": "dumb"})
        found = (notes / "found").read_text().splitlines() if (notes / "found").exists() else []
        return sorted({name for name in found if name})

    return complete


@pytest.fixture(params=["bash", "zsh", "fish"])
def complete(request: pytest.FixtureRequest) -> Complete:
    """Any of the shells."""
    chosen: Complete = request.getfixturevalue(f"in_{request.param}")
    return chosen


def unquoted(candidates: list[str]) -> list[str]:
    return sorted(word for candidate in candidates for word in shlex.split(candidate))


def test_verbs(complete: Complete) -> None:
    assert complete("tart re") == ["rename"]
    assert "rename" in complete("tart ")


def test_names_of_local_vms(complete: Complete) -> None:
    assert complete("tart get al") == ["alpha"]


def test_options(complete: Complete) -> None:
    assert complete("tart stop --ti") == ["--timeout"]


def test_fixed_words(complete: Complete) -> None:
    assert sorted(complete("tart list --format ")) == ["json", "text"]


def test_files(complete: Complete) -> None:
    assert complete("tart set alpha --disk fi") == ["file.img"]


def test_nothing_for_a_new_name(complete: Complete) -> None:
    assert complete("tart rename alpha al") == []


def test_nothing_for_a_line_that_makes_no_sense(complete: Complete) -> None:
    assert complete("tart nope al") == []


def test_only_running_vms_can_be_stopped(complete: Complete, home: Path) -> None:
    assert complete("tart stop ") == []
    hold = "import fcntl, sys; f = open(sys.argv[1], 'r+'); fcntl.lockf(f, fcntl.LOCK_EX); print(flush=True); input()"
    config = home / "vms" / "beta" / "config.json"
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(config)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        holder.stdout.readline()
        offered = complete("tart stop ")
        holder.stdin.write(b"\n")
        holder.stdin.close()
    assert offered == ["beta"]


def test_a_name_with_colons_in_bash_goes_on_after_the_last(in_bash: Complete) -> None:
    assert in_bash("tart get gh") == ["ghcr.io:x:1"]
    assert in_bash("tart get ghcr.io:") == ["x:1"]
    assert in_bash("tart get ghcr.io:x") == ["x:1"]
    assert in_bash("tart get ghcr.io:x:") == ["1"]


@pytest.mark.parametrize("line", ["tart get gh", "tart get ghcr.io:x"])
def test_a_name_with_colons_elsewhere_is_one_word(line: str, request: pytest.FixtureRequest) -> None:
    for shell in ("in_zsh", "in_fish"):
        complete: Complete = request.getfixturevalue(shell)
        assert unquoted(complete(line)) == ["ghcr.io:x:1"]


def test_a_name_with_a_blank_stays_one_word(complete: Complete) -> None:
    (offered,) = complete("tart get wi")
    assert offered == "with space" or shlex.split(offered) == ["with space"]


def test_more_words_of_a_list_are_completed_too(complete: Complete) -> None:
    assert complete("tart delete alpha be") == ["beta"]


def test_options_before_the_name_do_not_matter(complete: Complete) -> None:
    assert complete("tart set --cpu 2 al") == ["alpha"]


def test_a_value_after_an_equals_sign(in_bash: Complete, request: pytest.FixtureRequest) -> None:
    assert in_bash("tart list --format=js") == ["json"]
    in_fish: Complete = request.getfixturevalue("in_fish")
    assert in_fish("tart list --format=js") == ["--format=json"]
    in_zsh: Complete = request.getfixturevalue("in_zsh")
    assert in_zsh("tart list --format=js") == ["--format=json"]


def test_a_file_after_an_equals_sign_in_bash(in_bash: Complete) -> None:
    assert in_bash("tart set alpha --disk=fi") == ["file.img"]


def test_completing_makes_nothing_and_is_silent_about_trouble(tmp_path: Path) -> None:
    home = tmp_path / "none"
    called = tart(home, _TART_COMPLETE="bash", COMP_LINE="tart get ", COMP_POINT="9")
    assert (called.code, called.out.strip(), called.err) == (0, "", "")
    assert not home.exists()
    home.write_text("a file, no folder")
    called = tart(home, _TART_COMPLETE="bash", COMP_LINE="tart get ", COMP_POINT="9")
    assert (called.code, called.out.strip(), called.err) == (0, "", "")


@pytest.mark.parametrize(
    "words", [["--generate-completion-script", "zsh"], ["list", "--generate-completion-script=zsh"]]
)
def test_the_script_is_printed_wherever_it_is_asked_for(tmp_path: Path, words: list[str]) -> None:
    called = tart(tmp_path, *words)
    assert called.code == 0
    assert called.out.startswith("#compdef tart\n")


def test_the_shell_is_taken_from_the_environment(tmp_path: Path) -> None:
    assert tart(tmp_path, "--generate-completion-script", SHELL="/usr/bin/fish").out.startswith("# fish completion")
    called = tart(tmp_path, "--generate-completion-script", SHELL="/bin/sh")
    assert called.code == 64
    assert "sh" in called.err


def test_an_unknown_shell_is_wrong_usage(tmp_path: Path) -> None:
    called = tart(tmp_path, "--generate-completion-script", "tcsh")
    assert called.code == 64
    assert "tcsh" in called.err
