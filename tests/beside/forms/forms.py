"""Reads `kind<TAB>stored text` from each line, and prints `parsed value<TAB>text that Python writes for it`.

Uses only Python's standard library.
"""

import ipaddress
import json
import re
import struct
import sys
import uuid
from datetime import date, datetime, time, timedelta, timezone
from urllib.parse import urlsplit

UNITS = {"h": 3600 * 10**9, "m": 60 * 10**9, "s": 10**9, "ms": 10**6, "us": 1000, "ns": 1}


def duration(text):
    """Parses a duration, since Python has no parser for it."""
    assert re.fullmatch(r"-?(\d+(h|ms|m|s|us|ns))+", text), text
    total = sum(int(n) * UNITS[unit] for n, unit in re.findall(r"(\d+)(h|ms|m|s|us|ns)", text))
    return -total if text.startswith("-") else total


def bits(number):
    return struct.pack(">d", number).hex()


def millis(moment):
    return (moment - datetime(1970, 1, 1, tzinfo=moment.tzinfo and timezone.utc)) // timedelta(milliseconds=1)


def read(kind, text):
    match kind:
        case "duration":
            nanos = duration(text)
            return nanos, f"{nanos // 1000}us" if nanos % 1000 == 0 else f"{nanos}ns"
        case "integer":
            return int(text), int(text)
        case "number":
            return bits(float(text)), repr(float(text))
        case "boolean":
            return json.dumps(json.loads(text)), json.dumps(json.loads(text))
        case "ip":
            ip = ipaddress.ip_address(text)
            return ip.packed.hex(), ip
        case "address":
            at = urlsplit("//" + text)
            return f"{ipaddress.ip_address(at.hostname).packed.hex()} {at.port}", text
        case "url":
            url = urlsplit(text)
            return f"{url.scheme} {url.hostname or ''}", url.geturl()
        case "uuid":
            return uuid.UUID(text).hex, uuid.UUID(text)
        case "time":
            moment = datetime.fromisoformat(text)
            return millis(moment), moment.isoformat()
        case "time with offset":
            moment = datetime.fromisoformat(text)
            return f"{millis(moment)} {moment.utcoffset() // timedelta(seconds=1)}", moment.isoformat()
        case "date":
            day = date.fromisoformat(text)
            return (day - date(1970, 1, 1)).days * 86_400_000, day.isoformat()
        case "time of day":
            of_day = time.fromisoformat(text)
            return millis(datetime.combine(date(1970, 1, 1), of_day)), of_day.isoformat()
        case "date and time":
            moment = datetime.fromisoformat(text)
            assert moment.tzinfo is None
            return millis(moment), moment.isoformat()
        case "json":
            value = json.loads(text)
            return ",".join(value["names"]) + " " + bits(value["rate"]), json.dumps(value)
    raise ValueError(kind)


for line in sys.stdin:
    kind, text = line.rstrip("\n").split("\t")
    is_, own = read(kind, text)
    print(f"{is_}\t{own}")
