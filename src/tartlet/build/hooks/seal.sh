#!/bin/sh
# Runs last, as root of the namespace: what only the build needed goes, and the EFI partition's content moves out.
# The words are the folder of the root, the new folder for that partition, and the host name.
set -eu
cd "$1"
rm -f etc/apt/apt.conf.d/99mmdebstrap etc/dpkg/dpkg.cfg.d/99mmdebstrap
rm -f var/log/bootstrap.log var/log/alternatives.log var/log/dpkg.log var/cache/ldconfig/aux-cache
rm -f var/cache/debconf/*-old var/lib/dpkg/*-old etc/*- boot/initrd.img-*.dpkg-bak
rm -rf var/log/apt/* var/cache/apt/archives/*.deb var/lib/apt/lists/*
mkdir -p var/lib/apt/lists/partial
rm -rf run/* tmp/* etc/.resolv.conf.systemd-resolved.bak
# What is there was copied from the machine that builds, with its modes.
rm -f etc/hostname etc/hosts
printf '%s\n' "$3" > etc/hostname
printf '127.0.0.1\tlocalhost\n127.0.1.1\t%s\n::1\tlocalhost ip6-localhost ip6-loopback\n' "$3" > etc/hosts
ln -sfn ../run/systemd/resolve/stub-resolv.conf etc/resolv.conf
mv boot/efi "$2"
mkdir boot/efi
