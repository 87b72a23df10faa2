#!/bin/sh
# network.sh: makes a machine at the other end of a cable, and becomes its servers. The cable's near end is there and not up.
set -e

ip netns add far
ip link add eth0 type veth peer name eth0 netns far
ip address add 192.0.2.2/24 dev eth0
ip -n far link set lo up
ip -n far address add 192.0.2.10/24 dev eth0
ip -n far link set eth0 up
# What comes, whatever the near side thinks of it.
ip netns exec far nft -f - <<'END'
table ip seen {
    counter nobodys { }
    chain input {
        type filter hook input priority filter;
        udp dport 7301 counter name nobodys
        tcp dport 7302 counter name nobodys
    }
}
END
exec ip netns exec far /usr/bin/python3 -u /usr/local/lib/t-tests/server.py
