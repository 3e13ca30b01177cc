/** The words of a prompt as buttons. */

import { element } from './page.js'
import { t } from './texts.js'

/**
 * Make a row of a prompt's words; punctuation stands between them.
 * @param {import('./words.js').Word[]} words
 * @param {Set<number>} chosen which are pressed
 * @param {(index: number, more: boolean) => void} choose called with the one that is clicked, and
 *     whether Shift was held
 * @param {string} [label]
 * @param {boolean} [disabled]
 */
export function chips(words, chosen, choose, label = '', disabled = false) {
  const row = element('div', {
    className: 'p2p-row p2p-chips', role: 'group', 'aria-label': label || t('Words of the prompt')
  })
  if (label) row.append(element('span', { className: 'p2p-label', textContent: label }))
  words.forEach((word, index) => {
    row.append(
      word.name
        ? element('button', {
            type: 'button',
            textContent: / #\d+$/.test(word.name) ? word.name.replace(' #1', '') : word.text,
            disabled,
            'data-key': `${label} ${word.name}`,
            'aria-pressed': chosen.has(index),
            onclick: (/** @type {MouseEvent} */ event) => choose(index, event.shiftKey)
          })
        : element('span', { className: 'p2p-mark', textContent: word.text }))
  })
  return row
}
