"""Tokens of a Rust file, which of them are code that computes, and how far the operands of an operator reach.

Not a parser of the language: it knows enough of it to find expressions, and refuses (`None`) where it is not sure. What it gets
wrong does not compile, and such mutants are dropped.
"""

import bisect
import dataclasses
import re

TOKEN = re.compile(
    r"""
    (?P<space>\s+|//[^\n]*)
  | (?P<comment>/\*)
  | (?P<string>(?:[bc]?r(?P<hash>\#*)"(?s:.)*?"(?P=hash)) | [bc]?"(?:\\(?s:.)|[^"\\])*")
  | (?P<char>b?'(?:\\(?:x[0-9a-fA-F]{2}|u\{[^}]*\}|.)|[^\\'])')
  | (?P<lifetime>'[A-Za-z_]\w*)
  | (?P<number>0[xob][\da-fA-F_]+(?:[iu]\w+)? | \d[\d_]*(?:\.\d[\d_]*|\.(?![.\w]))?(?:[eE][+-]?\d+)?(?:_?[fiu](?:8|16|32|64|128|size))?)
  | (?P<word>(?:r\#)?[A-Za-z_]\w*)
  | (?P<mark><<=|>>=|\.\.\.|\.\.=|::|->|=>|==|!=|<=|>=|&&|\|\||\+=|-=|\*=|/=|%=|\^=|&=|\|=|<<|>>|\.\.|.)
    """,
    re.VERBOSE,
)
KEYWORDS = set(
    "as break const continue crate dyn else enum extern fn for if impl in let loop match mod move mut pub ref return static struct "
    "trait type unsafe use where while async await".split()
)
PRECEDENCE = {"*": 10, "/": 10, "%": 10, "+": 9, "-": 9, "<<": 8, ">>": 8, "&": 7, "^": 6, "|": 5} | {
    "==": 4, "!=": 4, "<": 4, ">": 4, "<=": 4, ">=": 4, "&&": 3, "||": 2, "..": 1, "..=": 1,
}  # fmt: skip
PREFIX = 12
ASSIGN = {"=", "+=", "-=", "*=", "/=", "%=", "^=", "&=", "|=", "<<=", ">>="}
CLOSE = {"(": ")", "[": "]", "{": "}"}
# Calls whose arguments are messages or sizes of buffers, which no result depends on.
UNTOUCHED_CALLS = set(
    "Err context with_context ok_or ok_or_else expect map_err with_capacity reserve msg debug info warn trace".split()
)
UNTOUCHED_IMPLS = {"Display", "Debug", "JsonSchema", "Serialize", "Error", "Drop"}


@dataclasses.dataclass
class Token:
    kind: str
    text: str
    start: int
    end: int


def tokens_of(text):
    found, at = [], 0
    while at < len(text):
        match = TOKEN.match(text, at)
        kind = match.lastgroup if match.lastgroup != "hash" else "string"
        end = match.end()
        if kind == "comment":
            depth, end = 1, at + 2
            while depth:
                step = re.compile(r"/\*|\*/").search(text, end)
                depth += 1 if step.group() == "/*" else -1
                end = step.end()
        elif kind == "number" and found and found[-1].text == ".":
            # A field of a tuple, even in `pair.0.1`.
            end = at + re.match(r"\d+", text[at:]).end()
            found.append(Token("field", text[at:end], at, end))
        elif kind != "space":
            found.append(Token(kind, match.group(), at, end))
        at = end
    return found


class File:
    """The tokens of a source file. `code[i]` says whether token i belongs to code that may be mutated."""

    def __init__(self, text):
        self.text = text
        self.tokens = tokens_of(text)
        self.lines = [0] + [at + 1 for at, letter in enumerate(text) if letter == "\n"]
        self.partner = {}
        open_brackets = []
        for i, token in enumerate(self.tokens):
            if token.kind == "mark" and token.text in CLOSE:
                open_brackets.append(i)
            elif token.kind == "mark" and token.text in CLOSE.values():
                self.partner[i] = open_brackets.pop()
                self.partner[self.partner[i]] = i
        self.code = [False] * len(self.tokens)
        self.generics = {}
        self.casts = set()
        self.closure_ends = set()
        for i in range(len(self.tokens)):
            if self.word(i) == "fn":
                body = self.body(i)
                if body is not None and not self.is_const(i):
                    self.mark(body + 1, self.partner[body], True)
        for i in range(len(self.tokens)):
            self.exclude(i)

    def line(self, at):
        """The line of a place in the text, from 1."""
        return bisect.bisect_right(self.lines, at)

    def word(self, i):
        return self.tokens[i].text if 0 <= i < len(self.tokens) and self.tokens[i].kind == "word" else None

    def at(self, i):
        return self.tokens[i].text if 0 <= i < len(self.tokens) and self.tokens[i].kind in ("mark", "word") else None

    def mark(self, start, end, value=False):
        self.code[start:end] = [value] * (end - start)

    def skip(self, i):
        """The token after i, or after the group that i opens."""
        if i in self.generics:
            return self.generics[i] + 1
        return self.partner[i] + 1 if self.at(i) in CLOSE else i + 1

    def find(self, i, wanted, last=None):
        """The first of the wanted tokens at the level of i; `None` at the end of the group."""
        while i < len(self.tokens) and (last is None or i < last):
            if self.at(i) in wanted and self.tokens[i].kind != "string":
                return i
            if self.at(i) in CLOSE.values():
                return None
            i = self.skip(i)
        return None

    def body(self, function):
        """The `{` of the function's body."""
        end = self.find(function, {"{", ";"})
        return end if end is not None and self.at(end) == "{" else None

    def is_const(self, function):
        return "const" in (self.word(function - 1), self.word(function - 2))

    def item_end(self, i):
        """One past the item, statement, field or arm that starts at i."""
        while i < len(self.tokens):
            if self.at(i) == "#":
                i = self.partner[i + 1] + 1
            elif self.at(i) in (";", ","):
                return i + 1
            elif self.at(i) == "{":
                return self.partner[i] + 1
            elif self.at(i) in CLOSE.values():
                return i
            else:
                i = self.skip(i)
        return i

    def operand_end(self, i):
        """Whether an operand can end with token i, so that an operator after it has two of them."""
        if i < 0:
            return False
        token = self.tokens[i]
        if token.kind == "word":
            return token.text not in KEYWORDS
        return token.kind not in ("mark", "lifetime") or (token.text in ")]?" and i not in self.closure_ends) or i in self.generics.values()

    def angles(self, i):
        """The `>` of the `<` at i."""
        depth = 0
        while i < len(self.tokens):
            text = self.at(i)
            depth += {"<": 1, ">": -1, ">>": -2}.get(text, 0)
            if depth <= 0:
                return i
            if text in (";", "{"):
                return None
            i = self.skip(i) if text in CLOSE else i + 1
        return None

    def exclude(self, i):
        """Takes what starts with token i out of the code, if it does not compute, and notes generics and closures."""
        text = self.at(i)
        if text is None:
            return
        if text == "#" and self.at(i + 1) in ("[", "!"):
            group = i + 1 if self.at(i + 1) == "[" else i + 2
            end = self.partner[group] + 1
            self.mark(i, end)
            said = self.text[self.tokens[group].start : self.tokens[end - 1].end]
            device = re.match(r"\[cfg\(", said) and "not(" not in said and re.search(r"\btest\b|cuda|target_", said)
            if device or re.match(r"\[(test|derive|rstest)\b", said):
                last = self.item_end(end)
                if self.word(end) != "struct" and re.match(r"\[derive", said):
                    last = end
                self.mark(i, last)
        elif text == "impl" and not self.code[i]:
            body = self.find(i, {"{"})
            header = {self.word(k) for k in range(i, body or i)}
            if body and header & UNTOUCHED_IMPLS and "for" in header:
                self.mark(i, self.partner[body] + 1)
        if not self.code[i]:
            return
        if text in ("impl", "struct", "enum", "trait", "union", "mod"):
            self.mark(i, self.item_end(i))
        elif text in ("use", "type"):
            self.mark(i, self.find(i, {";"}) + 1)
        elif text == "fn":
            self.mark(i, self.body(i) or i)
        elif text in ("const", "static") and self.word(i + 1) and self.at(i + 2) == ":":
            self.mark(i, self.find(i, {";"}) + 1)
        elif text == "let":
            self.mark(i, self.find(i, {"=", ";"}) or i)
        elif text == "for":
            self.mark(i, self.find(i, {"in"}) or i)
        elif text == "match":
            body = self.find(i, {"{"})
            if body:
                self.patterns(body)
        elif text == "if":
            block = self.find(i, {"{", "=>"})
            if block and self.at(block) == "{" and self.other_device(i + 1, block):
                self.mark(i, self.partner[block] + 1)
        elif text == "as":
            end = i + 1
            while self.at(end) in ("*", "&", "const", "mut"):
                end += 1
            end += 1
            while self.at(end) == "::" and self.word(end + 1):
                end += 2
            self.mark(i, end)
            self.casts.update(range(i, end))
        elif text == "::" and self.at(i + 1) == "<":
            self.generic(i + 1)
        elif text == "<" and not self.operand_end(i - 1):
            self.generic(i)
        elif text in ("|", "||") and not self.operand_end(i - 1) and (self.at(i - 1) != "}" or text == "||"):
            end = i if text == "||" else self.find(i + 1, {"|"})
            if end is None:
                return
            if self.at(end + 1) == "->":
                end = self.find(end, {"{"}) - 1
            self.closure_ends.add(end)
            self.mark(i, end + 1)
        elif self.tokens[i].kind == "word" and self.at(i + 1) == "!" and self.at(i + 2) in CLOSE and text != "vec":
            self.mark(i + 3, self.partner[i + 2])
        elif text in UNTOUCHED_CALLS and self.at(i + 1) == "(":
            self.mark(i + 2, self.partner[i + 1])

    def generic(self, i):
        end = self.angles(i)
        if end is not None:
            self.generics[i] = end
            self.mark(i, end + 1)

    def other_device(self, start, end):
        """Whether a condition holds only for tensors that are not on the CPU: tests cannot have any without such a device."""
        said = self.text[self.tokens[start].start : self.tokens[end - 1].end]
        return re.fullmatch(r"![\w.()]+\.is_cpu\(\)", said) is not None

    def patterns(self, body):
        i, end = body + 1, self.partner[body]
        while i < end:
            arrow = self.find(i, {"=>"}, end)
            if arrow is None:
                return
            guard = self.find(i, {"if"}, arrow)
            other_device = guard is not None and self.other_device(guard + 1, arrow)
            self.mark(i, guard if guard is not None else arrow + 1)
            if guard is not None:
                self.mark(arrow, arrow + 1)
            if self.at(arrow + 1) == "{":
                i = self.partner[arrow + 1] + 1
                i += self.at(i) == ","
            else:
                comma = self.find(arrow + 1, {","}, end)
                i = end if comma is None else comma + 1
            if other_device:
                self.mark(guard, i)

    # How far expressions reach.

    def ends(self, first, last):
        """Whether an expression of these first and last tokens is code."""
        types = self.casts | self.generics.keys() | set(self.generics.values())
        return all(self.code[i] or i in types for i in (first, last))

    def stops(self, i):
        """Whether token i ends every expression beside it."""
        token = self.tokens[i]
        if token.kind not in ("mark", "word"):
            return False
        if token.text in (",", ";", "=>", "->", "#", "@", ":") or token.text in ASSIGN:
            return True
        return (token.text in KEYWORDS and token.text not in ("as", "mut", "crate")) or i in self.closure_ends

    def binary(self, i):
        return self.at(i) in PRECEDENCE and i not in self.generics and i not in self.generics.values() and self.operand_end(i - 1)

    def left(self, i, level):
        """The first token of the operand that ends with token i, of operators that bind at least as strongly as `level`."""
        first = None
        while i >= 0:
            text = self.at(i)
            if text in CLOSE or self.stops(i) or (self.binary(i) and PRECEDENCE[text] < level):
                break
            if text in ("..", "..=") and not self.binary(i):
                break
            if text == "}":
                follower = self.at(i + 1)
                if first is not None and (follower in (".", "?") or self.at(first) in PRECEDENCE and self.binary(first)):
                    return None
                if first is None:
                    return None
                break
            if text in (")", "]"):
                i = self.partner[i]
                if self.at(i - 1) == "#":
                    break
                first = i
                # The arguments of a macro, or what an operator or a name stands before.
            elif i in self.generics.values():
                i = next(k for k, end in self.generics.items() if end == i)
                first = i
            else:
                first = i
            i -= 1
        return first

    def right(self, i, level):
        """The last token of the operand that starts with token i, of operators that bind more strongly than `level`."""
        last, prefix = None, True
        while i < len(self.tokens):
            text = self.at(i)
            if prefix and text in ("-", "!", "*", "&", "&&", "mut"):
                i += 1
                continue
            if prefix and (text in KEYWORDS and text != "crate" or text in ("|", "||", "{")):
                return None
            if text in CLOSE.values() or text == "{" or self.stops(i) or text in ("..", "..="):
                break
            if self.binary(i):
                if PRECEDENCE[text] <= level:
                    break
                prefix = True
                i += 1
                continue
            if text == "as":
                if level >= PREFIX:
                    break
            prefix = False
            end = self.skip(i) - 1
            last = end
            i = end + 1
            if text == "as":
                while self.at(i) in ("*", "&", "const", "mut"):
                    i += 1
        return last

    def chain(self, i):
        """The first token of the calls, fields and indices (`a.b(c)?[d]`) that end with token i."""
        while i >= 0:
            text = self.at(i)
            if text == "?":
                i -= 1
                continue
            if text == "}":
                return None
            if text in (")", "]"):
                i = self.partner[i]
                before = self.at(i - 1)
                if before == "!" and self.word(i - 2):
                    i -= 2
                elif (self.tokens[i - 1].kind == "word" and before not in KEYWORDS) or before in (")", "]", "?"):
                    i -= 1
                    continue
                elif i - 1 in self.generics.values():
                    i -= 1
                    continue
            elif i in self.generics.values():
                i = next(k for k, end in self.generics.items() if end == i)
                if self.at(i - 1) != "::":
                    return None if self.at(i - 1) == "." else i
            if self.at(i - 1) in (".", "::"):
                i -= 2
                continue
            return i
        return None
