/** The edit sockets of a P2P Controller: those in use and a spare one. */

import { inputName } from './texts.js'

const MOST = 8
const OPTIONAL_SHAPE = 7 // the host's: a hollow circle
const numberOf = (/** @type {any} */ input) => Number(/^edit_(\d+)$/.exec(input.name)?.[1] ?? 0)

/**
 * Give a P2P Controller as many edit sockets as it needs, and take away what it does not.
 * @param {any} node
 */
export function grow(node) {
  const linked = node.inputs.filter((/** @type {any} */ one) => one.link != null).map(numberOf)
  const wanted = Math.min(Math.max(0, ...linked) + 1, MOST)
  for (let slot = node.inputs.length - 1; slot >= 0; slot--) {
    if (numberOf(node.inputs[slot]) > wanted) node.removeInput(slot)
  }
  const there = new Set(node.inputs.map(numberOf))
  for (let number = 1; number <= wanted; number++) {
    if (there.has(number)) continue
    const name = `edit_${number}`
    node.addInput(name, 'P2P_EDIT', { shape: OPTIONAL_SHAPE, localized_name: inputName(node.type, name) })
  }
}
