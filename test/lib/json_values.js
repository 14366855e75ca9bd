#!/usr/bin/env node
/*
 * JSON that is hard to write as JavaScript would, for tests.
 *
 *     json_values.js random SEED COUNT    random values
 *     json_values.js awkward              objects that have made others stumble
 *     json_values.js compare VALUES LOG   what became of them
 *
 * The first two print a JSON text a line.  It is spelled in unusual ways: with
 * blanks, needless escapes, zeros and exponents, keys twice.  Every number is
 * one that JavaScript prints with the same value, and no text has U+0000 or half
 * a surrogate pair, which jsonb does not take.
 *
 * The third reads the lines of such a file, and a log of receiver.js in which
 * conversationId is the number of the line, from 1, and data is the value, or
 * an object with the value as "value".  It prints as JSON how many requests
 * there were, how many of the lines arrived, how many bodies JSON.stringify does
 * not give back, how many values are not what they were, and up to five
 * examples.
 */
'use strict';

const fs = require('node:fs');
const { isDeepStrictEqual } = require('node:util');

let state = 0;

/* Random numbers that a seed repeats: mulberry32. */
function random() {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
}

const below = (n) => Math.floor(random() * n);
const pick = (list) => list[below(list.length)];
const chance = (p) => random() < p;
const times = (n, make) => Array.from({ length: n }, (_, i) => make(i));
const blank = () => (chance(0.1) ? ' '.repeat(1 + below(3)) : '');

/*
 * Numbers
 */

const NUMBERS = [
    0, 1, -1, 10, 100, 0.1, 0.5, 1.5, 1 / 3, 2 / 3, 1e20, 1e21, 1e22, 123456789e12,
    1e-5, 1e-6, 1e-7, 1.5e-7, 1e100, 1e300, 5e-324, 2.2250738585072014e-308,
    1.7976931348623157e308, Number.EPSILON, 4294967295, 4294967296, 2147483648,
    2 ** 53 - 2, 2 ** 53 - 1, 2 ** 53, 2 ** 53 + 2, 2 ** 53 + 4, -(2 ** 53), -(2 ** 53) - 2,
    0.1 + 0.2, 299792458.000001, 1234.5678, 100000000000000000000, 999999999999999900000,
    9.5, 0.000001234, 1e23, 8.41e21, 5e-7, 4.35, 0.3, 2.5, 1e15, 1e16, 1e17,
];

/* The bits of a double at random: any magnitude. */
function randomDouble() {
    const view = new DataView(new ArrayBuffer(8));
    for (;;) {
        view.setUint32(0, below(2 ** 32));
        view.setUint32(4, below(2 ** 32));
        const number = view.getFloat64(0);
        if (Number.isFinite(number))
            return number;
    }
}

function randomNumber() {
    switch (below(6)) {
        case 0: return pick(NUMBERS) * (chance(0.3) ? -1 : 1);
        case 1: return randomDouble();
        case 2: return below(2 ** 32) - 2 ** 31;
        case 3: return below(1e6) / pick([10, 100, 1000, 1e4, 1e6]);
        case 4: return (2 ** 53 - 4 + below(9)) * (chance(0.5) ? -1 : 1);
        default: return below(1e9) * 10 ** below(30);
    }
}

/* A number in some spelling of the decimal that JavaScript prints. */
function spellNumber(number) {
    const [, sign, whole, fraction = '', exponent = '0'] =
        /^(-?)(\d+)(?:\.(\d+))?(?:e([+-]\d+))?$/.exec(String(number));
    const minus = Object.is(number, -0) ? '-' : sign;
    let digits = whole + fraction;
    let point = whole.length + Number(exponent);
    switch (below(5)) {
        case 0:
            return minus + digits.replace(/^0+(?=.)/, '') + pick(['e', 'E', 'e+'])
                .replace('+', point >= digits.length ? '+' : '') + (point - digits.length);
        case 1:
            return `${minus}0.${digits}0e${point}`;
        case 2:
            if (point > 0 && point < 25 && !digits.startsWith('0')) {
                digits = digits.padEnd(point, '0');
                return `${minus}${digits.slice(0, point)}.${digits.slice(point)}00`;
            }
            break;
    }
    return Object.is(number, -0) ? '-0' : String(number);
}

/*
 * Strings
 */

const SPECIAL = [
    '"', '\\', '/', '\b', '\f', '\n', '\r', '\t', '\u0001', '\u000b', '\u001b', '\u001f',
    '\u007f', '\u0080', '\u009f', '\u00a0', '\u00ad', '\u2028', '\u2029', '\u200b', '\u200d',
    '\u202e', '\ufeff', '\ufffd', '\ufffe', '\uffff', '\ue000', '\ud7ff', '\u{10000}',
    '\u{1f600}', '\u{1f468}\u200d\u{1f469}\u200d\u{1f467}', '\u{1f1e9}\u{1f1ea}', '\u{10ffff}',
    'e\u0301', '\u00e9', '\u00df', '\u0130', '\u4e2d\u6587', '\u05e9\u05dc\u05d5\u05dd', "'",
    '<', '>', '&', '</script>', '<!--', '{{token}}', '%00', '$1', '\\u0041', '\\n', '',
];

const KEYS = [
    '', '0', '1', '2', '9', '10', '00', '01', '-1', '-0', '1.0', '1e3', '123', '65535',
    '2147483647', '2147483648', '4294967294', '4294967295', '4294967296', '99999999999', ' 1',
    '1 ', '+1', '0x1', 'NaN', 'Infinity', '__proto__', 'constructor', 'toString', 'toJSON',
    'hasOwnProperty', 'length', 'a', 'b', 'aa', 'A', 'id', 'type', 'data', 'value', '\u0661',
    '\uff11', '\u2028', '\u{1f600}', '"', '\\', '\n', 'a b', 'a.b', '$', '@', '\u00e9', 'e\u0301',
];

function randomString() {
    return times(below(12), () => {
        switch (below(5)) {
            case 0: return pick(SPECIAL);
            case 1: return String.fromCharCode(1 + below(0xff));
            case 2: return String.fromCharCode(pick([0x100 + below(0xd700), 0xe000 + below(0x2000)]));
            case 3: return String.fromCodePoint(0x10000 + below(0x100000));
            default: return String.fromCharCode(32 + below(95));
        }
    }).join('');
}

const randomKey = () => {
    switch (below(4)) {
        case 0: return String(below(pick([10, 100, 2 ** 32, 2 ** 34])));
        case 1: return pick(KEYS);
        default: return randomString();
    }
};

/* A string as a JSON text, some of it escaped without need. */
function spellString(string) {
    const escape = (c) => c.split('').map((unit) =>
        '\\u' + unit.charCodeAt(0).toString(16).padStart(4, '0')
            .replace(/[a-f]/g, (h) => (chance(0.5) ? h.toUpperCase() : h))).join('');
    const text = Array.from(string, (c) => {
        if (c === '/' && chance(0.5))
            return '\\/';
        return chance(0.1) ? escape(c) : JSON.stringify(c).slice(1, -1);
    });
    return `"${text.join('')}"`;
}

/*
 * Values
 */

function spellScalar() {
    switch (below(5)) {
        case 0: return pick(['null', 'true', 'false']);
        case 1:
        case 2: return spellNumber(randomNumber());
        default: return spellString(randomString());
    }
}

function spellContainer(depth) {
    const inside = () => (depth > 1 && chance(0.4) ? spellContainer(depth - 1) : spellScalar());
    if (chance(0.3)) {
        const elements = times(below(6), () => blank() + inside() + blank());
        return `[${elements.join(',')}]`;
    }
    const keys = times(below(9), randomKey);
    if (keys.length > 0 && chance(0.1))
        keys.push(keys[0]);
    const members = keys.map((key) =>
        `${blank()}${spellString(key)}${blank()}:${blank()}${inside()}`);
    return `{${members.join(',')}}`;
}

/* Each kind of difficulty by itself, then some together. */
function awkward() {
    const object = (...members) => `{${members.map(([k, v]) => `${spellString(k)}:${v}`).join(',')}}`;
    const plain = (value) => JSON.stringify(value);
    const all = [];
    state = 1;
    all.push('{}', '{"":""}', '{"a":{}}', '{"a":[]}', '{"a":[[],{},[[]]]}', '{"a":null}');
    for (const special of SPECIAL)
        all.push(object(['content', plain(`before ${special} after`)]), object([special, '1']));
    for (let code = 1; code < 0xa0; code++)
        all.push(object(['content', plain(String.fromCharCode(code))]));
    for (const number of NUMBERS)
        all.push(object(['n', spellNumber(number)], ['m', spellNumber(-number)]));
    for (const spelling of ['1.0', '-0', '-0.0', '0e5', '1E5', '1e+5', '10e-1', '1.10', '0.10e1',
        '100000000000000000000000', '1e21', '1e20', '5e-324', '0.0000001', '123.456e-20',
        '9007199254740991', '9007199254740992', '9007199254740994.00',
        '1.7976931348623157e308', '0.1', '0.30000000000000004', '1e-7', '1e-6'])
        all.push(object(['n', spelling], ['list', `[${spelling},${spelling}]`]));
    for (const key of KEYS)
        all.push(object(['b', '1'], [key, '2'], ['a', '3'], ['1', '4'], ['0', '5']));
    all.push(object(...KEYS.map((key, i) => [key, String(i)])));
    all.push(object(...KEYS.map((key, i) => [key, String(i)]).reverse()));
    all.push(object(...times(1000, (i) => [String(999 - i), plain(`n${i}`)])));
    all.push(object(['list', `[${times(5000, String).join(',')}]`]));
    all.push(object(['long', plain('"\u{1f600}\\\u2028'.repeat(10000))]));
    all.push('{"deep":' + '['.repeat(500) + ']'.repeat(500) + '}');
    all.push('{"deep":' + '{"1":'.repeat(500) + '0' + '}'.repeat(500) + '}');
    all.push('{"a":1,"b":2,"a":3}', '{"\\u0061":1,"a":2}');
    all.push(' { "a" : [ 1 , 2.50 , { } ] , "b" : "\\/" } ');
    return all;
}

/*
 * What became of them
 */

/* As it is after JSON: without the sign of -0. */
const canonical = (value) => JSON.parse(JSON.stringify(value));

const linesOf = (file) => fs.readFileSync(file, 'utf8').split('\n').filter((line) => line !== '');

function compare(valuesFile, logFile) {
    const values = linesOf(valuesFile);
    const result = { requests: 0, arrived: 0, respelled: 0, changed: 0, examples: [] };
    const arrived = new Set();
    for (const line of linesOf(logFile)) {
        const { body } = JSON.parse(line);
        const event = JSON.parse(body);
        const number = Number(event.conversationId);
        const expected = canonical(JSON.parse(values[number - 1]));
        const again = JSON.stringify(event);
        const same = isDeepStrictEqual(event.data, expected)
            || isDeepStrictEqual(event.data, { value: expected });
        result.requests++;
        arrived.add(number);
        result.respelled += again !== body;
        result.changed += !same;
        if ((again !== body || !same) && result.examples.length < 5)
            result.examples.push({ line: number, value: values[number - 1], body, again });
    }
    result.arrived = arrived.size;
    return result;
}

const [command, ...args] = process.argv.slice(2);
if (command === 'random') {
    state = Number(args[0]) >>> 0;
    const values = times(Number(args[1]), () => (chance(0.1) ? spellScalar() : spellContainer(4)));
    process.stdout.write(values.join('\n') + '\n');
} else if (command === 'awkward')
    process.stdout.write(awkward().join('\n') + '\n');
else if (command === 'compare')
    process.stdout.write(JSON.stringify(compare(...args)) + '\n');
else {
    process.stderr.write('usage: json_values.js random SEED COUNT | awkward | compare VALUES LOG\n');
    process.exit(2);
}
