#!/usr/bin/env python3
"""A witness for tests: who was connected to, whether anybody listened or not.

    witness.py LOG

watches the loopback interface of its network namespace, in which it needs
CAP_NET_RAW, and adds a line "ADDRESS PORT" to LOG for each TCP connection that
anyone begins, and "udp ADDRESS PORT" for each datagram but a name server's
answer.  A connection that gets no answer counts as well: it is the first packet that is seen.

It ends with the process that started it.
"""

import ctypes
import os
import signal
import socket
import struct
import sys

ETH_P_ALL = 0x0003
ETH_P_IP = 0x0800
ETH_P_IPV6 = 0x86DD
FAMILIES = {ETH_P_IP: socket.AF_INET, ETH_P_IPV6: socket.AF_INET6}
TCP = 6
UDP = 17
DNS = 53
SYN, ACK = 0x02, 0x10
PR_SET_PDEATHSIG = 1


def describe(protocol, packet):
    """The log's line for an IP packet; None if it begins nothing."""
    if protocol == ETH_P_IP:
        start, transport, destination = (packet[0] & 0x0F) * 4, packet[9], packet[16:20]
    elif protocol == ETH_P_IPV6:
        start, transport, destination = 40, packet[6], packet[24:40]
    else:
        return None
    if transport not in (TCP, UDP):
        return None
    source, port = struct.unpack_from(">HH", packet, start)
    address = socket.inet_ntop(FAMILIES[protocol], destination)
    if transport == UDP:
        # the statistics collector of PostgreSQL before 15 speaks to itself
        return None if source in (DNS, port) else f"udp {address} {port}"
    if packet[start + 13] & (SYN | ACK) == SYN:
        return f"{address} {port}"
    return None


def main():
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    parent = os.getppid()
    watched = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
    watched.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    watched.settimeout(1)
    with open(sys.argv[1], "a", encoding="ascii") as log:
        print("watching", file=log, flush=True)
        # a change of user clears the death signal, so look from time to time
        while os.getppid() == parent:
            try:
                packet, (_, protocol, direction, *_) = watched.recvfrom(256)
            except socket.timeout:
                continue
            # on loopback each packet comes by twice: as it leaves, and again
            line = describe(protocol, packet) if direction == socket.PACKET_OUTGOING else None
            if line:
                print(line, file=log, flush=True)


if __name__ == "__main__":
    main()
