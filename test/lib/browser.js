/*
 * Shows pages in headless Chromium, and says what has become of them.
 *
 *     node browser.js chromium profile-directory < jobs > results
 *
 * Jobs are lines of JSON: url, width, height, scheme (light or dark), click (a
 * selector: these are clicked first), screenshot (where to write it; the page's
 * first 4000 pixels).  Each is answered by a line, see look().  An empty line ends it all.
 * The browser is spoken to through a pipe, by the DevTools protocol; no port is
 * opened, and the page's own scripts, if it had any, would run.
 */
'use strict'

const { spawn } = require('node:child_process')
const { writeFileSync } = require('node:fs')
const readline = require('node:readline')

const [program, profile] = process.argv.slice(2)
const browser = spawn(program, [
  '--headless', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--hide-scrollbars',
  '--no-first-run', '--disable-extensions', '--disable-background-networking', '--disable-sync',
  '--disable-component-update', '--force-color-profile=srgb',
  `--user-data-dir=${profile}`, '--remote-debugging-pipe', 'about:blank'
], { stdio: ['ignore', 'ignore', 'inherit', 'pipe', 'pipe'] })

browser.on('error', (error) => { console.error(String(error)); process.exit(1) })
browser.on('exit', (code) => { if (!ending) { console.error(`the browser ended: ${code}`); process.exit(1) } })
let ending = false

// Messages are JSON, each ended by a zero byte.
const waiting = new Map()
const listeners = []
let last = 0
let rest = Buffer.alloc(0)
browser.stdio[4].on('data', (chunk) => {
  rest = Buffer.concat([rest, chunk])
  for (let end; (end = rest.indexOf(0)) >= 0; rest = rest.subarray(end + 1)) {
    const message = JSON.parse(rest.subarray(0, end).toString())
    if (message.id) {
      const { resolve, reject, method } = waiting.get(message.id)
      waiting.delete(message.id)
      if (message.error) reject(new Error(`${method}: ${message.error.message}`))
      else resolve(message.result)
    } else listeners.forEach((listener) => listener(message))
  }
})
function send (method, params = {}, sessionId) {
  const id = ++last
  browser.stdio[3].write(JSON.stringify({ id, method, params, sessionId }) + '\0')
  return new Promise((resolve, reject) => waiting.set(id, { resolve, reject, method }))
}
function event (method) {
  return new Promise((resolve) => {
    const listener = (message) => {
      if (message.method !== method) return
      listeners.splice(listeners.indexOf(listener), 1)
      resolve(message.params)
    }
    listeners.push(listener)
  })
}

/* In the page: what there is to know about it. */
function look () {
  const all = [...document.querySelectorAll('*')]
  const count = (key) => all.reduce((n, e) => { n[key(e)] = (n[key(e)] || 0) + 1; return n }, {})
  const shown = (e) => e.checkVisibility({ checkVisibilityCSS: true }) && !e.closest('.hidden')

  // Contrast as the WCAG have it, of each text with what it stands on.
  const rgb = (color) => color.match(/[\d.]+/g).map(Number)
  const light = (color) => {
    const [r, g, b] = rgb(color).map((c) => c / 255).map((c) => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b
  }
  const ground = (e) => {
    for (; e; e = e.parentElement) {
      const color = getComputedStyle(e).backgroundColor
      if (rgb(color)[3] !== 0) return color
    }
    return 'rgb(255, 255, 255)'
  }
  let contrast = 21
  let faintest = ''
  for (const e of all) {
    if (e.closest('svg, head') || !shown(e)) continue
    if (![...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim() !== '')) continue
    const [a, b] = [light(getComputedStyle(e).color), light(ground(e))].sort((x, y) => y - x)
    if ((a + 0.05) / (b + 0.05) < contrast) {
      contrast = (a + 0.05) / (b + 0.05)
      faintest = e.textContent.slice(0, 60)
    }
  }

  // Whatever ends beyond the right edge, and texts that are cut off within.
  const width = document.documentElement.clientWidth
  const beyond = all.filter((e) => shown(e) && !e.closest('svg') && e.getBoundingClientRect().right > width + 0.5)
    .map((e) => `${e.localName}.${e.className}`)
  const inputs = [...document.querySelectorAll('tr[id]')].map((e) => ({
    id: e.id,
    name: e.querySelector('th bdi').textContent,
    state: e.querySelector('.state').textContent.trim(),
    tone: e.querySelector('.state').classList[1],
    remarks: [...e.querySelectorAll('.error')].map((r) => r.textContent),
    resume: e.querySelector('.copy')?.textContent ?? null,
    cells: [...e.querySelectorAll('td.n')].map((c) => [c.firstChild.textContent, c.querySelector('small')?.textContent ?? '']),
    visible: shown(e),
    spark: e.querySelector('.spark')?.getAttribute('aria-label') ?? null,
    bars: [...e.querySelectorAll('.spark path')].map((p) => (p.getAttribute('d').match(/M/g) || []).length)
  }))
  return {
    title: document.title,
    scrollWidth: document.scrollingElement.scrollWidth,
    innerWidth: window.innerWidth,
    height: document.scrollingElement.scrollHeight,
    beyond,
    elements: count((e) => e.localName),
    attributes: [...new Set(all.flatMap((e) => e.getAttributeNames()))].sort(),
    texts: document.body.innerText,
    headings: [...document.querySelectorAll('h1, h2, h3')].filter(shown).map((e) => `${e.localName} ${e.textContent}`),
    figures: Object.fromEntries([...document.querySelectorAll('dd[id], b[id]')].map((e) => [e.id, e.textContent.replace(/,/g, '')])),
    webhooks: inputs,
    // the first words on the screen, where they end, and their color
    first: document.body.innerText.trim().split('\n')[0],
    firstBottom: document.querySelector('h1').getBoundingClientRect().bottom + window.scrollY,
    tone: document.querySelector('header').className,
    failures: [...document.querySelectorAll('.failures li')].map((e) => ({
      name: e.querySelector('a').textContent,
      type: e.querySelector('.muted').textContent,
      when: e.children[1].textContent,
      tone: e.querySelector('b').className,
      status: e.querySelector('b').textContent,
      reply: e.querySelector('q')?.textContent ?? null,
      delivery: e.children[3].textContent.match(/\d+/)[0],
      retry: e.querySelector('.copy')?.textContent ?? null
    })),
    tables: [...document.querySelectorAll('table')].map((t) => ({
      caption: t.caption?.textContent ?? null,
      // as many cells in each row as there are headings
      square: new Set([...t.rows].map((r) => r.cells.length)).size === 1,
      rows: [...t.tBodies[0].rows].map((r) => [...r.cells].map((c) => c.textContent.replace(/\s+/g, ' ').trim()))
    })),
    nameless: [...document.querySelectorAll('svg:not([aria-hidden])')].filter((e) => e.getAttribute('role') !== 'img' || !e.getAttribute('aria-label')).length,
    dangling: [...document.querySelectorAll('a[href^="#"], use')].filter((e) => !document.getElementById(e.getAttribute('href').slice(1))).length,
    ids: new Set([...document.querySelectorAll('[id]')].map((e) => e.id)).size === document.querySelectorAll('[id]').length,
    charts: [...document.querySelectorAll('.chart rect title')].map((e) => e.textContent),
    background: getComputedStyle(document.body).backgroundColor,
    contrast,
    faintest,
    touched: window.touched ?? null
  }
}

async function main () {
  const { targetId } = await send('Target.createTarget', { url: 'about:blank' })
  const { sessionId } = await send('Target.attachToTarget', { targetId, flatten: true })
  const page = (method, params) => send(method, params, sessionId)
  const requests = []
  const said = []
  listeners.push(({ method, params }) => {
    if (method === 'Network.requestWillBeSent') requests.push(params.request.url)
    if (method === 'Log.entryAdded') said.push(params.entry.text)
    if (method === 'Page.javascriptDialogOpening') {
      said.push(`dialog: ${params.message}`)
      page('Page.handleJavaScriptDialog', { accept: true })
    }
  })
  for (const domain of ['Page', 'Network', 'Log', 'Runtime']) await page(`${domain}.enable`)

  for await (const line of readline.createInterface({ input: process.stdin })) {
    if (line === '') break
    const job = JSON.parse(line)
    requests.length = said.length = 0
    await page('Emulation.setDeviceMetricsOverride', {
      width: job.width, height: job.height ?? 900, deviceScaleFactor: 1, mobile: job.width < 500
    })
    await page('Emulation.setEmulatedMedia', { features: [{ name: 'prefers-color-scheme', value: job.scheme ?? 'light' }] })
    const loaded = event('Page.loadEventFired')
    await page('Page.navigate', { url: job.url })
    await loaded
    if (job.click) {
      await page('Runtime.evaluate', { expression: `document.querySelectorAll(${JSON.stringify(job.click)}).forEach((e) => e.click())` })
    }
    const { result, exceptionDetails } = await page('Runtime.evaluate', { expression: `(${look})()`, returnByValue: true })
    if (exceptionDetails) throw new Error(exceptionDetails.exception?.description ?? exceptionDetails.text)
    if (job.screenshot) {
      const height = Math.min(result.value.height, 4000)
      const { data } = await page('Page.captureScreenshot', {
        captureBeyondViewport: true, clip: { x: 0, y: 0, width: job.width, height, scale: 1 }
      })
      writeFileSync(job.screenshot, Buffer.from(data, 'base64'))
    }
    console.log(JSON.stringify({ ...result.value, requests: [...requests], said: [...said] }))
  }
  ending = true
  await send('Browser.close')
  process.stdin.destroy()
}

main().catch((error) => {
  console.error(error)
  ending = true
  browser.kill()
  process.exit(1)
})
