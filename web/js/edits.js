/** The panel on each node that names words: the prompt's words, what changes, what is wrong. */

import { app } from '../../../scripts/app.js'
import { ask } from './asking.js'
import { chips } from './chips.js'
import { diff } from './diff.js'
import { faders } from './faders.js'
import { EDITS, chains, controllerOf, places, source, textOf } from './graph.js'
import { addPanel, element, write } from './page.js'
import { t } from './texts.js'
import { factorsOf, meant, parts, phraseOf, toggled, withFactor, withWord, without } from './words.js'

/** The nodes that have a panel. */
export const WORDED = [...EDITS, 'P2P_AttentionMaps', 'P2P_WordWeights']

const TEXTS = ['words', 'replacement', 'edited_prompt', 'source_words', 'edited_words',
  'subtract_words', 'word_windows']
const NUMBERS = ['occurrence', 'factor', 'degree']
/** Where an edit's own words are written; blank: nothing is asked of it yet. */
const OWN = { P2P_WordSwap: 'words', P2P_Mix: 'words', P2P_Refine: 'edited_prompt', P2P_Reweight: 'words' }
const HINTS = {
  P2P_WordSwap: 'Choose the word to replace.',
  P2P_Mix: 'Choose the word to mix with another.',
  P2P_Refine: 'Write the whole edited prompt.',
  P2P_Reweight: 'Choose the words to turn up or down.'
}
const UNCONNECTED = 'Connect “edit” to a P2P Controller to see the words of its prompt.'
const LATER = 'The prompt comes from a node whose text is known only when it runs.'

/** @type {WeakMap<any, import('./page.js').Panel>} */
const panels = new WeakMap()

/** Give a node its panel. @param {any} node */
export function addWords(node) {
  panels.set(node, addPanel(node, 'p2p_words', { height: 20 }))
}

/** @typedef {import('./graph.js').Place} Place */

/** Bring every panel up to date. @param {Place[]} [all] the graph's nodes */
export async function refresh(all = places(app.rootGraph ?? app.graph)) {
  const left = new Set(all.filter(({ node }) => panels.has(node)).map(({ node }) => node))
  const jobs = []
  for (const place of all.filter(({ node }) => node.type === 'P2P_Controller')) {
    const [prompt, own] = [textOf(place, 'source_prompt'), chains(place)]
    for (const { node } of own.flat()) left.delete(node)
    if (prompt == null) for (const { node } of own.flat()) say(node, LATER)
    else if (own.length) jobs.push(showChains(prompt, own))
  }
  for (const place of all.filter(({ node }) => left.has(node))) {
    if (place.node.type === 'P2P_WordWeights') jobs.push(showWeights(place))
    else if (place.node.type === 'P2P_AttentionMaps') jobs.push(showMaps(place))
    else say(place.node, UNCONNECTED)
  }
  await Promise.all(jobs)
}

/** Fill a node's panel, unless what it shows is the same. */
function fill(/** @type {any} */ node, /** @type {any} */ key, /** @type {() => any[]} */ draw) {
  panels.get(node)?.fill(key, draw)
}

/** @param {any} node @param {string} text */
function say(node, text) {
  fill(node, text, () => [hint(text)])
}

const hint = (/** @type {string} */ text) =>
  element('div', { className: 'p2p-hint', textContent: t(text) })

/** An edit's inputs as the server will have them; null where one is known only when it runs. */
function inputs(/** @type {Place} */ place) {
  /** @type {Record<string, any>} */
  const found = {}
  for (const name of TEXTS) {
    if (!place.node.widgets?.some((/** @type {any} */ one) => one.name === name)) continue
    const text = textOf(place, name)
    if (text == null) return null
    found[name] = text
  }
  for (const name of NUMBERS) {
    const from = source(place, name)
    if (typeof from?.widget.value === 'number') found[name] = from.widget.value
  }
  return found
}

/** Chains as the server is asked of them. @param {Place[][]} all @param {any[][]} given */
const question = (all, given) => all.map((chain, n) =>
  chain.map(({ node }, at) => ({ type: node.type, inputs: given[n][at] })))

/** @param {string} prompt @param {Place[][]} all */
async function showChains(prompt, all) {
  const given = all.map((chain) => chain.map(inputs))
  const known = all.map((chain, n) => (given[n].every(Boolean) ? chain : []))
  const asked = question(known, given)
  const told = await ask({ source: prompt, chains: asked })
  all.forEach((chain, n) =>
    chain.forEach((place, at) => {
      if (!known[n].length) return say(place.node, LATER)
      if (told.error) return say(place.node, told.error)
      const answer = told.chains[n]
      fill(place.node, [told.words, answer, at, given[n]], () =>
        drawEdit(place, at, told.words, answer, asked[n]))
    }))
}

/** The panel of an edit: words to choose from, the change, and what is wrong with it. */
function drawEdit(/** @type {Place} */ place, /** @type {number} */ at, /** @type {any[]} */ words,
    /** @type {any} */ answer, /** @type {any[]} */ asked) {
  const { type, inputs: own } = asked[at]
  const name = /** @type {any} */ (OWN)[type]
  const blank = name && !own[name].trim()
  const rows = {
    P2P_WordSwap: () => [swapChips(place, answer.links[at].words, own)],
    P2P_Mix: () => [swapChips(place, answer.links[at].words, own)],
    P2P_Refine: () => [refineChips(place, words, answer, own)],
    P2P_Reweight: () => [
      listChips(place, 'words', answer.words),
      ...wordFaders(place, own.factor)
    ],
    P2P_LocalBlend: () => [
      listChips(place, 'source_words', words, t('Source')),
      listChips(place, 'edited_words', answer.words, t('Edit'))
    ]
  }
  const mistakes = answer.mistakes.filter((/** @type {any} */ one) =>
    one.link === at || (one.link == null && at === asked.length - 1))
  const parts_ = /** @type {any} */ (rows)[type]()
  if (blank) parts_.push(hint(/** @type {any} */ (HINTS)[type]))
  else if (mistakes.length) parts_.push(...mistakes.map((/** @type {any} */ one) => wrong(place, one)))
  else if (type !== 'P2P_LocalBlend') parts_.push(diff(answer.spans, at, factors(type, own)))
  return parts_
}

/** The factors of an edit's words, where it has any. */
const factors = (/** @type {string} */ type, /** @type {any} */ own) =>
  type === 'P2P_Reweight' ? factorsOf(own.words, own.factor) : []

/** Sliders for the factors in a node's list of words. */
function wordFaders(/** @type {Place} */ place, /** @type {number} */ factor) {
  const list = () => textOf(place, 'words') ?? ''
  const all = factorsOf(list(), factor)
  if (!all.length || all.some(([, value]) => !Number.isFinite(value))) return []
  return [faders(all, (index, value, done) => {
    const panel = panels.get(place.node)
    if (panel) panel.held = !done
    put(place, 'words', withFactor(list(), index, value), done)
  })]
}

/** Write into the input of that name, wherever its value comes from. */
function put(/** @type {Place} */ place, /** @type {string} */ name, /** @type {any} */ value, done = true) {
  const from = source(place, name)
  if (from) write(from.node, from.widget, value, done)
  refresh()
}

/** Words of which one phrase is chosen; with Shift, up to the one that is clicked. */
function swapChips(/** @type {Place} */ place, /** @type {any[]} */ words, /** @type {any} */ own) {
  const numbered = /#\s*\d+\s*$/.test(own.words)
  const chosen = meant(words, own.words, numbered ? undefined : own.occurrence ?? 1)
  return chips(words, chosen, (index, more) => {
    if (chosen.size === 1 && chosen.has(index)) return put(place, 'words', '')
    const all = more && chosen.size ? [index, ...chosen] : [index]
    const run = words.slice(Math.min(...all), Math.max(...all) + 1)
    if ((own.occurrence ?? 1) !== 1) put(place, 'occurrence', 1)
    put(place, 'words', run.length > 1 ? run.map((word) => word.text).join(' ') : words[index].name)
  })
}

/** Words of a list, each of which can be in it. */
function listChips(/** @type {Place} */ place, /** @type {string} */ name,
    /** @type {any[]} */ words, label = '') {
  const list = textOf(place, name) ?? ''
  const chosen = new Set(parts(list).flatMap((part) => [...meant(words, phraseOf(part))]))
  return chips(words, chosen, (index) =>
    put(place, name, toggled(textOf(place, name) ?? '', words, index)), label)
}

/** The source's words, those pressed that the edited prompt keeps; a click takes out or puts back. */
function refineChips(/** @type {Place} */ place, /** @type {any[]} */ words,
    /** @type {any} */ answer, /** @type {any} */ own) {
  const text = own.edited_prompt.trim()
  if (!text) {
    const prompt = words.length ? answer.text : ''
    return element('div', { className: 'p2p-row' }, element('button', {
      type: 'button',
      textContent: t('Start from the source prompt'),
      onclick: () => put(place, 'edited_prompt', prompt)
    }))
  }
  const kept = new Map()
  for (const span of answer.spans) {
    if (span.kind === 'kept') kept.set(span.source_at[0], answer.words[span.edited_at[0]])
  }
  return chips(words, new Set(kept.keys()), (index) => {
    const word = kept.get(index)
    if (word) return put(place, 'edited_prompt', without(text, word.start, word.end))
    const before = [...kept.keys()].filter((one) => one < index).pop()
    const at = before == null ? 0 : kept.get(before).end
    put(place, 'edited_prompt', withWord(text, at, words[index].text))
  }, '', answer.text !== text)
}

/** A mistake in a sentence, with the nearest word as a button where there is one. */
function wrong(/** @type {Place} */ place, /** @type {any} */ mistake) {
  const { message, phrase, nearest } = mistake
  const box = element('div', { className: 'p2p-mistake', role: 'alert' })
  box.append(nearest ? message.replace(/ Did you mean .*$/, '') : message)
  if (nearest) {
    box.append(` ${t('Did you mean')} `, element('button', {
      type: 'button', textContent: nearest, onclick: () => replaceWord(place, phrase, nearest)
    }))
  }
  return box
}

function replaceWord(/** @type {Place} */ place, /** @type {string} */ phrase, /** @type {string} */ nearest) {
  for (const name of TEXTS) {
    const text = textOf(place, name)
    if (name === 'replacement' || !text?.includes(phrase)) continue
    return put(place, name, text.replace(phrase, () => nearest))
  }
}

/** The words of a P2P Word Weights' own prompt. */
async function showWeights(/** @type {Place} */ place) {
  const [prompt, words] = [textOf(place, 'prompt'), textOf(place, 'words')]
  if (prompt == null || words == null) return say(place.node, LATER)
  const phrases = parts(words).map(phraseOf)
  showList(place, await ask({ source: prompt, phrases }), (told) => told.words)
}

/** The words of all prompts of the run that a P2P Attention Maps looks at. */
async function showMaps(/** @type {Place} */ place) {
  const controller = controllerOf(place)
  if (!controller) return say(place.node, 'Connect “run” to a P2P KSampler to see the words.')
  const prompt = textOf(controller, 'source_prompt')
  const own = chains(controller)
  const given = own.map((chain) => chain.map(inputs))
  const words = textOf(place, 'words')
  if (prompt == null || words == null || given.some((chain) => !chain.every(Boolean))) {
    return say(place.node, LATER)
  }
  const asked = question(own, given)
  showList(place, await ask({ source: prompt, chains: asked, phrases: parts(words) }), (told) => {
    const found = [...told.words]
    const names = new Set(found.map((word) => word.name.toLowerCase()))
    for (const word of told.chains.flatMap((/** @type {any} */ chain) => chain.words)) {
      if (names.has(word.name.toLowerCase())) continue
      names.add(word.name.toLowerCase())
      found.push(word)
    }
    return found.filter((word) => word.name)
  })
}

function showList(/** @type {Place} */ place, /** @type {any} */ told, /** @type {(told: any) => any[]} */ wordsOf) {
  if (told.error) return say(place.node, told.error)
  fill(place.node, [told, textOf(place, 'words')], () => [
    listChips(place, 'words', wordsOf(told)),
    ...(place.node.type === 'P2P_WordWeights' ? wordFaders(place, 1) : []),
    ...told.mistakes.map((/** @type {any} */ one) => wrong(place, one))
  ])
}
