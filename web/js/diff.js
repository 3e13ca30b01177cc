/** What edits change, in colour: kept, swapped, added and removed words, and factors. */

import { element } from './page.js'
import { t } from './texts.js'

const LONG = 12
const AROUND = 2

/**
 * @typedef {{kind: string, source: string[], edited: string[], edit: number | null}} Span
 */

/**
 * Draw an alignment: of a long prompt the changed parts with two words around.
 * @param {Span[]} spans
 * @param {number | null} own the edit that is looked at, others' changes being paler
 * @param {[string, number][]} [factors] words with what their attention is multiplied with
 */
export function diff(spans, own, factors = []) {
  const line = element('div', { className: 'p2p-diff', 'aria-label': t('What changes') })
  const changed = spans.flatMap((span, n) => (span.kind === 'kept' ? [] : [n]))
  const near = (/** @type {number} */ n) => changed.some((at) => Math.abs(at - n) <= AROUND)
  let left = false
  if (changed.length) {
    spans.forEach((span, n) => {
      if (spans.length > LONG && !near(n)) {
        if (!left) line.append('… ')
        left = true
        return
      }
      left = false
      line.append(...drawn(span, span.edit === own), ' ')
    })
  }
  for (const [phrase, factor] of factors) {
    const textContent = `${phrase} × ${String(factor).replace('-', '−')}`
    line.append(element('span', { className: 'p2p-factor', textContent }), ' ')
  }
  if (!line.childNodes.length) {
    line.append(element('span', { className: 'p2p-hint', textContent: t('No word changes yet.') }))
  }
  return line
}

/** @param {Span} span @param {boolean} own */
function drawn({ kind, source, edited }, own) {
  if (kind === 'kept') {
    return [element('span', { className: 'p2p-kept', textContent: edited.join(' ') })]
  }
  const other = own ? '' : ' p2p-other'
  const before = element('del', { className: `p2p-${kind}${other}`, textContent: source.join(' ') })
  const after = element('ins', { className: `p2p-${kind}${other}`, textContent: edited.join(' ') })
  if (kind === 'swapped') return [before, ' → ', after]
  return [kind === 'inserted' ? after : before]
}
