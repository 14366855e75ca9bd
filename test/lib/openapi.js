/*
 * openapi.js
 *		Holds an OpenAPI document, and events, to what public packages make of them.
 *
 *		node openapi.js MODULES DOCUMENT DELIVERIES
 *
 * MODULES is a directory whose node_modules has @readme/openapi-parser, ajv and
 * ajv-formats.  DELIVERIES has a JSON object a line: headers and body of a request.
 * Prints a line for each thing that is wrong, and at last how many were examined.
 */
'use strict'

const fs = require('fs')
const { createRequire } = require('module')
const path = require('path')
const { pathToFileURL } = require('url')

const [modules, documentFile, deliveriesFile] = process.argv.slice(2)
const need = createRequire(path.join(path.resolve(modules), 'package.json'))
const document = JSON.parse(fs.readFileSync(documentFile, 'utf8'))
const deliveries = fs.readFileSync(deliveriesFile, 'utf8').split('\n').filter(line => line !== '').map(line => JSON.parse(line))

const Ajv = need('ajv/dist/2020').default
const ajv = new Ajv({ strict: true, allowUnionTypes: true, allErrors: true })
need('ajv-formats').default(ajv)
// the document is no schema, but has some
ajv.addVocabulary(Object.keys(document))
ajv.addSchema(document, 'document', undefined, false)

const counts = { webhooks: 0, examples: 0, deliveries: 0, headers: 0, damaged: 0 }

function wrong(what, errors) {
  console.log(`${what}: ${ajv.errorsText(errors)}`)
}

/* What a reference within the document refers to. */
function resolve(part) {
  if (part.$ref === undefined) return part
  return part.$ref.slice(2).split('/').reduce((at, key) => at[key], document)
}

/* An event that is valid must not be so any more without a key that is required. */
function checkDamage(type, event, validate) {
  const required = resolve(document.webhooks[type].post.requestBody.content['application/json'].schema)
    .properties.data.required || []
  for (const key of required) {
    const damaged = structuredClone(event)
    delete damaged.data[key]
    counts.damaged++
    if (validate(damaged)) console.log(`${type} without ${key} is valid`)
  }
  for (const key of Object.keys(event)) {
    const damaged = structuredClone(event)
    delete damaged[key]
    counts.damaged++
    if (validate(damaged)) console.log(`${type} without ${key} is valid`)
  }
  if (validate({ ...event, type: 'another' })) console.log(`${type} may have another type`)
}

function checkHeaders(type, headers) {
  for (const parameter of document.webhooks[type].post.parameters.map(resolve)) {
    const value = headers[parameter.name.toLowerCase()]
    if (value === undefined) {
      if (parameter.required) console.log(`${type} lacks the header ${parameter.name}`)
      continue
    }
    const validate = ajv.compile(parameter.schema)
    counts.headers++
    if (!validate(value)) wrong(`${type}, header ${parameter.name} = ${value}`, validate.errors)
  }
}

async function main() {
  const parser = await import(pathToFileURL(need.resolve('@readme/openapi-parser')))
  const result = await parser.validate(structuredClone(document))
  if (!result.valid) console.log(parser.compileErrors(result))
  for (const warning of result.warnings || []) console.log(warning.message)

  const validators = {}
  for (const [type, webhook] of Object.entries(document.webhooks)) {
    const content = webhook.post.requestBody.content['application/json']
    const validate = validators[type] = ajv.compile({ $ref: 'document' + content.schema.$ref })
    counts.webhooks++
    if (content.example === undefined) continue
    counts.examples++
    if (!validate(content.example)) wrong(`the example of ${type}`, validate.errors)
    else checkDamage(type, content.example, validate)
  }
  for (const { headers, body } of deliveries) {
    const event = JSON.parse(body)
    counts.deliveries++
    if (!validators[event.type](event)) wrong(`delivery ${body}`, validators[event.type].errors)
    checkHeaders(event.type, headers)
  }
  console.log(JSON.stringify(counts))
}

main()
