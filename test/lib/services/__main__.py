#!/usr/bin/env python3
"""Stand-ins for the services that the connectors send to, in memory.

    python3 services [--log FILE]

binds a free port of 127.0.0.1, prints "listening PORT", and serves until
SIGTERM or the end of its standard input.  It needs Python's standard library
only.  It holds senders to what the services have published, and where they are
lenient (a property that they do not know, say) it is not: a request that is
accepted here breaks no rule.  Lengths are counted in UTF-16 units.

Services, each below a path that begins with its name.  A ~ and a label after
the name make another account, with a state of its own: /hubspot~second/crm/...
    /slack/services/T.../B.../TOKEN         incoming webhooks
    /slack/api/chat.postMessage             messages with a bot's token
    /discord/api/webhooks/ID/TOKEN          execute (?wait=true), and GET
    /hubspot/crm/objects/2026-03/TYPE       contacts, notes, deals: create, read,
                                            update, list, search, batch/upsert
    /hubspot/account-info/2026-03/details
    /salesforce/services/oauth2/token       client credentials, form-encoded
    /salesforce/services/data/v68.0/        query, limits, sobjects (Lead, Contact,
                                            Task): create, read, update, upsert
    /zendesk/oauth/tokens                   client credentials, JSON or form-encoded
    /zendesk/api/v2/                        tickets, search, users/me
    /pagerduty/v2/enqueue                   Events v2

Credentials are made at the start and are those of every account; what the two
token endpoints give is good for the account that was asked, until it expires.

Log
    One JSON object a line, written before the reply is sent: seq, time (Unix,
    when the request was whole), label (the service, with ~ and its account),
    method, path (without the service), query, headers (lower-case names), body,
    status and reply (null if none is sent), fault (what a control has done).

Control (neither logged nor counted)
    GET  /_state                the accounts by label, requests (the log), faults
    GET  /_state?service=LABEL  one account
    GET  /_credentials          what a sender has to know, by service
    POST /_reset                forgets all but the credentials, ends what hangs
    POST /_control              {"service": S, "do": DO, ...}; S is a label, or a
                                name for all the accounts of a service

What POST /_control does at once
    expire_tokens   the tokens issued so far are not valid any more
    release         what hangs goes on, and no fault is left
    forget_keys     Zendesk's idempotency keys are forgotten
    seed            {"object": "Contact", "fields": {...}}: makes one, gives its id
    configure       {"settings": {...}} of the account:
        expires_in      seconds for which a token is good, 0: not said
        duplicate_rule  Salesforce: a Lead with the address of another is refused
        forum           Discord: the channel is a forum
        search_lag      Zendesk: search does not find the tickets of this run
        properties      HubSpot: {"notes": ["chat_event"]}, more properties, unique
                        ones in "unique" likewise
        fields          Salesforce: {"Lead": {"Chat__c": 255}}, more fields by length,
                        those that are external ids in "external_ids"

and what it does to the next requests of a service, not to those for tokens
unless "match" has "oauth" in it.  "match" is a part of the path, "skip" how many
requests that fit it lets pass first, "times" how many it catches (1; 0: all).
    status          a reply with "status", "headers", "body"; the service's own
                    error body and headers without them
    rate_limit      the service's own 429; "retry_after" in seconds
    lose_reply      processes the request, then closes without a reply
    hang            neither processes it nor replies, until released
    hang_after_processing
    status_after_processing
"""

import argparse
import http
import http.server
import json
import os
import select
import signal
import socket
import sys
import threading
import time
import urllib.parse

from base import Invalid, Reply
from discord import Discord
from hubspot import HubSpot
from pagerduty import PagerDuty
from salesforce import Salesforce
from slack import Slack
from zendesk import Zendesk

MAX_BODY = 4 << 20
SERVICES = {"slack": Slack, "discord": Discord, "hubspot": HubSpot, "salesforce": Salesforce,
            "zendesk": Zendesk, "pagerduty": PagerDuty}


class Request:
    """A request as the services see it: without their prefix."""

    def __init__(self, handler, body):
        self.time = time.time()
        self.method = handler.command
        self.target = handler.path
        path, _, self.query = handler.path.partition("?")
        _, self.label, rest = (path + "/").split("/", 2)
        self.path = "/" + rest[:-1]
        self.headers = {}
        for name, value in handler.headers.items():
            name = name.lower()
            self.headers[name] = f"{self.headers[name]}, {value}" if name in self.headers else value
        self.body = body

    def parameters(self):
        return dict(urllib.parse.parse_qsl(self.query, keep_blank_values=True))


class Services:
    """The accounts, the log and the faults: all that there is, behind one lock."""

    def __init__(self, log):
        self.lock = threading.Condition()
        # new ones for each run, so that a search for them finds what this run left
        self.credentials = {name: service.make_credentials() for name, service in SERVICES.items()}
        self.log = open(log, "ab", buffering=0) if log else None
        self.generation = 0
        self.forget()

    def forget(self):
        self.accounts = {}
        self.requests = []
        self.faults = []
        self.generation += 1
        self.lock_notify()
        if self.log:
            self.log.truncate(0)

    def lock_notify(self):
        with self.lock:
            self.lock.notify_all()

    def account(self, label):
        if label not in self.accounts:
            name = label.split("~")[0]
            self.accounts[label] = SERVICES[name](label, self.credentials[name])
        return self.accounts[label]

    def named(self, service):
        """The accounts that a control is for."""
        self.account(service)
        return [a for label, a in self.accounts.items() if service in (label, label.split("~")[0])]

    def fault_for(self, request):
        """The fault that this request meets, if any."""
        for fault in self.faults:
            if fault["service"] not in (request.label, request.label.split("~")[0]):
                continue
            path = request.path + ("?" + request.query if request.query else "")
            if fault.get("match") not in (None, "") and fault["match"] not in path:
                continue
            if "oauth" in request.path and "oauth" not in (fault.get("match") or ""):
                continue
            if fault["times"] and fault["hits"] >= fault["times"]:
                continue
            if fault["skip"] > 0:
                fault["skip"] -= 1
                continue
            fault["hits"] += 1
            return fault
        return None

    def process(self, request, account):
        if account.token_path and request.path == account.token_path:
            account.token_requests += 1
        try:
            return account.handle(request)
        except Reply as reply:
            return reply

    def scripted(self, fault, account):
        """The reply that a fault wants."""
        if fault["do"] == "rate_limit":
            return account.rate_limited(fault.get("retry_after"))
        status = int(fault.get("status", 503))
        reply = account.error(status, http.HTTPStatus(status).phrase if status in http.HTTPStatus._value2member_map_ else str(status))
        if "body" in fault:
            reply.body = fault["body"]
        reply.headers.update({name: str(value) for name, value in (fault.get("headers") or {}).items()})
        return reply

    def answer(self, request, gone):
        """The reply to a request of a sender; None: close without one."""
        with self.lock:
            account = self.account(request.label)
            fault = self.fault_for(request)
            do = fault["do"] if fault else None
            reply = None
            if do in ("status", "rate_limit"):
                reply = self.scripted(fault, account)
            elif do != "hang":
                reply = self.process(request, account)
            entry = self.record(request, do, reply if do in (None, "status", "rate_limit") else None,
                                self.scripted(fault, account) if do == "status_after_processing" else None)
            if do == "status_after_processing":
                return self.scripted(fault, account)
            if do == "lose_reply":
                return None
            if do in ("hang", "hang_after_processing"):
                generation = self.generation
                while not fault.get("released") and self.generation == generation:
                    self.lock.wait(0.05)
                    if gone():
                        return None
                if self.generation != generation:
                    return None
                if do == "hang":
                    reply = self.process(request, account)
                entry["status"] = reply.status
            return reply

    def record(self, request, do, reply, scripted):
        reply = reply or scripted
        entry = {"seq": len(self.requests) + 1, "time": round(request.time, 6), "label": request.label,
                 "method": request.method, "path": request.path, "query": request.query,
                 "headers": request.headers, "body": request.body.decode(errors="replace"),
                 "status": reply.status if reply else None,
                 "reply": reply.payload()[0].decode() if reply else None, "fault": do}
        self.requests.append(entry)
        if self.log:
            self.log.write(json.dumps(entry, ensure_ascii=False).encode() + b"\n")
        return entry

    def state(self, service):
        if service:
            return self.account(service).state()
        return {**{label: account.state() for label, account in self.accounts.items()},
                "requests": self.requests, "faults": self.faults}

    def control(self, what):
        """Do what POST /_control says; what to answer."""
        service, do = what["service"], what["do"]
        accounts = self.named(service)
        if do == "expire_tokens":
            for account in accounts:
                if hasattr(account, "expire_tokens"):
                    account.expire_tokens()
                account.tokens = dict.fromkeys(account.tokens, 0)
        elif do == "release":
            for fault in self.faults:
                if service in (fault["service"], fault["service"].split("~")[0]):
                    fault.update(released=True, times=fault["hits"] or -1)
            self.faults = [f for f in self.faults if f["times"] >= 0]
            self.lock.notify_all()
        elif do == "forget_keys":
            for account in accounts:
                account.keys = {}
        elif do == "seed":
            return {"id": self.account(service).seed(what.get("object"), what.get("fields", {}))}
        elif do == "configure":
            for account in accounts:
                account.settings.update(what.get("settings", {}))
        elif do in ("status", "rate_limit", "lose_reply", "hang", "hang_after_processing", "status_after_processing"):
            self.faults.append({"times": 1, "skip": 0, **what, "hits": 0})
        else:
            raise ValueError(f"{do} is not understood")
        return {}


class Handler(http.server.BaseHTTPRequestHandler):
    """One connection, kept open as long as its client likes."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    services = None

    def log_message(self, *args):
        pass

    def read_body(self):
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            body = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
            return body
        length = int(self.headers.get("content-length") or 0)
        if length > MAX_BODY:
            raise ValueError("too long")
        return self.rfile.read(length)

    def gone(self):
        """Whether the client has left."""
        try:
            readable = select.select([self.connection], [], [], 0)[0]
            return bool(readable) and not self.connection.recv(1, socket.MSG_PEEK)
        except OSError:
            return True

    def send(self, reply):
        body, kind = reply.payload()
        try:
            phrase = http.HTTPStatus(reply.status).phrase
        except ValueError:
            phrase = "Unknown"
        headers = dict(reply.headers)
        if kind:
            headers.setdefault("Content-Type", kind)
        if reply.status not in (204, 304):
            headers["Content-Length"] = str(len(body))
        head = f"HTTP/1.1 {reply.status} {phrase}\r\n" + "".join(
            f"{name}: {value}\r\n" for name, value in headers.items()) + "\r\n"
        self.wfile.write(head.encode("latin-1", "replace") + (body if self.command != "HEAD" else b""))

    def handle_any(self):
        try:
            body = self.read_body()
            request = Request(self, body)
            reply = self.internal(request) if request.label.startswith("_") else self.external(request)
        except (ValueError, KeyError) as error:
            reply = Reply(400, {"error": f"{type(error).__name__}: {error}"})
            self.close_connection = True
        if reply is None:
            self.close_connection = True
            return
        self.send(reply)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_OPTIONS = handle_any

    def external(self, request):
        if request.label.split("~")[0] not in SERVICES:
            return Reply(404, {"error": f"no service: /{request.label}"})
        return self.services.answer(request, self.gone)

    def internal(self, request):
        services = self.services
        with services.lock:
            name = (request.method, request.label)
            if name == ("GET", "_state"):
                return Reply(200, services.state(request.parameters().get("service")))
            if name == ("GET", "_credentials"):
                return Reply(200, services.credentials)
            if name == ("POST", "_reset"):
                services.forget()
                return Reply(200, {})
            if name == ("POST", "_control"):
                try:
                    return Reply(200, services.control(json.loads(request.body)))
                except Reply as reply:
                    return reply
                except (ValueError, KeyError, TypeError, Invalid) as error:
                    return Reply(400, {"error": f"{type(error).__name__}: {error}"})
        return Reply(404, {"error": "no such control endpoint"})


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], OSError):      # a client that left is none
            super().handle_error(request, client_address)


def stop_at_end_of_input():
    """Runs in a thread: ends the program when standard input has ended."""
    try:
        while os.read(0, 4096):
            pass
    except OSError:
        pass
    os._exit(0)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--log", metavar="FILE", help="log requests to FILE, JSON lines")
    parser.add_argument("--ignore-stdin", action="store_true", help="go on after the end of standard input")
    options = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *args: os._exit(0))
    Handler.services = Services(options.log)
    server = Server(("127.0.0.1", options.port), Handler)
    if not options.ignore_stdin:
        threading.Thread(target=stop_at_end_of_input, daemon=True).start()
    print("listening", server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
