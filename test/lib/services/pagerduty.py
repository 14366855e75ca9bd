"""PagerDuty: Events v2, and the incidents that come of them."""

import secrets

from base import Reply, Invalid, Account, array, obj, one_of, text, timestamp, web_address


class PagerDuty(Account):
    """Errors are {"status", "message", "errors"}."""

    @staticmethod
    def make_credentials():
        return {"routing_key": secrets.token_hex(16)}

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
