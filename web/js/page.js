/** Elements, the style that they share, and a panel of them on a node. */

import { api } from '../../../scripts/api.js'
import { app } from '../../../scripts/app.js'
import { COLOUR_STYLE } from './colours.js'

const STYLE = `
.p2p { box-sizing: border-box; overflow: hidden; font: 12px/1.45 var(--p2p-font, Inter, system-ui, sans-serif);
  color: var(--input-text, #ddd); text-align: left; }
.p2p-in { display: flex; flex-direction: column; gap: 5px; }
.p2p-row { display: flex; flex-wrap: wrap; gap: 3px; max-height: 96px; overflow-y: auto;
  align-items: baseline; scrollbar-width: thin; }
.p2p-label { flex: none; font-size: 11px; opacity: .7; margin-right: 3px; }
.p2p-mark { opacity: .6; padding: 0 1px; }
.p2p button { font: inherit; color: inherit; cursor: pointer; border-radius: 5px; padding: 0 6px;
  border: 1px solid color-mix(in srgb, var(--input-text, #ddd) 25%, transparent);
  background: var(--comfy-input-bg, #222); }
.p2p button:hover { border-color: var(--input-text, #ddd); }
.p2p button:focus-visible { outline: 2px solid #5b9dff; outline-offset: -1px; }
.p2p button[aria-pressed=true] { background: color-mix(in srgb, #3b82f6 55%, var(--comfy-input-bg, #222));
  border-color: #5b9dff; }
.p2p button[disabled] { cursor: default; opacity: .55; }
.p2p-diff { max-height: 74px; overflow-y: auto; overflow-wrap: anywhere; scrollbar-width: thin; }
.p2p-diff > * { border-radius: 4px; padding: 0 3px; }
.p2p-kept { opacity: .75; padding: 0 !important; }
.p2p-diff del { text-decoration-thickness: 1px; background: color-mix(in srgb, #ef4444 26%, transparent); }
.p2p-diff ins { text-decoration: none; background: color-mix(in srgb, #22c55e 28%, transparent); }
.p2p-diff ins.p2p-swapped { background: color-mix(in srgb, #3b82f6 34%, transparent); }
.p2p-diff .p2p-factor { background: color-mix(in srgb, #f59e0b 28%, transparent); }
.p2p-diff .p2p-other { opacity: .6; }
.p2p-hint { opacity: .7; font-style: italic; }
.p2p-mistake { border: 1px solid #ef4444; border-radius: 5px; padding: 3px 6px; overflow-wrap: anywhere;
  background: color-mix(in srgb, #ef4444 16%, transparent); }
.p2p-mistake button { margin-left: 4px; }
.p2p-faders { display: flex; flex-direction: column; gap: 1px; max-height: 116px; overflow-y: auto; scrollbar-width: thin; }
.p2p-fader { display: grid; grid-template-columns: minmax(50px, 30%) 1fr 48px; gap: 8px; align-items: center; }
.p2p-fader > span { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.p2p-fader input { width: 100%; min-width: 0; height: 16px; margin: 0; accent-color: #f59e0b; cursor: ew-resize; }
.p2p-fader output { text-align: right; font-variant-numeric: tabular-nums; }
.p2p-window { display: grid; grid-template-columns: 50px 1fr; gap: 6px; align-items: center; height: 16px; }
.p2p-window + .p2p-window { margin-top: -3px; }
.p2p-window:has(output) { grid-template-columns: 50px 1fr 56px; }
.p2p-window output { text-align: right; font-variant-numeric: tabular-nums; }
.p2p-window select { font: inherit; height: 18px; min-width: 0; padding: 0 3px; color: inherit; border-radius: 5px;
  border: 1px solid color-mix(in srgb, var(--input-text, #ddd) 25%, transparent); background: var(--comfy-input-bg, #222); }
.p2p-band { --thumb: 7px; position: relative; height: 16px; }
.p2p-band::before, .p2p-band i { content: ''; position: absolute; top: 4px; bottom: 4px; border-radius: 3px; }
.p2p-band::before { left: 0; right: 0; background: color-mix(in srgb, var(--input-text, #ddd) 16%, transparent); }
.p2p-band i { left: calc(var(--thumb) / 2 + var(--from) * (100% - var(--thumb)));
  right: calc(var(--thumb) / 2 + (1 - var(--to)) * (100% - var(--thumb))); background: #14b8a6; }
.p2p-band.p2p-self_replace i { background: #c08457; }
.p2p-band input { appearance: none; position: absolute; inset: 0; width: 100%; height: 16px; margin: 0; background: none;
  pointer-events: none; }
.p2p-band input::-webkit-slider-thumb { appearance: none; pointer-events: auto; width: var(--thumb); height: 16px;
  border: 0; border-radius: 3px; background: var(--input-text, #ddd); cursor: ew-resize; }
.p2p-band input::-moz-range-thumb { pointer-events: auto; width: var(--thumb); height: 16px;
  border: 0; border-radius: 3px; background: var(--input-text, #ddd); cursor: ew-resize; }
.p2p-band input:disabled { opacity: .4; }
.p2p-grows, .p2p-grows > .p2p-in { height: 100%; }
.p2p-grows .p2p-row { flex: none; max-height: 52px; }
.p2p-tab { max-width: 100%; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.p2p-stage { flex: 1; min-height: 0; border-radius: 6px; overflow: hidden; background: #0006;
  display: grid; place-items: center; container-type: size; }
.p2p-pictures { --ratio: 1; --at: 50%; position: relative; isolation: isolate;
  width: min(100cqw, 100cqh * var(--ratio)); aspect-ratio: var(--ratio); }
.p2p-pictures img { position: absolute; inset: 0; width: 100%; height: 100%; }
.p2p-views { flex: 1; min-height: 0; display: flex; gap: 4px; }
.p2p-views img { filter: grayscale(1); }
.p2p-views canvas { position: absolute; inset: 0; width: 100%; height: 100%; }
.p2p-steps { flex: none; display: grid; grid-template-columns: 1fr 62px auto; gap: 6px; align-items: center; }
.p2p-steps input { min-width: 0; margin: 0; }
.p2p-source { clip-path: inset(0 calc(100% - var(--at)) 0 0); }
.p2p-difference { background: #000; }
.p2p-difference .p2p-pictures { filter: brightness(4); clip-path: inset(1px); }
.p2p-difference .p2p-source { clip-path: none; mix-blend-mode: difference; }
.p2p-line { position: absolute; top: 0; bottom: 0; left: var(--at); width: 2px; margin-left: -1px;
  background: #fff; box-shadow: 0 0 3px #000; pointer-events: none; }
.p2p-name { position: absolute; top: 5px; padding: 0 6px; border-radius: 4px; font-size: 11px; color: #fff;
  background: #000a; pointer-events: none; }
.p2p-left { left: 5px; }
.p2p-none { top: auto; bottom: 5px; left: 5px; }
.p2p-right { right: 5px; }
.p2p-slide { position: absolute; inset: 0; width: 100%; height: 100%; margin: 0; opacity: 0; cursor: ew-resize; }
.p2p-pictures:has(.p2p-slide:focus-visible) { outline: 2px solid #5b9dff; outline-offset: -2px; }
`

/** Where the host serves a picture that a node has kept. */
export const address = (/** @type {Record<string, string>} */ image) =>
  api.apiURL(`/view?${new URLSearchParams(image)}`)

/** Give the page the style, once. */
export function addStyle() {
  if (document.getElementById('p2p-style')) return
  document.head.append(element('style', { id: 'p2p-style', textContent: COLOUR_STYLE + STYLE }))
}

/**
 * Make an element.
 * @param {string} tag
 * @param {Record<string, any>} [properties] those that begin with "aria-" or "data-" are attributes
 * @param {(Node | string)[]} children
 * @returns {any}
 */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag)
  for (const [name, value] of Object.entries(properties)) {
    if (/^(aria|data)-|^role$/.test(name)) made.setAttribute(name, String(value))
    else /** @type {any} */ (made)[name] = value
  }
  made.append(...children)
  return made
}

/** The panels' elements by node. @type {WeakMap<any, HTMLElement[]>} */
const elements = new WeakMap()

/**
 * Show the panels of nodes on the page. After an undo Nodes 2.0 goes on showing those of the nodes
 * that were there before, which no longer change anything.
 * @param {any[]} nodes
 */
export function showOwn(nodes) {
  for (const node of nodes.filter((one) => one.graph === app.canvas?.graph)) {
    for (const own of elements.get(node) ?? []) {
      if (own.isConnected) continue
      const place = `[data-node-id="${CSS.escape(String(node.id))}"] [data-p2p="${own.dataset.p2p}"]`
      document.querySelector(place)?.replaceWith(own)
    }
  }
}

/**
 * @typedef {object} Panel
 * @property {HTMLElement} inner
 * @property {(...children: (Node | string)[]) => void} show
 * @property {(key: any, draw: () => (Node | string)[]) => void} fill shows what `draw` makes, unless
 *     it is of the same key as what is shown; what is held by a slider stays until it is let go
 * @property {boolean} held
 */

/**
 * Put a panel at the end of a node. It is part of no workflow: nothing of it is saved or sent.
 * @param {any} node
 * @param {string} name
 * @param {{height?: number, grows?: boolean}} [size] before it is measured; whether it takes more
 * @returns {Panel}
 */
export function addPanel(node, name, { height = 0, grows = false } = {}) {
  const margin = 6
  const inner = element('div', { className: 'p2p-in' })
  const outer = element('div', { className: grows ? 'p2p p2p-grows' : 'p2p', 'data-p2p': name }, inner)
  if (grows) outer.style.minHeight = `${height}px`
  elements.set(node, [...(elements.get(node) ?? []), outer])
  const needed = () => height + (height ? 2 * margin : 0)
  const widget = node.addDOMWidget(name, 'p2p', outer, {
    serialize: false,
    hideOnZoom: false,
    margin,
    getMinHeight: needed,
    ...(grows ? {} : { getMaxHeight: needed }),
    getValue: () => '',
    setValue: () => {}
  })
  widget.serialize = false
  if (!grows) new ResizeObserver(() => {
    if (!inner.offsetHeight && inner.childNodes.length) return // not on the page now
    if (height === inner.offsetHeight) return
    height = inner.offsetHeight
    node.setDirtyCanvas?.(true, true)
  }).observe(inner)
  let seen = ''
  /** @type {Panel} */
  const panel = {
    inner,
    held: false,
    show: (...children) => inner.replaceChildren(...children),
    fill(key, draw) {
      const now = JSON.stringify(key)
      if (panel.held || seen === now) return
      seen = now
      const focused = /** @type {any} */ (document.activeElement)
      const inside = inner.contains(focused) && focused.dataset.key
      panel.show(...draw())
      if (inside) /** @type {any} */ (inner.querySelector(`[data-key="${CSS.escape(inside)}"]`))?.focus()
    }
  }
  return panel
}

/**
 * Write a value into a widget as a person would.
 * @param {any} node
 * @param {any} widget
 * @param {any} value
 * @param {boolean} [done] whether it can be undone from here: not while something is dragged
 */
export function write(node, widget, value, done = true) {
  if (widget.value !== value) {
    widget.value = value
    widget.callback?.(value, app.canvas, node)
    node.setDirtyCanvas?.(true, true)
  }
  if (!done) return
  const tracker = app.extensionManager?.workflow?.activeWorkflow?.changeTracker
  ;(tracker?.captureCanvasState ?? tracker?.checkState)?.call(tracker)
}
