#!/usr/bin/env python3
"""A webhook receiver for tests: the path of a request chooses the answer.

    receiver.py [--log FILE [--brief]] [--secret NAME=SECRET]... [--secrets FILE]

binds a free port of 127.0.0.1, prints "listening PORT", and serves until
SIGTERM or the end of its standard input.  It needs Python's standard library
only, and speaks just enough HTTP/1.1, by hand, to misbehave in every way that
a sender has to survive.

Paths
    /ok                     200, which Slack and Discord could have answered
    /empty                  204
    /gone                   410
    /signed                 200 if the standard signature holds, or else 401
    /status/CODE            CODE; ?retry_after=VALUE sends that header,
                            ?retry_after_date=SECONDS one with the HTTP date
                            that far ahead
    /redirect               302 to /ok; ?status=CODE, ?to=URL
    /fail/N/then/REST       503 to the first N requests of this very path, then
                            as /REST would; ?status=, ?retry_after=
    /flaky/N                503 to the first N requests of each webhook-id,
                            then 200; ?status=, ?retry_after=
    /down-until-told        503 (?status=) until POST /_set says "up", then 200
    /hang-until-told        no answer until then, 200 (?status=) at that moment
    /scripted               the replies given with POST /_set, one after
                            another, the last one from then on;
                            /scripted-until-told when told so, as above
    /echo                   200 with the request's body
    /delay-ms/N             200 after N ms in which nothing is sent
    /slow-headers/SECONDS   the status line, then a header now and then, 200
    /slow-body/SECONDS      headers at once, then the body byte by byte
    /slow-read/SECONDS      takes no more of the request for so long, then 200
    /hang                   never answers
    /endless                a body that never ends, as fast as it is taken;
                            ?every=SECONDS: a byte at a time
    /big/BYTES              200 with a body of that size
    /many-headers           200 with ?n=1000 headers of ?size=100 bytes
    /chunked                200, chunked, with a trailer
    /continue               100 and 103 first, then 200 (?status=)
    /nul                    200, NUL and invalid UTF-8 in header and body
    /close                  200 with "Connection: close"
    /stale                  200, promising to keep the connection, then closes
    /eof                    closes without an answer
    /reset                  resets the connection instead of answering
    /reset-mid-body         resets it in the middle of the body
    /gzip/BYTES             200 with a body of that many zeros, compressed;
                            ?encoding= names it otherwise
    /long-header/BYTES      200 with one header of that size
    /nul-header             200 with a NUL in a header
    /interim/N              N times 103 (0: without end), then 200
    /trailers               200, chunked, with trailers that do not end
    /garbage                answers with what is not HTTP

Whatever follows "/-/" in a path is a label and changes nothing else: it tells
one webhook's requests from another's in the log, in counts and in secrets.
It ends where the query string begins.

Log
    One JSON object a line, written before the answer is sent: seq, time (Unix,
    microseconds, when the headers were complete), method, path and query as
    they came, label, headers (lower-case names), body (or body_base64 when it
    is not UTF-8), complete (false: the sender left in the middle of the
    body), connection (its number), request (which one on that connection),
    concurrent (unanswered requests of this label, this one included), client
    (the common name in the certificate that it showed, if it did), resumed
    (whether the connection resumed a TLS session), and verified: whether these hold under the secrets known for the label, null
    where the header or the secret is missing:
        signature   X-Webhook-Signature, over the raw body
        standard    webhook-signature, any v1 of its list, and the timestamp
                    within five minutes
    "why" says what is wrong with a standard signature that does not hold;
    "keys" says by which of a label's several secrets each one held.
    With --brief there are only seq, time, path, label, body, complete, and up
    (whether the label has been told so); nothing is verified.  That is for
    some hundred thousand requests.

Secrets
    --secret and --secrets give one secret, or (in the file, a JSON object) a
    list of them, for a label; "*" is for the labels without one.  The file is
    read again whenever it changes.

Control (neither logged nor counted)
    GET  /_count?label=L    {"count": N}, without a label of all
    GET  /_wait?n=N&label=L&timeout=SECONDS
                            the same, once N are reached or the time is up
    GET  /_log?since=SEQ    the log's lines after that one
    POST /_reset            forgets counts, log and behaviour
    POST /_set              {"up": [L, …]}, {"down": [L, …]} ("*": all),
                            {"replies": {L: [{"status", "headers", "body"}]}}
"""

import argparse
import asyncio
import asyncio.sslproto
import base64
import binascii
import collections
import email.utils
import gzip
import hmac
import http
import json
import os
import signal
import socket
import ssl
import struct
import sys
import threading
import time
import urllib.parse
import warnings

TOLERANCE = 300
MAX_HEAD = 1 << 20
DRIP = 0.05
# The rules of the connectors for Slack and Discord take this as success.
OK_BODY = b'{"ok":true,"id":"1"}'
NO_BODY = (204, 304)


class Secrets:
    """The secrets by label, with the keys that they stand for."""

    def __init__(self, pairs, path):
        self.fixed = {}
        self.path = path
        self.version = None
        self.keys = {}
        for pair in pairs:
            name, equals, secret = pair.partition("=")
            if not equals:
                raise SystemExit(f"receiver.py: --secret {pair}: not NAME=SECRET")
            self.fixed.setdefault(name, []).append(secret)
        self.load(self.fixed)

    def load(self, mapping):
        self.keys = {}
        for label, secrets in mapping.items():
            if isinstance(secrets, str):
                secrets = [secrets]
            self.keys[label] = [(s.encode(), standard_key(s)) for s in secrets]

    def refresh(self):
        try:
            stat = os.stat(self.path)
        except FileNotFoundError:
            return
        version = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        if version != self.version:
            with open(self.path, encoding="utf-8") as file:
                self.load({**self.fixed, **json.load(file)})
            self.version = version

    def of(self, label):
        if self.path:
            self.refresh()
        return self.keys.get(label) or self.keys.get("*") or ()


def standard_key(secret):
    """The bytes that a Standard Webhooks secret stands for, None if none."""
    try:
        return base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except (binascii.Error, ValueError):
        return None


def body_signature_holds(signature, key, body):
    expected = "sha256=" + hmac.digest(key, body, "sha256").hex()
    return hmac.compare_digest(expected.encode(), signature.encode())


def standard_signature_problem(headers, key, body, now):
    """Why the three headers do not vouch for the body; None if they do."""
    if key is None:
        return "the secret is not base64"
    identity, timestamp = headers.get("webhook-id"), headers.get("webhook-timestamp")
    if not identity:
        return "no webhook-id"
    if not timestamp or not (timestamp.isascii() and timestamp.isdigit()):
        return "no integer in webhook-timestamp"
    if abs(now - int(timestamp)) > TOLERANCE:
        return f"webhook-timestamp is {now - int(timestamp):.0f} s old"
    content = f"{identity}.{timestamp}.".encode("latin-1") + body
    expected = base64.b64encode(hmac.digest(key, content, "sha256"))
    for entry in headers["webhook-signature"].split(" "):
        version, _, signature = entry.partition(",")
        if version == "v1" and hmac.compare_digest(expected, signature.encode()):
            return None
    return "no v1 signature matches"


def verify(headers, body, keys, now):
    """Check every signature that the request carries."""
    verified = {"signature": None, "standard": None}
    if not keys:
        return verified
    found = {}
    signature = headers.get("x-webhook-signature")
    if signature is not None:
        found["signature"] = [
            n for n, key in enumerate(keys) if body_signature_holds(signature, key[0], body)
        ]
    if "webhook-signature" in headers:
        problems = [standard_signature_problem(headers, key[1], body, now) for key in keys]
        found["standard"] = [n for n, problem in enumerate(problems) if problem is None]
        if not found["standard"]:
            verified["why"] = problems[0]
    for name, which in found.items():
        verified[name] = bool(which)
    if len(keys) > 1:
        verified["keys"] = found
    return verified


class Request:
    """One request, as far as it has arrived."""

    __slots__ = (
        "time", "method", "target", "path", "query", "label", "headers", "body",
        "length", "chunked", "close", "trailers",
    )

    def __init__(self, head):
        self.time = time.time()
        lines = head.decode("latin-1").split("\r\n")
        self.method, self.target, version = lines[0].split(" ")
        if not version.startswith("HTTP/1."):
            raise ValueError(f"{version}: not HTTP/1.1")
        self.headers = headers = {}
        for line in lines[1:]:
            name, colon, value = line.partition(":")
            if not colon or not name or name != name.strip():
                raise ValueError(f"{line!r}: not a header")
            name, value = name.lower(), value.strip(" \t")
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        self.path, _, self.query = self.target.partition("?")
        self.label = urllib.parse.unquote(self.path.partition("/-/")[2])
        self.chunked = headers.get("transfer-encoding", "").lower() == "chunked"
        self.length = 0 if self.chunked else int(headers.get("content-length", 0))
        self.body = bytearray()
        self.trailers = False
        connection = headers.get("connection", "").lower()
        self.close = connection == "close" or (
            version == "HTTP/1.0" and connection != "keep-alive"
        )

    def take(self, buffer):
        """Move what belongs to the body out of the buffer; true when whole."""
        if not self.chunked:
            return self.take_exactly(buffer)
        while True:
            if self.trailers:
                end = buffer.find(b"\r\n")
                if end < 0:
                    return False
                del buffer[: end + 2]
                if end == 0:
                    return True
            elif self.length == 0:
                end = buffer.find(b"\r\n", 2 if self.body else 0)
                if end < 0:
                    return False
                size = int(buffer[:end].split(b";")[0], 16)
                del buffer[: end + 2]
                self.length = len(self.body) + size
                self.trailers = size == 0
            else:
                if not self.take_exactly(buffer):
                    return False
                self.length = 0

    def take_exactly(self, buffer):
        missing = self.length - len(self.body)
        self.body += buffer[:missing]
        del buffer[:missing]
        return len(self.body) == self.length

    def option(self, name, default=None):
        values = urllib.parse.parse_qs(self.query, keep_blank_values=True).get(name)
        return values[-1] if values else default


class Receiver:
    """What outlives a connection: the log, the counts and the behaviour."""

    def __init__(self, secrets, log, brief):
        self.secrets = secrets
        self.brief = brief
        self.log_path = log
        self.log = None
        if log:
            self.log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self.connections = 0
        self.waiters = set()
        self.told = asyncio.Condition()
        self.forget()

    def forget(self):
        self.seq = 0
        self.counts = collections.Counter()
        self.unanswered = collections.Counter()
        self.tries = collections.Counter()
        self.up = set()
        self.replies = {}
        if self.log is not None:
            os.ftruncate(self.log, 0)

    def is_up(self, label):
        return label in self.up or "*" in self.up

    def record(self, connection, request, complete=True):
        """Count and log a request."""
        self.seq += 1
        if self.log is not None:
            body = bytes(request.body)
            entry = {
                "seq": self.seq,
                "time": round(request.time, 6),
                "path": request.path,
                "label": request.label,
                "complete": complete,
            }
            if self.brief:
                entry["up"] = self.is_up(request.label)
            else:
                entry.update(self.details(connection, request, body))
            try:
                entry["body"] = body.decode()
            except UnicodeDecodeError:
                entry["body_base64"] = base64.b64encode(body).decode()
            os.write(self.log, json.dumps(entry, ensure_ascii=False).encode() + b"\n")
        if complete:
            self.counts[request.label] += 1
            for waiter in self.waiters:
                waiter.set()

    def details(self, connection, request, body):
        """What the log has of a request when it is not to be brief."""
        return {
            "method": request.method,
            "query": request.query,
            "headers": request.headers,
            "connection": connection.number,
            "request": connection.requests,
            "concurrent": self.unanswered[request.label],
            "client": connection.client(),
            "resumed": connection.resumed(),
            "verified": verify(
                request.headers, body, self.secrets.of(request.label), request.time
            ),
        }

    def count(self, label):
        return sum(self.counts.values()) if label is None else self.counts[label]

    async def control(self, connection, request):
        """Answer a request to one of the control endpoints."""
        name = (request.method, request.path)
        if name == ("GET", "/_count"):
            result = {"count": self.count(request.option("label"))}
        elif name == ("GET", "/_wait"):
            label, wanted = request.option("label"), int(request.option("n", 1))
            reached = await self.wait_for(
                lambda: self.count(label) >= wanted, float(request.option("timeout", 10))
            )
            result = {"count": self.count(label), "reached": reached}
        elif name == ("GET", "/_log"):
            connection.answer(200, self.lines_after(int(request.option("since", 0))))
            return
        elif name == ("POST", "/_reset"):
            self.forget()
            result = {}
        elif name == ("POST", "/_set"):
            await self.set(json.loads(request.body))
            result = {}
        else:
            connection.answer(404, b'{"error":"no such control endpoint"}')
            return
        connection.answer(200, json.dumps(result).encode())

    async def wait_for(self, condition, timeout):
        """Wait until the condition holds; it is looked at after each request."""
        deadline = time.monotonic() + timeout
        arrived = asyncio.Event()
        self.waiters.add(arrived)
        try:
            while not condition():
                arrived.clear()
                await asyncio.wait_for(arrived.wait(), deadline - time.monotonic())
        except asyncio.TimeoutError:
            return False
        finally:
            self.waiters.discard(arrived)
        return True

    def lines_after(self, seq):
        if self.log is None:
            raise ValueError("there is no log without --log")
        with open(self.log_path, "rb") as file:
            return b"".join(line for line in file if json.loads(line)["seq"] > seq)

    async def set(self, what):
        unknown = set(what) - {"up", "down", "replies"}
        if unknown:
            raise ValueError(f"cannot set {', '.join(sorted(unknown))}")
        self.replies.update(what.get("replies", {}))
        self.up.difference_update(what.get("down", ()))
        self.up.update(what.get("up", ()))
        async with self.told:
            self.told.notify_all()


class Connection(asyncio.Protocol):
    """One connection: reads requests, lets a behaviour answer each."""

    def __init__(self, receiver):
        self.receiver = receiver
        self.number = None
        self.requests = 0
        self.buffer = bytearray()
        self.request = None         # whose body is being read
        self.answering = None       # which has no answer yet
        self.resting = False        # in the middle of a body, on purpose
        self.task = None
        self.lost = False
        self.writable = asyncio.Event()
        self.writable.set()

    def connection_made(self, transport):
        self.transport = transport

    def client(self):
        """Whose certificate the sender has shown, by its common name."""
        certificate = self.transport.get_extra_info("peercert")
        if not certificate:
            return None
        return dict(pair for name in certificate["subject"] for pair in name).get("commonName")

    def resumed(self):
        """Whether the TLS session is an earlier one; None without TLS."""
        tls = self.transport.get_extra_info("ssl_object")
        return tls.session_reused if tls else None

    def connection_lost(self, exc):
        self.lost = True
        self.writable.set()
        if self.task:
            self.task.cancel()
        self.answered()
        if self.request and self.number:
            self.receiver.record(self, self.request, complete=False)

    def pause_writing(self):
        self.writable.clear()

    def resume_writing(self):
        self.writable.set()

    def data_received(self, data):
        self.buffer += data
        self.advance()

    def advance(self):
        """Read on, until a request is whole, and have it answered."""
        try:
            while not self.answering and not self.transport.is_closing():
                if not self.request:
                    if not self.read_head():
                        return
                    self.start(self.request)
                if self.resting or not self.request.take(self.buffer):
                    return
                request, self.request = self.request, None
                self.respond(request)
        except ValueError as error:
            self.request = None
            self.answer(400, f"{error}\n".encode(), close=True)

    def read_head(self):
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self.buffer) > MAX_HEAD:
                raise ValueError("the head of the request is too long")
            return False
        head = bytes(self.buffer[:end])
        del self.buffer[: end + 4]
        self.request = Request(head)
        return True

    def start(self, request):
        """What happens between the head and the body."""
        if not request.path.startswith("/_"):
            if self.number is None:
                self.receiver.connections += 1
                self.number = self.receiver.connections
            self.requests += 1
        if request.path.startswith("/slow-read/"):
            seconds = float(request.path.split("/")[2])
            self.transport.pause_reading()
            self.resting = True
            asyncio.get_running_loop().call_later(seconds, self.read_on)
        elif request.headers.get("expect", "").lower() == "100-continue":
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def read_on(self):
        if not self.lost:
            self.resting = False
            self.transport.resume_reading()
            self.advance()

    def respond(self, request):
        self.answering = request
        if request.path.startswith("/_"):
            self.run(self.receiver.control(self, request))
            return
        self.receiver.unanswered[request.label] += 1
        self.receiver.record(self, request)
        coroutine = self.behave(request, request.path.partition("/-/")[0])
        if coroutine:
            self.run(coroutine)

    def behave(self, request, path):
        """Answer as the path says; a coroutine is returned to be run."""
        name, *arguments = path.strip("/").split("/")
        behaviour = BEHAVIOURS.get(name)
        try:
            if behaviour:
                return behaviour(self, request, *arguments)
            self.answer(404, f"no behaviour is called {name!r}\n".encode())
        except (TypeError, ValueError) as error:
            self.answer(400, f"{path}: {error}\n".encode())
        return None

    def run(self, coroutine):
        self.task = asyncio.ensure_future(self.guard(coroutine))

    async def guard(self, coroutine):
        try:
            await coroutine
        except (TypeError, ValueError, AttributeError) as error:
            self.answer(400, f"{error}\n".encode(), close=True)

    def answer(self, status, body=OK_BODY, headers=(), close=False):
        """Send a whole answer and get ready for the next request."""
        close = close or (self.answering is not None and self.answering.close)
        head = [f"HTTP/1.1 {status} {reason(status)}"]
        if status not in NO_BODY:
            head.append("Content-Type: application/json")
            head.append(f"Content-Length: {len(body)}")
        if close:
            head.append("Connection: close")
        head.extend(headers)
        if status in NO_BODY or (self.answering and self.answering.method == "HEAD"):
            body = b""
        self.send("\r\n".join(head).encode("latin-1") + b"\r\n\r\n" + body)
        self.finish(close)

    def send(self, data):
        if not self.transport.is_closing():
            self.transport.write(data)

    async def send_slowly(self, data):
        self.send(data)
        # Let the loop run, or it would never hear that the peer has left.
        await asyncio.sleep(0)
        await self.writable.wait()
        if self.lost:
            raise asyncio.CancelledError

    def answered(self):
        if self.answering:
            if not self.answering.path.startswith("/_"):
                self.receiver.unanswered[self.answering.label] -= 1
            self.answering = None

    def finish(self, close=False):
        """The answer is sent: go on with what has arrived meanwhile."""
        if close or (self.answering and self.answering.close):
            self.transport.close()
        self.answered()
        self.task = None
        if self.buffer:
            asyncio.get_running_loop().call_soon(self.advance)

    def reset(self):
        """Close so that the peer gets an RST."""
        sock = self.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()


def reason(status):
    try:
        return http.HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"


def failure(connection, request, status=503):
    """Answer with an error, as the query string details it."""
    status = int(request.option("status", status))
    headers = []
    after = request.option("retry_after")
    if after is not None:
        headers.append(f"Retry-After: {after}")
    seconds = request.option("retry_after_date")
    if seconds is not None:
        date = email.utils.formatdate(time.time() + float(seconds), usegmt=True)
        headers.append(f"Retry-After: {date}")
    body = OK_BODY if status < 300 else b'{"error":"%d %s"}' % (status, reason(status).encode())
    connection.answer(status, body, headers)


def ok(connection, request):
    connection.answer(200)


def status_code(connection, request, code):
    failure(connection, request, int(code))


def redirect(connection, request):
    status = int(request.option("status", 302))
    connection.answer(status, b"{}", [f"Location: {request.option('to', '/ok')}"])


def fail_then(connection, request, times, then, *rest):
    if then != "then":
        raise ValueError("/fail/N/then/REST is what is understood")
    key = request.target
    connection.receiver.tries[key] += 1
    if connection.receiver.tries[key] <= int(times):
        return failure(connection, request)
    return connection.behave(request, "/".join(rest))


def flaky(connection, request, times):
    key = (request.target, request.headers.get("webhook-id"))
    connection.receiver.tries[key] += 1
    if connection.receiver.tries[key] <= int(times):
        failure(connection, request)
    else:
        connection.answer(200)


def down_until_told(connection, request):
    if connection.receiver.is_up(request.label):
        connection.answer(200)
    else:
        failure(connection, request)


async def hang_until_told(connection, request):
    receiver = connection.receiver
    async with receiver.told:
        await receiver.told.wait_for(lambda: receiver.is_up(request.label))
    connection.answer(int(request.option("status", 200)))


def scripted(connection, request):
    replies = connection.receiver.replies.get(request.label)
    if not replies:
        raise ValueError(f"no replies are set for {request.label!r}")
    reply = replies.pop(0) if len(replies) > 1 else replies[0]
    body = reply.get("body", "")
    if not isinstance(body, str):
        body = json.dumps(body)
    headers = [f"{name}: {value}" for name, value in reply.get("headers", {}).items()]
    connection.answer(int(reply.get("status", 200)), body.encode(), headers)


async def scripted_until_told(connection, request):
    receiver = connection.receiver
    async with receiver.told:
        await receiver.told.wait_for(lambda: receiver.is_up(request.label))
    scripted(connection, request)


def signed(connection, request):
    keys = connection.receiver.secrets.of(request.label)
    verified = verify(request.headers, bytes(request.body), keys, request.time)
    failure(connection, request, 200 if verified["standard"] else 401)


def echo(connection, request):
    connection.answer(200, bytes(request.body))


async def delay(connection, request, milliseconds):
    await asyncio.sleep(float(milliseconds) / 1000)
    connection.answer(200)


async def slow_headers(connection, request, seconds):
    end = time.monotonic() + float(seconds)
    connection.send(b"HTTP/1.1 200 OK\r\n")
    number = 0
    while (left := end - time.monotonic()) > 0:
        await asyncio.sleep(min(DRIP, left))
        number += 1
        connection.send(b"X-Drip: %d\r\n" % number)
    connection.send(b"Content-Length: %d\r\n\r\n%s" % (len(OK_BODY), OK_BODY))
    connection.finish()


async def slow_body(connection, request, seconds):
    end = time.monotonic() + float(seconds)
    size = max(1, round(float(seconds) / DRIP))
    connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
    for left in range(size, 0, -1):
        await asyncio.sleep(max(0, (end - time.monotonic()) / left))
        connection.send(b".")
    connection.finish()


def slow_read(connection, request, seconds):
    connection.answer(200)          # the waiting was done before the body


def hang(connection, request):
    pass


async def endless(connection, request):
    every = request.option("every")
    connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    piece = b"." * (1 if every else 65536)
    while True:
        await connection.send_slowly(b"%x\r\n%s\r\n" % (len(piece), piece))
        if every:
            await asyncio.sleep(float(every))


async def big(connection, request, size):
    left = int(size)
    connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % left)
    while left > 0:
        piece = min(left, 1 << 20)
        await connection.send_slowly(b"." * piece)
        left -= piece
    connection.finish()


def many_headers(connection, request):
    size = int(request.option("size", 100))
    headers = [f"X-Many-{n}: {'v' * size}" for n in range(int(request.option("n", 1000)))]
    connection.answer(200, headers=headers)


def chunked(connection, request):
    connection.send(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Trailer\r\n\r\n"
        b'9;ext=1\r\n{"receive\r\n8\r\nd":true}\r\n0\r\nX-Trailer: yes\r\n\r\n'
    )
    connection.finish()


def interim(connection, request):
    connection.send(
        b"HTTP/1.1 100 Continue\r\n\r\n"
        b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\nRetry-After: 3600\r\n\r\n"
    )
    failure(connection, request, 200)


def nul(connection, request):
    body = b'{"nul":"\x00","not utf-8":"\xff\xfe\xc3\x28","half":"\xf0\x9f\x98"}'
    connection.answer(200, body, ["X-Not-Utf-8: \xff\xfe"])


def close(connection, request):
    connection.answer(200, close=True)


def stale(connection, request):
    connection.answer(200, headers=["Keep-Alive: timeout=60"])
    connection.transport.close()


def eof(connection, request):
    connection.transport.close()


def reset(connection, request):
    connection.reset()


def gzipped(connection, request, size):
    body = gzip.compress(b"\0" * int(size))
    connection.answer(200, body, [f"Content-Encoding: {request.option('encoding', 'gzip')}"])


def long_header(connection, request, size):
    connection.answer(200, headers=["X-Long: " + "v" * int(size)])


def nul_header(connection, request):
    connection.answer(200, headers=["X-Nul: a\0b"])


async def interims(connection, request, times):
    left = int(times) or -1
    while left:
        await connection.send_slowly(b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n")
        left -= 1
    connection.answer(200)


async def trailers(connection, request):
    connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n")
    while True:
        await connection.send_slowly(b"X-Trailer: yes\r\n")


def reset_mid_body(connection, request):
    connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"." * 500)
    connection.reset()


def garbage(connection, request):
    connection.send(b"\x16\x03\x01\x00\xa5this is not HTTP\r\n\r\n")
    connection.transport.close()


BEHAVIOURS = {
    "ok": ok,
    "empty": lambda connection, request: connection.answer(204),
    "gone": lambda connection, request: failure(connection, request, 410),
    "signed": signed,
    "status": status_code,
    "redirect": redirect,
    "fail": fail_then,
    "flaky": flaky,
    "down-until-told": down_until_told,
    "hang-until-told": hang_until_told,
    "scripted": scripted,
    "scripted-until-told": scripted_until_told,
    "echo": echo,
    "delay-ms": delay,
    "slow-headers": slow_headers,
    "slow-body": slow_body,
    "slow-read": slow_read,
    "hang": hang,
    "endless": endless,
    "big": big,
    "many-headers": many_headers,
    "chunked": chunked,
    "continue": interim,
    "nul": nul,
    "close": close,
    "stale": stale,
    "eof": eof,
    "reset": reset,
    "reset-mid-body": reset_mid_body,
    "gzip": gzipped,
    "long-header": long_header,
    "nul-header": nul_header,
    "interim": interims,
    "trailers": trailers,
    "garbage": garbage,
}


def stop_at_end_of_input(loop, stop):
    """Runs in a thread: sets stop when standard input has ended."""
    try:
        while os.read(0, 4096):
            pass
    except OSError:
        pass
    try:
        loop.call_soon_threadsafe(stop.set)
    except RuntimeError:
        pass                        # it stopped for another reason


def set_tls_version(context, version):
    """Speak this version of TLS only, however old."""
    warnings.simplefilter("ignore", DeprecationWarning)
    number = ssl.TLSVersion["TLSv" + version.replace(".", "_")]
    if number < ssl.TLSVersion.TLSv1_2:
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = number
    context.minimum_version = number


def send_alerts():
    """Have asyncio tell a client whose handshake failed why, as other servers do."""
    protocol = asyncio.sslproto.SSLProtocol
    original = protocol._on_handshake_complete

    def on_handshake_complete(self, error):
        if error is not None:
            if hasattr(self, "_process_outgoing"):
                self._process_outgoing()
            else:                   # before Python 3.11
                self._transport.write(self._sslpipe._outgoing.read())
        original(self, error)

    protocol._on_handshake_complete = on_handshake_complete


async def serve(options):
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if not options.ignore_stdin:
        threading.Thread(target=stop_at_end_of_input, args=(loop, stop), daemon=True).start()
    context = None
    if options.cert:
        send_alerts()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(options.cert, options.key)
        context.set_alpn_protocols(["http/1.1"])
        if options.client_ca:
            context.verify_mode = ssl.CERT_OPTIONAL if options.client_optional else ssl.CERT_REQUIRED
            context.load_verify_locations(options.client_ca)
        if options.tls:
            set_tls_version(context, options.tls)
    receiver = Receiver(Secrets(options.secret, options.secrets), options.log, options.brief)
    server = await loop.create_server(
        lambda: Connection(receiver), options.host, options.port, ssl=context, backlog=1024
    )
    print("listening", server.sockets[0].getsockname()[1], flush=True)
    await stop.wait()
    server.close()


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--log", metavar="FILE", help="log requests to FILE, JSON lines")
    parser.add_argument("--brief", action="store_true", help="log little of each")
    parser.add_argument("--secret", metavar="NAME=SECRET", action="append", default=[])
    parser.add_argument("--secrets", metavar="FILE", help="a JSON object, label to secret")
    parser.add_argument("--cert", metavar="FILE", help="serve TLS with this certificate")
    parser.add_argument("--key", metavar="FILE", help="its key, if not in the same file")
    parser.add_argument(
        "--client-ca", metavar="FILE", help="require a client certificate of this authority"
    )
    parser.add_argument(
        "--client-optional", action="store_true", help="but serve those without one, too"
    )
    parser.add_argument("--tls", metavar="VERSION", help="speak this version only, such as 1.1")
    parser.add_argument(
        "--ignore-stdin", action="store_true", help="go on after the end of standard input"
    )
    options = parser.parse_args()
    if sys.stdin is None and not options.ignore_stdin:
        parser.error("standard input is closed: use --ignore-stdin")
    asyncio.run(serve(options))


if __name__ == "__main__":
    main()
