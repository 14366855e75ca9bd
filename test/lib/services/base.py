"""What all services share: replies, the checks of a body, and an account."""

import base64
import binascii
import datetime
import json
import re
import secrets
import time
import urllib.parse

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

    # What each service overrides.
    @staticmethod
    def make_credentials():
        """What a sender to the service has to know."""
        return {}

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
