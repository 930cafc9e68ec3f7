"""Our own message classes from the descriptors of protos/: slotted classes that read and write themselves.

An object of betterproto costs 30 to 150 us to make, and its types are not checked where it is read; these cost a few,
and mypy sees every field. They are written out: `dataclass` would compile the same at each start, for half a
millisecond a class. Fields of a message type that is encoded and decoded apart (`APART`) hold its bytes. Reading goes
through the fields in the order in which they are written, so each is found by one comparison; anything else is read,
skipped or refused by its number. What primitives there are is in common/transport/codec/framing.py.
"""

import subprocess
import sys
from pathlib import Path

from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet

# An event batch is encoded once and joined, and a large one is decoded by another codec: its bytes are handed on.
APART = {"EventBatch"}
PACKAGE = "common.transport.codec.wire"
_F = FieldDescriptorProto
_NUMBERS = {_F.TYPE_INT64: "int64", _F.TYPE_INT32: "int32", _F.TYPE_UINT32: "uint32", _F.TYPE_BOOL: "bool"}
_PLAIN = {_F.TYPE_DOUBLE: "double", _F.TYPE_STRING: "text", _F.TYPE_BYTES: "blob"}
_DEFAULTS = {"bool": "False", "double": "0.0", "text": '""', "blob": 'b""'}
_TYPES = {"bool": "bool", "double": "float", "text": "str", "blob": "bytes"}
_WIRE_TYPES = {"double": 1, "text": 2, "blob": 2, "message": 2}
_COLUMNS = {"int64": "int64s", "int32": "int32s", "text": "texts", "blob": "blobs"}
_WRITERS = {"text": "texts", "blob": "blobs"}
_ONE_BYTE_FIELDS = 16
_HEADER = '''"""Generated from protos/{proto} by `make proto`: never edit.

{about}
"""

from __future__ import annotations

from typing import Final

{imports}
'''


class _Field:
    """One field, in the words of the templates."""

    def __init__(self, field: FieldDescriptorProto) -> None:
        self.name = field.name
        self.number = field.number
        self.repeated = field.label == _F.LABEL_REPEATED
        self.message = field.type_name.rpartition(".")[2] if field.type == _F.TYPE_MESSAGE else ""
        self.is_apart = self.message in APART
        if self.is_apart:
            self.message, self.kind = "", "blob"
        elif self.message:
            self.kind = "message"
        else:
            self.kind = {**_NUMBERS, **_PLAIN}[field.type]
        assert self.repeated or self.is_apart or self.kind != "blob", (
            "a single bytes field is read as parts of a message"
        )

    @property
    def type(self) -> str:
        single = self.message or _TYPES.get(self.kind, "int")
        return f"list[{single}]" if self.repeated else single

    @property
    def default(self) -> str:
        return _DEFAULTS.get(self.kind, "0")

    @property
    def parameter(self) -> str:
        if self.repeated or self.message:
            return f"{self.name}: {self.type} | None = None"
        return f"{self.name}: {self.type} = {self.default}"

    @property
    def assignment(self) -> str:
        """Each object gets a list, and an inner message, of its own."""
        if self.repeated or self.message:
            made = "[]" if self.repeated else f"{self.message}()"
            return f"self.{self.name} = {made} if {self.name} is None else {self.name}"
        return f"self.{self.name} = {self.name}"

    @property
    def is_packed(self) -> bool:
        return self.repeated and self.kind in _NUMBERS.values()

    @property
    def key(self) -> int:
        return self.number << 3 | (2 if self.is_packed else _WIRE_TYPES.get(self.kind, 0))

    @property
    def key_bytes(self) -> str:
        high, low = self.key >> 7, self.key & 0x7F
        return f'b"\\x{low | 0x80:02x}\\x{high:02x}"' if high else f'b"\\x{low:02x}"'

    @property
    def local(self) -> tuple[str, str]:
        """Declaration and construction while it is read: parts of a message are joined first."""
        if self.repeated:
            return f"{self.name}: {self.type} = []", self.name
        if self.is_apart:
            return f"{self.name}: list[bytes] = []", f'b"".join({self.name})'
        if self.message:
            joined = f'{self.message}.decode(b"".join({self.name}))'
            return f"{self.name}: list[bytes] = []", f"{joined} if {self.name} else {self.message}()"
        return f"{self.name} = {self.default}", self.name

    def write(self) -> list[str]:
        """Statements that append it to ``out``."""
        me, key = f"self.{self.name}", self.key_bytes
        if self.message and self.repeated:
            return [f"out += [delimited({key}, each.encode()) for each in {me}]"]
        if self.message:
            return [f"if {self.name} := {me}.encode():", f"    out.append(delimited({key}, {self.name}))"]
        if self.is_apart:  # not copied more often than need be
            return [f"if {me}:", f"    out += (prefix({key}, len({me})), {me})"]
        if self.repeated:
            value = f"{_WRITERS.get(self.kind, 'numbers')}({key}, {me})"
        elif self.kind == "bool":
            value = f'{key[:-1]}\\x01"'
        elif self.kind == "double":
            value = f"double({key}, {me})"
        elif self.kind in ("text", "blob"):
            value = f"delimited({key}, {me}{'.encode()' if self.kind == 'text' else ''})"
        else:
            value = f"number({key}, {me})"
        return [f"if {me}:", f"    out.append({value})"]

    def read(self) -> list[str]:
        """Statements for its usual form, ``at`` being that of its key of one byte."""
        if self.is_packed:
            return [f"at = read_{_COLUMNS[self.kind]}(data, at + 1, {self.name})"]
        if self.repeated and not self.message:
            return [f"at = read_{_COLUMNS[self.kind]}(data, at, {self.name})"]
        return self._read_one("at + 1")

    def _read_one(self, at: str) -> list[str]:
        if self.message and self.repeated:
            return [f"part, at = read_blob(data, {at})", f"{self.name}.append({self.message}.decode(part))"]
        if self.message or self.is_apart:
            return [f"part, at = read_blob(data, {at})", f"{self.name}.append(part)"]
        if self.repeated:
            return [f"one_{self.kind}, at = read_{self.kind}(data, {at})", f"{self.name}.append(one_{self.kind})"]
        return [f"{self.name}, at = read_{self.kind}(data, {at})"]

    def read_otherwise(self) -> list[tuple[str, list[str]]]:
        """Conditions and statements for its other forms: a key of two bytes, numbers that are not packed."""
        forms = []
        if self.number >= _ONE_BYTE_FIELDS:
            assert not self.is_packed, "no column of numbers has such a key yet"
            forms.append((f"number == {self.number} and wire_type == {self.key & 7}", self._read_one("at")))
        if self.is_packed:
            forms.append((f"number == {self.number} and wire_type == 0", self._read_one("at")))
        return forms


def write_messages(descriptors: FileDescriptorSet, target: Path) -> None:
    """A module a proto file below ``target``, formatted; files with equal content stay untouched."""
    places = {message.name: Path(file.name).stem for file in descriptors.file for message in file.message_type}
    wanted = {f"{Path(file.name).stem}.py": _module(file, places) for file in descriptors.file}
    wanted["__init__.py"] = '"""Generated message classes, a module a file of protos/ (.ci/wire_messages.py)."""\n'
    target.mkdir(parents=True, exist_ok=True)
    for name, text in wanted.items():
        path = target / name
        formatted = _formatted(text, path)
        if not path.exists() or path.read_text() != formatted:
            path.write_text(formatted)
    for path in target.glob("*.py"):
        if path.name not in wanted:
            path.unlink()


def _module(file: FileDescriptorProto, places: dict[str, str]) -> str:
    comments = {
        tuple(location.path): _comment(location.leading_comments) for location in file.source_code_info.location
    }
    bodies = []
    for index, message in _in_order_of_use(file):
        bodies += _message(message, comments.get((4, index), ""))
    body = "\n".join(bodies)
    names = {"has_same_fields", "shown"} | {word for word in _PRIMITIVES if f"{word}(" in body}
    imports = [f"from common.transport.codec.framing import {', '.join(sorted(names))}"]
    used = {field.message for message in file.message_type for field in map(_Field, message.field) if field.message}
    for module in sorted({places[name] for name in used} - {Path(file.name).stem}):
        theirs = sorted(name for name in used if places[name] == module)
        imports.append(f"from {PACKAGE}.{module} import {', '.join(theirs)}")
    about = "Slotted classes that write themselves and are read with `decode`, which raises MessageUnreadable."
    return _HEADER.format(proto=file.name, about=about, imports="\n".join(imports)) + body


_PRIMITIVES = (
    "delimited", "double", "number", "numbers", "prefix", "texts", "blobs", "read_blob", "read_blobs", "read_bool",
    "read_double", "read_int32", "read_int32s", "read_int64", "read_int64s", "read_key", "read_one_of", "read_text",
    "read_texts", "read_uint32", "skip", "undecoded", "unfit",
)  # fmt: skip


def _in_order_of_use(file: FileDescriptorProto) -> list[tuple[int, DescriptorProto]]:
    """What a message holds comes before it."""
    numbered = {message.name: (index, message) for index, message in enumerate(file.message_type)}
    ordered: dict[str, tuple[int, DescriptorProto]] = {}

    def add(name: str) -> None:
        if name in numbered and name not in ordered:
            for field in map(_Field, numbered[name][1].field):
                add(field.message)
            ordered[name] = numbered[name]

    for name in numbered:
        add(name)
    return list(ordered.values())


def _message(message: DescriptorProto, comment: str) -> list[str]:
    fields = [_Field(field) for field in message.field]
    assert [field.number for field in fields] == sorted(field.number for field in fields), message.name
    doc = comment or f"The message {message.name}."
    head = ["", "", f"class {message.name}:", f'    """{doc}"""', ""]
    if message.oneof_decl:
        assert all(field.HasField("oneof_index") for field in message.field), f"{message.name} mixes fields and a oneof"
        assert [field.number for field in fields] == list(range(1, len(fields) + 1)), message.name
        return _one_of_keys(message.name, fields) + head + _one_of(message.name, fields)
    return _keys(message.name, fields) + head + _record(message.name, fields)


def _one_of_keys(name: str, fields: list[_Field]) -> list[str]:
    return ["", *(f"{_constant(name)}_{field.name.upper()}: Final = {field.key_bytes}" for field in fields)]


def _keys(name: str, fields: list[_Field]) -> list[str]:
    keys = ", ".join(str(field.key) for field in fields if field.number < _ONE_BYTE_FIELDS)
    apart = [
        f"{_constant(name)}_{field.name.upper()}: Final = {field.key_bytes}"
        for field in fields
        if name in APART or field.is_apart
    ]
    return ["", f"_{_constant(name)}_KEYS: Final = frozenset({{{keys}}})", *apart]


def _one_of(name: str, fields: list[_Field]) -> list[str]:
    content = f"{' | '.join(field.message for field in fields)} | None = None"
    lines = _frame(["message"], [f"message: {content}"], ["self.message = message"])
    lines += ["    def encode(self) -> bytes:", '        """Its bytes; none when nothing is set."""']
    lines += ["        message = self.message"]
    for field in fields:
        constant = f"{_constant(name)}_{field.name.upper()}"
        lines += [f"        if isinstance(message, {field.message}):"]
        lines += [f"            return delimited({constant}, message.encode())"]
    lines += ['        return b""', "", "    @staticmethod", f"    def decode(data: bytes) -> {name}:"]
    lines += ['        """None is set when it is one that this version does not know."""', "        try:"]
    lines += [f"            number, content = read_one_of(data, {len(fields)})"]
    lines += ["        except (IndexError, ValueError) as error:"]
    lines += [f'            raise undecoded("{name}", error) from error']
    for field in fields:
        lines += [
            f"        if number == {field.number}:",
            f"            return {name}({field.message}.decode(content))",
        ]
    return [*lines, f"        return {name}()"]


def _frame(names: list[str], parameters: list[str], assignments: list[str]) -> list[str]:
    """What every class begins with."""
    slots = "".join(f'"{name}", ' for name in names)
    lines = [f"    __slots__ = ({slots})", "", f"    def __init__({', '.join(['self', *parameters])}) -> None:"]
    lines += ["        " + assignment for assignment in assignments or ["pass"]]
    return [*lines, "", "    __eq__ = has_same_fields", "    __repr__ = shown", ""]


def _record(name: str, fields: list[_Field]) -> list[str]:
    lines = _frame(
        [field.name for field in fields],
        [field.parameter for field in fields],
        [field.assignment for field in fields],
    )
    lines += ["    def encode(self) -> bytes:", '        """Its bytes, fields in the order of their numbers."""']
    lines += ["        out: list[bytes] = []"]
    lines += ["        " + line for field in fields for line in field.write()]
    lines += ['        return b"".join(out)', "", "    @staticmethod", f"    def decode(data: bytes) -> {name}:"]
    lines += ['        """The message that these bytes are; fields that it does not know are left out."""']
    lines += ["        " + field.local[0] for field in fields]
    lines += ["        at, end = 0, len(data)", "        try:", "            while at < end:"]
    lines += ["                key = data[at]"]
    for field in fields:
        if field.number < _ONE_BYTE_FIELDS:
            lines += [f"                if key == {field.key}:"]
            lines += ["                    " + line for line in field.read()]
            lines += ["                    if at == end:", "                        break"]
            lines += ["                    key = data[at]"]
    lines += [f"                if key not in _{_constant(name)}_KEYS:"]
    lines += ["                    number, wire_type, at = read_key(data, at)"]
    word = "if"
    for condition, statements in (form for field in fields for form in field.read_otherwise()):
        lines += [f"                    {word} {condition}:"]
        lines += ["                        " + line for line in statements]
        word = "elif"
    known = f"number in {_numbers_of(fields)}"
    lines += [f"                    {word} {known}:", "                        raise unfit(number, wire_type)"]
    lines += ["                    else:", "                        at = skip(data, at, wire_type)"]
    lines += ["        except (IndexError, ValueError) as error:"]
    lines += [f'            raise undecoded("{name}", error) from error']
    return [*lines, f"        return {name}({', '.join(field.local[1] for field in fields)})"]


def _numbers_of(fields: list[_Field]) -> str:
    return "{" + ", ".join(str(field.number) for field in fields) + "}"


def _constant(name: str) -> str:
    return "".join(f"_{letter}" if letter.isupper() else letter.upper() for letter in name).strip("_").upper()


def _comment(text: str) -> str:
    """A proto comment as a docstring: quotes at its end would break it."""
    lines = [line.strip() for line in text.strip().splitlines()]
    doc = "\n    ".join(lines).replace('"', "'").replace("\\", "")
    return doc + "\n    " if len(lines) > 1 else doc


def _formatted(text: str, path: Path) -> str:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "ruff",
            "format",
            "--quiet",
            "--line-length",
            "120",
            "--isolated",
            "--stdin-filename",
            path.name,
            "-",
        ],
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(f"what is generated is not Python:\n{done.stderr.strip()}")
    return done.stdout
