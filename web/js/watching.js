/** Tells when a graph may have changed, in whatever way, at most once a frame. */

import { api } from '../../../scripts/api.js'

const OF_PEOPLE = ['input', 'change', 'keyup', 'pointerup', 'focusout', 'paste', 'drop']
const OF_THE_HOST = ['graphChanged', 'executed', 'execution_success']

/**
 * Call a function soon after anything that may change a graph.
 * @param {() => void} act cheap where nothing has changed
 * @returns {() => void} asks for a call, too
 */
export function watch(act) {
  let asked = false
  const soon = () => {
    if (asked) return
    asked = true
    requestAnimationFrame(() => {
      asked = false
      act()
    })
  }
  // Hosts write a value into a widget, or make a link, some time after the event.
  const after = () => {
    soon()
    for (const wait of [30, 300]) setTimeout(soon, wait)
  }
  for (const name of OF_PEOPLE) document.addEventListener(name, after, true)
  for (const name of OF_THE_HOST) api.addEventListener(name, after)
  return soon
}
