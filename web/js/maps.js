/** What a P2P Attention Maps shows: where source and edits look at a word, at any of the steps. */

import { addPanel, address, element } from './page.js'
import { t } from './texts.js'

const HEIGHT = 230
const OPAQUE = 0.65

/**
 * @typedef {{row: number, word: string, peaks: number[], pixels: ImageData}} WordMap the mean's
 *     peak and its pixels come first, then the steps', side by side; each is divided by its peak
 * @typedef {{maps: WordMap[], rows: {name: string, image: any}[], steps: number[], colours: number[][]}} Told
 */

/** @type {WeakMap<any, (output: any) => void>} */
const shown = new WeakMap()

/** Give a P2P Attention Maps its view. @param {any} node */
export function addMaps(node) {
  const panel = addPanel(node, 'p2p_maps', { height: HEIGHT, grows: true })
  const state = { word: '', step: 0, common: false }
  let seen = null
  const show = async (/** @type {any} */ output) => {
    if (!output?.p2p_maps?.length || output === seen) return
    seen = output
    const told = {
      maps: await Promise.all(output.p2p_maps.map(read)),
      rows: output.p2p_rows,
      steps: output.p2p_steps,
      colours: output.p2p_colours.map(rgb)
    }
    if (output !== seen) return // another run came in between
    if (!told.maps.some(({ word }) => word === state.word)) state.word = told.maps[0].word
    state.step = Math.min(state.step, told.steps.length)
    panel.show(...view(told, state))
  }
  panel.show(element('div', { className: 'p2p-hint', textContent: t('Run to see where words look.') }))
  shown.set(node, show)
  const before = node.onExecuted
  node.onExecuted = function (/** @type {any} */ output) {
    before?.call(this, output)
    show(output)
  }
}

/** Show again what a node has shown before its workflow was left. */
export const showMaps = (/** @type {any} */ node, /** @type {any} */ output) => shown.get(node)?.(output)

const rgb = (/** @type {string} */ colour) => [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16))

/** A row's name in the language: 'source' or 'edit', with its numbers. @param {string} name */
const called = (name) => name.replace(/^\w+/, t)

/** Read the pixels of a word's maps. */
async function read(/** @type {any} */ { tile, ...rest }) {
  const image = element('img', { src: address(tile) })
  await image.decode()
  const [width, height] = [image.naturalWidth, image.naturalHeight]
  const paper = element('canvas', { width, height }).getContext('2d')
  paper.drawImage(image, 0, 0)
  return { ...rest, pixels: paper.getImageData(0, 0, width, height) }
}

/** The words, a picture per row under its colours, and what to see of them. */
function view(/** @type {Told} */ told, /** @type {{word: string, step: number, common: boolean}} */ state) {
  const words = [...new Set(told.maps.map(({ word }) => word))]
  const views = told.rows.map(({ name, image }, row) => picture(told, called(name), image, row))
  const step = element('output')
  const slider = element('input', {
    type: 'range', min: 0, max: told.steps.length, 'aria-label': t('Step that is shown, 0 for all')
  })
  slider.value = state.step
  const common = element('button', {
    type: 'button', textContent: t('Common scale'), title: t('One scale for all words and rows, or each its own.'),
    onclick: () => change({ common: !state.common })
  })
  const buttons = words.map((word) => element('button', {
    type: 'button', textContent: word, onmouseenter: () => change({ word }),
    onfocus: () => change({ word }), onclick: () => change({ word })
  }))
  const change = (/** @type {any} */ some) => {
    Object.assign(state, some)
    common.setAttribute('aria-pressed', String(state.common))
    buttons.forEach((button, n) => button.setAttribute('aria-pressed', String(words[n] === state.word)))
    step.textContent = state.step ? `${t('step')} ${told.steps[state.step - 1]}` : t('all steps')
    for (const paint of views) paint.paint(state)
  }
  slider.addEventListener('input', () => change({ step: Number(slider.value) }))
  change({})
  return [
    element('div', { className: 'p2p-row', role: 'group', 'aria-label': t('Words of the run') }, ...buttons),
    element('div', { className: 'p2p-views' }, ...views.map(({ box }) => box)),
    element('div', { className: 'p2p-steps' }, slider, step, common)
  ]
}

/** A row's picture in grey, and over it the colours of the word that is looked at. */
function picture(/** @type {Told} */ told, /** @type {string} */ name, /** @type {any} */ image,
    /** @type {number} */ row) {
  const { width, height } = told.maps[0].pixels
  const cells = width / told.maps[0].peaks.length
  const canvas = element('canvas', { width: cells, height, 'aria-label': `${t('Where it looks:')} ${name}` })
  const inside = element('div', { className: 'p2p-pictures' }, canvas)
  inside.style.setProperty('--ratio', String(cells / height))
  if (image) {
    canvas.style.opacity = String(OPAQUE)
    inside.prepend(element('img', { src: address(image), alt: name, draggable: false }))
  }
  inside.append(element('span', { className: 'p2p-name p2p-left', textContent: name }))
  const none = element('span', { className: 'p2p-name p2p-none', textContent: t('not in its prompt') })
  const paper = canvas.getContext('2d')
  const paint = (/** @type {{word: string, step: number, common: boolean}} */ { word, step, common }) => {
    const map = told.maps.find((one) => one.row === row && one.word === word)
    paper.clearRect(0, 0, cells, height)
    none.remove()
    if (!map) return inside.append(none)
    const most = common ? Math.max(...told.maps.map(({ peaks }) => peaks[step])) : map.peaks[step]
    const made = paper.createImageData(cells, height)
    for (let y = 0; y < height; y++) for (let x = 0; x < cells; x++) {
      const value = map.pixels.data[4 * (y * width + step * cells + x)] / 255
      const at = 4 * (y * cells + x)
      made.data.set([...colour(most ? value * map.peaks[step] / most : 0, told.colours), 255], at)
    }
    paper.putImageData(made, 0, 0)
  }
  return { box: element('div', { className: 'p2p-stage' }, inside), paint }
}

/** The colour of a value from 0 to 1, between two of those that are given. */
function colour(/** @type {number} */ value, /** @type {number[][]} */ colours) {
  const place = Math.min(Math.max(value, 0), 1) * (colours.length - 1)
  const below = Math.min(Math.floor(place), colours.length - 2)
  return colours[below].map((low, n) => low + (place - below) * (colours[below + 1][n] - low))
}
