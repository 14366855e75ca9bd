#!/usr/bin/env python3
"""A name server for tests: answers from a table, and can change its mind.

    dns.py --names FILE [--log FILE] [--host 127.0.0.1] [--port 53]

prints "listening PORT" and serves, over UDP, until SIGTERM or the end of its
standard input.  It needs Python's standard library only.

FILE holds a JSON object: for each name, in lower case and without its trailing
dot, an object of A, AAAA or CNAME.  A CNAME is a name.  The others are lists of
answers, and an answer is a list of addresses: the first look-up of that type
gets the first answer, the next one the second, and all later ones the last.
With "alternate": true they start over instead.  Every answer has a TTL of 0.  A
name that is not in the table does not exist; a type that it lacks is empty.

The log has a line "NAME TYPE ADDRESS ADDRESS ..." for each look-up, written
before it is answered.
"""

import argparse
import collections
import ipaddress
import json
import os
import signal
import socket
import struct
import sys
import threading

TYPES = {1: "A", 28: "AAAA"}
CNAME = 5
IN = 1
NXDOMAIN = 3
POINTER_TO_QUESTION = b"\xc0\x0c"


def read_question(packet):
    """The name asked for, its type, and the question as it came."""
    labels = []
    at = 12
    while packet[at]:
        labels.append(packet[at + 1 : at + 1 + packet[at]].decode("latin-1").lower())
        at += 1 + packet[at]
    (kind,) = struct.unpack_from(">H", packet, at + 1)
    return ".".join(labels), kind, packet[12 : at + 5]


def encode_name(name):
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"


def record(owner, kind, data):
    return owner + struct.pack(">HHIH", kind, IN, 0, len(data)) + data


class Names:
    """The table, and how often each entry was looked up."""

    def __init__(self, path):
        with open(path, encoding="utf-8") as file:
            self.table = json.load(file)
        self.asked = collections.Counter()

    def look_up(self, name, kind):
        """The CNAME or None, and the addresses; None if there is no such name."""
        entry = self.table.get(name)
        if entry is None:
            return None
        if "CNAME" in entry:
            target = self.look_up(entry["CNAME"], kind)
            return entry["CNAME"], target[1] if target else []
        answers = entry.get(TYPES.get(kind))
        if not answers:
            return None, []
        turn = self.asked[name, kind]
        self.asked[name, kind] += 1
        if entry.get("alternate"):
            return None, answers[turn % len(answers)]
        return None, answers[min(turn, len(answers) - 1)]


def answer(packet, names, log):
    """The reply to a query."""
    name, kind, question = read_question(packet)
    found = names.look_up(name, kind)
    alias, addresses = found or (None, [])
    if log:
        print(name, TYPES.get(kind, kind), *addresses, file=log, flush=True)
    records = []
    owner = POINTER_TO_QUESTION
    if alias:
        records.append(record(owner, CNAME, encode_name(alias)))
        owner = encode_name(alias)
    records += [record(owner, kind, ipaddress.ip_address(a).packed) for a in addresses]
    flags = 0x8180 | (NXDOMAIN if found is None else 0)
    head = packet[:2] + struct.pack(">HHHHH", flags, 1, len(records), 0, 0)
    return head + question + b"".join(records)


def stop_at_end_of_input():
    """Runs in a thread: ends the process when standard input has ended."""
    while os.read(0, 4096):
        pass
    os._exit(0)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--names", metavar="FILE", required=True)
    parser.add_argument("--log", metavar="FILE")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=53)
    options = parser.parse_args()

    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    names = Names(options.names)
    log = open(options.log, "a", encoding="utf-8") if options.log else None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((options.host, options.port))
        threading.Thread(target=stop_at_end_of_input, daemon=True).start()
        print("listening", server.getsockname()[1], flush=True)
        while True:
            packet, client = server.recvfrom(4096)
            try:
                reply = answer(packet, names, log)
            except (IndexError, struct.error) as error:
                print(f"not a query: {error}", file=sys.stderr)
                continue
            server.sendto(reply, client)


if __name__ == "__main__":
    main()
