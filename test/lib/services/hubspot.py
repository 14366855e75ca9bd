"""HubSpot: contacts, companies, notes, deals, tasks and tickets of the CRM: create,
read, update, list, search, batch/upsert, default associations; and the account's
details.
"""

import json
import re
import secrets
import urllib.parse

from base import EMAIL, Reply, Invalid, Account, array, now, obj, one_of, text, timestamp, units


class HubSpot(Account):
    """An error is {"status": "error", "message", "correlationId", "category"}."""

    PROPERTIES = {
        "contacts": {"email", "firstname", "lastname", "phone", "mobilephone", "company",
                     "website", "jobtitle", "address", "city", "state", "zip", "country",
                     "lifecyclestage", "hs_lead_status", "message", "hubspot_owner_id"},
        "notes": {"hs_timestamp", "hs_note_body", "hubspot_owner_id", "hs_attachment_ids"},
        "deals": {"dealname", "dealstage", "pipeline", "amount", "closedate", "description",
                  "dealtype", "deal_currency_code", "hs_priority", "hubspot_owner_id"},
        "companies": {"name", "domain", "phone", "hubspot_owner_id"},
        "tasks": {"hs_timestamp", "hs_task_subject", "hs_task_body", "hs_task_status", "hs_task_priority",
                  "hs_task_type", "hubspot_owner_id"},
        "tickets": {"subject", "content", "hs_pipeline", "hs_pipeline_stage", "hs_ticket_priority", "hubspot_owner_id"},
    }
    REQUIRED = {"contacts": (), "notes": ("hs_timestamp",), "deals": ("dealname", "dealstage"), "companies": (),
                "tasks": ("hs_timestamp",), "tickets": ("subject", "hs_pipeline_stage")}
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
        "hs_task_status": ["NOT_STARTED", "IN_PROGRESS", "WAITING", "COMPLETED", "DEFERRED"],
        "hs_task_priority": ["LOW", "MEDIUM", "HIGH"],
        "hs_task_type": ["EMAIL", "CALL", "TODO"],
        "hs_ticket_priority": ["LOW", "MEDIUM", "HIGH", "URGENT"],
    }
    ASSOCIATIONS = {
        "notes": {202: "contacts", 214: "deals", 228: "tickets"},
        "deals": {3: "contacts", 213: "notes", 5: "companies"},
        "contacts": {201: "notes", 4: "deals"},
        "companies": {},
        "tasks": {204: "contacts"},
        "tickets": {16: "contacts"},
    }
    READ_ONLY = {"hs_object_id", "createdate", "lastmodifieddate", "hs_createdate"}

    @staticmethod
    def make_credentials():
        return {"access_token": f"pat-na1-{secrets.token_hex(4)}-{secrets.token_hex(16)}"}

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
        match = re.fullmatch(r"/crm/objects/20\d\d-(?:03|09)/contacts/(\d+)/associations/default/companies/(\d+)", request.path)
        if match:
            self.only(request, "PUT")
            return self.associate(*match.groups())
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

    def associate(self, contact, company):
        for kind, number in (("contacts", contact), ("companies", company)):
            if not any(record["id"] == number for record in self.records[kind]):
                raise self.fault(404, "OBJECT_NOT_FOUND", f"Object not found.  objectId: {number}")
        record = [r for r in self.records["contacts"] if r["id"] == contact][0]
        record["associations"].append({"to": company, "type": "companies", "associationTypeId": 1})
        return Reply(200, {"status": "COMPLETE", "results": [{"from": {"id": contact}, "to": {"id": company}}], "completedAt": now()})

    def only(self, request, method):
        if request.method != method:
            raise self.fault(405, "METHOD_NOT_ALLOWED", f"{request.method} is not allowed")

    def invalid(self, invalid):
        name = invalid.where.rpartition(".")[2]
        detail = [{"isValid": False, "message": str(invalid), "error": invalid.code.upper(), "name": name}]
        return self.fault(400, "VALIDATION_ERROR",
                          f"Property values were not valid: {json.dumps(detail)}", errors=detail)

    def shown(self, record, **more):
        contact = record in self.records["contacts"]
        properties = {**record["properties"], "createdate": record["createdAt"], "hs_object_id": record["id"],
                      "lastmodifieddate" if contact else "hs_lastmodifieddate": record["updatedAt"]}
        return {"id": record["id"], "properties": properties,
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
        for name in request.parameters():
            if name not in ("idProperty", "properties", "archived"):
                raise Invalid(name, "is not known", "unknown")
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
