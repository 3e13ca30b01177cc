/** When an edit takes the source's attention: its presets, and two windows with ends to drag. */

import { source, widgetOf } from './graph.js'
import { addPanel, element, write } from './page.js'
import { t } from './texts.js'

const CUSTOM = 'custom'
const STEP = 0.01
/** The windows, as the names of their inputs begin. */
const BANDS = ['cross_replace', 'self_replace']
const ENDS = BANDS.map((name) => `${name}_end`)
const NAMES = ['preset', ...BANDS.flatMap((name) => [`${name}_start`, `${name}_end`])]

/** @typedef {import('./graph.js').Place} Place */
/** @typedef {Record<string, any>} Values */

/**
 * Each node's panel, and what its inputs were when they were last looked at.
 * @type {WeakMap<any, {panel: ReturnType<typeof addPanel>, last?: Values, busy: boolean}>}
 */
const known = new WeakMap()

/** Give a node its windows, if it has any. @param {any} node */
export function addWindows(node) {
  if (!ENDS.every((name) => widgetOf(node, name))) return
  known.set(node, { panel: addPanel(node, 'p2p_windows', { height: 20 }), busy: false })
  for (const widget of node.widgets.filter((/** @type {any} */ one) => NAMES.includes(one.name))) {
    const before = widget.callback
    widget.callback = function (/** @type {any[]} */ ...told) {
      before?.apply(this, told)
      settle({ node, graph: node.graph, path: [] }) // at once, so that both are undone together
    }
  }
}

/** Bring the windows of every node up to date. @param {Place[]} all the graph's nodes */
export function showWindows(all) {
  for (const place of all) {
    const at = known.get(place.node)
    if (!at) continue
    settle(place)
    const values = inputs(place)
    const folded = Boolean(/** @type {any} */ (window).LiteGraph?.vueNodesMode)
    at.panel.fill([values, folded], () => drawn(place, values, folded))
  }
}

/** Windows by preset, as the node's definition has them. @returns {Record<string, Values>} */
const presets = (/** @type {any} */ node) =>
  node.constructor.nodeData?.input?.optional?.preset?.[1]?.windows ?? {}

/** What the inputs hold; those are missing that are known only when the graph runs. */
function inputs(/** @type {Place} */ place) {
  return Object.fromEntries(NAMES.map((name) => [name, source(place, name)?.widget.value]))
}

/** Fill in the windows of a preset that was chosen; a value that was changed makes it custom. */
function settle(/** @type {Place} */ place) {
  const at = known.get(place.node)
  if (!at || at.busy) return
  const [last, now] = [at.last, inputs(place)]
  const wanted = presets(place.node)[now.preset]
  at.busy = true
  if (last && wanted && last.preset !== now.preset) {
    for (const [name, value] of Object.entries(wanted)) put(place, name, value, false)
  } else if (last && wanted && ENDS.some((name) => last[name] !== now[name])) {
    put(place, 'preset', CUSTOM, false)
  }
  at.busy = false
  at.last = inputs(place)
}

/** Write into the input of that name, wherever its value comes from. */
function put(/** @type {Place} */ place, /** @type {string} */ name, /** @type {any} */ value, done = true) {
  const from = source(place, name)
  if (from) write(from.node, from.widget, value, done)
}

/** The two windows as they will be in a run, and the presets where their own input is folded away. */
function drawn(/** @type {Place} */ place, /** @type {Values} */ values, /** @type {boolean} */ folded) {
  const known = presets(place.node)
  const shown = { ...values, ...known[values.preset] }
  const rows = [
    band(place, BANDS[0], t('words'), t('Steps that take the source’s cross-attention: what sits where.'), shown),
    band(place, BANDS[1], t('outlines'), t('Steps that take the source’s self-attention: outlines and texture.'), shown)
  ]
  if (folded && Object.keys(known).length) rows.unshift(chooser(place, [CUSTOM, ...Object.keys(known)], values.preset))
  return rows
}

function chooser(/** @type {Place} */ place, /** @type {string[]} */ names, /** @type {string} */ chosen) {
  const choose = element('select', {
    'data-key': 'preset', 'aria-label': t('What the edit is to do'), disabled: !source(place, 'preset'),
    title: t('What the edit is to do: fills in the windows that suit it.'),
    onchange: () => put(place, 'preset', choose.value)
  }, ...names.map((textContent) => element('option', { textContent, value: textContent })))
  choose.value = chosen ?? CUSTOM
  return element('label', { className: 'p2p-window' },
    element('span', { className: 'p2p-label', textContent: t('to do') }), choose)
}

/** One window as a band over the steps, with its start and end to drag. */
function band(/** @type {Place} */ place, /** @type {string} */ name, /** @type {string} */ label,
    /** @type {string} */ title, /** @type {Values} */ values) {
  const told = element('output')
  const box = element('div', { className: `p2p-band p2p-${name}` }, element('i'))
  const at = [values[`${name}_start`], values[`${name}_end`]]
  const show = () => {
    at.forEach((value, n) => box.style.setProperty(n ? '--to' : '--from', String(value ?? n)))
    told.textContent = at.map((value) => (Number.isFinite(value) ? String(Number(value.toFixed(2))) : '?')).join('–')
  }
  const ends = at.map((value, n) => {
    const input = `${name}_${n ? 'end' : 'start'}`
    const slider = element('input', {
      type: 'range', min: 0, max: 1, step: STEP, disabled: !source(place, input), 'data-key': input,
      'aria-label': `${n ? t('End of the window:') : t('Start of the window:')} ${label}`
    })
    slider.value = value ?? n
    const take = (/** @type {boolean} */ done) => {
      const other = at[1 - n] ?? 1 - n
      at[n] = n ? Math.max(Number(slider.value), other) : Math.min(Number(slider.value), other)
      slider.value = at[n]
      const panel = known.get(place.node)?.panel
      if (panel) panel.held = !done
      put(place, input, at[n], done)
      show()
    }
    slider.addEventListener('input', () => take(false))
    slider.addEventListener('change', () => take(true))
    return slider
  })
  box.append(...ends)
  show()
  return element('div', { className: 'p2p-window', title: `${title} ${t('Drag the ends, or use the arrow keys.')}` },
    element('span', { className: 'p2p-label', textContent: label }), box, told)
}
