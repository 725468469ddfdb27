#!/bin/sh
# Runs after the packages are installed; the only word is the guest's root.
set -eu
root=$1
inside() { chroot "$root" "$@"; }

# The account everybody knows: admin, password admin (hashed with a fixed salt, so builds can be compared).
# shellcheck disable=SC2016
inside useradd --create-home --shell /bin/bash --comment Administrator --groups adm,sudo \
    --password '$6$tartlet$us9fOMdIx50eN557Eo5SFKFRLOv9dLK74ZVc4nsFpHBB6WZwovIo.t87rgX.IMWdt8Uj/TvsBOG0GPC5yhy0Z/' admin

for package in "$root"/var/cache/tartlet/*.deb; do
    inside dpkg --force-unsafe-io --install "${package#"$root"}" > /dev/null
done
rm -r "$root/var/cache/tartlet"

inside systemctl --quiet enable systemd-networkd.service dhcp-by-mac.service ssh-host-keys.service \
    shared-folders.service
if [ -e "$root/usr/lib/systemd/system/systemd-resolved.service" ] || [ -e "$root/lib/systemd/system/systemd-resolved.service" ]; then
    inside systemctl --quiet enable systemd-resolved.service
fi
# Nothing talks to the network unasked or scans the disk while the guest is being waited for.
for unit in apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer e2scrub_reap.service motd-news.timer ua-timer.timer; do
    if [ -e "$root/usr/lib/systemd/system/$unit" ] || [ -e "$root/lib/systemd/system/$unit" ]; then
        inside systemctl --quiet disable "$unit"
    fi
done
if [ -e "$root/etc/default/motd-news" ]; then
    sed -i 's/^ENABLED=.*/ENABLED=0/' "$root/etc/default/motd-news"
fi

# Every machine made from this disk gets its own identity at its first boot.
rm -f "$root"/etc/ssh/ssh_host_*
: > "$root/etc/machine-id"
rm -f "$root/var/lib/systemd/random-seed" "$root/var/lib/dbus/machine-id"
ln -sf /etc/machine-id "$root/var/lib/dbus/machine-id"

inside /usr/local/sbin/update-esp
case $(inside dpkg --print-architecture) in
    amd64) efi=x64 ;;
    arm64) efi=aa64 ;;
esac
stub=$root/usr/lib/systemd/boot/efi/systemd-boot$efi.efi
mkdir -p "$root/boot/efi/EFI/BOOT" "$root/boot/efi/EFI/systemd"
cp "$stub" "$root/boot/efi/EFI/BOOT/BOOT$(echo "$efi" | tr '[:lower:]' '[:upper:]').EFI"
cp "$stub" "$root/boot/efi/EFI/systemd/"
printf 'timeout 0\n' > "$root/boot/efi/loader/loader.conf"
