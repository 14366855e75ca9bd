"""Salesforce's REST API: tokens, queries, and Lead, Contact, Task, Case, Opportunity
and OpportunityContactRole: create, read, update, upsert by an external id.
"""

import datetime
import re
import secrets
import time
import urllib.parse

from base import EMAIL, Reply, Account, now, units
from soql import Soql


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
        "Case": {"Subject": 255, "Description": 32000, "Priority": "case_priority", "Status": 255, "Origin": 255,
                 "Type": 255, "ContactId": "contact", "SuppliedName": 80, "SuppliedEmail": "email", "SuppliedPhone": 40,
                 "SuppliedCompany": 80, "OwnerId": "id"},
        "Opportunity": {"Name": 120, "StageName": 255, "CloseDate": "date", "Amount": "number", "Description": 32000,
                        "LeadSource": 255, "CurrencyIsoCode": 3, "OwnerId": "id", "AccountId": "id"},
        "OpportunityContactRole": {"OpportunityId": "id", "ContactId": "contact", "Role": 255},
    }
    REQUIRED = {"Lead": ("LastName", "Company"), "Contact": ("LastName",), "Task": (), "Case": (),
                "Opportunity": ("Name", "StageName", "CloseDate"), "OpportunityContactRole": ("OpportunityId", "ContactId")}
    PREFIX = {"Lead": "00Q", "Contact": "003", "Task": "00T", "Case": "500", "Opportunity": "006",
              "OpportunityContactRole": "00K"}
    CHOICES = {"priority": ("High", "Normal", "Low"), "case_priority": ("High", "Medium", "Low"), "subtype": ("Task", "Call", "Email"),
               "status": ("Not Started", "In Progress", "Completed", "Waiting on someone else", "Deferred")}
    EXTERNAL_ID = "Chat_Event_Id__c"

    @staticmethod
    def make_credentials():
        return {"client_id": f"3MVG9.{secrets.token_hex(30)}", "client_secret": secrets.token_hex(32).upper()}

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
        known = {name.lower(): name for name in [*self.fields(kind), "Id", "Name", "CreatedDate", "IsDeleted",
                                              *(["IsConverted"] if kind == "Lead" else [])]}
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
            if rule in ("number", "boolean") and isinstance(value, bool) == (rule == "boolean") and isinstance(value, (int, float)):
                record[name] = value
                continue
            if not isinstance(value, str) or rule == "boolean":
                raise self.fault(400, "JSON_PARSER_ERROR", f"Cannot deserialize instance of string from {type(value).__name__} {name}")
            most = rule if isinstance(rule, int) else {"email": 80}.get(rule, 255)
            if units(value) > most:
                raise self.fault(400, "STRING_TOO_LONG", f"{name}: data value too large: {value[:80]} (max length={most})", [name])
            if rule == "email" and not EMAIL.match(value):
                raise self.fault(400, "INVALID_EMAIL_ADDRESS", f"{name}: invalid email address: {value[:80]}", [name])
            if rule in self.CHOICES and value not in self.CHOICES[rule]:
                raise self.fault(400, "INVALID_OR_NULL_FOR_RESTRICTED_PICKLIST", f"{name}: bad value for restricted picklist field: {value[:80]}", [name])
            if rule in ("id", "who", "contact") and not re.fullmatch(r"[0-9A-Za-z]{15}(?:[0-9A-Za-z]{3})?", value):
                raise self.fault(400, "MALFORMED_ID", f"{name}: id value of incorrect type: {value[:30]}", [name])
            if rule == "who" and not any(r["Id"] == value for k in ("Lead", "Contact") for r in self.records[k]):
                raise self.fault(400, "INVALID_CROSS_REFERENCE_KEY", "invalid cross reference id", [name])
            if rule == "contact" and not any(r["Id"] == value for r in self.records["Contact"]):
                raise self.fault(400, "INVALID_CROSS_REFERENCE_KEY", "invalid cross reference id", [name])
            if rule == "date":
                try:
                    datetime.date.fromisoformat(value)
                except ValueError:
                    raise self.fault(400, "JSON_PARSER_ERROR", f"{name}: not a date", [name]) from None
            record[name] = value
        if kind == "Task" and record.get("WhatId") and (record.get("WhoId") or "").startswith("00Q"):
            raise self.fault(400, "FIELD_INTEGRITY_EXCEPTION", "WhatId: a lead can be related to nothing else", ["WhatId"])
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
        self.records[kind].append({"Id": number, **({"IsConverted": False} if kind == "Lead" else {}), **record, "CreatedDate": now(),
                                   "Name": record.get("Name") or " ".join(filter(None, (record.get("FirstName"), record.get("LastName")))) or None})
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
