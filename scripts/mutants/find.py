"""The mutants that a source file allows."""

import collections
import dataclasses
import re

from mutants.rust import ASSIGN, CLOSE, KEYWORDS, PREFIX, PRECEDENCE, File

OPERATORS = {
    "+": "-", "-": "+", "*": "/", "/": "*", "<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "==", "&&": "||", "||": "&&",
}  # fmt: skip
ASSIGNMENTS = {"+=": "-=", "-=": "+=", "*=": "/=", "/=": "*="}
NAMES = {
    "min": "max", "max": "min", "min_by": "max_by", "max_by": "min_by", "min_by_key": "max_by_key", "max_by_key": "min_by_key",
    "floor": "ceil", "ceil": "floor", "round": "floor", "sin": "cos", "cos": "sin", "any": "all", "all": "any", "first": "last",
    "last": "first", "lt": "le", "le": "lt", "gt": "ge", "ge": "gt", "broadcast_add": "broadcast_sub",
    "broadcast_sub": "broadcast_add", "broadcast_mul": "broadcast_div", "broadcast_div": "broadcast_mul",
}  # fmt: skip
NUMBER = re.compile(r"([\d_]+)(_?[iu](?:8|16|32|64|128|size))?$|([\d_]+\.?[\d_]*(?:[eE][+-]?\d+)?)(_?f(?:32|64))?$")


@dataclasses.dataclass
class Mutant:
    """`start..end` of the text of `path` reads `after` instead of what stands there. A `statement` ends with its semicolon;
    `source` is the text of the line."""

    path: str
    kind: str
    line: int
    start: int
    end: int
    before: str
    after: str
    source: str
    statement: bool = False
    group: str = ""
    number: int = 0

    def shown(self):
        """Before and after, each on one line."""
        return [" ".join(text.split()) or "(nothing)" for text in (self.before, self.after)]

    def key(self):
        return (self.path, self.source, *self.shown())


# Types of the arguments of functions that are defined elsewhere.
FOREIGN = {"clamp": [["T", "T"]], "narrow": [["usize", "usize", "usize"]], "pad_with_zeros": [["usize", "usize", "usize"]]}

# Functions that give the same for swapped arguments.
SYMMETRIC = {"greatest", "least", "iou"}


def signatures_of(texts):
    """The types of the parameters of every function in these sources but `self`, by name: one list for each definition."""
    found = collections.defaultdict(list, {name: list(types) for name, types in FOREIGN.items()})
    for text in texts:
        file = File(text)
        for i in range(len(file.tokens)):
            if file.word(i) != "fn" or file.word(i + 1) is None:
                continue
            group = i + 2
            if file.at(group) == "<":
                group = file.angles(group) + 1
            types, start, k, depth = [], None, group + 1, 0
            while k <= file.partner[group]:
                text_of_k = file.at(k)
                if depth == 0 and text_of_k == ":" and start is None:
                    start = k + 1
                elif k == file.partner[group] or (depth == 0 and text_of_k == ","):
                    if start is not None:
                        types.append(" ".join(token.text for token in file.tokens[start:k]))
                    start = None
                depth += {"<": 1, ">": -1, ">>": -2}.get(text_of_k, 0)
                k = file.skip(k)
            found[file.word(i + 1)].append(types)
    return found


def mutants_of(path, text, signatures):
    """All of them, in the order of the text. Arguments are swapped where every function of the name has the same type for both."""
    found = list(Finder(path, File(text), signatures).mutants())
    unique = {(mutant.start, mutant.end, mutant.after): mutant for mutant in found}
    return sorted(unique.values(), key=lambda mutant: (mutant.start, mutant.end, mutant.after))


class Finder:
    def __init__(self, path, file, signatures):
        self.path, self.file, self.signatures = path, file, signatures

    def text(self, first, last):
        """Of the tokens first to last."""
        if last < first:
            return ""
        return self.file.text[self.file.tokens[first].start : self.file.tokens[last].end]

    def mutant(self, kind, first, last, after, at, statement=False):
        if not self.file.ends(first, last):
            return
        start, end = self.file.tokens[first].start, self.file.tokens[last].end
        before = self.file.text[start:end]
        if before == after or "let " in before and not statement and "{" not in before:
            return
        line = self.file.line(self.file.tokens[at].start)
        source = self.file.text[self.file.lines[line - 1] :].split("\n", 1)[0].strip()
        yield Mutant(self.path, kind, line, start, end, before, after, source, statement)

    def replaced(self, first, last, changes):
        """The tokens first to last, with other text for some of them."""
        start = self.file.tokens[first].start
        text, at = "", start
        for i in sorted(changes):
            text += self.file.text[at : self.file.tokens[i].start] + changes[i]
            at = self.file.tokens[i].end
        return text + self.file.text[at : self.file.tokens[last].end]

    def mutants(self):
        for i, token in enumerate(self.file.tokens):
            if not self.file.code[i]:
                continue
            text = self.file.at(i)
            if text in OPERATORS and self.file.binary(i):
                yield from self.operator(i, text)
            elif text in ("!", "-") and not self.file.operand_end(i - 1) and self.file.at(i - 1) != "}":
                last = self.file.right(i + 1, PREFIX)
                if last is not None:
                    yield from self.mutant("negation", i, last, self.text(i + 1, last), i)
            elif text in ("..", "..="):
                yield from self.range(i)
            elif text in ("true", "false"):
                yield from self.mutant("constant", i, i, "false" if text == "true" else "true", i)
            elif text in NAMES and self.file.at(i - 1) in (".", "::"):
                yield from self.name(i, text)
            elif text == "(" and self.is_call(i):
                yield from self.swap(i)
            elif text == "{":
                yield from self.statements(i)
            elif token.kind == "number":
                yield from self.constant(i, token.text)

    def operator(self, i, text):
        level = PRECEDENCE[text]
        first, last = self.file.left(i - 1, level), self.file.right(i + 1, level)
        if first is not None and last is not None:
            left, right = self.text(first, i - 1), self.text(i + 1, last)
            yield from self.mutant("operator", first, last, f"{left} {OPERATORS[text]} {right}", i)

    def constant(self, i, text):
        match = NUMBER.match(text)
        enclosing = self.enclosing(i)
        is_length = self.file.at(i - 1) == ";" and self.file.at(enclosing) == "[" and self.file.at(enclosing - 1) != "!"
        is_field = self.file.at(i + 1) == ":" and self.file.at(i + 2) != ":"
        if match is None or is_length or is_field:
            return
        integer, suffix, real, real_suffix = match.groups()
        if integer is not None and real is None:
            after = f"{int(integer.replace('_', '')) + 1}{suffix or ''}"
        else:
            value = float(real.replace("_", ""))
            after = f"{ {0.: 1., 1.: 2.}.get(value, value / 2)!r}{real_suffix or ''}"
        yield from self.mutant("constant", i, i, after, i)

    def enclosing(self, i):
        """The bracket that opens the group around token i."""
        while i >= 0:
            i -= 1
            if self.file.at(i) in CLOSE.values():
                i = self.file.partner[i]
            elif self.file.at(i) in CLOSE:
                return i
        return -1

    def range(self, i):
        before = self.file.at(i - 1)
        if before in (",", "{") and self.file.at(self.enclosing(i)) == "{":
            return
        last = self.file.right(i + 1, PRECEDENCE[".."])
        if last is not None and self.file.tokens[i + 1].kind != "number" and self.file.code[i + 1]:
            end = self.text(i + 1, last)
            yield from self.mutant("range", i + 1, last, f"({end}) - 1", i)
            if self.file.at(i) == "..":
                yield from self.mutant("range", i + 1, last, f"({end}) + 1", i)
        if self.file.operand_end(i - 1) and self.file.tokens[i - 1].kind != "number":
            first = self.file.left(i - 1, 2)
            if first is not None:
                yield from self.mutant("range", first, i - 1, f"({self.text(first, i - 1)}) + 1", i)

    def name(self, i, text):
        if self.file.at(i - 1) == "::":
            first = self.file.chain(i)
            if first is not None:
                yield from self.mutant("name", first, i, self.replaced(first, i, {i: NAMES[text]}), i)
        elif self.file.at(i + 1) == "(":
            first, last = self.file.chain(i), self.file.partner[i + 1]
            if first is not None:
                yield from self.mutant("name", first, last, self.replaced(first, last, {i: NAMES[text]}), i)

    def is_call(self, i):
        before = self.file.word(i - 1)
        return (before is not None and before not in KEYWORDS) or i - 1 in self.file.generics.values()

    def swap(self, i):
        last = self.file.partner[i]
        parts, start, k = [], i + 1, i + 1
        while k < last:
            if self.file.at(k) == "," and self.file.code[k]:
                parts.append((start, k - 1))
                start = k + 1
            k = self.file.skip(k)
        if start < last:
            parts.append((start, last - 1))
        first = self.file.chain(last)
        if first is None:
            return
        known = [types for types in self.signatures.get(self.file.word(i - 1), []) if len(types) == len(parts)]
        for k, ((a, b), (c, d)) in enumerate(zip(parts, parts[1:])):
            one, other = self.text(a, b), self.text(c, d)
            if one != other and known and self.file.word(i - 1) not in SYMMETRIC and all(types[k] == types[k + 1] for types in known):
                text, tokens = self.file.text, self.file.tokens
                head, between = text[tokens[first].start : tokens[a].start], text[tokens[b].end : tokens[c].start]
                changed = head + other + between + one + text[tokens[d].end : tokens[last].end]
                yield from self.mutant("arguments", first, last, changed, a)

    def statements(self, block):
        end = self.file.partner[block]
        if self.file.find(block + 1, {";"}, end) is None:
            return
        i = block + 1
        while i < end:
            text = self.file.at(i)
            if text == "#" or not self.file.code[i]:
                # An attribute, an item, a macro or a `let`: the statement after it is not this one's.
                semicolon = self.file.find(i, {";"}, end)
                brace = self.file.find(i, {"{"}, end)
                if text == "let" or brace is None or (semicolon is not None and semicolon < brace):
                    i = semicolon + 1 if semicolon is not None else end
                else:
                    i = self.file.partner[brace] + 1
                continue
            if text in ("if", "for", "while", "loop", "match", "unsafe", "{"):
                i = self.block_end(i, end)
                continue
            semicolon = self.file.find(i, {";"}, end)
            if semicolon is None:
                return
            starts = self.file.tokens[i].kind == "word" and text not in KEYWORDS or text in ("*", "continue", "break", "(")
            if starts and self.file.at(i + 1) != "!":
                yield from self.mutant("statement", i, semicolon, "", i, statement=True)
            for k in range(i, semicolon):
                if self.file.at(k) in ASSIGNMENTS and self.enclosing(k) == block:
                    after = self.replaced(i, semicolon, {k: ASSIGNMENTS[self.file.at(k)]})
                    yield from self.mutant("operator", i, semicolon, after, k, statement=True)
            i = semicolon + 1

    def block_end(self, i, end):
        """One past a statement that ends with a block."""
        while i < end:
            brace = self.file.find(i, {"{"}, end)
            if brace is None:
                return end
            i = self.file.partner[brace] + 1
            if self.file.at(i) in (".", "?") or self.file.at(i) in ASSIGN:
                semicolon = self.file.find(i, {";"}, end)
                return end if semicolon is None else semicolon + 1
            if self.file.at(i) != "else":
                return i
            i += 1
        return end
