"""The part of Salesforce's query language that a connector needs, parsed strictly."""

import re


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
