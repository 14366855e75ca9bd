"""Discord: execute a webhook, with ?wait=true or without, and GET it."""

import re
import secrets

from base import (
    Reply, Invalid, Account, array, boolean, now, obj, one_of, text, timestamp, units,
    web_address)


class Discord(Account):
    """An error has a message, a code, and where the form is not valid."""

    @staticmethod
    def make_credentials():
        return {"id": "1487654321098765432", "token": secrets.token_urlsafe(51).replace("-", "x")}

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
        thread = options.get("thread_id")
        if self.settings.get("forum"):
            if not thread and "thread_name" not in message:
                raise Reply(400, {"message": "Webhooks posted to forum channels must have a thread_name or thread_id", "code": 220001})
            if thread and thread not in [m["thread"] for m in self.messages]:
                raise Reply(404, {"message": "Unknown Channel", "code": 10003})
            thread = thread or number
        elif "thread_name" in message:
            raise Reply(400, {"message": "Webhooks can only create threads in forum channels", "code": 220003})
        self.messages.append({"id": number, "message": message, "pings": self.pings(message), "thread": thread,
                              "wait": options.get("wait") == "true"})
        if options.get("wait") != "true":
            return Reply(204)
        return Reply(200, {
            "id": number, "type": 0, "channel_id": thread or "199737254929760256",
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
        for name in ("components", "attachments", "poll"):
            if name in message:
                raise Invalid(name, "is nothing that this channel takes")
        if "thread_name" in message:
            text(message["thread_name"], "thread_name", 100, 1)
        for tag in array(message.get("applied_tags", []), "applied_tags", 5):
            if not isinstance(tag, str) or not re.fullmatch(r"\d{1,20}", tag):
                raise Invalid("applied_tags", "must be ids")
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
                for number in array(allowed.get(kind, []), f"allowed_mentions.{kind}", 100):
                    if not isinstance(number, str) or not re.fullmatch(r"\d{1,20}", number):
                        raise Invalid(f"allowed_mentions.{kind}", "must be ids")
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
