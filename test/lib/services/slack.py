"""Slack: incoming webhooks, and chat.postMessage.

Holds a message to the limits of Block Kit, and keeps what Slack would make of
its texts: whom they notify, where they link, and what was not escaped.
"""

import re
import secrets

from base import Reply, Invalid, Account, array, boolean, obj, one_of, text, units, web_address


class Slack(Account):
    """Replies are plain text, an error is a word; those of the API are JSON."""

    ERRORS = {400: "invalid_payload", 403: "invalid_token", 404: "no_service",
              410: "channel_is_archived", 415: "invalid_payload", 500: "rollup_error"}

    @staticmethod
    def make_credentials():
        return {"path": f"/services/T0{secrets.token_hex(4).upper()}/B0{secrets.token_hex(4).upper()}/{secrets.token_hex(12)}",
                "token": f"xoxb-{secrets.token_hex(20)}", "channel": "C0123456789"}

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
        if request.path == "/api/chat.postMessage":
            return self.post(request)
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
        self.keep(message, texts)
        return Reply(200, "ok")

    def post(self, request):
        """chat.postMessage: what is wrong is said with status 200."""
        token = self.bearer(request)
        if request.method != "POST" or request.query:
            return Reply(200, {"ok": False, "error": "invalid_arguments"})
        if token != self.credentials["token"]:
            return Reply(200, {"ok": False, "error": "invalid_auth" if token else "not_authed"})
        message = self.json(request)
        try:
            texts = self.check(message, {"channel", "username", "icon_url", "icon_emoji", "reply_broadcast"})
            text(message.get("channel"), "message.channel", 80, 1)
            if "username" in message:
                text(message["username"], "message.username", 80, 1)
            if "icon_url" in message:
                web_address(message["icon_url"], "message.icon_url")
            if "icon_emoji" in message and not re.fullmatch(r":[a-z0-9_+'-]+:", message["icon_emoji"]):
                raise Invalid("message.icon_emoji", "is none")
            if "reply_broadcast" in message:
                boolean(message["reply_broadcast"], "message.reply_broadcast")
                if "thread_ts" not in message:
                    raise Invalid("message.reply_broadcast", "goes with thread_ts only")
        except Invalid as invalid:
            word = {"blank": "no_text", "length": "msg_too_long"}.get(invalid.code, "invalid_arguments")
            return Reply(200, {"ok": False, "error": "invalid_blocks" if ".blocks" in invalid.where else word,
                               "response_metadata": {"messages": [str(invalid)[:200]]}})
        if message["channel"] != self.credentials["channel"]:
            return Reply(200, {"ok": False, "error": "channel_not_found"})
        if "thread_ts" in message and message["thread_ts"] not in [m["ts"] for m in self.messages]:
            return Reply(200, {"ok": False, "error": "thread_not_found"})
        stamp = f"17673230{self.next_id():02}.000100"
        self.keep(message, texts, ts=stamp)
        shown = {"type": "message", "text": message.get("text", ""), "ts": stamp, "bot_id": "B012"}
        if "thread_ts" in message:
            shown["thread_ts"] = message["thread_ts"]
        return Reply(200, {"ok": True, "channel": message["channel"], "ts": stamp, "message": shown})

    def keep(self, message, texts, **more):
        mrkdwn = [text for kind, text in texts if kind == "mrkdwn"]
        self.messages.append({
            "message": message, **more,
            # what Slack would make of the texts: notifications, links, and what
            # somebody has forgotten to escape
            "mentions": [m for t in mrkdwn for m in re.findall(r"<([!@#][^>]*)>", t)],
            "links": [m for t in mrkdwn for m in re.findall(r"<((?:https?|mailto):[^|>]*)", t)],
            "unescaped": [t for t in mrkdwn if self.unescaped(t)],
        })

    @staticmethod
    def unescaped(value):
        rest = re.sub(r"<([!@#]|https?:|mailto:)[^<>]*>", "", value)
        rest = re.sub(r"&(amp|lt|gt);", "", rest)
        return bool(re.search(r"[&<]|(?<!\n)(?<!\A)>", rest))

    def check(self, message, more=frozenset()):
        """Check a message; its texts with their kinds."""
        obj(message, "message", {
            "text", "blocks", "attachments", "thread_ts", "mrkdwn", "unfurl_links",
            "unfurl_media", "response_type", "replace_original", "delete_original"} | more)
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
