"""Zendesk: tokens, tickets with idempotency keys, search, users/me."""

import re
import secrets

from base import (
    EMAIL, Reply, Invalid, Account, array, basic_credentials, boolean, now, obj, one_of, text,
    units)


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
              "safe_update", "updated_stamp", "additional_tags", "remove_tags", "recipient", "via",
              "via_followup_source_id"}

    @staticmethod
    def make_credentials():
        return {"client_id": "chat_bot", "client_secret": secrets.token_hex(32),
                "username": "agent@example.com/token", "api_token": secrets.token_hex(20)}

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
        source = body["ticket"].get("via_followup_source_id")
        if source is not None:
            if not any(t["id"] == source and t["status"] == "closed" for t in self.tickets):
                raise self.record_invalid("base", "Follow-up source is not a closed ticket")
            fields["followup_of"] = source
        ticket = self.make(fields, comment)
        return Reply(201, {"ticket": self.shown(ticket), "audit": {"id": self.next_id(), "ticket_id": ticket["id"]}},
                     {"Location": f"/api/v2/tickets/{ticket['id']}.json"})

    def update(self, ticket, body):
        fields, comment = self.check(body, False)
        given = body["ticket"]
        if ticket["status"] == "closed":
            raise self.record_invalid("status", "Status: closed prevents ticket update")
        if given.get("status") == "solved" and not ticket.get("assignee_id") and not given.get("assignee_id"):
            raise self.record_invalid("base", "Assignee: is required when solving a ticket")
        if given.get("safe_update") and given.get("updated_stamp") != ticket["updated_at"]:
            raise Reply(409, {"error": "UpdateConflict", "description": "Safe Update prevented the update due to outdated ticket data."})
        ticket["tags"] = sorted({*ticket["tags"], *fields.pop("additional_tags", [])})
        fields.pop("requester", None)
        ticket.update(fields)
        if comment:
            ticket["comments"].append({"body": comment.get("body") or comment.get("html_body"), "public": comment.get("public", True)})
        ticket["updated_at"] = now()
        return Reply(200, {"ticket": self.shown(ticket), "audit": {"id": self.next_id(), "ticket_id": ticket["id"]}})
