"""A far side for tests of tunnels: a machine in a network namespace that is reached by the link `eth0`, and by the tunnel `wg0` if
that is up. It tells whose packets came by which way.

Started as a program, it is that machine's servers, inside of the namespace."""

import contextlib
import fcntl
import os
import pathlib
import select
import signal
import socket
import struct
import subprocess
import sys
import threading

sys.path.insert(0, os.path.dirname(__file__))
import machine as m

# Somewhere in the internet, by both families.
FAR = {socket.AF_INET: "198.51.100.7", socket.AF_INET6: "2001:db8:7::7"}
PORT = 7100
# Where nobody listens.
CLOSED = 7200
# Addresses that the far side sees, by the way that the packets took.
IN_THE_TUNNEL = {"10.64.0.2", "fd64::2"}
BESIDE_IT = {"192.0.2.2", "2001:db8:2::2"}
RESOLVER_BESIDE, RESOLVER_IN_THE_TUNNEL = "192.0.2.1", "10.64.0.1"

STATE = pathlib.Path("/run/t-far")
SERVED, BESIDE, ASKED = STATE / "served", STATE / "beside", STATE / "asked"
TUN_SET, TUN_WITHOUT_HEADER = 0x400454CA, 0x1001
PROTOCOLS = {socket.IPPROTO_TCP: "tcp", socket.IPPROTO_UDP: "udp"}


def commands(text):
    for line in text.strip().splitlines():
        m.run(*line.split())


def tun(name):
    device = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(device, TUN_SET, struct.pack("16sH22x", name.encode(), TUN_WITHOUT_HEADER))
    return device


def described(packet):
    """Protocol, destination and its port, or None for other protocols."""
    if packet[0] >> 4 == 4:
        protocol, to, rest = packet[9], socket.inet_ntop(socket.AF_INET, packet[16:20]), packet[4 * (packet[0] & 15) :]
    else:
        protocol, to, rest = packet[6], socket.inet_ntop(socket.AF_INET6, packet[24:40]), packet[40:]
    return (PROTOCOLS[protocol], to, *struct.unpack("!HH", rest[:4])) if protocol in PROTOCOLS else None


def carry(near, far):
    """The cable: carries packets both ways and writes down those of the near side."""
    with BESIDE.open("a", buffering=1) as beside:
        while True:
            for device in select.select([near, far], [], [])[0]:
                with contextlib.suppress(OSError):
                    packet = os.read(device, 65536)
                    if device == near and (what := described(packet)):
                        print(*what, file=beside)
                    os.write(far if device == near else near, packet)


def make():
    """The link and the far side, with its end of the tunnel. Without IPv6's search for duplicates, which takes time."""
    STATE.mkdir()
    for name in ["near", "far"]:
        m.run("sh", "-c", f"umask 77; wg genkey >{STATE}/{name}.key; wg pubkey <{STATE}/{name}.key >{STATE}/{name}.pub")
    commands("ip netns add far")
    near, far = tun("eth0"), tun("eth0far")
    commands("""
        ip link set eth0far netns far
        ip address add 192.0.2.2/24 dev eth0
        ip address add 2001:db8:2::2/64 dev eth0 nodad
        ip link set eth0 up
        ip route add default via 192.0.2.1
        ip route add default via 2001:db8:2::1
        ip -n far link set lo up
        ip -n far address add 192.0.2.1/24 dev eth0far
        ip -n far address add 2001:db8:2::1/64 dev eth0far nodad
        ip -n far link set eth0far up
        ip -n far address add 198.51.100.7/32 dev lo
        ip -n far address add 2001:db8:7::7/128 dev lo nodad
        ip netns exec far wireguard-go wgfar
        ip -n far address add 10.64.0.1/24 dev wgfar
        ip -n far address add fd64::1/64 dev wgfar nodad
        ip -n far link set wgfar up
    """)
    peer = ["peer", key("near.pub"), "allowed-ips", "10.64.0.2/32,fd64::2/128"]
    m.run("ip", "netns", "exec", "far", "wg", "set", "wgfar", "listen-port", "51820", "private-key", f"{STATE}/far.key", *peer)
    carrier = os.fork()
    if not carrier:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        carry(near, far)
    os.close(near)
    os.close(far)
    server = subprocess.Popen(["ip", "netns", "exec", "far", "python3", __file__])
    RUNNING.extend([carrier, server.pid])
    m.eventually(lambda: SERVED.exists() and ASKED.exists(), "the far side does not serve")


def end():
    """The link and the far side go."""
    while RUNNING:
        os.kill(RUNNING.pop(), signal.SIGKILL)


# The processes of the far side.
RUNNING = []


def key(name):
    return (STATE / name).read_text().strip()


def forget():
    """What came so far."""
    for file in [SERVED, BESIDE, ASKED]:
        os.truncate(file, 0)


def served():
    """Who came, by which protocol and from which address: (protocol, address, name)."""
    return [tuple(line.split()) for line in SERVED.read_text().splitlines() if len(line.split()) == 3]


def beside(*ports):
    """The packets that left beside the tunnel from or to one of the ports."""
    found = [line.split() for line in BESIDE.read_text().splitlines()]
    return [packet for packet in found if {int(port) for port in packet[2:]} & set(ports)]


def asked():
    """The names that were asked for, and the resolver that was asked: (resolver, name)."""
    return [tuple(line.split()) for line in ASKED.read_text().splitlines()]


# Inside of the namespace


def listen(family, kind, address, port):
    server = socket.socket(family, kind)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    server.bind((address, port))
    return server


def serve_tcp(server, out):
    def serve(connection, address):
        with connection, contextlib.suppress(OSError):
            connection.settimeout(5)
            print("tcp", address, connection.recv(200).decode().strip(), file=out)
            connection.sendall(b"ok\n")

    server.listen(512)
    while True:
        connection, address = server.accept()
        threading.Thread(target=serve, args=(connection, address[0]), daemon=True).start()


def serve_udp(server, out):
    while True:
        data, address = server.recvfrom(2000)
        print("udp", address[0], data.decode().strip(), file=out)


def resolve(server, out):
    """Every name has the far side's address."""
    me = server.getsockname()[0]
    while True:
        question, client = server.recvfrom(1500)
        labels, at = [], 12
        while question[at]:
            labels.append(question[at + 1 : at + 1 + question[at]].decode())
            at += 1 + question[at]
        print(me, ".".join(labels), file=out)
        is_ipv4 = question[at + 1 : at + 3] == b"\0\1"
        answer = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + socket.inet_aton(FAR[socket.AF_INET])
        server.sendto(question[:2] + b"\x81\x80\0\1" + bytes([0, is_ipv4]) + bytes(4) + question[12 : at + 5] + answer * is_ipv4, client)


def serve():
    def start(function, *arguments):
        threading.Thread(target=function, args=arguments).start()

    served, asked = SERVED.open("a", buffering=1), ASKED.open("a", buffering=1)
    for family, address in [(socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")]:
        start(serve_tcp, listen(family, socket.SOCK_STREAM, address, PORT), served)
        start(serve_udp, listen(family, socket.SOCK_DGRAM, address, PORT), served)
    for address in [RESOLVER_BESIDE, RESOLVER_IN_THE_TUNNEL]:
        start(resolve, listen(socket.AF_INET, socket.SOCK_DGRAM, address, 53), asked)


if __name__ == "__main__":
    serve()
