/** Factors of words as sliders, a row per word: arrow keys move one, a double click resets it. */

import { element } from './page.js'
import { t } from './texts.js'

const [LEAST, MOST, STEP, NEUTRAL] = [-2, 2, 0.05, 1]
const written = (/** @type {number} */ factor) => `× ${String(factor).replace('-', '−')}`

/**
 * Make the rows.
 * @param {[string, number][]} factors words with what their attention is multiplied with
 * @param {(index: number, factor: number, done: boolean) => void} set called with the row, its new
 *     factor, and whether it is let go
 */
export function faders(factors, set) {
  return element('div', { className: 'p2p-faders', 'aria-label': t('Factors') },
    ...factors.map(([phrase, factor], index) => row(phrase, factor, (value, done) => set(index, value, done))))
}

function row(/** @type {string} */ phrase, /** @type {number} */ factor,
    /** @type {(value: number, done: boolean) => void} */ set) {
  const shown = element('output', { textContent: written(factor) })
  const slider = element('input', {
    type: 'range', min: LEAST, max: MOST, step: STEP, 'data-key': `fader ${phrase}`,
    'aria-label': `${t('Factor of')} ${phrase}`,
    title: t('Drag, or use the arrow keys; a double click resets to 1.')
  })
  slider.value = factor
  const take = (/** @type {number} */ value, /** @type {boolean} */ done) => {
    shown.textContent = written(value)
    set(value, done)
  }
  slider.addEventListener('input', () => take(Number(slider.value), false))
  slider.addEventListener('change', () => take(Number(slider.value), true))
  slider.addEventListener('dblclick', () => {
    slider.value = NEUTRAL
    take(NEUTRAL, true)
  })
  return element('label', { className: 'p2p-fader' },
    element('span', { textContent: phrase, title: phrase }), slider, shown)
}
