#!/bin/sh
# First program of the lab's guest: says on the serial port who it is and what its disks hold, and keeps running.
export PATH=/bin:/sbin:/usr/bin:/usr/sbin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /run /tmp
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
ln -s /run /var/run

while read -r module; do
	insmod "/modules/$module.ko"
done </modules/order

ip link set lo up

flag() {
	grep -q -w -- "$1" /proc/cmdline
}

# Only printable characters that need no escape in JSON.
plain() {
	tr -cd ' !#-[]-~'
}

digest() {
	# $1 device, $2 first sector, of one MiB at most
	dd if="$1" bs=512 skip="$2" count=2048 2>/dev/null | sha256sum | cut -d ' ' -f 1
}

# A bootable disk has no room for it at its beginning.
marker() {
	# $1 device, $2 first sector of its last MiB
	for sector in 0 "$2"; do
		dd if="$1" bs=512 skip="$sector" count=1 2>/dev/null | sed -n '1s/^LAB-DISK //p' | plain
	done
}

describe_disks() {
	separator=
	for block in /sys/block/vd* /sys/block/sd*; do
		[ -e "$block" ] || continue
		name=${block##*/}
		sectors=$(cat "$block/size")
		end=$((sectors > 2048 ? sectors - 2048 : 0))
		printf '%s"%s":{"bytes":%s,"marker":"%s","first_mib":"%s","last_mib":"%s","serial":"%s","read_only":%s}' \
			"$separator" "$name" "$((sectors * 512))" \
			"$(marker "/dev/$name" "$end")" \
			"$(digest "/dev/$name" 0)" "$(digest "/dev/$name" "$end")" \
			"$(cat "$block/serial" 2>/dev/null | plain)" "$(cat "$block/ro")"
		separator=,
	done
}

describe_interfaces() {
	separator=
	for interface in /sys/class/net/*; do
		name=${interface##*/}
		[ "$name" = lo ] && continue
		printf '%s"%s":{"mac":"%s","address":"%s"}' "$separator" "$name" "$(cat "$interface/address")" \
			"$(ip -4 -o address show dev "$name" | sed -n 's/.* inet \([0-9.]*\).*/\1/p')"
		separator=,
	done
}

# Records are numbered and have a checksum; odd ones stand on vda and even ones on vdb, each in a sector of the last
# 2 MiB, where it takes the place of the one 4096 before. Each is on its disk before the next one is begun, so that no
# moment has a record without the 4095 before it. Each bears the seed of its domain: a clone and its original write
# under the same numbers, and a record that reached the disk of another must be seen.
RECORDS=4096
CHECK_EVERY=256

first_record() {
	# $1 name of the disk
	echo $(($(cat "/sys/block/$1/size") - RECORDS))
}

write_records() {
	vda=$(first_record vda)
	vdb=$(first_record vdb)
	seed=$((0x$(cut -c 1-6 /sys/class/dmi/id/product_uuid)))
	# a clone goes on after the records of its original
	number=$(count_records | sed 's/[^0-9]*\([0-9]*\).*/\1/')
	number=$((number + 1))
	own=$number
	wrong=0
	while :; do
		[ $((number % 2)) = 1 ] && disk=vda sector=$vda || disk=vdb sector=$vdb
		echo "LAB-RECORD $number $(((number * 7919 + seed) % 1000003)) $seed" |
			dd of="/dev/$disk" bs=512 seek=$((sector + number % RECORDS)) conv=fsync,notrunc 2>/dev/null ||
			wrong=$((wrong + 1))
		if [ $((number % CHECK_EVERY)) = 0 ]; then
			# What is read now comes from the disks.
			blockdev --flushbufs /dev/vda
			blockdev --flushbufs /dev/vdb
			[ "$(count_records "$own" "$seed")" = "\"records\":$number,\"stray\":0" ] || wrong=$((wrong + 1))
			echo "\"checked\":$number,\"wrong\":$wrong" >/run/writer.new
			mv /run/writer.new /run/writer
		fi
		number=$((number + 1))
	done
}

# The number of the last record, and how many of those before it are missing.
count_records() {
	# $1 number from which on all records are the domain's own, if they are; $2 its seed
	for disk in vda vdb; do
		dd if="/dev/$disk" bs=64k skip=$(($(first_record "$disk") / 128)) 2>/dev/null |
			grep -ao 'LAB-RECORD [0-9]* [0-9]* [0-9]*'
	done | awk -v records="$RECORDS" -v own="${1:-0}" -v seed="${2:-0}" '
		$3 != ($2 * 7919 + $4) % 1000003 || (own + 0 && $2 >= own + 0 && $4 != seed) { next }
		{ seen[$2 + 0] = 1; if ($2 > last + 0) last = $2 + 0 }
		END {
			for (number = last > records ? last - records + 1 : 1; number <= last; number++)
				stray += !(number in seen)
			printf "\"records\":%d,\"stray\":%d", last, stray
		}'
}

agent=
for port in /sys/class/virtio-ports/*; do
	[ "$(cat "$port/name" 2>/dev/null)" = org.qemu.guest_agent.0 ] && agent=/dev/${port##*/}
done
if [ -n "$agent" ] && ! flag lab.noagent; then
	qemu-ga --daemonize --method virtio-serial --path "$agent" --statedir /run --logfile /run/qemu-ga.log
fi

# What a guest calls itself (`lab.client-id`, in hexadecimal digits) instead of by its MAC address.
client_id=$(sed -n 's/.*lab\.client-id=\([0-9a-f]*\).*/-x 0x3d:\1/p' /proc/cmdline)
for interface in /sys/class/net/*; do
	name=${interface##*/}
	[ "$name" = lo ] && continue
	ip link set "$name" up
	# shellcheck disable=SC2086 - two words or none
	flag lab.dhcp && udhcpc $client_id -q -n -t 60 -T 1 -i "$name" -s /bin/udhcpc-script >/dev/null 2>&1
done

uuid=$(cat /sys/class/dmi/id/product_uuid)
disks=$(describe_disks)
firmware=bios
[ -d /sys/firmware/efi ] && firmware=uefi
records='"records":0,"stray":0'
flag lab.count && records=$(count_records)
report=$(printf '"uuid":"%s","firmware":"%s","disks":{%s},"interfaces":{%s},"cmdline":"%s","agent":"%s",%s' \
	"$uuid" "$firmware" "$disks" "$(describe_interfaces)" "$(plain </proc/cmdline)" "$agent" "$records")
echo '"checked":0,"wrong":0' >/run/writer
flag lab.write && write_records &

# A file system that somebody always writes to; an image of it needs its journal, unless it was frozen.
write_lines() {
	number=1
	while echo "LAB-LINE $number" >>/mnt/lines; do
		sync
		number=$((number + 1))
	done
}

if flag lab.mount; then
	mkdir -p /mnt
	mount -t ext4 /dev/vdb /mnt
	write_lines &
fi

# Again and again, as what is printed before somebody listens is lost.
while :; do
	read -r writer </run/writer
	printf '\nLAB-GUEST {%s,%s} LAB-END\n' "$report" "$writer"
	flag lab.once && poweroff -f
	sleep 0.5
done
