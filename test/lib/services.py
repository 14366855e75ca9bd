#!/usr/bin/env python3
"""Stand-ins for the services that the connectors send to, in memory.

    services.py [--log FILE]

binds a free port of 127.0.0.1, prints "listening PORT", and serves until
SIGTERM or the end of its standard input.  It needs Python's standard library
only.  It holds senders to what the services have published, and where they are
lenient (a property that they do not know, say) it is not: a request that is
accepted here breaks no rule.  Lengths are counted in UTF-16 units.

Services, each below a path that begins with its name.  A ~ and a label after
the name make another account, with a state of its own: /hubspot~second/crm/...
    /slack/services/T.../B.../TOKEN         incoming webhooks
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
import base64
import binascii
import datetime
import http
import http.server
import json
import os
import re
import secrets
import select
import signal
import socket
import sys
import threading
import time
import urllib.parse

MAX_BODY = 4 << 20
EMAIL = re.compile(r"[^\s@<>,;:\\\"()\[\]']+('[^\s@<>,;:\\\"()\[\]']*)*@[^\s@<>,;:\\\"()\[\]']+\.[A-Za-z]{2,}\Z")
SURROGATE = re.compile("[\ud800-\udfff]")


class Reply(Exception):
    """What to answer; an error of the service's is raised."""

    def __init__(self, status, body=None, headers=None):
        super().__init__(status)
        self.status = status
        self.body = body
        self.headers = dict(headers or {})

    def payload(self):
        """The body as bytes, with its content type."""
        if self.body is None:
            return b"", None
        if isinstance(self.body, str):
            return self.body.encode(), "text/plain;charset=utf-8"
        return json.dumps(self.body, ensure_ascii=False).encode(), "application/json;charset=utf-8"


class Invalid(Exception):
    """A body breaks a rule: where, and which."""

    def __init__(self, where, what, code="invalid"):
        super().__init__(f"{where}: {what}")
        self.where = where
        self.what = what
        self.code = code


#
# What is common to the rules of all
#
def units(text):
    """The length as the strictest of them count it."""
    return len(text.encode("utf-16-le")) // 2


def parse_json(body):
    """Strict JSON: UTF-8, no name twice, no NaN, no half of a character."""
    def members(pairs):
        result = dict(pairs)
        if len(result) != len(pairs):
            raise ValueError("a name is there twice")
        return result

    def constant(name):
        raise ValueError(f"{name} is not JSON")

    def whole(value):
        if isinstance(value, str):
            if SURROGATE.search(value) or "\0" in value:
                raise ValueError("half of a character, or a NUL")
        elif isinstance(value, list):
            for element in value:
                whole(element)
        elif isinstance(value, dict):
            for name, element in value.items():
                whole(name)
                whole(element)
        return value

    return whole(json.loads(body.decode(), object_pairs_hook=members, parse_constant=constant))


def obj(value, where, allowed, required=()):
    """An object with these members and no other."""
    if not isinstance(value, dict):
        raise Invalid(where, "must be an object", "type")
    for name in value:
        if name not in allowed:
            raise Invalid(f"{where}.{name}", "is not known", "unknown")
    for name in required:
        if value.get(name) is None:
            raise Invalid(f"{where}.{name}", "is required", "required")
    return value


def text(value, where, most, least=0):
    """A string of that length."""
    if not isinstance(value, str):
        raise Invalid(where, "must be a string", "type")
    if units(value) > most:
        raise Invalid(where, f"must be {most} or fewer in length, is {units(value)}", "length")
    if units(value.strip()) < least:
        raise Invalid(where, "must not be blank", "blank")
    return value


def array(value, where, most, least=0):
    if not isinstance(value, list):
        raise Invalid(where, "must be an array", "type")
    if not least <= len(value) <= most:
        raise Invalid(where, f"must have {least} to {most} elements, has {len(value)}", "count")
    return value


def one_of(value, where, choices):
    if not isinstance(value, str) or value not in choices:
        raise Invalid(where, f"must be one of {', '.join(sorted(choices))}", "choice")
    return value


def boolean(value, where):
    if not isinstance(value, bool):
        raise Invalid(where, "must be true or false", "type")


def web_address(value, where, most=2048):
    text(value, where, most, 1)
    try:
        parts = urllib.parse.urlsplit(value)
        good = parts.scheme in ("http", "https") and parts.hostname and not re.search(r"\s", value)
    except ValueError:
        good = False
    if not good:
        raise Invalid(where, "must be an http or https URL", "url")


def timestamp(value, where):
    """An ISO 8601 date and time, as a datetime."""
    try:
        if not isinstance(value, str) or "T" not in value:
            raise ValueError
        moment = datetime.datetime.fromisoformat(value.replace("Z", "+00:00"))
        return moment if moment.tzinfo else moment.replace(tzinfo=datetime.timezone.utc)
    except ValueError:
        raise Invalid(where, "must be a time in ISO 8601", "time") from None


def now():
    moment = datetime.datetime.now(datetime.timezone.utc)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03}Z"


class Account:
    """What every service's account has."""

    token_path = None

    def __init__(self, label, credentials):
        self.label = label
        self.credentials = credentials
        self.settings = {}
        self.tokens = {}                # token: when it expires
        self.issued = 0
        self.token_requests = 0
        self.last_id = 0

    def next_id(self):
        self.last_id += 1
        return self.last_id

    def state(self):
        return {"token_requests": self.token_requests, "tokens": list(self.tokens),
                **self.objects()}

    def objects(self):
        return {}

    def json(self, request):
        """The request's body, of the right type."""
        kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
        if kind != "application/json":
            raise self.error(415, f"Content-Type {kind or 'missing'}")
        try:
            return parse_json(request.body)
        except (ValueError, RecursionError) as error:
            raise self.error(400, f"JSON: {error}") from None

    def bearer(self, request):
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        return token if kind.lower() == "bearer" else None

    def token_is_good(self, token):
        return self.tokens.get(token, 0) > time.time()

    def issue_token(self, form):
        """A new access token for client credentials; Reply where they are not right."""
        token = f"{self.token_prefix}{secrets.token_urlsafe(40)}"
        self.tokens[token] = time.time() + (self.settings.get("expires_in") or 7200)
        return token

    def token_form(self, request, kinds):
        """The parameters of a request for a token."""
        kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
        if request.method != "POST":
            raise Reply(405, {"error": "invalid_request", "error_description": "must be POST"})
        if request.query:
            raise Reply(400, {"error": "invalid_request",
                              "error_description": "parameters belong into the body"})
        if kind not in kinds:
            raise Reply(400, {"error": "invalid_request", "error_description": "Content-Type"})
        try:
            if kind == "application/json":
                form = parse_json(request.body)
                if not isinstance(form, dict):
                    raise ValueError("not an object")
            else:
                pairs = urllib.parse.parse_qsl(
                    request.body.decode(), keep_blank_values=True, strict_parsing=True)
                form = dict(pairs)
                if len(form) != len(pairs):
                    raise ValueError("a parameter is there twice")
        except ValueError as error:
            raise Reply(400, {"error": "invalid_request", "error_description": str(error)}) from None
        basic = basic_credentials(request)
        if basic:
            form.setdefault("client_id", basic[0])
            form.setdefault("client_secret", basic[1])
        if form.get("grant_type") != "client_credentials":
            raise Reply(400, {"error": "unsupported_grant_type",
                              "error_description": "grant type not supported"})
        for name in form:
            if name not in ("grant_type", "client_id", "client_secret", "scope", "expires_in"):
                raise Reply(400, {"error": "invalid_request",
                                  "error_description": f"{name} is not known"})
        return form

    # overridden
    def error(self, status, what):
        return Reply(status, {"error": what})

    def rate_limited(self, seconds):
        headers = {} if seconds is None else {"Retry-After": str(int(-(-seconds // 1)))}
        return Reply(429, {"error": "rate limited"}, headers)

    def seed(self, kind, fields):
        raise ValueError(f"{self.label} cannot be seeded")


def basic_credentials(request):
    kind, _, value = request.headers.get("authorization", "").partition(" ")
    if kind.lower() != "basic":
        return None
    try:
        name, colon, password = base64.b64decode(value, validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        return None
    return (name, password) if colon else None


#
# Slack: incoming webhooks
#
class Slack(Account):
    """Replies are plain text; an error is a word."""

    ERRORS = {400: "invalid_payload", 403: "invalid_token", 404: "no_service",
              410: "channel_is_archived", 415: "invalid_payload", 500: "rollup_error"}

    def __init__(self, *args):
        super().__init__(*args)
        self.messages = []

    def objects(self):
        return {"messages": self.messages}

    def error(self, status, what):
        return Reply(status, self.ERRORS.get(status, what), {"X-Slack-Failure": what[:200].encode("ascii", "replace").decode()})

    def rate_limited(self, seconds):
        return Reply(429, "rate_limited", {"Retry-After": str(int(-(-(seconds or 1) // 1)))})

    def handle(self, request):
        match = re.fullmatch(r"/services/(T\w+)/(B\w+)/(\w+)", request.path)
        if not match or request.query:
            raise Reply(404, "no_service")
        if f"/services/{'/'.join(match.groups())}" != self.credentials["path"]:
            same = match.group(2) == self.credentials["path"].split("/")[3]
            raise Reply(403, "invalid_token") if same else Reply(404, "no_service")
        if request.method != "POST":
            raise self.error(400, "not POST")
        message = self.json(request)
        try:
            texts = self.check(message)
        except Invalid as invalid:
            word = {"blank": "no_text"}.get(invalid.code, "invalid_payload")
            if ".blocks" in invalid.where:
                word = "invalid_blocks"
            raise Reply(400, word, {"X-Slack-Failure": str(invalid)[:200].encode("ascii", "replace").decode()}) from None
        mrkdwn = [text for kind, text in texts if kind == "mrkdwn"]
        self.messages.append({
            "message": message,
            # what Slack would make of the texts: notifications, links, and what
            # somebody has forgotten to escape
            "mentions": [m for t in mrkdwn for m in re.findall(r"<([!@#][^>]*)>", t)],
            "links": [m for t in mrkdwn for m in re.findall(r"<((?:https?|mailto):[^|>]*)", t)],
            "unescaped": [t for t in mrkdwn if self.unescaped(t)],
        })
        return Reply(200, "ok")

    @staticmethod
    def unescaped(value):
        rest = re.sub(r"<([!@#]|https?:|mailto:)[^<>]*>", "", value)
        rest = re.sub(r"&(amp|lt|gt);", "", rest)
        return bool(re.search(r"[&<]|(?<!\n)(?<!\A)>", rest))

    def check(self, message):
        """Check a message; its texts with their kinds."""
        obj(message, "message", {
            "text", "blocks", "attachments", "thread_ts", "mrkdwn", "unfurl_links",
            "unfurl_media", "response_type", "replace_original", "delete_original"})
        texts = []
        if "text" in message:
            text(message["text"], "message.text", 12000)
            texts.append(("mrkdwn" if message.get("mrkdwn", True) else "plain", message["text"]))
        if not message.get("text", "").strip() and not message.get("blocks"):
            raise Invalid("message.text", "is missing", "blank")
        for name in ("unfurl_links", "unfurl_media", "mrkdwn"):
            if name in message:
                boolean(message[name], f"message.{name}")
        if "attachments" in message:
            raise Invalid("message.attachments", "are legacy", "unknown")
        ids = set()
        for n, block in enumerate(array(message.get("blocks", []), "message.blocks", 50)):
            where = f"message.blocks[{n}]"
            if not isinstance(block, dict):
                raise Invalid(where, "must be an object")
            check = getattr(self, f"check_{block.get('type')}", None)
            if check is None:
                raise Invalid(f"{where}.type", "is not known")
            self.unique(block, "block_id", where, ids)
            check(block, where, texts, ids)
        if sum(units(t) for kind, t in texts) > 12000 + units(message.get("text", "")):
            raise Invalid("message.blocks", "msg_blocks_too_long")
        return texts

    @staticmethod
    def unique(element, name, where, ids):
        if name in element:
            text(element[name], f"{where}.{name}", 255, 1)
            if (name, element[name]) in ids:
                raise Invalid(f"{where}.{name}", "is there twice")
            ids.add((name, element[name]))

    @staticmethod
    def text_object(value, where, most, texts, kinds=("plain_text", "mrkdwn")):
        obj(value, where, {"type", "text", "emoji", "verbatim"}, ("type", "text"))
        one_of(value["type"], f"{where}.type", kinds)
        text(value["text"], f"{where}.text", most, 1)
        for name, kind in (("emoji", "plain_text"), ("verbatim", "mrkdwn")):
            if name in value:
                boolean(value[name], f"{where}.{name}")
                if value["type"] != kind:
                    raise Invalid(f"{where}.{name}", f"goes with {kind} only")
        texts.append((value["type"], value["text"]))

    def check_header(self, block, where, texts, ids):
        obj(block, where, {"type", "block_id", "text"}, ("text",))
        self.text_object(block["text"], f"{where}.text", 150, texts, ("plain_text",))

    def check_divider(self, block, where, texts, ids):
        obj(block, where, {"type", "block_id"})

    def check_section(self, block, where, texts, ids):
        obj(block, where, {"type", "block_id", "text", "fields", "accessory", "expand"})
        if "text" not in block and "fields" not in block:
            raise Invalid(where, "needs text or fields")
        if "text" in block:
            self.text_object(block["text"], f"{where}.text", 3000, texts)
        if "fields" in block:
            for n, field in enumerate(array(block["fields"], f"{where}.fields", 10, 1)):
                self.text_object(field, f"{where}.fields[{n}]", 2000, texts)
        if "accessory" in block:
            self.button(block["accessory"], f"{where}.accessory", texts, ids)

    def check_actions(self, block, where, texts, ids):
        obj(block, where, {"type", "block_id", "elements"}, ("elements",))
        for n, element in enumerate(array(block["elements"], f"{where}.elements", 25, 1)):
            self.button(element, f"{where}.elements[{n}]", texts, ids)

    def button(self, element, where, texts, ids):
        obj(element, where, {"type", "text", "action_id", "url", "value", "style",
                             "accessibility_label"}, ("type", "text"))
        one_of(element["type"], f"{where}.type", ("button",))
        self.text_object(element["text"], f"{where}.text", 75, texts, ("plain_text",))
        self.unique(element, "action_id", where, ids)
        if "url" in element:
            web_address(element["url"], f"{where}.url", 3000)
        if "value" in element:
            text(element["value"], f"{where}.value", 2000)
        if "style" in element:
            one_of(element["style"], f"{where}.style", ("primary", "danger"))
        if "accessibility_label" in element:
            text(element["accessibility_label"], f"{where}.accessibility_label", 75)

    def check_context(self, block, where, texts, ids):
        obj(block, where, {"type", "block_id", "elements"}, ("elements",))
        for n, element in enumerate(array(block["elements"], f"{where}.elements", 10, 1)):
            if isinstance(element, dict) and element.get("type") == "image":
                self.check_image(element, f"{where}.elements[{n}]", texts, ids)
            else:
                self.text_object(element, f"{where}.elements[{n}]", 2000, texts)

    def check_image(self, block, where, texts, ids):
        obj(block, where, {"type", "block_id", "image_url", "alt_text", "title"},
            ("image_url", "alt_text"))
        web_address(block["image_url"], f"{where}.image_url", 3000)
        text(block["alt_text"], f"{where}.alt_text", 2000)
        if "title" in block:
            self.text_object(block["title"], f"{where}.title", 2000, texts, ("plain_text",))


#
# Discord: webhooks
#
class Discord(Account):
    """An error has a message, a code, and where the form is not valid."""

    def __init__(self, *args):
        super().__init__(*args)
        self.messages = []

    def objects(self):
        return {"messages": self.messages}

    def error(self, status, what):
        code = {400: 50109, 401: 50027, 404: 10015, 405: 0, 415: 50035}.get(status, 0)
        return Reply(status, {"message": f"{status}: {what}", "code": code})

    def rate_limited(self, seconds):
        seconds = 0.5 if seconds is None else seconds
        return Reply(429, {"message": "You are being rate limited.", "retry_after": seconds,
                           "global": False},
                     {"Retry-After": str(int(-(-seconds // 1))), "X-RateLimit-Limit": "5",
                      "X-RateLimit-Remaining": "0", "X-RateLimit-Reset-After": str(seconds),
                      "X-RateLimit-Bucket": "abcd1234", "X-RateLimit-Scope": "user"})

    def handle(self, request):
        match = re.fullmatch(r"/api(?:/v\d+)?/webhooks/(\d+)/([\w-]+)", request.path)
        if not match:
            raise Reply(404, {"message": "404: Not Found", "code": 0})
        if match.group(1) != self.credentials["id"]:
            raise Reply(404, {"message": "Unknown Webhook", "code": 10015})
        if match.group(2) != self.credentials["token"]:
            raise Reply(401, {"message": "Invalid Webhook Token", "code": 50027})
        if request.method == "GET":
            return Reply(200, {"id": match.group(1), "type": 1, "name": "Chat", "avatar": None,
                               "channel_id": "199737254929760256", "guild_id": "1997",
                               "application_id": None, "token": match.group(2)})
        if request.method != "POST":
            raise self.error(405, "Method Not Allowed")
        options = request.parameters()
        for name in options:
            if name not in ("wait", "thread_id", "with_components"):
                raise self.error(400, f"?{name}= is not known")
        message = self.json(request)
        try:
            self.check(message)
        except Invalid as invalid:
            if invalid.code == "empty":
                raise Reply(400, {"message": "Cannot send an empty message", "code": 50006}) from None
            raise Reply(400, {"message": "Invalid Form Body", "code": 50035, "errors": {
                invalid.where: {"_errors": [{"code": invalid.code, "message": invalid.what}]}}}) from None
        number = str(1500000000000000000 + self.next_id())
        self.messages.append({"id": number, "message": message, "pings": self.pings(message),
                              "wait": options.get("wait") == "true"})
        if options.get("wait") != "true":
            return Reply(204)
        return Reply(200, {
            "id": number, "type": 0, "channel_id": "199737254929760256",
            "content": message.get("content", ""), "embeds": message.get("embeds", []),
            "author": {"bot": True, "id": match.group(1), "username": message.get("username", "Chat")},
            "mentions": [], "mention_everyone": False, "timestamp": now(), "webhook_id": match.group(1)})

    @staticmethod
    def pings(message):
        """Whom the message would ping: what stands in embeds pings nobody."""
        content = message.get("content") or ""
        allowed = message.get("allowed_mentions")
        kinds = (("everyone", r"@everyone|@here"), ("roles", r"<@&\d+>"), ("users", r"<@!?\d+>"))
        found = []
        for kind, pattern in kinds:
            for mention in re.findall(pattern, content):
                number = re.sub(r"\D", "", mention)
                if (allowed is None or kind in allowed.get("parse", [])
                        or number in allowed.get(kind, [])):
                    found.append(mention)
        return found

    def check(self, message):
        obj(message, "message", {
            "content", "username", "avatar_url", "tts", "embeds", "allowed_mentions", "flags",
            "thread_name", "applied_tags", "components", "attachments", "poll"})
        for name in ("components", "attachments", "poll", "applied_tags", "thread_name"):
            if name in message:
                raise Invalid(name, "is nothing that this channel takes")
        if message.get("content") is not None:
            text(message["content"], "content", 2000)
        if not (message.get("content") or "").strip() and not message.get("embeds"):
            raise Invalid("content", "and no embed", "empty")
        if message.get("username") is not None:
            text(message["username"], "username", 80, 1)
            if re.search(r"clyde|discord", message["username"], re.I):
                raise Invalid("username", "cannot contain that word", "USERNAME_INVALID_CONTAINS")
        if message.get("avatar_url") is not None:
            web_address(message["avatar_url"], "avatar_url")
        if "tts" in message:
            boolean(message["tts"], "tts")
        if "allowed_mentions" in message:
            allowed = obj(message["allowed_mentions"], "allowed_mentions",
                          {"parse", "roles", "users", "replied_user"})
            for kind in array(allowed.get("parse", []), "allowed_mentions.parse", 3):
                one_of(kind, "allowed_mentions.parse", ("roles", "users", "everyone"))
            for kind in ("roles", "users"):
                array(allowed.get(kind, []), f"allowed_mentions.{kind}", 100)
                if kind in allowed and kind in allowed.get("parse", []):
                    raise Invalid(f"allowed_mentions.{kind}", "exclude each other")
        total = 0
        for n, embed in enumerate(array(message.get("embeds", []), "embeds", 10)):
            total += self.check_embed(embed, f"embeds.{n}")
        if total > 6000:
            raise Invalid("embeds", f"Embed size exceeds maximum size of 6000: {total}",
                          "MAX_EMBED_SIZE_EXCEEDED")

    @staticmethod
    def check_embed(embed, where):
        """Check an embed; how many characters it has."""
        obj(embed, where, {"title", "type", "description", "url", "timestamp", "color", "footer",
                           "image", "thumbnail", "author", "fields"})
        if not any(embed.get(name) for name in ("title", "description", "fields", "image",
                                                "author", "footer", "thumbnail")):
            raise Invalid(where, "is empty", "BASE_TYPE_REQUIRED")
        texts = []
        for name, most in (("title", 256), ("description", 4096)):
            if embed.get(name) is not None:
                texts.append(text(embed[name], f"{where}.{name}", most))
        if embed.get("url") is not None:
            web_address(embed["url"], f"{where}.url")
        if embed.get("timestamp") is not None:
            timestamp(embed["timestamp"], f"{where}.timestamp")
        color = embed.get("color", 0)
        if isinstance(color, bool) or not isinstance(color, int) or not 0 <= color <= 0xFFFFFF:
            raise Invalid(f"{where}.color", "must be an integer up to 16777215", "NUMBER_TYPE_COERCE")
        for name, key, most, others in (("footer", "text", 2048, {"icon_url"}),
                                        ("author", "name", 256, {"url", "icon_url"})):
            if name in embed:
                part = obj(embed[name], f"{where}.{name}", {key} | others, (key,))
                texts.append(text(part[key], f"{where}.{name}.{key}", most, 1))
                for other in others & part.keys():
                    web_address(part[other], f"{where}.{name}.{other}")
        for name in ("image", "thumbnail"):
            if name in embed:
                web_address(obj(embed[name], f"{where}.{name}", {"url"}, ("url",))["url"],
                            f"{where}.{name}.url")
        for n, field in enumerate(array(embed.get("fields", []), f"{where}.fields", 25)):
            place = f"{where}.fields.{n}"
            obj(field, place, {"name", "value", "inline"}, ("name", "value"))
            texts.append(text(field["name"], f"{place}.name", 256, 1))
            texts.append(text(field["value"], f"{place}.value", 1024, 1))
            if "inline" in field:
                boolean(field["inline"], f"{place}.inline")
        return sum(map(units, texts))


#
# HubSpot: the CRM's objects
#
class HubSpot(Account):
    """An error is {"status": "error", "message", "correlationId", "category"}."""

    PROPERTIES = {
        "contacts": {"email", "firstname", "lastname", "phone", "mobilephone", "company",
                     "website", "jobtitle", "address", "city", "state", "zip", "country",
                     "lifecyclestage", "hs_lead_status", "message", "hubspot_owner_id"},
        "notes": {"hs_timestamp", "hs_note_body", "hubspot_owner_id", "hs_attachment_ids"},
        "deals": {"dealname", "dealstage", "pipeline", "amount", "closedate", "description",
                  "dealtype", "deal_currency_code", "hs_priority", "hubspot_owner_id"},
    }
    REQUIRED = {"contacts": (), "notes": ("hs_timestamp",), "deals": ("dealname", "dealstage")}
    CHOICES = {
        "lifecyclestage": ["subscriber", "lead", "marketingqualifiedlead", "salesqualifiedlead",
                           "opportunity", "customer", "evangelist", "other"],
        "hs_lead_status": ["NEW", "OPEN", "IN_PROGRESS", "OPEN_DEAL", "UNQUALIFIED",
                           "ATTEMPTED_TO_CONTACT", "CONNECTED", "BAD_TIMING"],
        "pipeline": ["default", "chat"],
        "dealstage": ["appointmentscheduled", "qualifiedtobuy", "presentationscheduled",
                      "decisionmakerboughtin", "contractsent", "closedwon", "closedlost"],
        "hs_priority": ["low", "medium", "high"],
        "dealtype": ["newbusiness", "existingbusiness"],
    }
    ASSOCIATIONS = {
        "notes": {202: "contacts", 214: "deals"},
        "deals": {3: "contacts", 213: "notes"},
        "contacts": {201: "notes", 4: "deals"},
    }
    READ_ONLY = {"hs_object_id", "createdate", "lastmodifieddate", "hs_createdate"}

    def __init__(self, *args):
        super().__init__(*args)
        self.records = {kind: [] for kind in self.PROPERTIES}
        self.expired = False

    def objects(self):
        return self.records

    def fault(self, status, category, message, **more):
        return Reply(status, {"status": "error", "message": message,
                              "correlationId": secrets.token_hex(16), "category": category, **more})

    def error(self, status, what):
        category = {401: "INVALID_AUTHENTICATION", 403: "MISSING_SCOPES", 404: "OBJECT_NOT_FOUND",
                    405: "METHOD_NOT_ALLOWED", 409: "CONFLICT"}.get(
                        status, "INTERNAL_ERROR" if status >= 500 else "VALIDATION_ERROR")
        return self.fault(status, category, what)

    def rate_limited(self, seconds):
        reply = Reply(429, {
            "status": "error", "message": "You have reached your ten_secondly_rolling limit.",
            "errorType": "RATE_LIMIT", "correlationId": secrets.token_hex(16),
            "policyName": "TEN_SECONDLY_ROLLING", "category": "RATE_LIMITS"},
            {"X-HubSpot-RateLimit-Interval-Milliseconds": "10000",
             "X-HubSpot-RateLimit-Max": "100", "X-HubSpot-RateLimit-Remaining": "0"})
        if seconds is not None:
            reply.headers["Retry-After"] = str(int(-(-seconds // 1)))
        return reply

    def expire_tokens(self):
        self.expired = True

    def handle(self, request):
        token = self.bearer(request)
        if token is None:
            raise self.fault(401, "INVALID_AUTHENTICATION", "Authentication credentials not found.")
        if token != self.credentials["access_token"] or self.expired:
            raise self.fault(401, "EXPIRED_AUTHENTICATION" if self.expired else "INVALID_AUTHENTICATION",
                             "Authentication credentials are invalid or expired.")
        if re.fullmatch(r"/account-info/(v3|20\d\d-\d\d)/details", request.path):
            self.only(request, "GET")
            return Reply(200, {"portalId": 1234567, "accountType": "STANDARD", "timeZone": "UTC",
                               "companyCurrency": "USD", "uiDomain": "app.hubspot.com"})
        match = re.fullmatch(
            r"/crm/(?:v3/objects|objects/20\d\d-(?:03|09))/(\w+)(/batch/upsert|/search|/[^/]+)?",
            request.path)
        if not match or match.group(1) not in self.PROPERTIES:
            raise self.fault(404, "OBJECT_NOT_FOUND", "No such resource.")
        kind, rest = match.group(1), match.group(2)
        try:
            if rest == "/batch/upsert":
                self.only(request, "POST")
                return self.upsert(kind, self.json(request))
            if rest == "/search":
                self.only(request, "POST")
                return self.search(kind, self.json(request))
            if rest:
                return self.one(kind, urllib.parse.unquote(rest[1:]), request)
            if request.method == "GET":
                return self.list(kind, request.parameters())
            self.only(request, "POST")
            return self.create(kind, self.json(request))
        except Invalid as invalid:
            raise self.invalid(invalid) from None

    def only(self, request, method):
        if request.method != method:
            raise self.fault(405, "METHOD_NOT_ALLOWED", f"{request.method} is not allowed")

    def invalid(self, invalid):
        name = invalid.where.rpartition(".")[2]
        detail = [{"isValid": False, "message": str(invalid), "error": invalid.code.upper(), "name": name}]
        return self.fault(400, "VALIDATION_ERROR",
                          f"Property values were not valid: {json.dumps(detail)}", errors=detail)

    def shown(self, record, **more):
        return {"id": record["id"], "properties": record["properties"],
                "createdAt": record["createdAt"], "updatedAt": record["updatedAt"],
                "archived": False, **more}

    def check_properties(self, kind, properties, where, partial=False):
        """Properties that may be written, their values as text."""
        known = (self.PROPERTIES[kind] | set(self.settings.get("properties", {}).get(kind, []))
                 | set(self.settings.get("unique", {}).get(kind, [])))
        if not isinstance(properties, dict):
            raise Invalid(where, "must be an object", "type")
        result = {}
        for name, value in properties.items():
            place = f"{where}.{name}"
            if name in self.READ_ONLY:
                raise Invalid(place, "is read only", "READ_ONLY_VALUE")
            if name not in known:
                raise Invalid(place, f'Property "{name}" does not exist', "PROPERTY_DOESNT_EXIST")
            if isinstance(value, bool) or not isinstance(value, (str, int, float)):
                raise Invalid(place, "must be a string", "INVALID_TYPE")
            value = str(value)
            text(value, place, 65536)
            if value and name in self.CHOICES and value not in self.CHOICES[name]:
                raise Invalid(place, f"{value[:50]} was not one of the allowed options", "INVALID_OPTION")
            if name == "email" and value and (not EMAIL.match(value) or units(value) > 254):
                raise Invalid(place, f"Email address {value[:80]} is invalid", "INVALID_EMAIL")
            if name in ("hs_timestamp", "closedate") and value:
                if not re.fullmatch(r"\d{12,14}", value):
                    timestamp(value, place)
            if name == "amount" and value and not re.fullmatch(r"-?\d+(\.\d+)?", value):
                raise Invalid(place, f"{value[:30]} was not a valid number", "INVALID_DOUBLE")
            result[name] = value
        for name in () if partial else self.REQUIRED[kind]:
            if not result.get(name):
                raise Invalid(f"{where}.{name}", "is required", "REQUIRED_FIELD")
        return result

    def check_associations(self, kind, associations):
        result = []
        for n, entry in enumerate(array(associations, "associations", 100)):
            where = f"associations[{n}]"
            obj(entry, where, {"to", "types"}, ("to", "types"))
            target = obj(entry["to"], f"{where}.to", {"id"}, ("id",))["id"]
            if isinstance(target, bool) or not isinstance(target, (str, int)) or not re.fullmatch(r"\d+", str(target)):
                raise Invalid(f"{where}.to.id", "must be an id", "type")
            for m, kinds in enumerate(array(entry["types"], f"{where}.types", 10, 1)):
                place = f"{where}.types[{m}]"
                obj(kinds, place, {"associationCategory", "associationTypeId"},
                    ("associationCategory", "associationTypeId"))
                one_of(kinds["associationCategory"], f"{place}.associationCategory",
                       ("HUBSPOT_DEFINED",))
                number = kinds["associationTypeId"]
                other = self.ASSOCIATIONS[kind].get(number) if isinstance(number, int) else None
                if other is None:
                    raise Invalid(f"{place}.associationTypeId", f"{number} is none of {kind}", "INVALID_ASSOCIATION_TYPE")
                if not any(record["id"] == str(target) for record in self.records[other]):
                    raise Invalid(f"{where}.to.id", f"no {other} {target}", "OBJECT_NOT_FOUND")
                result.append({"to": str(target), "type": other, "associationTypeId": number})
        return result

    def find(self, kind, name, value):
        for record in self.records[kind]:
            if record["properties"].get(name, "").lower() == value.lower():
                return record
        return None

    def unique_names(self, kind):
        return (["email"] if kind == "contacts" else []) + self.settings.get("unique", {}).get(kind, [])

    def make(self, kind, properties, associations=()):
        record = {"id": str(100 + self.next_id()), "properties": properties,
                  "createdAt": now(), "updatedAt": now(), "associations": list(associations)}
        self.records[kind].append(record)
        return record

    def seed(self, kind, fields):
        return self.make(kind, self.check_properties(kind, fields, "fields"))["id"]

    def change(self, record, properties):
        stages = self.CHOICES["lifecyclestage"]
        before = record["properties"].get("lifecyclestage")
        after = properties.get("lifecyclestage")
        if before and after and stages.index(after) < stages.index(before):
            properties = {**properties, "lifecyclestage": before}       # it never moves back
        record["properties"].update(properties)
        record["updatedAt"] = now()

    def create(self, kind, body):
        obj(body, "body", {"properties", "associations", "objectWriteTraceId"}, ("properties",))
        properties = self.check_properties(kind, body["properties"], "properties")
        associations = self.check_associations(kind, body.get("associations", []))
        for name in self.unique_names(kind):
            found = properties.get(name) and self.find(kind, name, properties[name])
            if found and name != "email":
                raise Invalid(f"properties.{name}", f"{found['id']} already has that value.",
                              "CONFLICTING_UNIQUE_VALUE")
            if found:
                raise self.fault(409, "CONFLICT",
                                 f"{kind[:-1].capitalize()} already exists. Existing ID: {found['id']}")
        return Reply(201, self.shown(self.make(kind, properties, associations)))

    def upsert(self, kind, body):
        obj(body, "body", {"inputs"}, ("inputs",))
        seen, work = set(), []
        for n, entry in enumerate(array(body["inputs"], "inputs", 100, 1)):
            where = f"inputs[{n}]"
            obj(entry, where, {"id", "idProperty", "properties", "objectWriteTraceId"}, ("id", "properties"))
            text(entry["id"], f"{where}.id", 1000, 1)
            name = entry.get("idProperty", "hs_object_id")
            if name not in self.unique_names(kind):
                raise Invalid(f"{where}.idProperty", f"{name} is not a unique property", "INVALID_ID_PROPERTY")
            properties = self.check_properties(kind, entry["properties"], f"{where}.properties", True)
            self.check_properties(kind, {name: entry["id"]}, f"{where}", True)
            if properties.setdefault(name, entry["id"]).lower() != entry["id"].lower():
                raise Invalid(f"{where}.properties.{name}", "is not the id")
            if (name, entry["id"].lower()) in seen:
                raise Invalid(f"{where}.id", "is there twice", "DUPLICATE_ID")
            seen.add((name, entry["id"].lower()))
            found = self.find(kind, name, entry["id"])
            if not found:
                self.check_properties(kind, properties, f"{where}.properties")
            work.append((found, properties))
        results = []
        for found, properties in work:
            if found:
                self.change(found, properties)
                results.append(self.shown(found, new=False))
            else:
                results.append(self.shown(self.make(kind, properties), new=True))
        created = any(result["new"] for result in results)
        return Reply(201 if created else 200, {
            "status": "COMPLETE", "results": results, "requestedAt": now(), "startedAt": now(),
            "completedAt": now()})

    def search(self, kind, body):
        obj(body, "body", {"filterGroups", "properties", "limit", "after", "sorts", "query"}, ("filterGroups",))
        found = []
        for record in self.records[kind]:
            for group in array(body["filterGroups"], "filterGroups", 5, 1):
                good = True
                for item in array(obj(group, "filterGroups", {"filters"}, ("filters",))["filters"], "filters", 6, 1):
                    obj(item, "filters", {"propertyName", "operator", "value"}, ("propertyName", "operator", "value"))
                    one_of(item["operator"], "operator", ("EQ",))
                    good = good and record["properties"].get(item["propertyName"], "").lower() == str(item["value"]).lower()
                if good:
                    found.append(record)
                    break
        return Reply(200, {"total": len(found), "results": [self.shown(r) for r in found]})

    def list(self, kind, options):
        for name in options:
            if name not in ("limit", "after", "properties", "archived", "associations"):
                raise Invalid(name, "is not known", "unknown")
        limit = options.get("limit", "10")
        if not re.fullmatch(r"[1-9]\d?|100", limit):
            raise Invalid("limit", "must be 1 to 100")
        return Reply(200, {"results": [self.shown(r) for r in self.records[kind][:int(limit)]]})

    def one(self, kind, number, request):
        name = request.parameters().get("idProperty")
        if name is not None and name not in self.unique_names(kind):
            raise Invalid("idProperty", f"{name} is not a unique property")
        for record in self.records[kind]:
            if (record["properties"].get(name, "").lower() if name else record["id"]) == number.lower():
                if request.method == "PATCH":
                    body = obj(self.json(request), "body", {"properties"}, ("properties",))
                    self.change(record, self.check_properties(kind, body["properties"], "properties", True))
                else:
                    self.only(request, "GET")
                return Reply(200, self.shown(record))
        raise self.fault(404, "OBJECT_NOT_FOUND", f"Object not found.  objectId: {number[:50]}")


#
# Salesforce: REST API
#
class Soql:
    """A query of the form SELECT f, ... FROM o [WHERE f op value [AND|OR ...]]
    [ORDER BY f ...] [LIMIT n], with SOQL's own escapes in its literals."""

    TOKEN = re.compile(r"\s*(?:(?P<word>[A-Za-z_][\w.]*)|(?P<number>\d+)|(?P<op><=|>=|!=|<>|[=<>])|(?P<mark>[,()])|(?P<quote>'))")
    ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f", '"': '"', "'": "'", "\\": "\\"}

    def __init__(self, query):
        self.tokens = list(self.tokenize(query))
        self.position = 0
        self.word("SELECT")
        self.fields = [self.take("word")]
        while self.peek() == ("mark", ","):
            self.position += 1
            self.fields.append(self.take("word"))
        self.word("FROM")
        self.object = self.take("word")
        self.conditions, self.joints = [], []
        if self.is_word("WHERE"):
            while True:
                self.position += 1
                self.conditions.append(self.condition())
                if not (self.is_word("AND") or self.is_word("OR")):
                    break
                self.joints.append(self.peek()[1].upper())
            if len(set(self.joints)) > 1:
                raise ValueError("AND and OR without parentheses")
        self.order = []
        if self.is_word("ORDER"):
            self.position += 1
            self.word("BY")
            while True:
                name, downward = self.take("word"), False
                if self.is_word("ASC") or self.is_word("DESC"):
                    downward = self.take("word").upper() == "DESC"
                if self.is_word("NULLS"):
                    self.position += 2
                self.order.append((name, downward))
                if self.peek() != ("mark", ","):
                    break
                self.position += 1
        self.limit = None
        if self.is_word("LIMIT"):
            self.position += 1
            self.limit = int(self.take("number"))
        if self.position < len(self.tokens):
            raise ValueError(f"unexpected token: '{self.peek()[1]}'")

    def tokenize(self, query):
        position, query = 0, query.rstrip()
        while position < len(query):
            match = self.TOKEN.match(query, position)
            if not match:
                raise ValueError(f"line 1:{position} no viable alternative at character '{query[position]}'")
            position = match.end()
            if match.lastgroup != "quote":
                yield match.lastgroup, match.group(match.lastgroup)
                continue
            value = ""
            while True:
                if position >= len(query):
                    raise ValueError("line 1: mismatched character '<EOF>' expecting '''")
                character = query[position]
                position += 1
                if character == "'":
                    break
                if character in "\r\n":
                    raise ValueError("a line's end within a literal")
                if character == "\\":
                    escape = query[position:position + 1]
                    unicode = re.compile(r"u([0-9A-Fa-f]{4})").match(query, position)
                    if unicode:
                        value += chr(int(unicode.group(1), 16))
                        position = unicode.end()
                        continue
                    if escape.lower() not in self.ESCAPES and escape not in ("_", "%"):
                        raise ValueError(f"Invalid string literal: illegal escape '\\{escape}'")
                    value += "\\" + escape if escape in ("_", "%") else self.ESCAPES[escape.lower()]
                    position += 1
                else:
                    value += character
            yield "literal", value

    def peek(self):
        return self.tokens[self.position] if self.position < len(self.tokens) else ("end", "<EOF>")

    def is_word(self, word):
        return self.peek()[0] == "word" and self.peek()[1].upper() == word

    def take(self, kind):
        got, value = self.peek()
        if got != kind:
            raise ValueError(f"unexpected token: '{value}'")
        self.position += 1
        return value

    def word(self, word):
        if not self.is_word(word):
            raise ValueError(f"unexpected token: '{self.peek()[1]}' (expecting {word})")
        self.position += 1

    def condition(self):
        field = self.take("word")
        if self.is_word("LIKE"):
            self.position += 1
            return field, "LIKE", self.take("literal")
        operator = self.take("op")
        kind, value = self.peek()
        if kind == "word" and value.lower() in ("null", "true", "false"):
            value = {"null": None, "true": True, "false": False}[value.lower()]
        elif kind == "number":
            value = int(value)
        elif kind == "literal":
            if re.search(r"\\[_%]", value):
                raise ValueError("Invalid string literal: \\_ and \\% are for LIKE")
        else:
            raise ValueError(f"unexpected token: '{value}'")
        self.position += 1
        return field, operator, value

    @staticmethod
    def holds(record, condition):
        field, operator, value = condition
        have = record.get(field)
        if operator == "LIKE":
            pattern = re.sub(r"\\([_%])|([_%])|(.)", lambda m: re.escape(m.group(1) or m.group(3)) if not m.group(2)
                             else {"_": ".", "%": ".*"}[m.group(2)], value, flags=re.S)
            return re.fullmatch(pattern, have or "", re.I | re.S) is not None
        same = have.lower() == value.lower() if isinstance(have, str) and isinstance(value, str) else have == value
        return {"=": same, "!=": not same, "<>": not same}.get(operator, False)

    def run(self, records):
        found = []
        for record in records:
            results = [self.holds(record, condition) for condition in self.conditions]
            if not results or (any(results) if "OR" in self.joints else all(results)):
                found.append(record)
        for name, downward in reversed(self.order):
            found.sort(key=lambda record: (record.get(name) is not None, record.get(name) or ""), reverse=downward)
        return found if self.limit is None else found[:self.limit]


class Salesforce(Account):
    """Errors are an array of {"message", "errorCode", "fields"}."""

    token_path = "/services/oauth2/token"
    token_prefix = "00D000000000001!AQ"
    # The writable fields with their lengths: a number for text, else what it is.
    FIELDS = {
        "Lead": {"FirstName": 40, "LastName": 80, "Company": 255, "Email": "email", "Phone": 40,
                 "MobilePhone": 40, "Website": 255, "Title": 128, "Description": 32000,
                 "LeadSource": 255, "Status": 255, "Rating": 255, "Industry": 255, "OwnerId": "id"},
        "Contact": {"FirstName": 40, "LastName": 80, "Email": "email", "Phone": 40, "Title": 128,
                    "Description": 32000, "LeadSource": 255, "OwnerId": "id"},
        "Task": {"Subject": 255, "Description": 32000, "Priority": "priority", "Status": "status",
                 "WhoId": "who", "WhatId": "id", "ActivityDate": "date", "OwnerId": "id",
                 "Type": 255, "TaskSubtype": "subtype"},
    }
    REQUIRED = {"Lead": ("LastName", "Company"), "Contact": ("LastName",), "Task": ()}
    PREFIX = {"Lead": "00Q", "Contact": "003", "Task": "00T"}
    CHOICES = {"priority": ("High", "Normal", "Low"), "subtype": ("Task", "Call", "Email"),
               "status": ("Not Started", "In Progress", "Completed", "Waiting on someone else", "Deferred")}
    EXTERNAL_ID = "Chat_Event_Id__c"

    def __init__(self, *args):
        super().__init__(*args)
        self.records = {kind: [] for kind in self.FIELDS}
        self.queries = []

    def objects(self):
        return {**self.records, "queries": self.queries}

    def fault(self, status, code, message, fields=None):
        entry = {"message": message, "errorCode": code}
        if fields is not None:
            entry["fields"] = fields
        return Reply(status, [entry])

    def error(self, status, what):
        code = {400: "JSON_PARSER_ERROR", 401: "INVALID_SESSION_ID", 403: "REQUEST_LIMIT_EXCEEDED",
                404: "NOT_FOUND", 405: "METHOD_NOT_ALLOWED", 409: "CONFLICT", 414: "URI_TOO_LONG", 415: "UNSUPPORTED_MEDIA_TYPE",
                500: "UNKNOWN_EXCEPTION", 503: "SERVER_UNAVAILABLE"}.get(status, "UNKNOWN_EXCEPTION")
        return self.fault(status, code, what)

    def rate_limited(self, seconds):
        return self.fault(403, "REQUEST_LIMIT_EXCEEDED", "TotalRequests Limit exceeded.")

    def token(self, request):
        form = self.token_form(request, ("application/x-www-form-urlencoded",))
        if form.get("client_id") != self.credentials["client_id"]:
            raise Reply(400, {"error": "invalid_client_id", "error_description": "client identifier invalid"})
        if form.get("client_secret") != self.credentials["client_secret"]:
            raise Reply(400, {"error": "invalid_client", "error_description": "invalid client credentials"})
        reply = {"access_token": self.issue_token(form), "signature": secrets.token_urlsafe(32),
                 "scope": "api", "instance_url": f"http://{request.headers.get('host')}/{self.label}",
                 "id": "https://login.salesforce.com/id/00D000000000001AAA/005000000000001AAA",
                 "token_type": "Bearer", "issued_at": str(int(time.time() * 1000))}
        if self.settings.get("expires_in"):
            reply["expires_in"] = self.settings["expires_in"]
        return Reply(200, reply)

    def handle(self, request):
        if request.path == self.token_path:
            return self.token(request)
        if len(request.target) > 16384:
            raise self.error(414, "URI Too Long")
        match = re.fullmatch(r"/services/data/v(\d\d)\.0(/.*)?", request.path)
        if not match or not 46 <= int(match.group(1)) <= 68:
            raise self.fault(404, "NOT_FOUND", "The requested resource does not exist")
        if not self.token_is_good(self.bearer(request)):
            raise self.fault(401, "INVALID_SESSION_ID", "Session expired or invalid")
        self.version = match.group(1)
        parts = [urllib.parse.unquote(part) for part in (match.group(2) or "/").strip("/").split("/")]
        if parts == ["query"]:
            self.only(request, "GET")
            return self.query(request.parameters())
        if parts in ([""], ["limits"], ["sobjects"]):
            self.only(request, "GET")
            return Reply(200, {"DailyApiRequests": {"Max": 15000, "Remaining": 14998}})
        if parts[0] != "sobjects" or len(parts) > 4 or parts[1] not in self.FIELDS:
            raise self.fault(404, "NOT_FOUND", "The requested resource does not exist")
        kind = parts[1]
        if len(parts) == 2:
            self.only(request, "POST")
            return self.create(kind, self.json(request), request)
        if len(parts) == 3 and parts[2] == "describe":
            self.only(request, "GET")
            return Reply(200, {"name": kind, "fields": [{"name": name} for name in self.fields(kind)]})
        if len(parts) == 3:
            return self.one(kind, parts[2], request)
        if parts[2] != "Id" and parts[2] not in self.external_ids(kind):
            raise self.fault(404, "NOT_FOUND", "Provided external ID field does not exist or is not accessible: " + parts[2][:80])
        return self.upsert(kind, parts[2], parts[3], request)

    def only(self, request, method):
        if request.method != method:
            raise self.fault(405, "METHOD_NOT_ALLOWED", f"HTTP Method '{request.method}' not allowed. Allowed are {method}")

    def fields(self, kind):
        return {**self.FIELDS[kind], self.EXTERNAL_ID: 255, **self.settings.get("fields", {}).get(kind, {})}

    def external_ids(self, kind):
        return self.settings.get("external_ids", {}).get(kind, [self.EXTERNAL_ID])

    def query(self, options):
        query = options.get("q")
        if query is None or set(options) != {"q"}:
            raise self.fault(400, "MALFORMED_QUERY", "the parameter q and no other")
        self.queries.append(query)
        try:
            soql = Soql(query)
        except ValueError as error:
            raise self.fault(400, "MALFORMED_QUERY", str(error)) from None
        kind = {name.lower(): name for name in self.FIELDS}.get(soql.object.lower())
        if kind is None:
            raise self.fault(400, "INVALID_TYPE", f"sObject type '{soql.object}' is not supported.")
        known = {name.lower(): name for name in [*self.fields(kind), "Id", "Name", "CreatedDate", "IsDeleted"]}
        for name in soql.fields + [c[0] for c in soql.conditions] + [o[0] for o in soql.order]:
            if name.lower() not in known:
                raise self.fault(400, "INVALID_FIELD", f"No such column '{name}' on entity '{kind}'.")
        soql.conditions = [(known[f.lower()], o, v) for f, o, v in soql.conditions]
        soql.order = [(known[f.lower()], d) for f, d in soql.order]
        found = soql.run(self.records[kind])
        return Reply(200, {"totalSize": len(found), "done": True, "records": [
            {"attributes": {"type": kind, "url": f"/services/data/v{self.version}.0/sobjects/{kind}/{record['Id']}"},
             **{known[name.lower()]: record.get(known[name.lower()]) for name in soql.fields}} for record in found]})

    def check(self, kind, body, creating):
        """The fields of a record, or Reply."""
        if not isinstance(body, dict):
            raise self.fault(400, "JSON_PARSER_ERROR", "an object is expected")
        known = self.fields(kind)
        record = {}
        for name, value in body.items():
            if name == "attributes":
                continue
            if name not in known:
                raise self.fault(400, "INVALID_FIELD", f"No such column '{name}' on sobject of type {kind}")
            rule = known[name]
            if value is None or value == "":
                record[name] = None
                continue
            if not isinstance(value, str):
                raise self.fault(400, "JSON_PARSER_ERROR", f"Cannot deserialize instance of string from {type(value).__name__} {name}")
            most = rule if isinstance(rule, int) else {"email": 80}.get(rule, 255)
            if units(value) > most:
                raise self.fault(400, "STRING_TOO_LONG", f"{name}: data value too large: {value[:80]} (max length={most})", [name])
            if rule == "email" and not EMAIL.match(value):
                raise self.fault(400, "INVALID_EMAIL_ADDRESS", f"{name}: invalid email address: {value[:80]}", [name])
            if rule in self.CHOICES and value not in self.CHOICES[rule]:
                raise self.fault(400, "INVALID_OR_NULL_FOR_RESTRICTED_PICKLIST", f"{name}: bad value for restricted picklist field: {value[:80]}", [name])
            if rule in ("id", "who") and not re.fullmatch(r"[0-9A-Za-z]{15}(?:[0-9A-Za-z]{3})?", value):
                raise self.fault(400, "MALFORMED_ID", f"{name}: id value of incorrect type: {value[:30]}", [name])
            if rule == "who" and not any(r["Id"] == value for k in ("Lead", "Contact") for r in self.records[k]):
                raise self.fault(400, "INVALID_CROSS_REFERENCE_KEY", "invalid cross reference id", [name])
            if rule == "date":
                try:
                    datetime.date.fromisoformat(value)
                except ValueError:
                    raise self.fault(400, "JSON_PARSER_ERROR", f"{name}: not a date", [name]) from None
            record[name] = value
        missing = [name for name in self.REQUIRED[kind]
                   if (creating or name in record) and not (record.get(name) or "").strip()]
        if missing:
            raise self.fault(400, "REQUIRED_FIELD_MISSING", f"Required fields are missing: [{', '.join(missing)}]", missing)
        return record

    def make(self, kind, record, request=None):
        if kind == "Lead" and self.settings.get("duplicate_rule") and record.get("Email") and request:
            same = [r for k in ("Lead", "Contact") for r in self.records[k]
                    if (r.get("Email") or "").lower() == record["Email"].lower()]
            allowed = "allowsave=true" in request.headers.get("sforce-duplicate-rule-header", "").replace(" ", "").lower()
            if same and not allowed:
                raise Reply(400, [{"duplicateResult": {"allowSave": False, "duplicateRule": "Standard_Lead_Duplicate_Rule",
                                                       "duplicateRuleEntityType": "Lead", "errorMessage": "Use one of these records?",
                                                       "matchResults": []},
                                   "errorCode": "DUPLICATES_DETECTED", "message": "Use one of these records?"}])
        for name in self.external_ids(kind) if request else ():
            if record.get(name) and self.matches(kind, name, record[name]):
                raise self.fault(400, "DUPLICATE_VALUE", f"duplicate value found: {name} duplicates value on record with id: "
                                 + self.matches(kind, name, record[name])[0]["Id"], [])
        number = f"{self.PREFIX[kind]}{self.next_id():012d}AAA"
        self.records[kind].append({"Id": number, **record, "CreatedDate": now(),
                                   "Name": " ".join(filter(None, (record.get("FirstName"), record.get("LastName")))) or None})
        return number

    def matches(self, kind, name, value):
        return [record for record in self.records[kind] if (record.get(name) or "").lower() == value.lower()]

    def seed(self, kind, fields):
        return self.make(kind, self.check(kind, fields, True))

    def create(self, kind, body, request):
        number = self.make(kind, self.check(kind, body, True), request)
        return Reply(201, {"id": number, "success": True, "errors": []},
                     {"Location": f"/services/data/v{self.version}.0/sobjects/{kind}/{number}"})

    def upsert(self, kind, name, value, request):
        found = self.matches(kind, name, value)
        if request.method == "GET" and len(found) == 1:
            return Reply(200, found[0])
        if request.method == "GET" and not found:
            raise self.fault(404, "NOT_FOUND", "The requested resource does not exist")
        if len(found) > 1:
            return Reply(300, [f"/services/data/v{self.version}.0/sobjects/{kind}/{record['Id']}" for record in found])
        self.only(request, "PATCH")
        body = self.json(request)
        if isinstance(body, dict) and (name in body or "Id" in body or "id" in body):
            raise self.fault(400, "INVALID_FIELD", f"The {name} field should not be specified in the sobject data.")
        if units(value) > 255 or not value:
            raise self.fault(400, "STRING_TOO_LONG", f"{name}: data value too large (max length=255)", [name])
        record = self.check(kind, body, not found)
        if found:
            found[0].update(record)
            return Reply(200, {"id": found[0]["Id"], "success": True, "errors": [], "created": False})
        number = self.make(kind, {**record, name: value}, request)
        return Reply(201, {"id": number, "success": True, "errors": [], "created": True})

    def one(self, kind, number, request):
        for record in self.records[kind]:
            if record["Id"] == number:
                if request.method == "PATCH":
                    record.update(self.check(kind, self.json(request), False))
                    return Reply(204)
                self.only(request, "GET")
                return Reply(200, {"attributes": {"type": kind}, **record})
        raise self.fault(404, "NOT_FOUND", "The requested resource does not exist")


#
# Zendesk: tickets
#
class Zendesk(Account):
    """Errors are {"error", "description", "details"}."""

    token_path = "/oauth/tokens"
    token_prefix = ""
    CHOICES = {"priority": ("urgent", "high", "normal", "low"),
               "type": ("problem", "incident", "question", "task"),
               "status": ("new", "open", "pending", "hold", "solved", "closed")}
    FIELDS = {"subject", "raw_subject", "comment", "requester", "requester_id", "priority", "type", "status", "tags",
              "external_id", "custom_fields", "group_id", "assignee_id", "assignee_email",
              "organization_id", "due_at", "brand_id", "ticket_form_id", "submitter_id", "metadata",
              "safe_update", "updated_stamp", "additional_tags", "remove_tags", "recipient", "via"}

    def __init__(self, *args):
        super().__init__(*args)
        self.tickets = []
        self.users = {}
        self.keys = {}

    def objects(self):
        return {"tickets": self.tickets, "users": self.users, "idempotency_keys": list(self.keys)}

    def error(self, status, what):
        if status == 401:
            return Reply(401, {"error": "invalid_token", "error_description": what},
                         {"WWW-Authenticate": 'Bearer realm="Zendesk", error="invalid_token"'})
        word = {403: "Forbidden", 404: "RecordNotFound", 409: "Conflict", 422: "RecordInvalid"}.get(
            status, "InternalError" if status >= 500 else "InvalidRequest")
        return Reply(status, {"error": word, "description": what})

    def rate_limited(self, seconds):
        return Reply(429, {"error": "APIRateLimitExceeded",
                           "description": "You have exceeded the number of API requests permitted, slow down."},
                     {"Retry-After": str(int(-(-(seconds or 1) // 1))), "X-Rate-Limit": "700",
                      "X-Rate-Limit-Remaining": "0"})

    def token(self, request):
        form = self.token_form(request, ("application/x-www-form-urlencoded", "application/json"))
        if (form.get("client_id") != self.credentials["client_id"]
                or form.get("client_secret") != self.credentials["client_secret"]):
            raise Reply(401, {"error": "invalid_client", "error_description": "Client authentication failed due to unknown client, or no client authentication included."})
        scopes = str(form.get("scope") or "read write").split()
        for scope in scopes:
            if not re.fullmatch(r"(\w+:)?(read|write)", scope):
                raise Reply(400, {"error": "invalid_scope", "error_description": "The requested scope is invalid, unknown, or malformed."})
        token = self.issue_token(form)
        self.scopes = getattr(self, "scopes", {})
        self.scopes[token] = scopes
        reply = {"access_token": token, "token_type": "bearer", "scope": " ".join(scopes)}
        if self.settings.get("expires_in", 7200):
            reply["expires_in"] = self.settings.get("expires_in", 7200)
        return Reply(200, reply)

    def authenticate(self, request):
        basic = basic_credentials(request)
        if basic:
            if basic != (self.credentials["username"], self.credentials["api_token"]):
                raise Reply(401, {"error": "Couldn't authenticate you"})
            return
        token = self.bearer(request)
        if token is None:
            raise Reply(401, {"error": "Couldn't authenticate you"})
        if not self.token_is_good(token):
            raise self.error(401, "The access token provided is expired, revoked, malformed or invalid for other reasons.")
        need = "read" if request.method == "GET" else "write"
        scopes = getattr(self, "scopes", {}).get(token, [])
        if not {need, f"tickets:{need}"} & set(scopes) and not (need == "read" and "users:read" in scopes and "/users/" in request.path):
            raise Reply(403, {"error": "Forbidden", "description": "You are missing the following required scopes: " + need})

    def handle(self, request):
        if request.path == self.token_path:
            return self.token(request)
        self.authenticate(request)
        path = re.sub(r"\.json\Z", "", request.path)
        options = request.parameters()
        match = re.fullmatch(r"/api/v2/tickets(?:/(\d+))?", path)
        if path in ("/api/v2/users/me", "/api/v2/account/settings", "/api/v2/tickets/count"):
            if request.method != "GET":
                raise self.error(405, "method not allowed")
            return Reply(200, {"user": {"id": 1, "name": "Chatbot", "role": "agent", "active": True}})
        if path == "/api/v2/search":
            return self.search(options)
        if not match:
            raise Reply(404, {"error": "InvalidEndpoint", "description": "Not found"})
        if match.group(1):
            found = [t for t in self.tickets if t["id"] == int(match.group(1))]
            if not found:
                raise Reply(404, {"error": "RecordNotFound", "description": "Not found"})
            if request.method == "GET":
                return Reply(200, {"ticket": self.shown(found[0])})
            if request.method == "PUT":
                return self.update(found[0], self.json(request))
        elif request.method == "GET":
            for name in options:
                if name not in ("external_id", "per_page", "page", "page[size]", "page[after]", "sort", "sort_by", "sort_order"):
                    raise self.error(400, f"?{name}= is not known")
            found = [t for t in self.tickets if "external_id" not in options or t["external_id"] == options["external_id"]]
            size = options.get("per_page", options.get("page[size]", "100"))
            if not re.fullmatch(r"[1-9]\d?|100", size):
                raise self.error(400, "a page has 1 to 100")
            return Reply(200, {"tickets": [self.shown(t) for t in found[:int(size)]], "next_page": None,
                               "previous_page": None, "count": len(found)})
        elif request.method == "POST":
            return self.create_once(request)
        raise self.error(405, "method not allowed")

    def search(self, options):
        terms, rest = {}, options.get("query", "")
        if not rest:
            raise self.error(422, "query is missing")
        for name, quoted, plain in re.findall(r'(\w+):(?:"([^"]*)"|(\S+))', rest):
            terms[name] = quoted or plain
        if set(terms) - {"type", "external_id", "status"} or re.sub(r'(\w+):(?:"[^"]*"|\S+)', "", rest).strip():
            raise self.error(400, "a query of type:ticket and external_id: is what is understood")
        found = [t for t in self.tickets if terms.get("external_id") in (None, t["external_id"])
                 and terms.get("type", "ticket") == "ticket" and not (self.settings.get("search_lag") and not t["seeded"])]
        return Reply(200, {"results": [{**self.shown(t), "result_type": "ticket"} for t in found], "facets": None,
                           "next_page": None, "previous_page": None, "count": len(found)})

    def shown(self, ticket):
        return {k: v for k, v in ticket.items() if k not in ("comments", "seeded")}

    def create_once(self, request):
        """Create a ticket, if the idempotency key is not known."""
        key = request.headers.get("idempotency-key")
        if key is None:
            return self.create(self.json(request))
        if not key or len(key) > 255:
            raise self.error(400, "Idempotency-Key: 1 to 255 characters")
        if key in self.keys:
            body, reply = self.keys[key]
            if body != request.body:
                raise Reply(400, {"error": "IdempotentRequestError",
                                  "description": "Request parameters do not match those of the first request with this idempotency key."})
            return Reply(reply.status, reply.body, {**reply.headers, "x-idempotency-lookup": "hit"})
        reply = self.create(self.json(request))
        reply.headers["x-idempotency-lookup"] = "miss"
        self.keys[key] = (request.body, reply)
        return reply

    def record_invalid(self, name, description):
        return Reply(422, {"error": "RecordInvalid", "description": "Record validation errors",
                           "details": {name: [{"description": description}]}})

    def check(self, body, creating):
        try:
            obj(body, "body", {"ticket"}, ("ticket",))
            ticket = obj(body["ticket"], "ticket", self.FIELDS)
            result = {}
            for name, choices in self.CHOICES.items():
                if ticket.get(name) is not None:
                    result[name] = one_of(ticket[name], name, choices)
            for name, most in (("subject", 255), ("external_id", 255)):
                if ticket.get(name) is not None:
                    result[name] = text(ticket[name], name, most, 1)
            for name in ("tags", "additional_tags"):
                for tag in array(ticket.get(name) or [], name, 1000):
                    text(tag, name, 80, 1)
                    if re.search(r"[\s,;!#$%&'*+=^`{|}~<>?@\"()\[\]]", tag):
                        raise Invalid(name, f"{tag[:80]} is not a tag")
            if ticket.get("tags") is not None:
                result["tags"] = [tag.lower() for tag in ticket["tags"]]
            if ticket.get("additional_tags"):
                result["additional_tags"] = ticket["additional_tags"]
            for field in array(ticket.get("custom_fields") or [], "custom_fields", 300):
                obj(field, "custom_fields", {"id", "value"}, ("id",))
                if isinstance(field["id"], bool) or not isinstance(field["id"], int):
                    raise Invalid("custom_fields", "id must be an integer")
            if ticket.get("custom_fields") is not None:
                result["custom_fields"] = ticket["custom_fields"]
            for name in ("group_id", "assignee_id", "requester_id", "brand_id", "ticket_form_id", "submitter_id", "organization_id"):
                if ticket.get(name) is not None:
                    if isinstance(ticket[name], bool) or not isinstance(ticket[name], int):
                        raise Invalid(name, "must be an integer")
                    result[name] = ticket[name]
            comment = ticket.get("comment")
            if comment is not None:
                obj(comment, "comment", {"body", "html_body", "public", "author_id", "uploads"})
                if "public" in comment:
                    boolean(comment["public"], "comment.public")
                body_text = comment.get("html_body") or comment.get("body")
                if body_text is None or not text(body_text, "comment.body", 65535).strip():
                    raise self.record_invalid("base", "Description: cannot be blank")
                if len(body_text.encode()) > 65535:
                    raise Invalid("comment.body", "is too long (maximum is 65535 bytes)")
            elif creating:
                raise self.record_invalid("base", "Description: cannot be blank")
            requester = ticket.get("requester")
            if requester is not None:
                obj(requester, "requester", {"name", "email", "locale_id"})
                email = requester.get("email")
                if email is not None and (not isinstance(email, str) or not EMAIL.match(email) or units(email) > 254):
                    raise self.record_invalid("requester", f"Requester: Email:  {str(email)[:80]} is not properly formatted")
                if requester.get("name") is not None:
                    text(requester["name"], "requester.name", 255)
                if not (requester.get("name") or "").strip() and (email or "").lower() not in self.users:
                    raise self.record_invalid("requester", "Requester: Name:  is too short (minimum one character)")
                result["requester"] = requester
            return result, comment
        except Invalid as invalid:
            if invalid.code in ("type", "unknown", "required"):
                raise self.error(400, str(invalid)) from None
            raise self.record_invalid(invalid.where, str(invalid)) from None

    def make(self, fields, comment, seeded=False):
        requester = fields.pop("requester", None)
        requester_id = fields.pop("requester_id", 1)
        if requester:
            known = self.users.setdefault((requester.get("email") or f"nobody-{len(self.users)}").lower(),
                                          {"id": 1000 + len(self.users), "name": requester.get("name")})
            requester_id = known["id"]
        ticket = {"id": self.next_id(), "subject": None, "priority": None, "type": None, "status": "new", "tags": [],
                  "external_id": None, "requester_id": requester_id, **fields,
                  "description": comment.get("body") or comment.get("html_body"),
                  "created_at": now(), "updated_at": now(), "seeded": seeded,
                  "comments": [{"body": comment.get("body") or comment.get("html_body"), "public": comment.get("public", True)}]}
        self.tickets.append(ticket)
        return ticket

    def seed(self, kind, fields):
        return self.make(dict(fields), {"body": "seeded"}, True)["id"]

    def create(self, body):
        fields, comment = self.check(body, True)
        fields.pop("additional_tags", None)
        ticket = self.make(fields, comment)
        return Reply(201, {"ticket": self.shown(ticket), "audit": {"id": self.next_id(), "ticket_id": ticket["id"]}},
                     {"Location": f"/api/v2/tickets/{ticket['id']}.json"})

    def update(self, ticket, body):
        fields, comment = self.check(body, False)
        given = body["ticket"]
        if ticket["status"] == "closed":
            raise self.record_invalid("status", "Status: closed prevents ticket update")
        if given.get("safe_update") and given.get("updated_stamp") != ticket["updated_at"]:
            raise Reply(409, {"error": "UpdateConflict", "description": "Safe Update prevented the update due to outdated ticket data."})
        ticket["tags"] = sorted({*ticket["tags"], *fields.pop("additional_tags", [])})
        fields.pop("requester", None)
        ticket.update(fields)
        if comment:
            ticket["comments"].append({"body": comment.get("body") or comment.get("html_body"), "public": comment.get("public", True)})
        ticket["updated_at"] = now()
        return Reply(200, {"ticket": self.shown(ticket), "audit": {"id": self.next_id(), "ticket_id": ticket["id"]}})


#
# PagerDuty: Events v2
#
class PagerDuty(Account):
    """Errors are {"status", "message", "errors"}."""

    def __init__(self, *args):
        super().__init__(*args)
        self.alerts = []
        self.events = []

    def objects(self):
        return {"alerts": self.alerts, "events": self.events}

    def error(self, status, what):
        return Reply(status, {"status": "invalid event", "message": "Event object is invalid", "errors": [what]})

    def rate_limited(self, seconds):
        headers = {} if seconds is None else {"Retry-After": str(int(-(-seconds // 1)))}
        return Reply(429, {"status": "throttle exceeded", "message": "Requests for this service are arriving too quickly.  Please retry later."}, headers)

    def handle(self, request):
        if request.path != "/v2/enqueue" or request.query:
            raise self.error(404, "not found")
        if request.method != "POST":
            raise self.error(405, "must be POST")
        if len(request.body) > 512 * 1024:
            raise self.error(413, "Event object is larger than 512 KB")
        event = self.json(request)
        try:
            self.check(event)
        except Invalid as invalid:
            raise self.error(400, str(invalid)) from None
        key, action = event.get("dedup_key"), event["event_action"]
        kept = {name: value for name, value in event.items() if name != "routing_key"}
        self.events.append(kept)
        open_alerts = [a for a in self.alerts if a["dedup_key"] == key and a["status"] != "resolved"]
        if action == "trigger":
            if open_alerts:
                open_alerts[0]["triggers"] += 1
            else:
                key = key or secrets.token_hex(16)
                self.alerts.append({"dedup_key": key, "status": "triggered", "triggers": 1, "event": kept})
        elif open_alerts:
            open_alerts[0]["status"] = "resolved" if action == "resolve" else "acknowledged"
        return Reply(202, {"status": "success", "message": "Event processed", "dedup_key": key})

    def check(self, event):
        obj(event, "event", {"routing_key", "event_action", "dedup_key", "payload", "images", "links", "client", "client_url"},
            ("routing_key", "event_action"))
        text(event["routing_key"], "routing_key", 32)
        if len(event["routing_key"]) != 32:
            raise Invalid("routing_key", "Length of 'routing_key' is incorrect (should be 32 characters)")
        if event["routing_key"] != self.credentials["routing_key"]:
            raise Invalid("routing_key", "Invalid routing key")
        action = one_of(event["event_action"], "event_action", ("trigger", "acknowledge", "resolve"))
        if event.get("dedup_key") is not None:
            text(event["dedup_key"], "dedup_key", 255, 1)
        elif action != "trigger":
            raise Invalid("dedup_key", f"is required to {action}")
        if action == "trigger" and event.get("payload") is None:
            raise Invalid("payload", "'payload' is missing or blank")
        if event.get("payload") is not None:
            payload = obj(event["payload"], "payload", {"summary", "source", "severity", "timestamp", "component", "group", "class", "custom_details"},
                          ("summary", "source", "severity"))
            text(payload["summary"], "payload.summary", 1024, 1)
            text(payload["source"], "payload.source", 1024, 1)
            one_of(payload["severity"], "payload.severity", ("critical", "error", "warning", "info"))
            if payload.get("timestamp") is not None:
                timestamp(payload["timestamp"], "payload.timestamp")
            for name in ("component", "group", "class"):
                if payload.get(name) is not None:
                    text(payload[name], f"payload.{name}", 1024)
            if not isinstance(payload.get("custom_details", {}), (dict, str)):
                raise Invalid("payload.custom_details", "must be an object")
        for n, link in enumerate(array(event.get("links") or [], "links", 100)):
            obj(link, f"links[{n}]", {"href", "text"}, ("href",))
            web_address(link["href"], f"links[{n}].href")
            if "text" in link:
                text(link["text"], f"links[{n}].text", 1024)
        for n, image in enumerate(array(event.get("images") or [], "images", 100)):
            obj(image, f"images[{n}]", {"src", "href", "alt"}, ("src",))
            web_address(image["src"], f"images[{n}].src")
        if event.get("client") is not None:
            text(event["client"], "client", 1024)
        if event.get("client_url") is not None:
            web_address(event["client_url"], "client_url")


SERVICES = {"slack": Slack, "discord": Discord, "hubspot": HubSpot, "salesforce": Salesforce,
            "zendesk": Zendesk, "pagerduty": PagerDuty}


def make_credentials():
    """What a sender has to know; new ones for each run, so that a search finds them."""
    word = lambda n: secrets.token_hex(n)
    return {
        "slack": {"path": f"/services/T0{word(4).upper()}/B0{word(4).upper()}/{word(12)}"},
        "discord": {"id": "1487654321098765432", "token": secrets.token_urlsafe(51).replace("-", "x")},
        "hubspot": {"access_token": f"pat-na1-{word(4)}-{word(16)}"},
        "salesforce": {"client_id": f"3MVG9.{word(30)}", "client_secret": word(32).upper()},
        "zendesk": {"client_id": "chat_bot", "client_secret": word(32),
                    "username": "agent@example.com/token", "api_token": word(20)},
        "pagerduty": {"routing_key": word(16)},
    }


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
        self.credentials = make_credentials()
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
