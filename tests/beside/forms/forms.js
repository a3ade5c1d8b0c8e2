// Reads `kind<TAB>stored text` from each line, and prints `parsed value<TAB>text that Node writes for it`.
// Uses only Node's own modules.
'use strict';

const assert = require('node:assert');
const net = require('node:net');
const readline = require('node:readline');

const UNITS = { h: 3600_000_000_000n, m: 60_000_000_000n, s: 1_000_000_000n, ms: 1_000_000n, us: 1000n, ns: 1n };

// Parses a duration, since JavaScript has no parser for it.
function duration(text) {
  assert.match(text, /^-?(\d+(h|ms|m|s|us|ns))+$/);
  let total = 0n;
  for (const [, number, unit] of text.matchAll(/(\d+)(h|ms|m|s|us|ns)/g)) total += BigInt(number) * UNITS[unit];
  return text.startsWith('-') ? -total : total;
}

function bits(number) {
  const view = new DataView(new ArrayBuffer(8));
  view.setFloat64(0, number);
  return view.getBigUint64(0).toString(16).padStart(16, '0');
}

// Returns the bytes of an IP address. The URL parser normalizes IPv6 addresses.
function ip(text) {
  if (net.isIPv4(text)) return text.split('.').map((byte) => Number(byte).toString(16).padStart(2, '0')).join('');
  assert(net.isIPv6(text), text);
  const [front, back] = new URL(`http://[${text}]`).hostname.slice(1, -1).split('::').map((half) => half.split(':').filter(Boolean));
  const zeros = back === undefined ? [] : Array(8 - front.length - back.length).fill('0');
  return [...front, ...zeros, ...(back ?? [])].map((group) => group.padStart(4, '0')).join('');
}

function millis(text) {
  const time = new Date(text).getTime();
  assert(!Number.isNaN(time), text);
  return time;
}

function read(kind, text) {
  switch (kind) {
    case 'duration': {
      const nanos = duration(text);
      return [nanos, nanos % 1_000_000n === 0n ? `${nanos / 1_000_000n}ms` : `${nanos}ns`];
    }
    case 'integer':
      return [BigInt(text), BigInt(text)];
    case 'number': {
      // `Number` does not parse `inf`.
      const number = Number(text.replace('inf', 'Infinity'));
      return [bits(number), Object.is(number, -0) ? '-0' : number];
    }
    case 'boolean':
    case 'json': {
      const value = JSON.parse(text);
      return [kind === 'json' ? `${value.names.join(',')} ${bits(value.rate)}` : value, JSON.stringify(value)];
    }
    case 'ip':
      return [ip(text), text];
    case 'address': {
      const at = new net.SocketAddress({ address: text.slice(0, text.lastIndexOf(':')).replace(/[[\]]/g, ''), port: Number(text.split(':').pop()), family: text.startsWith('[') ? 'ipv6' : 'ipv4' });
      return [`${ip(at.address)} ${at.port}`, text];
    }
    case 'url': {
      const url = new URL(text);
      return [`${url.protocol.slice(0, -1)} ${url.hostname.replace(/[[\]]/g, '')}`, url.href];
    }
    case 'uuid':
      assert.match(text, /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/);
      return [text.replaceAll('-', ''), text];
    case 'time':
      return [millis(text), new Date(text).toISOString()];
    case 'time with offset': {
      const [, sign, hours, minutes] = text.match(/(?:Z|([+-])(\d\d):(\d\d))$/);
      const offset = sign ? (sign === '-' ? -1 : 1) * (Number(hours) * 3600 + Number(minutes) * 60) : 0;
      return [`${millis(text)} ${offset}`, text];
    }
    case 'date':
      return [millis(text), new Date(text).toISOString().slice(0, 10)];
    case 'time of day':
      return [millis(`1970-01-01T${text}Z`), new Date(`1970-01-01T${text}Z`).toISOString().slice(11, -1)];
    case 'date and time':
      return [millis(`${text}Z`), new Date(`${text}Z`).toISOString().slice(0, -1)];
  }
  throw new Error(kind);
}

readline.createInterface({ input: process.stdin }).on('line', (line) => {
  const [kind, text] = line.split('\t');
  console.log(read(kind, text).join('\t'));
});
