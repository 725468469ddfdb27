"""The accelerator is chosen from facts about the host, never from a device node alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tartlet.hypervisor.accel import Accelerator, HostFacts, choose, host_cpu_refused, nested_obstacle

INTEL = HostFacts(arch="amd64", platform="linux", kvm_trouble=None, cpu_flags=frozenset({"vmx"}), nested=True)
ARM = HostFacts(arch="arm64", platform="linux", kvm_trouble=None)
MAC = HostFacts(arch="arm64", platform="darwin", kvm_trouble="/dev/kvm does not exist")
NO_FLAGS = replace(INTEL, cpu_flags=frozenset())
NO_NODE = replace(INTEL, kvm_trouble="/dev/kvm does not exist")


@pytest.mark.parametrize(
    ("guest", "host", "name", "cpu", "reason"),
    [
        ("amd64", INTEL, "kvm", "host", "KVM: /dev/kvm opens and the processor offers vmx"),
        ("amd64", replace(INTEL, cpu_flags=frozenset({"svm"})), "kvm", "host", "offers svm"),
        ("amd64", NO_FLAGS, "tcg", "max", "the processor offers neither vmx nor svm"),
        ("amd64", NO_NODE, "tcg", "max", "/dev/kvm does not exist"),
        ("amd64", replace(NO_NODE, cpu_flags=frozenset()), "tcg", "max", "neither vmx nor svm"),
        ("arm64", ARM, "kvm", "host", "KVM: /dev/kvm opens"),
        ("arm64", replace(ARM, kvm_trouble="no"), "tcg", "max,pauth-impdef=on", "no"),
        ("arm64", INTEL, "tcg", "max,pauth-impdef=on", "guests for arm64 have to be emulated on amd64"),
        ("amd64", ARM, "tcg", "max", "have to be emulated"),
        ("arm64", MAC, "hvf", "host", "HVF"),
        ("amd64", MAC, "tcg", "max", "have to be emulated"),
    ],
)
def test_choice(guest: str, host: HostFacts, name: str, cpu: str, reason: str) -> None:
    chosen = choose(guest, host)
    assert (chosen.name, chosen.cpu) == (name, cpu)
    assert reason in chosen.reason


def test_only_a_foreign_architecture_brings_a_notice() -> None:
    assert "slow" in (choose("arm64", INTEL).notice or "")
    assert choose("amd64", NO_FLAGS).notice is None
    assert choose("amd64", INTEL).notice is None


@pytest.mark.parametrize(
    ("guest", "host", "nested", "words"),
    [
        ("amd64", INTEL, False, ["-accel", "kvm", "-cpu", "host,vmx=off,svm=off"]),
        ("amd64", INTEL, True, ["-accel", "kvm", "-cpu", "host"]),
        ("arm64", ARM, False, ["-accel", "kvm", "-cpu", "host"]),
        ("amd64", NO_FLAGS, False, ["-accel", "tcg,thread=multi", "-cpu", "max"]),
        ("amd64", ARM, False, ["-accel", "tcg,thread=single", "-cpu", "max"]),
        ("arm64", MAC, False, ["-accel", "hvf", "-cpu", "host"]),
    ],
)
def test_words(guest: str, host: HostFacts, nested: bool, words: list[str]) -> None:
    assert choose(guest, host).words(nested=nested) == words


def test_a_refused_host_model_leads_to_a_named_one_once() -> None:
    named = choose("amd64", INTEL).with_named_cpu()
    assert isinstance(named, Accelerator)
    assert named.words() == ["-accel", "kvm", "-cpu", "Nehalem"]
    assert "Nehalem" in (named.notice or "")
    assert named.with_named_cpu() is None
    assert choose("amd64", NO_FLAGS).with_named_cpu() is None


@pytest.mark.parametrize(
    ("said", "refused"),
    [
        ("qemu-system-x86_64: CPU model 'host' requires KVM or HVF", True),
        ("qemu-system-x86_64: kvm_init_vcpu failed: Function not implemented", True),
        ('qemu-system-x86_64: -blockdev …: Failed to get "write" lock', False),
        ("", False),
    ],
)
def test_what_counts_as_a_refused_host_model(said: str, refused: bool) -> None:
    assert host_cpu_refused(said) is refused


def test_nested_needs_kvm_and_its_parameter() -> None:
    assert nested_obstacle(choose("amd64", INTEL), INTEL) is None
    off = replace(INTEL, nested=False)
    assert "nested=0" in (nested_obstacle(choose("amd64", off), off) or "")
    assert "needs KVM" in (nested_obstacle(choose("amd64", NO_FLAGS), NO_FLAGS) or "")


def test_the_facts_of_this_host_can_be_read() -> None:
    facts = HostFacts.read()
    assert facts.arch in ("amd64", "arm64")
    assert facts.cpu_flags <= {"vmx", "svm"}
