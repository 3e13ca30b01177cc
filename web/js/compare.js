/** What a P2P Compare shows: an edit over its source, with a slider, or their difference. */

import { addPanel, address, element } from './page.js'
import { t } from './texts.js'

const HEIGHT = 300
const WIDTH = 320
const SLIDER = 'Slider'
const DIFFERENCE = 'Difference'

/** @type {WeakMap<any, (output: any) => void>} */
const shown = new WeakMap()

/** Give a P2P Compare its view. @param {any} node */
export function addCompare(node) {
  const panel = addPanel(node, 'p2p_compare', { height: HEIGHT, grows: true })
  const state = { edit: 0, mode: SLIDER, at: 50 }
  let output = null
  const show = (/** @type {any} */ told) => {
    if (!told?.edited?.length || told === output) return
    output = told
    state.edit = Math.min(state.edit, told.edited.length - 1)
    draw()
  }
  const draw = () => panel.show(...drawn(/** @type {any} */ (output), state, draw))
  panel.show(element('div', { className: 'p2p-hint', textContent: t('Run to compare source and edits.') }))
  shown.set(node, show)
  const before = node.onExecuted
  node.onExecuted = function (/** @type {any} */ told) {
    before?.call(this, told)
    show(told)
  }
  node.setSize?.([Math.max(node.size[0], WIDTH), Math.max(node.size[1], HEIGHT + 100)])
}

/** Show again what a node has shown before its workflow was left. */
export const showCompared = (/** @type {any} */ node, /** @type {any} */ output) => shown.get(node)?.(output)

/** The tabs, the picture, and the two ways to look at it. */
function drawn(/** @type {any} */ { source, edited, captions }, /** @type {any} */ state,
    /** @type {() => void} */ again) {
  const choose = (/** @type {string} */ key, /** @type {any} */ value) => () => {
    state[key] = value
    again()
  }
  const tabs = element('div', { className: 'p2p-row', role: 'tablist', 'aria-label': t('Edits') },
    ...captions.map((/** @type {string} */ textContent, /** @type {number} */ n) => element('button', {
      type: 'button', role: 'tab', textContent, title: textContent, className: 'p2p-tab',
      'aria-selected': n === state.edit, 'aria-pressed': n === state.edit, onclick: choose('edit', n)
    })))
  const modes = element('div', { className: 'p2p-row' }, ...[SLIDER, DIFFERENCE].map((mode) =>
    element('button', {
      type: 'button', textContent: mode === SLIDER ? t('Slider') : t('Difference'), 'aria-pressed': state.mode === mode,
      onclick: choose('mode', mode)
    })))
  return [tabs, stage(source[state.edit % source.length], edited[state.edit], state), modes]
}

/** The two pictures, one over the other, as large as there is room for. */
function stage(/** @type {any} */ source, /** @type {any} */ edited, /** @type {any} */ state) {
  const different = state.mode === DIFFERENCE
  const picture = (/** @type {any} */ image, /** @type {string} */ alt, /** @type {string} */ className) =>
    element('img', { src: address(image), alt, className, draggable: false })
  const below = picture(edited, t('Edited image'), 'p2p-edited')
  const box = element('div', { className: 'p2p-pictures' }, below,
    picture(source, t('Source image'), 'p2p-source'))
  below.onload = () => box.style.setProperty('--ratio', String(below.naturalWidth / below.naturalHeight))
  const made = element('div', { className: `p2p-stage${different ? ' p2p-difference' : ''}` }, box)
  if (different) return made
  const move = (/** @type {number} */ at) => {
    state.at = at
    box.style.setProperty('--at', `${at}%`)
  }
  move(state.at)
  box.append(
    element('span', { className: 'p2p-name p2p-left', textContent: t('source') }),
    element('span', { className: 'p2p-name p2p-right', textContent: t('edit') }),
    element('div', { className: 'p2p-line' }),
    element('input', {
      type: 'range', min: 0, max: 100, value: state.at, className: 'p2p-slide',
      'aria-label': t('Part of the source that is shown, in percent'),
      oninput: (/** @type {any} */ event) => move(Number(event.target.value))
    }))
  return made
}
