// json_numbers.js
//      json.c against a real JavaScript, at random.
//
// Usage: node json_numbers.js [driver [seed]]
//
// The driver is the program made from json_driver.c, by default the one of
// that name beside this file. The seed is printed, so that a failure can be
// had again.
//
// Copyright (c) 2026, chatwebhook contributors
'use strict';

const { spawnSync } = require('child_process');
const path = require('path');

const driver = process.argv[2] || path.join(__dirname, 'json_driver');
const seed = process.argv[3] === undefined
    ? Math.floor(Math.random() * 2 ** 32) : Number(process.argv[3]) >>> 0;

// Random numbers: mulberry32, for a seed that can be given.

let state = seed;

function random32() {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return (t ^ (t >>> 14)) >>> 0;
}

const below = (n) => Math.floor(random32() / 2 ** 32 * n);
const between = (low, high) => low + below(high - low + 1);
const pick = (list) => list[below(list.length)];
const times = (n, make) => Array.from({ length: n }, (_, i) => make(i));

// Doubles and their bits.

const view = new DataView(new ArrayBuffer(8));

function fromBits(bits) {
    view.setBigUint64(0, bits);
    return view.getFloat64(0);
}

function toBits(number) {
    view.setFloat64(0, number);
    return view.getBigUint64(0);
}

// A random finite double, or one whose exponent bits are within bounds.
function randomDouble(low = 0, high = 0x7fe) {
    const fraction = BigInt(random32()) << 20n | BigInt(below(2 ** 20));
    return fromBits(BigInt(between(low, high)) << 52n | fraction);
}

// The doubles around a positive one, itself included.
function neighbors(number) {
    const bits = toBits(number);
    return [-2n, -1n, 0n, 1n, 2n].map((step) => bits + step)
        .filter((b) => b > 0n).map(fromBits).filter(Number.isFinite);
}

// Decimals, as an integer and a power of ten.

// An integer times a power of ten in plain notation, as numeric_out writes it.
function plain(digits, exponent) {
    let text = digits.toString();
    if (exponent >= 0)
        return digits === 0n ? text : text + '0'.repeat(exponent);
    text = text.padStart(1 - exponent, '0');
    return text.slice(0, exponent) + '.' + text.slice(exponent);
}

// What a text denotes: [integer without trailing zeros, power of ten].
function value(text) {
    const [, sign, whole, fraction = '', exponent = '0'] =
        /^(-?)(\d+)(?:\.(\d+))?(?:e([+-]?\d+))?$/i.exec(text);
    const digits = (whole + fraction).replace(/^0+/, '');
    const kept = digits.replace(/0+$/, '');
    if (kept === '')
        return [0n, 0];
    return [BigInt(sign + kept),
        Number(exponent) - fraction.length + digits.length - kept.length];
}

// A double's shortest digits in plain notation.
const shortest = (number) => plain(...value(String(number)));

// A double's every digit in plain notation.
function exact(number) {
    const bits = toBits(number);
    let exponent = Number(bits >> 52n);
    let significand = bits & (1n << 52n) - 1n;
    if (exponent === 0)
        exponent = 1;
    else
        significand |= 1n << 52n;
    exponent -= 1075;
    if (exponent >= 0)
        return (significand << BigInt(exponent)).toString();
    return plain(significand * 5n ** BigInt(-exponent), exponent)
        .replace(/\.?0+$/, '');
}

// A decimal of so many digits, the last of them not zero.
function digits(n) {
    let text = String(between(1, 9));
    while (text.length < n - 1)
        text += below(10);
    return BigInt(text.slice(0, n - 1) + between(1, 9));
}

// Decimals around the nearest one of n digits to a number.
function around(number, n) {
    const [, whole, fraction, exponent] =
        /^(\d)(?:\.(\d+))?e([+-]\d+)$/.exec(number.toExponential(n - 1));
    const nearest = BigInt(whole + (fraction || ''));
    return [-1n, 0n, 1n].map((step) => nearest + step).filter((d) => d > 0n)
        .map((d) => plain(d, Number(exponent) - n + 1));
}

// The middle between a double and the next: where a tie is read as the even.
function middle(number) {
    const [a, b] = [number, fromBits(toBits(number) + 1n)]
        .map((n) => value(exact(n)));
    const exponent = Math.min(a[1], b[1]) - 1;
    const sum = [a, b].map(([d, e]) => d * 10n ** BigInt(e - exponent))
        .reduce((x, y) => x + y);
    return plain(sum / 2n, exponent);
}

const kinds = {
    'random doubles, every digit': () =>
        times(3000, () => exact(randomDouble())),
    'random doubles of everyday size, every digit': () =>
        times(2000, () => exact(randomDouble(1023 - 40, 1023 + 60))),
    'random doubles, shortest digits': () =>
        times(6000, () => shortest(randomDouble())),
    'random doubles of everyday size, shortest digits': () =>
        times(6000, () => shortest(randomDouble(1023 - 40, 1023 + 80))),
    'decimals around random doubles': () =>
        times(1500, () => around(pick([
            randomDouble(), randomDouble(1023 - 40, 1023 + 80),
        ]), between(14, 18))).flat(),
    'powers of two and neighbors, shortest digits': () =>
        times(2098, (i) => neighbors(2 ** (i - 1074)).map(shortest)).flat(),
    'decimals around powers of two': () =>
        times(2098, (i) => [15, 16, 17, 18].map((n) =>
            around(2 ** (i - 1074), n))).flat(2),
    'powers of two of few digits, every digit': () =>
        times(171, (i) => exact(2 ** (i - 70))),
    'decimals around multiples of small powers of two': () =>
        times(3000, () => around(between(1, 100) * 2 ** -between(10, 59),
            between(15, 17))).flat(),
    'powers of ten and neighbors': () =>
        times(640, (i) => {
            const ten = 10n ** 17n;
            return [ten, ten - 1n, ten + 1n, ten - 10n, ten + 10n, ten + 100n,
                9n * ten].map((d) => plain(d, i - 344));
        }).flat(),
    'integers around 2^53': () =>
        times(2000, () => String(2n ** 53n + BigInt(between(-5000, 5000)))),
    'integers around powers of two from 2^53 on': () =>
        times(4000, () => String(
            2n ** BigInt(between(53, 80)) + BigInt(between(-3000, 3000)))),
    'random integers of doubles': () =>
        times(3000, () => String(BigInt(randomDouble(1023 + 52, 1023 + 75)))),
    'decimals of 1 to 14 digits': () =>
        times(2000, () => plain(digits(between(1, 14)), between(-30, 12))),
    'decimals of 15 to 18 digits': () =>
        times(8000, (i) => plain(digits(15 + i % 4), between(-30, 8))),
    'decimals of 15 to 18 digits, of every magnitude': () =>
        times(4000, (i) => plain(digits(15 + i % 4), between(-345, 300))),
    'with zeros at the end': () =>
        times(2000, () => plain(
            digits(between(1, 17)) * 10n ** BigInt(between(1, 30)),
            between(-40, 5))),
    'subnormals, shortest digits': () =>
        times(3000, () => shortest(randomDouble(0, 0))),
    'the smallest subnormals, and decimals around them': () =>
        times(300, (i) => {
            const number = (i + 1) * 5e-324;
            return [shortest(number), ...[1, 2, 3, 4].flatMap((n) =>
                number.toExponential(n - 1) === '0e+0' ? [] : around(number, n)
            )];
        }).flat(),
    'decimals of few digits at the bottom': () =>
        times(3000, () => plain(digits(between(1, 17)), between(-342, -322))),
    'at the top': () =>
        times(2000, () => pick([
            () => around(Number.MAX_VALUE, between(1, 18)),
            () => [shortest(randomDouble(0x7fe, 0x7fe))],
            () => [plain(digits(between(1, 18)), between(290, 310))],
        ])()).flat(),
    'half way between doubles': () =>
        times(1500, () => middle(pick([
            () => randomDouble(1023 + 52, 1023 + 60),
            () => randomDouble(1023, 1023 + 60),
            () => randomDouble(0, 0x7fd),
        ])())),
    'huge ones': () =>
        times(200, () => plain(digits(between(18, 5000)),
            -between(0, 5000))),
    'zeros': () => ['0', '0.0', '0.000', plain(0n, -1000)],
};

// The cases by the hundred thousand leave no room for a line each.

let checks = 0;
let failures = 0;

function report(name, wrong, count) {
    checks++;
    if (wrong.length > 0)
        failures++;
    console.log(`${wrong.length > 0 ? 'not ok' : 'ok'} ${checks}` +
        ` - ${name} (${count})`);
    for (const w of wrong.slice(0, 5))
        console.error(`# ${w.input}\n#      got: ${w.got}\n` +
            `# expected: ${w.want}`);
    if (wrong.length > 5)
        console.error(`# and ${wrong.length - 5} more`);
}

// Run the driver over some inputs; returns its answers.
function run(what, inputs) {
    const child = spawnSync(driver, [what], {
        input: inputs.map((i) => i + '\n').join(''),
        maxBuffer: 2 ** 30,
    });
    if (child.error)
        throw child.error;
    const answers = child.stdout.toString().split('\n');
    if (child.status !== 0 || answers.pop() !== '' ||
        answers.length !== inputs.length)
        throw new Error(`${driver} ${what} failed: status ${child.status}, ` +
            `${answers.length} answers to ${inputs.length} lines\n` +
            child.stderr);
    return answers;
}

// Compare answers with what JavaScript says.
function compare(name, what, cases, encode, expected) {
    const answers = run(what, cases.map(encode));
    const wrong = [];
    answers.forEach((got, i) => {
        const want = expected(cases[i]);
        if (got !== want)
            wrong.push({ input: encode(cases[i]), got, want });
    });
    report(name, wrong, cases.length);
}

// A number that a double holds is printed as JavaScript does, else as it was.
function expectedNumber(text) {
    const number = Number(text);
    if (!Number.isFinite(number))
        return text;
    const [a, b] = [value(text), value(String(number))];
    return a[0] === b[0] && a[1] === b[1]
        ? JSON.stringify(JSON.parse(text)) : text;
}

function randomCharacter() {
    return pick([
        () => between(0x20, 0x7e),
        () => between(0x20, 0x7e),
        () => between(0x20, 0x7e),
        () => between(0, 0x1f),
        () => pick([0x22, 0x5c, 0x2f, 0x7f, 0x2028, 0x2029, 0xfeff, 0xffff]),
        () => between(0x80, 0x7ff),
        () => between(0x800, 0xd7ff),
        () => between(0xe000, 0xffff),
        () => between(0x10000, 0x10ffff),
    ])();
}

// Strings of one mixture each, as texts that people write hardly vary.
function randomString() {
    const length = pick([0, 1, 7, 8, 9, 20, 100, 1000]);
    const everyday = below(100);
    return String.fromCodePoint(...times(below(length + 1), () =>
        below(100) < everyday ? between(0x61, 0x7a) : randomCharacter()));
}

// The order that JSON.parse gives to keys, from what is said of each of them.
function checkKeys() {
    const interesting = ['0', '1', '2', '9', '10', '11', '100', '00', '01',
        '-0', '-1', '+1', '1.0', '1e3', ' 1', '1 ', 'a', 'constructor', '',
        '1073741823', '1073741824', '2147483646', '2147483647', '2147483648',
        '4294967293', '4294967294', '4294967295', '4294967296', '4294967297',
        '9007199254740991', '9007199254740992', '18446744073709551616'];
    const randomKey = () => pick([
        () => pick(interesting),
        () => String(random32()),
        () => String(2 ** 32 + between(-20, 20)),
        () => String(2 ** 31 + between(-20, 20)),
        () => String(below(2000)),
        () => 'k' + below(2000),
    ])();
    const objects = times(2000, () => [...new Set(
        times(below(pick([5, 50, 2000])), randomKey))]);
    const answers = run('index', objects.flat());
    const wrong = [];
    let next = 0;

    for (const keys of objects) {
        const indexes = [];
        const others = [];
        for (const key of keys) {
            const answer = answers[next++];
            if (answer === 'no')
                others.push(key);
            else
                indexes.push([Number(answer), key]);
        }
        indexes.sort((a, b) => a[0] - b[0]);
        const got = JSON.stringify([...indexes.map((i) => i[1]), ...others]);
        const text = '{' + keys.map((k) => JSON.stringify(k) + ':0').join() +
            '}';
        const want = JSON.stringify(Object.keys(JSON.parse(text)));
        if (got !== want)
            wrong.push({ input: text, got, want });
    }
    report('the order of keys in objects', wrong, objects.length);
}

console.log(`# seed ${seed}`);

for (const [name, make] of Object.entries(kinds))
    compare(name, 'number',
        make().map((text) => below(4) === 0 ? '-' + text : text),
        (text) => text, expectedNumber);

compare('numbers with an exponent', 'number',
    times(4000, () => pick([
        () => String(randomDouble()),
        () => String(randomDouble()).toUpperCase(),
        () => randomDouble().toExponential(between(0, 20)),
        () => `${digits(between(1, 19))}e${between(-350, 310)}`,
    ])()), (text) => text, expectedNumber);

compare('strings', 'string', times(10000, randomString),
    (string) => Buffer.from(string).toString('hex'),
    (string) => JSON.stringify(string));

checkKeys();

console.log(`1..${checks}`);
if (failures > 0)
    console.error(`# ${failures} of ${checks} checks failed`);
process.exitCode = failures > 0 ? 1 : 0;
