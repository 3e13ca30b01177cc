/** Asks the server what edits would do; the same question twice is answered from memory. */

import { api } from '../../../scripts/api.js'

const MOST_KEPT = 200
/** @type {Map<string, Promise<any>>} */
const known = new Map()

/**
 * Ask the route /p2p/align.
 * @param {object} question as nodes/route.py describes it
 * @returns {Promise<any>} its answer, or `{error}` with a sentence
 */
export function ask(question) {
  const body = JSON.stringify(question)
  let answer = known.get(body)
  if (!answer) {
    answer = send(body)
    known.set(body, answer)
    if (known.size > MOST_KEPT) known.delete(known.keys().next().value ?? '')
  }
  return answer
}

async function send(/** @type {string} */ body) {
  try {
    const headers = { 'Content-Type': 'application/json' }
    const response = await api.fetchApi('/p2p/align', { method: 'POST', headers, body })
    return await response.json()
  } catch {
    known.delete(body)
    return { error: 'ComfyUI does not answer. Start it again, or wait until it is back.' }
  }
}
